"""The problems that all lessons come back to, and figures that belong to one lesson: what it computes, drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..baselines.base import Baseline
from ..generate import sample_rollouts
from ..internals import read_internals
from ..objective import clipped_surrogate
from ..policies import Policy
from ..tasks import TINY_TASKS, Problem, load_task
from .looks import COLORS, line_styles
from .plots import add_line, figure, rounded
from .tokens import ShownPrompt, read_tokens
from .words import Figure


def three_problems() -> list[Problem]:
    """One problem of each task that the bundled policy knows, in every lesson the same three, none of them easy for it."""
    return load_task(TINY_TASKS).sample(3, seed=0)


def one_sum() -> list[Problem]:
    """The sum that notebook 1 practises on: one that the bundled policy gets right now and then."""
    return load_task(TINY_TASKS).sample(1, seed=8)


def settings(problem: Problem) -> dict[str, str]:
    """What is known of a problem's size: its task's difficulty settings, each level a name of its own."""
    return {f"{problem.task} {setting}": str(level) for setting, level in problem.difficulty.items()}


def read_pairs(
    policy: Policy, problems: Sequence[Problem], shade: str, baseline: Baseline | None = None, seed: int = 7
) -> list[ShownPrompt]:
    """What `RolloutViewer` shows of a pair of responses to each problem, the same pair in every lesson.

    shade: the one number of a token that shades it: "entropy", "log p", and with a baseline "value", "baseline" or "pull".
    """
    rollouts = sample_rollouts(policy, problems, responses=2, seed=seed)
    internals = read_internals(policy, rollouts)
    shown = read_tokens(policy, rollouts, internals, baseline, prompts=range(len(problems)))
    for response in (one for prompt in shown for one in prompt.responses):
        response.measures = {shade: response.measures[shade]}
    return shown


def learning(groups: dict[str, Sequence[Sequence[float]]], title: str, every: int = 1) -> Figure:
    """Share of right responses over updates, measured after every so many: a line for each run, those of a group alike."""
    fig = figure(title, "updates", "share of right responses", yaxis_range=[0, 1])
    for (name, runs), color in zip(groups.items(), COLORS, strict=False):
        for k, shares in enumerate(runs):
            add_line(fig, range(0, every * len(shares), every), shares, name, color)
            fig.data[-1].showlegend = k == 0
    return fig


def clouds(points: dict) -> Figure:
    """Single estimates of a gradient, names to (N, 2), and the gradient itself at (1, 0)."""
    fig = figure(
        "Estimates of the gradient", "along the gradient (1 = the gradient itself)", "across it (same unit)",
        hovermode="closest", xaxis_range=[-6, 8], yaxis_range=[-4, 4], height=460,
    )  # fmt: skip
    looks = ((COLORS[0], "circle"), (COLORS[2], "triangle-up-open"))
    for (name, xy), (color, symbol) in zip(points.items(), looks, strict=True):
        fig.add_scatter(x=rounded(xy[:, 0], 2), y=rounded(xy[:, 1], 2), mode="markers", name=name,
                        marker=dict(size=6, opacity=0.6, color=color, symbol=symbol))  # fmt: skip
    marker = dict(size=13, symbol="x", color=COLORS[5])
    return fig.add_scatter(x=[1], y=[0], mode="markers", name="the exact gradient", marker=marker)


def parabola(numbers: Sequence[float], curve: Sequence[float], levels: dict[str, float], b: float) -> Figure:
    """Variance over the number b that is subtracted, levels that do not depend on it, and the reader's b."""
    here = curve[list(numbers).index(b)]
    fig = figure(
        f"b = {b}: variance {here:.2f}", "number subtracted from all rewards, b", "variance of the estimate", height=440
    )
    add_line(fig, numbers, curve, "the same number for all prompts", COLORS[0])
    for (name, level), color in zip(levels.items(), COLORS[1:], strict=False):
        add_line(fig, numbers, [level] * len(numbers), name, color)
    marker = dict(size=13, color=COLORS[5])
    return fig.add_scatter(x=[b], y=rounded([here]), mode="markers", name="your b", marker=marker)


