"""What watches a run changes nothing in it, and what is recorded is complete."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import poise_lab as pl
from poise_lab.studies import tracking
from poise_lab.tasks import TINY_TASKS, load_task

SMALL = pl.TrainConfig(steps=2, prompts=8, eval_prompts=8, eval_responses=2, eval_every=2, checkpoint_every=2)


def run(baseline, out):
    pl.Trainer(pl.load_policy("thinker"), load_task(TINY_TASKS), baseline, SMALL, out=out, progress=False).run()
    return [{k: v for k, v in m.items() if "seconds" not in k and "memory" not in k} for m in pl.read_run(out).metrics]


def test_watchers_change_nothing(tmp_path):
    assert run(tracking.Watched(), tmp_path / "a") == run(pl.make_baseline("poise"), tmp_path / "b")


def test_watchers_learn_and_buffers_keep_their_length(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "FROZEN_PROMPTS", 8)
    made = tracking.track(0, tmp_path, SMALL, every=1, kept=(2,))
    assert [look["step"] for look in made["looks"]] == [0, 1, 2]
    assert set(made["looks"][0]["models"]) == {"frozen at step 0", "critic, online"}
    assert {f"refitted, {rows} rows" for rows in tracking.BUFFERS} < set(made["looks"][1]["models"])
    mae = [look["models"]["critic, online"]["mae"] for look in made["looks"]]
    assert mae[0] != mae[1] != mae[2]
    assert (tmp_path / "rows" / "seed-0-step-2.safetensors").is_file() and not list(tmp_path.glob("*.partial"))


def test_the_frozen_probe_is_fitted_on_none_of_the_held_out_problems(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, eval_prompts=192)  # seed 0: 9 would be among them
    task, asked = load_task(TINY_TASKS), []
    trainer = pl.Trainer(pl.load_policy("thinker"), task, tracking.Watched(), config, out=tmp_path, progress=False)

    def sample(policy, problems, *_, **__):
        asked.extend(problems)
        raise StopIteration

    monkeypatch.setattr(tracking, "sample_rollouts", sample)
    with pytest.raises(StopIteration):
        tracking.start_probe(trainer)
    assert len(asked) == tracking.FROZEN_PROMPTS
    assert not {problem.question for problem in asked} & {problem.question for problem in trainer.held_out}


def test_a_buffer_holds_the_newest_rows(tmp_path):
    watched = tracking.Watched(rows=(8, 1000))
    run(watched, tmp_path / "a")
    assert [buffer.rows for buffer in watched.watching.values()] == [8, 2 * 8 * 2]
    newest, all_rows = (buffer.data()[0] for buffer in watched.watching.values())
    assert np.array_equal(newest, all_rows[-8:])


def test_recorded_seeds_are_complete():
    seeds = tracking.recorded(pl.data_dir() / "tracking")
    assert len(seeds) == tracking.SEEDS
    steps, curves = tracking.curves(seeds)
    assert steps == list(range(0, tracking.STEPS + 1, tracking.EVERY))
    for name, points in curves.items():
        assert np.isnan(points[0]).all() == name.startswith("refitted") and not np.isnan(points[1:]).any()
    for seed in seeds:
        assert seed["config"]["train"]["steps"] == tracking.STEPS and seed["provenance"]["date"]


def test_paired_differences_by_hand():
    def seed(shift):
        looks = [{"step": 0, "models": {"a": {"mae": 0.9}}}]  # b was not yet fitted
        for step, gap in ((10, 0.0), (20, 0.2), (30, 0.0), (40, 0.2), (50, 0.3)):
            mae = 0.1 + 0.1 * shift
            looks.append({"step": step, "models": {"a": {"mae": mae + gap + 0.01 * shift}, "b": {"mae": mae}}})
        return {"looks": looks}

    seeds = [seed(shift) for shift in (-1, 0, 1)]  # far apart, and the difference is not
    found = tracking.differences(seeds, "a", "b", "mae")
    assert list(found) == [10, 20, 30, 40, 50]
    assert np.allclose(found[20], (0.2, 0.2 - 0.0248, 0.2 + 0.0248), atol=1e-3)
    assert tracking.behind_from(seeds, "a", "b", "mae") == 40  # at 30 it was not
    assert tracking.behind_from(seeds, "b", "a", "mae") is None
    pairs = tracking.differences(seeds, "a", "b", "mae", looks=2)
    assert list(pairs) == [20, 40] and np.isclose(pairs[20][0], 0.1)


def test_recorded_a_frozen_probe_is_behind_within_twenty_steps_and_the_longest_buffer_is_not_the_best():
    seeds = tracking.recorded(pl.data_dir() / "tracking")
    assert {seed["config"]["policy"] for seed in seeds} == {"thinker"}
    frozen, refitted = "frozen at step 0", "refitted, 4096 rows"
    for measure, sign in (("r", 1), ("mae", -1), ("variance_reduction", 1)):
        assert tracking.behind_from(seeds, frozen, refitted, measure) == 20
        _, points = tracking.curves(seeds, measure)
        assert min(points, key=lambda name: sign * points[name][-5:, 0].mean()) == frozen
        gaps = tracking.differences(seeds, refitted, "refitted, 38400 rows", measure, looks=5)[200]
        assert min(sign * gaps[1], sign * gaps[2]) > 0
    _, r = tracking.curves(seeds, "r")
    assert r[frozen][0, 0] > 0.6 and r[frozen][-1, 0] < 0.2 < 0.7 < r[refitted][-1, 0]
    _, reduction = tracking.curves(seeds, "variance_reduction")
    assert reduction[frozen][-1, 2] < 0
