"""Beside others: a run and sampling next to a busy process, and a course of kernels at once."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..baselines import make_baseline
from ..config import TrainConfig
from ..errors import PoiseLabError
from ..generate import sample_rollouts
from ..policies import load_policy
from ..tasks import TINY_TASKS, load_task
from ..threads import COUNTS, WAITING, usable
from ..trainer import Trainer
from .bench_cases import ROUNDS, prompts_of

COURSE_STEPS = 10  # of a live run in a notebook
STUDENTS = 10  # of a course, each with such a run
AS_INSTALLED = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}  # what the OpenMP libraries do by themselves
WORK = (
    ("seconds_of_training", "twelve steps of the bundled policy"),
    ("seconds_of_sampling", "sampling from llama-135m"),
)


def seconds_of_training(steps: int = 12) -> float:
    """Seconds of the first steps of `poise-lab train` in this process, after everything is loaded."""
    policy, task = load_policy("thinker"), load_task(TINY_TASKS)
    config = TrainConfig(steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        Trainer(policy, task, make_baseline("poise"), config, out=Path(folder) / "run", progress=False).run()
        return time.perf_counter() - start


def seconds_of_sampling() -> float:
    """Seconds of sampling from a policy of SmolLM2's shape in this process, after everything is loaded."""
    policy, problems, responses, limit = prompts_of("llama")
    start = time.perf_counter()
    sample_rollouts(policy, problems, responses, seed=0, max_new_tokens=limit)
    return time.perf_counter() - start


def _seconds_beside(busy: int, work: str, settings: dict[str, str]) -> float:
    """What a function of this module returns in a process with these environment variables, beside `busy` processes that never wait."""
    environment = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)} | settings
    program = f"from {__name__} import {work}; print({work}())"
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    if done.returncode:
        raise PoiseLabError(f"the process of {work} ended with status {done.returncode}; see above")
    return float(done.stdout.splitlines()[-1])


def bench_shared(work: str, case: str) -> list[dict]:
    """The same work alone and beside one busy process, in turn, for three settings of the threads."""
    settings = {
        "as the package sets it": {},
        "one thread": {"OMP_NUM_THREADS": "1"},
        f"as installed, {usable()} threads": {"OMP_NUM_THREADS": str(usable()), **AS_INSTALLED},
    }
    seconds = {(name, busy): [] for name in settings for busy in (0, 1)}
    for _ in range(ROUNDS):
        for name, busy in seconds:
            seconds[name, busy].append(_seconds_beside(busy, work, settings[name]))
    median = {key: statistics.median(each) for key, each in seconds.items()}
    best = min(median[name, 0] for name in settings)
    return [
        {
            "case": f"{case}, {name}",
            "alone, s": round(median[name, 0], 1),
            "of the best alone": round(median[name, 0] / best, 2),
            "beside one busy process, s": round(median[name, 1], 1),
            "of its time alone": round(median[name, 1] / median[name, 0], 2),
        }
        for name in settings
    ]


def _seconds_together(kernels: int) -> float:
    """Seconds until so many processes, begun at once, have each loaded the package and made the first steps of a run."""
    environment = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)}
    command = [sys.executable, "-c", f"from {__name__} import seconds_of_training; seconds_of_training({COURSE_STEPS})"]
    start = time.perf_counter()
    begun = [subprocess.Popen(command, env=environment) for _ in range(kernels)]
    ended = [process.wait() for process in begun]
    if any(ended):
        raise PoiseLabError(f"{sum(map(bool, ended))} of {kernels} processes ended with an error; see above")
    return time.perf_counter() - start


def bench_course() -> dict:
    """A course: as many runs at once as students, against one alone."""
    alone = statistics.median(_seconds_together(1) for _ in range(ROUNDS))
    together = _seconds_together(STUDENTS)
    return {
        "case": f"{STUDENTS} live runs of {COURSE_STEPS} steps at once on {usable()} cores",
        "one alone, s": round(alone, 1),
        "all, s": round(together, 1),
        "of the work divided by the cores": round(together / (STUDENTS * alone / usable()), 2),
    }
