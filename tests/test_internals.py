from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from support import EOS, PAD, ToyProblem, assert_close, plain_logits, response, tiny_policy

import poise_lab as pl
from poise_lab import internals as module
from poise_lab.generate import _draw
from poise_lab.internals import batches_by_length, batches_to_score, forward_rows, packs, score_tokens
from poise_lab.rollouts import build_rollouts, join

LAYER, POOL = 1, 4


@pytest.fixture(scope="module")
def rollouts_of(policies):
    """Responses that end at many lengths, some with a reasoning span: 6 prompts, 3 responses, by family."""
    result = {}
    for family, policy in policies.items():
        problems = [ToyProblem("ab"), ToyProblem("1+2="), ToyProblem("sort<x,y,z"), ToyProblem("q")]
        sampled = pl.sample_rollouts(policy, problems, 3, seed=4, max_new_tokens=12)
        tokens = sampled.response_ids.clone()
        tag = policy.end_of_reasoning[0]
        for i, j, at in ((0, 0, 0), (1, 1, 1), (1, 1, 3), (2, 2, 2), (3, 0, int(sampled.lengths[3, 0]) - 1)):
            tokens[i, j, min(at, int(sampled.lengths[i, j]) - 1)] = tag
        result[family] = build_rollouts(policy, problems, sampled.prompt_ids, tokens, sampled.lengths, sampled.logprobs)
    return result


@pytest.fixture
def rollouts(request, policy, rollouts_of):
    return rollouts_of[policy.name.removeprefix("random-")]


def expected_row(policy, prompt, tokens, reasoning_length, layer, pool):
    """prompt state, reasoning state, entropies, log-probs and token entropies of one row, step by step."""
    out = plain_logits(policy, prompt + tokens, output_hidden_states=True)
    states = out.hidden_states[layer + 1][0]
    logits = out.logits[0, len(prompt) - 1 : -1].double()
    probabilities = logits.softmax(-1)
    entropy = torch.tensor([-sum(p * p.log() for p in row if p > 0) for row in probabilities])
    logprobs = probabilities[torch.arange(len(tokens)), torch.tensor(tokens)].log()
    end = len(prompt) + reasoning_length
    first = max(len(prompt), end - pool)  # never reaches back into the prompt
    spans = [entropy, entropy[:reasoning_length], entropy[reasoning_length:]]
    means = torch.tensor([span.mean() if len(span) else 0.0 for span in spans])
    return (
        states[max(0, len(prompt) - pool) : len(prompt)].mean(0),
        states[first:end].mean(0),
        means,
        logprobs,
        entropy,
    )


@pytest.mark.parametrize("pool", [1, 3, 4, 50])
@pytest.mark.parametrize("layer", [0, 1])
def test_equals_a_plain_computation_row_by_row(policy, rollouts, layer, pool):
    found = pl.read_internals(policy, rollouts, layer=layer, pool=pool)
    assert (found.layer, found.pool) == (layer, pool)
    for i, prompt in enumerate(rollouts.prompt_ids):
        for j in range(3):
            tokens, n = response(rollouts, i, j), int(rollouts.lengths[i, j])
            expected = expected_row(policy, prompt, tokens, int(rollouts.reasoning_lengths[i, j]), layer, pool)
            row = (found.prompt[i, j], found.reasoning[i, j], found.entropy[i, j],
                   found.logprobs[i, j, :n], found.token_entropy[i, j, :n])  # fmt: skip
            for a, b in zip(row, expected, strict=True):
                assert torch.allclose(a.double(), b.double(), atol=2e-4, rtol=1e-4)
    assert (found.logprobs[~rollouts.mask] == 0).all()
    assert (found.token_entropy[~rollouts.mask] == 0).all()


def test_the_cases_above_are_the_hard_ones(rollouts_of, policies):
    """The rows hold an empty answer, a tag first, no tag, two tags, and responses shorter than the pool."""
    rollouts = rollouts_of["qwen3"]
    ends = rollouts.reasoning_lengths
    assert (ends[rollouts.reasoning_ended] == 1).any()
    assert (~rollouts.reasoning_ended).any()
    assert ((ends == rollouts.lengths) & rollouts.reasoning_ended).any()
    assert (rollouts.lengths < 3).any() and (rollouts.lengths == 12).any()
    tag = policies["qwen3"].end_of_reasoning[0]
    assert ((rollouts.response_ids == tag).sum(-1) == 2).any()


