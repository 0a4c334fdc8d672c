"""Figures with parameters that a reader moves: no kernel and no script is needed, only what plotly.js brings itself.

A stored notebook runs nothing before it is trusted, and VS Code drops the frames of a figure. What works everywhere
is a slider or a button that sets attributes to fixed values. So the figure holds the traces of all states, each once,
and a control shows those of its value: the first parameter of a trace by `visible`, a second one by moving the trace
to a pair of axes that has no room on the page. Neither needs to know where the other stands.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

import plotly.graph_objects as go
import plotly.io as pio

from ..errors import PoiseLabError
from .page import KEYBOARD, bundle
from .words import STYLE, describe, folded

PARKED = {"xaxis": "x99", "yaxis": "y99"}
_NOWHERE = dict(domain=[0, 0.001], visible=False, fixedrange=True)
_SLIDER = dict(ticklen=4, tickcolor="#888", minorticklen=3, bgcolor="#C9CED6", bordercolor="#888", activebgcolor="#3758E6",
               font=dict(size=12))  # fmt: skip
_BUTTONS = dict(bgcolor="#C9CED6", bordercolor="#888", font=dict(size=12, color="#222"))
_ROW = {"slider": 70, "buttons": 44}  # px
_NAMES = 18  # px of the names of panels, which stand between the controls and the plot
HIGHEST = 700  # px: a figure and its controls on one screen
MOST_LETTERS = 60  # of all buttons of one row; a longer one becomes a list to choose from


class Sliders:
    """A figure with one control per parameter: a slider for numbers, buttons for names.

    draw: called with one keyword per parameter, returns a figure. The number and kind of its traces must not depend on
        the values; a trace may depend on two parameters, what stands outside of the traces (a title, an axis) on one.
    opens_at: values at which the figure opens, where not the first ones. It stands there after every execution.
    parameters: the values that each control runs through.

        box = Sliders(lambda ridge: calibration(...), opens_at=dict(ridge=10), ridge=[1, 10, 100])
        box.state(ridge=100)      # the figure there

    Raises PoiseLabError if draw or opens_at do not keep to this.
    """

    def __init__(self, draw: Callable[..., go.Figure], opens_at: dict | None = None, **parameters):
        self.parameters = {name: list(values) for name, values in parameters.items()}
        self.opens_at = {**{name: values[0] for name, values in self.parameters.items()}, **(opens_at or {})}
        self._states = {key: draw(**dict(zip(parameters, key, strict=True))) for key in self._keys()}
        self.figure = self.state()
        if len({tuple(trace.type for trace in fig.data) for fig in self._states.values()}) > 1:
            raise PoiseLabError("the number and kind of a figure's traces must not depend on its parameters")

    def _keys(self) -> Iterator[tuple]:
        return itertools.product(*self.parameters.values())

    def state(self, **values) -> go.Figure:
        """The figure as draw made it for these values; parameters that are not named stand where the figure opens."""
        at = {**self.opens_at, **values}
        for name, value in at.items():
            if value not in self.parameters.get(name, ()):
                raise PoiseLabError(f"the figure has no state {name} = {value!r}")
        return self._states[tuple(at[name] for name in self.parameters)]

    def to_plotly(self) -> dict:
        """All states in one figure, as plotly.js takes it."""
        return composed(
            self.parameters, self.opens_at, {k: json.loads(pio.to_json(f)) for k, f in self._states.items()}
        )

    def words(self) -> str:
        """Every state in words, as HTML: the one that opens, and the others each under a fold of its own."""
        others = [
            folded(
                ", ".join(f"{name} {value}" for name, value in zip(self.parameters, key, strict=True)), describe(fig)
            )
            for key, fig in self._states.items()
        ]
        mouse = '<p class="poise-untrusted">Trust this notebook, or run the cell, to move the figure by keyboard.</p>'
        return STYLE + mouse + folded("In words", describe(self.figure), *others) + KEYBOARD

    def _ipython_display_(self):
        from IPython.display import HTML, display

        display(bundle(self.to_plotly(), describe(self.figure)), raw=True)
        display(HTML(self.words()))


def composed(parameters: dict[str, list], opens_at: dict, states: dict[tuple, dict]) -> dict:
    """One figure that holds every state and the controls that show one of them.

    states: values of all parameters, in order, to a figure as plotly.js takes it.
    """
    names = list(parameters)
    opening = tuple(opens_at[name] for name in names)
    traces = list(_variants(parameters, opening, states))
    slot = _slots(names, [set(at) for _, at in traces])
    data = []
    for trace, at in traces:
        shown = {**trace}
        for name, value in at.items():
            shown.update(_attributes(trace, slot[name], value == opens_at[name]))
        data.append(shown)
    layout, changes = _layouts(parameters, opening, states)
    for name, values in parameters.items():
        touched = [i for i, (_, at) in enumerate(traces) if name in at]
        steps = []
        for value in values:
            each = [_attributes(traces[i][0], slot[name], traces[i][1][name] == value) for i in touched]
            restyle = {key: [attributes[key] for attributes in each] for key in (each[0] if each else ())}
            steps.append(dict(label=str(value), method="update", args=[restyle, changes[name, value], touched]))
        changes[name] = steps
    if 1 in slot.values():
        layout.update(xaxis99=dict(anchor="y99", **_NOWHERE), yaxis99=dict(anchor="x99", **_NOWHERE))
    _add_controls(layout, {name: changes[name] for name in names}, parameters, opens_at)
    return {"data": data, "layout": layout}


def _variants(parameters: dict, opening: tuple, states: dict) -> Iterator[tuple[dict, dict]]:
    """Every trace of every state once, with the values of those parameters on which it depends."""
    names = list(parameters)
    for k in range(len(states[opening]["data"])):
        needed = _depends(parameters, {key: state["data"][k] for key, state in states.items()})
        for values in itertools.product(*(parameters[name] for name in needed)):
            at = dict(zip(needed, values, strict=True))
            key = tuple(at.get(name, value) for name, value in zip(names, opening, strict=True))
            yield states[key]["data"][k], at


def _depends(parameters: dict, found: dict[tuple, object]) -> list[str]:
    """The parameters that change what was found in the states."""
    needed = []
    for p, name in enumerate(parameters):
        first: dict[tuple, object] = {}
        if any(first.setdefault(key[:p] + key[p + 1 :], value) != value for key, value in found.items()):
            needed.append(name)
    return needed


def _slots(names: list[str], together: list[set[str]]) -> dict[str, int]:
    """0 or 1 for each parameter, so that two which change the same trace differ."""
    slot: dict[str, int] = {}

    def give(name: str, s: int) -> None:
        if slot.setdefault(name, s) != s:
            raise PoiseLabError(
                f"a trace of the figure depends on three parameters, or some are bound in a ring, {name!r} among them; two at a "
                "time can be shown"
            )
        for other in {other for used in together if name in used for other in used} - {name}:
            if slot.get(other) != 1 - s:
                give(other, 1 - s)

    for name in names:
        give(name, slot.get(name, 0))
    return slot


def _attributes(trace: dict, slot: int, shown: bool) -> dict:
    """What shows or hides a trace."""
    if slot == 0:
        return {"visible": shown}
    home = {axis: trace.get(axis, axis[0]) for axis in PARKED}
    return {**(home if shown else PARKED), "showlegend": shown and trace.get("showlegend", True)}


def _layouts(parameters: dict, opening: tuple, states: dict) -> tuple[dict, dict]:
    """The layout of the opening state, and what each value of each parameter changes in it."""
    layout = states[opening]["layout"]
    flat = {key: dict(_leaves(state["layout"])) for key, state in states.items()}
    changes: dict = {(name, value): {} for name, values in parameters.items() for value in values}
    for path in dict.fromkeys(path for leaves in flat.values() for path in leaves):
        needed = _depends(parameters, {key: leaves.get(path) for key, leaves in flat.items()})
        if len(needed) > 1:
            raise PoiseLabError(
                f"{path} of the figure depends on {' and '.join(needed)}; outside of the traces one is possible"
            )
        for name in needed:
            p = list(parameters).index(name)
            for value in parameters[name]:
                changes[name, value][path] = flat[opening[:p] + (value,) + opening[p + 1 :]].get(path)
    return layout, changes


def _leaves(tree: dict, path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict) and name != "template":
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def _add_controls(layout: dict, steps: dict[str, list], parameters: dict, opens_at: dict) -> None:
    """Put the controls between the title and the plot, the first one on top; the figure grows by their height."""
    height = _NAMES if layout.get("annotations") else 0
    for name, values in reversed(parameters.items()):
        label, active = name.replace("_", " "), values.index(opens_at[name])
        place = dict(name=label, active=active, x=0, xanchor="left", y=1, yanchor="bottom")
        if any(isinstance(value, str) for value in values):
            kind = "buttons" if sum(len(str(value)) + 3 for value in values) <= MOST_LETTERS else "dropdown"
            menu = dict(type=kind, direction="right" if kind == "buttons" else "down", buttons=steps[name], **place, **_BUTTONS,
                        pad=dict(b=height + 10, l=8 * len(label) + 8))  # fmt: skip
            layout.setdefault("updatemenus", []).append(menu)
            note = dict(name="control", text=label, x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
                        yshift=height + 14, showarrow=False)  # fmt: skip
            for holder in (layout, *(step["args"][1] for each in steps.values() for step in each)):
                if holder is layout or "annotations" in holder:
                    holder["annotations"] = [*(holder.get("annotations") or []), note]
            height += _ROW["buttons"]
        else:
            shown = dict(prefix=f"{label}: ", font=dict(size=13), xanchor="left", offset=8)
            slider = dict(
                steps=steps[name], len=1, currentvalue=shown, pad=dict(b=height + 10, t=0), **place, **_SLIDER
            )
            layout.setdefault("sliders", []).append(slider)
            height += _ROW["slider"]
    layout["title"] = {**layout.get("title", {}), "yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 14}}
    layout["height"] = min(HIGHEST, layout.get("height", 380) + height - 6)
    layout["margin"] = {**layout.get("margin", {}), "t": 44 + height}
