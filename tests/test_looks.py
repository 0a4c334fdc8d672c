"""What tells the series of a figure apart, for readers of every kind of colour vision and in grey."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import plotly.io as pio
import pytest

from poise_lab.show import plots
from poise_lab.show.looks import COLORS, DASHES, HATCHES, SYMBOLS, dasharray, line_styles
from poise_lab.show.sliders import PARKED
from poise_lab.show.still import to_svg
from tools.notebooks import PLOTLY

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# How dichromats see linear RGB, severity 1.0: Machado, Oliveira and Fernandes (2009), table 1.
VISIONS = {
    "ordinary": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"]
WHITE, DARK = "#FFFFFF", "#111111"  # backgrounds of JupyterLab's notebooks; tests/lab_check.py reads them from the page


def linear(color):
    """(3,) linear RGB of a hexadecimal sRGB colour."""
    s = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


def lab_of(color, vision="ordinary"):
    """(3,) CIELAB of a colour as a reader with that vision sees it."""
    t = TO_XYZ @ np.clip(VISIONS[vision] @ linear(color), 0, 1) / (0.95047, 1, 1.08883)
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one, two):
    """Difference of two CIELAB colours (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 1.5 - 0.5 * np.sqrt(c**7 / (c**7 + 25.0**7))
    c1, c2 = np.hypot(g * a1, b1), np.hypot(g * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, g * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    hue, light, chroma = (h1 + turn / 2) % 360, (l1 + l2) / 2, (c1 + c2) / 2
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    t = 1 + sum(k * np.cos(np.radians(n * hue + shift))
                for k, n, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63)))  # fmt: skip
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turned = (
        -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    )
    x, y, z = (l2 - l1) / sl, (c2 - c1) / sc, dh / sh
    return float(np.sqrt(x * x + y * y + z * z + turned * y * z))


def smallest_difference(colors, vision):
    seen = [lab_of(color, vision) for color in colors]
    return min(ciede2000(a, b) for a, b in itertools.combinations(seen, 2))


def contrast(one, two):
    """Ratio of relative luminances as WCAG defines it."""
    low, high = sorted(TO_XYZ[1] @ linear(color) for color in (one, two))
    return (high + 0.05) / (low + 0.05)


def test_the_difference_of_colours_by_published_pairs():
    """Pairs 1, 7 and 17 of the test data of Sharma, Wu and Dalal."""
    assert ciede2000((50, 2.6772, -79.7751), (50, 0, -82.7485)) == pytest.approx(2.0425, abs=1e-4)
    assert ciede2000((50, 0, 0), (50, -1, 2)) == pytest.approx(2.3669, abs=1e-4)
    assert ciede2000((50, 2.5, 0), (73, 25, -18)) == pytest.approx(27.1492, abs=1e-4)


@pytest.mark.parametrize("vision", VISIONS)
def test_readers_of_any_colour_vision_tell_the_colours_apart(vision):
    assert smallest_difference(COLORS, vision) > 14
    if vision == "deuteranopia":  # what is known as safe has a pair that comes close: the check can fail
        assert smallest_difference(OKABE_ITO, vision) < 7


@pytest.mark.parametrize("background", [WHITE, DARK])
def test_the_colours_stand_out_from_both_themes(background):
    assert min(contrast(color, background) for color in COLORS) >= 3
    assert contrast("#F0E442", WHITE) < 3  # a yellow would not


def test_text_is_readable_where_no_theme_colours_it():
    assert contrast(plots.TEMPLATE.layout.font.color, WHITE) >= 4.5
    cells = plots.matrix([[0, 1], [-1, 0]], ["a", "b"], "t", "x", "y").data[0]
    assert min(contrast("#222222", color) for _, color in cells.colorscale) >= 7


# --- series that only their colour tells apart --------------------------------------------------------

STEP = 20  # of CIE lightness: what tells two thin lines apart in grey
NEAR = 14  # CIEDE2000: what the colours of the package keep from one another


def states(figure: dict) -> Iterator[list[dict]]:
    """The traces that are seen, at every combination of what the controls can stand at."""
    controls = [*figure["layout"].get("sliders", ()), *figure["layout"].get("updatemenus", ())]
    for places in itertools.product(*(control.get("steps", control.get("buttons")) for control in controls)):
        traces = [dict(trace) for trace in figure["data"]]
        for place in places:
            restyle, _, touched = place["args"]
            for name, values in restyle.items():
                for i, value in zip(touched, values, strict=True):
                    traces[i][name] = value
        yield [t for t in traces if t.get("visible") is not False and t.get("xaxis") != PARKED["xaxis"]]


