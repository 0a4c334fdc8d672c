"""Figures: one look, uncertainty drawn, nothing that asks the network.

The background is transparent, so that a figure takes the page's, light or dark. What tells its series apart is in looks.py.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..stats import mean_interval
from .looks import COLORS, line_styles
from .words import Figure

PALE = 0.5  # opacity of a bar with an interval, which is drawn in the bar's colour and so is seen in both themes

_GREY = "rgba(128,128,128,0.25)"
_AXIS = dict(gridcolor=_GREY, zerolinecolor=_GREY, linecolor="#888", tickcolor="#888", ticks="outside", automargin=True)
TEMPLATE = go.layout.Template(
    layout=dict(
        colorway=COLORS,
        font=dict(family="system-ui, sans-serif", size=13, color="#767676"),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=_AXIS,
        yaxis=_AXIS,
        # below the title of the axis at any width
        legend=dict(orientation="h", yref="container", y=0, yanchor="bottom", itemsizing="constant"),
        margin=dict(l=60, r=20, t=50, b=50),
        hovermode="x unified",
    )
)


def figure(title: str, x: str, y: str, height: int = 380, **layout) -> Figure:
    """An empty figure in the package's look. A long title of the upright axis has its unit in a line of its own."""
    y = y.replace(" (", "<br>(", 1) if len(y) > 32 else y
    return Figure(layout=dict(template=TEMPLATE, title=title, xaxis_title=x, yaxis_title=y, height=height, **layout))


def rounded(values, digits: int = 4) -> list[float | None]:
    """Plain rounded numbers: small in a notebook file, and the same to the eye."""
    return [None if v != v else round(float(v), digits) for v in np.asarray(values, dtype=float)]  # JSON has no NaN


def add_line(
    fig: go.Figure, x: Sequence, y: Sequence, name: str, color: str, low=None, high=None, symbol=None, **line
) -> None:
    """A line, with a band between low and high where they are given; its dash and its marker are those of its colour."""
    x, y = list(x), rounded(y)
    if low is not None:
        band = rounded(list(high) + list(low)[::-1])
        fill = f"rgba({int(color[1:3], 16)},{int(color[3:5], 16)},{int(color[5:7], 16)},0.2)"
        fig.add_trace(
            go.Scatter(x=x + x[::-1], y=band, fill="toself", fillcolor=fill, line=dict(width=0),
                       mode="lines", hoverinfo="skip", showlegend=False, legendgroup=name)
        )  # fmt: skip
    mode = "lines+markers" if len(x) < 40 else "lines"
    look = dict(line=dict(color=color, **line), marker=dict(size=7, symbol=symbol) if "markers" in mode else None)
    fig.add_trace(go.Scatter(x=x, y=y, name=name, mode=mode, legendgroup=name, **look))


def calibration(predictions, targets, title: str = "Predicted and measured value", bins: int = 10) -> Figure:
    """Predictions against measured V(x): the points, and the mean of each tenth of the predictions."""
    predictions, targets = np.asarray(predictions).reshape(-1), np.asarray(targets).reshape(-1)
    fig = figure(title, "predicted value", "measured V(x)", hovermode="closest")
    fig.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="perfect", line=dict(color=COLORS[7])))
    fig.add_trace(
        go.Scatter(x=rounded(predictions, 3), y=rounded(targets, 3), mode="markers", name="one prompt",
                   marker=dict(size=4, opacity=0.4, color=COLORS[0]))
    )  # fmt: skip
    parts = np.array_split(np.argsort(predictions, kind="stable"), bins)
    means = [(predictions[p].mean(), *mean_interval(targets[p])) for p in parts if len(p)]
    x, y, low, high = np.array(means).T
    fig.add_trace(
        go.Scatter(x=rounded(x), y=rounded(y), mode="markers", name="mean of a tenth, 95 % interval",
                   marker=dict(size=9, color=COLORS[5]),
                   error_y=dict(array=rounded(high - y), arrayminus=rounded(y - low)))
    )  # fmt: skip
    return fig


