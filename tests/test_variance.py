"""The variance laboratory: by hand, by enumeration of every sample, and against autograd one response at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from support import FAMILIES, ToyTask, tiny_policy

import poise_lab as pl
from poise_lab import stats
from poise_lab import variance as va
from poise_lab.internals import forward_rows
from poise_lab.variance import scores as score_passes
from poise_lab.variance import spoilt

NAMES = ("within", "between", "spread", "signal")
# two prompts with two responses, scores of two numbers, advantages
VECTORS = torch.tensor([[[1, 0], [0, 2]], [[3, 0], [1, 1]]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1.0, 0.5], [-1.0, 2.0]], dtype=torch.float64)  # Z: (1, 0), (0, 1); (-3, 0), (2, 2)


def test_by_hand():
    v = va.gradient_variance(va.Scores.of(VECTORS), ADVANTAGES)
    # prompt 1: mean (1/2, 1/2), squares around it 1/2 + 1/2 = 1; prompt 2: mean (-1/2, 1), 29/4 + 29/4 = 29/2
    assert v.within[0] == pytest.approx((1 + 14.5) / 2, abs=1e-12)
    assert v.signal[0] == pytest.approx(-0.25 + 0.5, abs=1e-12)  # (1/2, 1/2) . (-1/2, 1)
    assert v.between[0] == pytest.approx((0 + -6) / 2 - 0.25, abs=1e-12)  # Z1 . Z2 is 0 and -6
    assert v.spread[0] == pytest.approx((0.5 + 1.25) / 2 - 0.25, abs=1e-12)  # squared means
    assert v.predicted(8)[0] == pytest.approx((7.75 + 2 * -3.25) / 8, abs=1e-12)
    assert v.trace(8)[0] == pytest.approx(0.625 * 2 / 8, abs=1e-12)
    assert v.snr(8)[0] == pytest.approx(0.25 / 0.15625, abs=1e-12)
    assert v.cosine(8)[0] == pytest.approx((1.6 / 2.6) ** 0.5, abs=1e-12)


def test_a_gradient_that_is_all_noise_has_cosine_0():
    """Means (1/2, 0) and (-1/2, 1/4): the estimate of the squared length, their product, is below 0."""
    vectors = torch.tensor([[[1, 0], [0, 0]], [[-1, 0], [0, 0.5]]], dtype=torch.float64)
    v = va.gradient_variance(va.Scores.of(vectors), torch.ones(2, 2, dtype=torch.float64))
    assert v.signal[0] == pytest.approx(-0.25, abs=1e-12) and v.snr(8)[0] < 0
    assert v.cosine(8)[0] == 0


def test_groups_of_one_by_hand():
    v = va.gradient_variance(va.Scores.of(VECTORS), ADVANTAGES, group=1)
    assert v.spread[0] == pytest.approx((1 + 1 + 9 + 8) / 4 - 0.25, abs=1e-12)
    alone = va.gradient_variance(va.Scores.of(VECTORS).select(responses=[0]), ADVANTAGES[:, :1])
    assert np.isnan(alone.within[0]) and alone.spread[0] == pytest.approx((1 + 9) / 2 + 3, abs=1e-12)


class Population:
    """Three prompts with probabilities, three responses to each: everything that can be drawn from it, exactly."""

    def __init__(self, seed=0):
        generator = np.random.default_rng(seed)
        self.z = generator.normal(size=(3, 3, 2))
        self.p = generator.dirichlet(np.ones(3))
        self.q = generator.dirichlet(np.ones(3), size=3)
        mean = (self.q[..., None] * self.z).sum(1)
        self.within = sum(
            self.p[i] * self.q[i, j] * ((self.z[i, j] - mean[i]) ** 2).sum() for i in range(3) for j in range(3)
        )
        self.signal = ((self.p @ mean) ** 2).sum()
        self.between = self.p @ (mean**2).sum(1) - self.signal

    def samples(self, prompts, responses):
        """(probability, Z (prompts, responses, 2)) of every sample."""
        for xs in itertools.product(range(3), repeat=prompts):
            for ys in itertools.product(itertools.product(range(3), repeat=responses), repeat=prompts):
                chance = np.prod([self.p[x] * np.prod(self.q[x][list(y)]) for x, y in zip(xs, ys, strict=True)])
                yield chance, self.z[np.array(xs)[:, None], np.array(ys)]


def expectations(population, prompts, responses, estimate):
    return sum(chance * np.array(estimate(z)) for chance, z in population.samples(prompts, responses))


@pytest.mark.parametrize("prompts, responses", [(2, 2), (3, 2), (2, 3)])
def test_unbiased_over_every_sample(prompts, responses):
    population = Population()

    def estimate(z):
        z = torch.from_numpy(z)
        v = va.gradient_variance(va.Scores.of(z), torch.ones(z.shape[:2], dtype=torch.float64))
        return [getattr(v, name)[0] for name in NAMES]

    spread = population.within / responses + population.between
    true = [population.within, population.between, spread, population.signal]
    assert expectations(population, prompts, responses, estimate) == pytest.approx(true, abs=1e-10)


def test_a_biased_divisor_would_be_caught():
    """Dividing by M, or by P^2 with the diagonal, misses the population by far more than the tolerance above."""
    population = Population()
    wrong = expectations(
        population, 2, 2, lambda z: [((z - z.mean(1, keepdims=True)) ** 2).sum(-1).mean(), (z.mean((0, 1)) ** 2).sum()]
    )
    assert abs(wrong - [population.within, population.signal]).min() > 0.05


def test_prop_1_holds_in_every_batch_size():
    """The exact trace of Cov(g), by listing all batches, is Sigma_w / B + (m / B) Sigma_b."""
    population = Population(1)
    for prompts, responses in ((1, 1), (1, 3), (2, 1), (2, 2), (3, 1), (4, 1)):
        batches = [(chance, z.mean((0, 1))) for chance, z in population.samples(prompts, responses)]
        mean = sum(chance * g for chance, g in batches)
        trace = sum(chance * ((g - mean) ** 2).sum() for chance, g in batches)
        one = np.ones(1)
        v = va.GradientVariance(one * population.within, one * population.between, one, one, responses)
        assert v.predicted(prompts * responses)[0] == pytest.approx(trace, abs=1e-12)


def synthetic(prompts=400, responses=8, seed=0):
    """Scores that are a prompt's mean plus noise: Sigma_b = 4 * 0.25, Sigma_w = 4."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.5 * torch.randn(prompts, 1, 4, generator=generator, dtype=torch.float64)
    return va.Scores.of(means + torch.randn(prompts, responses, 4, generator=generator, dtype=torch.float64))


