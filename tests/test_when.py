"""Which baseline leaves the least noise: the formula against draws, the figures by hand, the record piece by piece."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.files import read_json
from poise_lab.stats import interval
from poise_lab.studies import catalogue, noises, when
from poise_lab.studies.noises import Measured, formula
from poise_lab.studies.when import Setting
from poise_lab.variance import Scores


@pytest.mark.parametrize(("accuracy", "spread", "ratio"), [(0.14, 0.2, 1.9), (0.36, 0.1, 3.4), (0.9, 0.15, 12.0)])
def test_formula_against_draws(accuracy, spread, ratio):
    generator = np.random.default_rng(0)
    strength = accuracy * (1 - accuracy) / spread**2 - 1
    v = generator.beta(accuracy * strength, (1 - accuracy) * strength, 400_000)
    r = generator.random(len(v)) < v
    square = np.where(r, 1.0, ratio)
    constant = (r * square).sum() / square.sum()
    numbers = {"none x1": 0 * v, "constant x1": constant, "V(x) x1": v, "b*(x) x1": v / (v + (1 - v) * ratio)}
    none = (r * square).mean()
    found = formula(accuracy, spread, ratio)
    for label, b in numbers.items():
        assert found[label] == pytest.approx(((r - b) ** 2 * square).mean() / none, rel=0.02), label
    others = [found[label] for label in found if label != "b*(x) x1"]
    assert found["b*(x) x1"] < min(others) and found["constant x1"] < found["none x1"]


def test_formula_where_all_prompts_are_alike():
    """By hand: V(x) has (1 - p)(1 - p + p ratio) of the noise of none, so it loses from a ratio of (2 - p)/(1 - p) on."""
    for p, ratio in ((0.2, 3.0), (0.6, 1.0)):
        found = formula(p, 0.0, ratio)
        assert found["V(x) x1"] == pytest.approx((1 - p) * (1 - p + p * ratio), rel=1e-4)
        assert found["constant x1"] == pytest.approx((1 - p) * ratio / (p + (1 - p) * ratio), rel=1e-6)
        edge = (2 - p) / (1 - p)
        assert formula(p, 0.0, 1.05 * edge)["V(x) x1"] > 1 > formula(p, 0.0, 0.95 * edge)["V(x) x1"]


def synthetic(prompts=200, m=4, seed=0, k=6) -> Measured:
    """Scores whose length goes with the response's, on rewards that a prompt's value decides."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(prompts, 1, generator=generator)
    rewards = torch.bernoulli(value.expand(-1, m), generator=generator)
    lengths = torch.randint(2, 12, (prompts, m), generator=generator)
    vectors = torch.randn(prompts, m, k, generator=generator) + 3 * rewards[..., None] * lengths[..., None] / 6
    scores = Scores.of(vectors)
    return Measured("synthetic", {
        "rewards": rewards, "lengths": lengths.to(torch.int16), "within": scores.within, "kept": scores.kept,
        "logprobs": -vectors.norm(dim=-1), "fresh": torch.cat([value, value / 2], 1),
        **{f"advantages/{key}": rewards - 0.25 for key in noises.LEARNED},
        "ppo/within": (half := Scores.of(0.5 * vectors)).within, "ppo/kept": half.kept,
    })  # fmt: skip


def test_noise_by_aggregation():
    """A sum as it stands; a mean over tokens as large batches have it; a mean over each response by its own length."""
    one = synthetic()
    noise = {kind: one.noise(kind) for kind in ("sum", "token_mean", "sequence_mean")}
    z = {label: a[..., None] * one.arrays["kept"] for label, (a, _) in one.baselines().items()}

    def trace(x):
        return float(((x - x.mean((0, 1))) ** 2).sum(-1).mean())

    lengths = one.arrays["lengths"][..., None].float()
    for label in ("oracle x1", "constant x1", "batch_mean x1"):
        assert noise["sum"][label][0] == pytest.approx(trace(z[label]) / trace(z["none x1"]), rel=0.01)
        by_own = trace(z[label] / lengths) / trace(z["none x1"] / lengths)
        assert noise["sequence_mean"][label][0] == pytest.approx(by_own, rel=0.01)
    generator, drawn = torch.Generator().manual_seed(1), {}
    rows = torch.randint(lengths.numel(), (8000, 400), generator=generator)
    for label in ("none x1", "oracle x1"):
        flat = z[label].flatten(0, 1)
        batches = flat[rows].sum(1) / lengths.flatten()[rows].sum(1, keepdim=True)
        drawn[label] = float(batches.var(0).sum())
    assert noise["token_mean"]["oracle x1"][0] == pytest.approx(drawn["oracle x1"] / drawn["none x1"], rel=0.03)
    assert abs(noise["token_mean"]["oracle x1"][0] / noise["sum"]["oracle x1"][0] - 1) > 0.04  # they do differ here
    # the mean of a pair: half of what is in the advantages apart
    assert noise["sum"]["poise x2"].shape == (1 + noises.DRAWS,)
    assert noise["sum"]["none x1"] == pytest.approx(np.ones(1 + noises.DRAWS))
    halves = trace(0.5 * one.arrays["kept"]) / trace(z["none x1"])
    assert noise["sum"]["ppo x1"][0] == pytest.approx(halves, rel=0.01)


