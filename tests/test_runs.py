"""Run folders: what counts as seeds of one setting, and how a setting is called."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path

import pytest
from support import ToyTask, tiny_policy

import poise_lab as pl
from poise_lab.files import json_line
from poise_lab.runs import SETTINGS, RunRecord, by_label, format_table, resumed_config, what_differs
from poise_lab.show.curves import run_curves
from poise_lab.show.report import write_report
from poise_lab.studies.catalogue import STUDIES

CONFIG = {
    "policy": "thinker",
    "wording": "compact",
    "shots": 0,
    "task": "toy",
    "task_settings": {},
    "baseline": {"name": "poise", "responses": 2, "probe": {"inputs": ["prompt"], "ridge": 100.0}},
    "train": {"steps": 4, "seed": 0, "learning_rate": 1e-4, "checkpoint_every": 10},
    "date": "2026-01-01",
    "threads": 1,
    "versions": {"torch": "1"},
}
METRICS = [
    {"step": step, "accuracy": 0.5 + step / 10, "variance_reduction": 0.5, "tokens": 9, "seconds": 60.0}
    for step in range(5)
]


def run(name="r", **changes) -> RunRecord:
    """A record whose config differs from CONFIG: train__seed=1 is CONFIG["train"]["seed"] = 1; None takes a key away."""
    config = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = config
        for key in outer:
            place = place[key]
        place[last] = value
        if value is None:
            del place[last]
    return RunRecord(Path(name), config, METRICS)


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        (dict(policy="smollm2-135m"), "policy smollm2-135m"),
        (dict(task="gcd"), "task gcd"),
        (dict(task="gcd", task_settings={"max_numbers": 2}), "task gcd"),
        (dict(task_settings={"max_terms": 2}), "max terms 2"),
        (dict(shots=4), "shots 4"),
        (dict(train__learning_rate=2e-4), "learning rate 0.0002"),
        (dict(train__steps=8), "steps 8"),
        (dict(baseline__probe={"inputs": ["prompt"], "ridge": 1.0}), "probe ridge 1.0"),
        (dict(policy="other", train__learning_rate=2e-4), "policy other, learning rate 0.0002"),
    ],
)
def test_runs_with_other_settings_are_no_seeds_of_each_other(changes, label):
    runs = [run(f"{seed}-{i}", train__seed=seed, **more) for seed in (0, 1) for i, more in enumerate(({}, changes))]
    plain, other = by_label(runs)
    assert other == f"poise x2, {label}" and plain.startswith("poise x2, ")
    assert [[r.seed for r in group] for group in by_label(runs).values()] == [[0, 1], [0, 1]]
    assert [row["seeds"] for row in pl.compare(runs)] == [2, 2]
    assert [trace.name for trace in run_curves(runs, "accuracy").data if trace.name][-1].startswith(other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(date="2026-02-02", threads=8, versions={"torch": "2"}),
        dict(commit="abc", machine="arm", processes=2, device="cpu", seconds_per_token=[1.0]),
        dict(train__checkpoint_every=99),
        dict(wording=None, shots=None),  # recorded before there were such settings
        dict(baseline__probe={"inputs": ("prompt",), "ridge": 100.0}),
    ],
    ids=str,
)
def test_what_does_not_make_a_run_makes_no_setting(changes):
    (row,) = pl.compare([run("a"), run("b", train__seed=1, **changes)])
    assert row["run"] == "poise x2" and row["seeds"] == 2


def test_other_labels_do_not_matter():
    """What differs is said among runs of one label only: baselines have settings of their own."""
    runs = [run("a"), run("b", baseline={"name": "rloo", "responses": 8}, train__learning_rate=1.0)]
    assert list(by_label([*runs, run("c", engine="trl", baseline__layer=2)])) == [
        "poise x2",
        "rloo x8",
        "poise x2 on trl",
    ]


@pytest.mark.parametrize("other", ["a", "b"])
def test_the_same_run_twice_is_refused(other):
    """The same folder, or a copy of it: two of the same seed would be an interval of width 0."""
    runs = [run("a"), run("c", train__seed=1), run(other, date="2026-02-02")]
    sentence = rf"^a and {other} are one run: they have the same settings and the same seed; name one of them$"
    for use in (by_label, pl.compare, lambda runs: run_curves(runs, "accuracy")):
        with pytest.raises(pl.PoiseLabError, match=sentence):
            use(runs)


def test_settings_of_a_task_are_said_among_runs_of_that_task():
    configs = [dict(task="a", task_settings={"n": n}) for n in (1, 2)] + [dict(task="b", task_settings={"k": 3})]
    words = what_differs(configs)
    assert words[0] == ["task a", "n 1"] and words[1] == ["task a", "n 2"] and words[2][0] == "task b"
    assert not any("k 3" in word for said in words for word in said)


def test_a_long_setting_is_short_in_a_table_and_still_told_apart():
    """Two templates that differ in their middle."""
    texts = ["{%- for m in messages %}" + "\n|" * 50 + middle + " | " * 50 + "{%- endfor %}" for middle in "ab"]
    runs = [run(name, template=text) for name, text in zip("ab", texts, strict=True)]
    labels = list(by_label(runs))
    assert len(labels) == 2 and all(len(label) < 80 and label.isprintable() for label in labels)
    assert labels[0].startswith("poise x2, template {%- for m in")
    lines = format_table(pl.compare(runs)).split("\n")
    assert len(lines) == 4 and len({re.sub(r"\\\|", "", line).count("|") for line in lines}) == 1


def test_cells_of_a_table_break_no_row():
    assert format_table([{"a|b": "c\nd|e"}]) == "| a\\|b |\n| --- |\n| c d\\|e |"


@pytest.mark.parametrize("study", ["arena", "long", "when", "sums"])
def test_an_empty_folder_says_that_nothing_is_recorded(tmp_path, study):
    assert STUDIES[study].says(tmp_path) == "nothing is recorded"


def test_every_setting_of_a_run_is_compared(tmp_path):
    """All that must be the same to resume makes a run."""
    trainer = pl.Trainer(
        tiny_policy(), ToyTask(), pl.make_baseline("rloo"), pl.TrainConfig(layer=1), out=tmp_path / "r", progress=False
    )
    assert set(trainer._settings()) <= set(SETTINGS)


def test_a_run_without_an_evaluation_is_compared_and_reported(tmp_path):
    """As one on TRL is by default: what was not measured has no number."""
    measured, other = run("a"), run("b", train__seed=1)
    other.metrics = [{k: v for k, v in m.items() if k != "accuracy"} for m in METRICS]
    (row,) = pl.compare([other])
    assert all(math.isnan(row[name][0]) for name in ("accuracy at start", "accuracy at end", "lift"))
    assert row["tokens"][0] == 9
    assert pl.compare([measured])[0]["accuracy at end"][0] == pytest.approx(0.9)
    write_report([other], tmp_path / "report.html")
    assert "poise x2" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "file, text, says",
    [
        ("metrics.jsonl", "[1]\n", "metrics.jsonl is damaged"),
        ("config.json", '{"train": 5, "baseline": 3}', "is no run folder"),
        ("config.json", "[", "is no run folder"),
        ("config.json", json.dumps(CONFIG | {"baseline": {"name": "poise"}}), "does not say baseline.responses$"),
        ("config.json", json.dumps(CONFIG | {"train": {"seed": 0, "steps": "4"}}), "does not say train.steps$"),
        ("metrics.jsonl", '{"step": 0, "seconds": 1.0}\n', "is damaged: step 0 has no number of tokens$"),
    ],
)
def test_a_damaged_run_folder_is_one_sentence(tmp_path, file, text, says):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text("".join(map(json_line, METRICS)))
    assert pl.read_run(tmp_path).finished
    (tmp_path / file).write_text(text)
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.read_run(tmp_path)
    if file == "config.json":
        with pytest.raises(pl.PoiseLabError, match=says):
            resumed_config(tmp_path, CONFIG)


def test_runs_that_have_not_finished_are_named_among_the_seeds():
    """Of three seeds with 4 steps done, one was to make 8."""
    runs = [run("a", train__seed=0), run("b", train__seed=1), run("c", train__seed=2)]
    assert [row["seeds"] for row in pl.compare(runs)] == [3] and "unfinished" not in pl.compare(runs)[0]
    runs[1].config["train"]["steps"] = 8
    runs[0].config["train"]["steps"] = runs[2].config["train"]["steps"] = 8
    for finished in (runs[0], runs[2]):
        finished.metrics = [*finished.metrics[:-1], finished.metrics[-1] | {"step": 8}]
    other = run("d", baseline__responses=4)
    found = pl.compare([*runs, other])
    assert [(row["seeds"], row["unfinished"]) for row in found] == [(3, "b at step 4 of 8"), (1, "-")]