def test_last_layer_is_read_before_the_final_norm(policy, rollouts):
    """transformers gives the last hidden state after the norm: norm(ours) equals it."""
    found = pl.read_internals(policy, rollouts, layer=2, pool=1)
    trunk = policy.model.base_model
    norm = trunk.norm if hasattr(trunk, "norm") else trunk.ln_f
    for i, prompt in enumerate(rollouts.prompt_ids):
        last = plain_logits(policy, prompt, output_hidden_states=True).hidden_states[-1][0, -1]
        assert torch.allclose(norm(found.prompt[i, 0]), last, atol=1e-4)


def test_sampling_and_reading_agree(policy, toys):
    """The log-probabilities of the sampling loop (with its cache) are those of the teacher-forced pass."""
    for temperature in (1.0, 0.6):
        rollouts = pl.sample_rollouts(policy, toys, 3, seed=7, max_new_tokens=12, temperature=temperature)
        found = pl.read_internals(policy, rollouts, LAYER, POOL)
        assert torch.allclose(found.logprobs, rollouts.logprobs, atol=1e-4)


def test_entropy_is_that_of_the_sampling_temperature(qwen, toys):
    rollouts = pl.sample_rollouts(qwen, toys, 2, seed=7, max_new_tokens=6, temperature=0.6)
    found = pl.read_internals(qwen, rollouts, LAYER, POOL)
    for i, prompt in enumerate(rollouts.prompt_ids):
        logits = plain_logits(qwen, prompt + response(rollouts, i, 0)).logits[0, len(prompt) - 1].double() / 0.6
        p = logits.softmax(-1)
        assert found.token_entropy[i, 0, 0].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)


@pytest.mark.parametrize("mask, temperature", [(-torch.inf, 1.0), (torch.finfo(torch.float32).min, 0.5)])
def test_a_masked_token_has_no_entropy(mask, temperature):
    """Where a model masks tokens: by -inf, or by the lowest number, which a temperature below 1 makes -inf."""
    logits = torch.tensor([[0.0, mask, 0.0], [mask, 3.0, mask]])
    _, _, drawn = _draw(logits, torch.arange(2), torch.zeros(2), temperature, 1.0, 0)
    stub, tokens = SimpleNamespace(head=lambda hidden: hidden), torch.tensor([0, 1])
    logprobs, read = score_tokens(stub, logits, tokens, temperature, True)
    for entropy in (drawn, read):
        assert entropy.tolist() == pytest.approx([math.log(2), 0.0])
    assert logprobs.tolist() == pytest.approx([-math.log(2), 0.0])


def test_spans_by_hand(qwen):
    """Tag first, no tag, empty answer: which tokens each of the three entropies averages."""
    tag = qwen.end_of_reasoning[0]
    rows = [[tag, 10, 11], [10, 11, 12], [10, 11, tag]]
    lengths = torch.tensor([[3, 3, 3]])
    problem = ToyProblem("ab")
    rollouts = build_rollouts(
        qwen, [problem], [qwen.prompt_ids(problem)], torch.tensor([rows]), lengths, torch.zeros(1, 3, 3)
    )
    found = pl.read_internals(qwen, rollouts, LAYER, pool=10)
    h = found.token_entropy[0]
    assert (h > 0).all()
    expected = torch.stack([
        torch.stack([h[0].mean(), h[0, 0], h[0, 1:].mean()]),
        torch.stack([h[1].mean(), h[1].mean(), torch.tensor(0.0)]),
        torch.stack([h[2].mean(), h[2].mean(), torch.tensor(0.0)]),
    ])  # fmt: skip
    assert torch.allclose(found.entropy[0], expected, atol=1e-6)
    assert found.entropy[0, 1, 2] == 0.0 and found.entropy[0, 2, 2] == 0.0


