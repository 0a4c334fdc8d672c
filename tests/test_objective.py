from __future__ import annotations

import math

import pytest
import torch
from support import tiny_policy

import poise_lab as pl
from poise_lab.internals import forward_rows
from poise_lab.objective import clipped_surrogate, kl_penalty, token_weights

MASK = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])


def surrogate(ratios, advantages, weights=None, **options):
    ratios = torch.tensor(ratios)
    weights = torch.full(ratios.shape, 1 / ratios.numel()) if weights is None else weights
    return clipped_surrogate(ratios.log(), torch.zeros_like(ratios), torch.tensor(advantages), weights, **options)


def test_token_weights_by_hand():
    sixth, ninth = 1 / 6, 1 / 9
    assert torch.allclose(
        token_weights(MASK, "token_mean"),
        torch.tensor([[sixth, sixth, 0], [sixth, sixth, sixth], [sixth, 0, 0]]),
    )
    assert torch.allclose(
        token_weights(MASK, "sequence_mean"),
        torch.tensor([[sixth, sixth, 0], [ninth, ninth, ninth], [1 / 3, 0, 0]]),
    )
    for aggregation in ("token_mean", "sequence_mean"):
        assert token_weights(MASK, aggregation).sum().item() == pytest.approx(1)


def test_unknown_aggregation():
    with pytest.raises(pl.PoiseLabError, match="unknown aggregation 'sum'; known: sequence_mean, token_mean"):
        token_weights(MASK, "sum")


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "active"),
    [
        (1.0, 0.5, -0.5, 0),
        (1.2, 0.5, -0.6, 0),  # inside
        (1.5, 0.5, -0.64, 1),  # A > 0: the ratio counts at most 1.28
        (0.5, 0.5, -0.25, 0),  # A > 0, below: no clip, the gradient pulls it back up
        (0.9, -0.5, 0.45, 0),
        (0.5, -0.5, 0.4, 1),  # A < 0: the ratio counts at least 0.8
        (1.5, -0.5, 0.75, 0),  # A < 0, above: no clip
        (9.0, -0.5, 4.5, 0),
        (30.0, -0.5, 5.0, 1),  # dual clip: at most 10 |A|
        (30.0, 0.0, 0.0, 0),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, active):
    found, clipped = surrogate([[ratio]], [advantage])
    assert found.item() == pytest.approx(loss, rel=1e-5)
    assert clipped.item() == active


def test_clips_are_settings():
    assert surrogate([[1.5]], [1.0], clip_high=0.6)[0].item() == pytest.approx(-1.5)
    assert surrogate([[0.5]], [-1.0], clip_low=0.1)[0].item() == pytest.approx(0.9)
    assert surrogate([[5.0]], [-1.0], dual_clip=3.0)[0].item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("aggregation", "loss"),
    # token losses -1.28, -1 / 0.8, 2, 10 / 0.5 (advantages 1, -1, -0.5 with dual clip) ...
    [
        ("token_mean", (-1.28 - 1 + 0.8 + 2 + 10 + 0.5) / 6),
        ("sequence_mean", (-2.28 / 2 + 12.8 / 3 + 0.5) / 3),
    ],
)
def test_both_aggregations_by_hand(aggregation, loss):
    ratios = [[1.5, 1.0, 9.9], [0.5, 2.0, 50.0], [1.0, 3.0, 3.0]]
    found, active = surrogate(ratios, [1.0, -1.0, -0.5], token_weights(MASK, aggregation))
    assert found.item() == pytest.approx(loss, rel=1e-5)
    # clipped: (0, 0), (1, 0) and (1, 2); padding never counts
    weights = token_weights(MASK, aggregation)
    assert active.item() == pytest.approx((weights[0, 0] + weights[1, 0] + weights[1, 2]).item())


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_micro_batches_add_up(aggregation):
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(9) < torch.randint(1, 10, (12, 1), generator=generator)
    logprobs, old = torch.randn(2, 12, 9, generator=generator)
    advantages, weights = torch.randn(12, generator=generator), token_weights(mask, aggregation)
    whole, whole_active = clipped_surrogate(logprobs, old, advantages, weights)
    parts = [
        clipped_surrogate(logprobs[rows], old[rows], advantages[rows], weights[rows])
        for rows in torch.randperm(12, generator=generator).split([5, 3, 4])
    ]
    assert sum(loss for loss, _ in parts).item() == pytest.approx(whole.item(), rel=1e-5)
    assert sum(active for _, active in parts).item() == pytest.approx(whole_active.item(), rel=1e-5)
    assert whole_active > 0


