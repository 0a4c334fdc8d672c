"""Baselines: how a batch of rewards becomes advantages.

A baseline says how many responses per prompt it wants, turns a batch into advantages, learns from
the batch afterwards (`update`), and saves and restores its state. To add one, write such a class
and pass an instance to `Trainer`:

    class Median(Baseline):
        name = "median"

        def advantages(self, rollouts, internals):
            return rollouts.rewards - rollouts.rewards.median()
"""

from __future__ import annotations

import numpy as np
import torch

from .errors import PoiseLabError, known
from .internals import Internals
from .probe import RecentBuffer, ValueProbe
from .rollouts import Rollouts, leave_one_out_mean


class Baseline:
    """What every baseline answers to. Shapes: P prompts, M responses per prompt.

    responses: responses per prompt that it wants. least: the fewest it can work with.
    """

    name = ""
    least = 1

    def __init__(self, responses: int = 2):
        if responses < self.least:
            raise PoiseLabError(
                f"baseline {self.name!r} needs at least {self.least} responses per prompt, got responses={responses}"
            )
        self.responses = responses

    def advantages(self, rollouts: Rollouts, internals: Internals) -> torch.Tensor:
        """(P, M) float32. What is subtracted from a reward must not depend on that response."""
        raise TypeError(f"{type(self).__name__} must define advantages(rollouts, internals)")

    def update(self, rollouts: Rollouts, internals: Internals) -> None:
        """Learn from a batch whose advantages have been taken."""

    def values(self, rollouts: Rollouts, internals: Internals) -> torch.Tensor | None:
        """(P, M) value of the prompt as predicted from each response, or None if it predicts none."""
        return None

    def settings(self) -> dict:
        """What it was made with, for the run's config."""
        return {"name": self.name, "responses": self.responses}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        pass


class NoBaseline(Baseline):
    """REINFORCE without a baseline: A = r."""

    name = "none"

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts).clone()


class BatchMean(Baseline):
    """REINFORCE with the mean reward of all *other* responses in the batch: A_i = r_i - mean_j r_j."""

    name = "batch_mean"

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        if rewards.numel() < 2:
            raise PoiseLabError("baseline 'batch_mean' needs at least 2 responses in the batch")
        return rewards - leave_one_out_mean(rewards.reshape(1, -1)).view_as(rewards)


class RLOO(Baseline):
    """Leave-one-out mean of the group (arXiv 2402.14740): A_i = r_i - mean of the siblings' rewards."""

    name, least = "rloo", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - leave_one_out_mean(rewards)


class GRPO(Baseline):
    """Group mean over group standard deviation (arXiv 2402.03300): A_i = (r_i - mean) / (std + 1e-6).

    Population standard deviation. A group whose rewards all agree has advantage 0.
    """

    name, least = "grpo", 2

    def __init__(self, responses: int = 8):
        super().__init__(responses)

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        centred = rewards - rewards.mean(1, keepdim=True)
        return centred / (rewards.std(1, keepdim=True, correction=0) + 1e-6)


