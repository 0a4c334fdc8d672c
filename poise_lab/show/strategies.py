"""How the ways of working of a policy change while it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..runs import RunRecord
from ..stats import mean_interval
from ..tasks.strategies import STRATEGIES
from .plots import add_line, figure, line_styles
from .words import Figure


def ways_of_working(runs: Sequence[RunRecord]) -> Figure:
    """Share of each strategy among the held-out responses over the steps, mean over the runs with a 95 % band."""
    fig = figure("Ways of working", "step", "share of held-out responses")
    for name, style in zip(STRATEGIES, line_styles(len(STRATEGIES)), strict=True):
        pairs = [dict(zip(*run.series(f"share_{name.replace(' ', '_')}"), strict=True)) for run in runs]
        steps = sorted(set.intersection(*(set(pair) for pair in pairs)))
        if steps:
            mean, low, high = np.array([mean_interval([pair[step] for pair in pairs]) for step in steps]).T
            band = dict(low=low, high=high) if len(runs) > 1 else {}
            add_line(fig, steps, mean, name, **style, **band)
    return fig
