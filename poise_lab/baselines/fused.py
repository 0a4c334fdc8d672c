"""POISE and RLOO in one: the siblings' predictions and their rewards."""

from __future__ import annotations

import torch

from ..rollouts import leave_one_out_mean
from .base import checked_rewards
from .poise import Poise


class Fused(Poise):
    """POISE and RLOO in one: b_i = (1 - w) (siblings' predictions) + w (siblings' rewards), means over siblings.

    Both parts are read from siblings alone, so the gradient stays unbiased whatever w is, as long as w is
    independent of the step's responses. It is fitted on the steps before. Since r_i is independent of its
    siblings given the prompt, E[(r_i - b_i)^2] = E[V (1 - V)] + E[(b_i - V)^2], so the w with the least squared
    advantage, one number by least squares, weighs the two by their errors, and by how these go together (V0.5,
    arXiv 2603.10848, fuses a value model in a like spirit). It is the least of the advantages' squares that this
    aims at, not of the gradient's. Arguments as for Poise.
    """

    name = "fused"

    def __post_init__(self):
        super().__post_init__()
        self.history = torch.zeros(0, 3)  # siblings' prediction and reward, own reward; newest last
        self.weight = 0.0  # w

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        values = self.values(rollouts, internals)
        if values is None:
            return rewards - leave_one_out_mean(rewards)
        w = self.weight
        return rewards - (1 - w) * leave_one_out_mean(values) - w * leave_one_out_mean(rewards)

    def update(self, rollouts, internals):
        values = self.values(rollouts, internals)  # of the probe that has not seen these rewards
        if values is not None:
            rows = [leave_one_out_mean(values), leave_one_out_mean(rollouts.rewards), rollouts.rewards]
            new = torch.stack([x.flatten().float() for x in rows], -1)
            self.history = torch.cat([self.history, new])[-self.buffer_rows :]
            self.weight = fusion_weight(*self.history.double().T)
        super().update(rollouts, internals)

    def state_dict(self):
        return {
            **super().state_dict(),
            "history": self.history,
            "weight": torch.tensor(self.weight, dtype=torch.float64),
        }

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.history, self.weight = state["history"], float(state["weight"])


def fusion_weight(predicted: torch.Tensor, siblings: torch.Tensor, own: torch.Tensor) -> float:
    """The w in [0, 1] with the least sum of (own - (1 - w) predicted - w siblings)^2; 0 where it makes no difference.

    predicted, siblings, own: (N,) the siblings' mean prediction and mean reward, and the own reward.
    """
    apart = siblings - predicted
    norm = float(apart @ apart)
    return min(1.0, max(0.0, float(apart @ (own - predicted)) / norm)) if norm > 0 else 0.0
