"""Figures and widgets: what they draw is what they were given."""

from __future__ import annotations

import copy
import dataclasses
import html
import itertools
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

import poise_lab as pl
from poise_lab.runs import read_run
from poise_lab.show import plots
from poise_lab.show.curves import METRICS, run_curves, seconds_by_part
from poise_lab.show.lessons import learning, score_lengths, surrogate
from poise_lab.show.plots import bars, calibration, strips, value_histogram
from poise_lab.show.samples import samples_of, written
from poise_lab.show.sliders import Sliders
from poise_lab.show.tables import Table
from poise_lab.show.widgets import LiveCurves
from poise_lab.show.words import Figure, describe, span
from poise_lab.stats import Gap
from tools.notebooks import PLOTLY, WIDGET_VIEW


def run(seed, values, name="poise", **more):
    config = {"baseline": {"name": name, "responses": 2}, "train": {"seed": seed, "steps": 9}}
    metrics = [{"step": i, "accuracy": v, **more} for i, v in enumerate(values)]
    return pl.RunRecord(Path(f"{name}-{seed}"), config, metrics)


def lines(fig):
    return {t.name: (list(t.x), list(t.y)) for t in fig.data if t.name}


def test_curves_of_one_run():
    fig = run_curves([run(3, [0.1, 0.2, 0.4])], "accuracy")
    assert lines(fig) == {"poise x2, seed 3": ([0, 1, 2], [0.1, 0.2, 0.4])}
    assert fig.layout.title.text == METRICS["accuracy"][0]
    assert fig.layout.yaxis.title.text == METRICS["accuracy"][1] and fig.layout.xaxis.title.text == "step"


def test_seeds_become_a_mean_with_a_band():
    fig = run_curves([run(0, [0.1, 0.2]), run(1, [0.3, 0.6]), run(0, [0.5, 0.5], "rloo")], "accuracy")
    assert lines(fig) == {
        "poise x2, 2 seeds": ([0, 1], [0.2, 0.4]),
        "rloo x2, seed 0": ([0, 1], [0.5, 0.5]),
    }
    (band,) = (t for t in fig.data if t.fill == "toself")
    _, low, high = pl.mean_interval([0.1, 0.3])
    assert list(band.x) == [0, 1, 1, 0]
    assert band.y[0] == pytest.approx(high, abs=1e-4) and band.y[-1] == pytest.approx(low, abs=1e-4)


def test_steps_that_not_all_seeds_have_are_left_out():
    fig = run_curves([run(0, [0.1, 0.2, 0.9]), run(1, [0.3, 0.6])], "accuracy")
    assert lines(fig)["poise x2, 2 seeds"] == ([0, 1], [0.2, 0.4])


def test_variance_reduction_shows_rloo_on_the_same_rewards():
    runs = [run(s, [0.1, 0.2], variance_reduction=0.4, variance_reduction_rloo=-0.1) for s in (0, 1)]
    assert lines(run_curves(runs, "variance_reduction"))["RLOO on the same rewards (poise x2)"] == (
        [0, 1],
        [-0.1, -0.1],
    )
    alone, other = (run_curves(runs, metric, beside=False) for metric in ("variance_reduction", "accuracy"))
    assert [trace.name for trace in alone.data] == [trace.name for trace in other.data]


def test_a_metric_that_was_not_measured_draws_nothing():
    assert not run_curves([run(0, [0.1])], "probe_r_fresh").data


def test_calibration_means_of_the_parts():
    predictions, targets = np.arange(20) / 20, np.arange(20) % 2
    fig = calibration(predictions, targets, bins=2)
    means = fig.data[-1]
    assert list(means.x) == [0.225, 0.725] and list(means.y) == [0.5, 0.5]


def test_histogram_by_hand():
    fig = value_histogram({"a": [0, 0, 0.5, 1.0]}, "t", bins=3)
    assert list(fig.data[0].x) == [0, 0.5, 1] and list(fig.data[0].y) == [0.5, 0.25, 0.25]


def test_bars_and_strips():
    fig = bars({"a": (1.0, 0.5, 2.0)}, "t", "x", "y")
    assert list(fig.data[0].error_y.array) == [1.0] and list(fig.data[0].error_y.arrayminus) == [0.5]
    fig = strips({"a": [1.0, 3.0], "b": [5.0]}, "t", "x", "y")
    assert list(fig.data[-1].y) == [2.0, 5.0]


