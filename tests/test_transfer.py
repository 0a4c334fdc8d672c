"""Probes on another setting: maps against explicit ones, what may be read and what not, and the recorded pairs."""

from __future__ import annotations

import numpy as np
import pytest

import poise_lab as pl
from poise_lab.stats import mean_interval
from poise_lab.studies import transfer as tr
from poise_lab.studies.common import splits

FOLDER = pl.data_dir() / "transfer"
WIDTH = 4


def setting(seed=0, prompts=100, width=WIDTH, responses=2):
    """Rows whose first column knows V(x)."""
    rng = np.random.default_rng(seed)
    value = rng.uniform(0.1, 0.9, prompts)
    features = rng.normal(size=(prompts, responses, 2 * width + 3))
    features[..., 0] = 8 * (value[:, None] - 0.5) + 0.3 * features[..., 0]
    return tr.Rows(features, (rng.random((prompts, 8)) < value[:, None]).astype(float))


def test_the_map_and_the_probe_in_one_are_the_map_and_then_the_probe():
    """Every column of the source regressed on the target, then the source's probe: the same number."""
    source, target = setting(0), setting(1, width=6)
    probe = tr.fitted(source.features, source.targets())
    at_once = tr.through_map(probe, source.features, target.features)
    columns = [tr.fitted(target.features, source.features[..., k]) for k in range(source.features.shape[2])]
    mapped = np.stack([target.features @ column.coef_ + column.intercept_ for column in columns], -1)
    one_by_one = mapped @ probe.coef_ + probe.intercept_
    assert np.allclose(target.features @ at_once.coef_ + at_once.intercept_, one_by_one, atol=1e-10)


def test_a_fit_commutes_with_an_affine_map_of_its_targets():
    rows = setting()
    y = rows.targets()
    plain, moved = tr.fitted(rows.features, y), tr.fitted(rows.features, 7 * y - 3)
    assert np.allclose(moved.coef_, 7 * plain.coef_, atol=1e-12)
    assert moved.intercept_ == pytest.approx(7 * plain.intercept_ - 3, abs=1e-12)
    assert np.allclose(pl.ValueProbe.preset("release").fit(rows.features, y).coef_, plain.coef_, atol=1e-12)


def test_new_means_and_scales_undo_a_change_of_units():
    source = setting()
    probe = tr.fitted(source.features, source.targets())
    scale, shift = np.linspace(0.5, 3, source.features.shape[2]), np.linspace(-2, 2, source.features.shape[2])
    other = source.features * scale + shift
    moved = tr.restandardised(probe, source.features, other)
    assert np.allclose(moved.predict(other), probe.predict(source.features), atol=1e-10)
    assert not np.allclose(probe.predict(other), probe.predict(source.features), atol=0.1)


def test_a_rotated_setting_needs_the_map():
    source = setting(prompts=200)
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(source.features.shape[2],) * 2))
    found = tr.transfer(source, tr.Rows(source.features @ q, source.rewards), paired=True, numbers=(160,))
    r = {mode: np.mean(by_n[n]["r"]) for mode, by_n in found.items() for n in by_n}
    assert r["affine map"] > r["refitted"] - 0.05 > 0.5
    assert r["as it is"] < r["affine map"] - 0.2 and r["restandardised"] < r["affine map"] - 0.2


def test_maps_read_no_label_of_the_target_and_nothing_reads_what_is_held_out():
    source, target = setting(0), setting(1)
    fit, held_out = splits(100)[0]
    first = {}
    for name, prompts in (("as it was", []), ("fit", fit), ("held out", held_out)):
        rewards = target.rewards.copy()
        rewards[prompts] = 1 - rewards[prompts]
        found = tr.transfer(source, tr.Rows(target.features, rewards), paired=True, numbers=(40,))
        first[name] = {mode: next(iter(by_n.values()))["r"][0] for mode, by_n in found.items()}
    for mode in ("as it is", "restandardised", "affine map"):
        assert first["fit"][mode] == first["as it was"][mode]
        assert first["held out"][mode] == pytest.approx(-first["as it was"][mode], abs=1e-3)  # predictions stayed
    assert first["fit"]["refitted"] == pytest.approx(-first["as it was"]["refitted"], abs=0.02)
    assert first["held out"]["refitted"] == pytest.approx(-first["as it was"]["refitted"], abs=1e-3)


