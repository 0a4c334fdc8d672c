"""The recipe: resumable jobs, what the budget means, and how runs are read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

import poise_lab as pl
from poise_lab import stats
from poise_lab.files import read_json
from poise_lab.runs import RunRecord, read_metrics
from poise_lab.studies import common, showdown, verdicts

TRAIN = tuple(
    dict(
        steps=3, eval_every=2, eval_prompts=4, eval_responses=2, checkpoint_every=1, max_new_tokens=24, minibatches=2
    ).items()
)


def run(label="rloo", accuracy=(0.5, 0.6, 0.8), tokens=(0, 100, 200), price=0.02, seed=0) -> RunRecord:
    """Evaluated at steps 0, 2 and 4; `price` is the median of its seconds per token."""
    metrics = []
    for step in range(5):
        m = {"step": step, "tokens": tokens[0] + (tokens[2] - tokens[0]) * step / 4, "responses": 10 * step,
             "gradient_norm": 1.0, "entropy": 0.2, "peak_memory_mb": 500.0}  # fmt: skip
        if step % 2 == 0:
            m["accuracy"] = accuracy[step // 2]
        metrics.append(m)
    train = {"seed": seed, "steps": 4, "learning_rate": 1e-4}
    prices = [price / 2, price, 9 * price]
    config = {"baseline": {"name": label, "responses": 2}, "train": train, "seconds_per_token": prices}
    return RunRecord(None, config, metrics)


def test_its_baselines_are_the_librarys_and_sample_the_same_number_of_responses():
    assert {m.baseline for m in showdown.METHODS} <= set(pl.BASELINES)
    for m in showdown.METHODS:
        greedy = m.prompts if m.baseline == "remax" else 0
        assert m.baseline == "dapo" or m.prompts * m.responses + greedy == showdown.BUDGET, m
    assert showdown.SEARCH_SEED not in showdown.SEEDS and len(set(showdown.SEEDS)) >= 5
    assert len(showdown.LEARNING_RATES) == 3


def test_spent_in_tokens_and_at_the_price_of_a_token():
    assert verdicts.spent(run(), "tokens")[0].tolist() == [0, 100, 200]
    assert verdicts.spent(run(price=0.03), "seconds")[0].tolist() == pytest.approx([0, 3, 6])
    assert verdicts.spent(run(), "seconds")[1].tolist() == [0.5, 0.6, 0.8]
    unpriced = run()
    del unpriced.config["seconds_per_token"]
    assert verdicts.spent(unpriced, "tokens")[0].tolist() == [0, 100, 200]


def test_accuracy_at_and_spent_to_by_hand():
    assert verdicts.accuracy_at(run(), "tokens", 150) == pytest.approx(0.7)
    assert verdicts.spent_to(run(), "tokens", 0.7) == pytest.approx(150)
    assert verdicts.spent_to(run(), "seconds", 0.55) == pytest.approx(1)
    assert math.isnan(verdicts.spent_to(run(), "tokens", 0.9))
    assert verdicts.spent_to(run(accuracy=(0.5, 0.4, 0.6)), "tokens", 0.5) == pytest.approx(
        150
    )  # counted after training
    for accuracy in ((0.8, 0.75, 0.8), (0.7, 0.7, 0.7), (0.7, 0.8, 0.9)):  # reached before the first step
        assert verdicts.spent_to(run(accuracy=accuracy), "tokens", 0.7) == 0


def test_equal_budget_is_what_every_run_has_spent():
    runs = [run("a", seed=s, tokens=(0, 100, 200)) for s in (0, 1)] + [
        run("b", seed=s, tokens=(0, 50, 100)) for s in (0, 1)
    ]
    rows = {row["method"]: row for row in verdicts.summary(runs)}
    assert rows["b x2"]["accuracy at equal tokens"][0] == pytest.approx(0.8)
    assert rows["a x2"]["accuracy at equal tokens"][0] == pytest.approx(0.6)  # at 100 of its 200 tokens
    assert list(rows) == ["b x2", "a x2"]


def test_what_a_price_costs_is_uncertain():
    """The rounds' spread is in the interval at equal seconds, not in the one at equal tokens; the medians are the same."""

    def runs(prices):
        found = []
        for label, lift in (("a", 0.1), ("b", 0.09)):
            for seed in range(3):
                one = run(label, accuracy=(0.5, 0.6 + lift, 0.6 + 2 * lift + 0.001 * seed), seed=seed)
                one.config["seconds_per_token"] = prices[label]
                found.append(one)
        return found

    calm = runs({"a": [0.02] * 5, "b": [0.02] * 5})
    noisy = runs({"a": [0.01, 0.015, 0.02, 0.03, 0.04], "b": [0.02] * 5})
    shared = runs({label: [0.01, 0.015, 0.02, 0.03, 0.04] for label in "ab"})
    pair = "a x2", "b x2"
    difference = verdicts.verdicts(calm, "tokens")[pair][1]
    assert verdicts.verdicts(calm, "seconds")[pair][1] == pytest.approx(difference)
    assert verdicts.verdicts(noisy, "tokens")[pair] == verdicts.verdicts(calm, "tokens")[pair]
    word, (mean, low, high) = verdicts.verdicts(noisy, "seconds")[pair]
    assert word == "inconclusive" and low < 0 < high and mean == pytest.approx(0.02)
    assert verdicts.verdicts(calm, "seconds")[pair][0] == "better"
    # a round that was slow for everybody changes no difference
    assert verdicts.verdicts(shared, "seconds")[pair][1] == pytest.approx(difference)
    (mean, low, high), seeds = verdicts.ratio_to(noisy, *pair, "seconds", 0.65)
    assert seeds == 3 and low < 1 < high and mean == pytest.approx(75 / (100 * 0.15 / 0.19), rel=0.01)


