"""Sliders over figures and live curves, for notebooks."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import ipywidgets
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .plots import COLORS, METRICS, TEMPLATE
from .words import CONFIG, describe, disclosed


class Described(ipywidgets.VBox):
    """A figure widget below its controls, with its content in words below it (and in place of it, in a stored notebook).

    kind: names the box in a page, for who looks for it there.
    """

    def __init__(self, kind: str, figure: go.Figure, controls: Sequence[ipywidgets.Widget] = ()):
        self.figure = figure_widget(figure)
        self._words = ipywidgets.HTML()
        super().__init__([*controls, self.figure, self._words])
        self.add_class(kind)
        self.say()

    def say(self) -> None:
        """Bring the words up to what the figure shows now."""
        self._words.value = disclosed(describe(self.figure))

    def _repr_mimebundle_(self, **options) -> dict:
        return {**super()._repr_mimebundle_(**options), "text/plain": describe(self.figure)}


class Sliders(Described):
    """A figure with one slider per parameter; moving one redraws the figure in place.

    draw: called with one keyword per control, returns a figure; the number and kind of its traces
        must not depend on the values.
    controls: the values that each slider runs through, with the first shown at the start, or
        (values, start).

        box = Sliders(lambda ridge: calibration(...), ridge=[1, 10, 100])
        box.controls["ridge"].value = 100      # what the mouse does
    """

    def __init__(self, draw: Callable[..., go.Figure], **controls):
        self._draw = draw
        self.controls = {}
        for name, values in controls.items():
            values, start = values if isinstance(values, tuple) else (values, values[0])
            self.controls[name] = ipywidgets.SelectionSlider(
                options=list(values), value=start, description=name.replace("_", " "), continuous_update=False,
                style={"description_width": "initial"}, layout={"width": "420px"},
            )  # fmt: skip
        for control in self.controls.values():
            control.observe(self._redraw, names="value")
        super().__init__("poise-sliders", draw(**self.values), list(self.controls.values()))

    @property
    def values(self) -> dict:
        """The current value of each control."""
        return {name: control.value for name, control in self.controls.items()}

    def _redraw(self, change) -> None:
        new = self._draw(**self.values)
        with self.figure.batch_update():
            for old_trace, new_trace in zip(self.figure.data, new.data, strict=True):
                old_trace.update(new_trace.to_plotly_json(), overwrite=True)
            layout = new.layout.to_plotly_json()  # titles, units and ticks may have changed with the data
            layout.pop("template", None)
            self.figure.update_layout(layout)
        self.say()


def redraw_seconds(box: Sliders, moves: int = 9) -> float:
    """Median seconds that a moved slider takes to redraw, over moves of all controls in turn, which end where they were.

    On the kernel's side: computing the figure and handing it to the widget, without the browser. Seconds of this
    process on the processor, so that a busy machine does not make a figure slow.
    """
    start, seconds = box.values, []
    for _, name in zip(range(moves), itertools.cycle(box.controls), strict=False):
        options = box.controls[name].options
        after = options[(box.controls[name].index + 1) % len(options)]
        began = time.process_time()
        box.controls[name].value = after
        seconds.append(time.process_time() - began)
    for name, value in start.items():
        box.controls[name].value = value
    return statistics.median(seconds)


class LiveCurves(Described):
    """Curves of a run that grow while it trains: pass it to `Trainer(..., on_step=curves)`.

    metrics: names of metrics, one panel each. every: steps between redraws.
    """

    def __init__(self, metrics: Sequence[str] = ("reward", "accuracy", "variance_reduction"), every: int = 5):
        titles = [METRICS[name][0] for name in metrics]
        spacing = min(0.1, 0.5 / len(metrics))
        fig = make_subplots(
            rows=len(metrics), cols=1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=titles
        )
        fig.update_layout(template=TEMPLATE, title="While it trains", height=min(700, 120 + 170 * len(metrics)),
                          showlegend=False, margin_t=80)  # fmt: skip
        for row, (name, color) in enumerate(zip(metrics, COLORS, strict=False), 1):
            fig.add_trace(go.Scatter(x=[], y=[], name=METRICS[name][0], mode="lines+markers",
                                     marker=dict(size=4), line=dict(color=color)), row=row, col=1)  # fmt: skip
            unit = METRICS[name][1].replace(" (", "<br>(")  # a panel is too low for the long ones
            fig.update_yaxes(title_text=unit, title_font_size=11, row=row, col=1)
        fig.update_annotations(font_size=13)
        fig.update_xaxes(title_text="step", row=len(metrics), col=1)
        super().__init__("poise-live", fig)
        self._metrics, self._every = tuple(metrics), every
        self._points = {name: ([], []) for name in metrics}

    def __call__(self, metrics: dict) -> None:
        for name, (x, y) in self._points.items():
            if name in metrics:
                x.append(metrics["step"])
                y.append(round(metrics[name], 4))
        if metrics["step"] % self._every == 0:
            self.redraw()

    def redraw(self) -> None:
        """Show all points so far."""
        with self.figure.batch_update():
            for trace, name in zip(self.figure.data, self._metrics, strict=True):
                trace.x, trace.y = list(self._points[name][0]), list(self._points[name][1])
        self.say()


def figure_widget(fig: go.Figure) -> go.FigureWidget:
    """The figure as a widget, without the buttons that lead to a network."""
    widget = go.FigureWidget(fig)
    widget._config = {**widget._config, **CONFIG, "responsive": True}
    return widget
