"""What comes after the first hundred steps? Some methods of the arena, trained six times as long: `poise-lab study long`.

The paper (arXiv 2605.07579) names long horizons as untested. Does the probe still track V(x), does entropy collapse,
does accuracy go on rising, and which mistakes are left? Everything is as in the arena, the learning rate that its search
chose among it; only the runs are longer. An interrupted study goes on where it stopped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import json_line, read_json, write_json, write_text
from ..generate import sample_rollouts
from ..runs import RunRecord, by_label, format_table, read_lines, read_run
from ..show.lessons import settings
from ..sources import data_dir
from ..stats import Gap, gaps, mean_interval
from . import arena, thinking, trained

METHODS = ("poise x2", "rloo x2", "none x1", "score_weighted x2")
# the pairs that are asked about: POISE beside the others, and what it gains by another target for its probe
ASKED = (
    ("poise x2", "rloo x2"), ("poise x2", "none x1"), ("score_weighted x2", "poise x2"), ("score_weighted x2", "none x1"),
)  # fmt: skip
STEPS, EVERY = 600, 50
TRAIN = f"--steps {STEPS} --eval-every {EVERY} --eval-responses 16"
# of held-out problems; but the entropy is of the batch that a step trains on, sampled before its updates
COLUMNS = thinking.COLUMNS | {"entropy": "entropy", "probe r": "probe_r_fresh"}
SHORT = 100  # steps of the arena
SHOWN = (0, SHORT, STEPS // 2, STEPS)
LATE = 400  # where the last third begins
COMPARED = ("sampled accuracy", "greedy accuracy", "pass@16")


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


def recorded(out: Path) -> dict[str, list[RunRecord]]:
    """The runs of each method that are there."""
    folders = [out / arena.folder_of(label, seed) for seed in arena.SEEDS for label in METHODS]
    return by_label([read_run(folder) for folder in folders if folder.is_dir()])


def at_step(run: RunRecord, column: str, step: int) -> float:
    """One of COLUMNS at a step, NaN where it was not measured."""
    return dict(zip(*run.series(COLUMNS[column]), strict=True)).get(step, np.nan)


def rows(out: Path) -> list[dict]:
    """How each figure went on: for each method at each of SHOWN its mean over seeds, with a 95 % interval."""
    return [
        {"method": label, "seeds": len(group), "step": step}
        | {column: mean_interval([at_step(run, column, step) for run in group]) for column in COLUMNS}
        for label, group in recorded(out).items()
        for step in SHOWN
    ]


def differences(out: Path) -> dict[tuple[str, str, str], Gap]:
    """Of each pair of ASKED the first minus the second, by COMPARED, at step 100, at the end, and the end less step 100.

    Over the seeds that both have; kept is what survives Holm's correction for all of these. Keys are such as
    ("poise x2 minus none x1", "pass@16", "change").
    """
    by_seed = {label: {run.seed: run for run in group} for label, group in recorded(out).items()}
    found = {}
    for first, second in ASKED:
        ours, theirs = by_seed.get(first, {}), by_seed.get(second, {})
        both = sorted(ours.keys() & theirs.keys())
        for column in COMPARED if both else ():
            short, end = (
                np.array([at_step(ours[s], column, step) - at_step(theirs[s], column, step) for s in both])
                for step in (SHORT, STEPS)
            )
            for when, each in {f"step {SHORT}": short, f"step {STEPS}": end, "change": end - short}.items():
                found[f"{first} minus {second}", column, when] = each
    return gaps(found)


def left(out: Path, settings: Sequence[str]) -> list[dict]:
    """Which problems are still answered wrongly: a row for each level of settings such as "chain_sum num_terms".

    For each method the share of sampled responses that are wrong, its mean over seeds with a 95 % interval.
    """
    counted = {
        label: [read_json(run.folder / "mistakes.json") for run in group] for label, group in recorded(out).items()
    }
    table = []
    for setting in settings:
        levels = {level for group in counted.values() for run in group for level in run[setting]}
        for level in sorted(levels, key=float):
            shares = {
                label: mean_interval([np.divide(*run[setting][level]) for run in group if level in run[setting]])
                for label, group in counted.items()
            }
            table.append({"problems": f"{setting} {float(level):g}"} | shares)
    return table


def beside(out: Path) -> list[dict]:
    """The differences of `differences` as a table: a row for each pair and figure; * marks what survives."""
    table: dict = defaultdict(dict)
    for (pair, column, when), gap in differences(out).items():
        table[pair, column] |= {"difference": pair, "of": column, when: gap}
    return list(table.values())


def gained(out: Path, since: int) -> list[dict]:
    """What each method gained by its last steps: by COMPARED, the end less an earlier step, over seeds; nothing is corrected."""
    return [
        {f"steps {since} to {STEPS}": label}
        | {
            column: Gap(*mean_interval([at_step(run, column, STEPS) - at_step(run, column, since) for run in group]))
            for column in COMPARED
        }
        for label, group in recorded(out).items()
    ]


def says(out: Path) -> str:
    """The tables of `rows`, `beside` and `gained`."""
    tables = [table for table in (rows(out), beside(out), gained(out, SHORT), gained(out, LATE)) if table]
    return "\n\n".join(map(format_table, tables)) or format_table([])
