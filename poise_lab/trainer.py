"""The loop: sample, read internals, take advantages, refit the probe, update the policy.

Every random number of a step is a function of the seed and the step (the order of a critic's mini-batches, of the step
alone), so a checkpoint holds no random state, and a resumed run equals one that was never stopped. Left out on purpose:
learning-rate schedules, mixed precision, several devices.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import checkpoints, threads
from .baselines.base import Baseline, checked, checked_values
from .beginning import check_kinds, check_problems, found_in
from .config import TrainConfig
from .errors import NotFiniteError, PoiseLabError, disk_is_full
from .evaluation import baseline_metrics, evaluate, what_to_change
from .files import json_line, only_writer, provenance, read_json, write_json, write_text
from .internals import Internals, batches_to_score, forward_rows, read_internals
from .objective import clipped_surrogate, kl_penalty, token_weights
from .policies import Policy
from .process import finish_step_on_interrupt, peak_memory_mb, timed_as
from .rollouts import Rollouts
from .runs import (
    RunRecord,
    claim_folder,
    free_folder,
    keep_policy,
    read_lines,
    read_metrics,
    resumed_config,
)
from .sampler import Sampler, held_out_problems, step_seed
from .tasks import Task, TaskMixture

PATIENCE = 3  # steps after which a run stops if every reward was the same


class Trainer:
    """Train a policy on a task with a baseline.

    policy: changed in place. task: anything whose `sample` gives the same problems for the same arguments.
    baseline: learns, so each run has one of its own. out: run folder, made here; it must not hold a run unless `resume`.
    on_step: called with the metrics of each step (step 0 is the evaluation before training).

    Raises PoiseLabError at once for a run folder that cannot be written, is used already, or (with `resume`) belongs to a
    run with other settings; for a baseline that another run has had; for a layer that the policy does not have, and
    problems that are too few or too long. Warns where weights to train are in half precision.
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
        check_kinds(policy, task, baseline)
        self.policy, self.task, self.baseline = policy, task, baseline
        self.config = config = config or TrainConfig()
        self.out, self.on_step, self.progress = Path(out), on_step, progress
        self.trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise PoiseLabError(f"policy {policy.name!r} has no weights to train: none of them requires a gradient")
        if half := {p.dtype for p in self.trained.values()} & {torch.bfloat16, torch.float16}:
            warnings.warn(
                f"policy {policy.name!r} has weights in {str(half.pop()).removeprefix('torch.')} to train, which rounds most "
                "steps of a small learning rate away; load it in float32",
                stacklevel=2,
            )
        _ = policy.ways  # a model that cannot be used is refused here
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.reference = copy.deepcopy(policy) if config.kl else None
        self.found = found_in(policy, kl=config.kl > 0)  # before a run that goes on loads its weights
        self.whole = True  # whether baseline and weights are sure to be those of the last finished step
        self.held_out = held_out_problems(task, config.eval_prompts, config.seed)
        self.sampler = Sampler(
            policy, task, config.prompts, seed=config.seed, exclude=self.held_out,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, keep=(config.layer, config.pool),
        )  # fmt: skip
        check_problems(self.sampler, baseline, config, self.held_out)
        if not resume and baseline.run is not None:
            raise PoiseLabError(
                f"baseline {baseline.name!r} has been given to the run {baseline.run} already, and learns there; make one for each run"
            )
        self.metrics: list[dict] = []
        self.paid: set[float] = set()  # the lowest and the highest reward of each step that was made here
        self.seconds: dict[str, float] = {}  # of the step, by its parts
        self.errors = 0  # of the task's verifier, before the step
        self.baseline.start(policy)
        source = {"task_file": task.file} if getattr(task, "file", None) else {}
        if resume:
            with only_writer(self.out):
                config = resumed_config(self.out, self._settings())
                self._load_checkpoint()
                write_json(self.out / "config.json", config)
        else:
            claim_folder(self.out, self._settings(), {**source, **provenance()})
        baseline.run = self.out

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Train to the last step. Ctrl-C finishes the step, saves, and returns the record so far.

        Raises PoiseLabError on a NaN or infinite loss, naming the step and the last good checkpoint, and if every reward
        of the first steps is the same. Where no step was finished, the run folder is free again.
        """
        threads.use_for(self.policy.model.num_parameters())  # another policy may have been loaded since
        with only_writer(self.out):
            written = read_metrics(self.out)
            if len(written) != len(self.metrics):
                raise PoiseLabError(
                    f"run folder {self.out} has been written by another; make the Trainer anew, with resume"
                )
            try:
                return self._run()
            except BaseException as e:  # Ctrl-C among them
                if self.step == 0 and not disk_is_full(e):
                    free_folder(self.out)
                    if self.whole:  # nothing was learned
                        self.baseline.run = None
                raise

    def _run(self) -> RunRecord:
        config = self.config
        if not self.metrics:
            start = time.perf_counter()
            evaluation = self._evaluate()
            self._record({"step": 0, **evaluation, "tokens": 0, "responses": 0, "seconds": time.perf_counter() - start})
            self._save_checkpoint(0)
        elif self.step >= config.steps and not (self.out / "policy").is_dir():  # killed before it was written
            keep_policy(self.out, self.policy, finished=True)
        bar = tqdm(
            range(self.step + 1, config.steps + 1), initial=self.step, total=config.steps,
            desc=self.baseline.name, disable=not self.progress,
        )  # fmt: skip
        with finish_step_on_interrupt() as interrupted, bar:
            for step in bar:
                try:
                    metrics = self.train_step(step)
                    self._record(metrics)
                except NotFiniteError as e:
                    last = checkpoints.saved(self.out / "checkpoints")[-1]
                    good = f"the last good checkpoint is {last}; " if self.step else ""  # the start is none
                    raise PoiseLabError(f"step {step}: {e}; {good}start a new run with a lower learning rate") from None
                except BaseException as e:  # of a verifier, on_step, a second Ctrl-C: finished steps are not lost
                    if self.step and self.whole and not disk_is_full(e):
                        self._save_checkpoint(self.step)
                        keep_policy(self.out, self.policy, finished=False)
                    raise
                if step == PATIENCE:
                    self._check_rewards(step)
                stop = bool(interrupted)  # looked at once: a Ctrl-C after this line is the next step's
                if step % config.checkpoint_every == 0 or step == config.steps or stop:
                    self._save_checkpoint(step)
                    keep_policy(self.out, self.policy, finished=step == config.steps)
                bar.set_postfix_str(self._postfix())
                if stop and step < config.steps:
                    bar.close()
                    print(f"stopped after step {step}; run folder {self.out} is saved, go on with resume")
                    break
        return self.record

    def _check_rewards(self, step: int) -> None:
        """Save and stop where every reward so far is the same, whatever it is; resumed after that, a run goes on."""
        means = {m[name] for m in self.metrics for name in ("accuracy", "reward") if name in m}
        reward = max(means)
        if not all(math.isclose(other, reward, rel_tol=1e-6) for other in means | self.paid):
            return
        self._save_checkpoint(step)
        problem, written = self.held_out[0], read_lines(self.out / "samples.jsonl")[-1]["samples"][0]["greedy"]
        stopped = sum(metrics.get("verifier_errors", 0) for metrics in self.metrics)
        own = callable(getattr(self.task, "verify", None)) and stopped >= self.metrics[-1]["responses"] / 2
        change = what_to_change(reward, problem, written, stopped if own else 0)
        raise PoiseLabError(
            f"every response to task {self.task.name!r} has the reward {reward:g}, on held-out problems and in {step} steps, "
            f"so there is nothing to learn from; {change}; what was done is kept in {self.out}"
        )

    @property
    def step(self) -> int:
        """The last finished step."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def record(self) -> RunRecord:
        return RunRecord(self.out, read_json(self.out / "config.json"), list(self.metrics))

    # --- one step --------------------------------------------------------------------------------

    def train_step(self, step: int) -> dict:
        """One step of POISE (arXiv 2605.07579, Alg. 1), or of another baseline. Returns its metrics."""
        self.seconds, self.errors = {}, getattr(self.task, "verifier_errors", 0)
        # 1. Draw new problems, sample responses to each from the policy, verify them: rewards r.
        rollouts = self._sample(step)
        # 2. What the policy computed on the way: log-probabilities, entropies, hidden states. The last two are the features phi.
        internals = self._read(rollouts)
        self.whole = False  # a baseline may learn in any of its methods
        # 3. Predict each response's baseline b from its *partner's* phi, with the probe of the steps before: A = r - b.
        advantages = self._take_advantages(rollouts, internals)
        # 4. What the probe says of responses that it has not learned from is measured now, before it learns from them.
        values = self._predict(rollouts, internals)
        # 5. Put (phi, the partner's reward) into the buffer and fit the probe anew, for the next step.
        self._learn(rollouts, internals)
        # 6. On each mini-batch of prompts, one optimizer step on the clipped surrogate (Eq. 14).
        updates = [
            self._update_policy(rows, rollouts, internals, advantages) for rows in self._minibatches(step, rollouts)
        ]
        self._check_weights()
        # Every few steps: accuracy on held-out problems.
        evaluation = self._evaluate() if step % self.config.eval_every == 0 or step == self.config.steps else {}
        return self._metrics_of(step, rollouts, internals, advantages, values, updates, evaluation)

    @timed_as("sample")
    def _sample(self, step: int) -> Rollouts:
        self.sampler.begin(step)
        rollouts = self.baseline.sample(self.sampler)
        self.paid |= {reward.item() for reward in rollouts.rewards.aminmax()}
        return rollouts

    @timed_as("internals")
    def _read(self, rollouts: Rollouts) -> Internals:
        """As kept while sampling, else from a pass over the rollouts."""
        return rollouts.internals or read_internals(self.policy, rollouts, self.config.layer, self.config.pool)

    @timed_as("baseline")
    def _take_advantages(self, rollouts: Rollouts, internals: Internals) -> torch.Tensor:
        """(P, M), or (P, M, T) with one per token. Raises PoiseLabError for another shape, and for what is not finite."""
        shapes = rollouts.rewards.shape, rollouts.response_ids.shape
        return checked(self.baseline, "advantages", self.baseline.advantages(rollouts, internals), *shapes)

    @timed_as("baseline")
    def _predict(self, rollouts: Rollouts, internals: Internals) -> torch.Tensor | None:
        if rollouts.responses == 1:
            return None
        return checked_values(self.baseline, rollouts, internals)

    @timed_as("baseline")
    def _learn(self, rollouts: Rollouts, internals: Internals) -> None:
        self.baseline.update(rollouts, internals)

    def _minibatches(self, step: int, rollouts: Rollouts) -> Iterator[torch.Tensor]:
        """The prompts in a random order, split: all rows (indices into the flattened P * M) of some prompts at a time."""
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, step, "mini-batches"))
        order, m = torch.randperm(len(rollouts), generator=generator), rollouts.responses
        for prompts in order.tensor_split(min(self.config.minibatches, len(rollouts))):
            yield (prompts[:, None] * m + torch.arange(m)).flatten()

    @timed_as("update")
    def _update_policy(self, rows: torch.Tensor, rollouts: Rollouts, internals: Internals, advantages) -> dict:
        """One optimizer step on some rows, whose gradient is summed over batches that fit into memory."""
        config, device = self.config, self.policy.device
        mask, old = rollouts.mask.flatten(0, 1), internals.logprobs.flatten(0, 1)
        advantages = advantages.flatten(0, 1)  # (R,) or (R, T)
        weights = torch.zeros(mask.shape)
        weights[rows] = token_weights(mask[rows], config.aggregation)
        loss_sum = clip_sum = 0.0
        self.optimizer.zero_grad(set_to_none=True)  # what others have left on the policy
        for batch in batches_to_score(self.policy, rollouts, rows):
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
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), config.max_grad_norm)
        if not (math.isfinite(loss_sum) and torch.isfinite(norm)):
            raise NotFiniteError(f"the loss is {loss_sum}, its gradient norm {norm.item()}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # as large as the weights
        return {"loss": loss_sum, "gradient_norm": norm.item(), "clip_fraction": clip_sum}

    @timed_as("update")
    def _check_weights(self) -> None:
        if not all(p.isfinite().all() for p in self.trained.values()):
            raise NotFiniteError("the update left weights that are not finite")

    @timed_as("evaluate")
    def _evaluate(self) -> dict:
        """The figures on held-out problems; what the policy writes to a few of them is kept in samples.jsonl."""
        figures, samples = evaluate(self.policy, self.held_out, self.baseline, self.config)
        step = self.step + 1 if self.metrics else 0
        self._append("samples.jsonl", {"step": step, "samples": samples})
        return figures

    # --- records and checkpoints -----------------------------------------------------------------

    def _metrics_of(self, step, rollouts, internals, advantages, values, updates: Sequence[dict], evaluation) -> dict:
        """What a step is remembered by. JSON has no NaN: a figure that is not defined is left out."""
        previous = self.metrics[-1] if self.metrics else {"tokens": 0, "responses": 0, "seconds": 0.0}
        errors = getattr(self.task, "verifier_errors", 0) - self.errors
        compared = self.baseline.on_reward_scale and not self.baseline.holds_own_reward and advantages.dim() == 2
        metrics = {
            "step": step,
            "reward": rollouts.rewards.mean().item(),
            "entropy": internals.entropy[..., 0].mean().item(),
            "response_length": rollouts.lengths.float().mean().item(),
            **{name: sum(update[name] for update in updates) / len(updates) for name in updates[0]},
            **baseline_metrics(rollouts, advantages if compared else None, values),
            **evaluation,
            **({"verifier_errors": errors} if errors else {}),
            "tokens": previous["tokens"] + self.sampler.tokens,
            "responses": previous["responses"] + self.sampler.responses,
            **{f"seconds_{part}": seconds for part, seconds in self.seconds.items()},
            "seconds": previous["seconds"] + sum(self.seconds.values()),
            "peak_memory_mb": peak_memory_mb(),
        }
        return {k: v for k, v in metrics.items() if not (isinstance(v, float) and math.isnan(v))}

    def _settings(self) -> dict:
        return {
            "policy": self.policy.name,
            **self.policy.spoken(),
            **self.found,
            "task": self.task.name,
            "task_settings": getattr(self.task, "settings", {}),
            "baseline": self.baseline.settings(),
            "train": dataclasses.asdict(self.config),
        }

    def _record(self, metrics: dict) -> None:
        self.metrics.append(metrics)
        self.whole = True  # only now the step counts
        self._append("metrics.jsonl", metrics)
        if self.on_step:
            self.on_step(metrics)

    def _append(self, name: str, record: dict) -> None:
        with open(self.out / name, "a", encoding="utf-8") as f:
            f.write(json_line(record))

    def _postfix(self) -> str:
        latest = {}
        for metrics in self.metrics:
            latest |= metrics
        names = {"reward": "reward", "accuracy": "held-out", "variance_reduction": "variance reduction"}
        return ", ".join(f"{label} {latest[k]:.2f}" for k, label in names.items() if k in latest)

    def _save_checkpoint(self, step: int) -> None:
        moments, baseline = checkpoints.named_moments(self.optimizer, self.trained), self.baseline.state_dict()
        parts = {"model": self.trained, "optimizer": moments, "baseline": baseline}
        checkpoints.save(self.out / "checkpoints", step, parts)

    def _load_checkpoint(self) -> None:
        """Go back to the last checkpoint that the metrics reach; metrics after it are dropped and will be made again.

        A power cut may keep a checkpoint and lose the last lines of the metrics. Without any checkpoint (killed before
        the first one) the run starts over.
        """
        metrics = read_metrics(self.out)
        checkpoint = checkpoints.reached(self.out / "checkpoints", len(metrics) - 1)
        if checkpoint:
            checkpoints.load(
                checkpoint,
                {
                    "model": lambda tensors: checkpoints.copy_weights(self.trained, tensors),
                    "optimizer": lambda tensors: checkpoints.load_named_moments(self.optimizer, self.trained, tensors),
                    "baseline": self.baseline.load_state_dict,
                },
            )
            self.metrics = metrics[: checkpoints.step_of(checkpoint) + 1]
        write_text(self.out / "metrics.jsonl", "".join(map(json_line, self.metrics)))
        samples = [record for record in read_lines(self.out / "samples.jsonl") if record["step"] < len(self.metrics)]
        write_text(self.out / "samples.jsonl", "".join(map(json_line, samples)))