def test_empty_response_has_zero_state_and_entropies(qwen):
    problem = ToyProblem("ab")
    tokens = torch.tensor([[[10, 11], [PAD, PAD]]])
    rollouts = build_rollouts(
        qwen, [problem], [qwen.prompt_ids(problem)], tokens, torch.tensor([[2, 0]]), torch.zeros(1, 2, 2)
    )
    found = pl.read_internals(qwen, rollouts, LAYER, POOL)
    assert (found.reasoning[0, 1] == 0).all() and (found.entropy[0, 1] == 0).all()
    assert (found.reasoning[0, 0] != 0).any()
    assert torch.allclose(found.prompt[0, 0], found.prompt[0, 1], atol=1e-5)
    assert torch.isfinite(found.features()).all()


def test_several_layers_equal_one_at_a_time(policy, rollouts):
    several = pl.read_internals(policy, rollouts, layer=[2, 0, 1], pool=POOL)
    assert list(several) == [2, 0, 1]
    for layer, found in several.items():
        alone = pl.read_internals(policy, rollouts, layer=layer, pool=POOL)
        assert found.layer == layer
        assert torch.equal(found.features(), alone.features())
        assert torch.equal(found.logprobs, alone.logprobs)
    assert not torch.equal(several[0].prompt, several[1].prompt)


def test_chunks_and_batches_change_nothing(policy, rollouts, monkeypatch):
    whole = pl.read_internals(policy, rollouts, LAYER, POOL)
    for tokens, logits in ((2048, 1), (2048, 5 * 101), (1, 8 * 2**20), (40, 3 * 101)):
        monkeypatch.setattr(module, "BATCH_TOKENS", tokens)
        monkeypatch.setattr(module, "CHUNK_LOGITS", logits)
        part = pl.read_internals(policy, rollouts, LAYER, POOL)
        assert torch.allclose(part.features(), whole.features(), atol=1e-4)
        assert torch.allclose(part.logprobs, whole.logprobs, atol=1e-4)
        assert torch.allclose(part.token_entropy, whole.token_entropy, atol=1e-4)


def test_head_never_sees_more_than_a_chunk(qwen, rollouts_of, monkeypatch):
    seen = []
    head = qwen.head
    monkeypatch.setattr(module, "CHUNK_LOGITS", 7 * 101)
    monkeypatch.setattr(qwen, "head", lambda hidden: seen.append(len(hidden)) or head(hidden))
    rollouts = rollouts_of["qwen3"]
    pl.read_internals(qwen, rollouts, LAYER, POOL)
    assert max(seen) == 7 and sum(seen) == rollouts.tokens  # and no logits for prompt tokens


def test_batches_hold_every_row_once_and_keep_to_the_limit(qwen, toys, monkeypatch):
    rollouts = pl.sample_rollouts(qwen, toys, 4, seed=0, max_new_tokens=12)
    monkeypatch.setattr(module, "BATCH_TOKENS", 60)
    lengths = module.row_lengths(rollouts)
    expected = [len(rollouts.prompt_ids[i]) + int(rollouts.lengths[i, j]) for i in range(6) for j in range(4)]
    assert lengths.tolist() == expected
    batches = list(batches_by_length(qwen, rollouts, torch.arange(24)))
    assert sorted(torch.cat(batches).tolist()) == list(range(24))
    assert all(len(b) == 1 or int(lengths[b].max()) * len(b) <= 60 for b in batches)
    assert len(batches) > 3
    some = torch.tensor([3, 17, 5])
    assert sorted(torch.cat(list(batches_by_length(qwen, rollouts, some))).tolist()) == [3, 5, 17]


@pytest.mark.parametrize("chunk", [8 * 2**20, 3 * 101], ids=["one chunk", "checkpointed chunks"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_gradients_equal_plain_autograd(family, chunk, monkeypatch, toys):
    policy = tiny_policy(family)
    rollouts = pl.sample_rollouts(policy, toys[:3], 2, seed=0, max_new_tokens=8)
    weights = torch.randn(6, rollouts.response_ids.shape[2], generator=torch.Generator().manual_seed(0))

    def gradients(loss):
        policy.model.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}

    loss = 0.0
    for row in range(6):
        prompt, tokens = rollouts.prompt_ids[row // 2], response(rollouts, row // 2, row % 2)
        logits = policy.model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits
        logprobs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]
        loss = loss + (weights[row, : len(tokens)] * logprobs).sum()
    expected = gradients(loss)
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk)
    logprobs, entropy = forward_rows(policy, rollouts, torch.arange(6))
    assert entropy is None
    found = gradients((weights * logprobs).sum())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-3 * float(gradient.abs().max() + 1e-6)), name


