"""The benchmark: both sides do the same work, and its floors and ratios are what they say."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import poise_lab as pl
from poise_lab.sampler import Sampler, step_seed
from poise_lab.studies import bench, bench_shared, bench_training, bench_vllm
from poise_lab.variance import read_scores


def test_floor_of_the_bench_by_hand(qwen):
    """2 FLOP per weight: attention 16 x (32 + 16 + 16) + 32 x 16, MLP 3 x 16 x 32, head 101 x 16."""
    layer = 16 * (32 + 16 + 16) + 32 * 16 + 3 * 16 * 32
    assert bench.matmul_flops_per_token(qwen) == 2 * (3 * layer + 101 * 16)


def test_bench_beside_a_busy_process(monkeypatch):
    """Each time is of a process with its setting, and both ratios are of medians."""
    monkeypatch.setattr(bench_shared, "usable", lambda: 2)
    assert bench_shared._seconds_beside(1, "usable", {"LOKY_MAX_CPU_COUNT": "1"}) == 1
    with pytest.raises(pl.PoiseLabError, match="the process of nothing ended with status 1"):
        bench_shared._seconds_beside(0, "nothing", {})
    times = {("{}", 0): [4, 1, 2], ("{}", 1): [3, 3, 9]}
    times |= {("one", 0): [2, 2, 2], ("one", 1): [2, 2, 2], ("many", 0): [1, 1, 1], ("many", 1): [5, 5, 5]}
    keys = {None: "{}", "1": "one", "2": "many"}

    def timed(busy, work, settings):
        return times[keys[settings.get("OMP_NUM_THREADS")], busy].pop()

    monkeypatch.setattr(bench_shared, "_seconds_beside", timed)
    rows = bench_shared.bench_shared("work", "case")
    assert [row["of the best alone"] for row in rows] == [2, 2, 1]
    assert [row["of its time alone"] for row in rows] == [1.5, 1, 5]
    assert rows[2]["case"] == "case, as installed, 2 threads"


def test_bench_of_the_update(monkeypatch):
    """Three products over every token, a prompt's once for all of its responses; the rates are those it is given."""
    few = pl.TrainConfig(prompts=4, minibatches=1, eval_prompts=2)
    monkeypatch.setattr(bench_training, "TrainConfig", lambda: few)
    row = bench_training.bench_update(lambda policy: 1e9, lambda: 50e9)
    task, policy = pl.load_task(pl.TINY_TASKS), pl.load_policy("thinker")
    sampler = Sampler(policy, task, 4, seed=0, exclude=task.sample(2, step_seed(0, 0, "held-out")), keep=(2, 4))
    sampler.begin(1)
    rollouts = pl.make_baseline("poise").sample(sampler)
    tokens = sum(len(ids) for ids in rollouts.prompt_ids) + int(rollouts.mask.sum())
    assert row["GFLOP/s"] == pytest.approx(3 * tokens / row["s"], rel=0.05)  # seconds are rounded to milliseconds
    assert row["of a large product's rate"] == pytest.approx(row["GFLOP/s"] / 50, abs=0.006)


def test_bench_of_the_engines(monkeypatch):
    seconds = {"lab": iter([2.0, 1.0, 3.0]), "trl": iter([6.0, 4.0, 6.0])}
    monkeypatch.setattr(bench_training, "step_seconds", lambda engine, flags: next(seconds[engine]))
    monkeypatch.setattr(bench_training.importlib.util, "find_spec", lambda name: object())
    row = bench_training.bench_engines("SmolLM2, 32 prompts x 2")
    assert (row["lab, s"], row["trl, s"], row["ratio"]) == (2, 6, 3)
    monkeypatch.setattr(bench_training.importlib.util, "find_spec", lambda name: None)
    assert "extra" in bench_training.bench_engines("SmolLM2, 32 prompts x 2")["not measured"]


def test_bench_beside_vllm(monkeypatch):
    """A row for each length, with the median of the ratios, not the ratio of the medians; the round that warms up is left out."""
    rates = {
        ("ours", 8): [100, 300, 200],
        ("vLLM", 8): [100, 100, 400],
        ("ours", 64): [5, 5, 5],
        ("vLLM", 64): [10, 10, 10],
    }

    class Side:  # in place of a process
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def apply(self, function, args):
            if function is bench_vllm._load:
                self.side = args[0]
                return None
            limit, seed = args
            return rates[self.side, limit][seed - 1] if seed else 1e9

    monkeypatch.setattr(bench_vllm.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=lambda n: Side()))
    monkeypatch.setattr(bench_vllm.importlib.util, "find_spec", lambda name: object())
    short, long = bench_vllm.bench_vllm("bfloat16")
    assert (short["ours, tokens/s"], short["vLLM, tokens/s"], short["ratio"]) == (200, 100, 1)
    assert long["ratio"] == 0.5 and long["case"].endswith("32 prompts x 8 x up to 64 tokens")
    monkeypatch.setattr(bench_vllm.importlib.util, "find_spec", lambda name: None)
    assert "make test-vllm" in bench_vllm.bench_vllm("bfloat16")[0]["not measured"]


def test_seconds_of_a_step_are_those_of_a_run(monkeypatch):
    """The first two steps warm up, the last one evaluates."""

    def as_if_run(command, **_):
        out = Path(command[command.index("--out") + 1])
        out.mkdir()
        lines = [{"step": i, "seconds": at} for i, at in enumerate((9, 10, 20, 22, 24, 27, 90))]
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(bench_training.subprocess, "run", as_if_run)
    assert bench_training.step_seconds("lab", []) == 2


def test_bench_compares_the_same_work(bundled):
    """Both sides of the comparison sample about as many tokens: neither stops early or pads its count."""
    task = pl.load_task(pl.TINY_TASKS).sample(24, seed=0)
    ours = pl.sample_rollouts(bundled, task, 16, seed=0).tokens
    theirs = bench._generate(bundled, [bundled.prompt_ids(p) for p in task], 16, 64)
    assert abs(ours - theirs) < 0.1 * ours


def test_bench_of_the_variance_compares_the_same_work(bundled):
    """One backward pass per response gives what the batched passes give: the same inner products, the same folds.

    Held against the float64 policy: a float32 product over 800,768 numbers is off by up to 1.5e-4, by processor.
    """
    rollouts = pl.sample_rollouts(bundled, pl.load_task(pl.TINY_TASKS).sample(6, seed=0), 2, seed=0)
    exact = dataclasses.replace(bundled, model=copy.deepcopy(bundled.model).double())
    ours, theirs = read_scores(bundled, rollouts), bench._one_by_one(exact, rollouts)
    for a, b in ((ours.within, theirs.within), (ours.kept, theirs.kept)):
        assert b.dtype == torch.float64 and a.shape == b.shape
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_bench_of_the_variance_takes_as_many_prompts_as_it_says(monkeypatch):
    monkeypatch.setattr(bench, "matmul_rate", lambda: 1e12)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    row = bench.bench_variance(prompts=6, responses=2, sample=4)
    assert row["case"] == "gradient variance, 6 prompts x 2" and row["ours, s"] >= 0
    assert "one backward pass per response, s (from 4 responses)" in row
