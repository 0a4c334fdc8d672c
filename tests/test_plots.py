"""Figures and widgets: what they draw is what they were given."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

import poise_lab as pl
from poise_lab import bench, plots
from poise_lab.plots import METRICS, bars, calibration, run_curves, strips, value_histogram
from poise_lab.variance import read_scores
from poise_lab.widgets import LiveCurves, Sliders, redraw_seconds


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


def test_a_slider_redraws():
    box = Sliders(lambda k, n: go.Figure(go.Scatter(x=[0, n], y=[0, k * n])), k=[1, 2, 3], n=([5, 6], 6))
    assert box.values == {"k": 1, "n": 6} and list(box.figure.data[0].y) == [0, 6]
    box.controls["k"].value = 3
    assert list(box.figure.data[0].y) == [0, 18]
    box.controls["n"].value = 5
    assert list(box.figure.data[0].y) == [0, 15] and list(box.figure.data[0].x) == [0, 5]


def test_a_slider_renames_the_axes():
    """What is drawn may have another unit and other ticks; all of it follows the slider, and the look stays."""
    drawn = {"seconds": [0, 1, 2], "tokens": [0, 500, 1000]}
    one = {"a": [(0.5, 0.4, 0.6)] * 3}
    box = Sliders(
        lambda budget: plots.lines(drawn[budget], one, f"by {budget}", budget, f"per {budget}"), budget=list(drawn)
    )
    template = box.figure.layout.template
    box.controls["budget"].value = "tokens"
    layout = box.figure.layout
    assert (layout.title.text, layout.xaxis.title.text, layout.yaxis.title.text) == (
        "by tokens",
        "tokens",
        "per tokens",
    )
    assert list(layout.xaxis.tickvals) == drawn["tokens"] and layout.template == template


LARGE = {f"baseline {k}": [(0.5 + k / 50, 0.4, 0.6)] * 30 for k in range(12)}  # more than any notebook draws
POINTS = np.array(LARGE["baseline 0"])
REDRAWN = {
    "lines": lambda k: plots.lines(range(1, 31), LARGE, f"{k}", "x", "y"),
    "panels": lambda k: plots.panels(
        {f"panel {i}": {name: (list(range(1, 31)), POINTS) for name in list(LARGE)[:4]} for i in range(4)}, f"{k}", "x", "y"
    ),
    "plane": lambda k: plots.bias_and_variance({f"baseline {i}": (0.1 * i, k) for i in range(20)}, f"{k}"),
    "bars": lambda k: bars({f"baseline {i}": (1.0 + k, 0.5, 2.0) for i in range(40)}, f"{k}", "x", "y"),
    "calibration": lambda k: calibration(np.linspace(0, 1, 1000), np.linspace(0, 1, 1000) ** k, f"{k}"),
}  # fmt: skip


@pytest.mark.parametrize("name", REDRAWN)
def test_a_slider_redraws_within_200_ms(name):
    box = Sliders(REDRAWN[name], k=([1, 2, 3], 2))
    assert redraw_seconds(box) < 0.2
    assert box.values == {"k": 2} and box.figure.layout.title.text in ("2", "Predicted and measured value")


def test_a_slow_redraw_is_seen():
    def slow(k):
        end = time.process_time() + 0.25
        while time.process_time() < end:
            pass
        return go.Figure(go.Scatter(x=[0], y=[k]))

    assert redraw_seconds(Sliders(slow, k=[1, 2]), moves=3) > 0.2


def test_live_curves_grow():
    curves = LiveCurves(["reward", "accuracy"], every=2)
    for step in range(4):
        curves({"step": step, "reward": step / 10, **({"accuracy": 0.5} if step % 2 == 0 else {})})
    assert list(curves.data[0].x) == [0, 1, 2]  # redrawn at every second step
    curves.redraw()
    assert list(curves.data[0].x) == [0, 1, 2, 3] and list(curves.data[0].y) == [0, 0.1, 0.2, 0.3]
    assert list(curves.data[1].x) == [0, 2]


def test_floor_of_the_bench_by_hand(qwen):
    """2 FLOP per weight: attention 16 x (32 + 16 + 16) + 32 x 16, MLP 3 x 16 x 32, head 101 x 16."""
    layer = 16 * (32 + 16 + 16) + 32 * 16 + 3 * 16 * 32
    assert bench.matmul_flops_per_token(qwen) == 2 * (3 * layer + 101 * 16)


def test_bench_compares_the_same_work(bundled):
    """Both sides of the comparison sample about as many tokens: neither stops early or pads its count."""
    task = pl.load_task(pl.TINY_TASKS).sample(24, seed=0)
    ours = pl.sample_rollouts(bundled, task, 4, seed=0).tokens
    theirs = bench._generate(bundled, [bundled.prompt_ids(p) for p in task], 4, 64)
    assert abs(ours - theirs) < 0.1 * ours


def test_bench_of_the_variance_compares_the_same_work(bundled):
    """One backward pass per response gives what the batched passes give: the same inner products, the same folds."""
    rollouts = pl.sample_rollouts(bundled, pl.load_task(pl.TINY_TASKS).sample(6, seed=0), 2, seed=0)
    ours, theirs = read_scores(bundled, rollouts), bench._one_by_one(bundled, rollouts)
    for a, b in ((ours.within, theirs.within), (ours.kept, theirs.kept)):
        assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * b.abs().max()
