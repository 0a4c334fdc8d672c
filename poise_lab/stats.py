"""Every interval, verdict and agreement, once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy import stats

from .errors import PoiseLabError

T = TypeVar("T")


class Gap(NamedTuple):
    """A mean difference with its 95 % interval. kept: whether it survives a correction for how many were looked at."""

    mean: float
    low: float
    high: float
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]" + (" *" if self.kept else "")


def mean_interval(values) -> tuple[float, float, float]:
    """Mean and its two-sided 95 % t interval: (mean, low, high); NaN bounds below two values."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return mean, mean - float(half), mean + float(half)


def bootstrap_interval(
    statistic: Callable[..., float], *arrays, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of arrays whose first axis is prompts, and its 95 % percentile interval: (value, low, high).

    Prompts are drawn with replacement, the same ones from every array, so a difference of two
    methods on the same prompts is a statistic like any other. The statistic is called with NumPy arrays.
    """
    arrays = [np.asarray(array) for array in arrays]  # small tensors cost more in torch's threads than in their sums
    generator, n = np.random.default_rng(seed), len(arrays[0])
    samples = (generator.integers(n, size=n) for _ in range(draws))
    values = [statistic(*(array[sample] for array in arrays)) for sample in samples]
    return interval(np.array([statistic(*arrays), *values]))


def pass_at_k(rewards, k: int) -> float:
    """Mean chance that at least one of k responses to a prompt is right, by the unbiased estimator of Codex.

    rewards: (P, N) with N >= k; a response is right where its reward is 1. Of its N responses c are right: the chance is
    1 - C(N - c, k) / C(N, k) (Chen et al. 2021, https://arxiv.org/abs/2107.03374, Eq. 1).
    """
    right = (np.asarray(rewards) >= 1).sum(1)
    n = np.shape(rewards)[1]
    if not 1 <= k <= n:
        raise PoiseLabError(f"pass@{k} of {n} responses: k must be between 1 and that")
    none_right = np.cumprod([1, *(1 - k / np.arange(n, 0, -1))])  # of the k, by c; binomials of many responses overflow
    return float(np.mean(1 - none_right[right]))


def agreement(predictions, targets, weights=None) -> dict[str, float]:
    """How well predictions match targets.

    r: Pearson correlation, 0.0 where either side is constant. mae: mean absolute error.
    brier_skill: 1 - MSE / Var(targets); 0 is a constant at the targets' mean, 1 is perfect; 0.0
    where the targets are constant.

    weights: one per target, in all of these means; None counts every one the same.
    """
    predictions, targets = (np.asarray(x, dtype=np.float64).reshape(-1) for x in (predictions, targets))
    weights = None if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    mean = functools.partial(np.average, weights=weights)
    error, moved, apart = predictions - targets, predictions - mean(predictions), targets - mean(targets)
    width, spread = mean(moved**2) ** 0.5, mean(apart**2) ** 0.5
    constant = spread < 1e-12 or width < 1e-12
    return {
        "r": 0.0 if constant else float(mean(moved * apart) / (width * spread)),
        "mae": float(mean(np.abs(error))),
        "brier_skill": 0.0 if spread < 1e-12 else float(1 - mean(error**2) / spread**2),
    }


def r_within(predictions, targets, labels) -> float:
    """Pearson correlation of what is left of both once the mean of each label's rows is subtracted; 0.0 if nothing is.

    predictions, targets: (P,). labels: (P,), anything that can be sorted. What differs between labels alone does not count.
    """
    at = np.unique(np.asarray(labels), return_inverse=True)[1]
    columns = [np.asarray(x, dtype=np.float64).reshape(-1) for x in (predictions, targets)]
    left = [x - (np.bincount(at, x) / np.bincount(at))[at] for x in columns]
    return agreement(*left)["r"]


def variance_reduction(advantages: torch.Tensor, rewards: torch.Tensor) -> float:
    """1 - Var(A) / Var(R) over a batch (Fig. 4 of arXiv 2605.07579); NaN if all rewards agree.

    Takes tensors, or arrays as `bootstrap_interval` gives them.
    """
    if rewards.min() == rewards.max():  # where a variance may be a rounding error, and not 0
        return float("nan")
    if isinstance(rewards, np.ndarray):
        spread, left = rewards.var(), advantages.var()
    else:
        spread, left = rewards.var(correction=0), advantages.var(correction=0)
    return float(1 - left / spread)


def own_share(baselines: torch.Tensor, rewards: torch.Tensor, fresh: torch.Tensor) -> float:
    """How much of a response's own reward its baseline holds: Cov(b, R | x) / Var(R | x), means over prompts.

    0 for a baseline that is independent of its response, 1 / M for the mean of a group of M. Right
    and wrong responses to a prompt then differ in their mean advantage by 1 minus this, where they
    should differ by 1.

    NaN where all responses to each prompt, fresh ones included, have one reward: there is no share of nothing.

    baselines, rewards: (P, M). fresh: (P, N) rewards of other responses, which no baseline has seen. Raises
    PoiseLabError unless N >= 2.
    """
    if fresh.shape[1] < 2:
        raise PoiseLabError("own_share needs at least 2 fresh responses per prompt")
    if (rewards == fresh[:, :1]).all() and (fresh == fresh[:, :1]).all():
        return float("nan")
    halves = [fresh[:, k::2].mean(1)[:, None] for k in (0, 1)]
    covariance = spread = 0.0
    for value, other in (halves, halves[::-1]):  # two independent estimates of V(x): their errors do not multiply
        covariance += float(((baselines - value) * (rewards - other)).mean())
        spread += float(((rewards - value) * (rewards - other)).mean())
    return covariance / spread if spread else float("nan")


def resamples(prompts: int, draws: int = 400, seed: int = 0) -> np.ndarray:
    """(1 + draws, P): how often each prompt is in each bootstrap sample; first the data as they are.

    The same for every method, so that ratios and differences of estimates are paired.
    """
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)
    return np.concatenate([np.ones((1, prompts)), counts])


def interval(estimates: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """(value, low, high) of an estimate on `resamples`: the first is the value, the others give percentiles."""
    low, high = np.nanquantile(estimates[1:], [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(estimates[0]), float(low), float(high)


def verdict(a: Sequence[float], b: Sequence[float]) -> tuple[str, tuple[float, float, float]]:
    """Is a better than b, seed by seed, (S,)? The word of `in_words`, and a - b with its 95 % interval."""
    difference = mean_interval(np.subtract(a, b))
    return in_words(difference), difference


def in_words(difference: tuple[float, float, float]) -> str:
    """Where the interval (mean, low, high) of a difference lies: "better", "worse" or "inconclusive"."""
    _, low, high, *_ = difference
    return "better" if low > 0 else "worse" if high < 0 else "inconclusive"


def p_value(interval: tuple[float, float, float], seeds: int) -> float:
    """Two-sided p-value of "the mean is 0" that belongs to a 95 % t interval (mean, low, high) over seeds; NaN for one seed.

    It is below 0.05 just where the interval lies off zero.
    """
    mean, low, high = interval
    if seeds < 2:
        return float("nan")
    error = (high - low) / 2 / stats.t.ppf(0.975, seeds - 1)
    return float(2 * stats.t.sf(abs(mean) / error, seeds - 1)) if error else float(mean == 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979).

    At 0.05, the chance that any true 0 is called off zero is at most 0.05. The smallest of m is multiplied by m, the next
    by m - 1, and so on, none below the one before it, none above 1.
    """
    p_values, largest = np.asarray(p_values, dtype=float), 0.0
    corrected = np.zeros(len(p_values))
    for left, i in zip(range(len(p_values), 0, -1), np.argsort(p_values, kind="stable"), strict=True):
        largest = corrected[i] = max(largest, min(1.0, left * p_values[i]))
    return corrected.tolist()


def surviving(p_values: Mapping[T, float], level: float = 0.05) -> set[T]:
    """Which of some comparisons are below the level once Holm's method has allowed for how many there are."""
    return {key for key, p in zip(p_values, holm(list(p_values.values())), strict=True) if p < level}


def gaps(differences: Mapping[T, Sequence[float]]) -> dict[T, Gap]:
    """The mean of each set of differences, one a seed, (S,); kept is what survives Holm's correction for all of them."""
    found = {key: mean_interval(each) for key, each in differences.items()}
    kept = surviving({key: p_value(interval, len(differences[key])) for key, interval in found.items()})
    return {key: Gap(*interval, key in kept) for key, interval in found.items()}


def variance_of_mean(mean, count: int):
    """Of the mean of `count` rewards of 0 and 1, an unbiased estimate of its variance; an array or tensor, any shape."""
    return mean * (1 - mean) / (count - 1)


def value_spread(rewards: torch.Tensor) -> float:
    """Standard deviation of V(x) over prompts, the noise of the M rewards (P, M) taken out; 0.0 if that is all there is."""
    rewards = rewards.double()
    variance = rewards.mean(1).var() - rewards.var(1).mean() / rewards.shape[1]
    return float(variance.clamp(min=0).sqrt())


def value_covariance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Covariance over prompts of the V(x) of two policies, the noise of the M >= 2 rewards of each, (P, M), taken out.

    Column j of both may be drawn with the same random numbers, as `sample_rollouts` does for one seed: then the noise of
    the two means is partly one, and the covariance of columns within a prompt says how much.
    """
    a, b = a.double(), b.double()
    shared = (a - a.mean(1, keepdim=True)) * (b - b.mean(1, keepdim=True))
    covariance = torch.stack([a.mean(1), b.mean(1)]).cov()[0, 1]
    return float(covariance - shared.sum(1).mean() / (a.shape[1] - 1) / a.shape[1])


def share_explained(rewards: torch.Tensor, labels: Sequence) -> float:
    """Share of the variance of prompts' mean rewards (P, M) that lies between labels, one per prompt.

    Degrees of freedom are taken into account, so labels that mean nothing have 0, however many there are.
    """
    y, labels = rewards.double().mean(1).numpy(), np.asarray(labels)
    kinds, at = np.unique(labels, return_inverse=True)
    means = np.bincount(at, y) / np.bincount(at)
    return float(1 - ((y - means[at]) ** 2).sum() / (len(y) - len(kinds)) / y.var(ddof=1))


def pair_reduction(predicted: np.ndarray, rewards: np.ndarray) -> float:
    """1 - Var(A)/Var(R) where each response's baseline is the prediction from its partner's states: pairs (0, 1), (2, 3)..."""
    columns = np.arange(predicted.shape[1] // 2 * 2)
    own = rewards[:, columns]
    return float(variance_reduction(own - predicted[:, columns ^ 1], own))
