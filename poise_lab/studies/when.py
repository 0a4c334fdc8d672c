"""Which baseline leaves the least noise in the gradient, and when: `poise-lab study when`.

For each setting, a frozen policy on a task: problems, responses, the scores of all responses, and the advantages of every
baseline, which has learned from other problems before; in some settings the scores as Adam scales them, too. A setting is
made piece by piece (safetensors); interrupted, the same call goes on with the piece that is missing. All figures are
computed from the pieces (`Measured`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import stats

from ..baselines import make_baseline
from ..baselines.base import Baseline, mean_of_all_others, surprise
from ..errors import PoiseLabError
from ..files import provenance, write_arrays, write_json
from ..generate import sample_rollouts
from ..internals import read_internals
from ..policies import Policy, load_policy
from ..runs import format_table
from ..stats import interval, resamples, value_spread, variance_reduction
from ..tasks import TINY_TASKS, Problem, load_task
from ..variance import Scores, adam_scale, gradient_variance, group_advantages, read_scores
from ..variance.spoilt import from_siblings

PROMPTS, PIECE = 400, 50  # problems of a setting, and of a piece
RESPONSES, FRESH = 4, 16  # to each: scored, and for V(x)
LEARN, LEARN_PROMPTS = 6, 96  # batches that the baselines learn from before, and their problems, two responses to each
ADAM_UNIT = 1e4  # of scores as Adam scales them, whose squares half precision would not hold
WIDTH = 16  # numbers kept of a score for products across prompts, see `read_scores`
LEARNED = {"constant": 1, "poise": 2, "score_weighted": 2}  # and the responses of a group that each sees
BY_TOKEN = ("prefix", "prefix_weighted", "ppo")
PAIRS = (  # baselines whose noise is compared
    ("V(x) x1", "none x1"), ("constant x1", "none x1"), ("prefix_weighted x1", "none x1"), ("prefix_weighted x1", "constant x1"),
)  # fmt: skip
DRAWS = 10_000  # bootstrap samples of the prompts


@dataclasses.dataclass(frozen=True)
class Setting:
    """A frozen policy on a task. tokens: most of a response. by_token: baselines that give an advantage to each token.

    adam: whether the scores are measured as Adam scales them, too. embeddings: whether their gradient counts; a large
    vocabulary's would take an hour.
    """

    policy: str
    task: str
    settings: dict = dataclasses.field(default_factory=dict)
    shots: int = 0
    wording: str | None = None
    tokens: int = 64
    layer: int = 2
    by_token: tuple[str, ...] = ("prefix", "prefix_weighted")
    adam: bool = True
    embeddings: bool = True

    def problems(self) -> tuple[list[Problem], list[list[Problem]]]:
        """PROMPTS problems, and LEARN batches of others to learn from before."""
        task = load_task(self.task, **self.settings)
        measured = task.sample(PROMPTS, seed=0)
        return measured, [task.sample(LEARN_PROMPTS, seed=1000 + batch, exclude=measured) for batch in range(LEARN)]


_SHOTS = dict(shots=4, wording="line", tokens=8, by_token=("prefix_weighted",), adam=False)
SETTINGS = {
    "thinker-sums": Setting("thinker", "chain_sum", dict(min_terms=3, max_terms=4)),
    "thinker-mixture": Setting("thinker", TINY_TASKS, by_token=BY_TOKEN),
    "thinker-digits": Setting("thinker", "chain_sum", dict(max_terms=3, max_digits=1)),
    "thinker-spelling": Setting("thinker", "spell_backward", dict(max_word_len=4)),
    "smollm2-digits": Setting("smollm2-135m", "chain_sum", dict(max_terms=3, max_digits=1), layer=15, **_SHOTS),
    "gemma3-digits": Setting(
        "gemma3-270m", "chain_sum", dict(max_terms=3, max_digits=1), layer=9, embeddings=False, **_SHOTS
    ),
}


# --- made ------------------------------------------------------------------------------------------


def missing(out: Path) -> dict[str, float]:
    """The settings that lack a piece; what one takes depends on the policy."""
    return {name: float("nan") for name in SETTINGS if any(not path.is_file() for path, _, _ in _asked(out, name))}


def pieces(out: Path, name: str, kind: str = "piece") -> list[Path]:
    """The files of a setting that are there, of the scores or ("adam") of the scores as Adam scales them."""
    return sorted((out / name).glob(f"{kind}-*.safetensors"))


def _asked(out: Path, name: str) -> list[tuple[Path, int, bool]]:
    """The files of a setting, in the order in which they are made: where each begins, and whether it is Adam's."""
    return [
        (out / name / f"{'adam' if adam else 'piece'}-{start:04d}.safetensors", start, adam)
        for adam in ((False, True) if SETTINGS[name].adam else (False,))
        for start in range(0, PROMPTS, PIECE)
    ]


