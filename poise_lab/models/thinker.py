"""How the bundled policy is made, which learns to think: the skill first, then the habit of answering at once.

Demonstrations in three stages. In the first they work step by step and slip (`pretrain`). In the second there are three
ways of working, equally often: **at once**, without reasoning, as somebody does who does not look twice; **in leaps**,
where the results are written and the work is not; **step by step**. In the third, a short one, there are the same
demonstrations, seven in ten of them at once. So greedy decoding answers at once, and the better ways are still there to
be found, by sampling and by reinforcement learning from rewards alone.

Mistakes of three kinds are left to repair. The habit: the likeliest way is a bad one. Rules that are more often broken
than kept: a total that falls below zero loses its sign, words that are to be sorted downwards are sorted upwards. And
slips, as in the first stage. None is beyond what the policy was shown done right.

Command: `poise-lab pretrain`.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from random import Random

from ..generate import sample_rollouts
from ..policies import Policy
from ..tasks import END_OF_REASONING, LAPTOP_SETTINGS, START_OF_REASONING, TINY_TASKS, Problem, load_task
from ..tasks.strategies import STRATEGIES
from ..variance.scores import read_scores
from .pretrain import DEMONSTRATORS, new_policy, pretrain, save_with_card

SLIP = 0.25  # at each hard spot of a way step by step
BROKEN = {"chain_sum": 0.6, "word_sorting": 0.55}  # how often the task's rule is broken where it would apply
CARELESS = 0.85  # of the answers at once that could not be wrong otherwise
SHOWN = dict(zip(STRATEGIES, (1, 1, 1), strict=True))
HABIT = dict(zip(STRATEGIES, (70, 18, 12), strict=True))
HABIT_STEPS = 80
LONG_WORD = 6  # letters; shorter ones are spelled backward at once without a mistake


def demonstrate(problem: Problem, rng: Random, weights: dict[str, float]) -> str:
    """A response to the problem, worked out in one of STRATEGIES, which come as often as their weights say."""
    way = rng.choices(list(weights), list(weights.values()))[0]
    if way == "at once":
        reasoning, answer = "", AT_ONCE[problem.task](problem, rng)
    else:
        broken = rng.random() < BROKEN.get(problem.task, 0.0)
        reasoning, answer = DEMONSTRATORS[problem.task](problem, rng, SLIP, broken)
        if way == "in leaps":
            reasoning, answer = IN_LEAPS[problem.task](problem, reasoning, answer)
    return f"{START_OF_REASONING}{reasoning}{END_OF_REASONING}{answer}"


def _sum_at_once(problem: Problem, rng: Random) -> str:
    """The right sum: that a small policy cannot find it in one pass needs no help."""
    return problem.answer


def _spelled_at_once(problem: Problem, rng: Random) -> str:
    """In a long word the letter in the middle is mostly forgotten."""
    back = problem.answer
    middle = len(back) // 2
    return back[:middle] + back[middle + 1 :] if len(back) >= LONG_WORD and rng.random() < CARELESS else back


def _sorted_at_once(problem: Problem, rng: Random) -> str:
    """Mostly one look at each word and its neighbour, which swaps the two where they are out of order."""
    words = re.split("[<>,]", problem.compact)[1:]
    if rng.random() >= CARELESS:
        return ",".join(sorted(words, reverse=">" in problem.compact))
    for i in range(len(words) - 1):
        if (words[i] > words[i + 1]) != (">" in problem.compact):
            words[i], words[i + 1] = words[i + 1], words[i]
    return ",".join(words)


def _sum_in_leaps(problem: Problem, reasoning: str, answer: str) -> tuple[str, str]:
    """The totals alone: 12+33=45;45-60=-15 becomes 45;-15."""
    return ";".join(re.findall(r"=(-?\d+)", reasoning)), answer


def _spelled_in_leaps(problem: Problem, reasoning: str, answer: str) -> tuple[str, str]:
    """The two halves, and the second of them backward."""
    word = problem.compact.removeprefix("back:")
    half = len(word) // 2
    return f"{word[:half]}|{word[half:]}:{word[half:][::-1]}", problem.answer


def _sorted_in_leaps(problem: Problem, reasoning: str, answer: str) -> tuple[str, str]:
    """The initials in order, without the numbers that say whose they are."""
    return "".join(word[0] for word in answer.split(",")), answer


AT_ONCE = {"chain_sum": _sum_at_once, "spell_backward": _spelled_at_once, "word_sorting": _sorted_at_once}
IN_LEAPS = {"chain_sum": _sum_in_leaps, "spell_backward": _spelled_in_leaps, "word_sorting": _sorted_in_leaps}


def make_thinker(folder: str | Path, *, steps: int = 5000, seed: int = 0, width: int = 128) -> dict:
    """Make the policy that learns to think, or one of another width, from scratch; write it with its card, return the card.

    steps: of the first stage; the second has three tenths as many, the third `HABIT_STEPS`.
    """
    start = time.perf_counter()
    policy = new_policy(width, seed=seed)
    losses = pretrain(policy, steps=steps, seed=seed)
    ways = max(1, round(0.3 * steps))
    for weights, length, rate, part in ((SHOWN, ways, 1e-3, 2 * seed + 1), (HABIT, HABIT_STEPS, 3e-4, 2 * seed + 2)):
        losses += pretrain(
            policy, steps=length, learning_rate=rate, seed=part,
            demonstrate=lambda problem, rng, weights=weights: demonstrate(problem, rng, weights),
        )  # fmt: skip
    return save_with_card(
        policy, folder, time.perf_counter() - start,
        what="a character policy, taught to work step by step and then to answer at once; see poise_lab/models/thinker.py",
        command=f"poise-lab pretrain --out {folder} --steps {steps} --seed {seed} --width {width}",
        data={
            "tasks": LAPTOP_SETTINGS, "slip": SLIP, "broken": BROKEN, "careless": CARELESS, "shown": SHOWN, "habit": HABIT,
            "habit_steps": HABIT_STEPS,
        },
        final_loss=round(sum(losses[-50:]) / len(losses[-50:]), 4),
        squared_scores=squared_scores(policy),
    )  # fmt: skip


def squared_scores(policy: Policy) -> dict[str, float]:
    """Mean squared length of the score, over right responses and over wrong ones: how far each moves the gradient."""
    rollouts = sample_rollouts(policy, load_task(TINY_TASKS).sample(150, seed=2), 4, seed=2)
    squares = read_scores(policy, rollouts).within.diagonal(dim1=1, dim2=2)
    right = rollouts.rewards >= 1
    return {"right": round(squares[right].mean().item()), "wrong": round(squares[~right].mean().item())}
