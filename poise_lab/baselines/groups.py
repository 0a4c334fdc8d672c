"""Baselines from the other responses of a group."""

from __future__ import annotations

import dataclasses

from ..rollouts import join, leave_one_out_mean
from ..settings import Count
from .base import Baseline, checked_rewards, standardised


class RLOO(Baseline):
    """Leave-one-out mean of the group (arXiv 2402.14740): A_i = r_i - mean of the siblings' rewards."""

    name, least = "rloo", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - leave_one_out_mean(rewards)


@dataclasses.dataclass(eq=False)
class GRPO(Baseline):
    """Group mean over group standard deviation (arXiv 2402.03300): A_i = (r_i - mean) / (std + 1e-6).

    Population standard deviation. A group whose rewards all agree has advantage 0.
    """

    responses: int = 8

    name, least, on_reward_scale = "grpo", 2, False

    def advantages(self, rollouts, internals):
        return standardised(checked_rewards(rollouts), 1)


@dataclasses.dataclass(eq=False)
class DrGRPO(Baseline):
    """Group mean, undivided (Dr. GRPO, arXiv 2503.20783): A_i = r_i - mean.

    The mean contains r_i, so the expected gradient is (M - 1) / M of the true one. That method's other
    half, no division by the response's length, is the trainer's `token_mean`.
    """

    responses: int = 8

    name, least = "dr_grpo", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - rewards.mean(1, keepdim=True)


@dataclasses.dataclass(eq=False)
class OPO(Baseline):
    """Group mean weighted by response length (OPO, arXiv 2505.23585): A_i = r_i - sum_j l_j r_j / sum_j l_j.

    The length stands for the squared norm of the score, which the best constant baseline is weighted by.
    """

    responses: int = 8

    name, least = "opo", 2

    def advantages(self, rollouts, internals):
        rewards, lengths = checked_rewards(rollouts), rollouts.lengths
        return rewards - (lengths * rewards).sum(1, keepdim=True) / lengths.sum(1, keepdim=True)


@dataclasses.dataclass(eq=False)
class DAPO(GRPO):
    """GRPO with dynamic sampling (DAPO, arXiv 2503.14476): groups whose rewards all agree are drawn again.

    What is thrown away was sampled and is counted. That method's other parts, the decoupled clip and the
    token mean, are the trainer's defaults.

    rounds: how often it draws for what is still missing; after that the batch stays smaller.
    """

    rounds: Count = 10

    name = "dapo"

    def sample(self, sampler):
        kept, missing = [], sampler.prompts
        for _ in range(self.rounds):
            rollouts = sampler.sample(sampler.problems(missing), self.responses)
            mixed = (rollouts.rewards != rollouts.rewards[:, :1]).any(1).nonzero()[:, 0]
            if len(mixed):
                kept.append(rollouts.select(mixed))
                missing -= len(mixed)
            if missing == 0:
                break
        return join(kept) if kept else rollouts