def test_v_is_the_oracle_without_the_noise_of_its_fresh_responses(monkeypatch):
    """Two fresh responses to prompts of value 1/4, 1/2, 3/4: every outcome as often as it comes, 16 copies of each prompt."""
    monkeypatch.setattr(noises, "DRAWS", 2)
    one, copies = synthetic(prompts=60), 16
    value = torch.tensor([0.25, 0.5, 0.75]).repeat(20)
    arrays = {key: x.repeat_interleave(copies, 0) for key, x in one.arrays.items()}
    outcomes = [
        [0.0] * round(16 * (1 - v) ** 2) + [0.5] * round(32 * v * (1 - v)) + [1.0] * round(16 * v * v)
        for v in value.tolist()
    ]
    known, drawn = (
        x[:, None].expand(-1, 2) for x in (value.repeat_interleave(copies), torch.tensor(outcomes).flatten())
    )
    knows, few = (dataclasses.replace(one, arrays=arrays | {"fresh": fresh}, fresh=2) for fresh in (known, drawn))
    for kind in ("sum", "token_mean", "sequence_mean"):
        best, found = knows.noise(kind, ("oracle x1",))["oracle x1"], few.noise(kind, ("V(x) x1",))
        assert found["V(x) x1"][0] == pytest.approx(best[0], rel=1e-3), kind
        assert found["oracle x1"][0] > 1.3 * best[0]
        assert set(found) == {"none x1", "oracle x1", "V(x) x1"} and found["V(x) x1"].shape == best.shape


def test_shares_parts_and_facts_by_hand():
    one = synthetic(prompts=50)
    terms = (one.arrays["rewards"] ** 2 * one.squares).flatten().sort(descending=True).values
    assert one.top_share("none x1", 0.1) == pytest.approx(float(terms[:20].sum() / terms.sum()), rel=1e-4)
    parts = one.by("lengths", 4)
    assert [round(mean, 6) for mean, _, _ in parts] == sorted(round(mean, 6) for mean, _, _ in parts)
    assert np.mean([accuracy for _, _, accuracy in parts]) == pytest.approx(float(one.arrays["rewards"].mean()))
    facts, r = one.facts(), one.arrays["rewards"].bool()
    assert facts["squared score, right"][0] == pytest.approx(float(one.squares[r].mean()), rel=1e-5)
    assert facts["wrong over right"][0] == pytest.approx(
        float(one.squares[~r].mean() / one.squares[r].mean()), rel=1e-5
    )
    hard = one.arrays["fresh"][:, 0] < 0.5
    of = {"right, hard": hard[:, None] & r, "wrong, easy": ~hard[:, None] & ~r}
    for key, at in of.items():
        assert one.by_value()[key][0] == pytest.approx(float(one.squares[at].mean()), rel=1e-6), key
    value, easy = one.arrays["fresh"][:, :1], ~hard[:, None]
    none, own = float((r * one.squares).sum()), value * (1 - value) / 15  # of sixteen fresh responses
    away, added, ratio = (each[0] for each in one.at_easy())
    assert away == pytest.approx(
        float(((1 - (1 - value) ** 2 + own) * one.squares * (r & easy)).sum()) / none, rel=1e-5
    )
    assert added == pytest.approx(float(((value**2 - own) * one.squares * (~r & easy)).sum()) / none, rel=1e-5)
    assert ratio == pytest.approx(added / away) and one.predicted()["none x1"] == pytest.approx(1)
    assert one.proxies()["none x1"] == 0 and one.proxies()["oracle x1"] > 0.1


def test_a_verdict_is_that_of_its_interval():
    ratios = {"more": [1.5, 1.2, 1.8], "less": [0.5, 0.3, 0.9], "not decided": [1.1, 0.9, 1.3]}
    for word, ratio in ratios.items():
        assert noises.more_or_less(ratio) == word


def test_two_baselines_are_compared_on_the_same_prompts():
    """PPO's scores are halves of all others' here, so its noise is a quarter of theirs where all rewards are 1: in every draw."""
    one = synthetic()
    one.arrays["rewards"] = torch.ones_like(one.arrays["rewards"])
    assert one.against("ppo x1", "none x1") == pytest.approx((0.25, 0.25, 0.25))
    alone, value, low, high = interval(one.noise()["oracle x1"]), *one.against("oracle x1", "none x1")
    assert (value, low, high) == alone and low < value < high
    of_many = dataclasses.replace(one, comparisons=24).against("oracle x1", "none x1")
    assert of_many[1] < low < value < high < of_many[2]  # 99.8 % each, so that all hold at once


