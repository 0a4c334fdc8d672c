"""What the showdown's runs say: accuracies at equal budget, verdicts of pairs, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import stats
from ..runs import RunRecord, by_label, format_table
from ..show.plots import lines
from ..show.report_parts import pair_matrix
from ..stats import Drawn, drawn_interval, mean_interval, p_value, verdict
from .showdown import LEARNING_RATES

QUOTED = ("method", "seeds", "learning rate", "accuracy at equal tokens", "at equal seconds", "milliseconds per token")
WORDS = {"better": "better than", "worse": "worse than", "inconclusive": "inconclusive against"}
ON_VERDICTS = ("constant x1", "score_weighted x2", "none x1", "poise x2")


def spent(run: RunRecord, budget: str) -> tuple[np.ndarray, np.ndarray]:
    """What a run had spent on training at each evaluation, and its held-out accuracy there.

    budget: "tokens" (sampled), or "seconds": those tokens at the median price of the method (`prices`).
    """
    tokens, accuracy = run.accuracy_by_tokens()
    rate = 1.0 if budget == "tokens" else float(np.median(run.config["seconds_per_token"]))
    return rate * np.array(tokens), np.array(accuracy)


def accuracy_at(run: RunRecord, budget: str, amount: float) -> float:
    """Held-out accuracy when so much was spent, linear between evaluations; NaN past what the run spent."""
    return float(np.interp(amount, *spent(run, budget), right=np.nan))


def curve(runs: Sequence[RunRecord], budget: str, amounts: Sequence[float]) -> list[tuple[float, float, float]]:
    """Held-out accuracy after each amount spent: (mean, low, high) over the runs."""
    return [mean_interval([accuracy_at(run, budget, amount) for run in runs]) for amount in amounts]


def spent_to(run: RunRecord, budget: str, target: float) -> float:
    """What it took to reach a held-out accuracy for the first time, linear between evaluations; NaN if never.

    Before training it counts as reached only if it still is at the next evaluation.
    """
    x, accuracy = spent(run, budget)
    for i in range(1, len(x)):
        if accuracy[i] >= target:
            low, high = min(accuracy[i - 1], target), accuracy[i]
            return float(x[i - 1] + (x[i] - x[i - 1]) * (target - low) / (high - low or 1.0))
    return float("nan")


def equal_budget(runs: Sequence[RunRecord], budget: str) -> float:
    """The most that every run has spent: where methods are compared."""
    return min(float(spent(run, budget)[0][-1]) for run in runs)


def price_draws(runs: Sequence[RunRecord], budget: str, draws: int = 200, seed: int = 0) -> dict[str, Drawn]:
    """What a token costs each method (by label): as measured, and from rounds drawn with replacement.

    The same rounds for all methods, whose steps of a round were neighbours. A price is the median over rounds; for
    the budget "tokens" it is 1.
    """
    groups = by_label(runs)
    if budget == "tokens":
        return {label: Drawn(np.ones(()), np.empty(0)) for label in groups}
    rounds = {label: np.array(group[0].config["seconds_per_token"]) for label, group in groups.items()}
    n = min(map(len, rounds.values()))
    drawn = np.random.default_rng(seed).integers(n, size=(draws, n))
    return {label: Drawn(np.median(each[:n]), np.median(each[drawn], 1)) for label, each in rounds.items()}


def accuracies(runs: Sequence[RunRecord], budget: str) -> dict[str, Drawn]:
    """Held-out accuracy of each method's seeds (by label) at equal budget, with the draws of the prices."""
    price = price_draws(runs, budget)
    curves_of = {label: [spent(run, "tokens") for run in group] for label, group in by_label(runs).items()}
    ends = [price[label].times(np.array([t[-1] for t, _ in curves])) for label, curves in curves_of.items()]
    equal = Drawn(np.min([end.measured.min() for end in ends]), np.min([end.draws.min(1) for end in ends], 0))
    found = {}
    for label, curves in curves_of.items():
        tokens = equal / price[label]
        measured = [np.interp(tokens.measured, *curve) for curve in curves]
        found[label] = Drawn(np.array(measured), np.stack([np.interp(tokens.draws, *curve) for curve in curves], 1))
    return found


def summary(runs: Sequence[RunRecord], target: float = 0.7) -> list[dict]:
    """One row per method, numbers as (mean, low, high) over seeds, best accuracy at equal tokens first.

    Equal tokens (seconds) are those of `equal_budget`. A learning rate that is the smallest or largest of the
    search is marked: a better one may lie beyond.
    """
    at_tokens, at_seconds, price = accuracies(runs, "tokens"), accuracies(runs, "seconds"), price_draws(runs, "seconds")
    columns: dict[str, Callable[[RunRecord], float]] = {
        "entropy at end": lambda run: run.series("entropy")[1][-1],
        "gradient norm": lambda run: run.mean("gradient_norm"),
        "1 - Var(A)/Var(R)": lambda run: run.mean("variance_reduction"),
        "peak memory, MB": lambda run: run.metrics[-1]["peak_memory_mb"],
    }
    rows = []
    for label, group in by_label(runs).items():
        tokens = np.array([spent_to(run, "tokens", target) for run in group])
        rate = group[0].config["train"]["learning_rate"]
        edge = ", edge" if rate in (min(LEARNING_RATES), max(LEARNING_RATES)) else ""
        rows.append(
            {
                "method": label,
                "seeds": len(group),
                "learning rate": f"{rate:g}{edge}",
                "accuracy at equal tokens": drawn_interval(at_tokens[label]),
                "at equal seconds": drawn_interval(at_seconds[label]),
                f"tokens to {target:g}": mean_interval(tokens),
                f"seconds to {target:g}": drawn_interval(price[label].times(tokens)),
                **{name: mean_interval([column(run) for run in group]) for name, column in columns.items()},
                "milliseconds per token": price_interval(price[label]),
            }
        )
    return sorted(rows, key=lambda row: -row["accuracy at equal tokens"][0])


