from __future__ import annotations

from random import Random

import pytest

import poise_lab as pl
from poise_lab.models.pretrain import demonstrate
from poise_lab.tasks import LAPTOP_SETTINGS, answer_of

TASKS = sorted(LAPTOP_SETTINGS)


def questions(problems):
    return [p.question for p in problems]


@pytest.mark.parametrize("name", TASKS)
def test_problems_are_distinct_and_repeatable(name):
    task = pl.load_task(name)
    problems = task.sample(200, seed=5)
    assert len(set(questions(problems))) == 200
    assert questions(task.sample(200, seed=5)) == questions(problems)
    assert questions(task.sample(50, seed=5)) == questions(problems)[:50]


@pytest.mark.parametrize("name", TASKS)
def test_nearby_seeds_share_next_to_nothing(name):
    # reasoning-gym draws entry i of seed s from Random(s + i): used raw, seeds 0 and 1 would share 199 of 200
    task = pl.load_task(name)
    first = set(questions(task.sample(200, seed=0)))
    assert len(first & set(questions(task.sample(200, seed=1)))) < 40


def test_excluded_problems_do_not_come_back():
    task = pl.load_task("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    held_out = task.sample(60, seed=0)
    rest = task.sample(60, seed=1, exclude=held_out)
    assert len(set(questions(rest))) == 60
    assert not set(questions(rest)) & set(questions(held_out))
    # the same draw without exclude does overlap, so the line above can fail
    assert set(questions(task.sample(60, seed=1))) & set(questions(held_out))


def test_mixture_takes_turns():
    mixture = pl.load_task("chain_sum+spell_backward+word_sorting")
    problems = mixture.sample(8, seed=0)
    order = ["chain_sum", "spell_backward", "word_sorting"]
    assert [p.task for p in problems] == (order * 3)[:8]
    assert problems[3].question == pl.load_task("chain_sum").sample(3, seed=0)[1].question
    held_out = {p.question for p in mixture.sample(30, seed=1)}
    exclude = mixture.sample(30, seed=1)
    assert not held_out & set(questions(mixture.sample(60, seed=2, exclude=exclude)))
    assert len(mixture.sample(2, seed=0)) == 2


@pytest.mark.parametrize("name", TASKS)
def test_perfect_demonstrator_is_always_right_and_a_careless_one_is_not(name):
    problems, rng = pl.load_task(name).sample(200, seed=9), Random(0)
    assert all(p.reward(demonstrate(p, rng, slip=0)) == 1.0 for p in problems)
    careless = [p.reward(demonstrate(p, rng, slip=1)) for p in problems]
    assert 0 < sum(careless) < 150


@pytest.mark.parametrize("name", TASKS)
def test_reference_answer_is_right_and_nonsense_is_wrong(name):
    for p in pl.load_task(name).sample(20, seed=2):
        assert p.reward("<think>anything</think>" + p.answer) == 1.0
        assert p.reward(p.answer + "</think>") == 0.0
        assert p.reward("<think></think>qq") == 0.0
        assert p.reward("") == 0.0


def test_partial_credit_counts_as_wrong():
    problem = pl.load_task("spell_backward").sample(1, seed=0)[0]
    almost = problem.answer[:-1] + ("a" if problem.answer[-1] != "a" else "b")
    credit = problem.dataset.score_answer(almost, problem.entry)
    assert 0 < credit < 1
    assert problem.reward(almost) == 0.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>1</think>2", "2"),
        ("1</think>2</think> 3 ", "3"),
        ("no tag", "no tag"),
        ("</think>", ""),
        ("", ""),
        ("<think>3", None),  # cut off in its reasoning
        ("<think>1</think>2<think>3", None),
    ],
)
def test_answer_is_what_follows_the_last_tag(text, answer):
    assert answer_of(text) == answer


def test_compact_wording_asks_the_same():
    for name in TASKS:
        for p in pl.load_task(name).sample(20, seed=4):
            assert p.compact != p.question and len(p.compact) < len(p.question)
            rebuilt = demonstrate(p, Random(0), slip=0)  # reads the compact wording only
            assert answer_of(rebuilt).replace(",", "").replace(" ", "") == p.answer.replace(",", "").replace(" ", "")


