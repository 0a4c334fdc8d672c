"""The still of a figure: what it draws is what the figure holds, in the state in which it opens."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from poise_lab.show import plots
from poise_lab.show.looks import line_styles
from poise_lab.show.page import PLOTLY, bundle
from poise_lab.show.sliders import Sliders
from poise_lab.show.still import to_svg

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def drawn(fig) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(json.loads(pio.to_json(fig))))


def texts(svg) -> list[str]:
    return [element.text for element in svg.iter() if element.tag.endswith("text")]


def paths(svg, color: str) -> list[list[tuple[float, float]]]:
    """The points of the paths of a colour."""
    found = [e.get("d") for e in svg.iter() if e.tag.endswith("path") and e.get("stroke") == color]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", d)] for d in found]


def test_a_line_lies_where_its_numbers_say():
    """Half of the way in x and y between its ends, on a scale from 0 to 10."""
    fig = plots.figure("t", "across", "up", xaxis_range=[0, 10], yaxis_range=[0, 10])
    plots.add_line(fig, [0, 5, 10], [0, 5, 10], "a line", plots.COLORS[0])
    svg = drawn(fig)
    (first, middle, last), points = paths(svg, plots.COLORS[0])[:2]
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)
    assert last[0] > first[0] and last[1] < first[1] and points == [first, middle, last]
    assert {"t", "across", "up", "0", "10"} <= set(texts(svg))


def test_logarithms_names_arrays_and_intervals():
    fig = plots.figure("t", "x", "y")
    fig.add_scatter(x=np.array([1.0, 10, 100]), y=np.array([1, 2, 3]), mode="markers", marker_color="#123456",
                    error_y=dict(array=[1, 1, 1]), name="a")  # fmt: skip
    fig.update_xaxes(type="log", tickvals=[1, 10, 100])
    points, spans = paths(drawn(fig), "#123456")
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.11)
    assert [x for x, _ in spans] == [x for x, _ in points]
    fig = plots.bars({"one & two": (1.0, 0.5, 2.0), "three": (2.0, 1.0, 3.0)}, "t", "x", "y")
    svg = drawn(fig)
    one, three = [element for element in svg if element.tag.endswith("rect")]
    assert float(three.get("height")) == pytest.approx(2 * float(one.get("height")), abs=0.2)
    assert "one & two" in texts(svg)


def placed(svg) -> dict[str, tuple[float, float]]:
    """Where each word stands."""
    return {e.text: (float(e.get("x")), float(e.get("y"))) for e in svg.iter() if e.tag.endswith("text")}


def rectangles(svg) -> list[tuple[float, ...]]:
    """Left, top, right and bottom of each, in order."""
    found = [[float(e.get(k)) for k in ("x", "y", "width", "height")] for e in svg.iter() if e.tag.endswith("rect")]
    return [(x, y, x + wide, y + high) for x, y, wide, high in found]


def scale(svg, low: str, high: str):
    """px of a number on the upright axis, from two of its labels."""
    (a, b), at = (placed(svg)[label][1] - 4 for label in (low, high)), (float(low), float(high))
    return lambda value: pytest.approx(a + (value - at[0]) / (at[1] - at[0]) * (b - a), abs=0.2)


def test_marks_intervals_and_bands_stand_at_the_labels_of_their_numbers():
    fig = plots.figure("t", "x", "y", yaxis_range=[2, 6])
    plots.add_line(fig, [1, 2], [3, 5], "a", "#123456", low=[2.5, 4], high=[4, 5.5])
    fig.add_scatter(x=[1.5], y=[4], mode="markers", marker_color="#654321", error_y=dict(array=[1], arrayminus=[0.5]))
    svg = drawn(fig)
    y, x = scale(svg, "2", "6"), placed(svg)["1.5"][0]
    (line,), (mark, _) = paths(svg, "#123456")[:1], paths(svg, "#654321")
    assert [at for _, at in line] == [y(3), y(5)] and mark == [(pytest.approx(x, abs=0.1), y(4))]
    (span,) = (e.get("d") for e in svg if e.get("stroke") == "#654321" and "V" in e.get("d"))
    assert [float(v) for v in re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)", span).groups()] == [y(3.5), y(5)]
    (band,) = (e for e in svg if e.get("d", "").endswith("z"))
    heights = {float(v) for v in re.findall(r" ([\d.]+)", band.get("d"))}
    assert sorted(heights) == [y(5.5), y(4), y(2.5)] and band.get("fill") not in (None, "none")
    assert list(svg).index(band) < [e.get("stroke") for e in svg].index("#123456")  # the line lies on its band


@pytest.mark.parametrize("mode", ["group", "stack"])
def test_bars_stand_side_by_side_or_on_each_other(mode):
    fig = plots.figure("t", "x", "y", barmode=mode, yaxis_range=[-1, 4])
    for name, heights in (("a", [1, 2]), ("b", [2, -1 if mode == "group" else 1])):
        fig.add_bar(x=["p", "q"], y=heights, name=name, error_y=dict(array=[0.5, 0.5]) if mode == "group" else None)
    svg = drawn(fig)
    y, words = scale(svg, "-1", "4"), placed(svg)
    boxes = a, a_q, b, b_q = rectangles(svg)
    if mode == "group":
        assert [box[1::2] for box in boxes] == [(y(1), y(0)), (y(2), y(0)), (y(2), y(0)), (y(0), y(-1))]
        assert a[2] == pytest.approx(b[0], abs=0.2) == words["p"][0]
        spans = [
            e.get("d")
            for e in svg
            if re.fullmatch(r"(M[\d.]+ [\d.]+V[\d.]+)+", e.get("d", "")) and e.get("stroke") != "#808080"
        ]
        middles = [float(x) for d in spans for x in re.findall(r"M([\d.]+)", d)]
        assert middles == [pytest.approx((box[0] + box[2]) / 2, abs=0.2) for box in boxes]
    else:
        assert [box[1::2] for box in boxes] == [(y(1), y(0)), (y(2), y(0)), (y(3), y(1)), (y(3), y(2))]
        assert a[::2] == b[::2] and (a[0] + a[2]) / 2 == pytest.approx(words["p"][0], abs=0.2)
    assert a_q[0] > a[2] and b_q[0] > b[2]


def test_a_matrix_and_panels():
    grid = [[0.0, 1.0], [0.5, 0.0]]
    svg = drawn(plots.matrix(grid, ["p", "q"], "t", "x", "y", [["", "b"], ["", ""]], "unit", height=300))
    cells = [e.get("fill") for e in svg if e.tag.endswith("rect")]
    assert cells[0] == cells[3] and len(set(cells)) == 3
    first, right, below, _ = rectangles(svg)
    assert right[0] > first[0] and below[1] > first[1]  # the first row is the upper one
    x, y = placed(svg)["b"]
    assert right[0] < x < right[2] and right[1] < y < right[3]
    points = np.ones((2, 3))
    panels = {"left": {"a": ([1, 2], points)}, "right": {"a": ([1, 2], 3 * points)}}
    svg = drawn(plots.panels(panels, "t", "x", "y"))
    (left, _), _, (right, _), _ = (path for path in paths(svg, plots.COLORS[0]) if len(path) > 1)  # lines, and marks
    assert left[0] < right[0] and left[1] > right[1]  # beside each other, on one scale
    assert placed(svg)["left"][0] < placed(svg)["right"][0]


def test_letters_of_a_row_stand_in_one_element_each_at_its_cell():
    words = [["+", "b", ""], ["", "wide", "w"], ["", "", ""]]
    svg = drawn(plots.matrix(np.eye(3), list("pqr"), "t", "x", "y", words))
    cells = rectangles(svg)
    found = {e.text: [float(x) for x in e.get("x").split()] for e in svg.iter() if e.tag.endswith("text")}
    for text, at in (("+b", (0, 1)), ("wide", (4,)), ("w", (5,))):
        assert len(found[text]) == len(at) and all(
            cells[k][0] < x < cells[k][2] for k, x in zip(at, found[text], strict=True)
        )


def test_a_figure_whose_points_have_the_colour_of_a_value_says_what_the_colours_mean():
    values = [0, 0.5, 1]
    svg = drawn(plots.state_map([[0, 0], [1, 1], [2, 2]], values, ["a", "a", "b"], "t", "x", "y"))
    bar = [box.get("fill") for box in svg.iter() if box.tag.endswith("rect")]
    written = texts(svg)
    assert len(bar) == 9 and written[-2:] == ["V(x): 0", "1"]
    for value, color in zip(values, (bar[0], bar[4], bar[8]), strict=True):
        assert color in {mark.get("stroke") for mark in svg.iter()}, value
    height = float(svg.get("height"))
    assert max(float(box.get("y")) + 12 for box in svg.iter() if box.tag.endswith("rect")) < height
    plain = drawn(plots.figure("t", "x", "y").add_scatter(x=[0], y=[0], mode="markers", name="a"))
    assert not [box for box in plain.iter() if box.tag.endswith("rect")] and float(plain.get("height")) < height


def test_cells_that_are_all_equal_have_the_middle_colour():
    svg = drawn(plots.matrix(np.zeros((2, 2)), ["p", "q"], "t", "x", "y"))
    assert [e.get("fill") for e in svg.iter() if e.tag.endswith("rect")] == ["#eeeeee"] * 4


def test_only_the_state_that_opens_is_drawn():
    box = Sliders(
        lambda k, name: plots.figure(f"k = {k}", "x", "y").add_bar(x=["p"], y=[k], name=name).add_bar(x=["q"], y=[1], name="all"),
        opens_at=dict(k=2, name="b"), k=[1, 2], name=["a", "b"],
    )  # fmt: skip
    said = texts(ElementTree.fromstring(to_svg(box.to_plotly())))
    assert "k = 2" in said and "b" in said and "a" not in said
    assert said == texts(drawn(box.figure)), "the controls leave no trace"


def test_the_page_holds_the_still_and_its_words():
    fig = json.loads(pio.to_json(plots.bars({"a": (1.0, 0.5, 2.0)}, "t", "x", "y")))
    page = bundle(fig, 'the "words"')["text/html"]
    (inside,) = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="the &quot;words&quot;"', page)
    assert base64.b64decode(inside).decode() == to_svg(fig)


def test_what_it_does_not_draw_is_said_in_words():
    fig = json.loads(pio.to_json(go.Figure(go.Pie(values=[1, 2]))))
    assert to_svg(fig) is None and "<p>a &amp; b</p>" in bundle(fig, "a & b")["text/html"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_stored_figure_has_one(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if PLOTLY in output.get("data", {}):
                figure = output["data"][PLOTLY]
                svg = to_svg(figure)
                assert len(svg) < 40_000 and svg == to_svg(json.loads(json.dumps(figure)))
                said = texts(ElementTree.fromstring(svg))
                shown = [t for t in figure["data"] if t.get("visible") is not False and t.get("xaxis") != "x99"]
                listed = [t["name"] for t in shown if t.get("name") and t.get("showlegend", True)]
                if len(shown) > 1 and figure["layout"].get("showlegend", True):
                    assert {html.unescape(re.sub("<br>", " ", name)) for name in listed} <= set(said)
                assert "nan" not in svg and "NaN" not in svg and "None" not in said


def test_an_open_marker_is_not_a_filled_one():
    """Sixteen lines have sixteen looks: the second eight are drawn open."""
    stills = []
    for style in line_styles(16):
        fig = plots.figure("Points", "x", "y")
        fig.add_scatter(
            x=[1.0], y=[1.0], mode="markers", marker=dict(color=style["color"], symbol=style["symbol"], size=11)
        )
        stills.append(to_svg(json.loads(pio.to_json(fig))))
    assert len(set(stills)) == 16
