"""Baselines of each token from its own prefix: exactly unbiased, their bound, the ridge from sums, what they may read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from support import ToyTask, tiny_policy

import poise_lab as pl
from poise_lab.baselines.prefix import Prefix, PrefixWeighted
from poise_lab.variance.exact import (
    ExactPolicy,
    ListedPrefix,
    ListedPrefixWeighted,
    every_response,
    moments,
    token_moments,
)

EPS = 1e-12
LISTED = ExactPolicy(seed=0)  # 15 responses to each of 3 prompts
SMALL = ExactPolicy(length=2, seed=3)  # 7 responses
BOTH = [ListedPrefix, ListedPrefixWeighted]
POLICY = tiny_policy()


def learned(cls, policy=LISTED, batches=3, **settings):
    baseline = cls(**{"ridge": 1.0, **settings})
    baseline.start(policy)
    for seed in range(batches):
        baseline.update(*policy.records(*policy.draw(120, 1, seed=seed)))
    return baseline


def rewards_minus(policy, values):
    return (policy.reward[..., None] - values) * policy.mask


def best(policy):
    """The numbers that leave the least variance of all that depend on the prefix."""
    inner = (policy.token_score * policy.score[:, :, None]).sum(-1)
    return policy.prefix_values(policy.reward[..., None] * inner, (policy.token_score**2).sum(-1))


# --- exactly ---------------------------------------------------------------------------------------


def test_an_advantage_for_each_token_has_the_moments_of_one_for_all():
    one = moments(LISTED, pl.make_baseline("none"), 1)
    same = token_moments(LISTED, LISTED.reward[..., None].expand_as(LISTED.mask.expand(3, -1, -1)))
    assert same.trace == pytest.approx(one.trace, rel=1e-12) and same.bias < EPS
    assert (LISTED.token_score.sum(2) - LISTED.score).abs().max() < EPS
    assert LISTED.token_score[:, ~LISTED.mask].eq(0).all()


def test_values_of_a_prefix_by_a_plain_loop():
    found = LISTED.prefix_values(LISTED.reward[..., None] * LISTED.mask, LISTED.mask.double().expand(3, -1, -1))
    assert torch.allclose(found[:, :, 0], LISTED.values()[:, None], atol=EPS)  # before the first token: the prompt's
    for x, n, t in ((0, 4, 1), (2, 14, 2), (1, 9, 1)):
        start = LISTED.responses[n, :t].tolist()
        alike = [k for k, row in enumerate(LISTED.responses.tolist()) if row[:t] == start and LISTED.lengths[k] > t]
        p = LISTED.prob[x, alike]
        assert float(found[x, n, t]) == pytest.approx(float(p @ LISTED.reward[x, alike] / p.sum()), abs=EPS)
    assert found[:, ~LISTED.mask].eq(0).all() and (found[..., 1] != found[..., 0]).any()


@pytest.mark.parametrize("cls", BOTH)
def test_unbiased_and_never_below_its_bound(cls):
    none = moments(LISTED, pl.make_baseline("none"), 1).trace
    bound = token_moments(LISTED, rewards_minus(LISTED, best(LISTED)))
    found = token_moments(LISTED, every_response(LISTED, learned(cls)))
    assert found.bias < EPS and bound.bias < EPS
    assert bound.trace < found.trace < 0.75 * none
    young = cls()
    young.start(LISTED)
    assert token_moments(LISTED, every_response(LISTED, young)).trace == pytest.approx(none, rel=1e-12)


def test_the_bound_is_the_bottom():
    """No number per prompt reaches it, nor the prefix's value; any other numbers of the prefix leave more."""
    least, generator = (
        token_moments(LISTED, rewards_minus(LISTED, best(LISTED))).trace,
        torch.Generator().manual_seed(0),
    )
    value = LISTED.prefix_values(LISTED.reward[..., None] * LISTED.mask, LISTED.mask.double().expand(3, -1, -1))
    for other in (LISTED.values()[:, None, None], LISTED.optimal_values()[:, None, None], value):
        assert token_moments(LISTED, rewards_minus(LISTED, other)).trace > 1.05 * least
    for _ in range(20):
        noise = torch.randn(best(LISTED).shape, generator=generator, dtype=torch.float64)
        of_prefix = LISTED.prefix_values(noise, torch.ones_like(noise))  # the same for all that share a prefix
        found = token_moments(LISTED, rewards_minus(LISTED, best(LISTED) + 0.01 * of_prefix))
        assert found.bias < EPS and least < found.trace


