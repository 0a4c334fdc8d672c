"""The noise of the gradient with each baseline in one setting: from the pieces that `when` has made, and from a formula."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection

import numpy as np
import torch
from scipy import stats

from ..baselines.base import mean_of_all_others
from ..stats import interval, resamples, value_spread, variance_of_mean, variance_reduction
from ..variance import Scores, gradient_variance
from ..variance.spoilt import from_siblings

# what has learned before, and the responses of a group that it sees
LEARNED = {"constant": 1, "poise": 2, "score_weighted": 2}
BY_TOKEN = ("prefix", "prefix_weighted", "ppo")
DRAWS = 10_000  # bootstrap samples of the prompts


@dataclasses.dataclass(frozen=True)
class Measured:
    """All pieces of a setting, as one. Its figures are ratios to no baseline, (value, low, high) over prompts.

    arrays: as `when.measured` and `when.scaled` describe them, rewards of 0 and 1. fresh: responses behind each of their
    fresh means. comparisons: for how many `against` holds at once.
    """

    name: str
    arrays: dict[str, torch.Tensor]
    fresh: int = 16
    comparisons: int = 1

    @property
    def squares(self) -> torch.Tensor:
        """(P, M) squared length of each score."""
        return torch.diagonal(self.arrays["within"], dim1=1, dim2=2)

    @functools.cached_property
    def counts(self) -> np.ndarray:
        return resamples(len(self.arrays["rewards"]), draws=DRAWS)

    def baselines(self) -> dict[str, tuple[torch.Tensor, int]]:
        """Each baseline's advantages (P, M), and the responses of a group in which they were made.

        The oracle's and b*(x) are from the fresh responses, whose noise is in them.
        """
        r, fresh = self.arrays["rewards"], self.arrays["fresh"]
        learned = {f"{key} x{m}": (self.arrays[f"advantages/{key}"], m) for key, m in LEARNED.items()}
        return {
            "none x1": (r, 1), "batch_mean x1": (r - mean_of_all_others(r), 1), "oracle x1": (r - fresh[:, :1], 1),
            "b*(x) x1": (r - fresh[:, 1:], 1), "rloo x2": (r - from_siblings(r, 2), 2), "rloo x4": (r - from_siblings(r, 4), 4),
            **learned,
        }  # fmt: skip

    def noise(self, aggregation: str = "sum", only: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Variance of the gradient for equal numbers of responses, (1 + draws,) by baseline, over that of no baseline.

        aggregation: "sum" over a response's tokens; "token_mean", which divides by all tokens of a batch (to first order in
        their number's deviation from its mean); "sequence_mean", which divides by the response's own; "adam", the sum as
        Adam scales it, where that was measured. only: baselines, by default all. V(x) is the oracle without the noise of
        its fresh responses: they do not depend on those that are scored, so it adds its variance times the squared score.
        """
        a, under = self.arrays, "adam/" if aggregation == "adam" else ""
        scores, lengths = Scores(a[f"{under}within"], a[f"{under}kept"]), a["lengths"].double()
        found = {}
        for label, (advantages, m) in self.baselines().items():
            if not only or label in ("none x1", *only) or (label == "oracle x1" and "V(x) x1" in only):
                found[label] = self._trace(scores, advantages.double(), m, aggregation, lengths)
        if "oracle x1" in found:
            by = lengths if aggregation == "sequence_mean" else 1.0
            squares = torch.diagonal(scores.within, dim1=1, dim2=2).double() / by**2
            v = a["fresh"][:, 0].double()
            per_prompt = variance_of_mean(v, self.fresh) * squares.mean(1)
            found["V(x) x1"] = found["oracle x1"] - self.counts @ per_prompt.numpy() / self.counts.sum(1)
        for key in BY_TOKEN:
            if f"{under}{key}/within" in a and (not only or f"{key} x1" in only):
                own = Scores(a[f"{under}{key}/within"], a[f"{under}{key}/kept"])
                found[f"{key} x1"] = self._trace(own, torch.ones_like(lengths), 1, aggregation, lengths)
        return {label: trace / found["none x1"] for label, trace in found.items()}

    @property
    def kinds(self) -> list[str]:
        """The aggregations that `noise` can take here."""
        measured = len(self.arrays.get("adam/within", ())) == len(self.arrays["rewards"])
        return ["sum", "token_mean", "sequence_mean", *(["adam"] if measured else [])]

    @functools.cached_property
    def sums(self) -> dict[str, np.ndarray]:
        """`noise` of the sum over tokens."""
        return self.noise()

    def noise_of(self, advantages: torch.Tensor, group: int) -> np.ndarray:
        """`noise` of other advantages (P, M), made in groups of so many responses."""
        scores, lengths = Scores(self.arrays["within"], self.arrays["kept"]), self.arrays["lengths"].double()
        trace = self._trace(scores, advantages.double(), group, "sum", lengths)
        return trace / self._trace(scores, self.arrays["rewards"].double(), 1, "sum", lengths)

    def against(self, label: str, other: str) -> tuple[float, float, float]:
        """Noise of one baseline over another's, paired by prompt; its interval holds for all comparisons at once (Bonferroni)."""
        return interval(self.sums[label] / self.sums[other], 1 - 0.05 / self.comparisons)

    def _trace(self, scores, advantages, m: int, aggregation: str, lengths) -> np.ndarray:
        if aggregation == "sequence_mean":
            advantages = advantages / lengths
        trace = gradient_variance(scores, advantages, m, self.counts).trace(1)
        if aggregation != "token_mean":
            return trace
        # Z - (L / mean L) G in place of Z, G the expected gradient: what is beside the trace of Z
        z = advantages[..., None] * scores.kept.double()
        share = torch.from_numpy(self.counts / self.counts.sum(1, keepdims=True))
        p, groups = len(z), z.shape[1] // m
        of_group, size = z.view(p, groups, m, -1).mean(2), lengths.view(p, groups, m).mean(2)
        mean, length = share @ of_group.mean(1), share @ size.mean(1)
        with_size = share @ (of_group * size[..., None]).mean(1)
        square = share @ (size**2).mean(1)
        signal = (mean**2).sum(1)
        more = -2 * ((with_size * mean).sum(1) / length - signal) + signal * (square / length**2 - 1)
        return trace + m * more.numpy()

    def facts(self) -> dict[str, float | tuple]:
        """Accuracy, spread of V(x), mean squared score of right and of wrong responses, and their ratio."""
        r, squares, counts = self.arrays["rewards"].double(), self.squares.double(), self.counts
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw of few prompts may have no wrong response
            right, wrong = (
                counts @ (squares * part).sum(1).numpy() / (counts @ part.sum(1).numpy()) for part in (r, 1 - r)
            )
            ratio = interval(wrong / right)
        return {
            "prompts": len(r), "accuracy": no_interval(float(r.mean())), "spread of V(x)": no_interval(value_spread(r)),
            "squared score, right": interval(right), "wrong": interval(wrong), "wrong over right": ratio,
        }  # fmt: skip

    def by_value(self) -> dict[str, np.ndarray]:
        """Mean squared score of right and of wrong responses, to prompts whose V(x) lies below 0.5 (hard) or not (easy).

        Each (1 + draws,), as `interval` takes it, and NaN in a draw that has no such response.
        """
        right, hard = self.arrays["rewards"].bool(), self.arrays["fresh"][:, :1] < 0.5
        found = {}
        for word, of in (("right", right), ("wrong", ~right)):
            for kind, prompts in (("hard", hard), ("easy", ~hard)):
                sums = torch.stack([self.squares * (of & prompts), of & prompts], -1).double().sum(1).numpy()
                with np.errstate(invalid="ignore"):
                    found[f"{word}, {kind}"] = np.divide(*(self.counts @ sums).T)
        return found

    def at_easy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What V(x) takes away at right responses to easy prompts (V(x) at least 0.5), what it adds at wrong ones to them,
        and the second over the first.

        Each (1 + draws,), the first two in units of the noise without a baseline; without the noise of the fresh responses.
        """
        right, v = self.arrays["rewards"].bool(), self.arrays["fresh"][:, :1].double()
        own, easy = variance_of_mean(v, self.fresh), v >= 0.5
        terms = {
            "away": (1 - (1 - v) ** 2 + own) * (right & easy),
            "added": (v**2 - own) * (~right & easy),
            "none": right,
        }
        away, added, none = (self.counts @ (x * self.squares).sum(1).double().numpy() for x in terms.values())
        with np.errstate(divide="ignore", invalid="ignore"):  # a draw may have no easy prompt
            return away / none, added / none, added / away

    def top_share(self, label: str, share: float = 0.01) -> float:
        """What part of the sum of squared advantage times squared score the largest `share` of the responses have."""
        terms = (self.baselines()[label][0].double() ** 2 * self.squares).flatten().sort(descending=True).values
        return float(terms[: max(1, round(share * len(terms)))].sum() / terms.sum())

    def by(self, what: str, parts: int = 4) -> list[tuple[float, float, float]]:
        """(mean of `what`, mean squared score, accuracy) of equal parts of the responses, by "logprobs" or "lengths"."""
        of, squares, r = (x.flatten().double() for x in (self.arrays[what], self.squares, self.arrays["rewards"]))
        return [
            (float(of[i].mean()), float(squares[i].mean()), float(r[i].mean()))
            for i in of.argsort(stable=True).tensor_split(parts)
        ]

    def proxies(self) -> dict[str, float]:
        """1 - Var(A)/Var(R), what is usually reported."""
        return {
            label: float(variance_reduction(a, self.arrays["rewards"])) for label, (a, _) in self.baselines().items()
        }

    def predicted(self) -> dict[str, float]:
        """`formula` with what was measured of this setting."""
        facts = self.facts()
        return formula(*(facts[key][0] for key in ("accuracy", "spread of V(x)", "wrong over right")))


def formula(accuracy: float, spread: float, ratio: float) -> dict[str, float]:
    """The noise of none, of one constant, of V(x) and of b*(x), over that of none, from three numbers.

    Taken for granted: a score's squared length depends on whether the response is right alone (ratio: wrong over right),
    V(x) has a Beta distribution with this mean and standard deviation, rewards are 0 or 1, and the expected gradient's own
    square is small. Then with b the baseline E[(R - b)^2 |s|^2] is E[V (1 - b)^2] + ratio E[(1 - V) b^2], up to a factor.
    """
    spread = min(max(spread, 1e-3), 0.999 * (accuracy * (1 - accuracy)) ** 0.5)
    strength = accuracy * (1 - accuracy) / spread**2 - 1
    v = stats.beta.ppf((np.arange(2000) + 0.5) / 2000, accuracy * strength, (1 - accuracy) * strength)
    constant = accuracy / (accuracy + (1 - accuracy) * ratio)

    def over_none(b) -> float:
        return float((v * (1 - b) ** 2 + ratio * (1 - v) * b**2).mean() / v.mean())

    return {
        "none x1": over_none(0.0), "constant x1": over_none(constant), "V(x) x1": over_none(v),
        "b*(x) x1": over_none(v / (v + (1 - v) * ratio)),
    }  # fmt: skip


def more_or_less(ratio: tuple[float, float, float]) -> str:
    """What the interval of a ratio of noises says."""
    _, low, high = ratio
    return "more" if low > 1 else "less" if high < 1 else "not decided"


def no_interval(value: float | None) -> tuple[float, float, float]:
    """A number without an interval, for a table; None is none."""
    return (float("nan") if value is None else value, float("nan"), float("nan"))