def test_gradient_at_ratio_one_is_the_policy_gradient():
    logits = torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    actions = torch.randint(0, 7, (5, 4), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4])[:, None]
    advantages = torch.tensor([0.7, -0.3, 0.0, 1.0, -1.0])

    def logprobs():
        return logits.log_softmax(-1).gather(2, actions[..., None])[..., 0]

    policy_gradient = -(advantages[:, None] * logprobs() * mask).sum() / mask.sum()
    (expected,) = torch.autograd.grad(policy_gradient, logits)
    loss, active = clipped_surrogate(logprobs(), logprobs().detach(), advantages, token_weights(mask, "token_mean"))
    (found,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(found, expected, atol=1e-7)
    assert active == 0 and (expected != 0).any()


def test_gradient_at_ratio_one_through_a_policy(toys):
    """The same through a transformer: -A grad log pi of each response, mean over all tokens."""
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, toys[:3], 2, seed=0, max_new_tokens=6)
    advantages = torch.tensor([0.7, -0.3, 0.2, 1.0, -1.0, 0.4])
    mask = rollouts.mask.flatten(0, 1)

    def gradient(loss):
        policy.model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    logprobs, _ = forward_rows(policy, rollouts, torch.arange(6))
    expected = gradient(-(advantages[:, None] * logprobs).sum() / mask.sum())
    logprobs, _ = forward_rows(policy, rollouts, torch.arange(6))
    old = pl.read_internals(policy, rollouts, 0, 1).logprobs.flatten(0, 1)
    loss, _ = clipped_surrogate(logprobs, old, advantages, token_weights(mask, "token_mean"))
    assert torch.allclose(gradient(loss), expected, atol=1e-5 * float(expected.abs().max()) + 1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "flows"),
    [
        (1.5, 1.0, False),
        (0.5, -1.0, False),
        (30.0, -1.0, False),
        (0.5, 1.0, True),
        (1.5, -1.0, True),
        (1.1, 1.0, True),
    ],
)
def test_a_clipped_token_has_no_gradient(ratio, advantage, flows):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss, _ = clipped_surrogate(logprobs, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1))
    loss.backward()
    assert logprobs.grad.item() == pytest.approx(-advantage * ratio if flows else 0.0)


@pytest.mark.parametrize("log_ratio", [-200.0, -89.0, 20.5, 89.0, 200.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_a_log_ratio_beyond_float32_has_a_gradient(log_ratio, advantage):
    logprobs = torch.tensor([[log_ratio, 0.0]], requires_grad=True)
    loss, _ = clipped_surrogate(logprobs, torch.zeros(1, 2), torch.tensor([advantage]), torch.full((1, 2), 0.5))
    (loss + kl_penalty(logprobs, torch.zeros(1, 2), torch.full((1, 2), 0.5))).backward()
    assert torch.isfinite(loss) and torch.isfinite(logprobs.grad).all()
    assert logprobs.grad[0, 1].item() == pytest.approx(-advantage / 2)


def test_ordinary_log_ratios_are_not_touched():
    d = torch.linspace(-19.9, 19.9, 4001)[None]
    weights = torch.full_like(d, 1 / 4001)
    loss, _ = clipped_surrogate(d, torch.zeros_like(d), torch.ones(1), weights, clip_low=0.5, clip_high=1e30)
    assert loss.item() == -(d.exp() * weights).sum().item()


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_a_batch_of_empty_responses_weighs_nothing(aggregation):
    assert token_weights(torch.zeros(2, 3, dtype=torch.bool), aggregation).tolist() == [[0.0] * 3] * 2


def test_kl_by_hand():
    # d = log(reference / policy) = log 2 and log(1/2): e^d - d - 1 = 1 - log 2 and log 2 - 1/2
    logprobs, reference = torch.tensor([[0.1, 0.4, 0.3]]).log(), torch.tensor([[0.2, 0.2, 0.9]]).log()
    weights = torch.tensor([[0.25, 0.75, 0.0]])
    expected = 0.25 * (1 - math.log(2)) + 0.75 * (math.log(2) - 0.5)
    assert kl_penalty(logprobs, reference, weights).item() == pytest.approx(expected, rel=1e-5)
    assert kl_penalty(logprobs, logprobs, weights).item() == 0


@pytest.mark.parametrize(
    ("ratio", "penalty", "gradient"),
    [
        (2.0, 1 - math.log(2), -1.0),  # reference / policy; the gradient is 1 - ratio
        (0.5, math.log(2) - 0.5, 0.5),
        (12.0, 11 - math.log(12), -11.0),
        (14.0, 10.0, 0.0),  # 13 - log 14 = 10.4
        (math.exp(-10.5), 9.5 + math.exp(-10.5), 1 - math.exp(-10.5)),
        (math.exp(-12), 10.0, 0.0),
        (math.exp(30), 10.0, 0.0),
    ],
)
def test_a_tokens_kl_is_at_most_10(ratio, penalty, gradient):
    logprobs = torch.zeros(1, 1, requires_grad=True)
    found = kl_penalty(logprobs, torch.tensor([[math.log(ratio)]]), torch.ones(1, 1))
    found.backward()
    assert found.item() == pytest.approx(penalty, rel=1e-5)
    assert logprobs.grad.item() == pytest.approx(gradient, rel=1e-5)


def test_kl_estimator_has_the_right_mean():
    """Summed over all actions with their probabilities it is KL(policy || reference) exactly."""
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)
    expected = (p * (p / q).log()).sum()
    found = kl_penalty(p.log()[None], q.log()[None], p[None])
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_kl_has_the_gradient_of_the_other_direction():
    """By enumeration: on tokens drawn from the policy, the mean gradient is that of KL(reference || policy)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    q = torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)
    p = logits.log_softmax(0)
    (found,) = torch.autograd.grad(kl_penalty(p[None], q[None], p.detach().exp()[None]), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)
    (other,) = torch.autograd.grad((q.exp() * (q - p)).sum(), logits)
    torch.testing.assert_close(found, other, rtol=0, atol=1e-12)
    assert (found - forward).norm() > 0.1 * forward.norm()
