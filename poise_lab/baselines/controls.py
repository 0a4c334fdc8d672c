"""Controls: what is left of a curve where the verifier's rewards are not used. They are no baselines."""

from __future__ import annotations

import zlib

import torch

from .base import Baseline, standardised


class RandomRewards(Baseline):
    """A reward of 0 or 1 by the toss of a coin, minus 1/2. The tosses follow from the batch's tokens, so a resume repeats them."""

    name = "random_rewards"

    def advantages(self, rollouts, internals):
        tokens = rollouts.response_ids.to(torch.int32).numpy().tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(tokens))
        return torch.randint(2, rollouts.rewards.shape, generator=generator) - 0.5


class Sharpen(Baseline):
    """Entropy minimisation: the reward of a response is its mean log-probability per token, standardised over the batch.

    As in "One-shot entropy minimization" (https://arxiv.org/abs/2505.20282) the policy is only made surer of what it does.
    """

    name = "sharpen"

    def advantages(self, rollouts, internals):
        mean = (internals.logprobs * rollouts.mask).sum(-1) / rollouts.lengths.clamp(min=1)
        return standardised(mean, (0, 1))