SIZES = (1, 2, 4, 8, 16)


def held(intervals, true) -> bool:
    """Whether intervals of 95 % from independent data hold a number as often as that, less four standard errors."""
    n = len(intervals)
    return np.mean([low < true < high for _, low, high in intervals]) > 0.95 - 4 * (0.95 * 0.05 / n) ** 0.5


def test_predicted_and_drawn_on_a_synthetic_population():
    """Drawn batches are judged against the trace of the data that they come from, in five data sets of each size."""
    for m in SIZES:
        drawn = []
        for seed in range(5):
            scores, ones = synthetic(responses=16, seed=seed), torch.ones(400, 16)
            v = va.gradient_variance(scores, ones, m)
            value, low, high = va.drawn_trace(va.drawn_gradients(scores, ones, 64, m, pairs=800))
            drawn.append([x - v.trace(64)[0] for x in (value, low, high)])
            assert v.predicted(64)[0] == pytest.approx((4 + m) / 64, rel=0.1)
        assert held(drawn, 0.0)


def test_predicted_and_measured_over_many_data_sets():
    """Of the same prompts, and of two halves that share none, where agreement is not built in."""
    halves, counts = (slice(150), slice(150, None)), [stats.resamples(150, 200, seed=k) for k in (0, 1)]
    same, apart, tied = ({m: [] for m in SIZES} for _ in range(3))
    pairs = torch.arange(16) // 2 * 2
    for seed in range(40):
        scores, ones = synthetic(300, 16, seed), torch.ones(150, 16)
        parts = [scores.select(half) for half in halves]
        twice = va.Scores(parts[1].within[:, pairs][:, :, pairs], parts[1].kept[:, pairs])  # two of a pair are one
        v = va.gradient_variance(parts[0], ones, 1, counts[0])
        for m in SIZES:
            measured = [
                va.gradient_variance(part, ones, m, c).trace(64)
                for part, c in ((parts[0], counts[0]), (parts[1], counts[1]), (twice, counts[1]))
            ]
            same[m].append(stats.interval(v.predicted(64, m) - measured[0]))
            apart[m].append(stats.interval(v.predicted(64, m) / measured[1]))
            tied[m].append(stats.interval(v.predicted(64, m) / measured[2]))
    for m in SIZES:
        # for one response, and for all, prediction and measurement of the same prompts are one formula
        assert max(map(abs, np.ravel(same[m]))) < 1e-12 if m in (1, 16) else held(same[m], 0.0)
        assert held(apart[m], 1.0)
        assert m == 1 or not held(tied[m], 1.0)  # what hangs together in a group is found out


