"""Baselines on the policy that learns to think, at equal responses a step, over seeds: `poise-lab study arena`.

What is the same for all: policy, tasks, held-out problems of a seed, the clipped surrogate, mini-batches, and the
responses sampled per step (but for DAPO, which draws more, until 16 groups disagree, and the oracle's fresh ones).
What differs is the baseline, how it spends those responses on prompts, and the learning rate, which one search
chooses for each: by sampled accuracy, averaged over seeds that are not used again, and widened until the best rate
lies inside. Methods are made one after the other, so an interrupted study holds whole methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..baselines import make_baseline
from ..baselines.base import mean_of_all_others
from ..config import TrainConfig
from ..evaluation import evaluate
from ..files import json_line, read_json, write_json, write_text
from ..policies import Policy, load_policy
from ..runs import RunRecord, format_table, read_run
from ..show.plots import Figure, in_order
from ..show.report_parts import pair_matrix
from ..stats import Gap, gaps, mean_interval, verdict
from ..tasks import Problem
from . import trained
from .common import differences, held_out_of
from .noises import Measured

BUDGET = 192  # responses per step
# label: baseline, responses to a prompt, prompts
METHODS = {
    f"{name} x{responses}": (name, responses, prompts)
    for name, responses, prompts in (
        ("poise", 2, 96), ("none", 1, 192), ("constant", 1, 192), ("none", 2, 96), ("rloo", 2, 96),
        ("prefix_weighted", 1, 192), ("grpo", 8, 24), ("batch_mean", 1, 192), ("rloo", 8, 24), ("oracle", 1, 192),
        ("batch_mean", 2, 96), ("critic", 1, 192), ("constant", 2, 96), ("critic", 2, 96), ("score_weighted", 2, 96),
        ("fused", 2, 96), ("ppo", 1, 192), ("dapo", 8, 16), ("spo", 1, 192), ("remax", 1, 96), ("dr_grpo", 8, 24),
        ("opo", 8, 24), ("sharpen", 1, 192), ("prefix", 1, 192),
    )
}  # fmt: skip
CONTROL = "sharpen x1"  # it sees no reward: shown beside the others, and not counted among the pairs
# baseline: what it subtracts from a reward
SUBTRACTS = {
    "none": "nothing",
    "constant": "one number for all prompts, from earlier steps, aimed at the least variance",
    "batch_mean": "mean reward of all other responses of the batch",
    "rloo": "mean reward of the siblings",
    "grpo": "group mean, its own reward included; divided by the group's standard deviation",
    "dr_grpo": "group mean, its own reward included",
    "opo": "group mean weighted by length, its own reward included",
    "dapo": "as GRPO; groups that agree give way to other prompts",
    "remax": "reward of the greedy response to the prompt",
    "spo": "running mean of each prompt, which comes again; normalised",
    "poise": "the probe's prediction of V(x) from the siblings' states",
    "fused": "weighted mean of POISE's and RLOO's baseline",
    "score_weighted": "POISE, its probe aimed at the least variance instead of V(x)",
    "prefix": "at each token the value of what stands before it",
    "prefix_weighted": "at each token a number from what stands before it, aimed at the least variance",
    "critic": "a second network's value, read from the prompt",
    "ppo": "a second network's value of every token; GAE",
    "oracle": "mean reward of 16 fresh responses, which are not counted",
    "sharpen": "control without rewards: it only makes the policy surer",
}
RATES, LOWEST, HIGHEST = (5e-5, 1e-4, 2e-4), 6.25e-6, 1.6e-3  # where the search begins, and how far it may go
SEARCH_SEEDS, SEEDS = (100, 101), (0, 1, 2, 3, 4)
SEARCH = "--steps 60 --eval-every 60 --eval-responses 8"
TRAIN = "--steps 100 --eval-every 20 --eval-responses 8"
FINAL_RESPONSES = 16  # to each held-out problem, of the final policy
COOL = 0.5  # the lower temperature at which the final policy is evaluated too
# column: the evaluation of the final policy that it comes from, and its figure there
COLUMNS = {
    "sampled accuracy": ("sampled", "accuracy"),
    "at temperature 0.5": ("cool", "accuracy"),
    "greedy accuracy": ("sampled", "greedy_accuracy"),
    "pass@16": ("sampled", "pass_at_16"),
    "tokens a response": ("sampled", "held_out_length"),
    "answers at once": ("sampled", "share_at_once"),
}
WAYS = tuple(COLUMNS)[:4]  # of decoding, by which methods are compared
# pairs of methods that are alike but for one thing: two responses to a prompt instead of one; the least variance as the
# aim of what is subtracted, instead of the value
CONTRASTS = {
    "two responses": [(f"{name} x2", f"{name} x1") for name in ("none", "constant", "batch_mean", "critic")],
    "another aim": [
        ("constant x1", "batch_mean x1"), ("constant x2", "batch_mean x2"), ("score_weighted x2", "poise x2"),
        ("prefix_weighted x1", "prefix x1"),
    ],
}  # fmt: skip


def flags(label: str, rate: float, seed: int, settings: str) -> str:
    """The run as flags of `poise-lab train`."""
    name, responses, prompts = METHODS[label]
    spent = f"--baseline {name} --set responses={responses} --prompts {prompts}"
    return f"--policy thinker {spent} --learning-rate {rate:g} --seed {seed} {settings}"


def folder_of(label: str, seed: int, rate: float | None = None) -> str:
    """Name of a run's folder; with its rate if it is one of the search."""
    return "-".join([label.replace(" ", "-"), *([] if rate is None else [f"{rate:g}"]), str(seed)])