def series(trace: dict) -> Iterator[tuple]:
    """(panel, name, colour, look, size of a mark) of what a trace draws.

    By their kind left out: bands, which belong to their line; matrices; marks whose colour is a number on a scale.
    """
    panel, marker, line = trace.get("xaxis", "x"), trace.get("marker", {}), trace.get("line", {})
    if trace["type"] == "bar":
        colors, hatches = marker.get("color"), marker.get("pattern", {}).get("shape", "")
        if isinstance(colors, str):
            colors, hatches = [colors], [hatches]
        for color, hatch in dict.fromkeys(zip(colors, hatches or [""] * len(colors), strict=True)):
            yield panel, f"{trace.get('name')} {color}", color, ("bar", hatch), 1
    elif trace["type"] == "scatter" and trace.get("fill") != "toself":
        color, mode = line.get("color") or marker.get("color"), trace.get("mode", "lines+markers")
        dash = line.get("dash", "solid") if "lines" in mode else None
        symbol = marker.get("symbol", "circle") if "markers" in mode else None
        if isinstance(color, str):
            yield panel, trace["name"], color, (dash, symbol), marker.get("size", 6) if dash is None else 1


def told_by_colour_alone(figure: dict) -> set[str]:
    """Pairs of series in one panel of one look, whose colours are near in grey or to a reader with deuteranopia."""
    found = set()
    for traces in states(figure):
        drawn = dict.fromkeys(one for trace in traces for one in series(trace))
        for (panel, a, one, look, size), (other_panel, b, two, other, other_size) in itertools.combinations(drawn, 2):
            if (panel, look) != (other_panel, other) or a == b or max(size, other_size) >= 2 * min(size, other_size):
                continue
            grey = abs(lab_of(one)[0] - lab_of(two)[0])
            if grey < STEP or ciede2000(lab_of(one, "deuteranopia"), lab_of(two, "deuteranopia")) < NEAR:
                found.add(f"{a} | {b}: both {look}, {grey:.0f} apart in grey")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_series_of_a_stored_figure_is_told_by_its_colour_alone(path):
    cells = nbformat.read(path, as_version=4).cells
    figures = [o.data[PLOTLY] for cell in cells for o in cell.get("outputs", []) if PLOTLY in o.get("data", {})]
    found = {figure["layout"]["title"]["text"]: told_by_colour_alone(figure) for figure in figures}
    assert {title: pairs for title, pairs in found.items() if pairs} == {}


def drawn(fig) -> dict:
    return json.loads(pio.to_json(fig))


def test_series_that_their_colour_alone_tells_apart_are_found():
    fig = plots.figure("t", "x", "y")
    for k in (0, 5):
        fig.add_scatter(x=[1, 2], y=[1, 2], name=f"{k}", mode="lines", line=dict(color=COLORS[k], dash="dot"))
        fig.add_bar(x=[1, 2], y=[1, 2], name=f"{k}", marker=dict(color=COLORS[k], pattern_shape="x"))
    assert len(told_by_colour_alone(drawn(fig))) == 2
    fig.data[0].line.dash, fig.data[1].marker.pattern.shape = "dash", "+"
    assert told_by_colour_alone(drawn(fig)) == set()
    assert told_by_colour_alone(drawn(plots.over_tokens(["a", "b"], [1, 2], "t", "y", marked=[1]))) == set()


def test_a_trace_gets_what_its_author_left_open():
    fig = plots.figure("t", "x", "y")
    plots.add_line(fig, [1, 2], [1, 2], "a", COLORS[2], low=[0, 1], high=[2, 3])
    plots.add_line(fig, [1, 2], [1, 2], "b", COLORS[3], dash="dot", symbol="x")
    fig.add_scatter(x=[1], y=[1], mode="markers", marker_color="#123456", name="of another colour")
    fig.add_bar(x=["p", "q"], y=[1, 2], marker_color=[COLORS[0], COLORS[1]])
    fig.add_bar(x=["p", "q"], y=[1, 2], marker_color=COLORS[0])
    band, a, b, other, bars, plain = fig.data
    assert (a.line.dash, a.marker.symbol) == (DASHES[2], SYMBOLS[2]) and band.line.dash is None
    assert (b.line.dash, b.marker.symbol) == ("dot", "x") and other.marker.symbol is None
    assert list(bars.marker.pattern.shape) == ["", HATCHES[1]] and plain.marker.pattern.shape is None


def test_looks_are_many_and_a_still_draws_them():
    """Sixteen lines, and bars: a still has every dash and marker of plotly's, and the colours without one of them differ."""
    styles = line_styles(16)
    assert len({(s["dash"], s["symbol"]) for s in styles}) == len({dasharray(d) for d in DASHES}) * 2 == 16
    stills = []
    for style in styles:
        fig = plots.figure("t", "x", "y")
        plots.add_line(fig, [1, 2], [1, 2], "a", **style)
        stills.append(to_svg(drawn(fig)).replace(style["color"], "grey"))
    assert len(set(stills)) == 16
    bars = [plots.figure("t", "x", "y").add_bar(x=["p"], y=[1], name="a", marker_color=color) for color in COLORS]
    stills = [to_svg(drawn(fig)) for fig in bars]
    assert len({still.replace(c, "grey").replace(c[1:], "") for still, c in zip(stills, COLORS, strict=True)}) == 8
    assert all("<pattern" in still for still in stills[1:])
