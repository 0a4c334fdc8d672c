"""Examples in front of a problem, the stop at a newline, and beginnings that are run once."""

from __future__ import annotations

import pytest
import torch
from support import EOS, FAMILIES, plain_logits, response, tiny_policy

import poise_lab as pl
from poise_lab import internals, policies
from poise_lab.generate import _turns
from poise_lab.models.pretrain import character_tokenizer
from poise_lab.rollouts import build_rollouts

SUMS = dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1)


def few_shot(family="qwen3", shots=2, wording="compact", **changes) -> pl.Policy:
    policy = tiny_policy(family, ends=[EOS], max_position_embeddings=512, n_positions=512, **changes)
    return pl.Policy(policy.model, policy.tokenizer, policy.name, wording, shots)


# --- the prompt ----------------------------------------------------------------------------------


def test_text_by_hand():
    problem = pl.load_task("chain_sum", **SUMS).sample(1, seed=0)[0]
    first, second = problem.examples(2)
    for wording, text in (("compact", lambda p: p.compact), ("question", lambda p: p.question)):
        assert few_shot(wording=wording).few_shot_text(problem) == (
            f"{text(first)}\nAnswer: {first.answer}\n\n{text(second)}\nAnswer: {second.answer}\n\n{text(problem)}\nAnswer:"
        )


def test_a_line_is_continued_by_its_answer():
    """The wording "line": sums as they are written, one below the other; other tasks keep their question."""
    problem = pl.load_task("chain_sum", **SUMS).sample(1, seed=0)[0]
    (first,) = problem.examples(1)
    written = problem.entry["metadata"]["expression"] + " ="
    assert problem.line == written and eval(written[:-1]) == int(problem.answer)
    policy = few_shot(shots=1, wording="line")
    assert policy.few_shot_text(problem) == f"{first.line} {first.answer}\n{written}"
    other = pl.load_task("gcd").sample(1, seed=0)[0]
    assert other.line == f"{other.question}\nAnswer:"
    plain = few_shot(shots=0, wording="line")
    plain.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert plain.tokenizer.decode(plain.prompt_ids(problem)) == written


def test_wording_of_a_loaded_policy(tmp_path):
    few_shot(wording="line", shots=3).save(tmp_path)
    assert (pl.load_policy(tmp_path).wording, pl.load_policy(tmp_path).shots) == ("line", 3)
    assert pl.load_policy(tmp_path, wording="compact").wording == "compact"
    with pytest.raises(pl.PoiseLabError, match="unknown wording 'latin'; known: compact, line, question"):
        pl.load_policy(tmp_path, wording="latin")


def test_the_chat_template_is_for_prompts_without_examples(sums):
    policy = few_shot(wording="question")
    policy.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert policy.tokenizer.decode(policy.prompt_ids(sums[0])) == policy.few_shot_text(sums[0])


def test_no_problem_is_its_own_example():
    """A task of so few problems that every example is also asked; none is shown its own answer."""
    problems = pl.load_task("chain_sum", **SUMS).sample(120, seed=0)
    examples = problems[0].source.examples(5)
    asked_too = [p for p in problems if p.question in {e.question for e in examples}]
    assert asked_too, "otherwise this test shows nothing"
    for problem in problems:
        shown = problem.examples(4)
        assert len(shown) == 4 and problem.question not in {e.question for e in shown}
        assert shown == [e for e in examples if e.question != problem.question][:4]


def test_examples_come_from_the_task_with_its_settings_and_from_no_seed_of_its_own():
    task = pl.load_task("chain_sum", min_terms=3, max_terms=3, min_digits=3, max_digits=3)
    examples = task.sample(1, seed=0)[0].examples(8)
    assert all(e.difficulty["num_terms"] == 3 for e in examples) and len({e.question for e in examples}) == 8
    for seed in range(5):
        assert not {e.question for e in examples} & {p.question for p in task.sample(100, seed=seed)}


def test_answers_of_several_lines_are_refused():
    with pytest.raises(pl.PoiseLabError, match="'rotate_matrix' has answers of several lines.*shots=0"):
        pl.load_task("rotate_matrix").sample(1, seed=0)[0].examples(2)