def test_any_other_task_keeps_its_wording():
    problem = pl.load_task("gcd").sample(1, seed=0)[0]
    assert problem.compact == problem.question
    assert problem.reward(problem.answer) == 1.0


def test_difficulty_is_that_of_the_problem():
    task = pl.load_task("chain_sum", min_terms=2, max_terms=5)
    problems = task.sample(50, seed=0)
    assert {p.difficulty["num_terms"] for p in problems} == {2, 3, 4, 5}
    for p in problems:
        terms = p.compact.rstrip("=").replace("-", "+").strip("+").split("+")
        assert p.difficulty["num_terms"] == len(terms)


def test_settings_reach_the_task():
    for p in pl.load_task("spell_backward", min_word_len=4, max_word_len=4).sample(20, seed=0):
        assert len(p.answer) == 4
    for p in pl.load_task("word_sorting", transformation="uppercase").sample(5, seed=0):
        assert p.answer == p.answer.upper()


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(pl.PoiseLabError, match="unknown task 'nosuch'; known: .*chain_sum.*word_sorting"):
        pl.load_task("nosuch")
    with pytest.raises(pl.PoiseLabError, match="unknown task 'nosuch'"):
        pl.load_task("chain_sum+nosuch")


@pytest.mark.parametrize(
    "name, settings",
    [
        ("advanced_geometry", {"task_types": "x"}),  # ValueError, of the first problem
        ("aiw", {"task_type_weights": 0}),  # TypeError, of the first problem
        ("arc_agi", {"board_format_opts": 0}),  # AttributeError, of the data set
        ("calendar_arithmetic", {"tasks": []}),  # IndexError
    ],
)
def test_settings_that_reasoning_gym_stops_at_are_refused_when_they_are_loaded(name, settings):
    with pytest.raises(pl.PoiseLabError, match=f"refuses the settings of task '{name}'"):
        pl.load_task(name, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_term": 2}, "unknown setting of task 'chain_sum' 'min_term'; known: .*min_terms"),
        ({"seed": 2}, "unknown setting"),
        ({"min_terms": 6, "max_terms": 2}, "refuses the settings"),
        ({"min_terms": 0}, "refuses the settings"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, message):
    with pytest.raises(pl.PoiseLabError, match=message):
        pl.load_task("chain_sum", **settings)


def test_bad_value_of_a_choice_lists_the_choices():
    with pytest.raises(pl.PoiseLabError, match="known: .*lowercase"):
        pl.load_task("word_sorting", transformation="upside_down")


def test_mixture_takes_no_settings_and_no_task_twice():
    with pytest.raises(pl.PoiseLabError, match="takes no settings"):
        pl.load_task("chain_sum+gcd", min_terms=2)
    with pytest.raises(pl.PoiseLabError, match="two tasks of one name"):
        pl.load_task("chain_sum+chain_sum")


@pytest.mark.parametrize("name", ["chain_sum", "chain_sum+spell_backward"])
@pytest.mark.parametrize("n", [0, -1])
def test_zero_problems(name, n):
    with pytest.raises(pl.PoiseLabError, match="at least 1"):
        pl.load_task(name).sample(n, seed=0)


def test_too_few_different_problems():
    tiny = pl.load_task("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    with pytest.raises(pl.PoiseLabError, match="too few different problems"):
        tiny.sample(1000, seed=0)


def test_a_mixture_of_tasks_loaded_one_by_one_keeps_their_settings():
    short = pl.load_task("chain_sum", max_terms=2)
    assert pl.load_task(pl.TINY_TASKS).settings == {}
    assert pl.TaskMixture([short, pl.load_task("gcd")]).settings == {"chain_sum": short.settings}
    with pytest.raises(pl.PoiseLabError, match="has two tasks of one name"):
        pl.TaskMixture([short, pl.load_task("chain_sum")])