def value_histogram(values: dict[str, Sequence[float]], title: str, bins: int = 9) -> Figure:
    """How values in [0, 1] spread over prompts, one bar colour per task.

    values: task name to one value per prompt. Bars are centred on 0, 1/(bins - 1), ..., 1; the error
    bar is the standard error of a share.
    """
    fig = figure(title, "estimated value of the prompt", "share of the task's prompts", barmode="group")
    centres = np.linspace(0, 1, bins)
    for (name, ones), color in zip(values.items(), COLORS * len(values), strict=False):
        ones = np.asarray(ones, dtype=float)
        nearest = np.floor(ones * (bins - 1) + 0.5).astype(int)
        share = np.bincount(nearest, minlength=bins) / len(ones)
        error = np.sqrt(share * (1 - share) / len(ones))
        fig.add_trace(
            go.Bar(x=rounded(centres), y=rounded(share), name=name, marker=dict(color=color, opacity=PALE),
                   error_y=dict(array=rounded(error), thickness=1, width=2, color=color))
        )  # fmt: skip
    return fig


def over_tokens(tokens: Sequence[str], values, title: str, y: str, marked: Sequence[int] = ()) -> Figure:
    """One bar per token of a text, the token written at its bar (long ones as …); marked positions stand out."""
    marked, escaped = set(marked), html.escape  # as it stands, `<think>` would be taken for markup
    fig = figure(title, "token of the response, in order", y, hovermode="closest", showlegend=False)
    colors = [COLORS[5] if i in marked else COLORS[0] for i in range(len(tokens))]
    fig.add_trace(
        go.Bar(x=list(range(1, len(tokens) + 1)), y=rounded(values, 3), marker_color=colors,
               text=[escaped(t) if len(t) <= 4 else "…" for t in tokens], customdata=list(map(escaped, tokens)),
               textposition="outside", textangle=0, constraintext="none", cliponaxis=False,
               hovertemplate="%{customdata}: %{y}<extra></extra>")
    )  # fmt: skip
    return fig


def bars(values: dict[str, tuple[float, float, float]], title: str, x: str, y: str, **layout) -> Figure:
    """One bar with its interval per name: (value, low, high)."""
    fig = figure(title, x, y, hovermode="closest", showlegend=False, **layout)
    mean, low, high = np.array(list(values.values())).T
    fig.add_trace(
        go.Bar(x=list(values), y=rounded(mean), marker=dict(color=COLORS[0], opacity=PALE),
               error_y=dict(array=rounded(high - mean), arrayminus=rounded(mean - low), color=COLORS[0]))
    )  # fmt: skip
    return fig


def lines(x: Sequence, values: dict[str, Sequence[tuple]], title: str, x_title: str, y_title: str,
          log: bool = False, **layout) -> Figure:  # fmt: skip
    """One line per name over x, with its intervals as a band; values: name to one (value, low, high) per x."""
    fig = figure(title, x_title, y_title, **layout)
    fig.update_xaxes(type="log" if log else "linear", tickvals=list(x))
    for (name, points), style in zip(values.items(), line_styles(len(values)), strict=True):
        mean, low, high = np.array(points).T
        add_line(fig, x, mean, name, low=low, high=high, **style)
    return fig


