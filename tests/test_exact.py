"""What is exactly true of baselines: by summing over every response of a small policy, in float64.

Tolerance of the equalities: 1e-12, relative to the length of the gradient.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import pytest
import torch

import poise_lab as pl
from poise_lab.baselines import BASELINES
from poise_lab.baselines.critic import Critic, EVSwitch
from poise_lab.baselines.groups import JamesStein
from poise_lab.variance import clouds
from poise_lab.variance.exact import ExactPolicy, OwnStates, PerPrompt, RefitFirst, after_earlier_step, moments

EPS = 1e-12
POLICY = ExactPolicy(seed=3)  # 15 responses to each of 3 prompts
SMALL = ExactPolicy(length=2, seed=3)  # 7 responses
LEAST = ExactPolicy(prompts=2, vocabulary=2, length=2, seed=3)  # 3 responses to each of 2 prompts


def young(name_or_class) -> pl.Baseline:
    """A baseline that has learned nothing yet; on pairs, and a probe is fitted after the first step."""
    cls = BASELINES[name_or_class] if isinstance(name_or_class, str) else name_or_class
    return cls(responses=2, **(dict(warmup=1, probe="paper") if issubclass(cls, pl.Poise) else {}))


def learned(name_or_class, policy=POLICY, batches=2):
    """A baseline that has learned from pairs sampled earlier."""
    baseline = young(name_or_class)
    for seed in range(batches):
        baseline.update(*policy.records(*policy.draw(120, seed=seed)))
    return baseline


def unbiased(policy, baseline, responses=2, **options) -> bool:
    return moments(policy, baseline, responses, **options).bias < EPS


# --- the policy ----------------------------------------------------------------------------------


def test_a_few_hundred_parameters_in_float64():
    parameters = sum(p.numel() for p in POLICY.parameters)
    assert 100 < parameters < 1000 and POLICY.score.shape == (3, 15, parameters)
    assert all(p.dtype == torch.float64 for p in POLICY.parameters)
    assert POLICY.internals.prompt.shape == POLICY.internals.reasoning.shape == (3, 15, 6)


def test_responses_end_at_token_0():
    assert sorted(map(tuple, SMALL.responses.tolist())) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert SMALL.lengths.tolist() == [1, 2, 2, 2, 2, 2, 2]


def test_probabilities_and_states_are_those_of_the_model_token_by_token():
    assert torch.allclose(POLICY.prob.sum(1), torch.ones(3, dtype=torch.float64), atol=EPS)
    with torch.no_grad():
        for x, y in ((0, 0), (1, 4), (2, 14)):
            ids, p, entropies = [3 + x], 1.0, []
            for token in POLICY.responses[y, : POLICY.lengths[y]].tolist():
                longer = torch.tensor([ids + [0] * (4 - len(ids))])  # what comes later is not looked at
                steps = POLICY.model(longer)[0][0, len(ids) - 1].softmax(-1)
                p *= float(steps[token])
                entropies.append(-float((steps * steps.log()).sum()))
                ids.append(token)
            states = POLICY.model(torch.tensor([ids + [0] * (4 - len(ids))]))[1][0, : len(ids)]
            assert p == pytest.approx(float(POLICY.prob[x, y]), rel=1e-12)
            assert torch.allclose(POLICY.internals.prompt[x, y], states[0], atol=EPS)
            assert torch.allclose(POLICY.internals.reasoning[x, y], states[1:].mean(0), atol=EPS)
            mean = sum(entropies) / len(entropies)
            assert POLICY.internals.entropy[x, y].tolist() == pytest.approx([mean, mean, 0.0])


def test_greedy_response_step_by_step():
    for x in range(3):
        ids = [3 + x]
        while len(ids) < 4 and (len(ids) == 1 or ids[-1] != 0):
            ids.append(int(POLICY.model(torch.tensor([ids + [0] * (4 - len(ids))]))[0][0, len(ids) - 1].argmax()))
        y = POLICY.responses.tolist().index((ids[1:] + [0, 0])[:3])
        assert POLICY.greedy_rewards()[x] == POLICY.reward[x, y]


def test_scores_sum_to_zero():
    assert (POLICY.prob[..., None] * POLICY.score).sum(1).abs().max() < EPS


def test_gradient_is_that_of_autograd_and_of_finite_differences():
    gradient = POLICY.gradient()
    found = torch.autograd.grad(POLICY.expected_reward(), POLICY.parameters)
    assert (torch.cat([g.flatten() for g in found]) - gradient).norm() < EPS * gradient.norm()
    bias, offset = POLICY.model.head.bias, 0
    for p in POLICY.parameters:
        if p is bias:
            break
        offset += p.numel()
    with torch.no_grad():
        for i in range(len(bias)):
            sides = []
            for step in (1e-5, -1e-5):
                bias[i] += step
                sides.append(float(POLICY.expected_reward()))
                bias[i] -= step
            assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(float(gradient[offset + i]), abs=1e-9)


def test_one_token_by_hand():
    """Probabilities p and 1 - p, rewards 0 and 1: the logits' gradient is V(1 - V) times (-1, 1)."""
    policy = ExactPolicy(prompts=1, vocabulary=2, length=1, width=2)
    p = float(policy.prob[0, 1])
    assert policy.reward.tolist() == [[0.0, 1.0]]
    assert float(policy.values()) == pytest.approx(p) and policy.greedy_rewards().tolist() == [float(p > 0.5)]
    assert policy.gradient()[-2:].tolist() == pytest.approx([-p * (1 - p), p * (1 - p)])
    # E[R |s|^2] / E[|s|^2] with |s|^2 in proportion to (p^2, (1 - p)^2) for tokens 0, 1
    norms = (policy.score[0] ** 2).sum(-1)
    assert float(norms[0] / norms[1]) == pytest.approx(p**2 / (1 - p) ** 2)
    assert float(policy.optimal_values()) == pytest.approx(1 - p)


