"""The squared length of scores over the log-probability of responses, right and wrong ones in two colours."""

from __future__ import annotations

import numpy as np

from .plots import COLORS, figure, rounded
from .words import Figure


def score_lengths(logprobs, squares, right, title: str = "Which responses have long scores?") -> Figure:
    """One point per response: the squared length of its score over its log-probability.

    logprobs, squares, right: one per response, of any shape; right is 1 or True where the answer is right. The upright
    axis is logarithmic. A large mark is the mean of its colour, of the lengths themselves.
    """
    logprobs, squares, right = (np.asarray(x, dtype=float).reshape(-1) for x in (logprobs, squares, right))
    fig = figure(title, "log p(y | x) in nats", "squared length of the score", 420, hovermode="closest")
    fig.update_yaxes(type="log", dtick=1)
    for name, at, color, symbol in (("right", right == 1, COLORS[0], "circle"), ("wrong", right != 1, COLORS[1], "x")):
        fig.add_scatter(x=rounded(logprobs[at], 2), y=rounded(squares[at], 3), mode="markers", name=name,
                        marker=dict(size=5, opacity=0.5, color=color, symbol=symbol))  # fmt: skip
        fig.add_scatter(x=rounded([logprobs[at].mean()], 2), y=rounded([squares[at].mean()], 3), mode="markers",
                        name=f"mean of the {name} ones",
                        marker=dict(size=15, color=color, symbol=symbol, line=dict(width=2, color="#888")))  # fmt: skip
    return fig
