"""Controls: what is left of a curve where the verifier's rewards are not used. They are no baselines.

No reward is in their advantages, so these are not on its scale.
"""

from __future__ import annotations

import zlib

import torch

from .base import Baseline, standardised


class RandomRewards(Baseline):
    """The toss of a coin in place of the reward, 1 or 0, minus 1/2. It follows from the batch's tokens: a resume repeats it."""

    name, on_reward_scale = "random_rewards", False

    def advantages(self, rollouts, internals):
        tokens = rollouts.response_ids.to(torch.int32).numpy().tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(tokens))
        return torch.randint(2, rollouts.rewards.shape, generator=generator) - 0.5


class Sharpen(Baseline):
    """Entropy minimisation: the reward of a response is its mean log-probability per token, standardised over the batch.

    The policy is only made surer of what it does: EM-RL of Agarwal et al. (https://arxiv.org/abs/2505.15134), but for the
    mean over the tokens in place of their sum, which short responses would win.
    """

    name, on_reward_scale = "sharpen", False

    def advantages(self, rollouts, internals):
        mean = (internals.logprobs * rollouts.mask).sum(-1) / rollouts.lengths.clamp(min=1)
        return standardised(mean, (0, 1))