# --- unbiased, and not ---------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 3])
def test_unbiased_baselines(m):
    assert unbiased(POLICY, pl.make_baseline("none"), m)
    assert unbiased(POLICY, pl.make_baseline("rloo"), m)
    assert unbiased(POLICY, learned("poise"), m)
    fused = learned("fused")
    assert 0 < fused.weight < 1
    assert unbiased(POLICY, fused, m)
    assert unbiased(POLICY, learned("score_weighted"), m)
    constant = learned("constant")
    assert 0 < constant.constant < 1 and unbiased(POLICY, constant, m)
    assert unbiased(POLICY, pl.make_baseline("remax"), m, extra=POLICY.greedy_rewards()[:, None])
    assert unbiased(POLICY, pl.make_baseline("oracle"), m, extra=POLICY.values()[:, None])
    assert unbiased(POLICY, PerPrompt(POLICY.optimal_values()), m)


def test_fused_is_unbiased_whatever_its_weight():
    fused = learned("fused")
    for fused.weight in (0.0, 0.3, 1.0):
        assert unbiased(POLICY, fused)


def test_batch_mean_is_unbiased_over_whole_batches():
    assert unbiased(SMALL, pl.make_baseline("batch_mean"), 1, prompts=2)
    assert unbiased(LEAST, pl.make_baseline("batch_mean"), 1, prompts=3)
    assert unbiased(LEAST, pl.make_baseline("batch_mean"), 2, prompts=2)


def test_james_stein_is_unbiased_over_whole_batches_and_a_leak_is_seen():
    for prompts in (2, 3):
        assert unbiased(LEAST, pl.make_baseline("james_stein"), prompts=prompts)

    class Leaks(JamesStein):
        """Shrinks towards the mean of all prompts, its own among them."""

        def advantages(self, rollouts, internals):
            return (rollouts.rewards - rollouts.rewards.mean() + super().advantages(rollouts, internals)) / 2

    assert not unbiased(LEAST, Leaks(), prompts=2)