def panels(values: dict[str, dict[str, tuple]], title: str, x_title: str, y_title: str, log: bool = False,
           columns: int = 2, names: Sequence[str] = ()) -> Figure:  # fmt: skip
    """Panels on common axes: panel to line to (x, points (N, 3) of value, low, high). A line of one point is drawn through.

    names: of lines that look alike in several figures, those that are not in this one among them.
    """
    names = list(dict.fromkeys([*names, *(name for lines_ in values.values() for name in lines_)]))
    styles = dict(zip(names, line_styles(len(names)), strict=True))
    columns = min(columns, len(values))
    rows = -(-len(values) // columns)
    fig = make_subplots(rows=rows, cols=columns, subplot_titles=list(values), shared_xaxes="all", shared_yaxes="all",
                        vertical_spacing=0.3 / rows, horizontal_spacing=0.05, figure=Figure())  # fmt: skip
    fig.update_layout(template=TEMPLATE, title=title, height=min(700, 160 + 180 * rows),
                      hovermode="closest")  # fmt: skip
    across = [x for lines_ in values.values() for xs, _ in lines_.values() if len(xs) > 1 for x in xs]
    shown: set[str] = set()
    for k, lines_ in enumerate(values.values()):
        part = Figure()
        for name, (x, points) in lines_.items():
            mean, low, high = np.array(points).T
            if len(x) == 1:
                x, (mean, low, high) = [min(across), max(across)], np.repeat([mean, low, high], 2, 1)
            add_line(part, x, mean, name, low=low, high=high, **styles[name])
        for trace in part.data:
            trace.showlegend = bool(trace.name) and trace.name not in shown
            shown |= {trace.name} - {None}
            fig.add_trace(trace, row=k // columns + 1, col=k % columns + 1)
    ticks = sorted(set(across))
    fig.update_xaxes(type="log" if log else "linear", tickvals=ticks)
    for k in range(len(values)):
        below = k + columns >= len(values)
        fig.update_xaxes(title_text=x_title if below else None, showticklabels=below,
                         row=k // columns + 1, col=k % columns + 1)  # fmt: skip
    for row in range(rows):
        fig.update_yaxes(title_text=y_title, row=row + 1, col=1)
    fig.update_annotations(font_size=13)
    return fig


def side_by_side(
    values: dict[str, dict[str, tuple]], marked: dict[str, float], title: str, x: str, y: str, **layout
) -> Figure:
    """Groups of points with their intervals over named rows, and one mark per row for somebody else's numbers.

    values: group to row to (value, low, high). marked: row to value; rows that it lacks get no mark. Long names of rows
    are broken into lines, so that they stand upright.
    """

    def broken(names):
        return ["<br>".join(textwrap.wrap(name, 16)) for name in names]

    fig = figure(title, x, y, hovermode="closest", scattermode="group", **layout)
    fig.update_layout(xaxis_type="category", height=430)
    for (name, rows), style in zip(values.items(), line_styles(len(values)), strict=True):
        mean, low, high = np.array(list(rows.values())).T
        fig.add_trace(
            go.Scatter(x=broken(rows), y=rounded(mean), name=name, mode="markers", offsetgroup=name,
                       marker=dict(size=9, color=style["color"], symbol=style["symbol"]),
                       error_y=dict(array=rounded(high - mean), arrayminus=rounded(mean - low)))
        )  # fmt: skip
    if marked:
        fig.add_trace(
            go.Scatter(x=broken(marked), y=rounded(list(marked.values())),
                       name="the paper's models", mode="markers", offsetgroup="paper",
                       marker=dict(size=11, symbol="diamond-open", color=COLORS[7], line_width=2))
        )  # fmt: skip
    return fig


def bias_and_variance(points: dict[str, tuple[float, float]], title: str, **layout) -> Figure:
    """One point per estimate, (relative bias, variance), both exact: unbiased ones stand on the left edge."""
    x = "relative bias, |E[estimate] - gradient| / |gradient|"
    fig = figure(title, x, "variance of the estimate", height=460, hovermode="closest", **layout)
    for (name, (bias, variance)), style in zip(points.items(), line_styles(len(points)), strict=True):
        fig.add_trace(
            go.Scatter(x=rounded([bias]), y=rounded([variance]), mode="markers", name=name,
                       marker=dict(size=12, color=style["color"], symbol=style["symbol"]))
        )  # fmt: skip
    return fig


def in_order(points: dict[str, tuple[float, tuple]], groups: dict[str, str], title: str, x: str, y: str, above: str,
             **layout) -> Figure:  # fmt: skip
    """Two numbers of each name, one above the other: (number, (value, low, high)), names in order of the first number.

    groups: what a name belongs to, told apart by colour and marker. y, above: what the value is, and the number.
    """
    names = sorted(points, key=lambda name: points[name][0])
    fig = make_subplots(rows=2, cols=1, shared_xaxes="all", vertical_spacing=0.07, figure=Figure())
    fig.update_layout(template=TEMPLATE, title=title, height=560, hovermode="closest", **layout)
    members = {group: [name for name in names if groups[name] == group] for group in sorted(set(groups.values()))}
    for (group, mine), style in zip(members.items(), line_styles(len(members)), strict=True):
        value, low, high = np.array([points[name][1] for name in mine]).T
        common = dict(x=[names.index(name) for name in mine], mode="markers", legendgroup=group, customdata=mine,
                      hovertemplate="%{customdata}: %{y}<extra></extra>",
                      marker=dict(size=9, color=style["color"], symbol=style["symbol"]))  # fmt: skip
        numbers = rounded([points[name][0] for name in mine])
        spans = dict(array=rounded(high - value), arrayminus=rounded(value - low))
        fig.add_trace(go.Scatter(y=numbers, name=f"{group}, {above}", showlegend=False, **common), row=1, col=1)
        fig.add_trace(go.Scatter(y=rounded(value), name=group, error_y=spans, **common), row=2, col=1)
    fig.update_xaxes(tickvals=list(range(len(names))), ticktext=names, tickangle=-40, tickfont_size=12,
                     range=[-0.6, len(names) - 0.4])  # fmt: skip
    fig.update_xaxes(title_text=x, row=2, col=1)
    fig.update_yaxes(title_text=above.replace(" (", "<br>("), row=1, col=1)
    fig.update_yaxes(title_text=y.replace(" (", "<br>("), row=2, col=1)
    return fig


def strips(values: dict[str, Sequence[float]], title: str, x: str, y: str) -> Figure:
    """The points of each group, and their mean with a 95 % interval."""
    fig = figure(title, x, y, hovermode="closest")
    names = list(values)
    for i, name in enumerate(names):
        ones = np.asarray(values[name], dtype=float)
        jitter = np.linspace(-0.3, 0.3, len(ones)) if len(ones) > 1 else [0]
        fig.add_trace(
            go.Scatter(x=rounded(i + np.asarray(jitter), 3), y=rounded(ones, 3), mode="markers",
                       name="one prompt", showlegend=i == 0, marker=dict(size=4, opacity=0.4, color=COLORS[0]))
        )  # fmt: skip
    mean, low, high = np.array([mean_interval(values[name]) for name in names]).T
    fig.add_trace(
        go.Scatter(x=list(range(len(names))), y=rounded(mean), mode="markers", name="mean, 95 % interval",
                   marker=dict(size=9, color=COLORS[5]),
                   error_y=dict(array=rounded(high - mean), arrayminus=rounded(mean - low)))
    )  # fmt: skip
    fig.update_xaxes(tickvals=list(range(len(names))), ticktext=names)
    return fig


def state_map(points, values, groups: Sequence[str], title: str, x: str, y: str) -> Figure:
    """States in two dimensions, coloured by the value of their prompt, one symbol per group.

    points: (N, 2). values: (N,) in [0, 1]. groups: N names.
    """
    points, values = np.asarray(points), np.asarray(values)
    fig = figure(title, x, y, height=480, hovermode="closest")
    for i, name in enumerate(sorted(set(groups))):
        at = np.array([group == name for group in groups])
        fig.add_trace(
            go.Scatter(x=rounded(points[at, 0], 2), y=rounded(points[at, 1], 2), mode="markers", name=name,
                       text=[f"V(x) = {v:.2f}" for v in values[at]], hovertemplate="%{text}",
                       marker=dict(size=8, symbol=["circle", "diamond", "x", "square", "cross"][i % 5],
                                   line=dict(color=COLORS[7], width=0.8),  # both ends of the scale, in any theme
                                   color=rounded(values[at], 2), coloraxis="coloraxis"))
        )  # fmt: skip
    fig.update_layout(coloraxis=dict(cmin=0, cmax=1, colorscale="Cividis", colorbar=dict(title="V(x)")))
    return fig


def matrix(values, names: Sequence[str], title: str, x: str, y: str, text=None, unit: str = "", **layout) -> Figure:
    """One coloured cell per pair of names, row against column; blue is above 0, orange below.

    values: (N, N). text: (N, N) of short strings written into the cells.
    """
    values = np.asarray(values, dtype=float)
    largest = round(float(np.nanmax(np.abs(values))), 4)
    fig = figure(title, x, y, hovermode="closest", **layout)
    fig.add_trace(  # tints of the first two colours, pale enough for the dark text on them
        go.Heatmap(z=[rounded(row) for row in values], x=list(names), y=list(names), text=text, texttemplate="%{text}",
                   colorscale=[[0, "#F0B27F"], [0.5, "#EEEEEE"], [1, "#9BABF2"]], zmin=-largest, zmax=largest,
                   colorbar=dict(title=unit), hovertemplate="%{y} against %{x}: %{z}<extra></extra>", textfont_color="#222")
    )  # fmt: skip
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False)
    return fig
