"""Long runs: what is kept of them, and how they are read."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch

from poise_lab import TrainConfig
from poise_lab.cli import main
from poise_lab.files import json_line, read_json, write_text
from poise_lab.runs import read_lines, read_run
from poise_lab.sources import data_dir
from poise_lab.studies import arena, long, trained


def test_runs_are_the_arenas_but_for_their_length():
    runs = long.runs()
    assert len(runs) == len(long.METHODS) * len(arena.SEEDS)
    for name, flags in runs.items():
        short = read_run(data_dir() / "arena" / "runs" / name).config["train"]
        said = dict(zip(flags.split()[::2], flags.split()[1::2], strict=True))
        assert float(said["--learning-rate"]) == short["learning_rate"] and int(said["--seed"]) == short["seed"]
        assert int(said["--prompts"]) == short["prompts"] and int(said["--steps"]) == 6 * short["steps"]


def test_a_long_run_keeps_its_evaluations_its_last_texts_and_its_mistakes(tmp_path, monkeypatch, capsys):
    quick = "--steps 2 --eval-every 1 --eval-responses 2 --eval-prompts 4 --minibatches 1 --max-new-tokens 16"
    monkeypatch.setattr(arena, "METHODS", {"rloo x2": ("rloo", 2, 4)})
    flags = {f"rloo-x2-{seed}": arena.flags("rloo x2", 1e-4, seed, quick) for seed in (0, 1)}
    monkeypatch.setattr(long, "runs", lambda: flags)
    monkeypatch.setattr(long, "STEPS", 2)

    def train(command, **options):
        main(command[3:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trained, "subprocess", SimpleNamespace(run=train, DEVNULL=None))
    record = trained.record
    monkeypatch.setattr(trained, "record", lambda *a, **kw: record(*a, at_once=1, **kw))
    assert set(long.missing(tmp_path)) == set(flags)
    long.record(tmp_path)
    assert not long.missing(tmp_path)
    run = tmp_path / "rloo-x2-0"
    kept = {"config.json", "metrics.jsonl", "final.json", "samples.jsonl", "mistakes.json"}
    assert {path.name for path in run.iterdir()} == kept
    assert [record["step"] for record in read_lines(run / "samples.jsonl")] == [2]
    assert [metrics["step"] for metrics in read_run(run).metrics] == [0, 1, 2]
    counted = read_json(run / "mistakes.json")
    totals = {setting: sum(n for _, n in levels.values()) for setting, levels in counted.items()}
    of_task = {setting.split()[0]: n for setting, n in totals.items()}
    assert all(of_task[setting.split()[0]] == n for setting, n in totals.items())  # each splits the same responses
    assert sum(of_task.values()) == 4 * arena.FINAL_RESPONSES
    assert [(row["method"], row["seeds"], row["step"]) for row in long.rows(tmp_path)] == [
        ("rloo x2", 2, step) for step in long.SHOWN
    ]
    assert "minus" not in long.says(tmp_path)  # nothing that is asked about has both its methods
    capsys.readouterr()


def test_a_long_run_that_is_stopped_while_it_is_finished_can_be_finished(tmp_path, monkeypatch):
    """Stopped after each thing that is written in turn, and called again."""
    recorded = data_dir() / "runs" / "poise-0"
    last = read_lines(recorded / "samples.jsonl")[-1]
    evaluated = [metrics for metrics in read_run(recorded).metrics if "accuracy" in metrics]
    monkeypatch.setattr(long, "mistakes", lambda run: {})
    monkeypatch.setattr(arena, "finished", lambda run: (None, [], TrainConfig()))
    monkeypatch.setattr(arena, "evaluate", lambda *_: ({}, []))
    left = [0]

    def stopping(write):
        def then_stop(path, content):
            write(path, content)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return then_stop

    for module in (long, arena):
        for name in ("write_json", "write_text"):
            monkeypatch.setattr(module, name, stopping(getattr(module, name)))
    for writes in (1, 2, 3, 4):
        run = shutil.copytree(recorded, tmp_path / str(writes))
        left[0] = writes
        with pytest.raises(KeyboardInterrupt):
            long.finish(run)
        assert read_run(run).finished
        long.finish(run)
        assert read_lines(run / "samples.jsonl") == [last] and read_run(run).metrics == evaluated


def test_mistakes_are_counted_by_the_size_of_the_problem(monkeypatch):
    """Sums of two terms: one response of three wrong, half right counts as wrong; of five terms: all wrong, twice."""
    sizes = [SimpleNamespace(task="chain_sum", difficulty={"num_terms": n}) for n in (2.0, 5.0, 5.0)]
    config = dataclasses.replace(TrainConfig(), eval_responses=3)
    monkeypatch.setattr(long.arena, "finished", lambda run: (None, sizes, config))
    rewards = torch.tensor([[1.0, 0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    monkeypatch.setattr(long, "sample_rollouts", lambda *_, **__: SimpleNamespace(rewards=rewards))
    assert long.mistakes("run") == {"chain_sum num_terms": {"2.0": [1, 3], "5.0": [6, 6]}}


def _curve(tmp_path, label, seed, accuracies):
    """A run of one method and seed, with a held-out accuracy at step 100 and at the end."""
    run = tmp_path / arena.folder_of(label, seed)
    shutil.copytree(data_dir() / "arena" / "runs" / arena.folder_of(label, seed), run)
    steps = zip((long.SHORT, long.STEPS), accuracies, strict=True)
    write_text(
        run / "metrics.jsonl",
        "".join(json_line({"step": step, "accuracy": a, "tokens": 1, "seconds": 1.0}) for step, a in steps),
    )


def test_differences_are_over_the_seeds_that_both_have_and_their_change_is_theirs(tmp_path):
    """By hand: at step 100 POISE is behind by 0.1 and 0.2 (mean -0.15), at the end ahead by 0.1 and -0.1 (0)."""
    for label, seed, accuracies in (
        ("poise x2", 0, (0.9, 0.9)), ("poise x2", 1, (0.5, 0.8)), ("poise x2", 2, (0.5, 0.8)),
        ("none x1", 1, (0.6, 0.7)), ("none x1", 2, (0.7, 0.9)),
    ):  # fmt: skip
        _curve(tmp_path, label, seed, accuracies)
    found = long.differences(tmp_path)
    means = [
        found["poise x2 minus none x1", "sampled accuracy", when].mean for when in ("step 100", "step 600", "change")
    ]
    assert means == pytest.approx([-0.15, 0.0, 0.15])
    # t of one degree of freedom: 12.706 standard errors of 0.05
    assert found["poise x2 minus none x1", "sampled accuracy", "step 100"].low == pytest.approx(
        -0.15 - 12.706 * 0.05, abs=1e-3
    )
    assert not any(gap.kept for gap in found.values())


def test_of_three_differences_one_that_is_off_zero_alone_need_not_survive(tmp_path, monkeypatch):
    """Step 100: mean 0.15, standard error 0.05, t = 3, p = 0.040, twice that counted. At the end p = 2e-5."""
    monkeypatch.setattr(long, "COMPARED", ("sampled accuracy",))
    gaps = zip((0.1, 0.3, 0.0, 0.2, 0.15), (0.1, 0.12, 0.1, 0.12, 0.11), strict=True)
    for seed, ahead in enumerate(gaps):
        _curve(tmp_path, "poise x2", seed, [0.5 + gap for gap in ahead])
        _curve(tmp_path, "none x1", seed, (0.5, 0.5))
    found = {when: gap for (_, _, when), gap in long.differences(tmp_path).items()}
    assert found["step 100"].low > 0
    assert {when: gap.kept for when, gap in found.items()} == {"step 100": False, "step 600": True, "change": False}
    (row,) = long.beside(tmp_path)
    assert str(row["step 600"]) == "+0.110 [+0.098, +0.122] *" and not row["step 100"].kept


def test_what_is_left_is_a_mean_over_the_seeds_that_were_asked_such_a_problem(tmp_path):
    """By hand: 1 of 4 and 3 of 4 wrong at size 2, means 0.25 and 0.75; size 10, of one seed alone, comes last."""
    for seed, levels in enumerate(({"10": [1, 2], "2.0": [1, 4]}, {"2.0": [3, 4]})):
        _curve(tmp_path, "rloo x2", seed, (0.5, 0.5))
        run = tmp_path / arena.folder_of("rloo x2", seed)
        (run / "mistakes.json").write_text(json_line({"chain_sum num_terms": levels}))
    two, ten = long.left(tmp_path, ["chain_sum num_terms"])
    assert (two["problems"], ten["problems"]) == ("chain_sum num_terms 2", "chain_sum num_terms 10")
    assert two["rloo x2"][0] == pytest.approx(0.5) and ten["rloo x2"][0] == 0.5
    # two seeds 0.25 off their mean: a standard error of 0.25
    assert two["rloo x2"][2] == pytest.approx(0.5 + 12.706 * 0.25, abs=1e-3)
