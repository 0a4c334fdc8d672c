"""The learned critics: they learn, they learn the right thing, and they resume."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import ToyTask, tiny_policy

import poise_lab as pl
from poise_lab.baselines.critic import PPO, Critic


def test_gae_by_hand():
    values = torch.tensor([[[0.5, 0.25, 0.75], [0.5, 0.0, 0.0]]])
    rewards, lengths = torch.tensor([[1.0, 0.0]]), torch.tensor([[3, 1]])
    # deltas -0.25, 0.5, 0.25; the second response is one token long
    expected = {
        0.0: [[-0.25, 0.5, 0.25], [-0.5, 0, 0]],
        0.5: [[0.0625, 0.625, 0.25], [-0.5, 0, 0]],
        1.0: [[0.5, 0.75, 0.25], [-0.5, 0, 0]],
    }
    for gae_lambda, rows in expected.items():
        assert pl.gae(values, rewards, lengths, gae_lambda)[0].tolist() == rows


def test_lambda_return_stays_in_the_unit_interval():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (50, 2), generator=generator)
    mask = torch.arange(8) < lengths[..., None]
    values = torch.rand(50, 2, 8, generator=generator) * mask
    rewards = torch.bernoulli(torch.full((50, 2), 0.5), generator=generator)
    for gae_lambda in (0.0, 0.7, 1.0):
        target = pl.gae(values, rewards, lengths, gae_lambda) + values
        assert target.min() >= -1e-6 and target.max() <= 1 + 1e-6
        if gae_lambda == 1:
            assert torch.allclose(target[mask], rewards[..., None].expand_as(target)[mask], atol=1e-6)


POLICY = tiny_policy()


def batch(seed: int, shuffled: bool = False, n: int = 64, of_response: bool = False) -> pl.Rollouts:
    """Rollouts whose reward is 0.9 or 0.1 by the first character of the prompt (or of the response)."""
    rollouts = pl.sample_rollouts(POLICY, ToyTask().sample(n, seed), 1, seed=seed, max_new_tokens=6)
    if of_response:
        right = torch.tensor([[row[0] % 2 == 0] for (row,) in rollouts.response_ids.tolist()])
    else:
        right = torch.tensor([[p.compact[0] in "01234567"] for p in rollouts.problems])
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.bernoulli(torch.where(right, 0.9, 0.1), generator=generator)
    if shuffled:
        rewards = rewards[torch.randperm(n, generator=generator)]
    return dataclasses.replace(rollouts, rewards=rewards)


def taught(name: str, batches: int = 25, **options) -> Critic:
    critic = pl.make_baseline(name, learning_rate=1e-2)
    critic.start(POLICY)
    for seed in range(batches):
        critic.update(batch(seed, **options), None)
    return critic


def skill(critic, **options) -> dict[str, float]:
    held_out = batch(999, n=200, **options)
    return pl.agreement(critic.values(held_out, None), held_out.rewards)


@pytest.mark.parametrize("name", ["critic", "ppo"])
def test_learns_values_of_prompts_it_has_not_seen(name):
    found = skill(taught(name))
    assert found["r"] > 0.6 and found["brier_skill"] > 0.3


@pytest.mark.parametrize("name", ["critic", "ppo"])
def test_learns_nothing_from_shuffled_rewards(name):
    assert abs(skill(taught(name, shuffled=True))["r"]) < 0.25


@pytest.mark.parametrize("name", ["critic", "ppo"])
def test_fitting_moves_every_weight_and_leaves_the_policy_alone(name):
    critic = pl.make_baseline(name)
    critic.start(POLICY)
    assert critic.values(batch(0), None).eq(0.5).all()  # before it has learned anything
    before = {k: v.detach().clone() for k, v in critic.parameters.items()}
    of_policy = {k: v.clone() for k, v in POLICY.model.state_dict().items()}
    critic.update(batch(0), None)
    critic.update(batch(1), None)  # the head is 0 at first, so the trunk moves from the second batch on
    assert [k for k, v in critic.parameters.items() if torch.equal(v, before[k])] == []
    assert all(torch.equal(v, of_policy[k]) for k, v in POLICY.model.state_dict().items())


def test_a_detached_loss_would_be_noticed():
    class Detached(Critic):
        def _logits(self, rollouts, rows):
            logits, mask = super()._logits(rollouts, rows)
            return logits.detach() + 0 * sum(p.sum() for p in self.head.parameters()), mask

    critic = Detached(learning_rate=1e-2)
    critic.start(POLICY)
    before = {k: v.detach().clone() for k, v in critic.parameters.items()}
    for seed in range(3):
        critic.update(batch(seed), None)
    assert all(torch.equal(v, before[k]) for k, v in critic.parameters.items() if k.startswith("trunk"))
    assert skill(critic)["r"] < 0.3


def test_sequence_critic_reads_the_prompt_alone():
    critic = taught("critic", batches=3)
    rollouts = pl.sample_rollouts(POLICY, ToyTask().sample(10, 5), 3, seed=5, max_new_tokens=6)
    values = critic.values(rollouts, None)
    assert values.shape == (10, 3) and torch.equal(values[:, 0], values[:, 2])
    other = pl.sample_rollouts(POLICY, rollouts.problems, 3, seed=6, max_new_tokens=6)
    assert torch.allclose(critic.values(other, None), values, atol=1e-6)
    assert torch.equal(critic.advantages(rollouts, None), rollouts.rewards - values)


def test_sequence_critic_learns_from_the_mean_of_all_responses():
    rollouts = pl.sample_rollouts(POLICY, ToyTask().sample(8, 5), 2, seed=5, max_new_tokens=6)
    weights = []
    for rewards in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        critic = pl.make_baseline("critic", learning_rate=1e-2)
        critic.start(POLICY)
        critic.head.bias.data += 1.0  # off the mean, or it would have nothing to learn
        critic.update(dataclasses.replace(rollouts, rewards=torch.tensor(rewards).expand(8, 2)), None)
        weights.append(torch.cat([p.detach().flatten() for p in critic.parameters.values()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("epochs", "minibatches", "steps"), [(1, 1, 1), (3, 1, 3), (1, 4, 4), (2, 3, 6), (2, 9, 10)])
def test_a_critic_takes_as_many_steps_as_it_was_told(epochs, minibatches, steps):
    """Of five prompts: nine mini-batches would leave some without one."""
    critic, taken = pl.make_baseline("critic", epochs=epochs, minibatches=minibatches), []
    critic.start(POLICY)
    critic.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    critic.update(batch(0, n=5), None)
    assert len(taken) == steps


def test_sequence_critic_is_that_of_a_plain_forward_pass():
    critic = taught("critic", batches=2)
    rollouts = batch(7, n=5)
    for i, ids in enumerate(rollouts.prompt_ids):
        hidden = critic.backbone.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        assert torch.sigmoid(critic.head(hidden)).item() == pytest.approx(
            critic.values(rollouts, None)[i, 0].item(), abs=1e-5
        )


def test_token_values_know_the_response_after_its_first_token():
    critic = taught("ppo", batches=120, of_response=True)
    rollouts = batch(999, n=300, of_response=True)
    rollouts = rollouts.select((rollouts.lengths[:, 0] > 1).nonzero()[:, 0])
    values = critic.token_values(rollouts)
    before, after = (pl.agreement(values[:, 0, t], rollouts.rewards[:, 0])["r"] for t in (0, 1))
    assert after > 0.5 and after > before + 0.3
    advantages = critic.advantages(rollouts, None)
    assert advantages.shape == rollouts.response_ids.shape
    assert (advantages[~rollouts.mask] == 0).all()
    # the first token decides, so it gets the credit
    assert advantages[:, 0, 0].abs().mean() > 1.1 * advantages[:, 0, 1].abs().mean()


def test_ppo_takes_the_lambda_that_it_was_given():
    """At 0 an advantage is the next token's value minus this one's, at the last token the reward minus its value."""
    ppo = pl.make_baseline("ppo", learning_rate=1e-2, gae_lambda=0)
    ppo.start(POLICY)
    for seed in range(3):
        ppo.update(batch(seed, of_response=True), None)
    rollouts = batch(9, n=12)
    values, advantages = ppo.token_values(rollouts)[:, 0], ppo.advantages(rollouts, None)[:, 0]
    for i, length in enumerate(rollouts.lengths[:, 0].tolist()):
        then = torch.cat([values[i, 1:length], rollouts.rewards[i]])
        assert torch.allclose(advantages[i, :length], then - values[i, :length], atol=1e-6)
    apart = (values[:, 1] - values[:, 0])[rollouts.lengths[:, 0] > 1]
    assert apart.abs().max() > 0.01  # which another lambda would add to the tokens before


@pytest.mark.parametrize("cls", [Critic, PPO])
def test_state_round_trip(cls):
    one, two = cls(), cls()
    for critic in (one, two):
        critic.start(POLICY)
    for seed in range(2):
        one.update(batch(seed), None)
    two.load_state_dict({k: v.clone() for k, v in one.state_dict().items()})
    for seed in (2, 3):
        assert torch.equal(one.advantages(batch(seed), None), two.advantages(batch(seed), None))
        for critic in (one, two):
            critic.update(batch(seed), None)
    assert torch.equal(one.values(batch(5), None), two.values(batch(5), None))


def test_a_step_of_ppo_reads_the_values_once(monkeypatch):
    passes, token_values = [], PPO.token_values
    monkeypatch.setattr(PPO, "token_values", lambda self, r: passes.append(1) or token_values(self, r))
    at_once, alone = pl.make_baseline("ppo"), pl.make_baseline("ppo")
    for critic in (at_once, alone):
        critic.start(POLICY)
    for seed in range(3):
        at_once.advantages(step := batch(seed), None)
        at_once.update(step, None)
    assert len(passes) == 3
    for seed in range(3):
        alone.advantages(batch(9), None)  # of another batch than the one that it learns from
        alone.update(batch(seed), None)
    one, other = at_once.state_dict(), alone.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["critic", "ev_switch", "ppo"])
@pytest.mark.parametrize("asked", ["advantages", "update"])
def test_without_a_start_it_says_so(name, asked):
    with pytest.raises(pl.PoiseLabError, match="no critic yet: call start"):
        getattr(pl.make_baseline(name), asked)(batch(0), None)


def test_without_a_start_no_values_are_predicted():
    assert pl.make_baseline("critic").values(batch(0), None) is None