def two_sliders(**more):
    """A figure of two parameters: one trace for each pair of values, one for each k alone, one for all."""

    def draw(k, name):
        fig = plots.figure(f"k = {k}", "x", f"y of {name}")
        fig.add_bar(x=["p", "q"], y=[k, 10 * k + len(name)], name=name)
        fig.add_scatter(x=[1, k], y=[k, k], name="of k", showlegend=False)
        return fig.add_scatter(x=[1], y=[1], name="always")

    return Sliders(draw, **{"k": [1, 2, 3], "name": ["a", "bb"], **more})


def moved(figure, name, value):
    """What plotly.js makes of it when a reader moves one control."""
    figure = copy.deepcopy(figure)
    controls = [*figure["layout"].get("sliders", []), *figure["layout"].get("updatemenus", [])]
    (control,) = (one for one in controls if one["name"] == name)
    (step,) = (one for one in control.get("steps", control.get("buttons")) if one["label"] == str(value))
    assert step["method"] == "update"
    restyle, relayout, touched = step["args"]
    for attribute, values in restyle.items():
        for i, new in zip(touched, values, strict=True):
            figure["data"][i][attribute] = new
    for path, new in relayout.items():
        *folders, leaf = path.split(".")
        place = figure["layout"]
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = new
    return figure


def on_show(figure):
    """The traces that are drawn where a reader sees them, without what shows them, and the titles."""
    seen = [t for t in figure["data"] if t.get("visible", True) and (t.get("xaxis"), t.get("yaxis")) != ("x99", "y99")]
    bare = [
        {key: value for key, value in t.items() if key not in ("visible", "xaxis", "yaxis", "showlegend")} for t in seen
    ]
    legend = [t.get("showlegend", True) for t in seen]
    layout = figure["layout"]
    return bare, legend, [layout[part]["title"]["text"] for part in ("xaxis", "yaxis")], layout["title"]["text"]


def stored(fig):
    return json.loads(pio.to_json(fig))


def test_every_control_leads_to_what_draw_gives_from_wherever_the_others_stand():
    box = two_sliders(opens_at={"k": 2})
    figure = box.to_plotly()
    assert on_show(figure) == on_show(stored(box.state())) == on_show(stored(box.state(k=2, name="a")))
    for first, second in itertools.permutations(box.parameters):
        for one, other in itertools.product(box.parameters[first], box.parameters[second]):
            at = {first: one, second: other}
            assert on_show(moved(moved(figure, first, one), second, other)) == on_show(stored(box.state(**at))), at


def test_a_state_is_what_draw_gives():
    box = two_sliders(opens_at={"name": "bb"})
    assert list(box.figure.data[0].y) == [1, 12] and list(box.state(k=3).data[0].y) == [3, 32]
    assert box.state(k=3, name="a").layout.yaxis.title.text == "y of a"
    with pytest.raises(pl.PoiseLabError, match="no state k = 4"):
        box.state(k=4)
    with pytest.raises(pl.PoiseLabError, match="no state width = 1"):
        two_sliders(opens_at={"width": 1})


def test_a_trace_is_stored_once_for_what_it_depends_on():
    assert [trace["name"] for trace in two_sliders().to_plotly()["data"]] == [*["a", "bb"] * 3, *["of k"] * 3, "always"]


def test_three_parameters_of_which_each_trace_needs_two():
    box = Sliders(
        lambda a, b, c: plots.figure("t", "x", "y").add_scatter(x=[a], y=[b], name="ab").add_scatter(x=[a], y=[c], name="ac"),
        a=[1, 2], b=[3, 4], c=[5, 6],
    )  # fmt: skip
    for keys in itertools.product([1, 2], [3, 4], [5, 6]):
        figure = box.to_plotly()
        for name, value in zip("abc", keys, strict=True):
            figure = moved(figure, name, value)
        assert [(t["x"], t["y"]) for t in on_show(figure)[0]] == [([keys[0]], [keys[1]]), ([keys[0]], [keys[2]])]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (
            lambda k, n: plots.figure(f"{k} and {n}", "x", "y").add_scatter(x=[k], y=[n]),
            "title.text .*depends on k and n",
        ),
        (lambda k, n: go.Figure([go.Scatter(x=[1])] * (k + n)), "number and kind"),
        (lambda k, n, m: plots.figure("t", "x", "y").add_scatter(x=[k], y=[n], name=f"{m}"), "three parameters"),
    ],
)
def test_what_controls_cannot_show_is_said(draw, said):
    values = {name: [1, 2] for name in draw.__code__.co_varnames}
    with pytest.raises(pl.PoiseLabError, match=said):
        Sliders(draw, **values).to_plotly()