def price_interval(price: Drawn) -> tuple[float, float, float]:
    """(median, low, high) in milliseconds of one method's `price_draws`."""
    low, high = np.quantile(price.draws, [0.025, 0.975])
    return 1000 * float(price.measured), 1000 * float(low), 1000 * float(high)


def ratio_to(runs: Sequence[RunRecord], a: str, b: str, budget: str, target: float) -> tuple[tuple, int]:
    """What a spends over what b spends to first reach a held-out accuracy, and how many seeds reach it with both.

    The ratio is (mean, low, high) over these seeds; for seconds its interval has the prices' spread in it.
    """
    price, groups = price_draws(runs, budget), by_label(runs)
    tokens = np.array([[spent_to(run, "tokens", target) for run in groups[label]] for label in (a, b)])
    tokens = tokens[:, np.isfinite(tokens).all(0)]
    return drawn_interval((price[a] / price[b]).times(tokens[0] / tokens[1])), tokens.shape[1]


def verdicts(
    runs: Sequence[RunRecord], budget: str = "tokens", short: dict[str, RunRecord] | None = None
) -> dict[tuple[str, str], tuple]:
    """The verdict of each ordered pair of methods on accuracy at equal budget, from paired seeds.

    At equal seconds the interval of a difference holds the spread of the prices too.

    short: runs by a name, one each, that ended before the equal budget. They are compared where they ended, with
        the run of their seed; one pair is no interval, so the verdict is inconclusive.
    """
    accuracy = accuracies(runs, budget)
    found = {(a, b): verdict(accuracy[a], accuracy[b]) for a in accuracy for b in accuracy if a != b}
    for name, run in (short or {}).items():
        amount = spent(run, budget)[0][-1]
        for label, group in by_label(runs).items():
            (same,) = (other for other in group if other.seed == run.seed)
            mine, theirs = ([accuracy_at(each, budget, amount)] for each in (run, same))
            found[name, label], found[label, name] = verdict(mine, theirs), verdict(theirs, mine)
    return found


def surviving(runs: Sequence[RunRecord], budget: str = "tokens") -> dict[tuple[str, str], str]:
    """The pairs, in either order, whose verdict survives Holm's correction for the number of pairs compared."""
    found, seeds = verdicts(runs, budget), min(map(len, by_label(runs).values()))
    kept = stats.surviving({(a, b): p_value(found[a, b][1], seeds) for a, b in found if a < b})
    return {pair: found[pair][0] for a, b in kept for pair in ((a, b), (b, a))}


def figures(runs: Sequence[RunRecord]) -> list[tuple]:
    """Learning curves against tokens and seconds, (figure, caption) each; a report has the verdicts itself."""
    found, groups = [], by_label(runs)
    for budget in ("tokens", "seconds"):
        amounts = amounts_to(equal_budget(runs, budget))
        curves = {label: curve(group, budget, amounts) for label, group in groups.items()}
        title, axis = f"Held-out accuracy at equal {budget}", f"{budget} spent on training"
        found.append((lines(amounts, curves, title, axis, "accuracy (share of responses)", height=600),
                      "Mean over seeds with 95 % bands; choose methods in the legend."))  # fmt: skip
    return found


def amounts_to(top: float, n: int = 9) -> list[float]:
    """n amounts from 0 to top, rounded down so that none lies above it."""
    return (np.floor(np.linspace(0, top, n) * 10) / 10).tolist()


def verdict_matrix(runs: Sequence[RunRecord], names: Sequence[str], short: dict[str, RunRecord] | None = None):
    """Figure of all pairs: mean paired difference in accuracy at equal tokens, row minus column, and verdicts that survive.

    short: as for `verdicts`; their names come last.
    """
    names, kept = [*names, *(short or {})], surviving(runs)
    found = {pair: (kept.get(pair, "inconclusive"), gap) for pair, (_, gap) in verdicts(runs, short=short).items()}
    title, axes = "Accuracy at equal tokens, row minus column", ("method (column)", "method (row)")
    return pair_matrix(found, names, title, *axes, "difference<br>(share)", height=620)


def pairs(runs: Sequence[RunRecord]) -> str:
    """The verdict of each pair of methods at equal tokens, one in a line."""
    return "\n".join(
        f"{a} against {b}: {word}, {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        for (a, b), (word, (mean, low, high)) in verdicts(runs).items()
        if a < b
    )


def quote(runs: Sequence[RunRecord]) -> str:
    """The table of notebooks/RESULTS.md and its list of verdicts, in Markdown."""
    rows = summary(runs)
    names, lines_ = [row["method"] for row in rows], []
    for budget, methods in (("tokens", ON_VERDICTS), ("seconds", ("poise x2",))):
        found = verdicts(runs, budget)
        for name in methods:
            of = {word: [b for b in names if b != name and found[name, b][0] == word] for word in WORDS}
            parts = [f"{WORDS[word]} {', '.join(others)}" for word, others in of.items() if others]
            lines_.append(f"- `{name}` at equal {budget}: {'; '.join(parts)}.")
    return "\n".join([format_table([{k: row[k] for k in QUOTED} for row in rows]), "", *lines_])
