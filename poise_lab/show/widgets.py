"""Curves that grow while a run trains, for notebooks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import ipywidgets
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import unknown_name
from .curves import METRICS
from .looks import COLORS
from .page import CONFIG
from .plots import TEMPLATE
from .words import describe, disclosed


class LiveCurves(ipywidgets.VBox):
    """Curves of a run that grow while it trains: pass it to `Trainer(..., on_step=curves)`.

    metrics: names of metrics, one panel each. every: steps between redraws.

    Raises PoiseLabError for a metric that is not known, and for none.
    """

    def __init__(self, metrics: Sequence[str] = ("reward", "accuracy", "variance_reduction"), every: int = 5):
        for name in metrics or [None]:
            if name not in METRICS:
                raise unknown_name("metric", name, METRICS)
        titles = [METRICS[name][0] for name in metrics]
        spacing = min(0.1, 0.5 / len(metrics))
        fig = make_subplots(
            rows=len(metrics), cols=1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=titles
        )
        fig.update_layout(template=TEMPLATE, title="While it trains", height=min(700, 120 + 170 * len(metrics)),
                          showlegend=False, margin_t=80)  # fmt: skip
        for row, (name, color) in enumerate(zip(metrics, itertools.cycle(COLORS), strict=False), 1):
            fig.add_trace(go.Scatter(x=[], y=[], name=METRICS[name][0], mode="lines+markers",
                                     marker=dict(size=4), line=dict(color=color)), row=row, col=1)  # fmt: skip
            unit = METRICS[name][1].replace(" (", "<br>(")  # a panel is too low for the long ones
            fig.update_yaxes(title_text=unit, title_font_size=12, row=row, col=1)
        fig.update_annotations(font_size=13)
        fig.update_xaxes(title_text="step", row=len(metrics), col=1)
        self.figure, self._words = figure_widget(fig), ipywidgets.HTML()
        super().__init__([self.figure, self._words])
        self.add_class("poise-live")  # for who looks for it in a page
        self._metrics, self._every = tuple(metrics), every
        self._points = {name: ([], []) for name in metrics}
        self._say()

    def __call__(self, metrics: dict) -> None:
        self._add(metrics)
        if metrics["step"] % self._every == 0:
            self.redraw()

    def show(self, metrics: Sequence[dict]) -> None:
        """Show steps that are done already: those of a run that is resumed (`Trainer.metrics`)."""
        for step in metrics:
            self._add(step)
        self.redraw()

    def _add(self, metrics: dict) -> None:
        for name, (x, y) in self._points.items():
            if name in metrics:
                x.append(metrics["step"])
                y.append(round(metrics[name], 4))

    def redraw(self) -> None:
        """Show all points so far."""
        with self.figure.batch_update():
            for trace, name in zip(self.figure.data, self._metrics, strict=True):
                trace.x, trace.y = list(self._points[name][0]), list(self._points[name][1])
        self._say()

    def _say(self) -> None:
        self._words.value = disclosed(describe(self.figure))

    def _repr_mimebundle_(self, **options) -> dict:
        return {**super()._repr_mimebundle_(**options), "text/plain": describe(self.figure)}


def figure_widget(fig: go.Figure) -> go.FigureWidget:
    """The figure as a widget, without the buttons that lead to a network."""
    widget = go.FigureWidget(fig)
    widget._config = {**widget._config, **CONFIG, "responsive": True}
    return widget