def test_cosine_with_the_truth_is_estimated_without_it():
    """Prompts whose gradients scatter round (2, 0, 0, 0): drawn batches have the estimated cosine with it."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.tensor([2.0, 0, 0, 0]) + torch.randn(3000, 2, 4, generator=generator)
    scores, ones, counts = va.Scores.of(vectors.double()), torch.ones(3000, 2), stats.resamples(3000, draws=100)
    value, low, high = stats.interval(va.gradient_variance(scores, ones, counts=counts).cosine(8))
    assert low < (4 / (4 + 4 / 8)) ** 0.5 < high
    drawn = va.drawn_gradients(scores, ones, 8, 2, pairs=400).flatten(0, 1)
    to_truth = torch.nn.functional.cosine_similarity(drawn, torch.eye(4).double()[:1]).mean()
    assert float(to_truth) == pytest.approx(value, abs=0.02)


def test_pairs_of_batches_share_no_prompt():
    scores = va.Scores(torch.zeros(6, 2, 2), torch.eye(6)[:, None].repeat(1, 2, 1))  # a gradient shows its prompts
    drawn = va.drawn_gradients(scores, torch.ones(6, 2), 6, 2, pairs=50)
    assert ((drawn > 0).sum(-1) == 3).all() and not ((drawn[:, 0] > 0) & (drawn[:, 1] > 0)).any()
    with pytest.raises(pl.PoiseLabError, match="need 8 of the 6 prompts"):
        va.drawn_gradients(scores, torch.ones(6, 2), 8, 2)


def test_bootstrap_covers_and_pairs():
    counts = stats.resamples(400)
    assert counts.shape == (401, 400) and (counts.sum(1) == 400).all() and (counts[0] == 1).all()
    of_seeds = [va.gradient_variance(synthetic(seed=seed), torch.ones(400, 8), counts=counts) for seed in range(60)]
    v = of_seeds[0]
    for name, true in (("within", 4.0), ("between", 1.0), ("signal", 0.0)):
        intervals = [stats.interval(getattr(one, name)) for one in of_seeds]
        covered = np.mean([low < true < high for _, low, high in intervals])
        assert covered > 0.95 - 4 * (0.95 * 0.05 / 60) ** 0.5
    twice = va.gradient_variance(synthetic(), 2 * torch.ones(400, 8), counts=counts)
    assert twice.within / v.within == pytest.approx(4 * np.ones(401))  # the same prompts in every draw
    # a prompt that was drawn twice is no pair with itself: else the draws would lie E|mean Z|^2 / P too high
    shift = np.mean([one.signal[1:].mean() - one.signal[0] for one in of_seeds])
    assert abs(shift) < 0.1 * 1.5 / 400


def test_wrong_shapes_are_refused():
    scores = va.Scores.of(VECTORS)
    for advantages, group in ((ADVANTAGES[:1], None), (ADVANTAGES, 3)):
        with pytest.raises(pl.PoiseLabError, match="need equal shapes"):
            va.gradient_variance(scores, advantages, group)
    with pytest.raises(pl.PoiseLabError, match="at least 2 prompts"):
        va.gradient_variance(scores.select([0]), ADVANTAGES[:1])


def one_by_one(policy, rollouts, weights):
    """(P, M, N) scores, one backward pass for each."""
    rows = []
    for i in range(rollouts.rewards.numel()):
        policy.model.zero_grad()
        logprobs, _ = forward_rows(policy, rollouts, torch.tensor([i]))
        (logprobs * weights.flatten(0, 1)[i]).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    return torch.stack(rows).view(len(rollouts), rollouts.responses, -1)


CASES = [(family, {}) for family in FAMILIES] + [
    ("qwen3", {"tie_word_embeddings": False}),
    ("qwen3", {"attention_bias": True}),
]


@pytest.mark.parametrize("family, changes", CASES, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_scores_as_autograd_gives_them(family, changes):
    policy = tiny_policy(family, **changes)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.model.parameters():
        if parameter.dim() == 1:  # norms and biases are not as they were made
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(5, seed=0), responses=3, seed=0, max_new_tokens=12)
    policy.model.double()
    assert len(rollouts.lengths.unique()) > 2 and len(rollouts.prompt_lengths.unique()) > 2
    assert score_passes._modules_tell(policy, rollouts, list(policy.model.parameters()))  # no backward pass of each
    weights = torch.rand(rollouts.response_ids.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for w in (None, weights):
        vectors = one_by_one(policy, rollouts, torch.ones_like(weights) if w is None else w).double()
        scores = va.read_scores(policy, rollouts, w, width=None)
        flat = scores.kept.flatten(0, 1)
        largest = vectors.abs().max() ** 2
        expected = vectors.flatten(0, 1) @ vectors.flatten(0, 1).T
        # log-probabilities are float32, so the gradients have its precision
        assert torch.allclose(flat @ flat.T, expected, rtol=1e-4, atol=1e-4 * largest)
        assert torch.allclose(scores.within, vectors @ vectors.mT, rtol=1e-4, atol=1e-4 * largest)
        assert torch.allclose(scores.kept.abs(), vectors.abs(), rtol=1e-4, atol=1e-4 * vectors.abs().max())


def test_equal_responses_are_read_once_and_weights_tell_them_apart():
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(3, seed=0), responses=2, seed=0, max_new_tokens=6)
    same = rollouts.select(responses=[0, 1, 0, 0])
    read = score_passes._prompt_batches(same, torch.ones(same.response_ids.shape), 1)
    assert {tuple(distinct.shape)[1] for _, distinct, _ in read} <= {1, 2}
    scores, plain = va.read_scores(policy, same), va.read_scores(policy, rollouts)
    assert torch.allclose(scores.within[:, 2, 3], plain.within[:, 0, 0], rtol=1e-5)
    assert torch.allclose(scores.within[:, 1, 3], plain.within[:, 1, 0], rtol=1e-4, atol=1e-4)
    weights = torch.ones(same.response_ids.shape)
    weights[:, 3] = 2
    weighted = va.read_scores(policy, same, weights)
    assert torch.allclose(weighted.within[:, 2, 3], 2 * plain.within[:, 0, 0], rtol=1e-5)


def test_few_gradients_of_a_large_weight_are_held_at_once(monkeypatch):
    """In a pass over SmolLM2's few-shot prompts one weight's gradients took gigabytes; a prompt is the least."""
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(6, seed=0), responses=2, seed=0, max_new_tokens=6)
    whole, largest = va.read_scores(policy, rollouts), max(q.numel() for q in policy.model.parameters())
    rows, found = [], score_passes._row_gradient
    monkeypatch.setattr(score_passes, "_row_gradient", lambda *use: rows.append(len(use[2])) or found(*use))
    for numbers, most in ((4 * largest, 4), (1, 2)):
        rows.clear()
        monkeypatch.setattr(score_passes, "BATCH_NUMBERS", numbers)
        parts = va.read_scores(policy, rollouts)
        assert max(rows) == most
        assert torch.allclose(parts.within, whole.within, rtol=1e-4, atol=1e-4 * whole.within.abs().max())
        assert torch.allclose(parts.kept, whole.kept, rtol=1e-4, atol=1e-4 * whole.kept.abs().max())


def test_folding_is_right_on_average():
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(4, seed=0), responses=1, seed=0, max_new_tokens=6)
    exact = va.read_scores(policy, rollouts, width=None).kept[:, 0]
    true, scale = exact @ exact.T, exact.norm(dim=1)
    errors = []
    for seed in range(60):
        folded = va.read_scores(policy, rollouts, width=256, seed=seed).kept[:, 0]
        errors.append((folded @ folded.T - true) / (scale[:, None] * scale))
    errors = torch.stack(errors)
    assert errors.mean(0).abs().max() < 4 * (2 / 256 / 60) ** 0.5 < errors.abs().max()


def test_folding_errs_as_promised_where_one_column_is_large():
    """Inputs with one large channel leave gradients whose columns are equal places of every row: none may fall together."""
    policy, width = tiny_policy(), 256
    for name, parameter in policy.model.named_parameters():
        if name.endswith("layernorm.weight"):
            parameter.data[3] = 100.0
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(4, seed=0), responses=1, seed=0, max_new_tokens=6)
    exact = va.read_scores(policy, rollouts, width=None).kept[:, 0].double()
    true, scale = exact @ exact.T, exact.norm(dim=1)
    errors = []
    for seed in range(20):
        folded = va.read_scores(policy, rollouts, width=width, seed=seed).kept[:, 0].double()
        errors.append((folded @ folded.T - true) / (scale[:, None] * scale))
    assert float(torch.stack(errors).pow(2).mean().sqrt()) < 1.3 * (2 / width) ** 0.5


def test_token_weights_of_another_shape_are_refused():
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(2, seed=0), responses=1, seed=0, max_new_tokens=4)
    with pytest.raises(pl.PoiseLabError, match="token weights of shape"):
        va.read_scores(policy, rollouts, torch.ones(2, 1))


def test_a_weight_that_no_module_uses_has_no_gradient_and_changes_nothing():
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(2, seed=0), responses=2, seed=0, max_new_tokens=4)
    within = va.read_scores(policy, rollouts).within
    policy.model.extra = torch.nn.Linear(2, 2)
    assert torch.allclose(va.read_scores(policy, rollouts).within, within, rtol=1e-4)


def test_the_weight_of_a_norm_that_multiplies_by_zero_has_a_gradient():
    """Gemma's quantised weights hold some: nothing is left of a feature, and still its weight moves."""
    policy = tiny_policy()
    policy.model.model.norm.weight.data[0] = 0
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(2, seed=0), responses=2, seed=0, max_new_tokens=4)
    vectors = one_by_one(policy, rollouts, torch.ones(rollouts.response_ids.shape))
    assert score_passes._modules_tell(policy, rollouts, list(policy.model.parameters()))
    kept = va.read_scores(policy, rollouts, width=None).kept
    assert torch.allclose(kept.abs(), vectors.abs(), rtol=1e-4, atol=1e-4 * vectors.abs().max())


