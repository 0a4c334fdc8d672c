"""The parts of a report: what a curve has for each choice, who is compared with whom, what settings differ in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import many_settings

import poise_lab as pl
from poise_lab.runs import by_label
from poise_lab.show.curves import measured
from poise_lab.show.report import write_report
from poise_lab.show.report_parts import chart, more_metrics, paired, settings_told
from poise_lab.stats import p_value, surviving, verdict
from poise_lab.studies import arena

ARENA = pl.data_dir() / "arena"


def run(seed, accuracy, name="poise", **more) -> pl.RunRecord:
    """A run of ten tokens and two seconds a step; `more` goes to the config."""
    config = {"policy": "thinker", "task": "toy", "task_settings": {}, "baseline": {"name": name, "responses": 2},
              "train": {"seed": seed, "steps": 9, "eval_prompts": 4}, **more}  # fmt: skip
    metrics = [
        {"step": i, "accuracy": v, "accuracy_sums": v / 2, "tokens": 10 * i, "seconds": 2.0 * i}
        for i, v in enumerate(accuracy)
    ]
    return pl.RunRecord(Path(f"{name}-{seed}"), config, metrics)


def test_smoothing_is_the_mean_over_the_last_steps_by_hand():
    group = [run(0, [0.0, 1.0, 0.5, 0.1])]
    steps, points = measured(group, "accuracy", window=2)
    assert steps == [0, 1, 2, 3] and points[:, 0] == pytest.approx([0.0, 0.5, 0.75, 0.3])
    group[0].metrics = group[0].metrics[::3]  # measured at steps 0 and 3: two steps hold one measurement only
    assert measured(group, "accuracy", window=2)[1][:, 0] == pytest.approx([0.0, 0.1])


def test_the_band_of_a_smoothed_curve_is_that_of_smoothed_runs():
    group = [run(0, [0.0, 1.0]), run(1, [0.2, 0.0])]
    _, points = measured(group, "accuracy", window=5)
    assert points[1] == pytest.approx(pl.mean_interval([0.5, 0.1]))


def test_a_curve_has_its_numbers_for_every_choice():
    groups = by_label([run(0, [0.0, 1.0, 0.5]), run(1, [0.2, 0.6, 0.1]), run(0, [0.3, 0.3, 0.3], "rloo")])
    fig, _ = chart(groups, "accuracy")
    band, line, other = fig.data
    assert line.meta["x"] == {"step": [0, 1, 2], "tokens": [0, 10, 20], "seconds": [0, 2, 4]}
    assert line.meta["y"]["1"] == pytest.approx([0.1, 0.8, 0.3]) and line.meta["y"]["5"] == pytest.approx(
        [0.1, 0.45, 0.4]
    )
    assert (line.meta["setting"], band.meta["setting"], other.meta["setting"]) == (0, 0, 1)
    assert band.meta["x"]["tokens"] == [0, 10, 20, 20, 10, 0] and other.meta["y"]["20"] == pytest.approx([0.3] * 3)
    assert not chart(groups, "probe_r_fresh")[0].data


def test_tasks_are_shown_by_setting():
    runs = [run(0, [0.2, 0.4]), run(1, [0.4, 0.6]), run(0, [0.8, 1.0], "rloo")]
    assert more_metrics(runs, "accuracy_") == ["accuracy_sums"]
    fig, _ = chart(by_label(runs), "accuracy_sums")
    assert [list(trace.y) for trace in fig.data if trace.name] == [
        pytest.approx([0.15, 0.25]),
        pytest.approx([0.4, 0.5]),
    ]


def test_who_is_compared():
    """Same problems, same policy, two seeds in common; at the tokens of the thriftiest run, between its evaluations."""
    ours, theirs = [run(s, [0.0, 0.4, 0.8]) for s in (0, 1)], [run(s, [0.0, 0.2 + s / 100], "rloo") for s in (0, 1)]
    tokens, found = paired(by_label([*ours, *theirs]))
    assert tokens == 10
    assert found["poise x2", "rloo x2"] == ("better", pytest.approx(pl.mean_interval([0.2, 0.19])))
    assert found["rloo x2", "poise x2"][0] == "worse"
    for other in ({"policy": "other"}, {"task": "x"}, {"task_settings": {"max_terms": 2}}):
        assert paired(by_label([*ours, *(run(s, [0.0, 0.2], "rloo", **other) for s in (0, 1))]))[1] == {}
    asked_more = [run(s, [0.0, 0.2], "rloo") for s in (0, 1)]
    for one in asked_more:
        one.config["train"]["eval_prompts"] = 9
    assert paired(by_label([*ours, *asked_more]))[1] == {}
    assert paired(by_label([*ours, run(0, [0.0, 0.2], "rloo"), run(7, [0.0, 0.2], "rloo")]))[1] == {}
    for one in theirs:  # went on for a step, and was stopped before its evaluation: compared where it was evaluated
        one.metrics.append({"step": 2, "tokens": 20, "seconds": 4.0})
    assert paired(by_label([*ours, *theirs])) == (tokens, found)


def test_verdicts_of_recorded_methods():
    """Nine methods and more, seed by seed: what the report says is `stats` on accuracies read by hand."""
    recorded = [label for label in arena.METHODS if arena.whole(ARENA, label)]
    groups = {label: arena.runs(ARENA, label) for label in recorded}
    tokens, found = paired(by_label([run for group in groups.values() for run in group]))
    assert tokens == min(run.metrics[-1]["tokens"] for group in groups.values() for run in group)
    at = {label: [np.interp(tokens, *run.accuracy_by("tokens")) for run in group] for label, group in groups.items()}
    alone = {(a, b): verdict(at[a], at[b]) for a in at for b in at if a != b}
    kept = surviving({(a, b): p_value(gap, 5) for (a, b), (_, gap) in alone.items() if a < b})
    assert kept and {pair for pair, (word, _) in found.items() if word != "inconclusive" and pair[0] < pair[1]} == kept
    for pair, (word, gap) in found.items():
        assert gap == pytest.approx(alone[pair][1]) and word in (alone[pair][0], "inconclusive")


def test_what_settings_differ_in():
    common, own = settings_told(
        by_label([run(0, [0.1]), run(1, [0.1]), run(0, [0.1], "rloo", policy="other", date="d")])
    )
    assert own == {"poise x2": "policy: thinker, name: poise", "rloo x2": "policy: other, name: rloo"}
    assert common == {"task": "toy", "baseline.responses": 2, "train.steps": 9, "train.eval_prompts": 4}


def page(runs, tmp_path) -> str:
    write_report(runs, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_runs_of_both_engines_make_a_report(tmp_path):
    """Those of TRL have no accuracy by task."""
    html = page([pl.read_run(folder) for folder in sorted((pl.data_dir() / "engines").iterdir())], tmp_path)
    assert "id='by-task'" in html and "poise x2 on trl" in html


def test_seventeen_settings_in_few_pieces(tmp_path):
    """One row and one box a method; one figure a metric, and the configs once."""
    html = page(many_settings(), tmp_path)
    assert len(re.findall("name='setting'", html)) == 17 and html.count("<pre>") == 1 and "136 pairs" in html
    numbers = [json.loads(text) for text in re.findall(r"<script type='application/json'>(.*?)</script>", html, re.S)]
    accuracy = next(fig for fig in numbers if fig["layout"]["title"]["text"] == "Held-out accuracy")
    assert len({trace["meta"]["setting"] for trace in accuracy["data"]}) == 17 and not accuracy["layout"]["showlegend"]
    assert len(html) < 6_500_000