def scores(out: Path, label: str) -> dict[float, float]:
    """Mean held-out accuracy at the end of the search, of each rate that was searched with every seed."""
    found: dict[float, list[float]] = {}
    for folder in sorted((out / "search").glob(f"{label.replace(' ', '-')}-*")):
        if folder.suffix != ".partial":
            run = read_run(folder)
            found.setdefault(run.config["train"]["learning_rate"], []).append(run.series("accuracy")[1][-1])
    return {rate: float(np.mean(each)) for rate, each in sorted(found.items()) if len(each) == len(SEARCH_SEEDS)}


def next_rates(found: dict[float, float]) -> list[float]:
    """The rates to search next: those it begins with, then one beyond an edge that won; none when the best lies inside."""
    left = [rate for rate in RATES if rate not in found]
    if left:
        return left
    best = best_rate(found)
    if best == min(found) and best > LOWEST:
        return [best / 2]
    return [best * 2] if best == max(found) and best < HIGHEST else []


def best_rate(found: dict[float, float]) -> float:
    """The rate with the highest accuracy, the lower one of equals."""
    return max(sorted(found), key=found.get)


def finished(run: Path) -> tuple[Policy, list[Problem], TrainConfig]:
    """A finished run's last policy, its held-out problems, and its settings with `FINAL_RESPONSES` to each of them."""
    _, config, problems = held_out_of(run)
    return load_policy(run), problems, dataclasses.replace(config, eval_responses=FINAL_RESPONSES)


def finish(run: Path) -> None:
    """What is kept of a finished run: its evaluated steps, and `final`."""
    final(run)
    slim(run)


def final(run: Path) -> None:
    """Write `final.json` into a finished run folder: its last policy on its held-out problems, at temperatures 1 and 0.5."""
    policy, problems, config = finished(run)
    figures = {}
    for name, temperature in (("sampled", 1.0), ("cool", COOL)):
        asked = dataclasses.replace(config, temperature=temperature)
        figures[name] = evaluate(policy, problems, make_baseline("none"), asked)[0]
    write_json(run / "final.json", figures)


