"""What a run begins with, looked at before anything is spent: what is refused, and what must be the same to go on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import torch

from . import checkpoints
from .baselines.base import Baseline
from .config import TrainConfig
from .errors import PoiseLabError
from .generate import prompts_of
from .internals import check_layers_and_pools
from .policies import Policy
from .sampler import Sampler
from .tasks import Problem, RecordTask, TaskMixture
from .ways import merged

LOOKED_AT = 20, 2.0  # steps whose prompts are read before the first, for about so many seconds

# in an adapter's config, and no settings of it
PLACES = ("base_model_name_or_path", "revision", "peft_version", "inference_mode")


def check_kinds(policy, task, baseline) -> None:
    """Refuse a name or a class where a thing is wanted, and a baseline that takes no advantages."""
    if not isinstance(policy, Policy):
        raise PoiseLabError(
            f"policy={policy!r} is no policy; give pl.load_policy(NAME), or pl.Policy(model, tokenizer, NAME)"
        )
    if not hasattr(task, "sample") or isinstance(task, type):
        raise PoiseLabError(f"task={task!r} is no task; give pl.load_task(NAME)")
    if not isinstance(baseline, Baseline):
        raise PoiseLabError(
            f"baseline={baseline!r} is no baseline; give pl.make_baseline(NAME), or an object of a class of your own"
        )
    if type(baseline).advantages is Baseline.advantages:
        raise PoiseLabError(f"{type(baseline).__name__} must define advantages(rollouts, internals)")


def check_problems(sampler: Sampler, baseline: Baseline, config: TrainConfig, held_out: Sequence[Problem]) -> None:
    """Refuse what a step would refuse: a layer, too few problems, and a prompt of one's own that is too long."""
    policy, task = sampler.policy, sampler.task
    check_layers_and_pools(policy, [config.layer], [config.pool])
    if config.prompts < baseline.least_prompts:
        raise PoiseLabError(
            f"baseline {baseline.name!r} needs at least {baseline.least_prompts} prompts in a step, got prompts={config.prompts}"
        )
    tasks = task.tasks if isinstance(task, TaskMixture) else [task]
    asked = [problem for one in tasks if isinstance(one, RecordTask) for problem in one.problems]
    if type(baseline).sample is Baseline.sample:  # it takes what the library draws
        known, (steps, seconds) = all(isinstance(one, RecordTask) for one in tasks), LOOKED_AT
        until = time.perf_counter() + seconds
        for step in range(1, max(len(tasks), min(config.steps, steps)) + 1):
            if step > len(tasks) and (known or time.perf_counter() > until):
                break  # a mixture's steps begin with one task after another; what comes later is mostly as long
            sampler.begin(step)
            asked += baseline.step_problems(sampler)
    prompts_of(policy, [*held_out, *asked], config.max_new_tokens)


def found_in(policy: Policy, kl: bool) -> dict:
    """What a run finds its policy to be, for its config: `runs.FOUND`, by name.

    kl: whether the policy as it begins is the reference of a penalty, so that its weights must be the same, too.
    """
    adapters = {
        name: _plain({k: v for k, v in config.to_dict().items() if k not in PLACES})
        for name, config in getattr(policy.model, "peft_config", {}).items()
    }
    found = {"dtype": str(policy.model.dtype).removeprefix("torch."), "adapters": adapters}
    return found | ({"starting_weights": checkpoints.digest(_computed_with(policy))} if kl else {})


def _plain(settings: dict) -> dict:
    """Settings as JSON holds them."""
    text = json.dumps(settings, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    return json.loads(text)


def _computed_with(policy: Policy) -> dict[str, torch.Tensor]:
    """The weights that a policy computes with: an adapter that has learned nothing adds nothing, whatever it begins with."""
    try:
        return merged(policy.model).state_dict()
    except PoiseLabError:  # an adapter that cannot be merged
        return dict(policy.model.named_parameters())