def twins(policies_agree, prompts=300, seed=0):
    """Two settings with the same problems, whose states tell both policies' V(x), the target's in a turned frame."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0.1, 0.9, (2, prompts))
    values = (first, first if policies_agree else second)
    known = np.stack([first, second], -1)[:, None].repeat(2, 1)
    q, _ = np.linalg.qr(rng.normal(size=(2 * WIDTH + 3,) * 2))
    rows = []
    for value, turned in zip(values, (np.eye(len(q)), q), strict=True):
        features = rng.normal(size=(prompts, 2, len(q)))
        features[..., :2] = 8 * (known - 0.5) + 0.3 * features[..., :2]
        rows.append(tr.Rows(features @ turned, (rng.random((prompts, 8)) < value[:, None]).astype(float)))
    return rows


@pytest.mark.parametrize("agree", [True, False])
def test_no_map_beats_the_sources_own_states_and_a_good_one_equals_them(agree):
    source, target = twins(agree)
    found = tr.transfer(source, target, paired=True, numbers=(240,))
    r = {mode: {m: np.mean(by_n[n][m]) for m in ("r", "r_source")} for mode, by_n in found.items() for n in by_n}
    assert list(found["own states"]) == ["0"]
    for measure in ("r", "r_source"):
        assert r["own states"][measure] >= r["affine map"][measure] - 0.02
        assert r["affine map"][measure] > r["own states"][measure] - 0.05
    assert r["affine map"]["r_source"] > 0.7 and r["refitted"]["r"] > 0.7
    if agree:
        assert r["affine map"]["r"] > r["refitted"]["r"] - 0.05
    else:  # the states carry over, and the value does not: only labels help
        assert abs(r["own states"]["r"]) < 0.2 and abs(r["affine map"]["r"]) < 0.2


def test_a_control_is_the_sources_probe_on_the_sources_states():
    source, target = twins(True, prompts=60)
    fit, held_out = splits(60)[0]
    probe = tr.fitted(source.features[fit], source.targets()[fit])
    predicted = probe.predict(source.features[held_out])
    found = tr.transfer(source, target, paired=True, numbers=(40,))["own states"]["0"]
    assert found["r"][0] == pytest.approx(pl.agreement(predicted, target.targets()[held_out])["r"], abs=1e-4)
    assert found["r_source"][0] == pytest.approx(pl.agreement(predicted, source.targets()[held_out])["r"], abs=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_the_same_value_without_the_noise_of_a_few_rewards(shared):
    """Shared: response j of both is drawn with the same random number, which makes no value more alike."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 2000))
    a, b = (np.clip(0.5 + 0.15 * (z[0] + z[k]), 0, 1) for k in (1, 2))
    true = np.corrcoef(a, b)[0, 1]
    u = rng.random((2, 2000, 8))
    rows = [
        tr.Rows(np.zeros((2000, 2, 5)), (drawn < value[:, None]).astype(float))
        for value, drawn in ((a, u[0]), (b, u[0 if shared else 1]))
    ]
    found = tr.same_value(*rows)
    assert found["noise_free"][0] == pytest.approx(true, abs=0.04)
    assert found["noise_free"][1] < true < found["noise_free"][2]
    spread = (a.std() ** 2 + (a * (1 - a)).mean() / 8) * (b.std() ** 2 + (b * (1 - b)).mean() / 8)
    pulled = np.cov(a, b)[0, 1] / spread**0.5  # towards 0
    assert found["r"][0] == pytest.approx(pulled, abs=0.03) and found["r"][2] < true - 0.03
    some, still = (tr.Rows(rows[0].features[:50], rewards) for rewards in (rows[0].rewards[:50], np.ones((50, 8))))
    assert tr.same_value(some, still) == {"r": [0.0] * 3, "noise_free": [0.0] * 3}


def test_shapes_and_unpaired_prompts_rule_modes_out():
    found = tr.transfer(setting(0), setting(1, width=6), paired=False, numbers=(20,))
    assert list(found) == ["refitted"]
    assert set(tr.transfer(setting(0), setting(1), paired=False, numbers=(20,))) == {
        "as it is",
        "restandardised",
        "refitted",
    }