def test_learning_rate_at_the_edge_of_the_search_is_marked():
    rows = {}
    for rate in showdown.LEARNING_RATES:
        one = run()
        one.config["train"]["learning_rate"] = rate
        rows[rate] = verdicts.summary([one])[0]["learning rate"]
    assert rows == {5e-5: "5e-05, edge", 1e-4: "0.0001", 2e-4: "0.0002, edge"}


def test_short_run_is_compared_where_it_ended():
    runs = [run("a", accuracy=(0.5, 0.6, 0.8), seed=s) for s in (0, 1)]
    short = run("mine", accuracy=(0.5, 0.6, 0.65), tokens=(0, 50, 100), seed=1)
    found = verdicts.verdicts(runs, short={"mine": short})
    word, (difference, low, _) = found["mine", "a x2"]
    assert word == "inconclusive" and difference == pytest.approx(0.05) and math.isnan(low)
    assert found["a x2", "mine"][1][0] == pytest.approx(-0.05)
    fig = verdicts.verdict_matrix(runs, ["a x2"], {"mine": short})
    assert "mine" in str(fig.data[0].y)
    assert math.isnan(verdicts.accuracy_at(short, "tokens", 150))


def test_a_second_network_is_counted_and_a_mean_holds_nothing(bundled):
    sizes = {}
    for name in ("none", "rloo", "critic", "ppo"):
        baseline = pl.make_baseline(name)
        baseline.start(bundled)
        if name in ("critic", "ppo"):
            problems = pl.load_task(pl.TINY_TASKS).sample(4, 0)
            baseline.update(pl.sample_rollouts(bundled, problems, 1, seed=0), None)
        sizes[name] = showdown.held_bytes(baseline)
    weights = sum(p.numel() for p in bundled.model.base_model.parameters())
    assert sizes["none"] == sizes["rloo"] == 0
    assert sizes["ppo"] == sizes["critic"] >= 3 * 4 * weights  # float32 weights and Adam's two moments


def test_refresh_replaces_what_stands_between_the_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- showdown -->\nold\n<!-- /showdown -->\nafter\n")
    runs = [run(label.split()[0], seed=s) for label in verdicts.ON_VERDICTS for s in (0, 1)]
    for each in runs:
        each.config["baseline"]["responses"] = 1 if each.config["baseline"]["name"] in ("constant", "none") else 2
    for _ in range(2):
        common.refresh(readme, "showdown", verdicts.quote(runs))
        text = readme.read_text()
        assert text == f"before\n<!-- showdown -->\n{verdicts.quote(runs)}\n<!-- /showdown -->\nafter\n"
    assert "- `poise x2` at equal seconds: inconclusive against" in text


