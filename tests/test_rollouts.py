from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from scipy import stats
from support import ENDS, EOS, PAD, WINDOW, ToyProblem, plain_logits, response, tiny_policy, toy_rollouts

import poise_lab as pl
from poise_lab.errors import NotFiniteError
from poise_lab.rollouts import build_rollouts, leave_one_out_mean

LIMIT = 14


def generated(policy, prompts, limit) -> list[list[int]]:
    """Greedy responses by transformers' own loop, all prompts in one left-padded batch."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PAD)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    out = policy.model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=limit, pad_token_id=PAD
    )
    responses = []
    for row in out[:, longest:].tolist():
        end = next((t for t, token in enumerate(row) if token in policy.eos_token_ids), len(row) - 1)
        responses.append(row[: end + 1])
    return responses


def teacher_forced(policy, prompt, tokens, temperature=1.0) -> torch.Tensor:
    """Log-probability of each token, from one plain forward pass over this row alone."""
    logits = plain_logits(policy, prompt + tokens).logits[0, len(prompt) - 1 : -1].double() / temperature
    return logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].float()


def problem_of_length(n: int) -> ToyProblem:
    return ToyProblem("".join(chr(97 + (7 * i + n) % 26) for i in range(n)))


def assert_same(a: pl.Rollouts, b: pl.Rollouts):
    for name in ("lengths", "finished", "rewards", "reasoning_lengths", "reasoning_ended"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.texts == b.texts
    for i in range(len(a)):
        for j in range(a.responses):
            assert response(a, i, j) == response(b, i, j)


# --- against transformers ------------------------------------------------------------------------


def test_greedy_equals_generate(policy, toys):
    prompts = [policy.prompt_ids(p) for p in toys]
    assert len({len(p) for p in prompts}) > 3
    rollouts = pl.sample_rollouts(policy, toys, 1, temperature=0, max_new_tokens=LIMIT)
    assert [response(rollouts, i, 0) for i in range(len(toys))] == generated(policy, prompts, LIMIT)


def test_sliding_window_longer_than_the_window_equals_generate(policies):
    """Many more tokens than the window, prompts shorter and longer than it, side by side."""
    gemma = tiny_policy("gemma3", ends=[EOS])
    problems = [problem_of_length(n) for n in (2, WINDOW - 1, WINDOW, 3 * WINDOW)]
    prompts = [gemma.prompt_ids(p) for p in problems]
    rollouts = pl.sample_rollouts(gemma, problems, 1, temperature=0, max_new_tokens=4 * WINDOW)
    assert (rollouts.lengths > 2 * WINDOW).any()
    assert [response(rollouts, i, 0) for i in range(len(prompts))] == generated(gemma, prompts, 4 * WINDOW)
    # the window matters: the same weights without it answer differently
    wide = tiny_policy("gemma3", ends=[EOS], layer_types=["full_attention"] * 3)
    wide.model.load_state_dict(gemma.model.state_dict())
    assert generated(wide, prompts, 4 * WINDOW) != generated(gemma, prompts, 4 * WINDOW)


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0, 1.5])
def test_logprobs_equal_a_teacher_forced_pass(policy, toys, temperature):
    rollouts = pl.sample_rollouts(policy, toys, 3, seed=1, max_new_tokens=LIMIT, temperature=temperature)
    for i, prompt in enumerate(rollouts.prompt_ids):
        for j in range(3):
            expected = teacher_forced(policy, prompt, response(rollouts, i, j), temperature or 1.0)
            found = rollouts.logprobs[i, j, : rollouts.lengths[i, j]]
            assert torch.allclose(found, expected, atol=1e-4)
    assert (rollouts.logprobs[~rollouts.mask] == 0).all()


def test_logprobs_in_a_long_sliding_run(policies, toys):
    gemma = tiny_policy("gemma3", ends=[EOS])
    rollouts = pl.sample_rollouts(gemma, toys, 3, seed=2, max_new_tokens=3 * WINDOW)
    assert rollouts.lengths.max() == 3 * WINDOW
    for i, prompt in enumerate(rollouts.prompt_ids):
        for j in range(3):
            expected = teacher_forced(gemma, prompt, response(rollouts, i, j))
            assert torch.allclose(rollouts.logprobs[i, j, : rollouts.lengths[i, j]], expected, atol=1e-4)


# --- what a rollout depends on -------------------------------------------------------------------


def test_rollout_is_independent_of_batch_order_and_neighbours(policy, toys):
    whole = pl.sample_rollouts(policy, toys, 4, seed=5, max_new_tokens=LIMIT)
    assert len({tuple(response(whole, i, j)) for i in range(len(toys)) for j in range(4)}) > 15
    for batch_rows in (1, 4, 8, 1000):
        part = pl.sample_rollouts(policy, toys, 4, seed=5, max_new_tokens=LIMIT, batch_rows=batch_rows)
        assert_same(part, whole)
    order = [4, 0, 5, 2, 1, 3]
    assert_same(
        pl.sample_rollouts(policy, [toys[i] for i in order], 4, seed=5, max_new_tokens=LIMIT),
        whole.select(order),
    )
    assert_same(pl.sample_rollouts(policy, toys[2:3], 4, seed=5, max_new_tokens=LIMIT), whole.select([2]))
    # the first two of four responses are the two of two
    assert_same(pl.sample_rollouts(policy, toys, 2, seed=5, max_new_tokens=LIMIT), whole.select(responses=[0, 1]))
    # what comes after a token does not change what came before
    short = pl.sample_rollouts(policy, toys, 4, seed=5, max_new_tokens=3)
    for i in range(len(toys)):
        for j in range(4):
            assert response(short, i, j) == response(whole, i, j)[:3]


def test_seed_index_and_prompt_make_a_difference(qwen, toys):
    a = pl.sample_rollouts(qwen, toys, 2, seed=0, max_new_tokens=LIMIT)
    b = pl.sample_rollouts(qwen, toys, 2, seed=1, max_new_tokens=LIMIT)
    assert sum(response(a, i, 0) != response(b, i, 0) for i in range(6)) >= 4
    assert sum(response(a, i, 0) != response(a, i, 1) for i in range(6)) >= 4


def test_equal_seeds_give_equal_rollouts_whatever_their_type(qwen, toys):
    one, other = (pl.sample_rollouts(qwen, toys, 2, seed=seed, max_new_tokens=6) for seed in (3, np.int64(3)))
    assert torch.equal(one.response_ids, other.response_ids)


def test_global_random_state_is_neither_read_nor_changed(qwen, toys):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = pl.sample_rollouts(qwen, toys, 2, seed=0, max_new_tokens=LIMIT)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert_same(pl.sample_rollouts(qwen, toys, 2, seed=0, max_new_tokens=LIMIT), a)


# --- the distribution ----------------------------------------------------------------------------

PROBLEM = ToyProblem("17+4=")
DRAWS = 4000


def first_tokens(policy, **options) -> torch.Tensor:
    """How often each token comes first, in DRAWS responses of one token."""
    rollouts = pl.sample_rollouts(policy, [PROBLEM], DRAWS, seed=11, max_new_tokens=1, **options)
    return torch.bincount(rollouts.response_ids.flatten(), minlength=policy.model.config.vocab_size)


def first_probabilities(policy, temperature=1.0) -> torch.Tensor:
    logits = plain_logits(policy, policy.prompt_ids(PROBLEM)).logits[0, -1].double()
    return (logits / temperature).softmax(-1)


def chi_square_p(counts, probabilities) -> float:
    expected = probabilities.numpy() * DRAWS
    common = expected >= 5  # the usual condition; the rare ones are pooled
    observed = np.append(counts.numpy()[common], counts.numpy()[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    return stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.4])
def test_sampling_follows_the_softmax(policy, temperature):
    """Chi-square at p > 1e-4 with a fixed seed; the distribution at another temperature fails it."""
    counts = first_tokens(policy, temperature=temperature)
    assert chi_square_p(counts, first_probabilities(policy, temperature)) > 1e-4
    assert chi_square_p(counts, first_probabilities(policy, temperature * 1.3)) < 1e-4


def nucleus(probabilities, top_k=0, top_p=1.0) -> torch.Tensor:
    """The kept tokens by definition: the top_k likeliest; of these the fewest likeliest whose share reaches top_p."""
    ranked = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[: top_k or None]
    kept, mass, whole = [], 0.0, float(probabilities[ranked].sum())
    for i in ranked:
        if mass >= top_p * whole:
            break
        kept.append(i)
        mass += float(probabilities[i])
    result = torch.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result / result.sum()


@pytest.mark.parametrize(
    "options",
    [
        dict(top_k=1), dict(top_k=2), dict(top_k=6), dict(top_p=0.1), dict(top_p=0.5), dict(top_p=0.8),
        dict(top_k=5, top_p=0.999), dict(top_k=5, top_p=0.8), dict(top_k=500),
    ],
    ids=str,
)  # fmt: skip
def test_top_k_and_top_p_keep_exactly_the_right_tokens(policy, options):
    expected = nucleus(first_probabilities(policy), **options)
    counts = first_tokens(policy, **options)
    assert (counts[expected == 0] == 0).all()
    surely = expected * DRAWS > 12  # missed with probability e^-12 each
    assert (counts[surely] > 0).all()
    if (expected > 0).sum() > 1:
        assert chi_square_p(counts, expected) > 1e-4
    else:
        assert counts.max() == DRAWS


def test_top_p_boundary_by_hand():
    """Masses 0.5, 0.25, 0.125, ...: top_p = 0.5 is reached by the first token, 0.51 needs the second."""
    from poise_lab.generate import _draw

    logits = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log()
    u = torch.linspace(0, 1 - 2**-24, 1001)
    rows = torch.zeros(1001, dtype=torch.long)

    def support(**options):
        tokens, *_ = _draw(logits, rows, u, 1.0, **{"top_p": 1.0, "top_k": 0, **options})
        return set(tokens.tolist())

    assert support() == {0, 1, 2, 3, 4}
    assert support(top_p=0.49) == {0}
    assert support(top_p=0.51) == {0, 1}
    assert support(top_p=0.76) == {0, 1, 2}
    assert support(top_k=3) == {0, 1, 2}
    assert support(top_k=3, top_p=0.56) == {0}  # of the three, token 0 has 0.571
    assert support(top_k=3, top_p=0.58) == {0, 1}


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.7), (5, 1.0), (5, 0.7), (40, 0.9)])
def test_top_k_and_top_p_leave_what_transformers_leaves(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    from poise_lab.generate import _draw

    logits = 2 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    left = TopKLogitsWarper(top_k)(None, logits) if top_k else logits
    left = TopPLogitsWarper(top_p)(None, left) if top_p < 1 else left
    for row, expected in zip(logits, left.softmax(-1), strict=True):
        u = torch.linspace(0, 1 - 2**-24, 20_001)
        tokens, *_ = _draw(row[None], torch.zeros(len(u), dtype=torch.long), u, 1.0, top_p, top_k)
        assert torch.allclose(torch.bincount(tokens, minlength=50) / len(u), expected, atol=2e-4)


def test_draw_inverts_the_cumulative_distribution():
    from poise_lab.generate import _draw

    logits = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).log()
    u = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 1 - 2**-24])
    tokens, logprobs, _ = _draw(logits, torch.zeros(6, dtype=torch.long), u, 1.0, 1.0, 0)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]  # never the token of probability 0
    assert torch.allclose(logprobs.exp(), torch.tensor([0.25, 0.25, 0.5, 0.5, 0.25, 0.25]))


# --- ends and spans ------------------------------------------------------------------------------


def test_stops_at_end_of_sequence_or_at_the_limit(policy, toys):
    rollouts = pl.sample_rollouts(policy, toys, 6, seed=0, max_new_tokens=LIMIT)
    assert rollouts.finished.any() and not rollouts.finished.all()
    for i in range(len(toys)):
        for j in range(6):
            tokens = response(rollouts, i, j)
            ends = [t for t, token in enumerate(tokens) if token in ENDS]
            if rollouts.finished[i, j]:
                assert ends == [len(tokens) - 1]
            else:
                assert ends == [] and len(tokens) == LIMIT
    assert (rollouts.response_ids[~rollouts.mask] == PAD).all()
    assert rollouts.tokens == rollouts.mask.sum() == rollouts.lengths.sum()
    assert rollouts.response_ids.shape[2] == rollouts.lengths.max()


def test_a_cut_response_is_not_finished(qwen, toys):
    rollouts = pl.sample_rollouts(qwen, toys, 2, max_new_tokens=1)
    assert (rollouts.lengths == 1).all()
    assert torch.equal(rollouts.finished, torch.isin(rollouts.response_ids[..., 0], torch.tensor(ENDS)))


def built(policy, *texts: str, eos=True) -> pl.Rollouts:
    """Rollouts with given responses to one prompt."""
    ids = [policy.tokenizer.encode(t, add_special_tokens=False) + [EOS] * eos for t in texts]
    lengths = torch.tensor([[len(row) for row in ids]])
    tokens = torch.full((1, len(ids), int(lengths.max())), 50)
    for j, row in enumerate(ids):
        tokens[0, j, : len(row)] = torch.tensor(row)
    logprobs = torch.full(tokens.shape, -1.0)
    return build_rollouts(policy, [PROBLEM], [policy.prompt_ids(PROBLEM)], tokens, lengths, logprobs)


def test_reasoning_ends_with_its_last_tag(qwen):
    rollouts = built(qwen, "<think>ab</think>cd", "a</think>b</think>c", "abcd", "</think>ab", "ab</think>")
    #                       1     2 3 4       ...  1 2       3 4               1234    1      23  12 3
    assert rollouts.reasoning_lengths.tolist() == [[4, 4, 5, 1, 3]]  # no tag: all of it, with its end token
    assert rollouts.reasoning_ended.tolist() == [[True, True, False, True, True]]
    assert rollouts.lengths.tolist() == [[7, 6, 5, 4, 4]]
    assert rollouts.finished.all()
    assert rollouts.texts == [["<think>ab</think>cd", "a</think>b</think>c", "abcd", "</think>ab", "ab</think>"]]
    assert (rollouts.response_ids[~rollouts.mask] == PAD).all()
    assert (rollouts.logprobs[~rollouts.mask] == 0).all() and (rollouts.logprobs[rollouts.mask] == -1).all()
    assert not built(qwen, "ab</think>c", eos=False).finished.any()


def test_a_tag_of_several_tokens(qwen):
    policy = pl.Policy(qwen.model, qwen.tokenizer, "p", "compact", tags=("", "##"))
    assert len(policy.end_of_reasoning) == 2
    rollouts = built(policy, "a##b##c", "a#b#c", "##", "a###")
    assert rollouts.reasoning_lengths.tolist() == [[6, 6, 2, 4]]
    assert rollouts.reasoning_ended.tolist() == [[True, False, True, True]]


def test_rewards_come_from_the_text(bundled, sums):
    rollouts = pl.sample_rollouts(bundled, sums, 4, seed=0)
    expected = [[p.reward(t) for t in texts] for p, texts in zip(sums, rollouts.texts, strict=True)]
    assert rollouts.rewards.tolist() == expected
    assert 0 < rollouts.rewards.mean() < 1


# --- partners and selection ----------------------------------------------------------------------


def test_partner_rewards_by_hand():
    two = toy_rollouts([[1.0, 0.0], [0.25, 0.75], [1.0, 1.0]])
    assert two.partner_rewards().tolist() == [[0.0, 1.0], [0.75, 0.25], [1.0, 1.0]]
    three = toy_rollouts([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert three.partner_rewards().tolist() == [[0.0, 0.5, 0.5], [0.5, 0.5, 1.0], [0.0, 0.0, 0.0]]
    with pytest.raises(pl.PoiseLabError, match="at least 2 responses"):
        toy_rollouts([[1.0], [0.0]]).partner_rewards()


@pytest.mark.parametrize("m", [2, 3, 8])
def test_leave_one_out_mean_holds_nothing_of_its_own_entry(m):
    """Not even a rounding error: changing entry j leaves result j as it was, bit for bit."""
    x = torch.rand(200, m, generator=torch.Generator().manual_seed(0))
    before = leave_one_out_mean(x)
    expected = torch.stack([torch.cat([x[:, :j], x[:, j + 1 :]], 1).double().mean(1) for j in range(m)], 1)
    assert torch.allclose(before.double(), expected, atol=1e-6)
    for j in range(m):
        changed = x.clone()
        changed[:, j] = torch.rand(200, generator=torch.Generator().manual_seed(1))
        after = leave_one_out_mean(changed)
        assert torch.equal(after[:, j], before[:, j])
        assert (after != before).any()


def test_select(qwen, toys):
    rollouts = pl.sample_rollouts(qwen, toys, 3, seed=0, max_new_tokens=6)
    part = rollouts.select([4, 1], [2, 0])
    assert len(part) == 2 and part.responses == 2
    assert [p.compact for p in part.problems] == [toys[4].compact, toys[1].compact]
    assert part.prompt_ids == [rollouts.prompt_ids[4], rollouts.prompt_ids[1]]
    assert part.texts == [[rollouts.texts[i][j] for j in (2, 0)] for i in (4, 1)]
    for name in ("response_ids", "lengths", "logprobs", "rewards", "finished", "reasoning_lengths"):
        whole = getattr(rollouts, name)
        assert torch.equal(getattr(part, name)[1, 0], whole[1, 2])
        assert torch.equal(getattr(part, name)[0, 1], whole[4, 0])
    assert_same(rollouts.select(), rollouts)
    assert rollouts.select(responses=slice(1, None)).responses == 2


# --- bad input -----------------------------------------------------------------------------------


def test_prompt_longer_than_the_context(qwen):
    fits = problem_of_length(100)
    assert len(pl.sample_rollouts(qwen, [fits], 1, max_new_tokens=28)) == 1
    with pytest.raises(pl.PoiseLabError, match="prompt of 100 tokens .*=29 .* context of 128 tokens"):
        pl.sample_rollouts(qwen, [fits], 1, max_new_tokens=29)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(responses=0), "at least 1 response"),
        (dict(max_new_tokens=0), "max_new_tokens >= 1"),
        (dict(temperature=-1), "temperature >= 0"),
        (dict(top_p=0), "0 < top_p <= 1"),
        (dict(top_p=1.5), "0 < top_p <= 1"),
        (dict(top_k=-1), "top_k >= 0"),
    ],
)
def test_bad_settings(qwen, toys, options, message):
    with pytest.raises(pl.PoiseLabError, match=message):
        pl.sample_rollouts(qwen, toys, **options)


def test_zero_problems_and_empty_prompt(qwen):
    with pytest.raises(pl.PoiseLabError, match="zero problems"):
        pl.sample_rollouts(qwen, [])
    with pytest.raises(pl.PoiseLabError, match="no tokens"):
        pl.sample_rollouts(qwen, [ToyProblem("")])


def test_broken_weights_are_named(toys):
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(float("nan"))
    with pytest.raises(NotFiniteError, match="not finite"):
        pl.sample_rollouts(policy, toys)


def test_the_worked_examples_of_a_step():
    from poise_lab import generate

    result = doctest.testmod(generate)
    assert result.attempted >= 5 and result.failed == 0
