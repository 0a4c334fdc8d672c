"""Cut responses: against a forward pass over the cut text, at both ends, and token by token."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch
from support import EOS, ToyTask, tiny_policy

import poise_lab as pl
from poise_lab.studies import early


@pytest.fixture(scope="module")
def sampled():
    """Responses of a random policy, of which all but the last three tokens count as reasoning."""
    policy = tiny_policy(ends=[EOS], layers=4)
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(6, seed=0), 2, seed=0, max_new_tokens=24)
    return policy, dataclasses.replace(rollouts, reasoning_lengths=(rollouts.lengths - 3).clamp(min=1))


def test_a_cut_response_is_read_as_a_forward_pass_over_its_beginning_gives_it(sampled):
    policy, rollouts = sampled
    kept = (rollouts.reasoning_lengths * 0.5).ceil().long()
    features = early.read_shares(policy, rollouts, [0.5], layer=2, pool=4)[0]
    width = policy.model.config.hidden_size
    for i in range(len(rollouts)):
        n = int(kept[i, 1])
        ids = rollouts.prompt_ids[i] + rollouts.response_ids[i, 1, :n].tolist()
        with torch.no_grad():
            out = policy.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        state = out.hidden_states[3][0, -min(4, n) :].mean(0)
        assert torch.allclose(torch.from_numpy(features[i, 1, width : 2 * width]), state, atol=1e-4)
        logits = out.logits[0, len(rollouts.prompt_ids[i]) - 1 : -1].log_softmax(-1)
        entropy = -(logits.exp() * logits).sum(-1).mean()
        assert features[i, 1, 2 * width] == pytest.approx(float(entropy), abs=1e-4)


def test_all_of_the_reasoning_is_the_response_without_its_answer(sampled):
    policy, rollouts = sampled
    whole = pl.read_internals(policy, rollouts, 2, 4)
    features = torch.from_numpy(early.read_shares(policy, rollouts, [1.0])[0])
    width = whole.prompt.shape[2]
    assert torch.allclose(features[..., : 2 * width], whole.features()[..., : 2 * width], atol=1e-5)
    assert torch.allclose(features[..., 2 * width + 1], whole.entropy[..., 1], atol=1e-5)
    assert (features[..., 2 * width + 2] == 0).all()  # no answer


def test_none_of_the_reasoning_is_the_prompt_alone(sampled):
    policy, rollouts = sampled
    features = torch.from_numpy(early.read_shares(policy, rollouts, [0.0])[0])
    width = policy.model.config.hidden_size
    assert torch.equal(features[:, 0], features[:, 1]) and (features[..., width:] == 0).all()
    assert features[..., :width].abs().sum() > 0


def test_a_share_is_no_token_more_than_it_is(monkeypatch):
    """Every share of every length, against whole numbers: 25 tokens x 0.6 are 15."""
    kept = []
    monkeypatch.setattr(early, "cut", lambda rollouts, k: kept.append(k) or rollouts)
    features = types.SimpleNamespace(features=lambda: torch.zeros(1))
    monkeypatch.setattr(early, "read_internals", lambda *args: features)
    lengths = torch.arange(1001)[None]
    early.read_shares(None, types.SimpleNamespace(reasoning_lengths=lengths))
    assert len(kept) == len(early.SHARES)
    for tenths, k in enumerate(kept):
        assert torch.equal(k, -(-lengths * tenths // 10))


def test_token_by_token_ends_where_the_whole_reasoning_does(sampled):
    policy, rollouts = sampled
    rows = early.read_tokens(policy, rollouts, 2, 1)
    assert len(rows) == rollouts.reasoning_lengths[2, 1] + 1
    ends = early.read_shares(policy, rollouts, [0.0, 1.0])[:, 2, 1]
    assert torch.allclose(torch.from_numpy(rows[[0, -1]]), torch.from_numpy(ends), atol=1e-5)


def test_those_that_work_are_the_first_with_something_between_the_tags():
    problems = pl.load_task(pl.TINY_TASKS).sample(3, seed=0)
    texts = ["<think></think>5", "<think>1</think>5", "7", "<think>2;3</think>5", "<think>4</think>5"]
    rollouts = pl.sample_rollouts(pl.load_policy("thinker"), problems, 5, seed=0)
    rollouts.texts = [texts, texts[:3] + texts[:2], texts[::-1]]
    rollouts.rewards = torch.arange(15.0).view(3, 5)
    kept, working = early.that_work(rollouts)
    assert kept == [0, 1, 2] and working.rewards.tolist() == [[1, 3], [6, 9], [10, 11]]
    kept, working = early.that_work(rollouts, 3)
    assert kept == [0, 2] and working.rewards.tolist() == [[1, 3, 4], [10, 11, 13]]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_cut_outside_of_the_reasoning_is_refused(change):
    rollouts = pl.sample_rollouts(tiny_policy(), ToyTask().sample(2, seed=0), 2, seed=0, max_new_tokens=4)
    kept = rollouts.reasoning_lengths + change if change > 0 else torch.full_like(rollouts.lengths, -1)
    with pytest.raises(pl.PoiseLabError, match="keep 0 tokens"):
        early.cut(rollouts, kept)


def test_a_skill_reads_the_inputs_that_it_is_given():
    rng = np.random.default_rng(0)
    targets = rng.uniform(size=(100, 2))
    features = rng.normal(size=(1, 100, 2, 2 * 4 + 3))
    features[0, ..., -1] = targets  # the last entropy knows them
    r = {name: np.mean(early.skill(features, targets, inputs=(name,))) for name in ("prompt", "reasoning", "entropy")}
    assert r["entropy"] > 0.9 > 0.4 > max(r["prompt"], r["reasoning"])


def test_the_first_share_above_the_prompt_by_hand():
    base = [0.1, 0.5, 0.3]
    shares = (0.0, 0.1, 0.2, 0.3)
    r = [base, [0.3, 0.5, 0.3], [x + d for x, d in zip(base, (0.1, 0.11, 0.09), strict=True)], [0.9, 0.9, 0.9]]
    share, (gain, low, _) = early.beats_prompt(r, shares)
    assert share == 0.2 and gain == pytest.approx(0.1) and 0 < low < 0.1
    assert early.beats_prompt(r[:2], shares[:2]) is None