def test_verdict_needs_an_interval_off_zero():
    assert stats.verdict([0.8, 0.81, 0.79], [0.7, 0.7, 0.7])[0] == "better"
    assert stats.verdict([0.7, 0.7, 0.7], [0.8, 0.81, 0.79])[0] == "worse"
    word, (mean, low, high) = stats.verdict([0.9, 0.6, 0.8], [0.7, 0.7, 0.7])
    assert word == "inconclusive" and low < 0 < high and mean == pytest.approx(0.2 / 3)


def test_holm_by_hand():
    """m = 4: 0.01 x 4, 0.015 x 3 = 0.045, 0.03 x 2 = 0.06, and 0.05 x 1 is held at the 0.06 before it."""
    assert stats.holm([0.03, 0.01, 0.05, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert stats.holm([0.9, 0.6]) == [1.0, 1.0]


def test_p_value_of_an_interval_is_that_of_the_paired_t_test():
    differences = [0.1, 0.3, 0.2, 0.45]
    interval = stats.mean_interval(differences)
    assert stats.p_value(interval, 4) == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert math.isnan(stats.p_value(stats.mean_interval([0.1]), 1))
    assert stats.p_value((0.1, 0.1, 0.1), 3) == 0 and stats.p_value((0.0, 0.0, 0.0), 3) == 1


def test_a_verdict_that_does_not_survive_the_number_of_pairs():
    """The interval of b - a lies off zero with p = 0.019, which three pairs make 0.057; a clearer one stays."""

    def kept(gains):
        ends = {"a": (0.5, 0.5, 0.5), "b": [0.5 + gain for gain in gains], "c": (0.2, 0.8, 0.9)}
        runs = [run(name, seed=s, accuracy=(0.3, x, x)) for name, xs in ends.items() for s, x in enumerate(xs)]
        assert verdicts.verdicts(runs)["b x2", "a x2"][0] == "better"
        return verdicts.surviving(runs)

    assert kept((0.1, 0.12, 0.16)) == {}
    assert kept((0.1, 0.101, 0.102)) == {("a x2", "b x2"): "worse", ("b x2", "a x2"): "better"}


def test_verdicts_pair_the_seeds():
    """Seeds differ by far more than the methods do; paired, the difference shows whatever the order of the runs."""
    base = [0.5, 0.8, 0.3]
    runs = [run("a", accuracy=(0, 0, b + 0.02 + 0.001 * s), seed=s) for s, b in enumerate(base)]
    runs += [run("b", accuracy=(0, 0, b), seed=s) for s, b in reversed(list(enumerate(base)))]
    found = verdicts.verdicts(runs)
    assert found["a x2", "b x2"][0] == "better" and found["b x2", "a x2"][0] == "worse"
    assert found["a x2", "b x2"][1][0] == pytest.approx(0.021)


def test_interrupted_job_goes_on_and_leaves_a_run_folder(tmp_path, monkeypatch):
    method = showdown.Method("poise", 2, 4)
    whole, cut = (showdown.Job(method, 1e-3, 7, tmp_path / name, TRAIN) for name in ("whole", "cut"))
    record = whole()
    assert record.finished and {f.name for f in record.folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
    }
    assert record.config["train"]["learning_rate"] == 1e-3 and record.seed == 7 and record.label == "poise x2"
    step = pl.Trainer.train_step
    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "train_step", lambda self, n: 1 / 0 if n == 3 else step(self, n))
        with pytest.raises(ZeroDivisionError):
            cut()
    assert not cut.folder.exists() and (tmp_path / "cut.partial").is_dir()
    timeless = [[{k: v for k, v in m.items() if not k.startswith(("seconds", "peak"))} for m in read_metrics(r)]
                for r in (cut().folder, record.folder)]  # fmt: skip
    assert timeless[0] == timeless[1] and not (tmp_path / "cut.partial").exists()


def test_search_chooses_and_record_makes_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(showdown, "METHODS", (showdown.Method("rloo", 2, 4),))
    monkeypatch.setattr(showdown, "LEARNING_RATES", (1e-3, 1e-9))
    monkeypatch.setattr(showdown, "SEEDS", (0, 1))
    for name in ("SEARCH", "TRAIN"):
        monkeypatch.setattr(showdown, name, dict(TRAIN))
    made = []
    monkeypatch.setattr(showdown, "_run_all", lambda jobs: made.extend((job(), job) for job in jobs))
    monkeypatch.setattr(showdown, "WARM_STEPS", 0)
    monkeypatch.setattr(showdown, "PRICE_ROUNDS", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    runs = showdown.record(tmp_path)
    prices = read_json(tmp_path / "prices.json")
    assert runs[1].config["seconds_per_token"] == prices["seconds_per_token"]["rloo x2"] and prices["threads"] == 1
    assert len(prices["seconds_per_token"]["rloo x2"]) == 2 and min(prices["seconds_per_token"]["rloo x2"]) > 0
    assert len(made) == 4 and [r.seed for r in runs] == [0, 1]
    best = max(made[:2], key=lambda pair: (pair[0].series("accuracy")[1][-1], pair[1].learning_rate))
    assert showdown.chosen_rates(tmp_path) == {"rloo x2": best[1].learning_rate}
    assert {r.config["train"]["learning_rate"] for r in runs} == {best[1].learning_rate}
    monkeypatch.setattr(showdown, "METHODS", (*showdown.METHODS, showdown.Method("none", 1, 4)))
    joined = showdown.record(tmp_path)  # one more method: its runs are made, and all prices, side by side again
    assert len(made) == 8 and {run.label for run in joined} == {"rloo x2", "none x1"}
    assert set(read_json(tmp_path / "prices.json")["seconds_per_token"]) == {"rloo x2", "none x1"}
    monkeypatch.setattr(showdown, "METHODS", showdown.METHODS[:1])
    again = [run for run in joined if run.label == "rloo x2"]
    assert [r.metrics for r in again] == [r.metrics for r in runs]


def test_prices_alone_are_made_again(tmp_path, monkeypatch):
    """Without prices.json the recipe times the methods, and makes no run that is there."""
    monkeypatch.setattr(showdown, "METHODS", (showdown.Method("none", 1, 4),))
    monkeypatch.setattr(showdown, "LEARNING_RATES", (1e-3,))
    monkeypatch.setattr(showdown, "SEEDS", (0,))
    monkeypatch.setattr(showdown, "WARM_STEPS", 0)
    monkeypatch.setattr(showdown, "PRICE_ROUNDS", 3)
    for name in ("SEARCH", "TRAIN"):
        monkeypatch.setattr(showdown, name, dict(TRAIN))
    monkeypatch.setattr(showdown, "_run_all", lambda jobs: [job() for job in jobs])
    showdown.record(tmp_path)
    (tmp_path / "prices.json").unlink()
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("metrics.jsonl")}
    showdown.record(tmp_path)
    assert len(read_json(tmp_path / "prices.json")["seconds_per_token"]["none x1"]) == 3
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob("metrics.jsonl")}


