"""The learned parts that are no critic and no value probe: each learns, and from shuffled rewards it does not.

A toy whose truth is known. The prompt's state says what kind of prompt it is, and nothing else does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import random_internals, toy_internals, toy_rollouts

import poise_lab as pl
from poise_lab.baselines.base import surprise
from poise_lab.baselines.fused import fusion_weight

P = 400


def batch(seed: int, weighs, shuffled: bool = False):
    """Rollouts and internals of P prompts of two kinds, told apart by the first feature, and their kinds.

    Half of the responses are right, whatever the kind. weighs: of each kind, |s|^2 of a wrong and of a right response.
    shuffled: the responses, with their rewards and scores, belong to other prompts than the states.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(2, (P, 1), generator=generator)
    rewards = torch.randint(2, (P, 2), generator=generator).float()
    weights = torch.tensor(weighs)[kind, rewards.long()] / np.max(weighs)
    if shuffled:
        order = torch.randperm(P, generator=generator)
        rewards, weights = rewards[order], weights[order]
    features = random_internals(P, 2, 2, seed).features()
    features[..., 0] = kind.float()
    internals = toy_internals(features)
    internals.logprobs = (1 - weights.sqrt() * 0.9).log()[..., None]  # surprise = (1 - p)^2
    return toy_rollouts(rewards), internals, kind[:, 0]


def weighted_skill(baseline, rollouts, internals) -> float:
    """Of the predictions, on responses weighted by |s|^2, over the best constant."""
    return pl.agreement(baseline.values(rollouts, internals), rollouts.rewards, surprise(rollouts, internals))[
        "brier_skill"
    ]


def test_weighted_agreement_is_that_of_repeated_rows():
    generator = np.random.default_rng(0)
    a, b, times = generator.random(40), generator.random(40), generator.integers(1, 5, 40)
    weighted, repeated = pl.agreement(a, b, times), pl.agreement(np.repeat(a, times), np.repeat(b, times))
    assert weighted == pytest.approx(repeated, abs=1e-12) and pl.agreement(a, b) != pytest.approx(weighted)
    assert pl.agreement(a, b)["r"] == pytest.approx(np.corrcoef(a, b)[0, 1])


# V(x) is the same for both kinds; what leaves the least variance is 0.1 for the one and 0.9 for the other
SAME_VALUE = ((9.0, 1.0), (1.0, 9.0))


def taught(name: str, shuffled: bool = False, batches: int = 5):
    baseline = pl.make_baseline(name, warmup=1)
    for seed in range(batches):
        baseline.update(*batch(seed, SAME_VALUE, shuffled=shuffled)[:2])
    return baseline


def test_score_weighted_learns_what_it_aims_at_and_not_the_value():
    held_out = batch(99, SAME_VALUE)
    baseline = taught("score_weighted")
    values, kind = baseline.values(*held_out[:2])[:, 0], held_out[2]
    assert values[kind == 0].mean() == pytest.approx(0.1, abs=0.05)
    assert values[kind == 1].mean() == pytest.approx(0.9, abs=0.05)
    assert weighted_skill(baseline, *held_out[:2]) > 0.5
    assert weighted_skill(taught("poise"), *held_out[:2]) < 0.05  # the same rows, aimed at V(x)


def test_score_weighted_learns_nothing_from_shuffled_targets():
    assert weighted_skill(taught("score_weighted", shuffled=True), *batch(99, SAME_VALUE)[:2]) < 0.02


def test_fitting_changes_the_weights_of_score_weighted():
    baseline = taught("score_weighted", batches=1)
    before = baseline.probes["all"].coef_.copy()
    baseline.update(*batch(1, SAME_VALUE)[:2])
    assert (baseline.probes["all"].coef_ != before).all()


def test_the_constant_is_what_it_aims_at():
    """E[R |s|^2] / E[|s|^2]: half of the responses are right, and a wrong one weighs three times as much."""
    baseline = pl.make_baseline("constant")
    assert baseline.constant == 0
    for seed in range(5):
        baseline.update(*batch(seed, ((3.0, 1.0), (3.0, 1.0)))[:2])
    assert baseline.constant == pytest.approx(0.25, abs=0.03)


def tracker(shuffled: bool, epochs: int = 12) -> pl.Baseline:
    """SPO after some times through the same prompts, every time with new responses."""
    spo = pl.make_baseline("spo")
    kind = torch.arange(P) % 2
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        rewards = torch.bernoulli(torch.where(kind == 0, 0.9, 0.1)[:, None], generator=generator)
        rollouts = toy_rollouts(rewards[torch.randperm(P, generator=generator)] if shuffled else rewards)
        rollouts.prompt_ids = [[5, 6 + i] for i in range(P)]
        spo.update(rollouts, None)
    return spo


def test_tracker_knows_prompts_that_it_has_seen_and_only_from_their_own_rewards():
    kind = torch.arange(P) % 2
    held_out = toy_rollouts(torch.bernoulli(torch.where(kind == 0, 0.9, 0.1)[:, None]))
    held_out.prompt_ids = [[5, 6 + i] for i in range(P)]
    value = torch.where(kind == 0, 0.9, 0.1)
    found = {shuffled: pl.agreement(tracker(shuffled).tracked(held_out), value) for shuffled in (False, True)}
    assert found[False]["r"] > 0.9 and found[False]["brier_skill"] > 0.7
    assert abs(found[True]["r"]) < 0.15 and found[True]["brier_skill"] <= 0
    changed = tracker(False, epochs=2).tracked(held_out) != tracker(False, epochs=1).tracked(held_out)
    assert changed.all()


def test_fused_weight_comes_from_the_siblings_of_the_same_prompt():
    """The probe's state says half of what decides V(x); the siblings' rewards say the rest, if they are the prompt's own."""
    generator = torch.Generator().manual_seed(0)
    fused = pl.make_baseline("fused", responses=4, warmup=1)
    weights = [fused.weight]
    for seed in range(6):
        seen, hidden = torch.rand(2, P, generator=generator)
        rewards = torch.bernoulli((0.5 * seen + 0.5 * (hidden > 0.5))[:, None].expand(P, 4), generator=generator)
        features = random_internals(P, 4, 2, seed).features()
        features[..., 0] = seen[:, None]
        fused.update(toy_rollouts(rewards), toy_internals(features))
        weights.append(fused.weight)
    assert weights[:2] == [0.0, 0.0]  # the first batch has no prediction of a probe that has not seen it
    assert all(0.3 < w < 0.9 for w in weights[2:])
    predicted, siblings, own = fused.history.double().T
    shuffled = siblings[torch.randperm(len(siblings), generator=generator)]
    assert fusion_weight(predicted, shuffled, own) < 0.05

    def left(w, siblings):
        return float(((own - (1 - w) * predicted - w * siblings) ** 2).mean())

    assert left(fused.weight, siblings) < 0.97 * min(left(0, siblings), left(1, siblings))