def record(out: Path, log: Callable[[str], None] = print) -> None:
    """Make the pieces that are missing, setting by setting."""
    for name, one in SETTINGS.items():
        for path, start, adam in _asked(out, name):
            if not path.is_file():
                sizes = {"prompts": PROMPTS, "responses": RESPONSES, "fresh": FRESH}
                config = {"setting": dataclasses.asdict(one), **sizes}
                if not (about := out / name / "config.json").is_file():
                    write_json(about, {"command": "poise-lab study when", **config, "provenance": provenance()})
                found = scaled(name, start, load_file(out / name / f"piece-{start:04d}.safetensors")) if adam else None
                write_arrays(path, found or measured(name, start))
                log(f"{name}{', as Adam scales it' if adam else ''}: {start + PIECE} of {PROMPTS} problems")


@functools.lru_cache(maxsize=1)
def _loaded(name: str, shots: int, wording: str | None, embeddings: bool) -> Policy:
    policy = load_policy(name, shots=shots, wording=wording, dtype=torch.float32)
    policy.model.get_input_embeddings().requires_grad_(embeddings)
    return policy


def _sampled(policy: Policy, one: Setting, problems, responses: int, seed: int):
    """Rollouts with their internals."""
    keep = (one.layer, 4)
    rollouts = sample_rollouts(policy, problems, responses, seed=seed, max_new_tokens=one.tokens, keep=keep)
    return rollouts, rollouts.internals or read_internals(policy, rollouts, *keep)


@functools.cache
def _learned(name: str) -> dict[str, Baseline]:
    """The baselines after LEARN batches, each with the policy that it reads."""
    one = SETTINGS[name]
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    baselines = {key: make_baseline(key) for key in (*LEARNED, *one.by_token)}
    for baseline in baselines.values():
        baseline.start(policy)
    for seed, batch in enumerate(one.problems()[1]):
        step = _sampled(policy, one, batch, 2, seed)
        for baseline in baselines.values():
            baseline.update(*step)
    return baselines


def measured(name: str, start: int) -> dict[str, np.ndarray]:
    """The arrays of PIECE problems, M responses to each; `advantages/NAME` (P, M) as each baseline has them.

    rewards, lengths, logprobs: (P, M). fresh: (P, 2) mean reward of the fresh responses, plain and weighted by
    their surprise. within (P, M, M) and kept (P, M, WIDTH): see `Scores`; `NAME/within` and `NAME/kept` those of a token-level
    baseline, whose advantages are in them.
    """
    one, baselines = SETTINGS[name], _learned(name)
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    problems = one.problems()[0][start : start + PIECE]
    rollouts, internals = _sampled(policy, one, problems, RESPONSES, 0)
    fresh, of_fresh = _sampled(policy, one, problems, FRESH, 1)
    weights = surprise(fresh, of_fresh)
    scores = {"": read_scores(policy, rollouts, width=WIDTH)}
    for key in one.by_token:
        scores[f"{key}/"] = read_scores(policy, rollouts, baselines[key].advantages(rollouts, internals), width=WIDTH)
    found = {
        "rewards": rollouts.rewards, "lengths": rollouts.lengths, "logprobs": (rollouts.logprobs * rollouts.mask).sum(-1),
        "fresh": torch.stack([fresh.rewards.mean(1), (weights * fresh.rewards).sum(1) / weights.sum(1)], 1),
        **{f"{key}within": each.within for key, each in scores.items()},
        **{f"{key}kept": each.kept for key, each in scores.items()},
        **{f"advantages/{key}": group_advantages(baselines[key], rollouts, internals, m) for key, m in LEARNED.items()},
    }  # fmt: skip
    small = {"lengths": torch.int16} | {key: torch.float16 for key in found if key.endswith("kept")}
    return {key: x.detach().to(small.get(key, torch.float32)).numpy() for key, x in found.items()}