def test_labels_needed_by_hand():
    def by_n(*values):
        return {n: {"r": [v, v]} for n, v in zip(("10", "20", "40"), values, strict=True)}

    group = {"over": "splits", "pairs": {"a": {"affine map": by_n(0.1, 0.3, 0.2), "refitted": by_n(0.2, 0.35, 0.5)}}}
    assert tr.labels_needed([group]) == 20
    group["pairs"]["a"]["refitted"] = by_n(0.1, 0.1, 0.1)
    assert tr.labels_needed([group]) is None


def test_policies_that_are_missing_are_pretrained_into_the_cache(tmp_path, monkeypatch):
    """Two of the three; one that was cut off before its card was written is made again, one that is whole is not."""
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "cache"))
    made, read = [], []

    def make(folder, **settings):
        made.append((folder.name, settings))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "card.json").write_text("{}")

    monkeypatch.setattr(tr, "make_thinker", make)
    monkeypatch.setattr(tr, "load_policy", lambda folder: str(folder).rpartition("/")[2])
    monkeypatch.setattr(tr, "keep_rows", lambda policy, path: read.append(policy))
    monkeypatch.setattr(tr, "groups", lambda data, rows: [])
    (tmp_path / "cache" / "policies" / "thinker-narrow").mkdir(parents=True)
    left = tr.missing(tmp_path / "out")
    assert left["policy thinker-seed1"] == pytest.approx(44.5 * 2000 / 5000) and "policy thinker-narrow" in left
    for _ in range(2):
        tr.record(tmp_path / "out")
    assert made == [("thinker-seed1", dict(steps=2000, seed=1)), ("thinker-narrow", dict(steps=2000, width=64))]
    assert read == ["thinker", "thinker-seed1", "thinker-narrow"] * 2
    assert "policy thinker-seed1" not in tr.missing(tmp_path / "out")


def test_every_listed_pair_is_recorded_with_five_values():
    groups = tr.recorded(FOLDER)
    models, tasks = 2, 4
    pairs = {kind: sum(len(g["pairs"]) for g in groups if g["kind"] == kind) for kind in {g["kind"] for g in groups}}
    assert pairs == {
        "another task": models * tasks * (tasks - 1), "another checkpoint": 5 * len(tr.CHECKPOINTS),
        "another policy": 4, "another family": 2 * tasks,
    }  # fmt: skip
    for group in groups:
        assert group["command"] and group["provenance"]["date"]
        for mode in tr.MODES:
            numbers, points = tr.over_groups([group], mode)
            assert numbers in ([], [0], list(tr.NUMBERS))
            for n in numbers:
                assert len(tr.over_pairs(group, mode, n)) == 5
        first = next(iter(group["pairs"].values()))
        paired = group["kind"] != "another task"
        assert ("own states" in first) == ("r_source" in first["refitted"]["320"]) == ("same_value" in group) == paired
        assert set(group.get("same_value", group["pairs"])) == set(group["pairs"])
    assert not np.isnan(tr.over_groups(groups, "refitted")[1]).any()


def test_a_recorded_pair_follows_from_the_recorded_rows():
    rows = pl.data_dir() / "real" / "rows"
    source, target = (tr.Rows.read(rows / name / "gcd.safetensors") for name in ("smollm2-135m", "gemma3-270m"))
    found = tr.transfer(source, target, paired=True, numbers=(320,))
    (group,) = (g for g in tr.recorded(FOLDER) if g["name"] == "smollm2-135m to gemma3-270m")
    stored = group["pairs"]["smollm2-135m gcd to gemma3-270m gcd"]
    for mode, by_n in found.items():
        for n, measures in by_n.items():
            for measure, values in measures.items():
                assert np.mean(values) == pytest.approx(np.mean(stored[mode][n][measure]), abs=0.01)
    again, stored = tr.same_value(source, target), group["same_value"]["smollm2-135m gcd to gemma3-270m gcd"]
    assert list(again) == list(stored)
    assert all(np.allclose(again[name], stored[name], atol=1e-3) for name in stored)


