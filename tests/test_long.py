"""Long runs: what is kept of them, and how they are read."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch

from poise_lab import TrainConfig
from poise_lab.cli import main
from poise_lab.files import read_json
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
    rows = long.says(tmp_path).splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["0", "100", "2"] and rows[0].startswith("| rloo x2 | 2 |")
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
