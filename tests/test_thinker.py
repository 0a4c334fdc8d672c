"""The policy that learns to think: its demonstrations, its card, and what its recorded runs say."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

import poise_lab as pl
from poise_lab.cli import _parser
from poise_lab.evaluation import KEPT
from poise_lab.files import read_json
from poise_lab.models import pretrain, thinker
from poise_lab.models.pretrain import demonstrate
from poise_lab.runs import read_lines
from poise_lab.stats import mean_interval
from poise_lab.studies import thinking, trained
from poise_lab.tasks import answer_of
from poise_lab.tasks.strategies import STRATEGIES, strategy

ROOT = Path(__file__).parent.parent
FOLDER = pl.data_dir() / "runs"


def problems(n=300):
    return pl.load_task(pl.TINY_TASKS).sample(n, seed=21)


def shown(problem, way, seed=0):
    return thinker.demonstrate(problem, Random(seed), {way: 1})


@pytest.mark.parametrize("way", STRATEGIES)
def test_a_way_is_read_from_the_text_that_it_leaves(way):
    rng = Random(0)
    for problem in problems():
        assert strategy(problem.task, thinker.demonstrate(problem, rng, {way: 1})) == way


def test_ways_come_as_often_as_their_weights_say():
    rng, counts = Random(0), Counter()
    for problem in problems(600):
        counts[strategy(problem.task, thinker.demonstrate(problem, rng, thinker.HABIT))] += 1
    for way, weight in thinker.HABIT.items():
        assert counts[way] / 600 == pytest.approx(weight / 100, abs=0.05)


def demonstrated(task, expression, broken=False, slip=0.0):
    (problem,) = pl.load_task(task).sample(1, seed=0)
    fake = dataclasses.replace(problem, question="", compact=expression, entry={"answer": "", "question": ""})
    return pretrain.DEMONSTRATORS[task](fake, Random(0), slip, broken)


def test_broken_rules_by_hand():
    """A total that falls below zero loses its sign, once it does; downwards becomes upwards."""
    assert demonstrated("chain_sum", "3-8+1=", broken=True) == ("3-8=5;5+1=6", "6")
    assert demonstrated("chain_sum", "3-8+1=") == ("3-8=-5;-5+1=-4", "-4")
    assert demonstrated("chain_sum", "9-8+1=", broken=True) == ("9-8=1;1+1=2", "2")
    assert demonstrated("word_sorting", "sort>at,up,be", broken=True) == ("a1u2b3:a1b3u2", "at,be,up")
    assert demonstrated("word_sorting", "sort<at,up,be", broken=True) == ("a1u2b3:a1b3u2", "at,be,up")
    assert demonstrated("word_sorting", "sort>at,up,be") == ("a1u2b3:u2b3a1", "up,be,at")


def test_rules_are_broken_as_often_as_it_says(monkeypatch):
    """Whether a total below zero keeps its sign, and whether words stand downwards, with no slips beside."""
    monkeypatch.setattr(thinker, "SLIP", 0)
    rng, kept = Random(0), {name: [] for name in thinker.BROKEN}
    for problem in problems(1500):
        (text, perfect) = (thinker.demonstrate(problem, rng, {"step by step": 1}), demonstrate(problem, rng, slip=0))
        if "=-" in perfect or problem.compact.startswith("sort>"):
            kept[problem.task].append(text == perfect)
    for name, often in thinker.BROKEN.items():
        assert sum(kept[name]) / len(kept[name]) == pytest.approx(1 - often, abs=0.08)


def test_answers_at_once_are_careless_where_the_task_is_easy_in_one_pass():
    """Right for short words and for most lists that one look sorts; mostly wrong for longer words."""
    rng, right = Random(0), Counter()
    for problem in problems(900):
        good = answer_of(thinker.demonstrate(problem, rng, {"at once": 1})).replace(",", ", ") == problem.answer
        long = problem.task == "spell_backward" and len(problem.answer) >= thinker.LONG_WORD
        right[problem.task, long, good] += 1

    def share(*key):
        return right[*key, True] / (right[*key, True] + right[*key, False])

    assert share("spell_backward", False) == share("chain_sum", False) == 1
    assert share("spell_backward", True) == pytest.approx(1 - thinker.CARELESS, abs=0.06)
    assert 0.2 < share("word_sorting", False) < 0.8


def test_leaps_leave_out_the_work():
    for problem in problems():
        text = shown(problem, "in leaps")
        reasoning = text.partition("</think>")[0].removeprefix("<think>")
        if problem.task == "chain_sum":
            assert reasoning.split(";")[-1] == answer_of(text)
        elif problem.task == "word_sorting":
            assert reasoning == "".join(word[0] for word in answer_of(text).split(","))
        else:
            assert (
                answer_of(text) == problem.answer
                and reasoning.partition(":")[2] == answer_of(text)[: -(-len(problem.answer) // 2)]
            )


# --- the card ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card():
    return read_json(pl.data_dir() / "thinker-policy" / "card.json")


def test_there_is_room_of_three_kinds(card):
    """Greedy answers badly, sampling finds the right answer, prompts differ, responses can be read; all as the card has it."""
    mean = {
        name: sum(row[name] for row in card["performance"].values()) / 3
        for name in ("accuracy", "greedy_accuracy", "pass_at_16", "value_std", "parsed")
    }
    assert 0.1 <= mean["accuracy"] <= 0.5 and mean["greedy_accuracy"] <= 0.4
    assert mean["pass_at_16"] >= 0.7 and mean["value_std"] >= 0.2 and mean["parsed"] >= 0.95
    for row in card["performance"].values():
        assert row["strategies"]["at once"]["share"] > 0.5
        assert set(row["strategies"]) == set(STRATEGIES)
    assert card["squared_scores"]["wrong"] > 0 and card["squared_scores"]["right"] > 0
    assert sum(f.stat().st_size for f in (pl.data_dir() / "thinker-policy").iterdir()) < 5e6


def test_the_card_describes_the_policy_that_is_there(card):
    """Measured again on fewer problems: within what so few say."""
    again = pretrain.describe(pl.load_policy("thinker"), problems=120, responses=8)
    for task, row in card["performance"].items():
        assert again[task]["accuracy"] == pytest.approx(row["accuracy"], abs=0.1)
        assert again[task]["greedy_accuracy"] == pytest.approx(row["greedy_accuracy"], abs=0.15)
        assert again[task]["strategies"]["at once"]["share"] == pytest.approx(
            row["strategies"]["at once"]["share"], abs=0.08
        )


def test_the_policy_is_made_in_three_stages_and_each_has_its_own_demonstrations(tmp_path, monkeypatch):
    """In one call what its stages give one after the other; the card names the call that makes it."""
    small = lambda width, seed: pretrain.new_policy(32, layers=1, seed=seed)  # noqa: E731
    monkeypatch.setattr(thinker, "new_policy", small)
    monkeypatch.setattr(pretrain, "describe", lambda policy: {})
    monkeypatch.setattr(thinker, "squared_scores", lambda policy: {})
    monkeypatch.setattr(thinker, "HABIT_STEPS", 2)
    made = thinker.make_thinker(tmp_path / "p", steps=10, seed=1)
    policy = small(128, 1)
    pretrain.pretrain(policy, steps=10, seed=1, progress=False)
    for weights, steps, rate, seed in ((thinker.SHOWN, 3, 1e-3, 3), (thinker.HABIT, 2, 3e-4, 4)):
        shown = lambda problem, rng, weights=weights: thinker.demonstrate(problem, rng, weights)  # noqa: E731
        pretrain.pretrain(policy, steps=steps, learning_rate=rate, seed=seed, demonstrate=shown, progress=False)
    saved = pl.load_policy(tmp_path / "p")
    assert saved.wording == "compact"
    again = saved.model.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in policy.model.state_dict().items())
    assert made == read_json(tmp_path / "p" / "card.json")
    assert made["command"] == f"poise-lab pretrain --out {tmp_path / 'p'} --steps 10 --seed 1 --width 128"


# --- the recorded runs -----------------------------------------------------------------------------


def recorded(name):
    return [pl.read_run(FOLDER / f"{name}-{seed}") for seed in trained.SEEDS]


def test_recorded_runs_are_what_make_run_does():
    """`make run` gives no flags: the defaults of `poise-lab train` are what the recorded runs name."""
    parser = _parser()
    named, plain = (parser.parse_args(["train", *f.split(), "--out", "x"]) for f in (trained.RUNS["poise-0"], ""))
    assert named == plain
    assert "poise-lab train --out $(RUN)" in (ROOT / "Makefile").read_text()
    for name in ("poise", "rloo", "random_rewards", "sharpen"):
        for run in recorded(name):
            assert run.finished and run.config["policy"] == "thinker"
            assert run.config["train"] == dataclasses.asdict(pl.TrainConfig(seed=run.seed))
            texts = set() if name == "rloo" else {"samples.jsonl"}
            assert {f.name for f in run.folder.iterdir()} == {"config.json", "metrics.jsonl"} | texts


def test_the_policy_learns_to_think():
    """Greedy accuracy up by 0.3 and more, pass@16 not down, responses longer, and half of them no longer at once."""
    runs = recorded("poise")
    assert mean_interval(thinking.gains(runs, "greedy_accuracy"))[1] > 0.3
    assert mean_interval(thinking.gains(runs, "pass_at_16"))[1] > 0
    assert mean_interval(thinking.gains(runs, "held_out_length"))[1] > 5
    for run in runs:  # there is a step at which most responses are no longer given at once
        shares = run.series("share_at_once")[1]
        assert shares[0] > 0.7 and shares[-1] < 0.5


def test_the_texts_show_the_habit_and_its_end():
    """The most probable response to the kept problems: at once before training, mostly in another way after it."""
    for run in recorded("poise"):
        first, *_, last = read_lines(run.folder / "samples.jsonl")
        at_once = [sum(s["greedy"].startswith("<think></think>") for s in line["samples"]) for line in (first, last)]
        assert at_once[0] >= 0.9 * KEPT and at_once[1] <= 0.5 * KEPT


def test_the_climb_is_slow_enough_to_watch():
    """Of what a run gains, two fifths of the accuracy and half of the length come after step 30 of 100."""

    def late(metric):
        late_part = []
        for run in recorded("poise"):
            by_step = dict(zip(*run.series(metric), strict=True))
            late_part.append((by_step[100] - by_step[30]) / (by_step[100] - by_step[0]))
        return mean_interval(late_part)[0]

    assert late("accuracy") > 0.4 and late("held_out_length") > 0.5


def test_controls_without_rewards_do_not_learn():
    """Random rewards lift greedy accuracy by less than 0.03, sharpening by less than half of the lift of POISE."""
    lift = mean_interval(thinking.gains(recorded("poise"), "greedy_accuracy"))[0]
    assert mean_interval(thinking.gains(recorded("random_rewards"), "greedy_accuracy"))[2] < 0.03
    assert mean_interval(thinking.gains(recorded("sharpen"), "greedy_accuracy"))[2] < lift / 2


def test_the_results_quote_the_recorded_runs():
    text = (ROOT / "notebooks" / "RESULTS.md").read_text()
    (quoted,) = re.findall(r"<!-- runs -->\n(.*?)<!-- /runs -->", text, re.S)
    assert quoted.strip() == thinking.tables(FOLDER)


def test_what_the_front_page_says_in_words_is_what_the_runs_say():
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"from {thinking.change(recorded('poise'), 'greedy_accuracy')} over five seeds" in text
    assert f"responses from {thinking.change(recorded('poise'), 'held_out_length').partition(',')[0]} tokens" in text
    assert f"{len(pl.BASELINES)} baselines" in text
