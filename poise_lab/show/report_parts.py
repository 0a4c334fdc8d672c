"""The parts of a report: curves whose x and smoothing can be chosen, verdicts of pairs, and what settings differ in."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from ..runs import SETTINGS, RunRecord, flat
from ..stats import p_value, surviving, verdict
from .curves import METRICS, measured
from .looks import COLORS, line_styles
from .plots import add_line, figure, matrix, rounded
from .words import Figure

AXES = ("step", "tokens", "seconds")
WINDOWS = (1, 5, 20)  # steps that a curve may be smoothed over
# what is alike in runs that may be compared, beside what the task is told
ALIKE = ("policy", "task", "train.eval_prompts", "train.eval_responses", "train.max_new_tokens")

CAPTIONS = {
    "accuracy": "Mean reward of fresh responses to held-out problems, which no step trains on.",
    "greedy_accuracy": "Share of held-out problems that the most probable response solves.",
    "pass_at_16": "Share of held-out problems that at least one of 16 sampled responses solves.",
    "reward": "Mean reward of the responses that each step learns from (DAPO throws groups that agree away).",
    "variance_reduction": "How much smaller the variance of the advantages is than that of the rewards; "
    "a grey dotted line is what leave-one-out (RLOO) would have given on the same rewards.",
    "probe_r_fresh": "The probe reads one response to a held-out problem; V(x) is the mean reward of others.",
    "probe_mae_fresh": "The same predictions, mean absolute error.",
    "probe_r_partner": "Before its refit, on the step's new responses, against single rewards.",
    "probe_mae_partner": "The same predictions, mean absolute error.",
    "entropy": "Mean over the sampled tokens.",
    "gradient_norm": "Mean over the mini-batches of a step.",
    "clip_fraction": "Share of tokens whose gradient the clipped surrogate stops.",
    "response_length": "Mean over the responses of each step.",
    "held_out_length": "Mean over the sampled responses to held-out problems.",
    "tokens": "Sampled for training; evaluations are not counted.",
    "peak_memory_mb": "Largest resident memory of the process so far.",
}


def more_metrics(runs: Sequence[RunRecord], prefix: str) -> list[str]:
    """The metrics of runs whose names begin so: those of each task, or of each way of working."""
    return sorted({name for run in runs for metrics in run.metrics for name in metrics if name.startswith(prefix)})


def chart(groups: dict[str, Sequence[RunRecord]], metric: str) -> tuple[Figure, str]:
    """One metric of each setting, every choice of x and smoothing in `meta` of its traces; and what it is, in words.

    groups: of `by_label`. A setting whose runs do not have the metric has no trace.
    """
    told = re.fullmatch(r"(accuracy|share)_(.*)", metric)
    if metric in METRICS:
        (title, unit), caption = METRICS[metric], CAPTIONS[metric]
    elif told and told[1] == "accuracy":
        title, unit, caption = told[2], "accuracy (share of responses)", "Held-out problems of this task."
    else:
        title, unit, caption = told[2].replace("_", " "), "share of held-out responses", "Read from the texts."
    height = 420 if metric == "accuracy" else 300
    fig = figure(title, "step", unit, height, showlegend=False, hovermode="closest")
    fig.update_layout(margin=dict(l=60, r=10, t=40, b=45))
    styles = line_styles(len(groups))
    for setting, ((label, group), style) in enumerate(zip(groups.items(), styles, strict=True)):
        _trace(fig, setting, label, group, metric, style, band=len(group) > 1)
        if metric == "variance_reduction" and label.startswith("poise"):
            grey = dict(color=COLORS[7])
            _trace(fig, setting, f"RLOO on the same rewards ({label})", group, f"{metric}_rloo", grey, band=False)
    return fig, caption


def _trace(
    fig: Figure, setting: int, name: str, group: Sequence[RunRecord], metric: str, style: dict, band: bool
) -> None:
    steps, _ = measured(group, metric)
    if not steps:
        return
    at = [{m["step"]: m for m in run.metrics} for run in group]
    x = {axis: rounded([np.mean([by[step][axis] for by in at]) for step in steps], 1) for axis in AXES}
    points = {str(window): measured(group, metric, window)[1].T for window in WINDOWS}
    mean, low, high = points["1"]
    add_line(fig, steps, mean, name, **style, **(dict(low=low, high=high) if band else {}))
    fig.data[-1].meta = {"setting": setting, "x": x, "y": {k: rounded(p[0]) for k, p in points.items()}}
    if band:
        around = {k: rounded([*p[2], *p[1][::-1]]) for k, p in points.items()}
        fig.data[-2].meta = {"setting": setting, "band": True, "x": {k: v + v[::-1] for k, v in x.items()}, "y": around}


def paired(groups: dict[str, Sequence[RunRecord]]) -> tuple[float, dict[tuple[str, str], tuple]]:
    """The most tokens after which every run was evaluated, and of each pair of settings its verdict on accuracy there.

    Pairs are made of runs with the same seed; settings whose problems or policies are others are not compared, nor are
    those without two seeds in common. Accuracy is linear between evaluations. A verdict is as of `stats.verdict`, but
    inconclusive where it does not survive Holm's correction for the number of pairs.
    """
    curves = {label: {run.seed: run.accuracy_by("tokens") for run in group} for label, group in groups.items()}
    curves = {label: {seed: curve for seed, curve in each.items() if curve[0]} for label, each in curves.items()}
    tokens = min((curve[0][-1] for each in curves.values() for curve in each.values()), default=0)
    at = {
        label: {seed: float(np.interp(tokens, *curve)) for seed, curve in each.items()}
        for label, each in curves.items()
    }
    alone, p_values = {}, {}
    for a, b in itertools.combinations(groups, 2):
        both = [(value, at[b][seed]) for seed, value in at[a].items() if seed in at[b]]
        if len(both) > 1 and _asked_alike(groups[a][0], groups[b][0]):
            alone[a, b] = verdict(*zip(*both, strict=True))
            p_values[a, b] = p_value(alone[a, b][1], len(both))
    kept, found = surviving(p_values), {}
    for (a, b), (word, (mean, low, high)) in alone.items():
        word = word if (a, b) in kept else "inconclusive"
        found[a, b] = word, (mean, low, high)
        found[b, a] = {"better": "worse", "worse": "better"}.get(word, word), (-mean, -high, -low)
    return tokens, found


def _asked_alike(a: RunRecord, b: RunRecord) -> bool:
    ours, theirs = flat(a.config), flat(b.config)
    told = [name for name in ours.keys() | theirs.keys() if name in ALIKE or name.startswith("task_settings.")]
    return all(ours.get(name) == theirs.get(name) for name in told)


def pair_matrix(found: dict[tuple[str, str], tuple], names: Sequence[str], *texts: str, height: int) -> Figure:
    """All pairs at once: b where the row is better than the column, w where it is worse, else the sign of the difference.

    texts: title, horizontal and vertical axis, and the unit of the difference.
    """
    grid = [[found[a, b][1][0] if (a, b) in found else 0.0 for b in names] for a in names]
    letter = {"better": "b", "worse": "w"}

    def said(pair) -> str:
        word, (gap, *_) = found[pair]
        return letter.get(word) or ("+" if gap > 0 else "\N{MINUS SIGN}" if gap < 0 else "")

    text = [[said((a, b)) if (a, b) in found else "" for b in names] for a in names]
    title, across, down, unit = texts
    fig = matrix(grid, names, title, across, down, text, unit, height=height)
    small = dict(size=12)
    return fig.update_traces(textfont=small).update_xaxes(dtick=1, tickfont=small).update_yaxes(dtick=1, tickfont=small)


def settings_told(groups: dict[str, Sequence[RunRecord]]) -> tuple[dict, dict[str, str]]:
    """What all settings have in common, as one dict of their configs; and for each setting what it has of its own."""
    configs = [flat({k: v for k, v in group[0].config.items() if k in SETTINGS}) for group in groups.values()]
    every = [flat(run.config) for group in groups.values() for run in group]
    common = {k: v for k, v in every[0].items() if all(k in config and config[k] == v for config in every)}
    own = {
        label: ", ".join(f"{k.removeprefix('train.').removeprefix('baseline.')}: {v}" for k, v in config.items() if k not in common and k != "train.seed")
        for label, config in zip(groups, configs, strict=True)
    }  # fmt: skip
    return common, own