def test_recorded_what_is_said_of_families():
    """The map loses nothing to the source's own states; what differs is V(x): as good as labels, less, or reversed."""
    by_task = tr.by_task([group for group in tr.recorded(FOLDER) if group["kind"] == "another family"])
    pairs = [group for groups in by_task.values() for group in groups]
    assert len(pairs) == 8

    def values(group, mode, measure="r"):
        return np.array(tr.over_pairs(group, mode, {"own states": 0}.get(mode, 320), measure))

    for measure in ("r", "r_source"):
        lost = [values(group, "affine map", measure) - values(group, "own states", measure) for group in pairs]
        for one in lost:
            _, low, high = mean_interval(one)
            assert low <= 0 <= high
        mean, low, high = mean_interval(np.mean(lost, 0))
        assert low <= 0 <= high and low > -0.02
    for task, alike in (("gcd", 1), ("chain_sum", 1), ("syllogism", -1)):
        for group in by_task[task]:
            (same,) = group["same_value"].values()
            assert min(alike * same["r"][1], alike * same["r"][2]) > 0
            _, low, high = mean_interval(values(group, "affine map"))
            assert min(alike * low, alike * high) > 0
            _, low, high = mean_interval(values(group, "refitted") - values(group, "affine map"))
            assert low > 0 or task == "gcd" and low <= 0 <= high
    assert [[tr.labels_needed([group]) for group in by_task[task]] for task in ("chain_sum", "gcd", "syllogism")] == [
        [80, 80], [None, 320], [10, 10]
    ]  # fmt: skip


def test_recorded_a_probe_keeps_between_checkpoints_where_the_value_does():
    """While the policy learns to think the value becomes another, and no map of states helps; then nearly all stays."""
    groups = {group["name"]: group for group in tr.recorded(FOLDER) if group["kind"] == "another checkpoint"}
    r, same = {}, {}
    for name in ("step 0 to 100", "step 100 to 200"):
        ways = (("as it is", 0), ("affine map", 320), ("own states", 0), ("refitted", 320))
        r[name] = {mode: np.mean(tr.over_pairs(groups[name], mode, n)) for mode, n in ways}
        same[name] = mean_interval([value["noise_free"][0] for value in groups[name]["same_value"].values()])
    early, late = r.values()
    assert max(early["as it is"], early["affine map"]) < early["own states"] + 0.05 < early["refitted"] / 2
    assert late["as it is"] > 0.85 * late["refitted"]
    assert same["step 0 to 100"][2] < 0.5 and 0.85 < same["step 100 to 200"][1] < same["step 100 to 200"][2] < 1
    target, source = (np.array(tr.over_pairs(groups["step 0 to 100"], "as it is", 0, m)) for m in ("r", "r_source"))
    assert mean_interval(source - target)[1] > 0  # the old probe sides with the old value


def test_a_way_to_a_probe_looks_alike_in_both_figures():
    """Near and in another family, where two of the ways are missing."""
    groups = tr.recorded(pl.data_dir() / "transfer")
    near = tr.by_kind([group for group in groups if group["kind"] != "another family"])
    far = tr.by_task([group for group in groups if group["kind"] == "another family"])
    looks = [{line.name: line.line.color for line in tr.figure(panels).data if line.name} for panels in (near, far)]
    assert len(set(looks[0]) & set(looks[1])) == 3 and looks[1].items() <= looks[0].items()


def test_figures_have_the_panels_that_they_are_given():
    groups = tr.recorded(FOLDER)
    family = [group for group in groups if group["kind"] == "another family"]
    near = tr.by_kind([group for group in groups if group not in family])
    for panels in (near, tr.by_task(family)):
        for measure in ("r", "mae", "variance_reduction"):
            fig = tr.figure(panels, measure)
            assert [title.text for title in fig.layout.annotations] == list(panels) and fig.layout.height <= 700
    assert len(near) == 7 and list(tr.by_task(family)) == ["chain_sum", "gcd", "letter_counting", "syllogism"]
    shown = tr.shown_last(tr.figure(tr.by_task(family)))
    assert list(shown["gcd"]) == [tr.MODES[mode] for mode in ("affine map", "refitted", "own states")]
    want = np.mean([tr.over_pairs(group, "refitted", 320) for group in tr.by_task(family)["gcd"]])
    assert shown["gcd"][tr.MODES["refitted"]] == pytest.approx(want, abs=1e-4)
