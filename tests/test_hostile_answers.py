"""Whatever a policy writes has a reward: every task's verifier against answers that no one would have thought of."""

from __future__ import annotations

import inspect
import re
import resource
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from random import Random

import pytest
from reasoning_gym.factory import DATASETS

import poise_lab as pl
from poise_lab.tasks import NO_ANSWER, limits

REFUSED = {
    "composite": "Must specify at least one dataset",
    "game_of_life_halting": "gives full marks to 'no such answer'",
    "coin_flip": "gives full marks to '0'",  # as to every beginning of the right number
}
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

# Each does something beside mathematics. "{}" is a file that none may write.
PROGRAMS = [
    "__import__('pathlib').Path('{}').touch()", "[__import__('pathlib').Path('{}').touch()]", "exit()", "quit()",
    "open('{}', 'w')", "exec(chr(112))", "eval(chr(112))", "print(24)", "input()", "breakpoint()", "test()", "(1).__class__",
    "x.__class__.__mro__", "lambda: 24", "24 if open('{}', 'w') else 0", "1<<99999999999", "getattr(x, chr(97))", "[0]*10**10",
]  # fmt: skip
ENDLESS = [
    "9**9**9",
    "9**9**9**9",
    "2**(10**10)",
    "99999999!",
    "(x+1)**99999",
    "R999999999",
    "x**9**9**9",
    "factorial(9**9)",
]


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
    near = [changed(problem.answer or "0 0", random) for _ in range(60)]
    return [*TYPED, *HUGE, *ENDLESS, *PROGRAMS, *drawn, *near]


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_has_a_reward_in_time(name, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    problem, before = problems(name)[0], time.process_time()
    answers = hostile(problem)
    assert len(answers) > 150
    for answer in answers:
        reward = problem.reward(answer)
        assert isinstance(reward, float) and reward in (0, 1), repr(answer[:80])
        assert problem.reward(f"<think>{problem.answer}{answer}") == 0 or "</think>" in answer
    assert time.process_time() - before < 30


@pytest.mark.parametrize("name", NAMES)
def test_every_task_samples_and_verifies(name):
    task = problems(name)[0].source
    again = [problem.question for problem in task.sample(2, seed=0)]
    assert again == [problem.question for problem in problems(name)], "the same seed gives the same problems"
    for problem in problems(name):
        assert all(isinstance(value, float) for value in problem.difficulty.values())
        assert (
            problem.answer is None
            or problem.reward(problem.answer) == problem.reward(f"x</think>{problem.answer}") == 1
        )
        assert problem.reward(NO_ANSWER) == 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_refused_when_it_is_loaded(name):
    with pytest.raises(pl.PoiseLabError, match=REFUSED[name]) as e:
        pl.load_task(name)
    assert "\n" not in str(e.value)


# --- what a verifier raises errors on -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer"), [("prime_factorization", "words"), ("boxnet", "0"), ("game_of_life", "{}")]
)
def test_an_error_of_the_verifier_is_a_wrong_answer_that_is_counted(name, answer):
    task = pl.load_task(name)
    problem = task.sample(1, seed=0)[0]
    with pytest.raises((TypeError, ValueError, KeyError)):
        problem.dataset.score_answer(answer, problem.entry)
    assert task.verifier_errors == 0
    assert problem.reward(answer) == problem.reward(f"<think>so</think>{answer}") == 0.0
    assert task.verifier_errors == 2
    assert problem.reward(f"<think>{answer}") == 0.0 and task.verifier_errors == 2  # not even asked
    mixture = pl.load_task(f"{name}+gcd")
    assert [p.reward(answer) for p in mixture.sample(4, seed=0)] == [0, 0, 0, 0] and mixture.verifier_errors == 2


def test_a_run_goes_on_and_says_how_often(tmp_path):
    """A policy that cannot factorize: most of what it writes makes the verifier raise an error."""
    config = pl.TrainConfig(steps=2, prompts=8, eval_prompts=4, eval_responses=1, minibatches=1, max_new_tokens=24)
    policy, task = pl.load_policy("thinker"), pl.load_task("prime_factorization")
    trainer = pl.Trainer(policy, task, pl.make_baseline("rloo"), config, out=tmp_path / "run", progress=False)
    metrics = trainer.run().metrics
    assert "verifier_errors" not in metrics[0]
    for m, most in zip(metrics[1:], (16, 28), strict=True):  # 8 pairs; and held out 4 pairs and 4 greedy responses
        assert 0 < m["verifier_errors"] <= most


