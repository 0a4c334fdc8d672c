from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from support import ToyTask, random_internals, tiny_policy, toy_internals, toy_rollouts

import poise_lab as pl
from poise_lab.baselines import BASELINES
from poise_lab.baselines.base import checked_rewards
from poise_lab.baselines.poise import Poise

TWO = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.25, 0.75]]
THREE = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def advantages(name, rewards, **settings):
    rollouts = toy_rollouts(rewards)
    baseline = pl.make_baseline(name, responses=len(rewards[0]), **settings)
    return baseline.advantages(rollouts, random_internals(len(rewards), len(rewards[0]), 2))


def reads_first_feature(responses=2, **settings) -> Poise:
    """A POISE baseline past its warm-up, whose probe is set by hand: the value is feature 0."""
    baseline = pl.make_baseline("poise", responses=responses, warmup=1, **settings)
    baseline.probes["all"] = pl.ValueProbe().set_fitted(np.array([1.0, 0, 0, 0, 0]), 0.0)
    return baseline


def internals_with(values) -> pl.Internals:
    """Internals of width 1 whose first feature is given, (P, M)."""
    features = torch.full((*torch.as_tensor(values).shape, 5), 9.0)
    features[..., 0] = torch.as_tensor(values)
    return toy_internals(features)


# --- by hand -------------------------------------------------------------------------------------


def test_none_by_hand():
    assert advantages("none", TWO).tolist() == TWO


def test_batch_mean_by_hand():
    # the sum of [[1, 0], [1, 1]] is 3: the others' mean is 2/3 for a 1 and 1 for the 0
    found = advantages("batch_mean", [[1.0, 0.0], [1.0, 1.0]])
    assert torch.allclose(found, torch.tensor([[1 / 3, -1], [1 / 3, 1 / 3]]))
    found = advantages("batch_mean", [[1.0, 0.0, 0.0]])
    assert torch.allclose(found, torch.tensor([[1.0, -0.5, -0.5]]))


def test_rloo_by_hand():
    assert advantages("rloo", TWO).tolist() == [[1.0, -1.0], [0.0, 0.0], [0.0, 0.0], [-0.5, 0.5]]
    assert advantages("rloo", THREE).tolist() == [[1.0, -0.5, -0.5], [0.5, 0.5, -1.0], [0.0, 0.0, 0.0]]