def slim(run: Path) -> None:
    """Keep of a finished run the steps that were evaluated, and no texts: of so many, all steps would weigh too much."""
    (run / "samples.jsonl").unlink(missing_ok=True)
    keep_evaluated(run)


def keep_evaluated(run: Path) -> None:
    """Keep of a finished run the steps that were evaluated."""
    evaluated = [metrics for metrics in read_run(run).metrics if "accuracy" in metrics]
    write_text(run / "metrics.jsonl", "".join(map(json_line, evaluated)))


def whole(out: Path, label: str) -> bool:
    """Whether all runs of a method are there."""
    return all((out / "runs" / folder_of(label, seed)).is_dir() for seed in SEEDS)


def missing(out: Path) -> dict[str, float]:
    """The methods that are not whole; what one takes depends on how far its search must go."""
    return {label: float("nan") for label in METHODS if not whole(out, label)}


def record(out: Path) -> None:
    """Make what is missing, one method after the other: its search, then its seeds."""
    for label in missing(out):
        while rates := next_rates(scores(out, label)):
            runs = {folder_of(label, s, r): flags(label, r, s, SEARCH) for r in rates for s in SEARCH_SEEDS}
            trained.record(runs, out / "search", finish=slim)
        rate = best_rate(scores(out, label))
        runs = {folder_of(label, s): flags(label, rate, s, TRAIN) for s in SEEDS}
        trained.record(runs, out / "runs", finish=finish)


def runs(out: Path, label: str) -> list[RunRecord]:
    """The runs of a whole method, in order of their seeds."""
    return [read_run(out / "runs" / folder_of(label, seed)) for seed in SEEDS]


def curve(group: Sequence[RunRecord], spent: str, amounts: Sequence[float]) -> list[tuple]:
    """Held-out accuracy after each amount spent, (mean, low, high) over runs: linear between evaluations, NaN past an end.

    spent: "responses" or "tokens", as many as were sampled for training.
    """
    lines = [run.accuracy_by(spent) for run in group]
    return [mean_interval([np.interp(amount, *line, right=np.nan) for line in lines]) for amount in amounts]


def ends(out: Path) -> dict[str, dict[str, list[float]]]:
    """Of each whole method, the final policies of its seeds: one number per seed for each of COLUMNS, and "entropy".

    The entropy is not of the final policy: it is that of the tokens of the last training batch (nats), which was sampled
    before this step's updates; for DAPO of the groups that it keeps.
    """
    found = {}
    for label in (label for label in METHODS if whole(out, label)):
        group = runs(out, label)
        finals = [read_json(run.folder / "final.json") for run in group]
        found[label] = {column: [final[part][name] for final in finals] for column, (part, name) in COLUMNS.items()}
        found[label]["entropy"] = [run.series("entropy")[1][-1] for run in group]
    return found


def compared(out: Path) -> dict[str, dict[str, list[float]]]:
    """`ends` of the methods that are compared in pairs: all but the control."""
    return {label: each for label, each in ends(out).items() if label != CONTROL}


def judged(of: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], tuple[str, tuple, bool]]:
    """From each method's numbers, one a seed: each ordered pair by its word, a - b with its 95 % interval over paired
    seeds, and whether that survives Holm's correction for the number of pairs."""
    kept = {
        pair
        for pair, gap in gaps({(a, b): np.subtract(of[a], of[b]) for a in of for b in of if a < b}).items()
        if gap.kept
    }
    return {(a, b): (*verdict(of[a], of[b]), (min(a, b), max(a, b)) in kept) for a in of for b in of if a != b}


def verdicts(out: Path, column: str) -> dict[tuple[str, str], tuple[str, tuple, bool]]:
    """Each ordered pair of whole methods but the control, by one of WAYS, as `judged` has it."""
    return judged({label: each[column] for label, each in compared(out).items()})


