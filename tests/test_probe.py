from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from support import random_internals, toy_internals

import poise_lab as pl
from poise_lab.errors import NotFiniteError
from poise_lab.probe import INPUTS, PROBE_PRESETS

D = 40
SUBSETS = [("prompt",), ("reasoning",), ("entropy",), ("prompt", "entropy"), INPUTS]


def rows(n, d=D, seed=0):
    """Features with uneven scales and offsets, and 0/1 targets that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2 * d + 3)) * rng.uniform(0.1, 5, 2 * d + 3) + rng.normal(0, 3, 2 * d + 3)
    signal = X[:, 0] - X[:, 0].mean() + X[:, d] - X[:, d].mean() + 0.5 * rng.standard_normal(n)
    return X, (signal > 0).astype(float)


def reference(preset: dict, inputs, d=D):
    """The same probe as a plain scikit-learn pipeline."""
    blocks = {"prompt": slice(0, d), "reasoning": slice(d, 2 * d), "entropy": slice(2 * d, 2 * d + 3)}
    components = {"prompt": preset["pca_prompt"], "reasoning": preset["pca_reasoning"], "entropy": None}
    parts = []
    for name in inputs:
        k = components[name]
        parts.append((name, PCA(min(k, d), random_state=42) if k else "passthrough", blocks[name]))
    return make_pipeline(ColumnTransformer(parts), StandardScaler(), Ridge(alpha=preset["ridge"]))


# --- against scikit-learn ------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", SUBSETS, ids="+".join)
@pytest.mark.parametrize("preset", sorted(PROBE_PRESETS))
def test_agrees_with_a_plain_pipeline(preset, inputs):
    X, y = rows(800)
    X, y, new = X[:300], y[:300], X[300:]
    expected = reference(PROBE_PRESETS[preset], inputs).fit(X, y).predict(new)
    found = pl.ValueProbe.preset(preset, inputs=inputs).fit(X, y).predict(new)
    np.testing.assert_allclose(found, expected.clip(0, 1), rtol=1e-6, atol=1e-9)
    assert ((expected > 0) & (expected < 1)).mean() > 0.3  # the clip hides little


def test_presets_are_those_of_the_method():
    assert PROBE_PRESETS["paper"] == dict(ridge=0.01, pca_prompt=None, pca_reasoning=None)
    assert PROBE_PRESETS["release"] == dict(ridge=100.0, pca_prompt=32, pca_reasoning=64)
    assert pl.ValueProbe.preset("release", ridge=3).ridge == 3
    with pytest.raises(pl.PoiseLabError, match="unknown probe preset 'mine'; known: paper, release"):
        pl.ValueProbe.preset("mine")


@pytest.mark.parametrize("n", [2, 5, 20])
def test_fewer_rows_than_components(n):
    """n centred rows span n - 1 dimensions; a component beyond would be a rounding error, blown up."""
    X, y = rows(n + 100)
    X, y, new = X[:n], y[:n], X[n:]
    y[0], y[1] = 0, 1
    small = dict(ridge=100.0, pca_prompt=n - 1, pca_reasoning=n - 1)
    expected = reference(small, INPUTS).fit(X, y).predict(new)
    found = pl.ValueProbe.preset("release").fit(X, y).predict(new)
    np.testing.assert_allclose(found, expected.clip(0, 1), rtol=1e-6, atol=1e-9)


def test_prompt_states_that_come_twice():
    """Both responses of a prompt share its state, up to float32 noise: few prompts span few dimensions."""
    X, y = rows(24 + 100)
    noise = 1 + 1e-7 * np.random.default_rng(2).standard_normal((12, D))
    X[:24, :D] = np.repeat(X[:12, :D], 2, 0)
    X[1:24:2, :D] *= noise
    expected = reference(dict(ridge=100.0, pca_prompt=11, pca_reasoning=23), INPUTS).fit(X[:24], y[:24])
    found = pl.ValueProbe.preset("release").fit(X[:24], y[:24])
    np.testing.assert_allclose(found.predict(X[24:]), expected.predict(X[24:]).clip(0, 1), rtol=1e-6, atol=1e-6)


def test_constant_columns_do_no_harm():
    X, y = rows(100)
    X[:, 3] = 7.0
    expected = reference(PROBE_PRESETS["paper"], INPUTS).fit(X, y).predict(X)
    np.testing.assert_allclose(pl.ValueProbe.preset("paper").fit(X, y).predict(X), expected.clip(0, 1), rtol=1e-6)


def test_constant_targets_are_predicted():
    X, _ = rows(50)
    for value in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(pl.ValueProbe().fit(X, np.full(50, value)).predict(X), value, atol=1e-9)


def test_is_a_scikit_learn_estimator():
    probe = pl.ValueProbe(ridge=3.0, pca_prompt=2, inputs=("prompt", "entropy"))
    assert probe.get_params() == dict(ridge=3.0, pca_prompt=2, pca_reasoning=None, inputs=("prompt", "entropy"))
    again = clone(probe.fit(*rows(30)))
    assert again.get_params() == probe.get_params() and not hasattr(again, "coef_")
    assert again.set_params(ridge=1.0).ridge == 1.0
    assert pl.ValueProbe().fit(*rows(30)).n_features_in_ == 2 * D + 3


# --- predictions ---------------------------------------------------------------------------------


def test_prediction_is_affine_and_clipped():
    probe = pl.ValueProbe().set_fitted(np.array([1.0, 0, 0, 0, 2.0]), 0.25)  # width 1: 2 * 1 + 3 features
    X = np.array([[0.0, 9, 9, 9, 0], [0.25, 9, 9, 9, 0.125], [5, 0, 0, 0, 0], [-5, 0, 0, 0, 0]])
    assert probe.predict(X).tolist() == [0.25, 0.75, 1.0, 0.0]
    values = probe.predict(toy_internals(X.reshape(2, 2, 5)))
    assert torch.equal(values, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert values.dtype == torch.float32


def test_inputs_that_it_does_not_read_do_not_matter():
    X, y = rows(100)
    probe = pl.ValueProbe(inputs=("reasoning",)).fit(X, y)
    changed = X.copy()
    changed[:, :D] += 100
    changed[:, 2 * D :] -= 100
    assert (probe.predict(changed) == probe.predict(X)).all()
    changed[:, D] += 1
    assert (probe.predict(changed) != probe.predict(X)).any()


def test_internals_and_their_features_give_the_same():
    internals = random_internals(20, 2, D)
    targets = (internals.prompt[..., 0] > 0).float()
    probe = pl.ValueProbe().fit(internals, targets)
    same = pl.ValueProbe().fit(internals.features().reshape(40, -1), targets.reshape(-1))
    assert (probe.coef_ == same.coef_).all() and probe.intercept_ == same.intercept_
    assert probe.predict(internals).shape == (20, 2)
    assert probe.predict(internals.features()).shape == (20, 2)


def test_score_by_hand():
    # predictions 0, 0.5, 1 and targets 0, 1, 1: means 0.5 and 2/3, covariance 1/6, variances 1/6 and 2/9
    score = pl.agreement([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
    assert score["r"] == pytest.approx((1 / 6) / math.sqrt((1 / 6) * (2 / 9)))
    assert score["mae"] == pytest.approx(0.5 / 3)
    assert score["brier_skill"] == pytest.approx(1 - (0.25 / 3) / (2 / 9))
    assert pl.agreement([0, 1], [0, 1]) == {"r": pytest.approx(1), "mae": 0, "brier_skill": 1}
    assert pl.agreement([1, 0], [0, 1])["r"] == pytest.approx(-1)
    assert pl.agreement([0.5, 0.5], [0, 1]) == {"r": 0.0, "mae": 0.5, "brier_skill": 0.0}
    assert pl.agreement([0.2, 0.4], [1, 1]) == {"r": 0.0, "mae": pytest.approx(0.7), "brier_skill": 0.0}


def test_score_is_that_of_its_predictions():
    X, y = rows(100)
    probe = pl.ValueProbe().fit(X, y)
    assert (
        probe.score(X, y)
        == pl.agreement(probe.predict(X), y)["brier_skill"]
        == pytest.approx(r2_score(y, probe.predict(X)))
    )
    w = np.random.default_rng(1).random(100)
    assert probe.score(X, y, w) == pytest.approx(r2_score(y, probe.predict(X), sample_weight=w))
    assert probe.score(X, y) > 0.3


def test_cross_validation_of_scikit_learn():
    """The score is one number, `fit` takes `sample_weight`, and a clone is as good as new."""
    X, y = rows(120)
    folds = KFold(3)
    expected = []
    for fit, test in folds.split(X):
        expected.append(r2_score(y[test], pl.ValueProbe().fit(X[fit], y[fit]).predict(X[test])))
    assert cross_val_score(pl.ValueProbe(), X, y, cv=folds).tolist() == pytest.approx(expected)
    w = np.random.default_rng(1).random(120)
    fitted = pl.ValueProbe().fit(X, y, sample_weight=w)
    assert not np.allclose(fitted.coef_, pl.ValueProbe().fit(X, y).coef_)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -0.1, float("inf")])
def test_bad_targets(bad):
    X, y = rows(20)
    y[3] = bad
    with pytest.raises(pl.PoiseLabError, match=r"targets must be rewards in \[0, 1\]"):
        pl.ValueProbe().fit(X, y)


def test_bad_features():
    X, y = rows(20)
    with pytest.raises(pl.PoiseLabError, match="20 rows of features but 19 targets"):
        pl.ValueProbe().fit(X, y[:19])
    with pytest.raises(pl.PoiseLabError, match="0 rows of features but 0 targets"):
        pl.ValueProbe().fit(X[:0], y[:0])
    with pytest.raises(pl.PoiseLabError, match="not two states of equal width"):
        pl.ValueProbe().fit(X[:, :-1], y)
    with pytest.raises(pl.PoiseLabError, match="not two states of equal width"):
        pl.ValueProbe().fit(X[:, :3], y)
    X[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="features contain NaN"):
        pl.ValueProbe().fit(X, y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_prediction_from_what_is_not_finite(bad):
    probe = pl.ValueProbe().fit(*rows(20))
    X, _ = rows(5)
    X[3, 7] = bad
    with pytest.raises(NotFiniteError, match="features contain NaN"):
        probe.predict(X)
    internals = random_internals(4, 2, D)
    internals.reasoning[1, 0, 3] = bad
    with pytest.raises(NotFiniteError, match="features contain NaN"):
        probe.predict(internals)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(ridge=-1.0), "probe: ridge=-1.0; it must be a number, at least 0"),
        (dict(ridge=float("nan")), "probe: ridge=nan; it must be"),
        (dict(ridge="small"), "probe: ridge='small'; it must be"),
        (dict(ridge=None), "probe: ridge=None; it must be"),
        (dict(pca_prompt=0), "probe: pca_prompt=0; it must be a whole number, at least 1"),
        (dict(pca_reasoning=2.5), "probe: pca_reasoning=2.5; it must be"),
        (dict(pca_reasoning=True), "probe: pca_reasoning=True; it must be"),
        (dict(inputs=("prompt", "entropy", "prompt")), "name each of them once"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    probe = pl.ValueProbe(**settings)
    with pytest.raises(pl.PoiseLabError, match=message):
        probe.fit(*rows(20))
    with pytest.raises(pl.PoiseLabError, match=message):
        pl.make_baseline("poise", probe=probe)  # now, and not after the warm-up


def test_wrong_width_at_prediction():
    probe = pl.ValueProbe().fit(*rows(20))
    with pytest.raises(pl.PoiseLabError, match="fitted on 83 features but is given 85"):
        probe.predict(rows(5, d=D + 1)[0])


@pytest.mark.parametrize("inputs", [("prompts",), ()])
def test_unknown_inputs(inputs):
    with pytest.raises(pl.PoiseLabError, match="unknown probe input .*known: entropy, prompt, reasoning"):
        pl.ValueProbe(inputs=inputs).fit(*rows(20))


def test_predict_before_fit():
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        pl.ValueProbe().predict(rows(5)[0])


# --- the buffer ----------------------------------------------------------------------------------


def group(*numbers):
    """One group whose features and targets are the given numbers: (1, M, 1) and (1, M)."""
    t = torch.tensor([numbers], dtype=torch.float32)
    return t[..., None], t


def held(buffer) -> list[float]:
    features, targets = buffer.data()
    assert (features[:, 0] == targets).all() and buffer.rows == len(targets)
    return targets.tolist()


def test_pairs_are_evicted_whole_and_oldest_first():
    buffer = pl.RecentBuffer(5)
    buffer.add(*group(1, 2))
    assert held(buffer) == [1, 2]
    buffer.add(*group(3, 4))
    assert held(buffer) == [1, 2, 3, 4]
    buffer.add(*group(5, 6))  # 6 rows are one too many: the whole first pair goes
    assert held(buffer) == [3, 4, 5, 6]
    buffer.add(*group(7, 8))
    assert held(buffer) == [5, 6, 7, 8]


def test_groups_of_three_are_evicted_whole():
    buffer = pl.RecentBuffer(7)
    three = torch.arange(1.0, 10).view(3, 3)
    buffer.add(three[..., None], three)  # 9 rows, of which the last two groups fit
    assert held(buffer) == [4, 5, 6, 7, 8, 9]
    buffer.add(*group(10, 11))  # 8 rows: one too many again
    assert held(buffer) == [7, 8, 9, 10, 11]
    buffer.add(*group(12, 13))  # exactly 7: nothing goes
    assert held(buffer) == [7, 8, 9, 10, 11, 12, 13]


def test_the_newest_group_stays_even_if_it_is_larger():
    buffer = pl.RecentBuffer(2)
    buffer.add(*group(1, 2))
    buffer.add(*group(3, 4, 5))
    assert held(buffer) == [3, 4, 5]


def test_buffer_state_round_trip():
    buffer = pl.RecentBuffer(7)
    assert buffer.state_dict() == {}
    for numbers in ((1, 2), (3, 4, 5), (6, 7)):
        buffer.add(*group(*numbers))
    again = pl.RecentBuffer(7)
    again.add(*group(99, 98))  # forgotten
    again.load_state_dict(buffer.state_dict())
    for b in (buffer, again):
        b.add(*group(8, 9))
        assert held(b) == [3, 4, 5, 6, 7, 8, 9]
        b.add(*group(10))  # the group of three went as one, also after loading
        assert held(b) == [6, 7, 8, 9, 10]
    empty = pl.RecentBuffer(3)
    empty.load_state_dict({})
    assert empty.rows == 0


def test_buffer_keeps_copies_apart_from_what_it_was_given():
    features, targets = group(1, 2)
    buffer = pl.RecentBuffer(4)
    buffer.add(features, targets)
    features, targets = group(3, 4)
    buffer.add(features, targets)
    assert held(buffer) == [1, 2, 3, 4]


@pytest.mark.parametrize("capacity", [0, -2])
def test_buffer_that_holds_nothing(capacity):
    with pytest.raises(pl.PoiseLabError, match="holds nothing"):
        pl.RecentBuffer(capacity)


# --- on the bundled policy -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(bundled):
    """Rows to fit on (2048 prompts x 2, a full buffer); held-out prompts with V(x) from 16 responses."""
    task = pl.load_task(pl.TINY_TASKS)
    held_out = task.sample(192, seed=100)
    read = pl.sample_rollouts(bundled, task.sample(2048, seed=101, exclude=held_out), 2, seed=0)
    new = pl.sample_rollouts(bundled, held_out, 17, seed=1)
    one, fresh = new.select(responses=[0]), new.select(responses=slice(1, None))
    return read, pl.read_internals(bundled, read), one, pl.read_internals(bundled, one), fresh.rewards.mean(1)


def surface(rollouts: pl.Rollouts) -> np.ndarray:
    """What needs no hidden states: task, difficulty settings (one column per setting and task), lengths."""
    settings = sorted({(p.task, k) for p in rollouts.problems for k in p.difficulty})
    table = []
    for i, p in enumerate(rollouts.problems):
        difficulty = [p.difficulty.get(k, 0.0) * (p.task == task) for task, k in settings]
        for j in range(rollouts.responses):
            lengths = [
                len(rollouts.prompt_ids[i]),
                int(rollouts.lengths[i, j]),
                int(rollouts.reasoning_lengths[i, j]),
            ]
            table.append([*difficulty, *lengths])
    tasks = np.repeat(np.array(rollouts.tasks)[:, None], rollouts.responses, 0)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(tasks)
    return np.concatenate([np.array(table), one_hot], 1)


def test_probe_reads_the_value_better_than_the_surface_does(measured):
    """With these problems and two other draws of them r is 0.68 to 0.71, the surface's 0.57 to 0.61."""
    read, internals, one, one_internals, value = measured
    probe = pl.ValueProbe.preset("release").fit(internals, read.partner_rewards())
    r = pl.agreement(probe.predict(one_internals), value)["r"]
    targets = read.partner_rewards().reshape(-1).numpy()
    rivals = [LinearRegression(), make_pipeline(StandardScaler(), Ridge(100.0))]
    r_surface = max(
        pl.agreement(rival.fit(surface(read), targets).predict(surface(one)), value)["r"] for rival in rivals
    )
    assert r >= 0.65
    assert r > r_surface + 0.05


def test_shuffled_targets_teach_nothing(measured):
    """The same rows with targets of other prompts: r is that of chance (5 standard errors)."""
    read, internals, one, one_internals, value = measured
    targets = read.partner_rewards()[torch.randperm(2048, generator=torch.Generator().manual_seed(0))]
    r = pl.agreement(pl.ValueProbe.preset("release").fit(internals, targets).predict(one_internals), value)["r"]
    assert abs(r) < 5 / math.sqrt(192)


def test_weights_are_those_of_a_plain_pipeline():
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(80, 11)), rng.random(80), rng.random(80)
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=3.0)).fit(X, y, ridge__sample_weight=w)
    found = pl.ValueProbe(ridge=3.0).fit(X, y, w)
    assert np.allclose(found.predict(X), pipeline.predict(X).clip(0, 1), atol=1e-10)
    assert not np.allclose(found.predict(X), pl.ValueProbe(ridge=3.0).fit(X, y).predict(X), atol=1e-3)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_bad_weights(weights):
    with pytest.raises(pl.PoiseLabError, match="weights must be 2 numbers"):
        pl.ValueProbe().fit(np.random.default_rng(0).normal(size=(2, 5)), [0.0, 1.0], weights)
