"""What the recorded runs of the bundled policy say, which learns to think."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..runs import RunRecord, by_label, compare, format_table
from ..stats import mean_interval
from . import trained

# column: the figure of an evaluation that it shows
COLUMNS = {
    "greedy accuracy": "greedy_accuracy",
    "sampled accuracy": "accuracy",
    "pass@16": "pass_at_16",
    "tokens a response": "held_out_length",
    "at once": "share_at_once",
    "in leaps": "share_in_leaps",
    "step by step": "share_step_by_step",
}

METHODS = ("poise x2", "rloo x2")  # that see rewards


def gains(runs: Sequence[RunRecord], metric: str) -> list[float]:
    """Last evaluation minus first, of each run."""
    return [values[-1] - values[0] for values in (run.series(metric)[1] for run in runs)]


def change(runs: Sequence[RunRecord], metric: str) -> str:
    """Mean over the runs at the first evaluation and at the last, and the 95 % t interval of the difference."""
    first, last = (mean_interval([run.series(metric)[1][i] for run in runs])[0] for i in (0, -1))
    mean, low, high = mean_interval(gains(runs, metric))
    digits = 1 if metric == "held_out_length" else 3
    said = f"{first:.{digits}f} to {last:.{digits}f}"
    return f"{said}, {mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]" if len(runs) > 1 else said


def tables(out: Path) -> str:
    """How each figure changed, a row for each method and control over its seeds; then the two methods by their advantages."""
    groups: dict[str, list[RunRecord]] = by_label(trained.read(out, trained.RUNS))
    rows = [
        {"run": label, "seeds": len(runs)} | {name: change(runs, metric) for name, metric in COLUMNS.items()}
        for label, runs in groups.items()
    ]
    methods = [run for label in METHODS for run in groups[label]]
    return f"{format_table(rows)}\n\n{format_table(compare(methods))}"