def test_scores_as_adam_scales_them():
    """The scale is that of Adam's own second moments, and every score is multiplied by it before products are taken."""
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(4, seed=0), responses=2, seed=0, max_new_tokens=6)
    advantages = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    scale = va.adam_scale(policy, rollouts, advantages, batches=2)
    vectors = one_by_one(policy, rollouts, torch.ones(rollouts.response_ids.shape))
    optimizer, parameters = torch.optim.Adam(policy.model.parameters(), lr=0.0), list(policy.model.parameters())
    for half in (slice(0, 2), slice(2, 4)):
        gradient = (advantages[half, :, None] * vectors[half]).mean((0, 1))
        for parameter, part in zip(parameters, gradient.split([q.numel() for q in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()
    second = torch.cat([optimizer.state[q]["exp_avg_sq"].flatten() for q in parameters]) / (1 - 0.999**2)
    flat = torch.cat([scale[name].flatten() for name, _ in policy.model.named_parameters()])
    seen = second.sqrt() > 1e-5  # below, the gradient is rounding
    assert seen.float().mean() > 0.5 and torch.allclose(flat[seen], 1 / (second.sqrt() + 1e-8)[seen], rtol=0.01)
    scale = {name: torch.rand_like(q) for name, q in policy.model.named_parameters()}
    read = va.read_scores(policy, rollouts, scale=scale, width=None)
    scaled = vectors * torch.cat([scale[name].flatten() for name, _ in policy.model.named_parameters()])
    expected = scaled @ scaled.mT
    assert torch.allclose(read.within, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    assert torch.allclose(read.kept.abs(), scaled.abs(), rtol=1e-4, atol=1e-4 * scaled.abs().max())


def test_groups_see_only_themselves():
    policy = tiny_policy()
    rollouts = pl.sample_rollouts(policy, ToyTask().sample(6, seed=0), responses=4, seed=0, max_new_tokens=6)
    rollouts.rewards = torch.rand(6, 4)
    rloo = va.group_advantages(pl.make_baseline("rloo"), rollouts, None, 2)
    r = rollouts.rewards
    assert torch.allclose(rloo, r - r[:, [1, 0, 3, 2]], atol=1e-6)


def test_adam_proxy_is_what_adam_keeps():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    weight = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], betas=(0.9, 0.999))
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    state = optimizer.state[weight]
    m, v = state["exp_avg"] / (1 - 0.9**12), state["exp_avg_sq"] / (1 - 0.999**12)
    assert va.adam_proxy(gradients) == pytest.approx(float((v - m**2).sum()), abs=1e-12)


def test_adam_proxy_keeps_some_of_the_noise():
    """Over independent gradients of one mean: below their variance by (1 - beta_1) / (1 + beta_1)."""
    generator = torch.Generator().manual_seed(0)
    gradients = 1 + torch.randn(400, 600, generator=generator)  # 600 weights of variance 1
    assert va.adam_proxy(gradients) / 600 == pytest.approx(1 - 0.1 / 1.9, abs=0.01)


# --- a probe that is spoilt on purpose -----------------------------------------------------------


def test_crossing_by_hand():
    x = np.array([[0.8, 0.4, 0.0]] * 4)
    y = np.array([[0.3, 0.1, -0.1], [0.3, 0.1, -0.1], [0.5, 0.1, -0.1], [0.3, 0.1, -0.3]])
    (value, low, high), above, never = spoilt.crossing(x, y, np.zeros(4))
    assert value == pytest.approx(0.2) and 0.2 <= low < high <= 0.3 and above == never == 0
    (value, *_), above, never = spoilt.crossing(x, y, np.full(4, -1.0))
    assert math.isnan(value) and (above, never) == (1, 0)
    (value, *_), above, never = spoilt.crossing(x, y, np.full(4, 0.9))
    assert math.isnan(value) and (above, never) == (0, 1)
    (value, low, high), above, never = spoilt.crossing(x, y, np.array([0.0, 0.0, 0.9, -0.2]))
    assert value == pytest.approx(0.2) and (above, never) == (0, pytest.approx(1 / 3))
    assert (low, high) == pytest.approx((0.1025, 0.1975))  # draws cross at 0.2 and 0.1, the second one nowhere


def test_words_for_where_a_probe_pays():
    r = np.array([[0.8, 0.4, 0.0]] * 21)
    falls, flat = np.array([[0.3, 0.1, -0.1]] * 21), np.zeros(21)
    assert spoilt.pays(r, falls, flat) == "above r = 0.2 [0.2, 0.2]"
    assert spoilt.pays(r, falls + 1, flat) == "at every r"
    assert spoilt.pays(r, falls - 1, flat) == "at no r"
    falls[:4] += 1  # the data and 3 of 20 draws lie above everywhere
    assert spoilt.pays(r, falls, flat) == "not decided (at every r in 0.1 of the draws, at no r in 0.0)"


def some_values(prompts=400, responses=4, seed=0):
    """V(x), rewards, and predictions that differ a little between the responses of a prompt."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(prompts, generator=generator)
    rewards = (torch.rand(prompts, responses, generator=generator) < value[:, None]).float()
    return value, rewards, value[:, None] + 0.05 * torch.randn(prompts, responses, generator=generator)


def test_spoiling_moves_predictions_to_other_prompts_and_nothing_else():
    value, _, predicted = some_values()
    assert spoilt.spoil(predicted, 0.0).equal(predicted)
    half, all_of_them = spoilt.spoil(predicted, 0.5), spoilt.spoil(predicted, 1.0)
    assert 190 <= int((half != predicted).any(1).sum()) <= 200
    assert all_of_them.sort(0).values.equal(predicted.sort(0).values)  # as spread as before
    assert abs(torch.corrcoef(torch.stack([all_of_them[:, 0], value]))[0, 1]) < 0.15


def test_a_recalibrated_baseline_is_left_where_it_is_right_and_shrunk_where_it_knows_nothing():
    value, rewards, predicted = some_values(4000)
    good = spoilt.recalibrated(predicted, rewards)
    assert float((good - predicted).abs().mean()) < 0.02
    lost = spoilt.recalibrated(spoilt.spoil(predicted, 1.0), rewards)
    assert float(lost.std()) < 0.05 * float(predicted.std())
    twice = spoilt.recalibrated(0.5 + 2 * (predicted - 0.5), rewards)  # too sure by a factor of two
    assert float((twice - predicted).abs().mean()) < 0.02
    assert not spoilt.recalibrated(predicted, 1 - rewards)[:2000].equal(1 - predicted[:2000])
    assert float(spoilt.recalibrated(predicted, 1 - rewards).std()) < 0.01  # never turned round


def test_what_is_taken_out_by_hand():
    """Var(A) and the variance of the gradient, over no baseline; a draw that takes one prompt alone sees that one."""
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    scores = va.Scores.of(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    field = spoilt.Field(rewards, scores, np.array([[1.0, 1, 1], [2, 0, 0]]))
    a = rewards - spoilt.from_siblings(rewards)
    assert a.tolist() == [[1, -1], [0, 0], [0, 0]]
    assert field.spread(rewards).tolist() == pytest.approx([0.25, 0.25])
    assert field.taken_out("Var(A)", a, 2).tolist() == pytest.approx([1 - (1 / 3) / 0.25, 1 - 1 / 0.25])
    assert field.taken_out("Var(A)", rewards, 1).tolist() == [0, 0]
    whole = spoilt.Field(rewards, scores, np.ones((1, 3)))
    noise = [va.gradient_variance(scores, x, m).trace(1)[0] for x, m in ((a, 2), (rewards, 1))]
    assert whole.taken_out("gradient variance", a, 2)[0] == pytest.approx(1 - noise[0] / noise[1])
    assert whole.correlation(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 6]))[0] == pytest.approx(1)


def test_lines_of_a_spoilt_probe_start_at_the_probe_and_end_at_nothing():
    value, rewards, predicted = some_values()
    scores = va.Scores.of(torch.randn(400, 4, 3, generator=torch.Generator().manual_seed(1)))
    field = spoilt.Field(rewards, scores, stats.resamples(400, draws=20))
    r, lines = spoilt.curves(field, predicted, value, (0.0, 0.5, 1.0))
    assert r.shape == (21, 3) and r[0, 0] > 0.95 > r[0, 1] > 0.3 > abs(r[0, 2])
    as_it_is, calibrated = (lines["Var(A)", kind] for kind in spoilt.KINDS)
    b = rewards - spoilt.from_siblings(predicted)
    assert as_it_is[:, 0].tolist() == pytest.approx(field.taken_out("Var(A)", b, 2).tolist())
    assert as_it_is[0, 2] < -0.1 and abs(calibrated[0, 2]) < 0.05  # what is sure and wrong does harm