def test_responses_that_are_not_counted_have_no_price(tmp_path, monkeypatch):
    job = showdown.Job(showdown.Method("oracle", 1, 4), 1e-3, 0, tmp_path / "run", TRAIN)
    step = pl.Trainer.train_step

    def slow(self, n):
        metrics = step(self, n)
        assert 0 < self.sampler.uncounted_seconds < metrics["seconds_sample"]
        self.sampler.uncounted_seconds += 100  # as if the fresh responses had taken that long
        return {**metrics, "seconds_sample": metrics["seconds_sample"] + 100}

    monkeypatch.setattr(pl.Trainer, "train_step", slow)
    (price,) = showdown.prices([job], 0, 1)["seconds_per_token"]["oracle x1"]
    assert 0 < price < 0.5  # 100 s over some hundred tokens would be more


def test_one_process_per_core_that_may_be_used(monkeypatch):
    made = []

    class Pool:
        def __init__(self, workers, *args, **options):
            made.append(workers)

        __enter__, __exit__ = (lambda self: self), (lambda self, *e: None)

    monkeypatch.setattr(showdown, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(showdown.threads, "usable", lambda: 3)
    for most in (2, 9):
        with showdown._children(most):
            pass
    assert made == [2, 3]


def test_jobs_run_in_processes_of_one_thread(tmp_path):
    job = showdown.Job(showdown.Method("none", 1, 4), 1e-4, 0, tmp_path / "run", TRAIN)
    showdown._run_all([job])
    record = pl.read_run(tmp_path / "run")
    assert record.finished and record.config["threads"] == 1
    assert np.isfinite(record.metrics[-1]["seconds"])
