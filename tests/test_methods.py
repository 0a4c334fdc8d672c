"""The baselines that need more than rewards and states: extra responses, resampling, a pool, a fused pair."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from support import ToyTask, random_internals, tiny_policy, toy_rollouts
from test_baselines import (
    batch,
    internals_with,
    own_response_enters,
    reads_first_feature,
    sees_this_steps_rewards,
    trained,
)

import poise_lab as pl
from poise_lab.baselines.fused import Fused, fusion_weight
from poise_lab.baselines.poise import Poise, ScoreWeighted
from poise_lab.rollouts import join
from poise_lab.sampler import step_seed


def sampler(prompts=12, seed=0, **changes) -> pl.Sampler:
    return pl.Sampler(tiny_policy(), ToyTask(), prompts, seed=seed, max_new_tokens=8, **changes)


# --- by hand -------------------------------------------------------------------------------------


def test_dr_grpo_by_hand():
    found = pl.make_baseline("dr_grpo", responses=3).advantages(toy_rollouts([[1.0, 0, 0], [1, 1, 1]]), None)
    assert torch.allclose(found, torch.tensor([[2 / 3, -1 / 3, -1 / 3], [0, 0, 0]]))


def test_opo_by_hand():
    """Lengths 1, 2, 5 and rewards 1, 0, 1: the mean is 6/8."""
    rollouts = dataclasses.replace(toy_rollouts([[1.0, 0, 1]]), lengths=torch.tensor([[1, 2, 5]]))
    found = pl.make_baseline("opo", responses=3).advantages(rollouts, None)
    assert found.tolist() == [[0.25, -0.75, 0.25]]


@pytest.mark.parametrize(
    "name", "none batch_mean constant rloo james_stein poise fused same_rollout dr_grpo opo".split()
)
def test_which_baselines_hold_the_own_reward(name):
    """What is subtracted from a reward moves with it, or not. Of tosses of a coin, half of the variance is so taken."""
    tosses = toy_rollouts(torch.randint(2, (2000, 2), generator=torch.Generator().manual_seed(0)).float())
    other = toy_rollouts(tosses.rewards.clone())
    other.rewards[0, 0] = 1 - other.rewards[0, 0]
    baseline, internals = pl.make_baseline(name, responses=2), random_internals(2000, 2, 2)
    one, two = ((r.rewards - baseline.advantages(r, internals))[0, 0].item() for r in (tosses, other))
    assert (one != two) == (name in ("dr_grpo", "opo"))
    assert baseline.holds_own_reward == (name in ("dr_grpo", "opo", "same_rollout"))  # the last by its own states
    if one != two:
        found = pl.variance_reduction(baseline.advantages(tosses, internals), tosses.rewards)
        assert found == pytest.approx(0.5, abs=0.05)


def test_extra_rewards_by_hand():
    rollouts = dataclasses.replace(toy_rollouts([[1.0, 0.0]]), extra_rewards=torch.tensor([[1.0]]))
    assert pl.make_baseline("remax", responses=2).advantages(rollouts, None).tolist() == [[0.0, -1.0]]
    rollouts.extra_rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert pl.make_baseline("oracle", responses=2).advantages(rollouts, None).tolist() == [[0.75, -0.25]]


@pytest.mark.parametrize("name", ["remax", "oracle"])
def test_without_extra_responses_it_says_so(name):
    with pytest.raises(pl.PoiseLabError, match=f"'{name}' needs extra responses"):
        pl.make_baseline(name).advantages(toy_rollouts([[1.0]]), None)


def test_spo_by_hand():
    """Two prompts, seen twice. First they have the prior 1/2, then their own counts, forgotten by a half."""
    spo = pl.make_baseline("spo", forget=0.5)
    rollouts = toy_rollouts([[1.0], [0.0]])
    rollouts.prompt_ids = [[5], [6]]
    assert spo.tracked(rollouts).tolist() == [[0.5], [0.5]]
    # the mean is 0 and the standard deviation 1/2
    assert torch.allclose(spo.advantages(rollouts, None), torch.tensor([[1.0], [-1.0]]), atol=1e-5)
    spo.update(rollouts, None)
    # alpha, beta: 0.25 + 1, 0.25 and the other way round
    assert torch.allclose(spo.tracked(rollouts), torch.tensor([[1.25 / 1.5], [0.25 / 1.5]]))
    spo.update(rollouts, None)
    assert torch.allclose(spo.tracked(rollouts), torch.tensor([[1.625 / 1.75], [0.125 / 1.75]]))
    new = toy_rollouts([[1.0]])
    new.prompt_ids = [[7]]
    assert spo.tracked(new).tolist() == [[0.5]]  # the mean of all rewards, half a response of prior included


def test_spo_takes_the_value_of_before_the_step():
    first = pl.make_baseline("spo")
    rollouts = toy_rollouts([[1.0], [0.0], [1.0]])
    rollouts.prompt_ids = [[5], [6], [7]]
    raw = rollouts.rewards - first.tracked(rollouts)
    assert torch.allclose(first.advantages(rollouts, None), (raw - raw.mean()) / raw.std(correction=0), atol=1e-4)


def test_spo_state_round_trip():
    spo, again = pl.make_baseline("spo"), pl.make_baseline("spo")
    rollouts = toy_rollouts([[1.0], [0.0]])
    rollouts.prompt_ids = [[5], [6]]
    again.load_state_dict(spo.state_dict())  # empty as well
    spo.update(rollouts, None)
    again.load_state_dict(spo.state_dict())
    assert torch.equal(again.tracked(rollouts), spo.tracked(rollouts)) and again.total == spo.total


# --- what they ask the sampler for ---------------------------------------------------------------


def test_default_takes_new_problems_and_counts_them():
    s = sampler()
    rollouts = pl.make_baseline("rloo").sample(s)
    assert len(rollouts) == 12 and rollouts.responses == 2
    assert s.responses == 24 and s.tokens == rollouts.tokens
    s.begin(2)
    assert s.responses == s.tokens == 0
    assert {p.compact for p in s.problems()}.isdisjoint(p.compact for p in rollouts.problems)


def test_remax_greedy_response_is_counted_and_greedy():
    s = sampler()
    rollouts = pl.make_baseline("remax").sample(s)
    assert rollouts.extra_rewards.shape == (12, 1) and s.responses == 24
    greedy = pl.sample_rollouts(s.policy, rollouts.problems, 1, max_new_tokens=8, temperature=0)
    assert torch.equal(greedy.rewards, rollouts.extra_rewards)
    assert s.tokens == rollouts.tokens + greedy.tokens


def test_oracle_responses_are_fresh_and_not_counted():
    s = sampler(prompts=40)
    rollouts = pl.make_baseline("oracle", fresh=5).sample(s)
    assert rollouts.extra_rewards.shape == (40, 5) and s.responses == 40 and s.tokens == rollouts.tokens
    assert any((rollouts.extra_rewards != rollouts.rewards).any(1))
    assert torch.equal(rollouts.select(slice(3, 5)).extra_rewards, rollouts.extra_rewards[3:5])


def test_dapo_keeps_mixed_groups_and_pays_for_the_others():
    s = sampler(prompts=30)
    rollouts = pl.make_baseline("dapo", responses=3).sample(s)
    assert len(rollouts) == 30
    assert all(0 < sum(group) < 3 for group in rollouts.rewards.tolist())
    assert s.responses > 90 and s.tokens > rollouts.tokens
    assert len({p.compact for p in rollouts.problems}) == 30
    advantages = pl.make_baseline("dapo", responses=3).advantages(rollouts, None)
    assert torch.equal(advantages, pl.make_baseline("grpo", responses=3).advantages(rollouts, None))


def test_dapo_gives_up_after_its_rounds():
    class AlwaysWrong(pl.Sampler):
        def sample(self, problems, responses, **options):
            rollouts = super().sample(problems, responses, **options)
            return dataclasses.replace(rollouts, rewards=torch.zeros_like(rollouts.rewards))

    s = AlwaysWrong(tiny_policy(), ToyTask(), 6, max_new_tokens=8)
    rollouts = pl.make_baseline("dapo", responses=2, rounds=3).sample(s)
    assert len(rollouts) == 6 and s.responses == 36 and rollouts.rewards.sum() == 0


def test_tasks_of_a_mixture_take_turns_over_the_draws_of_a_step():
    task = pl.load_task("chain_sum+spell_backward+word_sorting")
    s = pl.Sampler(None, task, 4, seed=1)
    names = task.name.split("+")
    assert [p.task for n in (4, 1, 3, 2) for p in s.problems(n)] == [names[i % 3] for i in range(10)]
    s.begin(2)
    assert [p.task for p in s.problems()] == [names[i % 3] for i in range(4, 8)]  # from one step to the next, too
    s.begin(1)
    assert s.problems() == task.sample(4, step_seed(1, 1, "problems"))  # the first draw of a step leaves nothing out


def test_joined_rollouts_are_those_of_one_call():
    policy, problems = tiny_policy(), ToyTask().sample(9, 0)
    whole = pl.sample_rollouts(policy, problems, 2, seed=3, max_new_tokens=8)
    parts = [whole.select(slice(0, 4)), whole.select(slice(4, 9))]
    parts[0] = dataclasses.replace(
        parts[0], response_ids=parts[0].response_ids[..., : parts[0].lengths.max()],
        logprobs=parts[0].logprobs[..., : parts[0].lengths.max()],
    )  # fmt: skip
    for part in parts:
        part.extra_rewards = torch.rand(len(part), 3)
    again = join(parts)
    assert torch.equal(again.extra_rewards, torch.cat([part.extra_rewards for part in parts]))
    for name in ("response_ids", "lengths", "logprobs", "rewards", "finished", "reasoning_lengths"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert again.problems == whole.problems and again.texts == whole.texts and again.prompt_ids == whole.prompt_ids


def test_rollouts_that_differ_are_not_joined():
    one = pl.sample_rollouts(tiny_policy(), ToyTask().sample(4, 0), 2, seed=3, max_new_tokens=8)
    for changes in (dict(extra_rewards=torch.ones(4, 1)), dict(temperature=0.5)):
        with pytest.raises(pl.PoiseLabError, match="cannot be joined"):
            join([one, dataclasses.replace(one, **changes)])
    with pytest.raises(pl.PoiseLabError, match="cannot be joined"):
        join([one, one.select(responses=[0])])


@pytest.mark.parametrize(("prompts", "pool"), [(8, 12), (8, 8), (8, 9), (7, 12), (5, 23), (11, 12)])
def test_no_problem_comes_twice_in_a_step(prompts, pool):
    """Not where a step ends one time through the pool and begins the next, either; and all come equally often."""
    s, seen = sampler(prompts=prompts), []
    for step in range(1, 4 * pool + 1):
        s.begin(step)
        chosen = [p.compact for p in s.pool_problems(pool)]
        assert len(set(chosen)) == prompts
        seen += chosen
    assert set(Counter(seen).values()) == {4 * prompts}
    s = sampler(prompts=prompts)
    s.begin(3 * pool)  # a resumed run
    assert [p.compact for p in s.pool_problems(pool)] == seen[(3 * pool - 1) * prompts : 3 * pool * prompts]


def test_a_pool_that_a_step_would_empty():
    with pytest.raises(pl.PoiseLabError, match="a pool of 11 problems is too small for 12 prompts per step"):
        pl.make_baseline("spo", pool=11).sample(sampler())


def test_spo_counts_all_responses_where_a_problem_comes_twice():
    twice, once = pl.make_baseline("spo", forget=0.5), pl.make_baseline("spo", forget=0.5)
    rollouts, together = toy_rollouts([[1.0], [0.0], [1.0]]), toy_rollouts([[1.0, 0.0, 1.0]])
    rollouts.prompt_ids, together.prompt_ids = [[5], [5], [5]], [[5]]
    for _ in range(2):
        twice.update(rollouts, None), once.update(together, None)
    assert twice.counts == once.counts and twice.total == once.total


def test_pool_is_gone_through_once_before_it_comes_again():
    s = sampler(prompts=8)
    seen = []
    for step in range(1, 7):  # 48 problems of a pool of 12: four times through
        s.begin(step)
        seen += [p.compact for p in s.pool_problems(12)]
    epochs = [seen[i : i + 12] for i in range(0, 48, 12)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert all(set(epoch) == set(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = sampler(prompts=8)
    again.begin(3)  # a resumed run
    assert [p.compact for p in again.pool_problems(12)] == seen[16:24]


def test_calls_of_a_step_are_independent_and_reproducible():
    one, two = sampler(), sampler()
    problems = one.problems()
    first, second = one.sample(problems, 2), one.sample(problems, 2)
    assert not torch.equal(first.rewards, second.rewards)
    assert two.problems() == problems
    assert torch.equal(two.sample(problems, 2).logprobs, first.logprobs)
    assert torch.equal(two.sample(problems, 2).logprobs, second.logprobs)
    assert one.problems() != problems


# --- weighted by the score -----------------------------------------------------------------------


def with_surprise(rewards, surprise):
    """Rollouts of one-token responses, and internals in which token j has (1 - p)^2 as given."""
    rollouts = toy_rollouts(rewards)
    internals = random_internals(*rollouts.rewards.shape, 2)
    internals.logprobs = (1 - torch.tensor(surprise).sqrt()).log()[..., None]
    return rollouts, internals


def test_score_weighted_targets_by_hand():
    baseline = ScoreWeighted()
    rollouts, internals = with_surprise([[1.0, 0.0], [1.0, 1.0]], [[0.2, 0.6], [0.2, 0.6]])
    targets, weights = baseline.targets(rollouts, internals)
    assert torch.equal(targets, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))  # a pair: the partner's reward
    assert torch.allclose(weights, torch.tensor([[1.5, 0.5], [1.5, 0.5]]), atol=1e-4)  # over their mean, 0.4
    rollouts, internals = with_surprise([[1.0, 0.0, 1.0]], [[0.1, 0.3, 0.8]])
    targets, weights = ScoreWeighted(responses=3).targets(rollouts, internals)
    expected = torch.tensor([[0.8 / 1.1, 1.0, 0.1 / 0.4]])  # weighted means of the siblings' rewards
    assert torch.allclose(targets, expected, atol=1e-4)
    assert torch.allclose(weights, torch.tensor([[0.55, 0.45, 0.2]]) / 0.4, atol=1e-4)


def test_surprise_of_padding_does_not_count():
    rollouts = pl.sample_rollouts(tiny_policy(), ToyTask().sample(6, 0), 2, seed=0, max_new_tokens=8)
    internals = pl.read_internals(tiny_policy(), rollouts, layer=1)
    _, weights = ScoreWeighted().targets(rollouts, internals)
    raw = torch.tensor([
        [sum((1 - x.exp()) ** 2 for x in internals.logprobs[i, j, : rollouts.lengths[i, j]]) for j in (0, 1)] for i in range(6)
    ])  # fmt: skip
    assert torch.allclose(weights, (raw / raw.mean()).flip(1), atol=1e-4)


def test_sure_responses_still_give_targets():
    rollouts, internals = with_surprise([[1.0, 0.0]], [[0.0, 0.0]])
    targets, weights = ScoreWeighted().targets(rollouts, internals)
    assert targets.tolist() == [[0.0, 1.0]] and weights.tolist() == [[1.0, 1.0]]


def test_score_weighted_learns_the_weighted_mean():
    """Right and wrong responses equally likely, wrong ones with three times the surprise: 1/4, where V = 1/2."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.bernoulli(torch.full((2000, 2), 0.5), generator=generator)
    rollouts, internals = with_surprise(rewards.tolist(), torch.where(rewards == 1, 0.1, 0.3).tolist())
    weighted, plain = ScoreWeighted(warmup=1), Poise(warmup=1)
    for baseline, expected in ((weighted, 0.25), (plain, 0.5)):
        baseline.update(rollouts, internals)
        assert baseline.values(rollouts, internals).mean().item() == pytest.approx(expected, abs=0.02)