def test_reading_leaves_no_hooks_and_no_gradients(rollouts_of):
    policy = tiny_policy()
    found = pl.read_internals(policy, rollouts_of["qwen3"], LAYER, POOL)
    assert not any(layer._forward_hooks for layer in policy.layers)
    assert not found.features().requires_grad
    assert all(p.grad is None for p in policy.model.parameters())


def test_features_and_select(qwen, rollouts_of):
    found = pl.read_internals(qwen, rollouts_of["qwen3"], LAYER, POOL)
    d = qwen.model.config.hidden_size
    assert found.features().shape == (4, 3, 2 * d + 3)
    assert torch.equal(found.features()[..., :d], found.prompt)
    assert torch.equal(found.features()[..., d : 2 * d], found.reasoning)
    assert torch.equal(found.features()[..., 2 * d :], found.entropy)
    part = found.select([2, 0])
    assert torch.equal(part.features(), found.features()[[2, 0]])
    assert torch.equal(part.logprobs, found.logprobs[[2, 0]])
    assert (part.layer, part.pool) == (LAYER, POOL)


@pytest.mark.parametrize("layer", [3, -1, [0, 3]])
def test_bad_layer(qwen, rollouts_of, layer):
    with pytest.raises(pl.PoiseLabError, match="has layers 0 to 2"):
        pl.read_internals(qwen, rollouts_of["qwen3"], layer=layer)


@pytest.mark.parametrize("pool", [0, -3])
def test_bad_pool(qwen, rollouts_of, pool):
    with pytest.raises(pl.PoiseLabError, match="at least 1 token"):
        pl.read_internals(qwen, rollouts_of["qwen3"], pool=pool)


def test_end_token_counts_as_response(qwen):
    """The end token is a sampled token: it has a log-probability, and the answer's entropy includes it."""
    problem = ToyProblem("ab")
    tokens = torch.tensor([[[qwen.end_of_reasoning[0], 10, EOS]]])
    rollouts = build_rollouts(
        qwen, [problem], [qwen.prompt_ids(problem)], tokens, torch.tensor([[3]]), torch.zeros(1, 1, 3)
    )
    found = pl.read_internals(qwen, rollouts, LAYER, POOL)
    assert found.logprobs[0, 0, 2] < 0
    assert found.entropy[0, 0, 2].item() == pytest.approx(found.token_entropy[0, 0, 1:].mean().item(), rel=1e-5)


# --- kept while sampling ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0])
@pytest.mark.parametrize("pool", [1, 3, 50])  # 50 is longer than every prompt and response
@pytest.mark.parametrize("layer", [0, 2])
def test_kept_while_sampling_equals_the_pass(policy, toys, layer, pool, temperature):
    """Branches, ended rows, answers cut off at the limit, several batches, and prompts of many lengths."""
    rollouts = pl.sample_rollouts(
        policy, toys, 3, seed=7, max_new_tokens=12, temperature=temperature, batch_rows=9, keep=(layer, pool)
    )
    assert_close(rollouts.internals, pl.read_internals(policy, rollouts, layer, pool))
    assert not rollouts.internals.features().requires_grad
    rollouts.internals.features().requires_grad_().sum().backward()  # no tensors of inference mode


def test_kept_states_end_where_the_reasoning_ends():
    """With an end tag in some responses, at several places and also at the very end."""
    policy = tiny_policy()
    tag = policy.end_of_reasoning[0]
    policy.model.lm_head.bias = torch.nn.Parameter(4.0 * (torch.arange(policy.model.config.vocab_size) == tag))
    problems = [ToyProblem("ab"), ToyProblem("1+2=")]
    rollouts = pl.sample_rollouts(policy, problems, 8, seed=1, max_new_tokens=6, keep=(LAYER, 2))
    ends = rollouts.reasoning_lengths[rollouts.reasoning_ended]
    assert len(set(ends.tolist())) > 2 and (ends == rollouts.lengths[rollouts.reasoning_ended]).any()
    assert not rollouts.reasoning_ended.all()
    assert_close(rollouts.internals, pl.read_internals(policy, rollouts, LAYER, 2))