@pytest.mark.parametrize("name", limits.COMPUTING)
def test_a_word_that_does_something_is_no_mathematics(name, capsys):
    """Such a call needs neither quotes nor attributes; what names mathematics is still read."""
    problem = pl.load_task(name).sample(1, seed=0)[0]
    for call in ("print(7)", "7 + print(7)", "plot(x)", "vars()", "__import__(7)", "init_printing()"):
        assert problem.reward(call) == 0
        assert capsys.readouterr().out == ""
        with pytest.raises(ValueError, match="no mathematics"):
            limits.check_answer(name, call, "7")
    for plain in ("sqrt(49)", "7*x**2 + sin(x)", "max(3, 4) + C"):
        limits.check_answer(name, plain, "7")


@pytest.mark.parametrize("name", limits.EVALUATING + limits.COMPUTING)
def test_no_answer_is_run_as_a_program(name, tmp_path):
    """The verifiers of these run an answer as Python, by themselves or through sympy."""
    problem, marker = pl.load_task(name).sample(1, seed=0)[0], tmp_path / "written"
    for program in PROGRAMS:
        assert problem.reward(program.format(marker)) == 0, program
        assert not marker.exists(), program
    assert problem.reward(problem.answer) == 1


def test_the_tasks_that_run_answers_are_known():
    sources = {name: inspect.getsource(sys.modules[DATASETS[name][0].__module__]) for name in DATASETS}
    found = {
        call: {name for name, source in sources.items() if re.search(rf"\b{call}\(\w*answer\b", source)}
        for call in ("eval", "parse_expr", "sympify", "exec")
    }
    assert found == {
        "eval": set(limits.EVALUATING),
        "parse_expr": set(limits.COMPUTING),
        "sympify": set(),
        "exec": set(),
    }


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("rubiks_cube", "R999999999"),
        ("countdown", "9**9**9"),
        ("simple_integration", "x**9**9**9"),
        ("puzzle24", "9**9**9"),
    ],
)
def test_a_verifier_that_takes_too_long_is_stopped(name, answer, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    task, handler, memory = (
        pl.load_task(name),
        signal.getsignal(signal.SIGVTALRM),
        resource.getrlimit(resource.RLIMIT_AS),
    )
    problem, before = task.sample(1, seed=0)[0], time.process_time()
    assert problem.reward(answer) == 0.0
    assert time.process_time() - before < 3
    assert task.verifier_errors == (name != "rubiks_cube")  # whose verifier catches the error
    assert signal.getsignal(signal.SIGVTALRM) == handler and signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
    assert resource.getrlimit(resource.RLIMIT_AS) == memory
    assert problem.answer is None or problem.reward(problem.answer) == 1.0


@pytest.mark.parametrize("answer", ["nan", "NaN", "nan+nani", "nanj", "inf", "-Infinity", " nan "])
@pytest.mark.parametrize("name", ["complex_arithmetic", "chain_sum", "decimal_arithmetic", "power_function"])
def test_what_is_no_number_is_no_answer(name, answer):
    """The distance of nan from a number is nan, and the smaller of 1 and nan is 1."""
    problem = problems(name)[0]
    assert problem.reward(answer) == 0 and problem.reward(problem.answer) == 1


def test_words_that_begin_like_no_number_are_answers():
    task = pl.load_task([{"question": "2 words", "answer": "nan 2"}, {"question": "animal", "answer": "infant nanny"}])
    assert [problem.reward(problem.answer) for problem in task.problems] == [1, 1]


def test_answers_are_graded_in_other_threads():
    problem = pl.load_task("countdown").sample(1, seed=0)[0]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(problem.reward, problem.answer).result() == 1.0


# --- tasks of every kind --------------------------------------------------------------------------


def test_difficulty_may_be_one_number():
    assert all(p.difficulty == {"difficulty": 1.0} for p in pl.load_task("gsm_symbolic").sample(3, seed=0))


def test_seeds_fit_the_task():
    """numpy takes 32 bits; tasks that take more keep their problems."""
    task = pl.load_task("pool_matrix")
    assert len({p.question for seed in range(20) for p in task.sample(2, seed)}) == 40
    assert pl.load_task("chain_sum")._seeds == 2**48


@pytest.mark.parametrize("name", ["boxnet", "graph_color", "rush_hour"])
def test_examples_need_answers(name):
    problem = pl.load_task(name).sample(1, seed=0)[0]
    assert problem.answer is None
    with pytest.raises(
        pl.PoiseLabError, match=f"{name!r} can verify answers but has none to show as examples; use shots=0"
    ):
        problem.examples(2)