def test_score_weighted_state_round_trip():
    one, two = ScoreWeighted(warmup=1, buffer_rows=60), ScoreWeighted(warmup=1, buffer_rows=60)
    rollouts, internals = with_surprise(torch.rand(20, 2).round().tolist(), torch.rand(20, 2).tolist())
    for _ in range(2):
        one.update(rollouts, internals)
    two.load_state_dict({k: v.clone() for k, v in one.state_dict().items()})
    for baseline in (one, two):
        baseline.update(rollouts, internals)
    assert torch.equal(one.values(rollouts, internals), two.values(rollouts, internals))


@pytest.mark.parametrize("m", [2, 3])
def test_nothing_of_a_response_enters_its_own_score_weighted_baseline(m):
    assert not own_response_enters(trained(ScoreWeighted, steps=6, responses=m), m)


# --- fused ---------------------------------------------------------------------------------------


def fused_with(weight, responses=2) -> Fused:
    fused = Fused(responses=responses, warmup=1)
    fused.probes, fused.weight = reads_first_feature(responses).probes, weight
    return fused


def test_fused_by_hand():
    rollouts, internals = toy_rollouts([[1.0, 0.0]]), internals_with([[0.25, 0.75]])
    # b1 = 0.75 * 0.75 + 0.25 * 0, b2 = 0.75 * 0.25 + 0.25 * 1
    assert fused_with(0.25).advantages(rollouts, internals).tolist() == [[1 - 0.5625, -0.4375]]
    rollouts, internals = toy_rollouts([[1.0, 0.0, 1.0]]), internals_with([[0.0, 0.5, 1.0]])
    assert fused_with(0.5, 3).advantages(rollouts, internals).tolist() == [[1 - 0.625, 0 - 0.75, 1 - 0.375]]