def test_four_parameters_of_which_each_trace_needs_two():
    def draw(a, b, c, d):
        fig = plots.figure("t", "x", "y")
        return fig.add_scatter(x=[a], y=[c]).add_scatter(x=[b], y=[d]).add_scatter(x=[c], y=[d])

    box = Sliders(draw, a=[1, 2], b=[3, 4], c=[5, 6], d=[7, 8])
    for a, b, c, d in itertools.product([1, 2], [3, 4], [5, 6], [7, 8]):
        figure = box.to_plotly()
        for name, value in zip("abcd", (a, b, c, d), strict=True):
            figure = moved(figure, name, value)
        assert [(t["x"], t["y"]) for t in on_show(figure)[0]] == [([a], [c]), ([b], [d]), ([c], [d])]


def test_names_are_buttons_and_numbers_sliders():
    layout = two_sliders().to_plotly()["layout"]
    assert [s["name"] for s in layout["sliders"]] == ["k"] and layout["sliders"][0]["active"] == 0
    assert [(m["name"], m["type"]) for m in layout["updatemenus"]] == [("name", "buttons")]
    many = two_sliders(name=[f"a long name {i}" for i in range(9)]).to_plotly()["layout"]
    assert many["updatemenus"][0]["type"] == "dropdown"


def test_controls_stand_above_each_other_and_the_plot_keeps_its_height():
    figure = two_sliders(opens_at={"k": 3}).to_plotly()["layout"]
    alone = two_sliders().figure.layout
    above, below = figure["sliders"][0]["pad"]["b"], figure["updatemenus"][0]["pad"]["b"]
    assert below < above < figure["margin"]["t"] - 40 and figure["sliders"][0]["active"] == 2
    plot = alone.height - alone.template.layout.margin.t
    assert figure["height"] - figure["margin"]["t"] == plot


def test_a_figure_and_its_controls_fit_on_a_screen():
    box = Sliders(lambda k: plots.figure("t", "x", "y", height=690).add_bar(x=[1], y=[k]), k=[1, 2])
    assert box.to_plotly()["layout"]["height"] == 700


def shown_outputs(monkeypatch, figure):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, raw=False: shown.append(what))
    figure._ipython_display_()
    return shown


def test_a_slider_figure_shows_json_and_a_page_and_the_words_of_all_states(monkeypatch):
    box = two_sliders()
    bundle, words = shown_outputs(monkeypatch, box)
    assert set(bundle) == {PLOTLY, "text/html", "text/plain"} and WIDGET_VIEW not in bundle
    assert {key: bundle[PLOTLY][key] for key in ("data", "layout")} == box.to_plotly()
    assert bundle["text/plain"] == describe(box.figure)
    for k, name in itertools.product(*box.parameters.values()):
        assert (
            f"<summary>k {k}, name {name}</summary><p>{html.escape(describe(box.state(k=k, name=name)))}</p>"
            in words.data
        )
    again, _ = shown_outputs(monkeypatch, two_sliders())
    assert again == bundle, "the same figure must give the same bytes"