def test_james_stein_by_hand():
    """Prompts with means 1/2, 1 and 0, of which the first alone is noisy: variance 1/2, over M = 2 a quarter."""
    found = advantages("james_stein", [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    # first prompt: the others agree within (v = 0), so nothing is shrunk; second: v = 1/8, means 1/2 and 0: s = 1/16
    w = (1 / 8) / (1 / 8 + 1 / 16 + 1e-6)
    second, third = 1 - ((1 - w) * 1 + w * 0.25), 0 - ((1 - w) * 0 + w * 0.75)
    assert found.tolist() == [
        pytest.approx([1.0, -1.0]),
        pytest.approx([second, second]),
        pytest.approx([third, third]),
    ]
    with pytest.raises(pl.PoiseLabError, match="at least 2 prompts"):
        advantages("james_stein", [[1.0, 0.0]])


def test_james_stein_of_three_by_hand():
    """Means 1/3, 1 and 0, of which the first alone is noisy: variance 1/3, over M = 3 a ninth."""
    found = advantages("james_stein", [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    # second prompt: v = 1/18, means 1/3 and 0: s = 1/36, w = 2/3, b = 1/3 + 2/3 * 1/6
    # third: v = 1/18, means 1/3 and 1: s = 1/9, w = 1/3, b = 1/3 * 2/3
    assert found.tolist() == [
        pytest.approx([1.0, -0.5, -0.5]),
        pytest.approx([5 / 9] * 3, abs=1e-4),  # the 1e-6 of w moves it by less
        pytest.approx([-2 / 9] * 3, abs=1e-4),
    ]


@pytest.mark.parametrize("name", ["same_rollout", "prompt_only"])
def test_ablations_of_the_pair_by_hand(name):
    """Before the first fit the mean of all others; then what the probe reads, of the response or of its prompt alone."""
    rewards = [[1.0], [0.0], [1.0]]
    rollouts, internals = toy_rollouts(rewards), random_internals(3, 1, 2)
    baseline = pl.make_baseline(name, warmup=1, probe=pl.ValueProbe(ridge=1.0))
    assert baseline.responses == 1
    assert baseline.advantages(rollouts, internals).flatten().tolist() == [0.5, -1.0, 0.5]
    baseline.update(rollouts, internals)
    inputs = ("prompt",) if name == "prompt_only" else ("prompt", "reasoning", "entropy")
    own = pl.ValueProbe(ridge=1.0, inputs=inputs).fit(internals.features()[:, 0], rollouts.rewards[:, 0])
    values = own.predict(internals.features()[:, 0])
    assert baseline.advantages(rollouts, internals).flatten().tolist() == pytest.approx(
        (rollouts.rewards[:, 0] - torch.as_tensor(values)).tolist(), abs=1e-6
    )
    assert baseline.settings()["probe"]["inputs"] == list(inputs)


def test_ev_switch_asks_whether_the_critic_explains_the_rewards(monkeypatch):
    rollouts = toy_rollouts([[1.0], [0.0], [1.0]])
    baseline = pl.make_baseline("ev_switch")
    baseline.start(tiny_policy())
    for read, expected in (
        ([0.9, 0.1, 0.8], [0.1, -0.1, 0.2]),  # explains: the critic's values
        ([0.1, 0.9, 0.2], [0.5, -1.0, 0.5]),  # worse than nothing: the mean of the others
        ([0.4, 0.4, 0.4], [0.5, -1.0, 0.5]),  # explains nothing
    ):
        monkeypatch.setattr(type(baseline), "values", lambda self, *a, v=read: torch.tensor(v)[:, None])
        assert baseline.advantages(rollouts, None).flatten().tolist() == pytest.approx(expected)


def test_grpo_by_hand():
    expected = torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    assert torch.allclose(advantages("grpo", TWO), expected, atol=1e-5)
    # 1, 0, 0: mean 1/3, standard deviation sqrt(2)/3
    root = 2**0.5
    expected = torch.tensor([[root, -1 / root, -1 / root], [1 / root, 1 / root, -root], [0, 0, 0]])
    assert torch.allclose(advantages("grpo", THREE), expected, atol=1e-5)


@pytest.mark.parametrize("reward", [0.9, 0.1, 0.7, 1.0, 0.0])
@pytest.mark.parametrize("m", [3, 8, 11])
def test_where_all_rewards_agree_the_advantage_is_0(reward, m):
    """Exactly: the rounding error of a mean over a standard deviation of 0 would be -0.06 for eight of 0.9."""
    for name in ("grpo", "dapo"):
        assert advantages(name, [[reward] * m, [0.0, *[1.0] * (m - 1)]])[0].tolist() == [0.0] * m
    assert advantages("spo", [[reward] * m] * 3).eq(0).all()


def test_poise_by_hand_with_two_responses():
    """b1 = g(y2), b2 = g(y1), clipped to [0, 1]."""
    rollouts = toy_rollouts([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    internals = internals_with([[0.25, 0.75], [0.5, 0.125], [-3.0, 7.0]])
    found = reads_first_feature().advantages(rollouts, internals)
    assert found.tolist() == [[0.25, -0.25], [0.875, 0.5], [-1.0, 0.0]]


def test_poise_by_hand_with_three_responses():
    """The baseline of a response is the mean of its siblings' predictions."""
    rollouts = toy_rollouts([[1.0, 0.0, 1.0]])
    found = reads_first_feature(3).advantages(rollouts, internals_with([[0.0, 0.5, 1.0]]))
    assert found.tolist() == [[1 - 0.75, 0 - 0.5, 1 - 0.25]]


def test_poise_uses_rloo_until_its_first_fit():
    baseline, rloo = pl.make_baseline("poise", warmup=3), pl.make_baseline("rloo")
    for step in range(3):
        rollouts, internals = batch(step)
        found = baseline.advantages(rollouts, internals)
        assert torch.equal(found, rloo.advantages(rollouts, internals))
        assert baseline.values(rollouts, internals) is None
        baseline.update(rollouts, internals)
    rollouts, internals = batch(3)
    assert baseline.values(rollouts, internals).shape == (40, 2)
    assert not torch.equal(baseline.advantages(rollouts, internals), rloo.advantages(rollouts, internals))


def batch(seed, p=40, m=2, d=4, tasks=None):
    """Rewards that depend on the prompt's state, which both responses share."""
    generator = torch.Generator().manual_seed(seed)
    internals = random_internals(p, m, d, seed=1000 + seed)
    internals.prompt[:] = internals.prompt[:, :1]
    chance = torch.sigmoid(3 * internals.prompt[..., 0])
    return toy_rollouts(torch.bernoulli(chance, generator=generator), tasks), internals


def trained(cls=Poise, steps=4, **settings):
    baseline = cls(**{"warmup": 1, **settings})
    for step in range(steps):
        rollouts, internals = batch(step, m=baseline.responses)
        baseline.advantages(rollouts, internals)
        baseline.update(rollouts, internals)
    return baseline


@pytest.mark.parametrize("m", [2, 3])
def test_poise_learns_from_partners_rewards(m):
    """Its probe is the one fitted on (phi_i, mean reward of the others) of all steps so far."""
    baseline = trained(responses=m)
    batches = [batch(step, m=m) for step in range(4)]
    X = np.concatenate([internals.features().reshape(40 * m, -1).numpy() for _, internals in batches])
    y = []
    for rollouts, _ in batches:
        for group in rollouts.rewards.tolist():
            y += [(sum(group) - own) / (m - 1) for own in group]
    rollouts, internals = batch(9, m=m)
    expected = pl.ValueProbe.preset("release").fit(X, y).predict(internals)
    assert torch.allclose(baseline.values(rollouts, internals), expected, atol=1e-6)
    assert pl.agreement(baseline.values(rollouts, internals), rollouts.partner_rewards())["r"] > 0.4


def test_buffer_forgets_the_oldest_step():
    """Room for two steps: the probe is fitted on the last two alone."""
    baseline = trained(buffer_rows=160)
    X = np.concatenate([batch(s)[1].features().reshape(80, -1).numpy() for s in (2, 3)])
    y = np.concatenate([batch(s)[0].partner_rewards().reshape(-1).numpy() for s in (2, 3)])
    rollouts, internals = batch(9)
    expected = pl.ValueProbe.preset("release").fit(X, y).predict(internals)
    assert torch.allclose(baseline.values(rollouts, internals), expected, atol=1e-6)


# --- what a baseline may depend on ---------------------------------------------------------------


def subtracted(baseline, rollouts, internals):
    return rollouts.rewards - baseline.advantages(rollouts, internals)


def sees_this_steps_rewards(cls) -> bool:
    """Whether what is subtracted at a step changes with the rewards of that step."""
    results = []
    for flip in (False, True):
        baseline = trained(cls)
        rollouts, internals = batch(9)
        if flip:
            rollouts.rewards = 1 - rollouts.rewards
        results.append(subtracted(baseline, rollouts, internals))
    return not torch.allclose(*results, atol=1e-6)


class FitsFirst(Poise):
    """The mutant: the step's rewards are in the probe that judges them."""

    def advantages(self, rollouts, internals):
        self.update(rollouts, internals)
        return super().advantages(rollouts, internals)


class GradesItself(Poise):
    """The mutant: the prediction from a response is its own baseline."""

    def advantages(self, rollouts, internals):
        values = self.values(rollouts, internals)
        return super().advantages(rollouts, internals) if values is None else rollouts.rewards - values


def test_probe_of_a_step_was_fitted_before_its_rewards_were_seen():
    assert not sees_this_steps_rewards(Poise)
    assert sees_this_steps_rewards(FitsFirst)


def own_response_enters(baseline, m=2) -> bool:
    """Whether changing response j's state and reward changes what is subtracted from reward j, in float64."""
    rollouts, internals = batch(9, m=m)
    rollouts.rewards = rollouts.rewards.double()
    before = baseline.advantages(rollouts, internals) - rollouts.rewards
    for j in range(m):
        changed_rollouts, changed = batch(9, m=m)
        changed.reasoning[:, j] += 1.5
        changed.prompt[:, j] -= 0.5
        changed.entropy[:, j] *= 3
        changed_rollouts.rewards = changed_rollouts.rewards.double()
        changed_rollouts.rewards[:, j] = 1 - changed_rollouts.rewards[:, j]
        after = baseline.advantages(changed_rollouts, changed) - changed_rollouts.rewards
        if not torch.allclose(after[:, j], before[:, j], rtol=0, atol=1e-14):
            return True
        assert not torch.allclose(after, before, atol=1e-3)  # the change does reach the siblings
    return False


@pytest.mark.parametrize("m", [2, 3])
def test_nothing_of_a_response_enters_its_own_baseline(m):
    assert not own_response_enters(trained(responses=m), m)
    assert not own_response_enters(pl.make_baseline("rloo", responses=m), m)
    assert own_response_enters(trained(GradesItself, responses=m), m)


# --- unbiased, by exact enumeration --------------------------------------------------------------


def enumerated_gradient(baseline, m, batch_of_one=False):
    """(expected estimator, exact gradient) of a softmax policy over 4 responses to one prompt, in float64.

    Every group of m responses is one row, weighted with its probability.
    """
    logits = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64)
    reward = torch.tensor([1.0, 0.0, 0.25, 1.0], dtype=torch.float64)
    state = torch.tensor([0.9, 0.1, 0.4, 0.7])  # what the probe reads off each response
    p = logits.softmax(0)
    score = torch.eye(4, dtype=torch.float64) - p  # grad log p(y), one row per y
    exact = (p * reward) @ score
    groups = torch.tensor(list(itertools.product(range(4), repeat=m)))
    probability = p[groups].prod(1)
    assert probability.sum().item() == pytest.approx(1)
    parts = groups.split(1) if batch_of_one else [groups]
    a = torch.cat([baseline.advantages(toy_rollouts(reward[g]), internals_with(state[g])) for g in parts])
    estimator = (a.double()[..., None] * score[groups]).mean(1)
    return probability @ estimator, exact


def bias(baseline, m, **options) -> float:
    found, exact = enumerated_gradient(baseline, m, **options)
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("m", [2, 3])
def test_gradient_is_unbiased(m):
    assert bias(pl.make_baseline("none", responses=m), m) < 1e-12
    assert bias(pl.make_baseline("batch_mean", responses=m), m, batch_of_one=True) < 1e-12
    assert bias(pl.make_baseline("rloo", responses=m), m) < 1e-12
    assert bias(reads_first_feature(m), m) < 1e-12


def test_the_same_check_finds_a_bias():
    leaking = GradesItself(warmup=1)
    leaking.probes = reads_first_feature().probes
    assert bias(leaking, 2) > 0.05
    assert bias(pl.make_baseline("grpo", responses=2), 2) > 0.05  # dividing by the group's own spread


# --- one probe per task --------------------------------------------------------------------------

TASKS = ["a", "b"] * 20


def test_per_task_probes_are_fitted_on_their_own_rows():
    baseline = pl.make_baseline("poise", warmup=1, per_task=True)
    rollouts, internals = batch(0, tasks=TASKS)
    baseline.update(rollouts, internals)
    assert set(baseline.probes) == {"a", "b"}
    assert baseline.buffers["a"].rows == baseline.buffers["b"].rows == 40
    new, new_internals = batch(1, tasks=TASKS)
    values = baseline.values(new, new_internals)
    for k in (0, 1):
        part = internals.select(slice(k, None, 2))
        probe = pl.ValueProbe.preset("release").fit(part, rollouts.partner_rewards()[k::2])
        expected = probe.predict(new_internals.select(slice(k, None, 2)))
        assert torch.allclose(values[k::2], expected, atol=1e-6)
    one = pl.make_baseline("poise", warmup=1)
    one.update(rollouts, internals)
    assert not torch.allclose(one.values(new, new_internals), values, atol=1e-3)


def test_a_probe_of_a_task_with_a_slash_in_its_name_comes_back():
    baseline = pl.make_baseline("poise", warmup=1, per_task=True)
    baseline.update(*batch(0, tasks=["openai/gsm8k", "a//b/"] * 20))
    again = pl.make_baseline("poise", warmup=1, per_task=True)
    again.load_state_dict(baseline.state_dict())
    assert set(again.probes) == set(again.buffers) == {"openai/gsm8k", "a//b/"}
    for name, probe in baseline.probes.items():
        assert np.array_equal(again.probes[name].coef_, probe.coef_)


def test_a_task_without_a_probe_yet_means_rloo():
    baseline = pl.make_baseline("poise", warmup=1, per_task=True)
    baseline.update(*batch(0, tasks=["a"] * 40))
    rollouts, internals = batch(1, tasks=["a", "new"] * 20)
    assert baseline.values(rollouts, internals) is None
    assert torch.equal(
        baseline.advantages(rollouts, internals), pl.make_baseline("rloo").advantages(rollouts, internals)
    )


# --- state and settings --------------------------------------------------------------------------


@pytest.mark.parametrize("per_task", [False, True])
def test_state_round_trip(per_task):
    baseline = trained(per_task=per_task, buffer_rows=200)
    again = Poise(warmup=1, per_task=per_task, buffer_rows=200)
    again.load_state_dict({k: v.clone() for k, v in baseline.state_dict().items()})
    for step in (5, 6):
        rollouts, internals = batch(step)
        assert torch.equal(again.values(rollouts, internals), baseline.values(rollouts, internals))
        assert torch.equal(again.advantages(rollouts, internals), baseline.advantages(rollouts, internals))
        for b in (again, baseline):
            b.update(rollouts, internals)
    assert again.steps == baseline.steps == 6


def test_state_during_warm_up():
    baseline = trained(warmup=5, steps=3)
    again = Poise(warmup=5)
    again.load_state_dict(baseline.state_dict())
    rollouts, internals = batch(7)
    assert again.values(rollouts, internals) is None
    for b in (again, baseline):
        b.update(rollouts, internals)
        assert b.values(rollouts, internals) is None
        b.update(rollouts, internals)
        assert b.values(rollouts, internals) is not None
    assert torch.equal(again.values(rollouts, internals), baseline.values(rollouts, internals))


def test_settings_name_everything():
    settings = pl.make_baseline("poise", responses=4, probe="paper", per_task=True, warmup=7, buffer_rows=99).settings()
    assert settings["name"] == "poise" and settings["responses"] == 4 and settings["per_task"] is True
    assert settings["probe"]["ridge"] == 0.01 and settings["warmup"] == 7 and settings["buffer_rows"] == 99
    assert pl.make_baseline("poise").responses == 2 and pl.make_baseline("poise").warmup >= 1


def test_own_probe_is_not_changed():
    probe = pl.ValueProbe(ridge=5.0)
    baseline = trained(probe=probe)
    assert not hasattr(probe, "coef_") and baseline.probes["all"].ridge == 5.0


# --- bad input -----------------------------------------------------------------------------------


def test_unknown_baseline_lists_the_known_ones():
    with pytest.raises(
        pl.PoiseLabError,
        match="unknown baseline 'nosuch'; known: batch_mean, constant, critic, dapo,.* rloo, same_rollout, score_weighted, spo",
    ):
        pl.make_baseline("nosuch")
    names = "none batch_mean constant rloo grpo dr_grpo opo remax spo dapo critic ppo poise fused score_weighted oracle"
    assert set(BASELINES) >= set(names.split())
    assert all(cls.name == name for name, cls in BASELINES.items())


@pytest.mark.parametrize("name", ["poise", "fused", "rloo", "grpo", "dr_grpo", "opo", "dapo"])
@pytest.mark.parametrize("responses", [1, 0])
def test_too_few_responses(name, responses):
    with pytest.raises(
        pl.PoiseLabError, match=f"'{name}' needs at least 2 responses per prompt, got responses={responses}"
    ):
        pl.make_baseline(name, responses=responses)


NO_COUNT = [0, -1, 2.5, "two", True, None, float("nan"), float("inf")]
NO_POSITIVE = [0, -1.0, "small", True, None, float("nan"), float("inf")]
NO_SWITCH = ["false", "true", 0, 1, None]
BAD = {  # of every setting of every baseline
    "responses": NO_COUNT,
    "rows": NO_COUNT,
    "rounds": NO_COUNT,
    "fresh": NO_COUNT,
    "pool": NO_COUNT,
    "forget": [*NO_POSITIVE, 1.5],
    "probe": ["mine", None, 3, pl.ValueProbe(ridge=-1.0), pl.ValueProbe],
    "buffer_rows": [*NO_COUNT, 1.5],
    "warmup": NO_COUNT,
    "per_task": NO_SWITCH,
    "learning_rate": NO_POSITIVE,
    "epochs": NO_COUNT,
    "minibatches": NO_COUNT,
    "ridge": NO_POSITIVE,
    "gae_lambda": [-0.1, 1.1, "all", True, None, float("nan")],
}
SETTINGS = [(name, field.name) for name in sorted(BASELINES) for field in dataclasses.fields(BASELINES[name])]


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_bad_settings(name, setting):
    """A setting that is not in BAD fails here, and so does one that is not checked."""
    for bad in BAD[setting]:
        with pytest.raises(
            pl.PoiseLabError, match=setting if bad != "mine" else "unknown probe preset 'mine'"
        ) as error:
            pl.make_baseline(name, **{setting: bad})
        assert "\n" not in str(error.value)


def test_a_bad_setting_is_refused_in_a_sentence():
    for settings, sentence in [
        (dict(colour="red"), "unknown setting of baseline 'poise' 'colour'; known: buffer_rows, per_task, probe, responses, warmup"),
        (dict(responses=2.5), "baseline 'poise': responses=2.5; it must be a whole number"),
        (dict(per_task="false"), "baseline 'poise': per_task='false'; it must be True or False"),
        (dict(buffer_rows=1.5), "baseline 'poise': buffer_rows=1.5; it must be a whole number, at least 1"),
    ]:  # fmt: skip
        with pytest.raises(pl.PoiseLabError) as error:
            pl.make_baseline("poise", **settings)
        assert str(error.value) == sentence


def test_settings_are_those_of_the_constructor_and_can_be_written():
    """NumPy's numbers as well; and what was made from a config's settings has the same settings."""
    for name, cls in BASELINES.items():
        settings = pl.make_baseline(name).settings()
        assert list(settings) == ["name", *(field.name for field in dataclasses.fields(cls))]
        assert json.loads(json.dumps(settings)) == settings
        own = {k: v for k, v in settings.items() if k not in ("name", "probe")}
        again = pl.make_baseline(name, **{k: np.array(v)[()] for k, v in own.items()}).settings()  # NumPy's
        assert again == settings and json.dumps(again) == json.dumps(settings)
        for annotated in cls.__dict__.get("__annotations__", {}):  # a field that the class forgot to declare as one
            assert getattr(pl.make_baseline(name), annotated) == getattr(cls, annotated)


def test_a_baseline_of_four_lines(monkeypatch):
    """The class and its place in the one table: nothing else."""

    class Median(pl.Baseline):
        name = "median"

        def advantages(self, rollouts, internals):
            return rollouts.rewards - rollouts.rewards.median()

    monkeypatch.setitem(BASELINES, "median", Median)
    assert pl.make_baseline("median").settings() == {"name": "median", "responses": 2}
    assert advantages("median", [[1.0, 0.0], [1.0, 1.0]]).tolist() == [[0.0, -1.0], [0.0, 0.0]]
    with pytest.raises(pl.PoiseLabError, match="unknown setting of baseline 'median' 'rows'"):
        pl.make_baseline("median", rows=3)


def test_a_probe_of_ones_own_keeps_its_own_fit():
    class Half(pl.ValueProbe):
        def fit(self, X, y, sample_weight=None):
            return self.set_fitted(np.zeros(X.shape[-1]), 0.5)

    baseline = trained(probe=Half(ridge=5.0))
    again = Poise(warmup=1, probe=Half(ridge=5.0))
    again.load_state_dict(baseline.state_dict())
    for b in (baseline, again):
        assert b.values(*batch(9)).eq(0.5).all() and type(b.probes["all"]) is Half and b.probes["all"].ridge == 5.0


@pytest.mark.parametrize("bad", [float("nan"), 1.01, -0.5, float("inf")])
@pytest.mark.parametrize("name", sorted(BASELINES))
def test_bad_rewards(name, bad):
    with pytest.raises(pl.PoiseLabError, match=r"rewards must lie in \[0, 1\], without NaN"):
        advantages(name, [[1.0, bad], [0.0, 1.0]])


def test_good_rewards_pass():
    rewards = toy_rollouts(TWO)
    assert torch.equal(checked_rewards(rewards), rewards.rewards)


def test_batch_mean_of_one():
    with pytest.raises(pl.PoiseLabError, match="at least 2 responses in the batch"):
        advantages("batch_mean", [[1.0]])


def test_variance_reduction_by_hand():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert pl.variance_reduction(rewards / 2, rewards) == pytest.approx(0.75)
    assert pl.variance_reduction(rewards - 0.5, rewards) == pytest.approx(0)
    assert pl.variance_reduction(2 * rewards, rewards) == pytest.approx(-3)
    for same in (1.0, 0.9):  # the variance of 0.9, 0.9, ... is a rounding error, no 0
        for agree in (torch.full((3, 7), same), np.full((3, 7), same, dtype=np.float32)):
            assert math.isnan(pl.variance_reduction(agree - 0.25, agree))


def test_own_share_by_hand_and_where_there_is_none():
    rewards, fresh = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert pl.own_share(rewards / 2, rewards, fresh) == pytest.approx(0.5)
    assert pl.own_share(torch.full((1, 2), 0.3), rewards, fresh) == pytest.approx(0)
    for same in (1.0, 0.9):
        assert math.isnan(pl.own_share(torch.rand(3, 2), torch.full((3, 2), same), torch.full((3, 14), same)))
    assert math.isnan(pl.own_share(rewards.numpy(), np.ones((1, 2)), np.ones((1, 3))))
    with pytest.raises(pl.PoiseLabError, match="at least 2 fresh responses"):
        pl.own_share(rewards, rewards, fresh[:, :1])


def test_own_share_halves_the_fresh_rewards():
    """They say 1 (first and third) and 1/2 (second and fourth): what one is subtracted from is not what the other is."""
    rewards, fresh = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    # Cov: mean (0.3 - 1) (R - 1/2) = 0 and mean (0.3 - 1/2) (R - 1) = 0.1; Var: mean (R - 1) (R - 1/2) = 1/4, twice
    assert pl.own_share(torch.full((1, 2), 0.3), rewards, fresh) == pytest.approx(0.1 / 0.5)


# --- controls --------------------------------------------------------------------------------------


def test_controls_see_no_reward():
    """Other rewards change nothing; the tosses repeat for a batch and differ between batches; sharpening rises with log p."""
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(40, 0), 2, seed=0, max_new_tokens=6)
    internals = pl.read_internals(policy, rollouts, layer=1, pool=2)
    other = pl.sample_rollouts(policy, ToyTask().sample(40, 1), 2, seed=0, max_new_tokens=6)
    turned = dataclasses.replace(rollouts, rewards=1 - rollouts.rewards)
    for name in ("random_rewards", "sharpen"):
        control = pl.make_baseline(name)
        advantages = control.advantages(rollouts, internals)
        assert advantages.equal(control.advantages(turned, internals))
        assert abs(advantages.mean()) < 0.2 and advantages.std() > 0.4
    assert (
        not pl.make_baseline("random_rewards")
        .advantages(other, None)
        .equal(pl.make_baseline("random_rewards").advantages(rollouts, None))
    )
    mean = (internals.logprobs * rollouts.mask).sum(-1) / rollouts.lengths
    assert advantages.flatten().argsort().equal(mean.flatten().argsort())
