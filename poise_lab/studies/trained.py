"""Recorded runs of `poise-lab train`: which ones, with which flags, each in a process of one thread, a process to a core.

A run is made in a folder that ends in .partial and put in its place when it has finished and its checkpoints are gone.
Interrupted, it goes on where it stopped; a folder that stands at its place is never made again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import psutil
from tqdm.auto import tqdm

from .. import threads
from ..config import TrainConfig
from ..errors import PoiseLabError
from ..runs import read_run

SEEDS = (0, 1, 2, 3, 4)
POLL = 2.0  # seconds between two looks at how far the runs are
DEFAULT_PEAK_MB = 1500.0  # of a run where none is recorded: the bundled policies' have half of it
# of a recorded run
KEPT = ("config.json", "metrics.jsonl", "samples.jsonl", "final.json", "pairs.json", "mistakes.json")

# Each name is that of a run folder. The bundled policy: POISE, RLOO, and two controls that see no reward.
RUNS = {
    f"{name}-{seed}": f"--baseline {name} --seed {seed}"
    for name in ("poise", "rloo", "random_rewards", "sharpen")
    for seed in SEEDS
}

# Short runs of the bundled policy on either engine.
ENGINES = {
    f"{engine}-{seed}": f"--engine {engine} --steps 40 --eval-every 20 --seed {seed}"
    for seed in SEEDS
    for engine in ("lab", "trl")
}


def _like(recorded: Path, name: str) -> list:
    """The recorded runs that differ from this one in the last part of the name, the seed."""
    return [read_run(folder) for folder in recorded.glob(f"{name.rpartition('-')[0]}-*") if folder.suffix != ".partial"]


def minutes_like(recorded: Path, name: str) -> float:
    """Mean minutes of the recorded runs that differ from this one in the last part of the name, the seed; NaN if none do."""
    like = _like(recorded, name)
    return float(np.mean([run.metrics[-1]["seconds"] / 60 for run in like])) if like else float("nan")


def most_at_once(names: Sequence[str], recorded: Path | None) -> int:
    """How many runs are made at a time: one to a core, as many as memory holds by the largest peak of recorded ones."""
    peaks = [run.metrics[-1]["peak_memory_mb"] for name in names for run in (_like(recorded, name) if recorded else ())]
    free = psutil.virtual_memory().available / 1e6
    return max(1, min(threads.usable(), int(free // max(peaks, default=DEFAULT_PEAK_MB))))


def missing(names: Sequence[str], out: Path, recorded: Path) -> dict[str, float]:
    """The runs that are not in the folder, with the minutes that one takes as `minutes_like` has it."""
    return {name: minutes_like(recorded, name) for name in names if not (out / name).exists()}


def put_in_place(folder: Path) -> None:
    """A finished run to where it belongs, without its checkpoints; killed on the way, the same call goes on.

    Raises PoiseLabError if something stands there.
    """
    if folder.exists():
        raise PoiseLabError(f"folder {folder} is there already; a recorded run is not made again")
    finished = finished_of(folder)
    if not finished.exists():
        os.rename(partial_of(folder), finished)  # killed before, what needs the weights can still be done
    for path in finished.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.rename(finished, folder)


def partial_of(folder: Path) -> Path:
    """Where a run is until it has finished."""
    return folder.with_name(folder.name + ".partial")


def finished_of(folder: Path) -> Path:
    """Where a run is that has finished, while its checkpoints are removed."""
    return folder.with_name(folder.name + ".finished.partial")


def finished_partial(folder: Path, flags: str) -> bool:
    """Whether a run has all the steps that the flags ask for, and was only not put in its place."""
    partial, parser = partial_of(folder), argparse.ArgumentParser(allow_abbrev=False)
    if not (partial / "config.json").is_file():
        return False
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    run = read_run(partial)
    return run.finished and run.config["train"]["steps"] == parser.parse_known_args(flags.split())[0].steps


def train(folder: Path, flags: str, finish: Callable[[Path], None] | None = None) -> None:
    """Make one run folder.

    finish: what is done with the finished run, before its checkpoints go.

    Raises PoiseLabError if `poise-lab train` did not finish, KeyboardInterrupt if it was interrupted.
    """
    if not finished_of(folder).exists():
        if not finished_partial(folder, flags):
            _train(folder, flags)
        if finish:
            finish(partial_of(folder))
    put_in_place(folder)


def _train(folder: Path, flags: str) -> None:
    """Begin a run, or go on with it."""
    partial = partial_of(folder)
    resume = ["--resume"] if (partial / "config.json").is_file() else []
    command = [sys.executable, "-m", "poise_lab", "train", *flags.split(), "--quiet", "--out", str(partial), *resume]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    status = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise PoiseLabError(f"run {folder} was not finished; what stopped it is said above")


def share_done(folder: Path) -> float:
    """What part of its steps a run has behind it, 0 to 1."""
    if folder.exists() or finished_of(folder).exists():
        return 1.0
    try:
        run = read_run(partial_of(folder))
    except PoiseLabError:  # not begun
        return 0.0
    return run.metrics[-1]["step"] / run.config["train"]["steps"] if run.metrics else 0.0


def record(
    runs: dict[str, str],
    out: Path,
    at_once: int | None = None,
    finish: Callable[[Path], None] | None = None,
    like: Path | None = None,
) -> None:
    """Make the runs that are missing in a folder, some at a time; when one stops, those at work end and no other begins.

    at_once: how many at a time; by default `most_at_once`. like: where recorded runs like these lie.
    """
    out.mkdir(parents=True, exist_ok=True)
    stopped, names = threading.Event(), [name for name in runs if not (out / name).exists()]
    if not names:
        return

    def make(name: str) -> None:
        if not stopped.is_set():
            try:
                train(out / name, runs[name], finish)
            except BaseException:
                stopped.set()
                raise

    bar_format = "{l_bar}{bar}| {n:.1f} of {total} runs [{elapsed}<{remaining}]"
    with (
        ThreadPoolExecutor(at_once or most_at_once(names, like)) as pool,
        tqdm(total=len(names), desc=str(out), bar_format=bar_format) as bar,
    ):
        futures = [pool.submit(make, name) for name in names]
        try:
            while wait(futures, timeout=POLL).not_done:
                bar.update(sum(share_done(out / name) for name in names) - bar.n)
            for future in futures:
                future.result()
            bar.update(len(names) - bar.n)
        except KeyboardInterrupt:  # the runs at work get the same Ctrl-C, and save
            stopped.set()
            raise


def read(out: Path, names: Sequence[str]) -> list:
    """The runs of a folder, in order of their names; others that lie there are left out."""
    return [read_run(out / name) for name in sorted(names)]
