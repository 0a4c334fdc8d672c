"""Run folders: what made a run, its metrics per step, reading and comparing them.

A run folder holds config.json, metrics.jsonl (one line per finished step), checkpoints/ and
report.html. Files are written beside their place and then renamed, so none is ever half there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from scipy import stats

from .errors import PoiseLabError

PACKAGES = ("torch", "transformers", "reasoning-gym", "scikit-learn", "numpy")


def provenance() -> dict:
    """Versions, threads, date, and commit in a checkout: what a recorded number needs to be made again."""
    commit = checkout()
    return {
        **({"commit": commit} if commit else {}),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def checkout() -> str | None:
    """The commit of the git checkout that this package is used from, "-dirty" behind it if files were changed."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # installed elsewhere; a repository further up is another one
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def write_text(path: str | Path, text: str) -> None:
    """Write a file atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_json(path: str | Path, value) -> None:
    """Write JSON atomically, indented."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as safetensors, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    os.replace(partial, path)


def read_json(path: str | Path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def json_line(value: dict) -> str:
    """One line of a .jsonl file."""
    return json.dumps(value) + "\n"


@dataclasses.dataclass
class RunRecord:
    """A run: its folder, what made it, and its metrics, one dict per step (step 0 is the evaluation before).

    finished: whether it reached its last step.
    """

    folder: Path
    config: dict
    metrics: list[dict]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def label(self) -> str:
        """Baseline and responses per prompt, as shown in figures, and the engine if it is another."""
        baseline, engine = self.config["baseline"], self.config.get("engine")
        return f"{baseline['name']} x{baseline['responses']}" + (f" on {engine}" if engine else "")

    @property
    def seed(self) -> int:
        return self.config["train"]["seed"]

    @property
    def finished(self) -> bool:
        return bool(self.metrics) and self.metrics[-1]["step"] >= self.config["train"]["steps"]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it was measured."""
        pairs = [(m["step"], m[name]) for m in self.metrics if m.get(name) is not None]
        return [s for s, _ in pairs], [v for _, v in pairs]

    def mean(self, name: str, last: int | None = None) -> float:
        """Mean of a metric over the run, or over its last so many measurements. NaN if there is none."""
        values = self.series(name)[1]
        values = values[-last:] if last else values
        return float(np.mean(values)) if values else float("nan")

    def lift(self) -> float:
        """Held-out accuracy at the last evaluation minus the one before training."""
        accuracy = self.series("accuracy")[1]
        return accuracy[-1] - accuracy[0] if accuracy else float("nan")


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder. Raises PoiseLabError if it is none."""
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
        config["train"], config["baseline"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PoiseLabError(f"folder {folder} is no run folder: it has no readable config.json") from None
    return RunRecord(folder, config, read_metrics(folder))


def read_metrics(folder: Path) -> list[dict]:
    """The metrics of a run folder; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def mean_interval(values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and its two-sided t interval: (mean, low, high); NaN bounds below two values."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return mean, mean - float(half), mean + float(half)


def bootstrap_interval(
    statistic: Callable[..., float], *arrays, draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of arrays whose first axis is prompts, and its percentile interval: (value, low, high).

    Prompts are drawn with replacement, the same ones from every array, so a difference of two
    methods on the same prompts is a statistic like any other. The statistic is called with NumPy arrays.
    """
    arrays = [np.asarray(array) for array in arrays]  # small tensors cost more in torch's threads than in their sums
    generator, n = np.random.default_rng(seed), len(arrays[0])
    samples = (generator.integers(n, size=n) for _ in range(draws))
    values = [statistic(*(array[sample] for array in arrays)) for sample in samples]
    low, high = np.nanquantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(statistic(*arrays)), float(low), float(high)


SUMMARY = {  # column: how it is read off one run
    "accuracy at start": lambda run: run.series("accuracy")[1][0],
    "accuracy at end": lambda run: run.series("accuracy")[1][-1],
    "lift": RunRecord.lift,
    "1 - Var(A)/Var(R)": lambda run: run.mean("variance_reduction"),
    "probe r": lambda run: run.mean("probe_r_fresh"),
    "probe MAE": lambda run: run.mean("probe_mae_fresh"),
    "tokens": lambda run: run.metrics[-1]["tokens"],
    "minutes": lambda run: run.metrics[-1]["seconds"] / 60,
}


def by_label(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by setting (label), each setting's in order of their seeds."""
    groups: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault(run.label, []).append(run)
    return groups


def compare(runs: Sequence[RunRecord]) -> list[dict]:
    """One row per setting (label), its numbers as (mean, low, high) over seeds."""
    for run in runs:
        if not run.metrics:
            raise PoiseLabError(f"run {run.folder} has no finished step yet")
    return [
        {"run": label, "seeds": len(group), **{k: mean_interval([f(r) for r in group]) for k, f in SUMMARY.items()}}
        for label, group in by_label(runs).items()
    ]


def format_table(rows: list[dict]) -> str:
    """The rows of `compare` as a Markdown table; an interval is written mean [low, high]."""

    def cell(value) -> str:
        if not isinstance(value, tuple):
            return str(value)
        mean, low, high = value
        digits = 0 if abs(mean) >= 1000 else 3
        if mean != mean:
            return "-"
        return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")

    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([cell(row[k]) for k in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
