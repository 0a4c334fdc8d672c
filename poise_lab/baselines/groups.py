"""Baselines from the other responses of a group."""

from __future__ import annotations

import dataclasses

from ..errors import PoiseLabError
from ..rollouts import join, leave_one_out_mean
from ..settings import Count
from .base import Baseline, checked_rewards, standardised


class RLOO(Baseline):
    """Leave-one-out mean of the group (arXiv 2402.14740): A_i = r_i - mean of the siblings' rewards."""

    name, least = "rloo", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - leave_one_out_mean(rewards)


class JamesStein(Baseline):
    """Leave-one-out mean, shrunk towards the mean of the other prompts (James-Stein baseline, arXiv 2511.03710).

    b_i = (1 - w) loo_i + w c, where c is the mean reward of the other prompts and w = v / (v + s + 1e-6): v is the mean
    over these prompts of the variance of their rewards over M, s the variance of their means. All of c, v and s are the
    other prompts', as in that method's code; so nothing in b_i is of the response.
    """

    name, least, least_prompts = "james_stein", 2, 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        if len(rewards) < 2:
            raise PoiseLabError(f"baseline {self.name!r} needs at least 2 prompts in the batch")
        means, noise = rewards.double().mean(1), rewards.double().var(1) / rewards.shape[1]
        center, v, square = (leave_one_out_mean(x[None])[0] for x in (means, noise, means**2))
        s = (square - center**2).clamp(min=0)
        weight = (v / (v + s + 1e-6)).to(rewards.dtype)[:, None]
        baseline = (1 - weight) * leave_one_out_mean(rewards) + weight * center.to(rewards.dtype)[:, None]
        return rewards - baseline


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
    half divides the sum over tokens by a constant; the trainer's `token_mean` divides by the tokens of the mini-batch.
    Either way no response is divided by its own length.
    """

    responses: int = 8

    name, least, holds_own_reward = "dr_grpo", 2, True

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - rewards.mean(1, keepdim=True)


@dataclasses.dataclass(eq=False)
class OPO(Baseline):
    """Group mean weighted by response length (OPO, arXiv 2505.23585): A_i = r_i - sum_j l_j r_j / sum_j l_j.

    The length stands for the squared norm of the score, which the best constant baseline is weighted by. The mean contains
    r_i and l_i, so the expected gradient is turned, and not only made shorter as `DrGRPO` makes it.
    """

    responses: int = 8

    name, least, holds_own_reward = "opo", 2, True

    def advantages(self, rollouts, internals):
        rewards, lengths = checked_rewards(rollouts), rollouts.lengths
        return rewards - (lengths * rewards).sum(1, keepdim=True) / lengths.sum(1, keepdim=True)


@dataclasses.dataclass(eq=False)
class DAPO(GRPO):
    """GRPO with dynamic sampling (DAPO, arXiv 2503.14476): groups whose rewards all agree are thrown away.

    Groups of newly drawn prompts come in their place (in a small task the same prompt may come again, with other
    responses); what is thrown away was sampled and is counted. The metrics `reward`, `entropy` and `response_length`
    are of the kept groups alone.

    Of that method's other parts, the decoupled clip and the token mean are the trainer's defaults; its penalty for
    responses that are too long is left out.

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