def test_a_switch_that_looks_at_the_batch_is_biased():
    """Either of its two baselines alone is unbiased; choosing one by the batch's own rewards is not."""

    def guess(self, rollouts, internals):
        """A critic that explains the rewards of some batches and not of others."""
        return rollouts.rewards.new_tensor([0.9, 0.2])[[p.index for p in rollouts.problems]][:, None]

    for prompts in (2, 3, 4):
        switch, critic = (type("Guesses", (cls,), {"values": guess})() for cls in (EVSwitch, Critic))
        assert unbiased(LEAST, critic, 1, prompts=prompts)
        assert unbiased(LEAST, pl.make_baseline("batch_mean"), 1, prompts=prompts)
        assert moments(LEAST, switch, 1, prompts=prompts).bias > 0.001


def test_each_drawn_estimate_is_of_its_own_responses():
    """With two responses the mean of the others in the batch is the other one, however many estimates are asked for."""
    found = clouds.estimates(SMALL, pl.make_baseline("batch_mean"), 2, seed=1, number=50)
    which, chosen = (x.view(50, 2) for x in SMALL.draw(100, responses=1, seed=1))
    rewards = SMALL.reward[which, chosen]
    by_hand = ((rewards - rewards.flip(1))[..., None] * SMALL.score[which, chosen]).mean(1)
    gradient = SMALL.gradient()
    assert torch.allclose(found[:, 0], by_hand @ gradient / gradient.norm() ** 2, atol=1e-6)
    assert torch.allclose(found[:, 1], by_hand @ clouds.directions(SMALL)[1], atol=1e-6)
    for responses in (1, 3):
        with pytest.raises(pl.PoiseLabError, match=f"responses={responses}: baseline 'rloo' needs a multiple of 2"):
            clouds.estimates(SMALL, pl.make_baseline("rloo"), responses)


def test_the_two_directions_are_the_gradient_and_the_widest_one_across_it():
    """Over the gradient's length, so that an estimate equal to it has 1 and 0; no other direction across scatters more."""
    along, across = clouds.directions(SMALL)
    gradient = SMALL.gradient()
    length = gradient.norm()
    assert along @ gradient == pytest.approx(1, abs=1e-5) and along @ across == pytest.approx(0, abs=1e-5)
    assert [float(x.norm() * length) for x in (along, across)] == pytest.approx([1, 1], abs=1e-5)
    terms = ((SMALL.prob / SMALL.prompts).sqrt() * SMALL.reward)[..., None] * SMALL.score
    scatter = torch.einsum("xrk,xrl->kl", terms, terms).double()
    flat = torch.eye(len(gradient)).double() - torch.outer(along, gradient).double()  # what is not along the gradient
    widest = torch.linalg.eigvalsh(flat @ scatter @ flat)[-1]
    unit = (across * length).double()
    assert unit @ scatter @ unit == pytest.approx(widest.item(), rel=1e-5)


def test_a_baseline_of_the_whole_call_is_called_alone_or_refused():
    """All groups in one call are no batch that could be drawn: their mean would be E[R], with no sampling error."""
    for name, m in (("batch_mean", 2), ("spo", 1), ("spo", 2)):
        with pytest.raises(pl.PoiseLabError, match=f"{name!r} change with the other groups of a call.*alone=True"):
            moments(SMALL, pl.make_baseline(name), m)
    late = RefitFirst(young("poise"))
    late.update(*SMALL.records(*SMALL.draw(100)))
    with pytest.raises(pl.PoiseLabError, match="alone=True"):
        moments(SMALL, late)
    one_prompt = moments(SMALL, pl.make_baseline("batch_mean"), alone=True)  # the batch is the group: RLOO
    assert one_prompt.trace == pytest.approx(moments(SMALL, pl.make_baseline("rloo")).trace, rel=1e-10)


def test_reading_the_own_states_is_biased():
    own = moments(POLICY, learned(OwnStates))
    crossed = moments(POLICY, learned("poise"))
    assert own.bias > 0.05 and crossed.bias < EPS
    assert own.angle > 1


