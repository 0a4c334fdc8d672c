from __future__ import annotations

import dataclasses
import re
from random import Random

import pytest
import torch

import poise_lab as pl
from poise_lab.models.pretrain import demonstrate, describe, new_policy, pretrain
from poise_lab.tasks import LAPTOP_SETTINGS, answer_of


def problems(name, n=100):
    return pl.load_task(name).sample(n, seed=21)


@pytest.mark.parametrize("name", sorted(LAPTOP_SETTINGS))
def test_demonstrations_reason_and_then_answer(name):
    rng = Random(0)
    for p in problems(name):
        text = demonstrate(p, rng)
        assert re.fullmatch(r"<think>[^<>]+</think>[^<>]+", text)


@pytest.mark.parametrize("name", sorted(LAPTOP_SETTINGS))
def test_slips_are_mistakes_of_the_reasoning(name):
    """The answer follows from the written steps, also where they are wrong."""
    rng = Random(0)
    for p in problems(name):
        reasoning, answer = re.fullmatch(r"<think>(.*)</think>(.*)", demonstrate(p, rng, slip=1)).groups()
        if name == "chain_sum":
            assert reasoning.rpartition("=")[2] == answer
        elif name == "spell_backward":
            assert re.sub(r"\d", "", reasoning) == answer
        else:
            given, _, ordered = reasoning.partition(":")
            words = re.split("[<>,]", p.compact)[1:]
            assert re.findall(r".\d", given) == [f"{w[0]}{k}" for k, w in enumerate(words, 1)]
            assert [words[int(k) - 1] for k in re.findall(r".(\d)", ordered)] == answer.split(",")


def test_chain_sum_slip_by_hand():
    """A forgotten carry is ten too few, a forgotten borrow ten too many; steps without one never slip."""
    (problem,) = pl.load_task("chain_sum").sample(1, seed=0)

    def steps(expression):
        fake = dataclasses.replace(problem, question="", compact=expression, entry={"answer": "", "question": ""})
        return demonstrate(fake, Random(0), slip=1)

    assert steps("17+5=") == "<think>17+5=12</think>12"
    assert steps("22-5=") == "<think>22-5=27</think>27"
    assert steps("21+5=") == "<think>21+5=26</think>26"
    assert steps("17+5+4=") == "<think>17+5=12;12+4=16</think>16"


def test_demonstrator_repeats_with_its_random_numbers():
    some = problems("word_sorting", 30)
    a, b = ([demonstrate(p, rng) for p in some] for rng in (Random(1), Random(1)))
    assert a == b
    assert a != [demonstrate(p, Random(2)) for p in some]


def test_new_policy_has_the_bundled_shape(bundled):
    policy = new_policy()
    assert {k: v.shape for k, v in policy.model.state_dict().items()} == {
        k: v.shape for k, v in bundled.model.state_dict().items()
    }
    assert policy.tokenizer.get_vocab() == bundled.tokenizer.get_vocab()


def test_pretraining_lowers_the_loss_and_repeats():
    losses, weights = [], []
    for _ in range(2):
        policy = new_policy(width=32, layers=1, seed=3)
        losses.append(pretrain(policy, steps=25, batch_size=16, learning_rate=1e-2, seed=5, progress=False))
        weights.append(policy.model.state_dict())
        assert not policy.model.training
    assert losses[0] == losses[1]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert 4.0 < losses[0][0] < 5.5  # about log(101), untrained
    assert losses[0][-1] < losses[0][0] - 0.5


def test_card_of_a_policy_that_answers_as_it_was_told(bundled):
    """describe() against the definitions, on few problems."""
    card = describe(bundled, problems=12, responses=4, seed=8)
    assert set(card) == set(LAPTOP_SETTINGS)
    for name, row in card.items():
        sample = pl.load_task(name).sample(12, 8)
        rollouts = pl.sample_rollouts(bundled, sample, 4, seed=8)
        assert row["accuracy"] == round(rollouts.rewards.mean().item(), 3)
        assert row["tokens"] == round(rollouts.lengths.float().mean().item(), 1)
        right = [answer_of(t) == p.answer for p, g in zip(sample, rollouts.texts, strict=True) for t in g]
        if name == "spell_backward":
            assert row["accuracy"] == pytest.approx(sum(right) / 48, abs=1e-3)
        assert 0.9 <= row["parsed"] <= 1.0