def test_fused_ends_are_poise_and_rloo():
    rollouts, internals = batch(3)
    internals = internals_with(torch.rand(40, 2, generator=torch.Generator().manual_seed(0)))
    poise = reads_first_feature().advantages(rollouts, internals)
    assert torch.equal(fused_with(0.0).advantages(rollouts, internals), poise)
    rloo = pl.make_baseline("rloo").advantages(rollouts, internals)
    assert torch.allclose(fused_with(1.0).advantages(rollouts, internals), rloo)


def test_fusion_weight_is_the_least_squares_one():
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(4000, generator=generator).double()
    predicted = (value + 0.2 * torch.randn(4000, generator=generator)).clamp(0, 1)
    siblings, own = (torch.bernoulli(value, generator=generator) for _ in range(2))
    weight = fusion_weight(predicted, siblings, own)
    errors = [
        float(((own - (1 - w) * predicted - w * siblings) ** 2).sum()) for w in (weight, weight - 1e-3, weight + 1e-3)
    ]
    assert 0 < weight < 1 and errors[0] == min(errors)
    # the errors that made the data: about 0.04 of the probe (less where clipped), E[V (1 - V)] = 1/6 of the reward
    assert weight == pytest.approx(0.04 / (0.04 + 1 / 6), abs=0.05)
    assert fusion_weight(value, siblings, own) < 0.03  # a perfect probe
    assert fusion_weight(torch.full_like(value, 0.5), siblings, own) == pytest.approx(
        1 / 3, abs=0.04
    )  # Var V : E[V (1 - V)]
    assert fusion_weight(predicted, predicted, own) == 0.0
    assert fusion_weight(own.flip(0), siblings, siblings) == 1.0


