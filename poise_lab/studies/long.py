"""What comes after the first hundred steps? Three methods of the arena, trained six times as long: `poise-lab study long`.

The paper (arXiv 2605.07579) names long horizons as untested. Does the probe still track V(x), does entropy collapse,
does accuracy go on rising, and which mistakes are left? Everything is as in the arena, the learning rate that its search
chose among it; only the runs are longer. An interrupted study goes on where it stopped.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from ..files import json_line, write_json, write_text
from ..generate import sample_rollouts
from ..runs import by_label, format_table, read_lines, read_run
from ..show.lessons import settings
from ..sources import data_dir
from ..stats import mean_interval
from . import arena, thinking, trained

METHODS = ("poise x2", "rloo x2", "none x1")
STEPS, EVERY = 600, 50
TRAIN = f"--steps {STEPS} --eval-every {EVERY} --eval-responses 16"
# of held-out problems; but the entropy is of the batch that a step trains on, sampled before its updates
COLUMNS = thinking.COLUMNS | {"entropy": "entropy", "probe r": "probe_r_fresh"}


def runs() -> dict[str, str]:
    """Run folder to its flags of `poise-lab train`, with the rates that the recorded arena chose."""
    rates = {label: arena.best_rate(arena.scores(data_dir() / "arena", label)) for label in METHODS}
    return {
        arena.folder_of(label, seed): arena.flags(label, rates[label], seed, TRAIN)
        for seed in arena.SEEDS
        for label in METHODS
    }


def mistakes(run: Path) -> dict[str, dict[str, list[int]]]:
    """Of a finished run's policy on its held-out problems: "TASK SETTING" to its level to [wrong responses, responses]."""
    policy, problems, config = arena.finished(run)
    asked = dict(seed=config.seed, max_new_tokens=config.max_new_tokens)
    wrong = (sample_rollouts(policy, problems, config.eval_responses, **asked).rewards < 1).sum(1)
    found: dict = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for problem, failed in zip(problems, wrong.tolist(), strict=True):
        for setting, level in settings(problem).items():
            counts = found[setting][level]
            counts[0] += failed
            counts[1] += config.eval_responses
    return found


def finish(run: Path) -> None:
    """What is kept of a finished run: its evaluated steps, the texts of its last evaluation, its mistakes, `arena.final`.

    Stopped at any place, it can be called again.
    """
    write_json(run / "mistakes.json", mistakes(run))
    arena.final(run)
    write_text(run / "samples.jsonl", json_line(read_lines(run / "samples.jsonl")[-1]))
    arena.keep_evaluated(run)


def missing(out: Path) -> dict[str, float]:
    """The runs that are not there, with the minutes that one takes."""
    return trained.missing(runs(), out, data_dir() / "long")


def record(out: Path) -> None:
    """Make the runs that are missing."""
    trained.record(runs(), out, finish=finish, like=data_dir() / "long")


def recorded(out: Path) -> dict[str, list]:
    """The runs of each method that are there."""
    return by_label([read_run(out / name) for name in runs() if (out / name).is_dir()])


def says(out: Path) -> str:
    """How each figure went on: a row for each method, at the start, after 100 steps and at the end."""
    rows = []
    for label, group in recorded(out).items():
        for step in (0, 100, STEPS):
            row = {"method": label, "seeds": len(group), "step": step}
            for name, metric in COLUMNS.items():
                values = [dict(zip(*run.series(metric), strict=True)).get(step, np.nan) for run in group]
                row[name] = mean_interval(values)
            rows.append(row)
    return format_table(rows)
