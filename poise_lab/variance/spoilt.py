"""How good must a value probe be? Its predictions are spoilt on purpose, and what they take out is measured each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..rollouts import leave_one_out_mean
from .estimates import gradient_variance
from .scores import Scores

MEASURES = ("Var(A)", "gradient variance")
KINDS = ("as it is", "recalibrated")
SURE = 0.9  # share of the bootstrap draws from which on a probe is said to pay everywhere, or nowhere


class Field:
    """Responses on which baselines are compared: rewards (P, M), their scores, and how often each draw takes each prompt.

    counts: (draws, P), of `stats.resamples`; every number found has one entry for each draw.
    """

    def __init__(self, rewards: torch.Tensor, scores: Scores, counts: np.ndarray):
        self.rewards, self.scores, self.counts = rewards, scores, counts

    def mean(self, x: torch.Tensor) -> np.ndarray:
        """Mean over responses of x, (P,) or (P, M)."""
        return self.counts @ x.double().numpy().reshape(len(x), -1).mean(1) / self.counts.sum(1)

    def spread(self, x: torch.Tensor) -> np.ndarray:
        """Variance over responses of x, (P,) or (P, M)."""
        return self.mean(x**2) - self.mean(x) ** 2

    def correlation(self, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        """Pearson r of two numbers of each prompt, (P,)."""
        return (self.mean(x * y) - self.mean(x) * self.mean(y)) / np.sqrt(self.spread(x) * self.spread(y))

    def noise(self, advantages: torch.Tensor, group: int) -> np.ndarray:
        """Variance of the gradient of one response, its groups of `group` counted as they share a prompt."""
        return gradient_variance(self.scores, advantages, group, self.counts).trace(1)

    def taken_out(self, measure: str, advantages: torch.Tensor, group: int) -> np.ndarray:
        """1 minus the ratio to no baseline, in one of MEASURES; at equal numbers of responses."""
        if measure == "Var(A)":
            return 1 - self.spread(advantages) / self.spread(self.rewards)
        return 1 - self.noise(advantages, group) / self.noise(self.rewards, 1)


def from_siblings(x: torch.Tensor, group: int = 2) -> torch.Tensor:
    """(P, M): the mean of x over the other responses of one's group, where consecutive ones form a group."""
    return leave_one_out_mean(x.reshape(-1, group)).view_as(x)


def spoil(predicted: torch.Tensor, share: float) -> torch.Tensor:
    """Predictions (P, M) of which a share of the prompts has those of some other prompt: as spread as before."""
    generator = torch.Generator().manual_seed(0)
    order, other = (torch.randperm(len(predicted), generator=generator) for _ in range(2))
    lied, spoilt = order[: round(len(predicted) * share)], predicted.clone()
    spoilt[lied] = predicted[other[lied]]
    return spoilt


def recalibrated(b: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Baselines (P, M) shrunk towards their mean, as a refit would: each half of the prompts by the other's best factor."""
    half, parts = len(b) // 2, []
    for test, fit in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        covariance = torch.cov(torch.stack([b[fit].flatten(), rewards[fit].flatten()]))[0, 1]
        factor = max(0.0, float(covariance / b[fit].var()))
        parts.append(b[fit].mean() + (b[test] - b[fit].mean()) * factor)
    return torch.cat(parts)


def curves(
    field: Field, predicted: torch.Tensor, value: torch.Tensor, shares: Sequence[float]
) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]:
    """r of a spoilt probe with V(x) at each share, (draws, shares), and by measure and kind what POISE takes out with it.

    predicted: (P, M), read from each response; value: (P,).
    """
    r, found = [], {(measure, kind): [] for measure in MEASURES for kind in KINDS}
    for share in shares:
        spoilt = spoil(predicted, share)
        r.append(field.correlation(spoilt[:, 0], value))
        b = from_siblings(spoilt)
        for kind, of in zip(KINDS, (b, recalibrated(b, field.rewards)), strict=True):
            for measure in MEASURES:
                found[measure, kind].append(field.taken_out(measure, field.rewards - of, 2))
    return np.stack(r, 1), {key: np.stack(each, 1) for key, each in found.items()}


def crossing(x: np.ndarray, y: np.ndarray, level: np.ndarray) -> tuple[tuple[float, float, float], float, float]:
    """Where a line falls below a level: the x with its 95 % interval; shares of the draws all above and never above.

    x, y: (1 + draws, N) from the largest x to the smallest; level: (1 + draws,). The first row is the data, the others
    are bootstrap draws. The x is NaN where the line does not fall below the level; the interval is that of the
    draws in which it does.
    """
    above = y > level[:, None]
    found = np.full(len(x), np.nan)
    for k in np.flatnonzero(above[:, 0] & ~above.all(1)):
        i = int(np.argmin(above[k]))  # the first that is not above
        share = (y[k, i - 1] - level[k]) / (y[k, i - 1] - y[k, i])
        found[k] = x[k, i - 1] + share * (x[k, i] - x[k, i - 1])
    crossed = found[1:][np.isfinite(found[1:])]
    low, high = np.quantile(crossed, [0.025, 0.975]) if len(crossed) else (np.nan, np.nan)
    never = float((~above[1:]).all(1).mean())
    return (float(found[0]), float(low), float(high)), float(above[1:].all(1).mean()), never


def pays(r: np.ndarray, taken_out: np.ndarray, level: np.ndarray) -> str:
    """From which r on a probe takes out more than a level, in words; arguments as for `crossing`."""
    (at, low, high), every, never = crossing(r, taken_out, level)
    if max(every, never) >= SURE:
        return "at every r" if every >= SURE else "at no r"
    where = f"above r = {at + 0.0:.1f} [{low:.1f}, {high:.1f}]" if np.isfinite(at) else "not decided"
    unsure = f"at every r in {every:.1f} of the draws, at no r in {never:.1f}"
    return where if every + never < 1 - SURE else f"{where} ({unsure})"