# --- the stop ------------------------------------------------------------------------------------


def test_every_token_with_a_newline_ends_a_response():
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["\n\n", "a\nb", "nn"])
    policy = tiny_policy("llama", ends=[EOS])
    policy.model.resize_token_embeddings(len(tokenizer))
    ends = pl.Policy(policy.model, tokenizer, "with newlines", "compact", shots=2).eos_token_ids
    assert set(ends) == {EOS, *tokenizer.convert_tokens_to_ids(["\n", "\n\n", "a\nb"])} and len(ends) == len(set(ends))
    assert pl.Policy(policy.model, tokenizer, "without", "compact").eos_token_ids == [EOS]


def test_what_follows_a_newline_does_not_count():
    policy = few_shot()
    problem = pl.load_task("chain_sum", **SUMS).sample(1, seed=0)[0]
    encode = policy.tokenizer.encode
    responses = [f" {problem.answer}\n", f"{problem.answer}", f"\n{problem.answer}", f"0{problem.answer}9\n"]
    ids = [encode(text, add_special_tokens=False) for text in responses]
    width = max(map(len, ids))
    tokens = torch.tensor([[row + [0] * (width - len(row)) for row in ids]])
    lengths = torch.tensor([[len(row) for row in ids]])
    prompt = [policy.prompt_ids(problem)]
    rollouts = build_rollouts(policy, [problem], prompt, tokens, lengths, torch.zeros(1, 4, width))
    assert rollouts.rewards.tolist() == [[1, 1, 0, 0]]
    assert rollouts.texts[0] == [f" {problem.answer}", problem.answer, "", f"0{problem.answer}9"]
    assert rollouts.finished.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_responses_stop_at_the_first_newline(family):
    policy = few_shot(family)
    rollouts = pl.sample_rollouts(policy, pl.load_task("chain_sum", **SUMS).sample(12, seed=0), 8, max_new_tokens=48)
    newline = policy.tokenizer.encode("\n", add_special_tokens=False)[0]
    rows = [response(rollouts, i, j) for i in range(12) for j in range(8)]
    stopped = [row for row in rows if newline in row]
    assert stopped and all(row.index(newline) == len(row) - 1 for row in stopped)
    assert len({len(row) for row in rows}) > 1


def test_bad_numbers_of_examples():
    with pytest.raises(pl.PoiseLabError, match="shots=-1"):
        few_shot(shots=-1)


def test_no_token_with_a_newline():
    policy = tiny_policy()
    policy.tokenizer.batch_decode = lambda rows: ["x"] * len(rows)
    with pytest.raises(pl.PoiseLabError, match="no token with a newline.*shots=0"):
        pl.Policy(policy.model, policy.tokenizer, "oneline", "compact", 2)


# --- loading -------------------------------------------------------------------------------------


def test_shots_are_saved_and_can_be_changed(tmp_path):
    few_shot(shots=3).save(tmp_path)
    assert pl.load_policy(tmp_path).shots == 3
    assert pl.load_policy(tmp_path, shots=0).shots == 0
    assert pl.load_policy(tmp_path, shots=1).shots == 1
    assert pl.load_policy("thinker").shots == 0


def test_a_model_without_a_chat_template_is_named_once_in_a_sentence(tmp_path):
    few_shot(wording="question", shots=0).save(tmp_path)
    with pytest.warns(UserWarning, match="has no chat template, so problems are put to it as plain text; shots=4") as w:
        pl.load_policy(tmp_path)
    assert len(w) == 1 and "\n" not in str(w[0].message)


# --- beginnings that are run once ----------------------------------------------------------------


def test_common_prefix_by_hand(monkeypatch):
    monkeypatch.setattr(policies, "WORTH", 2)
    assert policies.common_prefix([[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 4, 9]]) == 3
    assert policies.common_prefix([[1, 2, 3], [1, 2, 3]]) == 2  # one token is left to each
    assert policies.common_prefix([[1, 2, 3], [1, 3, 3]]) == 0  # too short to be worth it
    assert policies.common_prefix([[1, 2, 3, 4]]) == 0
    assert policies.common_prefix([[1, 2, 3], [1, 2, 3, 4], [9]]) == 0


