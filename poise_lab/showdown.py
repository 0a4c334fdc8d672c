"""Every baseline at equal budget, over seeds: `poise-lab compare --recipe showdown`.

What is the same for all: policy, tasks, held-out problems of a seed, the clipped surrogate with its token
mean, mini-batches, and the responses sampled per step, greedy ones included; only DAPO samples until enough
groups disagree, so its number follows from the policy, and all of it counts. Methods are compared after equal
tokens or seconds. What differs is the baseline, how it spends those responses on prompts, and the learning
rate, which the same small search chooses for each on a seed that is not used again.

A run is a folder like any other. Interrupted, the recipe goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .baselines import make_baseline
from .plots import lines, matrix
from .policies import load_policy
from .records import RunRecord, by_label, mean_interval, provenance, read_json, read_run, write_json
from .tasks import TINY_TASKS, load_task
from .trainer import TrainConfig, Trainer


@dataclasses.dataclass(frozen=True)
class Method:
    """A baseline and how it spends a step's responses: `prompts` groups of `responses`, and what comes on top."""

    baseline: str
    responses: int
    prompts: int

    @property
    def label(self) -> str:
        return f"{self.baseline} x{self.responses}"


BUDGET = 192  # responses per step
METHODS = (
    Method("none", 1, 192),
    Method("batch_mean", 1, 192),
    Method("constant", 1, 192),
    Method("remax", 1, 96),  # and 96 greedy ones
    Method("spo", 1, 192),
    Method("critic", 1, 192),
    Method("ppo", 1, 192),
    Method("rloo", 2, 96),
    Method("rloo", 8, 24),
    Method("grpo", 8, 24),
    Method("dr_grpo", 8, 24),
    Method("opo", 8, 24),
    Method("dapo", 8, 16),  # kept; groups that agree are drawn again
    Method("poise", 2, 96),
    Method("fused", 2, 96),
    Method("score_weighted", 2, 96),
    Method("oracle", 1, 192),  # and its fresh responses, which are not counted
)
LEARNING_RATES = (5e-5, 1e-4, 2e-4)
SEARCH_SEED, SEEDS = 100, (0, 1, 2, 3, 4)
TRAIN = dict(steps=40, eval_every=10, eval_responses=8)
SEARCH = dict(TRAIN, eval_every=20)
WARM_STEPS, PRICE_ROUNDS = 5, 8  # steps untimed (warm-up of the probe among them), then timed
PARTS = ("sample", "internals", "baseline", "update")  # of a step; evaluations are left out


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of the recipe. Finished, its folder is in place; until then it ends in .partial."""

    method: Method
    learning_rate: float
    seed: int
    folder: Path
    train: tuple

    def trainer(self, out: Path) -> Trainer:
        """What makes the run in a folder, going on with what is there."""
        config = TrainConfig(
            prompts=self.method.prompts, seed=self.seed, learning_rate=self.learning_rate, **dict(self.train)
        )
        baseline = make_baseline(self.method.baseline, responses=self.method.responses)
        resume = (out / "config.json").is_file()
        return Trainer(
            load_policy("tiny"), load_task(TINY_TASKS), baseline, config, out=out, resume=resume, progress=False
        )

    def __call__(self) -> RunRecord:
        partial = self.folder.with_name(self.folder.name + ".partial")
        self.trainer(partial).run()
        shutil.rmtree(partial / "checkpoints")
        os.replace(partial, self.folder)
        return read_run(self.folder)


def search_jobs(folder: Path) -> list[Job]:
    """The runs of the learning-rate search, one for each method and rate."""
    return [
        Job(m, lr, SEARCH_SEED, folder / "search" / f"{m.label.replace(' ', '-')}-{lr:g}", tuple(SEARCH.items()))
        for m in METHODS
        for lr in LEARNING_RATES
    ]


def chosen_rates(folder: Path) -> dict[str, float]:
    """The learning rate of each method (by label): the one with the highest last held-out accuracy."""
    best: dict[str, tuple[float, float]] = {}
    for job in search_jobs(folder):
        accuracy = read_run(job.folder).series("accuracy")[1][-1]
        best[job.method.label] = max(best.get(job.method.label, (-1.0, 0.0)), (accuracy, job.learning_rate))
    return {label: rate for label, (_, rate) in best.items()}


def main_jobs(folder: Path) -> list[Job]:
    """The runs that are compared, seed after seed."""
    rates = chosen_rates(folder)
    return [
        Job(m, rates[m.label], seed, folder / "runs" / f"{m.label.replace(' ', '-')}-{seed}", tuple(TRAIN.items()))
        for seed in SEEDS
        for m in METHODS
    ]


def record(folder: str | Path) -> list[RunRecord]:
    """Make the runs that are missing, one thread each and one per core, and return the compared ones."""
    folder = Path(folder)
    for jobs in (search_jobs, main_jobs):
        _run_all([job for job in jobs(folder) if not job.folder.exists()])
    path = folder / "prices.json"
    if not path.is_file() or set(read_json(path)["seconds_per_token"]) != {method.label for method in METHODS}:
        write_json(path, {**provenance(), "seconds_per_token": prices(folder)})
    return recorded(folder)


def prices(folder: Path) -> dict[str, list[float]]:
    """Seconds of training per sampled token, of each method (by label), one number per round.

    The runs are made at many times on machines that do other work, so their own clocks are not compared. Here
    the methods take a step each in turn, in one process: what slows one down slows its neighbours down.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {
            job.method.label: job.trainer(Path(scratch) / job.folder.name) for job in main_jobs(folder)[: len(METHODS)]
        }
        found: dict[str, list[float]] = {label: [] for label in trainers}
        for step in tqdm(range(1, WARM_STEPS + PRICE_ROUNDS + 1), desc="seconds per token"):
            for label, trainer in trainers.items():
                metrics = trainer.train_step(step)
                if step > WARM_STEPS:
                    found[label].append(sum(metrics[f"seconds_{part}"] for part in PARTS) / trainer.sampler.tokens)
    return found