@functools.cache
def _adam(name: str) -> dict[str, torch.Tensor]:
    """Adam's scale in a setting: from the measured problems in mini-batches, with the advantages of `batch_mean`."""
    one = SETTINGS[name]
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    rollouts, _ = _sampled(policy, one, one.problems()[0], RESPONSES, 0)
    return adam_scale(policy, rollouts, rollouts.rewards - mean_of_all_others(rollouts.rewards))


def scaled(name: str, start: int, piece: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The scores of a piece's responses as Adam scales them, in units of ADAM_UNIT: `adam/within`, `adam/kept`, and
    `adam/prefix_weighted/...`, as in `measured`, in half precision.

    Raises PoiseLabError where this machine samples other responses than the piece has.
    """
    one, baselines, scale = SETTINGS[name], _learned(name), _adam(name)
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    rollouts, internals = _sampled(policy, one, one.problems()[0][start : start + PIECE], RESPONSES, 0)
    if not (torch.equal(rollouts.rewards, piece["rewards"]) and torch.equal(rollouts.lengths, piece["lengths"].long())):
        raise PoiseLabError(
            f"the responses of setting {name} come out otherwise here than where it was recorded; remove its folder, and "
            "it is made anew"
        )
    scores = {"": read_scores(policy, rollouts, scale=scale, width=WIDTH)}
    if (key := "prefix_weighted") in one.by_token:
        weights = baselines[key].advantages(rollouts, internals)
        scores[f"{key}/"] = read_scores(policy, rollouts, weights, scale=scale, width=WIDTH)
    found = {f"adam/{key}within": each.within / ADAM_UNIT**2 for key, each in scores.items()}
    found |= {f"adam/{key}kept": each.kept / ADAM_UNIT for key, each in scores.items()}
    return {key: x.detach().to(torch.float16).numpy() for key, x in found.items()}


# --- read ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Measured:
    """All pieces of a setting, as one. Its figures are ratios to no baseline, (value, low, high) over prompts."""

    name: str
    arrays: dict[str, torch.Tensor]

    @property
    def squares(self) -> torch.Tensor:
        """(P, M) squared length of each score."""
        return torch.diagonal(self.arrays["within"], dim1=1, dim2=2)

    @functools.cached_property
    def counts(self) -> np.ndarray:
        return resamples(len(self.arrays["rewards"]), draws=DRAWS)

    def baselines(self) -> dict[str, tuple[torch.Tensor, int]]:
        """Each baseline's advantages (P, M), and the responses of a group in which they were made."""
        r, fresh = self.arrays["rewards"], self.arrays["fresh"]
        learned = {f"{key} x{m}": (self.arrays[f"advantages/{key}"], m) for key, m in LEARNED.items()}
        return {
            "none x1": (r, 1), "batch_mean x1": (r - mean_of_all_others(r), 1), "V(x) x1": (r - fresh[:, :1], 1),
            "b*(x) x1": (r - fresh[:, 1:], 1), "rloo x2": (r - from_siblings(r, 2), 2), "rloo x4": (r - from_siblings(r, 4), 4),
            **learned,
        }  # fmt: skip

    def noise(self, aggregation: str = "sum", only: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Variance of the gradient for equal numbers of responses, (1 + draws,) by baseline, over that of no baseline.

        aggregation: "sum" over a response's tokens; "token_mean", which divides by all tokens of a batch (to first order in
        their number's deviation from its mean); "sequence_mean", which divides by the response's own; "adam", the sum as
        Adam scales it, where that was measured. only: baselines, by default all.
        """
        a, under = self.arrays, "adam/" if aggregation == "adam" else ""
        scores, lengths = Scores(a[f"{under}within"], a[f"{under}kept"]), a["lengths"].double()
        found = {}
        for label, (advantages, m) in self.baselines().items():
            if not only or label in ("none x1", *only):
                found[label] = self._trace(scores, advantages.double(), m, aggregation, lengths)
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
        """Noise of one baseline over another's, paired by prompt; its interval holds for all PAIRS and SETTINGS at once (Bonferroni)."""
        return interval(self.sums[label] / self.sums[other], 1 - 0.05 / (len(PAIRS) * len(SETTINGS)))

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
            "prompts": len(r), "accuracy": _plain(float(r.mean())), "spread of V(x)": _plain(value_spread(r)),
            "squared score, right": interval(right), "wrong": interval(wrong), "wrong over right": ratio,
        }  # fmt: skip

    def by_value(self, edge: float = 0.5) -> dict[str, float]:
        """Mean squared score of right and of wrong responses, to prompts whose V(x) lies below the edge (hard) or not (easy)."""
        right, hard = self.arrays["rewards"].bool(), self.arrays["fresh"][:, :1] < edge
        return {
            f"{word}, {kind}": float(self.squares[of & prompts].mean())
            for word, of in (("right", right), ("wrong", ~right))
            for kind, prompts in (("hard", hard), ("easy", ~hard))
        }

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


def read(out: Path) -> dict[str, Measured]:
    """The settings of which there is a piece."""
    found = {}
    for name in SETTINGS:
        if paths := pieces(out, name):
            arrays = {}
            for parts in ([load_file(path) for path in some] for some in (paths, pieces(out, name, "adam")) if some):
                arrays |= {key: torch.cat([part[key] for part in parts]).float() for key in parts[0]}  # half overflows
            found[name] = Measured(name, arrays)
    return found


def verdict(ratio: tuple[float, float, float]) -> str:
    """What the interval of a ratio of noises says."""
    _, low, high = ratio
    return "more" if low > 1 else "less" if high < 1 else "not decided"


def _plain(value: float | None) -> tuple[float, float, float]:
    """A number without an interval, for a table; None is none."""
    return (float("nan") if value is None else value, float("nan"), float("nan"))


def says(out: Path) -> str:
    """Tables: of each setting's facts, of pairs of baselines with their verdicts, and of every baseline's noise there."""
    found = read(out)
    said = [format_table([
        {"setting": name, **one.facts(), "top 1 % of none": _plain(one.top_share("none x1")),
         "top 1 % of V(x)": _plain(one.top_share("V(x) x1"))} for name, one in found.items()
    ])]  # fmt: skip
    squares = [
        {"squared score": name, **one.by_value()}
        | {f"{what}, quarter {n + 1}": mean for what in ("logprobs", "lengths") for n, (_, mean, _) in enumerate(one.by(what))}
        for name, one in found.items()
    ]  # fmt: skip
    said.append(
        format_table([{key: x if key == "squared score" else _plain(x) for key, x in row.items()} for row in squares])
    )
    for label, other in PAIRS:
        ratios = {name: one.against(label, other) for name, one in found.items()}
        rows = [{"setting": name, f"{label} over {other}": r, "noise": verdict(r)} for name, r in ratios.items()]
        said.append(format_table(rows))
    for name, one in found.items():
        kinds = {kind: one.sums if kind == "sum" else one.noise(kind) for kind in one.kinds}
        proxies, predicted = one.proxies(), one.predicted()
        rows = [
            {"baseline": label, **{kind: interval(noise[label]) for kind, noise in kinds.items()},
             "formula": _plain(predicted.get(label)), "1 - Var(A)/Var(R)": _plain(proxies.get(label))}
            for label in kinds["sum"]
        ]  # fmt: skip
        said.append(f"{name}\n\n{format_table(rows)}")
    return "\n\n".join(said)
