"""The loop: sample, read internals, take advantages, refit the probe, update the policy.

Every random number of a step is a function of the seed and the step, so a checkpoint needs weights
only, and a resumed run equals one that was never stopped. Left out on purpose: learning-rate
schedules, mixed precision, several devices.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from .baselines.base import Baseline
from .errors import NotFiniteError, PoiseLabError
from .files import json_line, provenance, read_json, write_json, write_text
from .generate import sample_rollouts
from .internals import Internals, batches_by_length, forward_rows, read_internals
from .objective import AGGREGATIONS, clipped_surrogate, kl_penalty, token_weights
from .policies import Policy
from .process import finish_step_on_interrupt, peak_memory_mb, timed
from .rollouts import Rollouts, leave_one_out_mean
from .runs import RunRecord, claim_folder, read_metrics
from .sampler import Sampler, step_seed
from .stats import agreement, variance_reduction
from .tasks import Task, TaskMixture

PATIENCE = 3  # steps after which a run stops if every reward was the same


@dataclasses.dataclass
class TrainConfig:
    """Settings of a run. Each field is also a flag of `poise-lab train`."""

    steps: int = 100
    """Policy updates on new prompts."""
    prompts: int = 96
    """Prompts per step."""
    seed: int = 0
    """Decides prompts, responses, and mini-batches."""
    learning_rate: float = 1e-4
    """Of AdamW, constant."""
    weight_decay: float = 0.0
    """Of AdamW."""
    minibatches: int = 4
    """Optimizer steps per step; the prompts are split among them."""
    clip_low: float = 0.2
    """Lower clip of the probability ratio (paper: 0.2)."""
    clip_high: float = 0.28
    """Upper clip of the probability ratio (paper: 0.28)."""
    dual_clip: float = 10.0
    """Bound on the loss of a token with a negative advantage, in units of it (release: 10)."""
    aggregation: str = "token_mean"
    """token_mean (every token counts the same) or sequence_mean (every response)."""
    kl: float = 0.0
    """Weight of the KL penalty towards the starting policy (paper: none)."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    max_new_tokens: int = 64
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Of sampling."""
    layer: int = 2
    """Decoder layer whose states the probe reads, 0-based."""
    pool: int = 4
    """Tokens averaged at the end of the prompt and of the reasoning."""
    eval_every: int = 10
    """Steps between evaluations on held-out problems."""
    eval_prompts: int = 192
    """Held-out problems."""
    eval_responses: int = 16
    """Fresh responses to each, whose mean reward is V(x)."""
    checkpoint_every: int = 10
    """Steps between checkpoints; the last two are kept."""

    def __post_init__(self):
        for name in ("steps", "prompts", "minibatches", "eval_every", "eval_prompts", "eval_responses",
                     "checkpoint_every", "max_new_tokens", "pool"):  # fmt: skip
            if getattr(self, name) < 1:
                raise PoiseLabError(f"{name}={getattr(self, name)}; it must be at least 1")
        if self.minibatches > self.prompts:
            raise PoiseLabError(f"{self.prompts} prompts cannot be split into {self.minibatches} mini-batches")
        if self.aggregation not in AGGREGATIONS:
            raise PoiseLabError(f"unknown aggregation {self.aggregation!r}; known: {', '.join(AGGREGATIONS)}")
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise PoiseLabError("learning_rate and temperature must be above 0")


class Trainer:
    """Train a policy on a task with a baseline.

    policy: changed in place. out: run folder, made here; it must not hold a run unless `resume`.
    on_step: called with the metrics of each step (step 0 is the evaluation before training).

    Raises PoiseLabError at once for a run folder that cannot be written, is used already, or (with
    `resume`) belongs to a run with other settings.
    """

    def __init__(
        self,
        policy: Policy,
        task: Task | TaskMixture,
        baseline: Baseline,
        config: TrainConfig | None = None,
        *,
        out: str | Path,
        resume: bool = False,
        on_step: Callable[[dict], None] | None = None,
        progress: bool = True,
    ):
        self.policy, self.task, self.baseline = policy, task, baseline
        self.config = config = config or TrainConfig()
        self.out, self.on_step, self.progress = Path(out), on_step, progress
        _ = policy.ways  # a model that cannot be used is refused here
        self.optimizer = torch.optim.AdamW(
            policy.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.reference = copy.deepcopy(policy) if config.kl else None
        self.held_out = task.sample(config.eval_prompts, step_seed(config.seed, 0, "held-out"))
        self.sampler = Sampler(
            policy, task, config.prompts, seed=config.seed, exclude=self.held_out,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
        )  # fmt: skip
        self.metrics: list[dict] = []
        self.baseline.start(policy)
        claim_folder(self.out, self._settings(), resume, provenance())
        if resume:
            self._load_checkpoint()

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Train to the last step. Ctrl-C finishes the step, saves, and returns the record so far.

        Raises PoiseLabError on a NaN or infinite loss, naming the step and the last good checkpoint, and if every reward
        of the first steps is the same.
        """
        config = self.config
        if not self.metrics:
            start = time.perf_counter()
            try:
                evaluation = self._evaluate()
            except PoiseLabError:  # settings that do not fit the policy show here: leave no run behind
                shutil.rmtree(self.out)
                raise
            self._record({"step": 0, **evaluation, "tokens": 0, "responses": 0, "seconds": time.perf_counter() - start})
            self._save_checkpoint(0)
        bar = tqdm(
            range(self.step + 1, config.steps + 1), initial=self.step, total=config.steps,
            desc=self.baseline.name, disable=not self.progress,
        )  # fmt: skip
        with finish_step_on_interrupt() as interrupted, bar:
            for step in bar:
                try:
                    metrics = self.train_step(step)
                except NotFiniteError as e:
                    last = self._checkpoints()[-1]
                    raise PoiseLabError(
                        f"step {step}: {e}; the last good checkpoint is {last}; start a new run with a lower learning rate"
                    ) from None
                self._record(metrics)
                if step == PATIENCE:
                    self._check_rewards(step)
                stop = bool(interrupted)  # looked at once: a Ctrl-C after this line is the next step's
                if step % config.checkpoint_every == 0 or step == config.steps or stop:
                    self._save_checkpoint(step)
                bar.set_postfix_str(self._postfix())
                if stop and step < config.steps:
                    bar.close()
                    print(f"stopped after step {step}; run folder {self.out} is saved, go on with resume")
                    break
        return self.record

    def _check_rewards(self, step: int) -> None:
        """Save and stop where every reward so far is 0, or every one is 1; resumed after that, a run goes on."""
        rewards = {m[name] for m in self.metrics for name in ("accuracy", "reward") if name in m}
        if rewards in ({0.0}, {1.0}):
            self._save_checkpoint(step)
            raise PoiseLabError(
                f"every response to task {self.task.name!r} has the reward {rewards.pop():g}, on held-out problems and in "
                f"{step} steps, so there is nothing to learn from; choose easier or harder settings of the task, or "
                f"examples in front of each problem (shots); what was done is kept in {self.out}"
            )

    @property
    def step(self) -> int:
        """The last finished step."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def record(self) -> RunRecord:
        return RunRecord(self.out, read_json(self.out / "config.json"), list(self.metrics))

    def train_step(self, step: int) -> dict:
        """One step of POISE (Alg. 1), or of another baseline. Returns its metrics."""
        config, seconds = self.config, {}
        with timed(seconds, "sample"):
            self.sampler.begin(step)
            rollouts = self.baseline.sample(self.sampler)
        with timed(seconds, "internals"):
            internals = read_internals(self.policy, rollouts, config.layer, config.pool)
        with timed(seconds, "baseline"):
            advantages = self.baseline.advantages(rollouts, internals)  # the probe of the steps before
            shapes = rollouts.rewards.shape, rollouts.response_ids.shape  # one per response, or one per token
            if advantages.shape not in shapes or not torch.isfinite(advantages).all():
                raise PoiseLabError(
                    f"baseline {self.baseline.name!r} must give finite advantages of shape "
                    f"{tuple(shapes[0])} or {tuple(shapes[1])}, got shape {tuple(advantages.shape)}"
                )
            values = self.baseline.values(rollouts, internals) if rollouts.responses > 1 else None
            self.baseline.update(rollouts, internals)
        with timed(seconds, "update"):
            update = self._update_policy(step, rollouts, internals, advantages)
        metrics = {
            "step": step,
            "reward": rollouts.rewards.mean().item(),
            "entropy": internals.entropy[..., 0].mean().item(),
            "response_length": rollouts.lengths.float().mean().item(),
            **update,
        }
        if self.baseline.on_reward_scale and advantages.dim() == 2:
            metrics["variance_reduction"] = variance_reduction(advantages, rollouts.rewards)
        if rollouts.responses > 1:  # what the same rewards would give under RLOO
            rloo = rollouts.rewards - leave_one_out_mean(rollouts.rewards)
            metrics["variance_reduction_rloo"] = variance_reduction(rloo, rollouts.rewards)
            if values is not None:
                score = agreement(values, rollouts.partner_rewards())
                metrics |= {"probe_r_partner": score["r"], "probe_mae_partner": score["mae"]}
        if step % config.eval_every == 0 or step == config.steps:
            with timed(seconds, "evaluate"):
                metrics |= self._evaluate()
        previous = self.metrics[-1] if self.metrics else {"tokens": 0, "responses": 0, "seconds": 0.0}
        metrics["tokens"] = previous["tokens"] + self.sampler.tokens
        metrics["responses"] = previous["responses"] + self.sampler.responses
        metrics |= {f"seconds_{part}": value for part, value in seconds.items()}
        metrics["seconds"] = previous["seconds"] + sum(seconds.values())
        metrics["peak_memory_mb"] = peak_memory_mb()
        # JSON has no NaN: a figure that is not defined is left out
        return {k: v for k, v in metrics.items() if not (isinstance(v, float) and math.isnan(v))}

    def _update_policy(self, step, rollouts: Rollouts, internals: Internals, advantages) -> dict:
        config, m = self.config, rollouts.responses
        generator = torch.Generator().manual_seed(step_seed(config.seed, step, "mini-batches"))
        order = torch.randperm(len(rollouts), generator=generator)
        mask, old = rollouts.mask.flatten(0, 1), internals.logprobs.flatten(0, 1)
        advantages, device = advantages.flatten(0, 1), self.policy.device  # (R,) or (R, T)
        norms, losses, clipped = [], [], []
        for prompts in order.tensor_split(min(config.minibatches, len(rollouts))):
            rows = (prompts[:, None] * m + torch.arange(m)).flatten()
            weights = torch.zeros(mask.shape)
            weights[rows] = token_weights(mask[rows], config.aggregation)
            loss_sum = clip_sum = 0.0
            for batch in batches_by_length(rollouts, rows):
                logprobs, _ = forward_rows(self.policy, rollouts, batch)
                w = weights[batch].to(device)
                loss, active = clipped_surrogate(
                    logprobs, old[batch].to(device), advantages[batch].to(device), w,
                    clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip,
                )  # fmt: skip
                if self.reference:
                    with torch.no_grad():
                        reference, _ = forward_rows(self.reference, rollouts, batch)
                    loss = loss + config.kl * kl_penalty(logprobs, reference, w)
                loss.backward()
                loss_sum, clip_sum = loss_sum + loss.item(), clip_sum + active.item()
            norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), config.max_grad_norm)
            if not (math.isfinite(loss_sum) and torch.isfinite(norm)):
                raise NotFiniteError(f"the loss is {loss_sum}, its gradient norm {norm.item()}")
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            norms.append(norm.item())
            losses.append(loss_sum)
            clipped.append(clip_sum)
        if not all(p.isfinite().all() for p in self.policy.model.parameters()):
            raise NotFiniteError("the update left weights that are not finite")
        return {
            "loss": sum(losses) / len(losses),
            "gradient_norm": sum(norms) / len(norms),
            "clip_fraction": sum(clipped) / len(clipped),
        }

    def _evaluate(self) -> dict:
        """Held-out accuracy, and the probe against V(x) from responses that it has not read."""
        config = self.config
        rollouts = sample_rollouts(
            self.policy, self.held_out, config.eval_responses + 1,
            seed=step_seed(config.seed, 0, "evaluation"),
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
        )  # fmt: skip
        read, fresh = rollouts.select(responses=[0]), rollouts.select(responses=slice(1, None))
        value = fresh.rewards.mean(1)
        result = {"accuracy": value.mean().item(), "value_std": value.std(correction=0).item()}
        for task in sorted(set(rollouts.tasks)):
            at = torch.tensor([name == task for name in rollouts.tasks])
            result[f"accuracy_{task}"] = value[at].mean().item()
        predicted = self.baseline.values(read, read_internals(self.policy, read, config.layer, config.pool))
        if predicted is not None:
            score = agreement(predicted, value)
            result |= {"probe_r_fresh": score["r"], "probe_mae_fresh": score["mae"]}
        return result

    # --- records and checkpoints -----------------------------------------------------------------

    def _settings(self) -> dict:
        return {
            "policy": self.policy.name,
            "wording": self.policy.wording,
            "shots": self.policy.shots,
            "task": self.task.name,
            "task_settings": getattr(self.task, "settings", {}),
            "baseline": self.baseline.settings(),
            "train": dataclasses.asdict(self.config),
        }

    def _record(self, metrics: dict) -> None:
        self.metrics.append(metrics)
        with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as f:
            f.write(json_line(metrics))
        if self.on_step:
            self.on_step(metrics)

    def _postfix(self) -> str:
        latest = {}
        for metrics in self.metrics:
            latest |= metrics
        names = {"reward": "reward", "accuracy": "held-out", "variance_reduction": "variance reduction"}
        return ", ".join(f"{label} {latest[k]:.2f}" for k, label in names.items() if k in latest)

    def _checkpoints(self) -> list[Path]:
        return sorted((self.out / "checkpoints").glob("step-*[0-9]"))

    def _save_checkpoint(self, step: int) -> None:
        folder = self.out / "checkpoints" / f"step-{step:06d}"
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model = {k: v.detach().contiguous() for k, v in self.policy.model.named_parameters()}
        save_file(model, partial / "model.safetensors")
        names = [name for name, _ in self.policy.model.named_parameters()]
        state = self.optimizer.state_dict()["state"]
        moments = {f"{names[i]}/{k}": v.contiguous() for i, entry in state.items() for k, v in entry.items()}
        save_file(moments, partial / "optimizer.safetensors")
        baseline = {k: v.contiguous() for k, v in self.baseline.state_dict().items()}
        save_file(baseline, partial / "baseline.safetensors")
        write_json(partial / "state.json", {"step": step})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        for old in self._checkpoints()[:-2]:
            shutil.rmtree(old)

    def _load_checkpoint(self) -> None:
        """Go back to the last checkpoint; metrics after it are dropped and will be made again."""
        checkpoints = self._checkpoints()
        if not checkpoints:  # killed before the first one: start over
            write_text(self.out / "metrics.jsonl", "")
            return
        folder = checkpoints[-1]
        try:
            step = read_json(folder / "state.json")["step"]
            model = load_file(folder / "model.safetensors")
            moments = load_file(folder / "optimizer.safetensors")
            baseline = load_file(folder / "baseline.safetensors")
            parameters = dict(self.policy.model.named_parameters())
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(model[name])
            state: dict[int, dict] = {}
            index = {name: i for i, name in enumerate(parameters)}
            for key, value in moments.items():
                name, _, moment = key.rpartition("/")
                state.setdefault(index[name], {})[moment] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.baseline.load_state_dict(baseline)
        except Exception as e:
            raise PoiseLabError(
                f"checkpoint {folder} is damaged ({e}); delete that folder to resume from the one before it"
            ) from e
        self.metrics = [m for m in read_metrics(self.out) if m["step"] <= step]
        write_text(self.out / "metrics.jsonl", "".join(map(json_line, self.metrics)))