def test_the_page_holds_the_same_figure_and_asks_no_network(monkeypatch):
    bundle, _ = shown_outputs(monkeypatch, two_sliders(name=["a", "</script>"]))
    page = bundle["text/html"]
    (inside,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(inside) == bundle[PLOTLY]
    assert not re.search(r"https?:", page)


def test_seconds_of_a_step_are_the_same_of_a_whole_run_and_of_its_evaluated_steps():
    whole = run(0, [0.1] * 9)
    for step in whole.metrics[1:]:
        step |= {"seconds_sample": 2.0, "seconds_update": 3.0}
    for step in (whole.metrics[4], whole.metrics[8]):
        step["seconds_evaluate"] = 8.0
    slimmed = dataclasses.replace(whole, metrics=[whole.metrics[i] for i in (0, 4, 8)])
    for shown in (whole, slimmed):
        seconds = {t.name: (list(t.y), list(t.x)) for t in seconds_by_part([shown, run(0, [0.1], "on trl")]).data}
        assert seconds["sample"] == (["poise x2"], [2.0]) and seconds["update"][1] == [3.0]
        assert seconds["evaluate"][1] == [2.0] and seconds["internals"][1] == [0.0]
    assert not seconds_by_part([run(0, [0.1, 0.2])]).data  # no run with seconds of parts


def test_live_curves_grow():
    curves = LiveCurves(["reward", "accuracy"], every=2)
    for step in range(4):
        curves({"step": step, "reward": step / 10, **({"accuracy": 0.5} if step % 2 == 0 else {})})
    assert list(curves.figure.data[0].x) == [0, 1, 2]  # redrawn at every second step
    curves.redraw()
    assert list(curves.figure.data[0].x) == [0, 1, 2, 3] and list(curves.figure.data[0].y) == [0, 0.1, 0.2, 0.3]
    assert list(curves.figure.data[1].x) == [0, 2]


def test_live_curves_of_many_metrics_and_of_none_that_is_known():
    curves = LiveCurves(list(METRICS)[:9], every=1)  # more than there are colours
    curves({"step": 1} | dict.fromkeys(METRICS, 0.5))
    assert [list(trace.y) for trace in curves.figure.data] == [[0.5]] * 9
    for metrics in (["reward", "nonsense"], []):
        with pytest.raises(pl.PoiseLabError, match="unknown metric"):
            LiveCurves(metrics)


def test_live_curves_show_what_a_resumed_run_has_done():
    curves = LiveCurves(["reward", "accuracy"], every=2)
    curves.show([{"step": 0, "accuracy": 0.5}, {"step": 1, "reward": 0.25}])
    assert list(curves.figure.data[0].x) == [1] and list(curves.figure.data[1].x) == [0]
    curves({"step": 2, "reward": 0.5, "accuracy": 0.75})
    assert list(curves.figure.data[0].y) == [0.25, 0.5] and list(curves.figure.data[1].y) == [0.5, 0.75]


def test_a_training_cell_that_is_run_again_shows_what_was_done():
    """Notebook 7: the cell once more, as after an interruption; the curves are not empty, and nothing is trained twice."""
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("07"))
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (training,) = (source for source in cells if "LiveCurves(" in source)
    small = "pl.TrainConfig(steps=2, prompts=4, eval_every=1, eval_prompts=4, eval_responses=2)"
    source = re.sub(r"pl\.TrainConfig\(.*?\)", small, training, flags=re.S)
    names: dict = {"poise": [pl.read_run(pl.data_dir() / "runs" / "poise-0")]}  # recorded, for the picture above
    for each in (*cells[:2], source):
        exec(each, names)
    first = [(list(trace.x), list(trace.y)) for trace in names["panels"].figure.data]
    exec(source, names)
    again = [(list(trace.x), list(trace.y)) for trace in names["panels"].figure.data]
    assert first == again and all(x for x, _ in first)


def test_words_leave_out_what_is_not_drawn():
    """A curve that begins with NaN begins where its line does, and a bar without a value is no reason to fail."""
    nan = float("nan")
    fig = Figure(go.Scatter(x=[0, 10, 20, 30], y=[nan, 0.25, nan, 0.5], mode="lines"))
    assert "from 0.25 at 10 to 0.5 at 30, 0.25 to 0.5" in describe(fig)
    fig = Figure(
        go.Bar(x=["a", "b", "c"], y=[1.0, nan, 3.0], error_y=dict(array=[0.1, nan, 0.3], arrayminus=[0.2, nan, 0.4]))
    )
    assert "a 1 (0.8 to 1.1), c 3 (2.6 to 3.3)" in describe(fig) and "b " not in describe(fig)
    fig = Figure(go.Bar(y=["a", "b"], x=[nan, 2.0], orientation="h"))
    assert "b 2" in describe(fig)
    assert "no points" in describe(Figure(go.Bar(x=["a"], y=[nan]))) and "no points" in describe(Figure(go.Scatter()))


