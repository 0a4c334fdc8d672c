"""Few-shot prompts, recordings of real models, and the tables made of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support import FAMILIES, ToyProblem, ToyTask, tiny_policy

import poise_lab as pl
from poise_lab import real
from poise_lab.records import read_json

TASK = pl.load_task("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)


class Answered(ToyProblem):
    answer = "4"


class Short(ToyTask):
    """Prompts of a few characters, which fit a random policy's context with examples before them."""

    def sample(self, n, seed, exclude=()):
        return [Answered(p.compact, p.task) for p in super().sample(n, seed, exclude)]


# --- examples in the prompt ------------------------------------------------------------------------


def test_prompt_is_solved_problems_then_the_question():
    policy = tiny_policy().with_examples(TASK, shots=2, seed=3)
    first, second = TASK.sample(2, seed=3)
    problem = TASK.sample(1, seed=4, exclude=policy.examples)[0]
    text = policy.tokenizer.decode(policy.prompt_ids(problem))
    solved = "".join(f"{one.question}\nAnswer: {one.answer}\n\n" for one in (first, second))
    assert text == f"{solved}{problem.question}\nAnswer:"


@pytest.mark.parametrize("family", FAMILIES)
def test_with_examples_a_response_is_one_line(family):
    policy = tiny_policy(family, ends=[1]).with_examples(Short(), shots=1)
    newline = policy.tokenizer.encode("\n")
    assert set(newline) | {1} == set(policy.eos_token_ids)
    rollouts = pl.sample_rollouts(policy, Short().sample(4, seed=1), 8, seed=0, max_new_tokens=24, temperature=3.0)
    for i in range(4):
        for j in range(8):
            ids = rollouts.response_ids[i, j, : rollouts.lengths[i, j]].tolist()
            assert not set(ids[:-1]) & set(policy.eos_token_ids)
            assert bool(rollouts.finished[i, j]) == (ids[-1] in policy.eos_token_ids)
    assert rollouts.finished.any()


def test_tokens_that_hold_a_newline_end_a_response_too():
    policy = tiny_policy()
    policy.tokenizer.add_tokens(["\n\n", "x\n"])
    ends = policy.with_examples(TASK, shots=1).eos_token_ids
    assert {policy.tokenizer.convert_tokens_to_ids(t) for t in ("\n\n", "x\n", "\n")} <= set(ends)


def test_chat_template_is_left_out_with_examples():
    policy = tiny_policy()
    policy.tokenizer.chat_template = "CHAT{{ messages[0].content }}"
    problem = TASK.sample(1, seed=9)[0]
    policy = dataclasses.replace(policy, wording="question")
    assert policy.tokenizer.decode(policy.prompt_ids(problem)).startswith("CHAT")
    shown = policy.with_examples(TASK, shots=1)
    assert "CHAT" not in shown.tokenizer.decode(shown.prompt_ids(problem))


def test_refused_examples():
    with pytest.raises(pl.PoiseLabError, match="shots=0; show at least 1"):
        tiny_policy().with_examples(TASK, shots=0)
    with pytest.raises(pl.PoiseLabError, match="'rotate_matrix' has answers of several lines"):
        tiny_policy().with_examples(pl.load_task("rotate_matrix"), shots=1)


# --- scores over splits ----------------------------------------------------------------------------


