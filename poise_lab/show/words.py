"""Figures in words: a text alternative, made from what a figure draws, for readers who do not see it."""

from __future__ import annotations

import html
import json
import re

import plotly.graph_objects as go
import plotly.io as pio

from .looks import dress
from .page import bundle

MOST_NAMED = 8  # values of one trace that are named one by one; longer ones are told by their range

# The theme of JupyterLab gives the colour of a figure's text; where there is none, the template's grey stays. What
# stands on a colour of the figure itself (cells of a matrix, buttons, labels under the mouse) keeps its own.
STYLE = (
    "<style>.js-plotly-plot .main-svg > :not(.hoverlayer) text:not(.heatmap-label *, .updatemenu-item-text)"
    "{fill: var(--jp-content-font-color1, #767676) !important}"
    ".poise-untrusted {display: none}"  # a notebook that is not trusted loses this style with its scripts
    # on paper: whole on a page, 900 px on the 700 of a page, dark whatever the theme
    "@media print {.poise-figure, .poise-view .text {break-inside: avoid} .poise-figure {zoom: .75; color: #222}"
    ".poise-figure > div {overflow: visible !important} .poise-figure .modebar {display: none}"
    ".js-plotly-plot .main-svg > :not(.hoverlayer) text:not(.heatmap-label *) {fill: #222 !important}"
    ".poise-view .text span {print-color-adjust: exact}}</style>"
)


class Figure(go.Figure):
    """A figure that a notebook shows with its content in words below it; no series is known by its colour alone."""

    def add_traces(self, data, *args, **more):
        """As plotly's; what an author leaves open of a trace's look is that of its colour."""
        first = len(self.data)
        super().add_traces(data, *args, **more)
        for trace in self.data[first:]:
            dress(trace)
        return self

    def _ipython_display_(self):
        from IPython.display import HTML, display

        text = describe(self)
        display(bundle(json.loads(pio.to_json(self)), text), raw=True)
        display(HTML(disclosed(text)))


def disclosed(text: str) -> str:
    """The text as HTML, folded away under a word that keyboard and mouse open."""
    return STYLE + folded("In words", text)


def folded(title: str, text: str, *inner: str) -> str:
    """A text, and pieces of HTML below it, under a title that opens them."""
    return f"<details><summary>{html.escape(title)}</summary><p>{html.escape(text)}</p>{''.join(inner)}</details>"


def describe(fig: go.Figure) -> str:
    """Title, axes with their ranges, and what every trace shows, from the figure's own data."""
    layout = fig.layout
    parts = [f"Figure: {plain(layout.title.text)}."]
    for letter in "xy":
        titles = dict.fromkeys(plain(axis.title.text) for axis in axes(fig, letter) if axis.title.text)
        values = [v for trace in fig.data for v in column(trace, letter)]
        if titles and values:
            name = {"x": "Horizontal", "y": "Vertical"}[letter]
            parts.append(f"{name} axis: {', '.join(titles)}; {extent(values)}.")
    for line in layout.shapes:
        if line.y0 is not None and line.y0 == line.y1:
            parts.append(f"Horizontal line at {number(line.y0)}.")
    panels = {id_of(axis): plain(note.text) for axis, note in zip(axes(fig, "x"), layout.annotations, strict=False)}
    bands = [trace for trace in fig.data if trace.type == "scatter" and trace.fill == "toself"]
    traces = [trace for trace in fig.data if not any(trace is band for band in bands)]
    banded = {trace.legendgroup for trace in bands}
    for trace in traces:
        where = panels.get(getattr(trace, "xaxis", None) or "x")
        name = ", ".join(filter(None, (where, trace.name and plain(trace.name))))
        parts.append(
            f"{name + ': ' if name else ''}{content(trace)}{', with a band' if trace.name and trace.legendgroup in banded else ''}."
        )
    return " ".join(parts) if traces else f"{parts[0]} Nothing is drawn in it yet."


def content(trace) -> str:
    """What one trace shows."""
    if trace.type == "heatmap":
        rows = [
            f"{plain(name)} from {extent(list(row), short=True)}" for name, row in zip(trace.y, trace.z, strict=True)
        ]
        return f"a matrix of {len(trace.y)} rows and {len(trace.x)} columns; rows: {', '.join(rows)}"
    columns = ("y", "x") if getattr(trace, "orientation", None) == "h" else ("x", "y")
    names, values = (list(trace[letter]) if trace[letter] is not None else [] for letter in columns)
    shown = [i for i, pair in enumerate(zip(names, values, strict=True)) if all(v is not None and v == v for v in pair)]
    if not shown:
        return "no points"

    def part(each):
        return None if each is None else [each[i] for i in shown]

    # what stands at each bar, if that is said
    names, values = part(names if trace.customdata is None else trace.customdata), part(values)
    errors, below = part(trace.error_y.array), part(trace.error_y.arrayminus)
    note = " with intervals" if errors is not None else ""
    if (
        len(values) == 1
        or (len(values) <= MOST_NAMED and trace.type == "bar")
        or any(isinstance(n, str) for n in names)
    ):
        low = errors if below is None else below
        told = []
        for i, (name, value) in enumerate(zip(names, values, strict=True)):
            # the mean of one value has an interval without bounds
            known = errors is not None and all(x is not None and x == x for x in (low[i], errors[i]))
            span = f" ({number(value - low[i])} to {number(value + errors[i])})" if known else ""
            told.append(
                f"{plain(name)} {number(value)}{span}"
                if isinstance(name, str)
                else f"{number(value)}{span} at {number(name)}"
            )
        return f"{', '.join(told[:40])}{', and more' if len(told) > 40 else ''}"
    if trace.type == "bar" or trace.mode == "markers":
        return f"{len(values)} {'bars' if trace.type == 'bar' else 'points'}{note}, {extent(values)}"
    return (
        f"from {number(values[0])} at {plain(names[0])} to {number(values[-1])} at {plain(names[-1])}, {extent(values)}"
    )


def axes(fig: go.Figure, letter: str) -> list:
    """The axes of a figure in one direction."""
    return list(fig.select_xaxes() if letter == "x" else fig.select_yaxes())


def id_of(axis) -> str:
    """How a trace calls the axis: x, x2, ..."""
    return axis.plotly_name.replace("axis", "")


def column(trace, letter: str) -> list:
    """The trace's values in one direction that are drawn."""
    if trace.type == "heatmap":
        return list(trace[letter])
    values = trace[letter]
    return [] if values is None else [v for v in values if v is not None and v == v]


def extent(values: list, short: bool = False) -> str:
    """The range of numbers, or how many names there are."""
    numbers = [v for v in values if v is not None and not isinstance(v, str) and v == v]
    if not numbers:
        return f"{len(dict.fromkeys(values))} names" if not short else "nothing"
    low, high = number(min(numbers)), number(max(numbers))
    return f"{low} to {high}" if short or low != high else f"all {low}"


def number(value: float) -> str:
    """Three significant digits, without an exponent where it is not needed."""
    text = f"{float(value):.3g}"
    return f"{float(text):,.0f}" if "e+" in text else text


def plain(value) -> str:
    """Text without the figure's markup; numbers short."""
    if not isinstance(value, str):
        return "" if value is None else number(value)
    return html.unescape(re.sub(r"<[^>]*>", " ", value)).strip()


def span(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value and its interval, "0.25 [0.21, 0.29]", and never a "-0.00"."""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(round(v, digits) + 0.0 for v in (value, low, high)), d=digits)