def test_prompts_that_begin_as_most_do_by_hand(monkeypatch):
    monkeypatch.setattr(policies, "WORTH", 2)
    assert policies.by_beginning([[1, 2, 3], [9, 2, 3], [1, 2, 4]]) == [[0, 2], [1]]
    assert policies.by_beginning([[1, 2, 3], [9, 2, 3]]) == [[0, 1]]
    assert policies.by_beginning([[1, 2, 3], [9, 2, 3], [1, 2, 5], [8, 2]]) == [
        [0, 1, 2, 3]
    ]  # two of four are not most
    assert policies.by_beginning([[1], [1], [9, 2, 3]]) == [[0, 1, 2]]  # too short to be worth it
    assert policies.by_beginning([[1, 2, 3], [1, 2, 4]]) == [[0, 1]]


def test_one_problem_among_the_examples_costs_the_others_nothing():
    """Such a problem is shown other examples: the beginning that the others have in common is still run once."""
    policy = few_shot(shots=4)
    task = pl.load_task("chain_sum", **SUMS)
    others = [p for p in task.sample(12, seed=0) if p.question not in {e.question for e in task.examples(4)}]
    problems = [*others[:5], task.examples(4)[0], *others[5:]]
    seen = []

    def count(module, args, kwargs):
        seen.append(kwargs["input_ids"].numel())

    def tokens(problems, do):
        seen.clear()
        with policy.model.model.register_forward_pre_hook(count, with_kwargs=True):
            result = do(problems)
        return sum(seen), result

    def sample(problems):
        return pl.sample_rollouts(policy, problems, 2, seed=0, max_new_tokens=4)

    def train(problems):
        rollouts = sample(problems)
        seen.clear()
        for rows in internals.batches_to_score(policy, rollouts, torch.arange(2 * len(problems))):
            internals.forward_rows(policy, rollouts, rows)

    _ = policy.ways  # its comparison runs the model, too
    longest = max(len(policy.prompt_ids(p)) for p in problems)
    prompts = [policy.prompt_ids(p) for p in problems]
    for limit, turns in ((4, [12, 1]), (400, [13])):  # a second turn of many steps would take longer than it spares
        assert [len(turn) for turn in _turns(policy, prompts, limit)] == turns
    for do in (sample, train, lambda problems: pl.read_internals(policy, sample(problems))):
        most, alone = tokens(others, do)[0], tokens(problems[5:6], do)[0]
        assert tokens(problems, do)[0] <= most + alone + 4 * longest
    rollouts, without = sample(problems), sample(others)
    at = [i for i in range(len(problems)) if i != 5]
    assert rollouts.problems == problems
    assert [rollouts.texts[i] for i in at] == without.texts and rollouts.texts[5] == sample(problems[5:6]).texts[0]


def test_prompts_are_packed_where_that_runs_fewer_tokens_than_their_beginning_would():
    """Four prompts of 78 tokens with the first 66 in common: packed they are 312, apart 12 for each response."""
    policy, task = few_shot(shots=4), pl.load_task("chain_sum", **SUMS)
    problems = [*task.sample(4, seed=0), task.examples(4)[0]]
    for responses, others in ((4, [16, 17, 18, 19]), (8, None)):  # 192 and 384 tokens
        rollouts = pl.sample_rollouts(policy, problems, responses, seed=0, max_new_tokens=4)
        assert set(map(len, rollouts.prompt_ids)) == {78} and policies.common_prefix(rollouts.prompt_ids[:4]) == 66
        *first, last = internals.batches_to_score(policy, rollouts, torch.arange(5 * responses))
        assert (last.tolist() if first else None) == others, responses


