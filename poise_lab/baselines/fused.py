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

    def __init__(self, responses=2, probe="release", buffer_rows=4096, warmup=4, per_task=False):
        super().__init__(responses, probe, buffer_rows, warmup, per_task)
        self.history = torch.zeros(0, 3)  # siblings' prediction and reward, own reward; newest last
        self.weight = 0.0  # w

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        values = self.values(rollouts, internals)
        if values is None:
            return rewards - leave_one_out_mean(rewards)
        predicted = leave_one_out_mean(values)
        w = self.weights(predicted)
        return rewards - (1 - w) * predicted - w * leave_one_out_mean(rewards)

    def weights(self, predicted: torch.Tensor) -> torch.Tensor | float:
        """w of each response, for the siblings' predictions (P, M): here one number for all."""
        return self.weight

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


class FusedByPrompt(Fused):
    """A trial: `fused` with a w for each prompt, the larger the surer the siblings' rewards are against the probe.

    w(x) = tau^2 / (tau^2 + g (1 - g) / (M - 1)): tau^2 is the variance of the probe's error on the steps before
    (`error_variance`), and g, the siblings' prediction, stands for V(x) in the variance of a reward. Both are
    independent of the own response, so it is unbiased too. Not among BASELINES: notebook 6 finds no gain. One may
    expect as much: if V(x) scatters about g as a Beta distribution with one concentration for all prompts, error
    and reward both have a variance in proportion to g (1 - g), and the best w is the same for all.
    """

    name = "fused_by_prompt"

    def weights(self, predicted):
        error = error_variance(*self.history.double().T) if len(self.history) else 0.0
        return error / (error + predicted * (1 - predicted) / (predicted.shape[1] - 1)).clamp_min(1e-12)


def error_variance(predicted: torch.Tensor, siblings: torch.Tensor, own: torch.Tensor) -> float:
    """Mean of (siblings - predicted) (own - predicted), at least 0: the mean squared error of a prediction of V(x).

    Given the prompt the two rewards are independent, so their own noise drops out of the product; what a sibling's
    prediction shares with its reward stays in it. (N,) each, as in `fusion_weight`.
    """
    return max(0.0, float(((siblings - predicted) * (own - predicted)).mean()))