def planted(prompts=160, width=4, seed=0) -> real.Recording:
    """Value is a function of the prompt state alone; the reasoning state and the entropies are noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(prompts, 2, 2 * width + 3))
    features[:, 1, :width] = features[:, 0, :width]  # both responses share the prompt
    value = 1 / (1 + np.exp(-2 * features[:, 0, 0]))
    lengths = rng.integers(1, 9, size=(prompts, 2))
    every = {(layer, 4): features for layer in (0, 3, 5)} | {(3, 1): features, (3, 16): features}
    return real.Recording(
        every, lengths, lengths[..., None].astype(float), value, value[:, None] > 0.5, ["?"] * prompts
    )


def test_splits_share_no_prompt_and_repeat():
    for (fit, test), (again, _) in zip(real.splits(40), real.splits(40), strict=True):
        assert len(fit) == 30 and len(test) == 10 and set(fit) | set(test) == set(range(40))
        assert fit.tolist() == again.tolist()
    assert len({tuple(test) for _, test in real.splits(40)}) == real.SPLITS >= 5


def test_tables_find_what_was_planted_and_nothing_where_nothing_is():
    recording = planted()
    tables = real.tables(recording)
    r = {
        table: {row: score["r"][0] for row, score in rows.items()} for table, rows in tables.items() if table != "data"
    }
    assert r["inputs"]["only prompt hidden states"] > 0.9 and abs(r["inputs"]["only reasoning hidden states"]) < 0.3
    assert abs(r["inputs"]["only response length"]) < 0.3
    assert abs(r["presets"]["control: shuffled targets"]) < 0.3
    assert r["presets"]["control: mean of all prompts"] == 0
    assert r["presets"]["release (PCA, ridge 100)"] > 0.85
    assert set(r["layers"]) == {"0", "3", "5"} and tables["data"]["layer"] == recording.middle == 3
    for rows in (rows for table, rows in tables.items() if table != "data"):
        for score in rows.values():
            assert score["r"][1] <= score["r"][0] <= score["r"][2] or score["r"][1] != score["r"][1]


def test_held_out_prompts_are_not_fitted_on():
    """A probe that remembers every prompt scores nothing where the value has nothing to do with the states."""
    rng = np.random.default_rng(1)
    X = np.repeat(rng.normal(size=(60, 1, 103)), 2, 1)
    score = real.split_scores(X, rng.random(60), real.by_probe(ridge=1e-6))
    assert abs(score["r"][0]) < 0.3


def test_recording_comes_back(tmp_path):
    recording = planted(8)
    real.save_recording(recording, tmp_path / "a.safetensors")
    again = real.load_recording(tmp_path / "a.safetensors")
    assert again.questions == recording.questions and again.layers == [0, 3, 5]
    for key, x in recording.features.items():
        assert np.abs(again.features[key] - x).max() < 2e-3  # float16
    real.save_recording(recording, tmp_path / "b.safetensors", layers=[3])
    assert set(real.load_recording(tmp_path / "b.safetensors").features) == {(3, 4)}
    with pytest.raises(pl.PoiseLabError, match="no recording"):
        real.load_recording(tmp_path / "c.safetensors")


def test_a_task_on_which_every_reward_is_equal_is_refused():
    policy = tiny_policy().with_examples(Short(), shots=1)
    rollouts = pl.sample_rollouts(policy, Short().sample(3, seed=1), real.READ + 2, seed=0, max_new_tokens=4)
    rollouts.rewards = torch.ones_like(rollouts.rewards)
    with pytest.raises(pl.PoiseLabError, match="every prompt has mean reward 1, so there is nothing to predict"):
        real.measured_value(rollouts)


def test_ranks_beside_the_papers():
    score = lambda r: {"r": [r, r, r], "mae": [0.1, 0.1, 0.1]}  # noqa: E731
    rows = {"a": score(0.9), "b": score(0.5), "c": score(0.7), "ours alone": score(0.99)}
    paper = {"a": dict(r=0.8, mae=0.2), "b": dict(r=0.6, mae=0.2), "c": dict(r=0.3, mae=0.2)}
    found = {row["name"]: (row["rank"], row["paper rank"], row["agrees"]) for row in real.beside_paper(rows, paper)}
    assert found == {"a": (1, 1, True), "b": (3, 2, False), "c": (2, 3, False)}


RECORDED = pl.data_dir() / "real"
FILES = sorted(RECORDED.glob("*/*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recorded_tables_follow_from_the_recorded_rows(path):
    """Where the rows of the analysis layer are in the repository, the tables can be made again from them."""
    card = read_json(path)
    recording = real.load_recording(path.with_suffix(".safetensors"))
    assert card["tables"]["data"]["prompts"] == len(recording.value) == card["prompts"]
    assert card["tables"]["data"]["accuracy"] == pytest.approx(recording.value.mean(), abs=1e-6)
    X = recording.features[recording.middle, 4]
    again = real.split_scores(X, recording.value, real.by_probe(**real.RELEASE))
    assert again["r"] == pytest.approx(card["tables"]["presets"]["release (PCA, ridge 100)"]["r"], abs=0.02)
    assert card["versions"] and card["date"] and card["command"].startswith("poise-lab probes")
    assert sum(f.stat().st_size for f in RECORDED.rglob("*")) < 30e6


def test_recorded_models_read_the_same_problems():
    for task in real.TASKS:
        questions = [
            real.load_recording(RECORDED / model / f"{task}.safetensors").questions
            for model in real.MODELS
            if (RECORDED / model / f"{task}.json").is_file()
        ]
        assert all(other == questions[0] for other in questions)