def counts(out: Path) -> list[dict]:
    """By each of WAYS: how many pairs of `verdicts` there are, how many lie off zero by themselves, and how many survive."""
    rows = []
    for way in WAYS:
        said = [found for (a, b), found in verdicts(out, way).items() if a < b]
        alone = sum(word != "inconclusive" for word, *_ in said)
        rows.append({"decoded": way, "pairs": len(said), "off zero, pair by pair": alone,
                     "survive Holm's correction": sum(kept for *_, kept in said)})  # fmt: skip
    return rows


def contrast(out: Path, what: str) -> list[dict]:
    """The rows of `common.differences` for the pairs of one of CONTRASTS whose methods are whole, by WAYS; and one for the
    mean over these pairs, if there are more, which is a question of its own."""
    of = ends(out)
    pairs = [(a, b) for a, b in CONTRASTS[what] if a in of and b in of]
    rows = differences(of, pairs, WAYS, what)
    if len(pairs) > 1:
        each = {way: [np.subtract(of[a][way], of[b][way]) for a, b in pairs] for way in WAYS}
        rows.append({what: "mean"} | {way: Gap(*mean_interval(np.mean(pair, axis=0))) for way, pair in each.items()})
    return rows


def matrix(out: Path, column: str) -> Figure:
    """All pairs of `verdicts`, best mean first: row minus column, with a letter where a verdict survives."""
    means = {label: float(np.mean(each[column])) for label, each in compared(out).items()}
    names = sorted(means, key=means.get, reverse=True)
    found = {pair: (word if kept else "inconclusive", gap) for pair, (word, gap, kept) in verdicts(out, column).items()}
    title, axes = f"{column}, row minus column", ("method (column)", "method (row)")
    return pair_matrix(
        found, names, title.capitalize(), *axes, "difference<br>(share)", height=min(660, 340 + 24 * len(names))
    )


def beside(out: Path, of_method: dict[str, float], column: str, title: str, number: str) -> Figure:
    """A number of each method and its final accuracy by one of WAYS, in order of the number; of the methods that have both."""
    both = {label: each[column] for label, each in ends(out).items() if label in of_method}
    points = {label: (of_method[label], mean_interval(values)) for label, values in both.items()}
    groups = {label: f"{(n := METHODS[label][1])} response{'s' if n > 1 else ''} to a prompt" for label in points}
    return in_order(points, groups, title, "baseline x responses per prompt", f"{column} (share)", number)


def says(out: Path) -> str:
    """One row for each whole method, best sampled accuracy first: its rate, its final policies decoded in each way, and
    the entropy of the last training batch, as `ends` has it; how many pairs are told apart; and the contrasts, with * at
    what survives."""
    rows = [
        {"method": label, "learning rate": f"{best_rate(scores(out, label)):g}"}
        | {column: mean_interval(values) for column, values in each.items()}
        for label, each in ends(out).items()
    ]
    table = format_table(sorted(rows, key=lambda row: -row["sampled accuracy"][0]))
    tables = [counts(out)] if rows else []
    tables += [contrast(out, what) for what in CONTRASTS]
    return "\n\n".join([table, *map(format_table, filter(None, tables))])


def noise(measured: Measured) -> dict[str, np.ndarray]:
    """Of the methods whose noise is known: that of the gradient before training over that of none x1, bootstrap draws behind it.

    measured: what `poise-lab study when` has of the same policy and tasks. PPO is left out: with a lambda below 1 its
    gradient is biased, and noise is comparable only between methods that leave the expected gradient as it is.
    """
    rewards = measured.arrays["rewards"]
    found = {label: drawn for label, drawn in measured.sums.items() if label in METHODS and label != "ppo x1"}
    pairs = {"none": rewards, "constant": measured.arrays["advantages/constant"],
             "batch_mean": rewards - mean_of_all_others(rewards)}  # fmt: skip
    return found | {f"{name} x2": measured.noise_of(advantages, 2) for name, advantages in pairs.items()}