@pytest.mark.parametrize("m", [2, 3])
def test_nothing_of_a_response_enters_its_own_fused_baseline(m):
    baseline = trained(Fused, steps=6, responses=m)
    assert 0 < baseline.weight < 1
    assert not own_response_enters(baseline, m)


def test_weight_of_a_step_was_fitted_before_its_rewards_were_seen():
    class NoReward(Fused):  # what is subtracted holds the siblings' rewards by design: look at the weight alone
        def advantages(self, rollouts, internals):
            super().advantages(rollouts, internals)
            return rollouts.rewards - self.weight * torch.ones_like(rollouts.rewards)

    class NoRewardLate(NoReward):
        def advantages(self, rollouts, internals):
            self.update(rollouts, internals)
            return super().advantages(rollouts, internals)

    assert not sees_this_steps_rewards(NoReward)
    assert sees_this_steps_rewards(NoRewardLate)


def test_fused_history_is_of_predictions_made_before_the_fit():
    baseline, poise = trained(Fused, steps=6), Poise(warmup=1)
    rows = []
    for step in range(6):
        rollouts, internals = batch(step)
        values = poise.values(rollouts, internals)
        if values is not None:
            rows.append(torch.stack([values.flip(1), rollouts.rewards.flip(1), rollouts.rewards], -1).view(-1, 3))
        poise.update(rollouts, internals)
    assert torch.allclose(baseline.history, torch.cat(rows))
    assert baseline.weight == fusion_weight(*torch.cat(rows).double().T)


