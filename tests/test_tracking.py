"""What watches a run changes nothing in it, and what is recorded is complete."""

from __future__ import annotations

import numpy as np

import poise_lab as pl
from poise_lab import tracking
from poise_lab.tasks import TINY_TASKS, load_task

SMALL = pl.TrainConfig(steps=2, prompts=8, eval_prompts=8, eval_responses=2, eval_every=2, checkpoint_every=2)


def run(baseline, out):
    pl.Trainer(pl.load_policy("tiny"), load_task(TINY_TASKS), baseline, SMALL, out=out, progress=False).run()
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
