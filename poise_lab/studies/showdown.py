"""Every baseline at equal budget, over seeds: `poise-lab study showdown`.

What is the same for all: policy, tasks, held-out problems of a seed, the clipped surrogate with its token
mean, mini-batches, and the responses sampled per step, greedy ones included; only DAPO samples until enough
groups disagree, so its number follows from the policy, and all of it counts. Methods are compared after equal
tokens or seconds. What differs is the baseline, how it spends those responses on prompts, and the learning
rate, which the same small search chooses for each on a seed that is not used again.

A run is a folder like any other. Interrupted, the study goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from .. import threads
from ..baselines import make_baseline
from ..baselines.base import Baseline
from ..files import provenance, read_json, write_json
from ..policies import load_policy
from ..runs import RunRecord, read_run
from ..sources import data_dir
from ..tasks import TINY_TASKS, load_task
from ..trainer import TrainConfig, Trainer
from . import trained
from .trained import finished_partial, partial_of, put_in_place


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
    """One run of the study. Finished, its folder is in place; until then it ends in .partial."""

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
        partial = partial_of(self.folder)
        if not finished_partial(self.folder):
            self.trainer(partial).run()
        put_in_place(partial, self.folder)
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


def priced(folder: Path) -> bool:
    """Whether the folder holds a price for every method."""
    path, labels = folder / "prices.json", {method.label for method in METHODS}
    return path.is_file() and set(read_json(path)["seconds_per_token"]) == labels


def missing(folder: Path) -> dict[str, float]:
    """What is not in the folder, with the minutes that it takes as far as recorded runs tell."""
    searched = [job.folder.name for job in search_jobs(folder)]
    compared = [f"{m.label.replace(' ', '-')}-{seed}" for seed in SEEDS for m in METHODS]
    recorded = data_dir() / "showdown"
    return {
        **trained.missing(searched, folder / "search", recorded / "search"),
        **trained.missing(compared, folder / "runs", recorded / "runs"),
        **({} if priced(folder) else {"prices.json": float("nan")}),
    }


def record(folder: str | Path) -> list[RunRecord]:
    """Make the runs that are missing, one thread each and one per core, and return the compared ones."""
    folder = Path(folder)
    for jobs in (search_jobs, main_jobs):
        _run_all([job for job in jobs(folder) if not job.folder.exists()])
    if not priced(folder):
        with _children(1) as pool:
            found = pool.submit(prices, main_jobs(folder)[: len(METHODS)], WARM_STEPS, PRICE_ROUNDS).result()
            write_json(folder / "prices.json", found)
    return recorded(folder)


def prices(jobs: Sequence[Job], warm: int, rounds: int) -> dict:
    """Seconds of training per sampled token of each job's method (by label), one number per round; and what made them.

    The runs are made at many times on machines that do other work, so their own clocks are not compared. Here
    the methods take a step each in turn, in one process: what slows one down slows its neighbours down. Responses
    that are not counted (the oracle's) cost no seconds either.

    warm: steps of each before the first timed round.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {job.method.label: job.trainer(Path(scratch) / job.folder.name) for job in jobs}
        found: dict[str, list[float]] = {label: [] for label in trainers}
        for step in tqdm(range(1, warm + rounds + 1), desc="seconds per token"):
            for label, trainer in trainers.items():
                metrics = trainer.train_step(step)
                if step > warm:
                    seconds = sum(metrics[f"seconds_{part}"] for part in PARTS) - trainer.sampler.uncounted_seconds
                    found[label].append(seconds / trainer.sampler.tokens)
    return {**provenance(), "seconds_per_token": found}


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
    threads.use_one()


@contextlib.contextmanager
def _children(most: int):
    """A pool of processes of one thread each, one per core that this process may use, `most` at most."""
    context = multiprocessing.get_context("spawn")
    workers = dict(initializer=_start_child, initargs=(os.getpid(),), max_tasks_per_child=1)  # own peak memory
    with ProcessPoolExecutor(min(threads.usable(), most), context, **workers) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_all(jobs: Sequence[Job]) -> None:
    if not jobs:
        return
    with _children(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), desc="runs"):
            future.result()


def held_bytes(baseline: Baseline) -> int:
    """What a baseline itself holds between steps: weights, optimizer moments, probe, buffer, counts.

    The policy and its optimizer are not in it; they are the same for all.
    """
    return sum(each.numel() * each.element_size() for each in baseline.state_dict().values())
