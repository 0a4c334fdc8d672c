"""Probes on another setting: maps against explicit ones, what may be read and what not, and the recorded pairs."""

from __future__ import annotations

import numpy as np
import pytest

import poise_lab as pl
from poise_lab import transfer as tr
from poise_lab.tables import splits

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


def test_a_policy_that_was_not_made_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tr, "keep_rows", lambda policy, path: None)
    with pytest.raises(pl.PoiseLabError, match="'tiny-seed1' has not been made yet: `make transfer`"):
        tr.record(tmp_path / "out", pl.data_dir())


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
    assert not np.isnan(tr.over_groups(groups, "refitted")[1]).any()


def test_a_recorded_pair_follows_from_the_recorded_rows():
    rows = pl.data_dir() / "real" / "rows"
    source, target = (tr.Rows.read(rows / name / "gcd.safetensors") for name in ("smollm2-135m", "gemma3-270m"))
    found = tr.transfer(source, target, paired=True, numbers=(320,))
    (group,) = (g for g in tr.recorded(FOLDER) if g["name"] == "smollm2-135m to gemma3-270m")
    stored = group["pairs"]["smollm2-135m gcd to gemma3-270m gcd"]
    for mode in found:
        assert np.mean(found[mode]["320"]["r"]) == pytest.approx(np.mean(stored[mode]["320"]["r"]), abs=0.01)


def test_the_figure_has_a_panel_for_each_kind():
    fig = tr.figure(tr.recorded(FOLDER))
    assert len(fig.layout.annotations) == 5 and fig.layout.height <= 700
    named = [trace.name for trace in fig.data if trace.showlegend]
    assert sorted(named) == sorted(tr.MODES.values())