def test_a_shared_beginning_counts_once_in_a_batch(monkeypatch):
    policy = few_shot(shots=4)
    problems = pl.load_task("chain_sum", **SUMS).sample(6, seed=0)
    rollouts = pl.sample_rollouts(policy, problems, 2, seed=0, max_new_tokens=4)
    lengths, shared = internals.row_lengths(rollouts), policies.common_prefix(rollouts.prompt_ids)
    assert shared > 0.5 * int(lengths.max())
    most = shared + 4 * int(lengths.max() - shared)  # room for four rows that share, and for one that does not
    monkeypatch.setattr(internals, "BATCH_TOKENS", most)
    assert most < 2 * int(lengths.min())
    assert [len(rows) for rows in internals.batches_by_length(policy, rollouts, torch.arange(12))][0] >= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3 with a wide window"])
def test_a_shared_beginning_changes_nothing(family, tied, dtype, monkeypatch):
    """Sampling, reading and gradients with the examples run once, against every row run whole."""
    family, _, wide = family.partition(" ")  # the narrow window is shorter than the prompts
    policy = few_shot(family, shots=3, tie_word_embeddings=tied, **({"sliding_window": 400} if wide else {}))
    policy.model.to(dtype)
    problems = pl.load_task("chain_sum", min_terms=2, max_terms=4).sample(6, seed=1)
    shared = policies.common_prefix([policy.prompt_ids(p) for p in problems])
    assert shared >= policies.WORTH and len({len(policy.prompt_ids(p)) for p in problems}) > 1
    found = []
    for worth in (policies.WORTH, 10_000):
        monkeypatch.setattr(policies, "WORTH", worth)
        greedy = pl.sample_rollouts(policy, problems, 2, max_new_tokens=6, temperature=0)
        rollouts = pl.sample_rollouts(policy, problems, 3, seed=2, max_new_tokens=12) if not found else found[0][1]
        internals = pl.read_internals(policy, rollouts, layer=1, pool=5)
        rows = torch.arange(18)
        logprobs = pl.internals.forward_rows(policy, rollouts, rows)[0]
        weights = policy.model.get_input_embeddings().weight
        (gradient,) = torch.autograd.grad(logprobs.sum(), weights)
        found.append((greedy, rollouts, internals, gradient))
    (a, _, x, g), (b, _, y, h) = found
    close = dict(atol=2e-4, rtol=1e-4) if dtype == torch.float32 else dict(atol=0.15, rtol=0.15)
    if dtype == torch.float32:
        assert torch.equal(a.response_ids, b.response_ids)
    assert torch.allclose(x.features(), y.features(), **close)
    assert torch.allclose(x.logprobs, y.logprobs, **close)
    assert torch.nn.functional.cosine_similarity(g.flatten().float(), h.flatten().float(), 0) > 0.999 - 0.02 * (
        dtype == torch.bfloat16
    )
    if dtype == torch.float32:
        assert torch.allclose(found[0][1].logprobs, x.logprobs, **close)  # as they were sampled


def test_reading_equals_the_models_own_pass():
    policy = few_shot("llama", shots=3)
    problems = pl.load_task("chain_sum", **SUMS).sample(4, seed=1)
    rollouts = pl.sample_rollouts(policy, problems, 2, seed=2, max_new_tokens=12)
    internals = pl.read_internals(policy, rollouts, layer=1, pool=3)
    for i, prompt in enumerate(rollouts.prompt_ids):
        for j in range(2):
            states = plain_logits(policy, prompt + response(rollouts, i, j), output_hidden_states=True).hidden_states[
                2
            ][0]
            assert torch.allclose(internals.prompt[i, j], states[len(prompt) - 3 : len(prompt)].mean(0), atol=1e-4)


def test_several_pools_equal_one_at_a_time(qwen, toys):
    rollouts = pl.sample_rollouts(qwen, toys, 2, seed=0, max_new_tokens=12)
    found = pl.read_internals(qwen, rollouts, layer=[0, 2], pool=[1, 5])
    assert set(found) == {(0, 1), (0, 5), (2, 1), (2, 5)}
    for (layer, pool), one in found.items():
        assert torch.equal(one.features(), pl.read_internals(qwen, rollouts, layer, pool).features())
        assert (one.layer, one.pool) == (layer, pool)
