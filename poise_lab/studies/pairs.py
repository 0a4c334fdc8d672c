"""Pairs of SmolLM2 before and after training on sums, token by token, for the rollout viewer.

The weights of a trained model are too large to travel; what is read from it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..baselines import make_baseline
from ..config import TrainConfig
from ..files import provenance, write_json
from ..generate import sample_rollouts
from ..internals import Internals, read_internals
from ..policies import SPOKEN, Policy, load_policy
from ..rollouts import Rollouts
from ..show.tokens import ShownPrompt, read_tokens
from ..tasks import Problem
from . import smollm2
from .common import held_out_of

RUNS = {"poise-0": f"{smollm2.RUNS['poise-0']} --steps 10"}  # the later number counts
FITTED, ASKED = 96, 24  # problems that the probe is fitted on, and that are sampled
SHOWN = 5  # of these


def read(run: Path) -> None:
    """Write `pairs.json` into a finished run folder: pairs by the policy that it began with, and by its last one.

    The problems are held-out ones of the run, the same for both. Each policy has a probe of its own, fitted on its pairs
    to other held-out problems.
    """
    made, config, problems = held_out_of(run)
    problems = problems[: FITTED + ASKED]
    views: dict[str, list[ShownPrompt]] = {}
    for when in ("before training", f"after {config.steps} steps"):
        spoken = {name: made[name] for name in SPOKEN if name in made}
        policy = load_policy(run) if views else load_policy(made["policy"], **spoken)
        baseline = make_baseline("poise", warmup=1)
        baseline.update(*_pairs(policy, problems[:FITTED], config))
        shown = [prompt.index for view in views.values() for prompt in view] or SHOWN
        views[when] = read_tokens(policy, *_pairs(policy, problems[FITTED:], config), baseline, shown)
    kept = {when: [dataclasses.asdict(prompt) for prompt in view] for when, view in views.items()}
    write_json(run / "pairs.json", {"provenance": provenance(), "views": kept})


def _pairs(policy: Policy, problems: Sequence[Problem], config: TrainConfig) -> tuple[Rollouts, Internals]:
    rollouts = sample_rollouts(policy, problems, 2, seed=config.seed, max_new_tokens=config.max_new_tokens)
    return rollouts, read_internals(policy, rollouts, config.layer, config.pool)
