"""The arena of baselines: equal responses, a search that goes on until the best rate lies inside, whole methods."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

import poise_lab as pl
from poise_lab import stats
from poise_lab.cli import main
from poise_lab.files import read_json, write_json
from poise_lab.show.words import describe
from poise_lab.studies import arena, trained


def test_methods_sample_the_same_number_of_responses():
    for label, (name, responses, prompts) in arena.METHODS.items():
        greedy = prompts if name == "remax" else 0
        assert pl.make_baseline(name, responses=responses).responses == responses and label == f"{name} x{responses}"
        assert name == "dapo" or prompts * responses + greedy == arena.BUDGET, label
        assert arena.SUBTRACTS[name]
    assert not set(arena.SEARCH_SEEDS) & set(arena.SEEDS) and len(set(arena.SEEDS)) >= 5


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1e-4, [[5e-5, 1e-4, 2e-4]]),
        (4e-4, [[5e-5, 1e-4, 2e-4], [4e-4], [8e-4]]),
        (1e-5, [[5e-5, 1e-4, 2e-4], [2.5e-5], [1.25e-5], [6.25e-6]]),
        (1, [[5e-5, 1e-4, 2e-4], [4e-4], [8e-4], [1.6e-3]]),  # and no further
    ],
)
def test_search_goes_on_until_the_best_rate_lies_inside(best, tried):
    found, made = {}, []
    while rates := arena.next_rates(found):
        made.append(rates)
        found |= {rate: -abs(rate - best) for rate in rates}
    assert made == tried
    assert arena.best_rate({1e-4: 0.5, 5e-5: 0.5}) == 5e-5  # the smaller of equals


def test_a_rate_is_scored_once_every_seed_has_searched_it(tmp_path):
    def searched(label, rate, seed, accuracy, ending=""):
        folder = tmp_path / "search" / (arena.folder_of(label, seed, rate) + ending)
        folder.mkdir(parents=True)
        train = {"learning_rate": rate, "seed": seed, "steps": 60}
        write_json(folder / "config.json", {"train": train, "baseline": {"name": label.split()[0], "responses": 8}})
        line = {"step": 0, "accuracy": accuracy, "tokens": 0, "seconds": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")

    for seed, accuracy in zip(arena.SEARCH_SEEDS, (0.5, 0.7), strict=True):
        searched("grpo x8", 5e-5, seed, accuracy)
        searched("dr_grpo x8", 5e-5, seed, 0.9)  # another method, whose name ends alike
    searched("grpo x8", 1e-4, arena.SEARCH_SEEDS[0], 0.9)
    searched("grpo x8", 1e-4, arena.SEARCH_SEEDS[1], 0.9, ".partial")
    assert arena.scores(tmp_path, "grpo x8") == {5e-5: pytest.approx(0.6)}


def test_a_whole_method_is_recorded_and_read(tmp_path, monkeypatch, capsys):
    """Searched, run, evaluated at the end, killed between runs and taken up again; nothing is made twice."""
    quick = " --steps 2 --eval-every 2 --eval-responses 2 --eval-prompts 4 --minibatches 1 --max-new-tokens 16"
    monkeypatch.setattr(arena, "METHODS", {"rloo x2": ("rloo", 2, 4)})
    monkeypatch.setattr(arena, "RATES", (1e-4,))
    monkeypatch.setattr(arena, "LOWEST", 1e-4)
    monkeypatch.setattr(arena, "HIGHEST", 1e-4)
    monkeypatch.setattr(arena, "SEARCH_SEEDS", (100,))
    monkeypatch.setattr(arena, "SEEDS", (0, 1))
    monkeypatch.setattr(arena, "SEARCH", quick)
    monkeypatch.setattr(arena, "TRAIN", quick)
    made = []

    def train(command, **options):
        made.append(command)
        if len(made) == 3:
            raise KeyboardInterrupt
        main(command[3:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trained, "subprocess", SimpleNamespace(run=train, DEVNULL=None))
    record = trained.record
    monkeypatch.setattr(trained, "record", lambda *a, **kw: record(*a, at_once=1, **kw))
    with pytest.raises(KeyboardInterrupt):
        arena.record(tmp_path)
    assert list(arena.missing(tmp_path)) == ["rloo x2"]
    arena.record(tmp_path)
    assert not arena.missing(tmp_path) and len(made) == 4  # one of the search, two seeds, one of them begun twice
    for seed in (0, 1):
        run = tmp_path / "runs" / f"rloo-x2-{seed}"
        assert {path.name for path in run.iterdir()} == {"config.json", "metrics.jsonl", "final.json"}
        kept = pl.read_run(run).metrics
        assert [metrics["step"] for metrics in kept] == [0, 2]  # the evaluated steps
        final, last = read_json(run / "final.json"), kept[-1]
        assert final["sampled"]["greedy_accuracy"] == last["greedy_accuracy"]  # the policy at the run's end
        assert set(final) == {"sampled", "cool"} and final["sampled"] != final["cool"]
    assert {path.name for path in (tmp_path / "search").iterdir()} == {"rloo-x2-0.0001-100"}
    assert json.loads((tmp_path / "search" / "rloo-x2-0.0001-100" / "config.json").read_text())["policy"] == "thinker"
    methods, pairs = arena.says(tmp_path).split("\n\n")
    (row,) = methods.splitlines()[2:]
    assert row.startswith("| rloo x2 | 0.0001 |") and pairs.splitlines()[2] == "| sampled accuracy | 0 | 0 | 0 |"
    spent = arena.curve(arena.runs(tmp_path, "rloo x2"), "responses", [0, 8, 16, 17])
    starts, lasts = zip(*(run.series("accuracy")[1] for run in arena.runs(tmp_path, "rloo x2")), strict=True)
    assert [point[0] for point in spent[:3]] == pytest.approx(
        [np.mean(starts), np.mean([starts, lasts]), np.mean(lasts)]
    )
    assert np.isnan(spent[3][0])  # no run went on that far
    capsys.readouterr()


def test_verdicts_are_paired_by_seed_and_corrected_for_the_pairs(monkeypatch):
    base = np.array([0.5, 0.6, 0.4, 0.55, 0.45])
    noise = np.array([0.01, -0.01, 0.02, 0.0, -0.02])
    found = {"none x1": base, "rloo x2": base + 0.2 + 0.01 * noise, "grpo x8": base + 0.023 + noise}
    monkeypatch.setattr(arena, "ends", lambda out: {label: {"greedy accuracy": each} for label, each in found.items()})
    said = arena.verdicts("", "greedy accuracy")
    assert len(said) == 6
    word, (mean, low, high), kept = said["rloo x2", "none x1"]
    assert (word, kept) == ("better", True) and mean == pytest.approx(0.2) and low < mean < high  # far above the spread
    assert said["none x1", "rloo x2"][0] == "worse" and said["none x1", "rloo x2"][2]
    # mean 0.023, standard deviation 0.0158, t = 3.25 with 4 degrees of freedom: p = 0.031, corrected 0.031 as the last of three
    word, (mean, low, high), kept = said["grpo x8", "none x1"]
    assert (
        word == "better"
        and mean == pytest.approx(0.023)
        and low == pytest.approx(0.023 - 2.776 * 0.0158 / 5**0.5, abs=1e-4)
    )
    monkeypatch.setattr(arena, "WAYS", ("greedy accuracy",))
    assert list(arena.counts("")[0].values()) == ["greedy accuracy", 3, 3, 3]
    # nine more pairs that say nothing: the correction asks for more
    found |= {f"more x{k}": base + np.roll(noise, k) * 30 for k in (2, 3)}
    assert not arena.verdicts("", "greedy accuracy")["grpo x8", "none x1"][2]
    assert list(arena.counts("")[0].values()) == ["greedy accuracy", 10, 3, 2]  # that pair is off zero by itself alone


def test_a_verdict_counts_the_seeds_that_it_has():
    """By hand: t = 7 with three seeds, p = 0.0198, times three pairs 0.06; with the degrees of freedom of five, 0.032."""
    of = {"a": [0.02 - 0.00495, 0.02, 0.02 + 0.00495], "b": [0.0, 0.0, 0.0], "c": [0.3, -0.3, 0.01]}
    word, _, kept = arena.judged(of)["a", "b"]
    assert word == "better" and not kept


def test_accuracy_stands_below_a_number_of_the_methods_that_have_both(monkeypatch):
    found = {"none x1": [0.7, 0.8], "rloo x2": [0.5, 0.7], "dapo x8": [0.4, 0.5]}
    monkeypatch.setattr(arena, "ends", lambda out: {label: {"pass@16": each} for label, each in found.items()})
    numbers = {"none x1": 1.0, "rloo x2": 3.0, "ppo x1": 0.5, "dapo x8": 2.0}
    fig = arena.beside("", numbers, "pass@16", "After", "before (nats)")
    assert list(fig.layout.xaxis.ticktext) == ["none x1", "dapo x8", "rloo x2"]  # in order of the number
    drawn = {trace.name: (*trace.customdata, *trace.x, *trace.y) for trace in fig.data}
    assert drawn == {
        "1 response to a prompt, before (nats)": ("none x1", 0, 1.0), "1 response to a prompt": ("none x1", 0, 0.75),
        "2 responses to a prompt, before (nats)": ("rloo x2", 2, 3.0), "2 responses to a prompt": ("rloo x2", 2, 0.6),
        "8 responses to a prompt, before (nats)": ("dapo x8", 1, 2.0), "8 responses to a prompt": ("dapo x8", 1, 0.45),
    }  # fmt: skip
    assert len({trace.marker.symbol for trace in fig.data}) == 3 and fig.data[1].error_y.array[0] > 0
    assert "dapo x8 2" in describe(fig) and "rloo x2 0.6 (" in describe(fig)
    grid = arena.matrix("", "pass@16").data[0]
    assert list(grid.x) == list(grid.y) == ["none x1", "rloo x2", "dapo x8"]  # best mean first
    assert grid.z[0][1] == pytest.approx(0.15) and grid.z[1][0] == pytest.approx(-0.15)
    # none and dapo are 0.3 apart on both seeds, which decides; the other two pairs have the sign of their difference
    minus = "\N{MINUS SIGN}"
    assert [list(row) for row in grid.text] == [["", "+", "b"], [minus, "", "+"], ["w", minus, ""]]


def test_contrasts_are_paired_by_seed_with_their_mean_over_the_pairs(monkeypatch):
    """By hand: gaps 0.01, 0.02, 0.03 and -0.03, 0, 0.06; their mean over the pairs -0.01, 0.01, 0.045."""
    of = {
        "none x2": [0.51, 0.62, 0.73], "none x1": [0.5, 0.6, 0.7],
        "critic x2": [0.37, 0.5, 0.66], "critic x1": [0.4, 0.5, 0.6], "constant x2": [0.1, 0.2, 0.3],
    }  # fmt: skip
    monkeypatch.setattr(arena, "ends", lambda out: {label: {"pass@16": values} for label, values in of.items()})
    monkeypatch.setattr(arena, "WAYS", ("pass@16",))
    monkeypatch.setattr(arena, "SEEDS", (0, 1, 2))
    rows = {row.pop("two responses"): row["pass@16"] for row in arena.contrast("", "two responses")}
    assert list(rows) == ["none x2 minus none x1", "critic x2 minus critic x1", "mean"]  # constant x1 is not there
    mean, low, high, kept = rows["none x2 minus none x1"]
    half = 4.302653 * 0.01 / 3**0.5  # t of two degrees of freedom times the standard error
    assert (mean, low, high) == pytest.approx((0.02, 0.02 - half, 0.02 + half), abs=1e-6) and not kept
    mean, low, high, kept = rows["mean"]
    half = 4.302653 * 0.0278388 / 3**0.5
    assert (mean, low, high) == pytest.approx((0.015, 0.015 - half, 0.015 + half), abs=1e-5) and not kept
    of["none x2"] = [0.52, 0.6201, 0.7199]  # off zero by itself (p 0.000008), and so among two
    of["critic x2"] = [0.41, 0.512, 0.611]  # p 0.003: among two, too
    both = {row["two responses"]: row["pass@16"].kept for row in arena.contrast("", "two responses")}
    assert both == {"none x2 minus none x1": True, "critic x2 minus critic x1": True, "mean": False}
    of["none x2"], of["critic x2"] = [0.52, 0.63, 0.718], [0.42, 0.53, 0.618]  # p 0.026 each: of two, none survives
    both = {row["two responses"]: row["pass@16"] for row in arena.contrast("", "two responses")}
    assert not any(gap.kept for gap in both.values()) and all(gap.low > 0 for gap in both.values())
    assert arena.contrast("", "another aim") == []
    del of["critic x1"]
    assert [row["two responses"] for row in arena.contrast("", "two responses")] == ["none x2 minus none x1"]
    assert str(stats.Gap(0.02, -0.01, 0.05, True)) == "+0.020 [-0.010, +0.050] *"


def test_noise_is_that_of_the_methods_that_leave_the_gradient_as_it_is():
    """The pairs' by hand: 0 or 1 less nothing, less the constant's, less the mean of the three others."""
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    measured = SimpleNamespace(
        arrays={"rewards": rewards, "advantages/constant": rewards - 0.25}, noise_of=lambda a, m: (a.tolist(), m),
        sums={"none x1": 1.0, "ppo x1": 0.8, "oracle x1": 1.5, "V(x) x1": 1.4, "rloo x2": 3.0, "rloo x4": 2.0},
    )  # fmt: skip
    found = arena.noise(measured)
    assert {label: found.pop(label) for label in ("none x1", "oracle x1", "rloo x2")} == {
        "none x1": 1.0, "oracle x1": 1.5, "rloo x2": 3.0,
    }  # fmt: skip
    assert found.pop("none x2") == ([[1, 0], [0, 0]], 2)
    assert found.pop("constant x2") == ([[0.75, -0.25], [-0.25, -0.25]], 2)
    ((first, second), others), responses = found.pop("batch_mean x2")
    assert (first, second, *others) == pytest.approx((1, -1 / 3, -1 / 3, -1 / 3)) and responses == 2 and not found


def test_what_a_contrast_compares_differs_in_one_thing():
    for a, b in arena.CONTRASTS["two responses"]:
        (name, two, prompts), (other, one, more) = arena.METHODS[a], arena.METHODS[b]
        assert name == other and (two, one) == (2, 1) and 2 * prompts == more
    for a, b in arena.CONTRASTS["another aim"]:
        assert arena.METHODS[a][0] != arena.METHODS[b][0] and arena.METHODS[a][1:] == arena.METHODS[b][1:]


# --- what a verdict is -----------------------------------------------------------------------------


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