def test_fused_state_round_trip():
    baseline = trained(Fused, steps=6, buffer_rows=100)
    again = Fused(warmup=1, buffer_rows=100)
    again.load_state_dict({k: v.clone() for k, v in baseline.state_dict().items()})
    assert len(baseline.history) == 100
    for step in (7, 8):
        rollouts, internals = batch(step)
        assert torch.equal(again.advantages(rollouts, internals), baseline.advantages(rollouts, internals))
        for b in (again, baseline):
            b.update(rollouts, internals)


def history_of(shuffle, steps=30) -> Fused:
    """Fused after some steps of the batches above; `shuffle` changes what it is given to learn from."""
    fused = Fused(warmup=1)
    for step in range(steps):
        fused.update(*shuffle(*batch(step, p=60), torch.randperm(60, generator=torch.Generator().manual_seed(step))))
    return fused


def test_the_weight_leans_on_what_tells_something():
    """A probe that reads states leaves little to the siblings; shuffled states leave all to them, shuffled siblings nothing."""

    def siblings(rollouts, internals, order):  # the partner's reward is another prompt's
        rollouts.rewards[:, 1] = rollouts.rewards[order, 1]
        return rollouts, internals

    reads = history_of(lambda rollouts, internals, order: (rollouts, internals))
    no_states = history_of(lambda rollouts, internals, order: (rollouts, internals.select(order)))
    no_siblings = history_of(siblings)
    rewards = torch.cat([batch(step, p=2000)[0].rewards for step in range(3)])
    shared = float(((rewards[:, 0] - rewards.mean()) * (rewards[:, 1] - rewards.mean())).mean() / rewards.var())
    assert shared > 0.3  # Var V / Var R: the weight of a sibling beside a constant
    assert no_states.weight == pytest.approx(shared, abs=0.06)
    assert 0 < reads.weight < 0.5 * no_states.weight
    assert no_siblings.weight < 0.05
    for fused, informed in ((reads, True), (no_states, False)):
        skill = pl.agreement(fused.values(*batch(99, p=2000)), batch(99, p=2000)[0].rewards.flip(1))["brier_skill"]
        assert (skill > 0.1) == informed