def test_what_is_kept_goes_with_its_rollouts(qwen, toys):
    """Selected and joined: narrower parts are padded."""
    parts = [
        pl.sample_rollouts(qwen, some, 4, seed=1, max_new_tokens=limit, keep=(LAYER, POOL))
        for some, limit in ((toys[:2], 3), (toys[2:5], 12))
    ]
    joined = join(parts)
    assert_close(joined.internals, pl.read_internals(qwen, joined, LAYER, POOL))
    some = joined.select([3, 1], slice(1, 3))
    assert_close(some.internals, pl.read_internals(qwen, some, LAYER, POOL))
    assert join([parts[0], dataclasses.replace(parts[1], internals=None)]).internals is None


def test_nothing_is_kept_where_the_pass_gives_other_numbers(toys):
    policy = tiny_policy()
    policy.model.to(torch.bfloat16)
    assert pl.sample_rollouts(policy, toys, 2, max_new_tokens=4, keep=(LAYER, POOL)).internals is None
    assert pl.sample_rollouts(tiny_policy(), toys, 2, max_new_tokens=4).internals is None


@pytest.mark.parametrize("keep, words", [((3, 1), "has layers 0 to 2"), ((0, 0), "at least 1 token")])
def test_a_layer_that_is_not_there_cannot_be_kept(qwen, toys, keep, words):
    with pytest.raises(pl.PoiseLabError, match=words):
        pl.sample_rollouts(qwen, toys, 2, keep=keep)


# --- all rows in one -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_packed_rows_score_as_padded_ones(family, policies, rollouts_of, monkeypatch):
    """Rows in any order, of prompts with one and with several of their responses, one of them empty; and gradients."""
    policy, rollouts = policies[family], rollouts_of[family]
    rollouts = dataclasses.replace(rollouts, lengths=rollouts.lengths.clone())
    rollouts.lengths[2, 1] = 0
    rows = torch.tensor([7, 3, 5, 8, 4, 0])
    assert packs(policy, rollouts, rows)
    found = []
    for packed in (True, False):
        monkeypatch.setattr(module, "packs", lambda *args, packed=packed: packed)
        logprobs, _ = forward_rows(policy, rollouts, rows)
        weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad((weights * logprobs).sum(), list(policy.model.parameters()))
        found.append((logprobs, torch.cat([g.flatten() for g in gradients])))
    (one, its), (other, others) = found
    assert torch.allclose(one, other, atol=1e-5) and (one[0] == 0).all() and (one[1:] != 0).any(1).all()
    assert torch.allclose(its, others, atol=1e-4 * float(others.abs().max()))
    assert policy.model.config._attn_implementation == "sdpa"


def test_packed_batches_hold_every_row_once_and_keep_to_the_limit(qwen, toys, monkeypatch):
    rollouts = pl.sample_rollouts(qwen, toys, 4, seed=0, max_new_tokens=12)
    monkeypatch.setattr(module, "PACKED_TOKENS", 40)
    batches = [batch.tolist() for batch in batches_to_score(qwen, rollouts, torch.arange(24))]
    assert sum(batches, []) == list(range(24)) and len(batches) > 3
    for batch in batches:
        prompts = sum(len(rollouts.prompt_ids[i]) for i in {row // 4 for row in batch})
        assert len(batch) == 1 or prompts + int(rollouts.lengths.flatten()[batch].sum()) <= 40


def test_rows_with_windows_or_a_long_beginning_in_common_are_not_packed(policies, qwen, toys, monkeypatch):
    rollouts = pl.sample_rollouts(qwen, toys, 2, seed=0, max_new_tokens=8)
    rows = torch.arange(12)
    assert packs(qwen, rollouts, rows) and not packs(policies["gemma3"], rollouts, rows)
    beginning = dataclasses.replace(rollouts, prompt_ids=[[5] * 40 + prompt for prompt in rollouts.prompt_ids])
    assert not packs(qwen, beginning, rows)
    monkeypatch.setattr(module, "window_of", lambda config: 10)
    assert not packs(qwen, rollouts, rows)
