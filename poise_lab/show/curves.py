"""Figures of runs: their metrics over the steps, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ..runs import RunRecord, by_label
from ..stats import mean_interval
from ..tasks.strategies import STRATEGIES
from .looks import COLORS, line_styles
from .plots import add_line, figure, rounded
from .words import Figure

# metric: (title, axis title with unit)
METRICS = {
    "accuracy": ("Held-out accuracy", "accuracy (share of responses)"),
    "greedy_accuracy": ("Held-out accuracy, greedy", "accuracy (share of problems)"),
    "pass_at_16": ("Held-out problems solved in 16 tries", "pass@16 (share of problems)"),
    "held_out_length": ("Length of held-out responses", "tokens"),
    "reward": ("Training reward", "mean reward"),
    "variance_reduction": ("Variance reduction of the advantages", "1 - Var(A) / Var(R)"),
    "probe_r_fresh": ("Value probe against V(x), held-out prompts", "Pearson r"),
    "probe_mae_fresh": ("Value probe against V(x), held-out prompts", "mean absolute error (reward)"),
    "probe_r_partner": ("Value probe against the partner's reward", "Pearson r"),
    "probe_mae_partner": ("Value probe against the partner's reward", "mean absolute error (reward)"),
    "entropy": ("Token entropy of the policy", "entropy (nats)"),
    "gradient_norm": ("Gradient norm", "L2 norm before clipping"),
    "clip_fraction": ("Clipped tokens", "share of tokens"),
    "response_length": ("Response length", "tokens"),
    "tokens": ("Sampled tokens", "tokens so far"),
    "peak_memory_mb": ("Peak memory", "MB"),
}


def measured(group: Sequence[RunRecord], metric: str, window: int = 1) -> tuple[list[int], np.ndarray]:
    """The steps at which all runs of a setting have a metric, and its mean and 95 % interval over them, (N, 3).

    window: each run's value at a step is its mean over so many steps up to that one, where it was measured.
    """
    by_step: dict[int, list[float]] = {}
    for run in group:
        steps, values = (np.array(column) for column in run.series(metric))
        for step in steps:
            last = values[(steps > step - window) & (steps <= step)]
            by_step.setdefault(int(step), []).append(float(last.mean()))
    steps = [step for step in sorted(by_step) if len(by_step[step]) == len(group)]
    return steps, np.array([mean_interval(by_step[step]) for step in steps]).reshape(-1, 3)


def run_curves(runs: Sequence[RunRecord], metric: str, beside: bool = True) -> Figure:
    """One metric over the steps of runs; runs that differ in their seed only become a mean with a 95 % band.

    beside: show with POISE's variance reduction that of RLOO on the same rewards; without, all metrics have as many lines.
    """
    title, unit = METRICS[metric]
    groups = by_label(runs)
    fig = figure(title, "step", unit)
    for (label, group), style in zip(groups.items(), line_styles(len(groups)), strict=True):
        steps, points = measured(group, metric)
        if not steps:
            continue
        name = f"{label}, {len(group)} seeds" if len(group) > 1 else f"{label}, seed {group[0].seed}"
        _add(fig, steps, points, name, len(group), **style)
        if beside and metric == "variance_reduction" and label.startswith("poise"):
            common, points = measured(group, "variance_reduction_rloo")
            add_line(fig, common, points[:, 0], f"RLOO on the same rewards ({label})", COLORS[7])
    return fig


def _add(fig: Figure, steps: Sequence[int], points: np.ndarray, name: str, seeds: int, **style) -> None:
    """A line, with its band where there are seeds to make one."""
    mean, low, high = points.T
    add_line(fig, steps, mean, name, **style, **(dict(low=low, high=high) if seeds > 1 else {}))


def ways_of_working(runs: Sequence[RunRecord]) -> Figure:
    """Share of each strategy among the held-out responses over the steps, mean over the runs with a 95 % band."""
    fig = figure("Ways of working", "step", "share of held-out responses")
    for name, style in zip(STRATEGIES, line_styles(len(STRATEGIES)), strict=True):
        steps, points = measured(runs, f"share_{name.replace(' ', '_')}")
        if steps:
            _add(fig, steps, points, name, len(runs), **style)
    return fig


PARTS = ("sample", "internals", "baseline", "update", "evaluate")  # of a step, whose seconds a Trainer measures


def seconds_by_part(runs: Sequence[RunRecord]) -> Figure:
    """Where the time of a step goes, mean over steps, one bar per setting (mean over its seeds).

    Runs without seconds of parts, as on TRL, are left out; without any that has them the figure is empty.
    """
    timed = {label: [run for run in group if any(map(_timed, run.metrics))] for label, group in by_label(runs).items()}
    groups = {label: group for label, group in timed.items() if group}
    height = max(380, 200 + 28 * len(groups))
    fig = figure("Where the time goes", "seconds per step", "setting", height, barmode="stack", hovermode="closest")
    for part, color in zip(PARTS if groups else (), COLORS, strict=False):
        seconds = [np.mean([_seconds(run, part) for run in group]) for group in groups.values()]
        fig.add_trace(go.Bar(y=list(groups), x=rounded(seconds, 3), name=part, orientation="h", marker_color=color))
    return fig


def _timed(metrics: dict) -> bool:
    """Whether a step has seconds of its parts."""
    return any(f"seconds_{part}" in metrics for part in PARTS)


def _seconds(run: RunRecord, part: str) -> float:
    """Mean seconds of a part over the steps that are kept, which may be those alone that were evaluated (`arena.slim`).

    All evaluations are kept: their time is spread over all steps that the run has done.
    """
    steps = run.metrics[-1]["step"] if part == "evaluate" else sum(_timed(step) for step in run.metrics)
    return sum(run.series(f"seconds_{part}")[1]) / steps