@pytest.mark.parametrize("cls", BOTH)
def test_unbiased_over_every_earlier_step(cls):
    """Every response that could have been learned from, with its probability, after a fixed step before it."""
    expected, chance = 0.0, (SMALL.prob / 3).flatten()
    for i, p in enumerate(chance.tolist()):
        baseline = learned(cls, SMALL, batches=1)
        baseline.update(*SMALL.records(torch.tensor([i // 7]), torch.tensor([[i % 7]])))
        expected = expected + p * token_moments(SMALL, every_response(SMALL, baseline)).expectation
    assert (expected - SMALL.gradient()).norm() < EPS * SMALL.gradient().norm()


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("mistake", ["state after the token", "entropy of the next", "own surprise", "own reward"])
def test_what_is_not_of_the_prefix_is_caught(cls, mistake):
    class Wrong(cls):
        def states(self, rollouts):
            for rows, states, mask in super().states(rollouts):
                if mistake == "state after the token":
                    states = self.policy.states_along(rollouts)[:, 1:][mask]
                yield rows, states, mask

        def features(self, rollouts, internals):
            if mistake == "entropy of the next":
                internals.token_entropy = internals.token_entropy.roll(-1, -1)
            surprise = ((1 - internals.logprobs.exp()) ** 2).flatten(0, 1)
            for rows, columns, mask in super().features(rollouts, internals):
                if mistake == "own surprise":
                    columns[:, 2] += surprise[rows][mask]
                if mistake == "own reward":
                    columns[:, 1] += rollouts.rewards.flatten()[rows][:, None].expand(mask.shape)[mask]
                yield rows, columns, mask

    assert token_moments(LISTED, every_response(LISTED, learned(Wrong))).bias > 0.01


# --- on a model ------------------------------------------------------------------------------------


def batch(seed=0, prompts=12, responses=1):
    rollouts = pl.sample_rollouts(POLICY, ToyTask().sample(prompts, seed), responses, seed=seed, max_new_tokens=6)
    return rollouts, pl.read_internals(POLICY, rollouts, layer=1, pool=2)


def started(cls=Prefix, **settings):
    baseline = cls(**settings)
    baseline.start(POLICY)
    return baseline


def columns_of(baseline, rollouts, internals):
    """(rows, tokens, 1 + F), NaN at padding."""
    found = None
    for rows, columns, mask in baseline.features(rollouts, internals):
        if found is None:
            found = torch.full((rollouts.rewards.numel(), mask.shape[1], columns.shape[1]), torch.nan).double()
        part = found[rows]
        part[mask] = columns
        found[rows] = part
    return found


def test_columns_by_a_plain_loop():
    rollouts, internals = batch(responses=2)
    found = columns_of(started(), rollouts, internals)
    for row in (0, 5, 23):
        i, j = divmod(row, 2)
        prompt, n = rollouts.prompt_ids[i], int(rollouts.lengths[i, j])
        ids = torch.tensor([prompt + rollouts.response_ids[i, j, :n].tolist()])
        with torch.no_grad():
            states = POLICY.model.base_model(input_ids=ids).last_hidden_state[0].double()
        for t in range(n):
            seen = states[len(prompt) - 1 : len(prompt) + t]  # up to the token before t
            surprise = sum((1 - float(internals.logprobs[i, j, k].exp())) ** 2 for k in range(t))
            few = torch.tensor([1, float(internals.token_entropy[i, j, t]), surprise, np.log(2 + t)])
            expected = torch.cat([few.double(), seen[-1], seen.mean(0)])
            assert torch.allclose(found[row, t], expected, atol=1e-4)
        assert found[row, n:].isnan().all()


def test_values_before_a_token_do_not_know_what_follows():
    rollouts, internals = batch(1)
    baseline = started(ridge=1.0)
    baseline.update(rollouts, internals)
    before = baseline.advantages(rollouts, internals)
    changed = rollouts.select()
    t = 2
    changed.response_ids = torch.where(
        torch.arange(changed.response_ids.shape[2]) >= t, changed.response_ids.flip(0), changed.response_ids
    )
    after = baseline.advantages(changed, pl.read_internals(POLICY, changed, layer=1, pool=2))
    long = rollouts.lengths[:, 0] > t + 1
    assert torch.allclose(before[long, 0, : t + 1], after[long, 0, : t + 1], atol=1e-5)
    assert not torch.allclose(before[long, 0, t + 1], after[long, 0, t + 1], atol=1e-3)


@pytest.mark.parametrize("cls", [Prefix, PrefixWeighted])
def test_the_ridge_from_sums_is_that_of_all_rows(cls):
    baseline, rows, targets, weights = started(cls, ridge=3.0, forget=1.0), [], [], []
    for seed in range(3):
        rollouts, internals = batch(seed)
        baseline.update(rollouts, internals)
        mask = rollouts.mask.flatten(0, 1)
        rows.append(columns_of(baseline, rollouts, internals)[mask][:, 1:])
        targets.append(rollouts.rewards.flatten()[:, None].expand(mask.shape)[mask])
        w = (1 - internals.logprobs.double().exp().flatten(0, 1)[mask]) ** 2 + 1e-6
        weights.append(w / w.mean() if cls is PrefixWeighted else torch.ones_like(w))
    X, y, w = (torch.cat(parts).numpy() for parts in (rows, targets, weights))
    scaler = StandardScaler().fit(X, sample_weight=w)
    ridge = Ridge(3.0).fit(scaler.transform(X), y, sample_weight=w)
    assert torch.allclose(
        torch.from_numpy(ridge.predict(scaler.transform(X))),
        torch.cat([torch.ones(len(X), 1), torch.from_numpy(X)], 1) @ baseline.coef,
        atol=1e-6,
    )
    values = rollouts.rewards[..., None] - baseline.advantages(rollouts, internals)
    expected = (columns_of(baseline, rollouts, internals) @ baseline.coef).clamp(0, 1).nan_to_num()
    assert torch.allclose(values.flatten(0, 1).double() * mask, expected, atol=1e-6)


def test_older_sums_shrink():
    baseline = started(forget=0.5)
    baseline.update(*batch(0))
    first = baseline.sums
    baseline.update(*batch(1))
    alone = started()
    alone.update(*batch(1))
    assert torch.allclose(baseline.sums, 0.5 * first + alone.sums, rtol=1e-12)


def test_state_round_trip_and_a_start_that_is_missing():
    baseline, again = started(), started()
    baseline.update(*batch(0))
    again.load_state_dict(baseline.state_dict())
    assert torch.equal(again.coef, baseline.coef) and torch.equal(again.sums, baseline.sums)
    young = started()
    young.load_state_dict(young.state_dict())
    rollouts, internals = batch(1)
    assert torch.equal(young.advantages(rollouts, internals), rollouts.rewards[..., None] * rollouts.mask)
    with pytest.raises(pl.PoiseLabError, match="call start"):
        Prefix().update(rollouts, internals)


def test_a_step_reads_the_states_once(monkeypatch):
    baseline, passes = started(), []
    states = Prefix.states
    monkeypatch.setattr(Prefix, "states", lambda self, rollouts: passes.append(1) or states(self, rollouts))
    for seed in range(3):
        baseline.advantages(*(step := batch(seed)))
        baseline.update(*step)
    assert len(passes) == 3
    alone = started()
    for seed in range(3):
        alone.advantages(*batch(9))  # of another batch than the one that it learns from
        alone.update(*batch(seed))
    assert torch.equal(alone.sums, baseline.sums) and len(passes) == 9
