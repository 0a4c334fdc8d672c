"""Variance of the policy gradient, estimated from inner products of scores (arXiv 2605.07579, Sec. 2)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ..baselines.base import Baseline
from ..errors import PoiseLabError
from ..internals import Internals
from ..rollouts import Rollouts
from ..stats import mean_interval
from .scores import Scores


@dataclasses.dataclass
class GradientVariance:
    """Variance of the policy gradient, unbiased estimates, each (1 + draws,) as `resamples` orders them.

    What divides one by another (`snr`, `cosine`, ratios of two baselines) is consistent, right with many prompts, and no
    longer unbiased.

    within, between: traces of Sigma_w and Sigma_b (Prop. 1), where Z are taken as independent given the prompt.
        Where advantages were made in groups smaller than M they mix pairs of one group, which hang together, with
        pairs of two groups, which do not: `spread` is then the one to trust.
    spread: trace of the covariance of one prompt's mean Z over a group of `group`; no premise needed.
    signal: squared length of the expected gradient.
    """

    within: np.ndarray
    between: np.ndarray
    spread: np.ndarray
    signal: np.ndarray
    group: int

    def predicted(self, budget: int, group: int | None = None) -> np.ndarray:
        """Trace of Cov(g) for `budget` responses, `group` to a prompt: Sigma_w / B + (m / B) Sigma_b (Eq. 10)."""
        return (self.within + (group or self.group) * self.between) / budget

    def trace(self, budget: int) -> np.ndarray:
        """Trace of Cov(g) for `budget` responses, whatever the baseline: B / m independent prompts."""
        return self.spread * self.group / budget

    def snr(self, budget: int) -> np.ndarray:
        """Signal-to-noise ratio: squared length of the gradient over the trace; no unit, no scale."""
        return self.signal / self.trace(budget)

    def cosine(self, budget: int) -> np.ndarray:
        """E<g, G> / sqrt(E|g|^2 |G|^2) with G the expected gradient: about the cosine of a batch with the truth."""
        snr = np.maximum(self.snr(budget), 0)
        return np.sqrt(snr / (1 + snr))


def gradient_variance(
    scores: Scores, advantages: torch.Tensor, group: int | None = None, counts: np.ndarray | None = None
) -> GradientVariance:
    """Unbiased estimates of the parts of Cov(g) (Prop. 1, Eq. 10), with bootstrap samples over prompts.

    With W the inner products of Z within a prompt and H those of the prompts' means across prompts:
    E|Z|^2 = mean of W_jj; E|E[Z|x]|^2 = mean of W_jk, j != k; |E Z|^2 = mean of H_il, i != l.
    Sigma_w = E|Z|^2 - E|E[Z|x]|^2, Sigma_b = E|E[Z|x]|^2 - |E Z|^2. In a bootstrap sample a prompt that was
    drawn twice makes no pair with itself.

    advantages: (P, M), P >= 2. Where they were made in groups, consecutive responses form one.
    group: responses of one group, M by default; must divide M. With M = 1 within and between are NaN.
    counts: (draws, P) from `resamples`; by default the data alone.

    Raises PoiseLabError for shapes that do not fit.
    """
    p, m = scores.within.shape[:2]
    group = group or m
    if tuple(advantages.shape) != (p, m) or p < 2 or m % group:
        raise PoiseLabError(
            f"advantages {tuple(advantages.shape)} in groups of {group}, scores of {p} prompts x {m}: need equal "
            "shapes, at least 2 prompts, and a group that divides the responses"
        )
    a = advantages.double().numpy()
    z = a[:, :, None] * scores.within.double().numpy() * a[:, None, :]  # (P, M, M) inner products of Z
    own, every = np.trace(z, axis1=1, axis2=2), z.sum((1, 2))
    blocks = np.einsum("igjgk->i", z.reshape(p, m // group, group, m // group, group)) / (m * group)
    means = torch.bmm(advantages.to(scores.kept)[:, None] / m, scores.kept)[:, 0]
    across = (means @ means.T).double().numpy()
    counts = np.ones((1, p)) if counts is None else counts

    share = counts / counts.sum(1, keepdims=True)
    pairs = np.einsum("di,di->d", share @ across, share) - share**2 @ np.diag(across)
    signal = pairs / (1 - (share**2).sum(1))
    common = share @ ((every - own) / (m * (m - 1)) if m > 1 else np.full(p, np.nan))
    return GradientVariance(share @ own / m - common, common - signal, share @ blocks - signal, signal, group)


def group_advantages(
    baseline: Baseline, rollouts: Rollouts, internals: Internals | None, group: int | None = None
) -> torch.Tensor:
    """(P, M) advantages where the M responses are cut into groups of `group`, and the baseline sees one group at a time."""
    m = rollouts.responses
    parts = []
    for start in range(0, m, group or m):
        columns = slice(start, start + (group or m))
        some = internals and internals.select((slice(None), columns))
        parts.append(baseline.advantages(rollouts.select(responses=columns), some))
    return torch.cat(parts, 1)


def drawn_gradients(
    scores: Scores, advantages: torch.Tensor, budget: int, group: int, pairs: int = 400, seed: int = 0
) -> torch.Tensor:
    """(pairs, 2, K) folded gradients of drawn batches of `budget` responses, the two of a pair from different prompts.

    So the two are independent batches from the task, not only from the P prompts at hand. A prompt gives
    one of its groups of `group` consecutive responses.

    Raises PoiseLabError if there are fewer than 2 budget / group prompts, or the group does not divide.
    """
    p, m, k = scores.kept.shape
    n = budget // group
    if budget % group or m % group or 2 * n > p:
        raise PoiseLabError(f"two batches of {budget} responses in groups of {group} need {2 * n} of the {p} prompts")
    generator = np.random.default_rng(seed)
    weights = torch.zeros(2 * pairs, p, m // group, dtype=scores.kept.dtype)
    for pair in range(pairs):
        prompts = generator.permutation(p)[: 2 * n]
        weights[np.repeat([2 * pair, 2 * pair + 1], n), prompts, generator.integers(m // group, size=2 * n)] = (
            1 / budget
        )
    weights = weights.repeat_interleave(group, 2) * advantages.to(weights)
    return (weights.flatten(1) @ scores.kept.flatten(0, 1)).view(pairs, 2, k)


def drawn_trace(gradients: torch.Tensor) -> tuple[float, float, float]:
    """Trace of Cov(g) from pairs of independent batches, half of their mean squared distance: (value, low, high).

    The interval is that of drawing finitely many pairs; the prompts they are drawn from are taken as given.
    """
    return mean_interval(((gradients[:, 0] - gradients[:, 1]).double() ** 2).sum(-1) / 2)


def adam_proxy(gradients: torch.Tensor) -> float:
    """What the official release logs: sum over weights of v_hat - m_hat^2 of Adam's moments, after these gradients.

    Of N independent gradients with one mean it expects less than their variance: m_hat is a mean of few steps, and
    its square keeps the share (1 - beta_1) / (1 + beta_1) of the noise, about 5 %.

    gradients: (N, K), in the order of the steps. Folding leaves both sums right in expectation.
    """
    gradients = gradients.double()
    first, second = (beta ** torch.arange(len(gradients) - 1, -1, -1, dtype=torch.float64) for beta in (0.9, 0.999))
    mean = (first / first.sum()) @ gradients
    return float((second / second.sum()) @ (gradients**2).sum(1) - mean @ mean)