def test_words_say_what_is_drawn():
    said = describe(run_curves([run(0, [0.1, 0.2]), run(1, [0.3, 0.6]), run(0, [0.5, 0.7], "rloo")], "accuracy"))
    title, unit = METRICS["accuracy"]
    assert said.startswith(f"Figure: {title}. Horizontal axis: step; 0 to 1. Vertical axis: {unit}; ")
    assert "poise x2, 2 seeds: from 0.2 at 0 to 0.4 at 1, 0.2 to 0.4, with a band." in said
    assert said.endswith("rloo x2, seed 0: from 0.5 at 0 to 0.7 at 1, 0.5 to 0.7.")
    assert "a b 1 (0.5 to 2)" in describe(bars({"a<br>b": (1.0, 0.5, 2.0)}, "t", "x", "y"))
    of_one_value = bars({"a": (1.0, np.nan, np.nan), "b": (2.0, 1.0, 3.0)}, "t", "x", "y")
    assert "a 1, b 2 (1 to 3)" in describe(of_one_value)
    assert "left 3, right -1" in describe(plots.over_tokens(["left", "right"], [3, -1], "t", "nats"))
    tags = plots.over_tokens(["<think>", "a<b"], [3, -1], "t", "nats")
    assert "<think> 3, a<b -1" in describe(tags) and list(tags.data[0].customdata) == ["&lt;think&gt;", "a&lt;b"]
    grid = describe(plots.matrix([[0, 2], [-1, 0]], ["a", "b"], "t", "column", "row"))
    assert "rows: a from 0 to 2, b from -1 to 0" in grid
    two = plots.panels(
        {name: {"line": ([1, 2], [(k, k - 1, k + 1)] * 2)} for k, name in enumerate("pq")}, "t", "x", "y"
    )
    assert "p, line: from 0" in describe(two) and "q, line: from 1" in describe(two)


