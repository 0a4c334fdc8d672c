"""Baselines that work with one response per prompt."""

from __future__ import annotations

import dataclasses
import hashlib

import torch

from ..rollouts import Rollouts
from ..settings import Count, PositiveShare
from .base import Baseline, checked_rewards, extra_rewards, mean_of_all_others, standardised, surprise


class NoBaseline(Baseline):
    """REINFORCE without a baseline: A = r."""

    name = "none"

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts).clone()


class BatchMean(Baseline):
    """REINFORCE with the mean reward of all *other* responses in the batch: A_i = r_i - mean_j r_j."""

    name, least_in_step = "batch_mean", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - mean_of_all_others(rewards)


@dataclasses.dataclass(eq=False)
class Constant(Baseline):
    """One number for all prompts, aimed at what `score_weighted` aims its probe at: A = r - E[R |s|^2] / E[|s|^2].

    Its control: how far does a baseline get that knows nothing of the prompt? The number is taken from the
    steps before, 0 at first, with the surprise of a response's tokens (`surprise`) for |s|^2.

    rows: responses that it is taken from, the most recent ones.
    """

    responses: int = 1
    rows: Count = 4096

    name = "constant"

    def __post_init__(self):
        super().__post_init__()
        self.history = torch.zeros(0, 2)  # surprise and reward, newest last

    @property
    def constant(self) -> float:
        """What is subtracted now."""
        weights, rewards = self.history.double().T
        return float(weights @ rewards / weights.sum()) if len(weights) else 0.0

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts) - self.constant

    def update(self, rollouts, internals):
        new = torch.stack([surprise(rollouts, internals), rollouts.rewards], -1).flatten(0, 1)
        self.history = torch.cat([self.history, new.float()])[-self.rows :]

    def state_dict(self):
        return {"history": self.history}

    def load_state_dict(self, state):
        self.history = state["history"]


@dataclasses.dataclass(eq=False)
class ReMax(Baseline):
    """The reward of the greedy response (ReMax, arXiv 2310.10505): A_i = r_i - r_greedy."""

    responses: int = 1

    name = "remax"

    def sample(self, sampler):
        rollouts = super().sample(sampler)
        greedy = sampler.sample(rollouts.problems, 1, temperature=0)
        return dataclasses.replace(rollouts, extra_rewards=greedy.rewards)

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts) - extra_rewards(rollouts, self.name).mean(1, keepdim=True)


@dataclasses.dataclass(eq=False)
class Oracle(Baseline):
    """V(x) as the mean reward of many fresh responses: the best that a baseline of the prompt can be.

    For measurement only: the fresh responses are not counted, and no method has them.

    fresh: how many.
    """

    responses: int = 1
    fresh: Count = 16

    name = "oracle"

    def sample(self, sampler):
        rollouts = super().sample(sampler)
        fresh = sampler.sample(rollouts.problems, self.fresh, counted=False)
        return dataclasses.replace(rollouts, extra_rewards=fresh.rewards)

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts) - extra_rewards(rollouts, self.name).mean(1, keepdim=True)


@dataclasses.dataclass(eq=False)
class SPO(Baseline):
    """Single stream (SPO, arXiv 2509.13232): a running mean per prompt, over the times that it was seen.

    The value of a prompt is alpha / (alpha + beta). Before a prompt's new rewards are added, its old counts
    shrink by `forget`, since the policy has moved (the paper ties this to the KL distance; here it is a
    constant, and problems are not prioritised). A prompt seen for the first time has the mean reward so far,
    worth one response. Advantages are normalised over the batch. Problems come from a fixed pool.

    pool: problems in it.
    """

    responses: int = 1
    pool: Count = 960
    forget: PositiveShare = 0.9

    name, on_reward_scale = "spo", False

    def __post_init__(self):
        super().__post_init__()
        self.counts: dict[int, list[float]] = {}  # prompt: [alpha, beta]
        self.total = [0.5, 0.5]

    def step_problems(self, sampler):
        return sampler.pool_problems(self.pool)

    def _counts(self, rollouts) -> list[tuple[int, list[float]]]:
        prior = [x / sum(self.total) for x in self.total]
        keys = [_prompt_key(ids) for ids in rollouts.prompt_ids]
        return [(key, self.counts.get(key, prior)) for key in keys]

    def tracked(self, rollouts: Rollouts) -> torch.Tensor:
        """(P, 1) the tracker's value of each prompt."""
        return torch.tensor([[alpha / (alpha + beta)] for _, (alpha, beta) in self._counts(rollouts)])

    def advantages(self, rollouts, internals):
        raw = checked_rewards(rollouts) - self.tracked(rollouts)
        return standardised(raw, (0, 1))

    def update(self, rollouts, internals):
        before = dict(self._counts(rollouts))
        self.counts |= {key: [self.forget * alpha, self.forget * beta] for key, (alpha, beta) in before.items()}
        for ids, rewards in zip(rollouts.prompt_ids, rollouts.rewards.tolist(), strict=True):
            for counts in (self.counts[_prompt_key(ids)], self.total):
                counts[0] += sum(rewards)
                counts[1] += len(rewards) - sum(rewards)

    def state_dict(self):
        return {
            "keys": torch.tensor(list(self.counts), dtype=torch.long),
            "counts": torch.tensor(list(self.counts.values()), dtype=torch.float64).view(-1, 2),
            "total": torch.tensor(self.total, dtype=torch.float64),
        }

    def load_state_dict(self, state):
        self.counts = dict(zip(state["keys"].tolist(), state["counts"].tolist(), strict=True))
        self.total = state["total"].tolist()


def _prompt_key(ids: list[int]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(ids).encode(), digest_size=8).digest(), "big", signed=True)