@pytest.mark.parametrize("name", when.SETTINGS)
def test_every_setting_has_its_problems_and_others_to_learn_from(name):
    measured, batches = when.SETTINGS[name].problems()
    others = [problem for batch in batches for problem in batch]
    assert (len(measured), len(others)) == (when.PROMPTS, when.LEARN * when.LEARN_PROMPTS)
    assert not {problem.question for problem in measured} & {problem.question for problem in others}


def test_made_piece_by_piece_and_taken_up_again(tmp_path, monkeypatch, capsys):
    settings = {
        "digits": Setting(
            "thinker", "chain_sum", dict(max_terms=2, max_digits=1), tokens=12, by_token=("prefix_weighted",)
        )
    }
    for name, value in (
        ("SETTINGS", settings),
        ("PROMPTS", 6),
        ("PIECE", 2),
        ("LEARN", 1),
        ("LEARN_PROMPTS", 4),
        ("FRESH", 2),
    ):
        monkeypatch.setattr(when, name, value)
    monkeypatch.setattr(noises, "DRAWS", 200)
    when._learned.cache_clear()
    when._adam.cache_clear()
    made, measured = [], when.measured

    def interrupted(name, start):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(start)
        return measured(name, start)

    monkeypatch.setattr(when, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        when.record(tmp_path / "cut")
    assert list(when.missing(tmp_path / "cut")) == ["digits"] and made == [0, 2]
    assert len(when.read(tmp_path / "cut")["digits"].arrays["rewards"]) == 4  # what is there can be read
    when._learned.cache_clear()  # as a new process: the baselines learn again, and have learned the same
    monkeypatch.setattr(when, "measured", lambda name, start: made.append(start) or measured(name, start))
    monkeypatch.setattr(catalogue, "fetch", lambda name, log: None)
    assert main(["study", "when", "--out", str(tmp_path / "cut")]) == 0
    assert made == [0, 2, 4] and not when.missing(tmp_path / "cut")
    said = capsys.readouterr().out
    assert "| digits | 6 |" in said and "| prefix_weighted x1 |" in said and "| V(x) x1 |" in said
    when._learned.cache_clear()
    when.record(tmp_path / "whole", log=lambda text: None)
    made_whole = [path for kind in ("piece", "adam") for path in when.pieces(tmp_path / "whole", "digits", kind)]
    assert len(made_whole) == 6
    for path in made_whole:
        other = load_file(tmp_path / "cut" / "digits" / path.name)
        assert all(torch.equal(x, other[key]) for key, x in load_file(path).items())
    one = when.read(tmp_path / "whole")["digits"]
    assert one.comparisons == len(when.PAIRS) * len(settings)
    assert one.kinds[-1] == "adam" and one.noise("adam")["none x1"] == pytest.approx(np.ones(201))
    assert one.noise("adam")["prefix_weighted x1"][0] != pytest.approx(one.sums["prefix_weighted x1"][0], rel=1e-3)
    half_there = when.pieces(tmp_path / "cut", "digits", "adam")[1]
    piece = load_file(half_there.with_name("piece-0002.safetensors"))
    with pytest.raises(pl.PoiseLabError, match="come out otherwise here"):
        when.scaled("digits", 2, piece | {"rewards": 1 - piece["rewards"]})
    half_there.unlink()
    assert list(when.missing(tmp_path / "cut")) == ["digits"]
    assert "adam" not in when.read(tmp_path / "cut")["digits"].kinds  # not whole
    one.arrays["kept"] *= 1000  # products across prompts beyond half precision
    assert all(np.isfinite(x).all() for x in one.noise().values())
    about = json.loads((tmp_path / "cut" / "digits" / "config.json").read_text())
    assert about["setting"]["policy"] == "thinker" and "versions" in about["provenance"]
    when._learned.cache_clear()
    when._adam.cache_clear()


def test_recorded_settings_are_those_of_the_study():
    """What a record says of its policy and task is what the study makes today; fields that came later may lack."""
    for name, one in when.SETTINGS.items():
        recorded = read_json(pl.data_dir() / "when" / name / "config.json")["setting"]
        today = json.loads(json.dumps(dataclasses.asdict(one)))
        assert recorded == {field: today[field] for field in recorded}, name


def test_what_the_value_takes_away_is_less_than_what_it_switches_on():
    """As notebook 06 says of easy prompts, in every recorded setting: at right answers, and at wrong ones."""
    for name, one in when.read(pl.data_dir() / "when").items():
        right, value = one.arrays["rewards"].bool(), one.arrays["fresh"][:, :1]
        easy = value >= 0.5
        taken = ((1 - (1 - value) ** 2) * one.squares)[right & easy].sum()
        added = (value**2 * one.squares)[~right & easy].sum()
        assert 0 < taken < added, name