def recorded(folder: str | Path) -> list[RunRecord]:
    """The compared runs of a recorded showdown; their config holds the prices of their method."""
    runs, price = [read_run(job.folder) for job in main_jobs(Path(folder))], read_json(Path(folder) / "prices.json")
    for run in runs:
        run.config["seconds_per_token"] = price["seconds_per_token"][run.label]
    return runs


def _start_child(parent: int) -> None:
    """One thread; and end with the parent, or a second start would find somebody at work in its folder."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)


def _run_all(jobs: Sequence[Job]) -> None:
    if not jobs:
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the children when they import torch
    try:
        context = multiprocessing.get_context("spawn")
        workers = dict(initializer=_start_child, initargs=(os.getpid(),), max_tasks_per_child=1)  # own peak memory
        with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs)), context, **workers) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in tqdm(as_completed(futures), total=len(futures), desc="runs"):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


# --- reading the runs ------------------------------------------------------------------------------


def spent(run: RunRecord, budget: str) -> tuple[np.ndarray, np.ndarray]:
    """What a run had spent on training at each evaluation, and its held-out accuracy there.

    budget: "tokens" (sampled), or "seconds": those tokens at the median price of the method (`prices`).
    """
    steps, accuracy = run.series("accuracy")
    tokens = dict(zip(*run.series("tokens"), strict=True))
    rate = 1.0 if budget == "tokens" else float(np.median(run.config["seconds_per_token"]))
    return rate * np.array([tokens[step] for step in steps]), np.array(accuracy)


def accuracy_at(run: RunRecord, budget: str, amount: float) -> float:
    """Held-out accuracy when so much was spent, linear between evaluations."""
    return float(np.interp(amount, *spent(run, budget)))


def curve(runs: Sequence[RunRecord], budget: str, amounts: Sequence[float]) -> list[tuple[float, float, float]]:
    """Held-out accuracy after each amount spent: (mean, low, high) over the runs."""
    return [mean_interval([accuracy_at(run, budget, amount) for run in runs]) for amount in amounts]


def spent_to(run: RunRecord, budget: str, target: float) -> float:
    """What it took to reach a held-out accuracy for the first time, linear between evaluations; NaN if never."""
    x, accuracy = spent(run, budget)
    for i in range(1, len(x)):
        if accuracy[i] >= target:
            low, high = accuracy[i - 1], accuracy[i]
            return float(x[i - 1] + (x[i] - x[i - 1]) * max(0.0, (target - low) / (high - low)))
    return float("nan")


def equal_budget(runs: Sequence[RunRecord], budget: str) -> float:
    """The most that every run has spent: where methods are compared."""
    return min(float(spent(run, budget)[0][-1]) for run in runs)


def summary(runs: Sequence[RunRecord], target: float = 0.7) -> list[dict]:
    """One row per method, numbers as (mean, low, high) over seeds, best accuracy at equal tokens first.

    Equal tokens (seconds) are those of `equal_budget`.
    """
    tokens, seconds = (equal_budget(runs, budget) for budget in ("tokens", "seconds"))
    columns: dict[str, Callable[[RunRecord], float]] = {
        "accuracy at equal tokens": lambda run: accuracy_at(run, "tokens", tokens),
        "at equal seconds": lambda run: accuracy_at(run, "seconds", seconds),
        f"tokens to {target:g}": lambda run: spent_to(run, "tokens", target),
        f"seconds to {target:g}": lambda run: spent_to(run, "seconds", target),
        "entropy at end": lambda run: run.series("entropy")[1][-1],
        "gradient norm": lambda run: run.mean("gradient_norm"),
        "1 - Var(A)/Var(R)": lambda run: run.mean("variance_reduction"),
        "peak memory, MB": lambda run: run.metrics[-1]["peak_memory_mb"],
    }
    rows = [
        {
            "method": label,
            "seeds": len(group),
            "learning rate": f"{group[0].config['train']['learning_rate']:g}",
            **{name: mean_interval([column(run) for run in group]) for name, column in columns.items()},
            "milliseconds per token": mean_interval(1000 * np.array(group[0].config["seconds_per_token"])),
        }
        for label, group in by_label(runs).items()
    ]
    return sorted(rows, key=lambda row: -row["accuracy at equal tokens"][0])


def verdict(a: Sequence[float], b: Sequence[float]) -> tuple[str, tuple[float, float, float]]:
    """Is a better than b, seed by seed? "better", "worse" or "inconclusive", and a - b with its 95 % interval."""
    difference = mean_interval(np.asarray(a) - np.asarray(b))
    _, low, high = difference
    return ("better" if low > 0 else "worse" if high < 0 else "inconclusive"), difference


def verdicts(runs: Sequence[RunRecord], budget: str = "tokens") -> dict[tuple[str, str], tuple]:
    """The verdict of each ordered pair of methods on accuracy at equal budget, from paired seeds."""
    equal = equal_budget(runs, budget)
    accuracy = {label: [accuracy_at(run, budget, equal) for run in group] for label, group in by_label(runs).items()}
    return {(a, b): verdict(accuracy[a], accuracy[b]) for a in accuracy for b in accuracy if a != b}


def figures(runs: Sequence[RunRecord]) -> list[tuple]:
    """Learning curves against tokens and seconds, and the matrix of verdicts: (figure, caption) each."""
    found, groups = [], by_label(runs)
    for budget in ("tokens", "seconds"):
        amounts = np.linspace(0, equal_budget(runs, budget), 9).round(1).tolist()
        curves = {label: curve(group, budget, amounts) for label, group in groups.items()}
        title, axis = f"Held-out accuracy at equal {budget}", f"{budget} spent on training"
        found.append((lines(amounts, curves, title, axis, "accuracy (share of responses)", height=600),
                      "Mean over seeds with 95 % bands; choose methods in the legend."))  # fmt: skip
    names = [row["method"] for row in summary(runs)]
    return [*found, (verdict_matrix(runs, names), "b: better, w: worse, empty: inconclusive, from paired seeds.")]


def verdict_matrix(runs: Sequence[RunRecord], names: Sequence[str]):
    """Figure of all pairs: mean paired difference in accuracy at equal tokens, row minus column, and its verdict."""
    pairs, letters = verdicts(runs), {"better": "b", "worse": "w", "inconclusive": ""}
    grid = [[0.0 if a == b else pairs[a, b][1][0] for b in names] for a in names]
    text = [["" if a == b else letters[pairs[a, b][0]] for b in names] for a in names]
    return matrix(grid, names, "Accuracy at equal tokens, row minus column", text, "difference", height=620)