class Poise(Baseline):
    """POISE (arXiv 2605.07579, Eq. 12 and 13): the baseline of a response is read from its siblings' states.

    b_i = mean over the siblings j of g(phi(y_j)), A_i = r_i - b_i, with g the value probe. With two
    responses: the prediction from the partner. The probe is fitted on earlier steps only; the
    current step's rows join the buffer after its advantages are fixed (Alg. 1).

    responses: per prompt, at least 2.
    probe: a ValueProbe or the name of a preset.
    buffer_rows: rows that the probe is fitted on, the most recent ones.
    warmup: steps that use RLOO before the first fit.
    per_task: one probe and buffer per task (the release routes by domain), or one for all.
    """

    name, least = "poise", 2

    def __init__(
        self,
        responses: int = 2,
        probe: ValueProbe | str = "release",
        buffer_rows: int = 4096,
        warmup: int = 4,
        per_task: bool = False,
    ):
        super().__init__(responses)
        if warmup < 1:
            raise PoiseLabError(f"warmup={warmup}; the probe needs at least 1 step of rewards before its first fit")
        self.template = ValueProbe.preset(probe) if isinstance(probe, str) else probe
        RecentBuffer(buffer_rows)  # refuse a bad capacity now, not after the first step
        self.buffer_rows, self.warmup, self.per_task = buffer_rows, warmup, per_task
        self.steps = 0
        self.probes: dict[str, ValueProbe] = {}
        self.buffers: dict[str, RecentBuffer] = {}

    def _routes(self, rollouts: Rollouts) -> dict[str, torch.Tensor]:
        """Prompts by the probe that serves them."""
        if not self.per_task:
            return {"all": torch.arange(len(rollouts))}
        tasks = rollouts.tasks
        return {name: torch.tensor([i for i, task in enumerate(tasks) if task == name]) for name in sorted(set(tasks))}

    def values(self, rollouts, internals):
        routes = self._routes(rollouts)
        if not self.probes or any(name not in self.probes for name in routes):
            return None
        values = torch.zeros(len(rollouts), rollouts.responses)
        for name, prompts in routes.items():
            values[prompts] = self.probes[name].predict(internals.select(prompts))
        return values

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        values = self.values(rollouts, internals)
        return rewards - leave_one_out_mean(rewards if values is None else values)

    def update(self, rollouts, internals):
        targets, features = rollouts.partner_rewards(), internals.features()
        self.steps += 1
        for name, prompts in self._routes(rollouts).items():
            buffer = self.buffers.setdefault(name, RecentBuffer(self.buffer_rows))
            buffer.add(features[prompts], targets[prompts])
            if self.steps >= self.warmup:
                self.probes[name] = ValueProbe(**self.template.get_params()).fit(*buffer.data())

    def settings(self):
        probe = {**self.template.get_params(), "inputs": list(self.template.inputs)}
        return {
            **super().settings(),
            "probe": probe,
            "buffer_rows": self.buffer_rows,
            "warmup": self.warmup,
            "per_task": self.per_task,
        }

    def state_dict(self):
        state = {"steps": torch.tensor(self.steps)}
        for name, buffer in self.buffers.items():
            state |= {f"buffer/{name}/{key}": value for key, value in buffer.state_dict().items()}
        for name, probe in self.probes.items():
            state[f"probe/{name}/coef"] = torch.from_numpy(probe.coef_)
            state[f"probe/{name}/intercept"] = torch.tensor(probe.intercept_, dtype=torch.float64)
        return state

    def load_state_dict(self, state):
        self.steps = int(state["steps"])
        self.buffers, self.probes = {}, {}
        parts: dict[tuple[str, str], dict] = {}
        for key, value in state.items():
            if "/" in key:
                kind, name, field = key.split("/")
                parts.setdefault((kind, name), {})[field] = value
        for (kind, name), fields in parts.items():
            if kind == "buffer":
                self.buffers[name] = RecentBuffer(self.buffer_rows)
                self.buffers[name].load_state_dict(fields)
            else:
                probe = ValueProbe(**self.template.get_params())
                self.probes[name] = probe.set_fitted(fields["coef"].numpy(), fields["intercept"].item())


BASELINES = {cls.name: cls for cls in (NoBaseline, BatchMean, RLOO, GRPO, Poise)}


def make_baseline(name: str, **settings) -> Baseline:
    """A baseline by name; settings go to its class. Raises PoiseLabError for an unknown name."""
    if name not in BASELINES:
        raise known("baseline", name, BASELINES)
    try:
        return BASELINES[name](**settings)
    except TypeError as e:
        raise PoiseLabError(f"baseline {name!r} refuses its settings: {e}") from None


def checked_rewards(rollouts: Rollouts) -> torch.Tensor:
    """The rewards, (P, M). Raises PoiseLabError if one is NaN or outside [0, 1]."""
    rewards = rollouts.rewards
    if not torch.isfinite(rewards).all() or rewards.min() < 0 or rewards.max() > 1:
        raise PoiseLabError("rewards must lie in [0, 1], without NaN; rescale or repair the verifier")
    return rewards


def variance_reduction(advantages: torch.Tensor, rewards: torch.Tensor) -> float:
    """1 - Var(A) / Var(R) over a batch (method Sec. 4; Fig. 4 of the paper); NaN if all rewards agree.

    Takes tensors, or arrays as `bootstrap_interval` gives them.
    """
    if isinstance(rewards, np.ndarray):
        spread, left = rewards.var(), advantages.var()
    else:
        spread, left = rewards.var(correction=0), advantages.var(correction=0)
    return float("nan") if spread == 0 else float(1 - left / spread)


def own_share(baselines: torch.Tensor, rewards: torch.Tensor, fresh: torch.Tensor) -> float:
    """How much of a response's own reward its baseline holds: Cov(b, R | x) / Var(R | x), means over prompts.

    0 for a baseline that is independent of its response, 1 / M for the mean of a group of M. Right
    and wrong responses to a prompt then differ in their mean advantage by 1 minus this, where they
    should differ by 1.

    baselines, rewards: (P, M). fresh: (P, N) rewards of N >= 2 other responses, which no baseline has seen.
    """
    halves = [fresh[:, k::2].mean(1)[:, None] for k in (0, 1)]
    covariance = spread = 0.0
    for value, other in (halves, halves[::-1]):  # two independent estimates of V(x): their errors do not multiply
        covariance += float(((baselines - value) * (rewards - other)).mean())
        spread += float(((rewards - value) * (rewards - other)).mean())
    return covariance / spread