@pytest.mark.parametrize("m", [2, 3])
def test_group_mean_with_itself_scales_the_gradient(m):
    found = moments(POLICY, pl.make_baseline("dr_grpo"), m)
    assert (found.expectation - (m - 1) / m * found.gradient).norm() < EPS * found.gradient.norm()
    assert found.scale == pytest.approx((m - 1) / m, rel=1e-12) and found.angle < 1e-5


@pytest.mark.parametrize("m", [2, 3])
def test_weights_by_length_turn_the_gradient(m):
    """OPO's mean contains the own reward with a weight that depends on the own length: no mere factor."""
    assert moments(POLICY, pl.make_baseline("opo"), m).angle > 1


def test_dividing_by_the_standard_deviation_turns_the_gradient():
    """With rewards of 0 and 1 all mixed groups of 2, or of 3, have the same standard deviation: a mere factor."""
    for m, factor in ((2, 1.0), (3, math.sqrt(2))):
        found = moments(POLICY, pl.make_baseline("grpo"), m)
        assert found.angle < 1e-3 and found.scale == pytest.approx(factor, rel=1e-5)  # GRPO adds 1e-6 to the divisor
    assert moments(POLICY, pl.make_baseline("grpo"), 4).angle > 0.1
    assert moments(POLICY, pl.make_baseline("dr_grpo"), 4).angle < 1e-5