def test_a_shown_figure_has_its_words(monkeypatch):
    """What a notebook stores: the figure with its words as plain text, and the words again to be read in the page."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, raw=False: shown.append(what))
    fig = bars({"a & b": (1.0, 0.5, 2.0)}, "t", "x", "y")
    fig._ipython_display_()
    assert shown[0]["text/plain"] == describe(fig) and len(shown) == 2
    assert shown[0][PLOTLY]["config"]["showSendToCloud"] is False
    assert json.dumps(stored(fig)["data"], separators=(",", ":"), sort_keys=True) in shown[0]["text/html"]
    assert "<details>" in shown[1].data and "a &amp; b 1" in shown[1].data


def faults(figure: dict) -> list[str]:
    """What a stored figure lacks: a title, a height that fits a page, the title of an axis that shows a scale."""
    layout = figure["layout"]
    found = [] if layout.get("title", {}).get("text") else ["no title"]
    found += [] if layout.get("height", 450) <= 700 else ["too high"]
    for letter in "xy":
        for name in {trace.get(letter + "axis", letter) for trace in figure["data"]}:
            axis = layout.get(f"{letter}axis{name[1:]}", {})
            shown = axis.get("showticklabels") is not False and axis.get("visible") is not False
            if shown and not axis.get("title", {}).get("text"):
                found.append(f"axis {name} has no title")
    return found


NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_figures_have_titles_and_words(path):
    for cell in nbformat.read(path, as_version=4).cells:
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        for k, one in enumerate(data):
            if PLOTLY in one:
                assert faults(one[PLOTLY]) == [], cell.source
                assert one[PLOTLY]["config"]["showSendToCloud"] is False, cell.source
                if not {"sliders", "updatemenus"} & set(one[PLOTLY]["layout"]):
                    assert one["text/plain"] == describe(Figure(one[PLOTLY])), cell.source
                assert one["text/plain"].startswith(f"Figure: {one[PLOTLY]['layout']['title']['text']}."), cell.source
                assert "<details>" in data[k + 1].get("text/html", ""), cell.source
            elif WIDGET_VIEW in one and "LiveCurves(" in cell.source:
                assert one["text/plain"].startswith(("Figure: ", "poise: ")), cell.source  # or a bar of progress


def test_a_figure_without_titles_is_found():
    assert faults(go.Figure(go.Scatter(x=[1], y=[2])).to_dict()) == [
        "no title",
        "axis x has no title",
        "axis y has no title",
    ]
    assert faults(plots.figure("t", "x", "y", height=800).to_dict()) == ["too high"]
    assert faults(bars({"a": (1.0, 0.5, 2.0)}, "t", "", "y").to_dict()) == ["axis x has no title"]


def test_lengths_of_scores_are_drawn_in_two_colours():
    logprobs, squares = np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([[1.0, 10.0], [100.0, 30.0]])
    fig = score_lengths(logprobs, squares, [[1, 0], [0, 1]])
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in fig.data}
    assert drawn["right"] == ([-1.0, -4.0], [1.0, 30.0])
    assert drawn["mean of the wrong ones"] == ([-2.5], [55.0])
    assert fig.data[0].marker.color == fig.data[1].marker.color != fig.data[2].marker.color


def test_runs_of_a_group_look_alike_and_have_one_name():
    fig = learning({"a": [[0.1, 0.2], [0.3, 0.4]], "b": [[0.5, 0.6]]}, "t", every=2)
    assert [trace.name for trace in fig.data if trace.showlegend is not False] == ["a", "b"]
    colors = [trace.line.color for trace in fig.data]
    assert colors[0] == colors[1] != colors[2] and list(fig.data[1].x) == [0, 2] and list(fig.data[1].y) == [0.3, 0.4]


def test_a_line_looks_alike_in_figures_with_and_without_its_neighbours():
    curve = [1, 2], [[0, 0, 0], [1, 1, 1]]
    whole, part = (
        plots.panels({"p": {name: curve for name in names}}, "t", "x", "y", names=("a", "b", "c"))
        for names in ("abc", "c")
    )
    looks = [[trace.line.color for trace in fig.data if trace.name == "c"] for fig in (whole, part)]
    assert looks[0] == looks[1] != [trace.line.color for trace in whole.data if trace.name == "a"]


def test_the_surrogate_of_a_token_by_hand():
    """Slope ratio times A between the clips, and 0 where a clip holds: above 1.28 for A > 0, below 0.8 for A < 0."""
    for advantage, clipped in ((1.0, lambda ratio: ratio > 1.28), (-1.0, lambda ratio: ratio < 0.8)):
        _, objective, slope = surrogate(advantage).data
        ends = {1.0: 1.28, -1.0: -0.8}[advantage]
        for ratio, height, steep in zip(slope.x, objective.y, slope.y, strict=True):
            if ratio not in (0.8, 1.28):  # at the corner either is right
                assert height == pytest.approx(ends if clipped(ratio) else ratio * advantage)
                assert steep == pytest.approx(0 if clipped(ratio) else ratio * advantage)


def test_a_table_in_html_and_in_plain_text():
    rows = [
        {"method": "a<b", "gain": (0.1234, -0.5, 0.75), "n": 5},
        {"method": "c", "gain": (float("nan"),) * 3, "n": 12345.6},
    ]
    table = Table(rows, digits={"gain": 2}, signed=["gain"], marked=["c"])
    assert table.words().split("\n") == [
        "method  gain                  n",
        "a<b     +0.12 [-0.50, +0.75]  5",
        "c       –                     12,346",
    ]
    page = table.to_html()
    interval = '<small style="white-space:nowrap">[-0.50, +0.75]</small>'
    assert f"<td>+0.12<br>{interval}</td>" in page and "a&lt;b" in page
    assert '<th style="text-align:left">method</th><th>gain</th><th>n</th>' in page
    words = Table([{"n": 1, "what": "x"}, {"n": 2, "what": 3}]).to_html()  # a column with a text in it is one of texts
    assert '<th style="text-align:left">what</th>' in words and '<td style="text-align:left">3</td>' in words
    assert "<strong>c</strong>" in page and "<strong>a" not in page
    starred = Table([{"x": Gap(0.1, 0.04, 0.2, True), "y": Gap(-0.1, -0.2, -0.04), "z": (1.0, 0.9, 1.1)}], digits=1)
    assert "+0.1 *<br>" in starred.to_html() and "-0.1<br>" in starred.to_html() and starred.to_html().count("*") == 1
    assert starred.words().split("\n")[1].split("  ") == [
        "+0.1 [+0.0, +0.2] *",
        "-0.1 [-0.2, -0.0]",
        "1.0 [0.9, 1.1]",
    ]
    assert Table([{"x": (-0.0001, float("nan"), float("nan"))}], digits=1).words() == "x\n0.0"
    assert Table([{"x": (-0.0001, -0.2, 0.0001)}], digits=1, signed=["x"]).words() == "x\n-0.0 [-0.2, +0.0]"


def test_samples_of_a_run_become_a_view():
    run = read_run(pl.data_dir() / "runs" / "poise-0")
    kept = samples_of(run)
    assert list(kept) == list(range(0, 101, 10)) and all(len(samples) == 24 for samples in kept.values())
    view = written(run, steps=(0, 60), problems=[9])
    shown = [["".join(r.pieces) for r in reading[0].responses] for reading in view.readings.values()]
    assert list(view.readings) == ["step 0", "step 60"]
    assert shown == [[kept[step][9]["greedy"], *kept[step][9]["sampled"]] for step in (0, 60)]
    assert list(written(run).readings) == ["step 0", "step 100"]


def test_a_span_has_no_negative_zero():
    assert span(-0.001, -0.02, 0.004) == "0.00 [-0.02, 0.00]"
    assert span(1.25, -0.04, 2.0, digits=1) == "1.2 [0.0, 2.0]"
