"""Functions that notebooks 4 to 11 ask for: folded solutions are correct, empty ones are told so, mistakes named.

All exercises are solved in test_notebooks.py as well, among the cells that they need.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

import poise_lab as pl
from poise_lab import stats, variance
from poise_lab.course.checks import answer
from poise_lab.show.words import span
from poise_lab.variance import exact

LESSONS = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = [path for path in sorted(LESSONS.glob("*.ipynb")) if path.name[:2] in "04 05 06 07 08 09 10 11".split()]
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.M | re.S)
WRONG = {
    "training_rows": ("features.reshape(-1, 2), rewards.reshape(-1)", "the response's own reward"),
    "own_share": ("(b * R).mean() / ((R - V) ** 2).mean()", "rewards are not centred"),
    "poise_advantages": ("rewards - values", "its own prediction"),
    "ceiling": (
        "np.sqrt(rewards.mean(1).var(ddof=1) / (rewards.mean(1).var(ddof=1) + rewards.var(1, ddof=1).mean() / 7))",
        "scatter by their noise",
    ),
    "carry": ("matrix.T @ coef, intercept", "the shift is missing"),
    "holm": ("np.minimum(1, len(p) * p)", "this is Bonferroni"),
    "local_loss": ("losses.mean()", "its own tokens"),
    "objective": ("ratio.clamp(0.8, 1.28) * A", "a token that went the wrong way is not pulled back"),
    "within": ("W.diagonal(dim1=1, dim2=2).mean()", "subtract what the responses of a prompt have in common"),
}


def blocks(cell) -> list[str]:
    """The pieces of code in the folds of a cell of prose."""
    return [textwrap.dedent(block) for block in BLOCK.findall(cell.source)]


def exercises() -> dict[str, tuple[str, str, str]]:
    """Name of the function to write: the solution, the cell to be filled, and the cell that checks it."""
    found = {}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for before, empty, test in zip(cells, cells[1:], cells[2:], strict=False):
            if "# your code here" in empty.source:
                (solution,) = blocks(before)
                found[re.search(r"def (\w+)", solution)[1]] = solution, empty.source, test.source
    return found


def said(capsys, source: str, test: str) -> list[str]:
    names = dict(np=np, torch=torch, answer=answer)
    exec(source, names)
    capsys.readouterr()
    exec(test, names)
    return capsys.readouterr().out.splitlines()


def test_every_exercise_is_known():
    assert set(exercises()) == set(WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_solutions_are_correct_and_mistakes_are_named(capsys, name):
    solution, empty, test = exercises()[name]
    assert set(said(capsys, solution, test)) == {"Correct."}
    assert all(line.startswith("Not yet") for line in said(capsys, empty, test))
    body, mistake = WRONG[name]
    head = re.match(r"def .*:\n", solution)[0]
    lines = said(capsys, head + "    return " + body, test)
    assert any(line.startswith("Not yet") and mistake in line for line in lines), lines


@pytest.mark.parametrize(
    ("own", "length", "says"),
    [
        ((0.0, 0.0), 0.0, "Correct."),
        ((0.3, 0.0), 0.0, "exchange a response for another, and what is subtracted from it moves"),
        ((0.0, 0.3), 0.0, "exchange a response for another, and what is subtracted from it moves"),
        ((0.0, 0.0), 0.1, "exchange a response for another, and what is subtracted from it moves"),
    ],
)
def test_what_is_of_a_response_is_found_in_either_response_of_a_pair(capsys, own, length, says):
    """Exercise 4 of notebook 6, with a variance that passes and a baseline that subtracts `own` times a response's reward,
    and `length` times its tokens."""

    class Yours(pl.Baseline):
        name = "yours"

        def advantages(self, rollouts, internals):
            return rollouts.rewards * (1 - torch.tensor(own)) - length * rollouts.lengths - self.learned

        def update(self, rollouts, internals):
            self.learned = rollouts.rewards.mean()

    small = exact.ExactPolicy()
    pool, pool_states = small.records(*small.draw(201, responses=16, seed=0))
    quiet = SimpleNamespace(trace=lambda budget: np.full(3, 0.5))
    noises = SimpleNamespace(group_advantages=variance.group_advantages, gradient_variance=lambda *given: quiet)
    names = dict(
        Yours=lambda: Yours(2), pool=pool, pool_states=pool_states, learned_from=[(pool, pool_states)], variance=noises,
        scores=None, counts=None, pairs={"none": np.ones(3)}, answer=answer, dataclasses=dataclasses, itertools=itertools,
        span=span, stats=stats, torch=torch, thinker=None, pl=SimpleNamespace(read_internals=lambda *given: None),
    )  # fmt: skip
    path = LESSONS / "06_gradient_variance.ipynb"
    (check,) = [cell.source for cell in nbformat.read(path, 4).cells if "def quiet_and_honest" in cell.source]
    exec(check, names)
    assert says in capsys.readouterr().out
