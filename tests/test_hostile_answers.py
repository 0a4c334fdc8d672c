"""Whatever a policy writes has a reward: every task's verifier against answers that no one would have thought of."""

from __future__ import annotations

import time
from functools import cache
from random import Random

import pytest
from reasoning_gym.factory import DATASETS

import poise_lab as pl
from poise_lab.tasks import NO_ANSWER

REFUSED = {"composite": "Must specify at least one dataset", "game_of_life_halting": "gives full marks to"}
NAMES = sorted(set(DATASETS) - set(REFUSED))
TYPED = [
    "", " ", "\n", "\t\n ", "0", "-1", "1e400", "-inf", "NaN", "nan", "None", "null", "True", "1/0", "0x", "1_000", "٣", "½",
    "[]", "{}", "()", "[[]]", '{"a": 1}', "[1, 2", '"', "'", "\\", "\\n", "{'a'}", "[None]", "[{}]", '[{"0": "0"}]', "lambda: 0",
    "1+", "+", "x", "x**", "x = ", "((", "))", ",", ", , ,", "a,b", "1,2,3", "0 0\n0 0", "[[0]]", "[[0, 1], [1]]", '[["a"]]',
    "R1", "N/A", "\\boxed{1}", "\\frac{}{}", "$1$", "<answer>1</answer>", "def f(): pass", "import os", "__import__('os')",
    "\ud83d", "a\udc00b", "\x00", "\u202e1", "é" * 9, "🙂", "日本", "\r\n", "--", "%s", "%d%n", "{0}", "{x!r}", "f'{1}'",
]  # fmt: skip
HUGE = [
    "9" * 5000,
    "a" * 20_000,
    "x " * 5000,
    "1,\n" * 5000,
    "[" * 5000,
    "(" * 200 + "1" + ")" * 200,
    "{" * 5000,
    '["' * 3000,
]
ALPHABETS = ["0123456789", "0123456789 .,-+*/=()", "[]{}(),:'\" 01ab\n", "abcdefghij ,", "RLUDFB' 2", "<>/think0 "]


@cache
def problems(name: str) -> list:
    return pl.load_task(name).sample(2, seed=0)


def changed(text: str, random: Random) -> str:
    """A right answer with one thing wrong: the inputs on which verifiers get furthest."""
    at, until = sorted(random.randrange(len(text) + 1) for _ in range(2))
    return random.choice([
        text[:at], text[at:], text[:at] + text[until:], text[until:] + text[:at], text + text, text.replace(" ", ""),
        text.replace(text[at : at + 1] or " ", "x"), text.upper(), text[::-1], f"[{text}]", f'"{text}"', text + "\n" + text,
        text[:at] + random.choice("0x[]{}'\",\n\ud83d") + text[at:],
    ])  # fmt: skip


def hostile(problem, seed: int = 0) -> list[str]:
    """A few hundred answers."""
    random = Random(f"{problem.task} {seed}")
    drawn = ["".join(random.choices(letters, k=random.randint(1, 40))) for letters in ALPHABETS for _ in range(15)]
    drawn = [text.replace("**", "*") for text in drawn]  # powers of powers: see the test of a verifier that computes
    near = [changed(problem.answer or "0 0", random) for _ in range(60)]
    return [*TYPED, *HUGE, *drawn, *near]


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_has_a_reward_in_time(name):
    for problem in problems(name)[:1]:
        before = time.process_time()
        for answer in hostile(problem):
            reward = problem.reward(answer)
            assert reward in (0.0, 1.0) and isinstance(reward, float), repr(answer[:80])
            assert problem.reward(f"<think>{problem.answer}{answer}") == 0.0 or "</think>" in answer
        print(name, round(time.process_time() - before, 2), problem.source.verifier_errors)
        assert time.process_time() - before < 30


@pytest.mark.parametrize("name", NAMES)
def test_every_task_samples_and_verifies(name):
    task = problems(name)[0].source
    assert questions(task.sample(2, seed=0)) == questions(problems(name)), "the same seed gives the same problems"
    for problem in problems(name):
        assert all(isinstance(value, float) for value in problem.difficulty.values())
        assert (
            problem.answer is None
            or problem.reward(problem.answer) == problem.reward(f"x</think>{problem.answer}") == 1
        )
        assert problem.reward(NO_ANSWER) == 0


def questions(sampled) -> list[str]:
    return [problem.question for problem in sampled]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_refused_when_it_is_loaded(name):
    with pytest.raises(pl.PoiseLabError, match=REFUSED[name]) as e:
        pl.load_task(name)
    assert "\n" not in str(e.value)