def test_fused_beats_both_ends_on_data_it_has_not_seen():
    """Var(A) over many batches, weight and probe from earlier ones: at most that of POISE and of RLOO."""
    fused, poise, rloo = Fused(warmup=1), Poise(warmup=1), pl.make_baseline("rloo")
    left = {b.name: [] for b in (fused, poise, rloo)}
    for step in range(60):
        rollouts, internals = batch(step, p=60)
        for b in (fused, poise, rloo):
            if step >= 20:
                left[b.name].append(b.advantages(rollouts, internals))
            b.update(rollouts, internals)
    variance = {name: torch.cat(ones).var().item() for name, ones in left.items()}
    assert variance["fused"] <= variance["poise"] * 1.005 and variance["fused"] < 0.9 * variance["rloo"]


# --- constant --------------------------------------------------------------------------------------


def test_constant_by_hand():
    baseline = pl.make_baseline("constant", responses=2, rows=2)
    rollouts = toy_rollouts([[1.0, 0.0]])
    assert baseline.advantages(rollouts, None).tolist() == [[1.0, 0.0]]  # nothing seen yet
    tokens = rollouts.mask.sum(-1).tolist()[0]
    logprobs = torch.log(torch.tensor([0.5, 0.1]))[None, :, None].expand(*rollouts.mask.shape)
    seen = dataclasses.replace(random_internals(1, 2, 2), logprobs=logprobs)
    right, wrong = 0.25 * tokens[0], 0.81 * tokens[1]  # (1 - p)^2 of each token
    for rewards in ([[0.0, 0.0]], [[1.0, 0.0]]):  # two rows are kept, so the first batch is forgotten
        baseline.update(toy_rollouts(rewards), seen)
    assert baseline.constant == pytest.approx(right / (right + wrong), rel=1e-4)
    again = pl.make_baseline("constant", responses=2, rows=2)
    again.load_state_dict(baseline.state_dict())
    expected = torch.tensor([[1.0, 0.0]]) - baseline.constant
    assert torch.equal(again.advantages(rollouts, seen), expected)


def test_no_advantages_are_nan():
    rollouts = dataclasses.replace(toy_rollouts([[1.0, 1.0], [0.0, 0.0]]), extra_rewards=torch.ones(2, 1))
    for name in ("grpo", "dr_grpo", "opo", "dapo", "remax", "oracle", "spo"):
        found = pl.make_baseline(name, responses=2).advantages(rollouts, random_internals(2, 2, 2))
        assert torch.isfinite(found).all(), name