def test_with_rewards_in_between_two_responses_are_enough_to_turn_it():
    graded = copy.copy(POLICY)
    graded.reward = torch.rand(POLICY.reward.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert moments(graded, pl.make_baseline("grpo")).angle > 1
    assert unbiased(graded, pl.make_baseline("rloo")) and moments(graded, pl.make_baseline("dr_grpo")).angle < 1e-5


def test_normalising_the_batch_scales_or_turns():
    """SPO divides by the standard deviation of the batch."""
    assert moments(LEAST, pl.make_baseline("spo"), 1, prompts=2).bias < 1e-5  # of two numbers it is half their distance
    assert moments(LEAST, pl.make_baseline("spo"), 1, prompts=3).bias > 0.1


def test_the_check_can_fail():
    """A baseline that leaks one hundredth of the own reward."""

    class Leaks(pl.Baseline):
        name = "leaks"

        def advantages(self, rollouts, internals):
            return 0.99 * rollouts.rewards

    found = moments(POLICY, Leaks())
    assert found.bias == pytest.approx(0.01, rel=1e-9) and not unbiased(POLICY, Leaks())


# --- the probe is fitted on earlier data ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["poise", "fused", "score_weighted", "constant"])
def test_unbiased_over_every_earlier_step_too(kind):
    baseline = young(kind)
    baseline.update(*SMALL.records(*SMALL.draw(2)))  # a history, so that `fused` can fit its weight
    found = after_earlier_step(SMALL, baseline)
    assert found.bias < EPS
    # it did use what it had learned: RLOO, its warm-up, has another variance
    assert abs(found.trace / moments(SMALL, pl.make_baseline("rloo")).trace - 1) > 0.05


@pytest.mark.parametrize("responses", [1, 2])
def test_a_probe_of_the_prompt_is_unbiased_and_one_of_the_own_rollout_is_not(responses):
    """The two ablations of the pair, after an earlier batch, and the first over every further step too."""
    which, chosen = POLICY.draw(120)
    found = {}
    for name in ("prompt_only", "same_rollout"):
        baseline = BASELINES[name](responses=responses, warmup=1, probe="paper")
        baseline.update(*POLICY.records(which, chosen[:, :responses]))
        found[name] = moments(POLICY, baseline, responses)
    assert found["prompt_only"].bias < EPS and found["same_rollout"].bias > 0.02
    assert found["same_rollout"].angle > 0.5  # no mere factor
    # the prompt's value was used, and takes variance away
    assert found["prompt_only"].trace < moments(POLICY, pl.make_baseline("none"), responses).trace * 0.95
    early = BASELINES["prompt_only"](responses=responses, warmup=1, probe="paper")
    early.update(*SMALL.records(*(part if part.dim() == 1 else part[:, :responses] for part in SMALL.draw(20))))
    assert after_earlier_step(SMALL, early, responses).bias < EPS


def test_two_steps_are_summed_with_their_probabilities():
    """Against a plain loop over both steps, variance included, for a baseline that is biased and learns."""
    baseline, n = OwnStates(warmup=1, probe="paper"), LEAST.prob.shape[1]
    pairs = [(x, pair) for x in range(2) for pair in itertools.product(range(n), repeat=2)]
    total, square = 0.0, 0.0
    for x, pair in pairs:
        learned_once = copy.deepcopy(baseline)
        learned_once.update(*LEAST.records(torch.tensor([x]), torch.tensor([pair])))
        for x2, pair2 in pairs:
            p = float(LEAST.prob[x, list(pair)].prod() * LEAST.prob[x2, list(pair2)].prod()) / 4
            advantages = learned_once.advantages(*LEAST.records(torch.tensor([x2]), torch.tensor([pair2])))[0]
            g = (advantages[:, None] * LEAST.score[x2, list(pair2)]).mean(0)
            total, square = total + p * g, square + p * float(g @ g)
    found = after_earlier_step(LEAST, baseline)
    assert (found.expectation - total).norm() < EPS and found.bias > 0.01
    assert found.trace == pytest.approx(square - float(total @ total), rel=1e-10)


def test_learning_from_the_batch_before_judging_it_is_biased():
    """The refitted probe knows both rewards, and hands each response its own across its partner.

    Over all earlier and all present batches; and the more so, the fewer rows there were before.
    """
    late = RefitFirst(pl.make_baseline("poise", warmup=1, probe="paper"))
    assert after_earlier_step(LEAST, late, alone=True).bias > 0.5
    biases = []
    for rows in (20, 200):
        late = RefitFirst(pl.make_baseline("poise", warmup=1, probe="release"))
        late.update(*SMALL.records(*SMALL.draw(rows // 2)))
        biases.append(moments(SMALL, late, alone=True).bias)
    assert biases[0] > 0.05 and biases[0] > 2 * biases[1] > 1e-3


# --- variance ------------------------------------------------------------------------------------


def test_moments_are_those_of_a_plain_double_loop():
    policy, n = LEAST, LEAST.prob.shape[1]
    total, square = 0.0, 0.0
    for x in range(2):
        for pair in itertools.product(range(n), repeat=2):
            p = float(policy.prob[x, list(pair)].prod()) / 2
            r = [float(policy.reward[x, y]) for y in pair]
            g = ((r[0] - r[1]) * policy.score[x, pair[0]] + (r[1] - r[0]) * policy.score[x, pair[1]]) / 2
            total, square = total + p * g, square + p * float(g @ g)
    found = moments(policy, pl.make_baseline("rloo"))
    assert (found.expectation - total).norm() < EPS
    assert found.trace == pytest.approx(square - float(total @ total), rel=1e-10)


def test_calling_batch_by_batch_changes_nothing():
    one, other = (moments(SMALL, pl.make_baseline("rloo"), alone=alone) for alone in (False, True))
    assert (one.expectation - other.expectation).norm() < EPS and one.trace == pytest.approx(other.trace, rel=1e-10)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_proposition_1_where_its_premise_holds(m):
    """One prompt's group: Cov(g) = Sigma_w / m + Sigma_b, for baselines that do not depend on the group."""
    for given in (torch.zeros(3), POLICY.values(), POLICY.optimal_values()):
        found = moments(POLICY, PerPrompt(given), m)
        assert found.trace == pytest.approx(found.within / m + found.between, rel=1e-10)


def test_proposition_1_over_prompts():
    """Two prompts with two responses: B = 4, m = 2."""
    found = moments(LEAST, PerPrompt(LEAST.values()), 2, prompts=2)
    assert found.trace == pytest.approx(found.within / 4 + 2 / 4 * found.between, rel=1e-10)
    assert found.by_proposition(responses=2, prompts=2) == pytest.approx(found.trace, rel=1e-10)


def test_proposition_1_fails_for_a_mean_of_the_group():
    """Not at one M, since the terms of a group are correlated, nor from one M to another, since Z itself changes."""
    for name in ("rloo", "dr_grpo"):
        two, three = (moments(POLICY, pl.make_baseline(name), m) for m in (2, 3))
        assert abs(two.by_proposition(2) / two.trace - 1) > 0.01
        assert abs(two.by_proposition(3) / three.trace - 1) > 0.01
        assert abs(three.within / two.within - 1) > 0.05


def test_variance_parts_do_not_depend_on_the_group_size():
    one, three = (moments(POLICY, PerPrompt(POLICY.values()), m) for m in (1, 3))
    assert one.within == pytest.approx(three.within) and one.between == pytest.approx(three.between)


def test_best_number_per_prompt():
    """Its variance is the least of all; V(x) is near but not the best (the score's length matters)."""
    best = moments(POLICY, PerPrompt(POLICY.optimal_values()), 1).trace
    assert (
        best < moments(POLICY, PerPrompt(POLICY.values()), 1).trace < moments(POLICY, pl.make_baseline("none"), 1).trace
    )
    for x in range(3):
        for other in torch.linspace(-0.5, 1.5, 9).tolist():  # of one prompt, the others at their best
            given = POLICY.optimal_values()
            given[x] = other
            assert moments(POLICY, PerPrompt(given), 1).trace > best
    for same in torch.linspace(-0.5, 1.5, 9).double():
        assert moments(POLICY, PerPrompt(same.repeat(3)), 1).trace > best


def test_poise_with_a_pair_is_quieter_than_rloo():
    traces = {name: moments(POLICY, learned(name)).trace for name in ("poise", "fused")}
    assert max(traces.values()) < moments(POLICY, pl.make_baseline("rloo")).trace


def test_a_baseline_is_left_as_it_was():
    fused = learned("fused")
    before = {k: v.clone() for k, v in fused.state_dict().items()}
    after_earlier_step(LEAST, RefitFirst(fused), alone=True)
    assert all(torch.equal(v, before[k]) for k, v in fused.state_dict().items())


def test_bad_input():
    class PerToken(pl.Baseline):
        name = "per_token"

        def advantages(self, rollouts, internals):
            return rollouts.mask.double()

    with pytest.raises(pl.PoiseLabError, match="at most 100 responses"):
        ExactPolicy(vocabulary=10, length=3)
    with pytest.raises(pl.PoiseLabError, match="groups of 6 to sum over"):
        moments(POLICY, pl.make_baseline("rloo"), 6)
    with pytest.raises(pl.PoiseLabError, match="batches, one call each"):
        moments(POLICY, pl.make_baseline("batch_mean"), 2, prompts=2)
    with pytest.raises(pl.PoiseLabError, match="'per_token' gives no single advantage"):
        moments(POLICY, PerToken())


def test_draws_follow_the_probabilities():
    which, chosen = POLICY.draw(20_000, 2, seed=0)
    share = torch.bincount(which * 15 + chosen[:, 1], minlength=45) / 20_000
    assert (share - POLICY.prob.flatten() / 3).abs().max() < 0.01  # about 4 standard errors


def test_records_are_of_the_given_responses():
    rollouts, internals = POLICY.records(torch.tensor([2, 0]), torch.tensor([[0, 1], [5, 5]]), POLICY.values()[:, None])
    assert rollouts.rewards.tolist() == [[0.0, 1.0], [float(POLICY.reward[0, 5])] * 2]
    assert rollouts.rewards.dtype == torch.float64
    assert torch.equal(internals.reasoning[0, 1], POLICY.internals.reasoning[2, 1])
    assert rollouts.extra_rewards[:, 0].tolist() == [float(POLICY.values()[x]) for x in (2, 0)]
    assert dataclasses.is_dataclass(rollouts) and rollouts.responses == 2