def refit(rows: Sequence[int], biases: Sequence[tuple], own: Sequence[float], name: str, ridge: float) -> Figure:
    """Bias over the rows that a probe had: (advantages first, refit first) of each, and another baseline's."""
    fig = figure(
        f"What a refit on the present batch does, ridge {ridge}", "rows that the probe had before",
        "relative bias (share of the gradient's norm)", yaxis_range=[-0.05, 1.05],
    )  # fmt: skip
    fig.update_xaxes(type="log", tickvals=list(rows))
    for line, label, color in zip(zip(*biases, strict=True), ("advantages first", "refit first"), COLORS, strict=False):
        add_line(fig, rows, line, label, color)
    add_line(fig, rows, own, f"refit first, {name}", COLORS[2])
    return fig


def score_lengths(logprobs, squares, right) -> Figure:
    """One point per response: the squared length of its score over its log-probability.

    logprobs, squares, right: one per response, of any shape; right is 1 or True where the answer is right. The upright
    axis is logarithmic. A large mark is the mean of its colour, of the lengths themselves.
    """
    logprobs, squares, right = (np.asarray(x, dtype=float).reshape(-1) for x in (logprobs, squares, right))
    title, x = "Which responses have long scores?", "log p(y | x) in nats"
    fig = figure(title, x, "squared length of the score", 420, hovermode="closest")
    fig.update_yaxes(type="log", dtick=1)
    for name, at, color, symbol in (("right", right == 1, COLORS[0], "circle"), ("wrong", right != 1, COLORS[1], "x")):
        fig.add_scatter(x=rounded(logprobs[at], 2), y=rounded(squares[at], 3), mode="markers", name=name,
                        marker=dict(size=5, opacity=0.5, color=color, symbol=symbol))  # fmt: skip
        fig.add_scatter(x=rounded([logprobs[at].mean()], 2), y=rounded([squares[at].mean()], 3), mode="markers",
                        name=f"mean of the {name} ones",
                        marker=dict(size=15, color=color, symbol=symbol, line=dict(width=2, color="#888")))  # fmt: skip
    return fig


def surrogate(advantage: float, **clips: float) -> Figure:
    """What one token adds to the clipped objective over its ratio, and what its score is multiplied by in the gradient.

    clips: `clip_low`, `clip_high`, `dual_clip` of `clipped_surrogate`, where not its own.
    """
    ratios = [round(0.4 + 0.02 * k, 2) for k in range(61)]
    logprobs = torch.tensor(ratios, dtype=torch.float64).log()[:, None].requires_grad_()
    size = torch.full((len(ratios),), float(advantage), dtype=torch.float64)
    added = [
        -clipped_surrogate(logprobs[[i]], torch.zeros(1, 1), size[[i]], torch.ones(1, 1), **clips)[0]
        for i in range(len(ratios))
    ]
    (slope,) = torch.autograd.grad(sum(added), logprobs)
    fig = figure(
        "What one token adds", "ratio: probability now over probability when sampled", "in units of the reward",
        yaxis_range=[-1.7, 1.7],
    )  # fmt: skip
    add_line(fig, ratios, [advantage * ratio for ratio in ratios], "ratio times advantage", COLORS[7])
    add_line(fig, ratios, [x.item() for x in added], "clipped objective", COLORS[0])
    add_line(fig, ratios, slope[:, 0].tolist(), "its gradient: so many times the score of the token", COLORS[1])
    return fig


def spoilt_probe(r, lines: dict, levels: dict[str, float], at: int, share: float, measure: str) -> Figure:
    """What POISE takes out over the r of its probe with V(x), as it is spoilt, with the probe at one share marked.

    r: of each share of wrong predictions; lines: by kind, the first the probe as it is; levels: what others take out.
    """
    fig = figure(
        f"{share:.0%} of the predictions belong to other prompts: r = {r[at]:.2f}", "Pearson r of the probe with V(x)",
        f"share taken out: {measure}", hovermode="closest", height=460,
        yaxis_range=[-0.5, 0.45] if measure == "Var(A)" else [-2.8, 0.45],
    )  # fmt: skip
    x = rounded(r)
    for (kind, y), color in zip(lines.items(), (COLORS[0], COLORS[2]), strict=True):
        add_line(fig, x, y, f"POISE, {kind}", color)
    styles = line_styles(8)
    for (name, level), k in zip(levels.items(), (7, 5, 1, 4, 6, 3), strict=True):
        add_line(fig, [min(x), max(x)], [level] * 2, name, **styles[k])
    fig.add_scatter(x=[x[at]], y=rounded([next(iter(lines.values()))[at]]), mode="markers", name="this probe",
                    marker=dict(size=13, color=COLORS[0]))  # fmt: skip
    return fig
