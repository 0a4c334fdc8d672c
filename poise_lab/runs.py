"""Run folders: what made a run, its metrics per step, reading and comparing them.

A run folder holds config.json, metrics.jsonl (one line per finished step), samples.jsonl, checkpoints/ and,
once it has finished, policy/ in transformers' format. Files are written beside their place and then renamed, so none is ever half there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import PoiseLabError
from .files import LOCK, as_json, check_writable, only_writer, read_json, write_text
from .policies import SPOKEN, Policy
from .stats import Gap, mean_interval

# What makes a run, besides its seed; all else in config.json (date, versions, threads) says how it was made.
FOUND = ("dtype", "adapters", "starting_weights")  # what a run finds its policy to be; no flag sets it
SETTINGS = ("engine", "policy", *SPOKEN, *FOUND, "task", "task_settings", "baseline", "train")
NEEDED = {"train.seed": int, "train.steps": int, "baseline.name": str, "baseline.responses": int}  # of a run folder
ASIDE = ("train.seed", "train.checkpoint_every")  # two runs that differ in nothing else are seeds of one setting


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

    def accuracy_by(self, spent: str) -> tuple[list[float], list[float]]:
        """What was sampled for training until each evaluation, "tokens" or "responses", and the held-out accuracy there."""
        steps, accuracy = self.series("accuracy")
        total = dict(zip(*self.series(spent), strict=True))
        return [total[step] for step in steps], accuracy

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
    """Read a run folder. Raises PoiseLabError if it is none, or if what every run says of itself is not there."""
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
        said = flat({part: dict(config[part]) for part in ("train", "baseline")})
    except (OSError, ValueError, KeyError, TypeError):
        raise PoiseLabError(f"folder {folder} is no run folder: it has no readable config.json") from None
    for path, kind in NEEDED.items():
        if not isinstance(said.get(path), kind):
            raise PoiseLabError(f"folder {folder} is no run folder: its config.json does not say {path}")
    metrics = read_metrics(folder)
    for record in metrics:
        for name in ("tokens", "seconds"):
            if not isinstance(record.get(name), int | float):
                raise PoiseLabError(
                    f"{folder / 'metrics.jsonl'} is damaged: step {record['step']} has no number of {name}"
                )
    return RunRecord(folder, config, metrics)


def read_metrics(folder: Path) -> list[dict]:
    """The metrics of a run folder; a last line cut off by a kill is left out. Raises PoiseLabError for steps out of order."""
    metrics = read_lines(folder / "metrics.jsonl")
    steps = [record.get("step") for record in metrics]
    for before, step in itertools.pairwise([-1, *steps]):
        if type(step) is not int or step <= before:
            raise PoiseLabError(f"{folder / 'metrics.jsonl'} is damaged: step {step} stands behind step {before}")
    return metrics


def read_lines(path: Path) -> list[dict]:
    """The records of a .jsonl file that grows line by line; a last one cut off by a kill is left out, no file is none."""
    if not path.is_file():
        return []
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]
    except ValueError as e:
        raise PoiseLabError(f"{path} is damaged: {e}") from None
    if not all(isinstance(record, dict) for record in records):
        raise PoiseLabError(f"{path} is damaged: a line is no record")
    return records


SUMMARY = {  # column: how it is read off one run
    "accuracy at start": lambda run: (run.series("accuracy")[1] or [math.nan])[0],  # on TRL a run may have none
    "accuracy at end": lambda run: run.mean("accuracy", last=1),
    "lift": RunRecord.lift,
    "1 - Var(A)/Var(R)": lambda run: run.mean("variance_reduction"),
    "probe r": lambda run: run.mean("probe_r_fresh"),
    "probe MAE": lambda run: run.mean("probe_mae_fresh"),
    "tokens": lambda run: run.metrics[-1]["tokens"],
    "minutes": lambda run: run.metrics[-1]["seconds"] / 60,
}


def by_label(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by setting, each setting's in order of their seeds: runs in one list differ in their seed only.

    A setting is called by the label of its runs; where several have the same label, what they differ in stands behind it
    ("poise x2, task gcd").

    Raises PoiseLabError for the same run twice, of which no interval could be made.
    """
    alike: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        alike.setdefault(run.label, []).append(run)
    groups: dict[str, list[RunRecord]] = {}
    for label, same in alike.items():
        for run, more in zip(same, what_differs([run.config for run in same]), strict=True):
            group = groups.setdefault(", ".join([label, *more]), [])
            if group and group[-1].seed == run.seed:
                raise PoiseLabError(
                    f"{group[-1].folder} and {run.folder} are one run: they have the same settings and the same seed; "
                    "name one of them"
                )
            group.append(run)
    return groups


def what_differs(configs: Sequence[dict]) -> list[list[str]]:
    """For each config of runs, the settings that are not the same in all of them, in words: ["learning rate 0.0002"].

    A setting that some do not name at all was not there when they were made: it is left out. So are those of a task,
    where only other tasks have others.
    """
    known = [name for name in SETTINGS if all(name in config for config in configs)]
    plain = [flat({name: config[name] for name in known}) for config in configs]
    words: list[list[str]] = [[] for _ in configs]
    for path in dict.fromkeys(path for config in plain for path in config if path not in ASIDE):
        kept = {(c.get("task") if path.startswith("task_settings") else "", repr(c.get(path))) for c in plain}
        if len(kept) > len({task for task, _ in kept}):
            name = path.removeprefix("train.").removeprefix("baseline.").removeprefix("task_settings.")
            for said, config in zip(words, plain, strict=True):
                said.append(f"{name.replace('.', ' ').replace('_', ' ')} {short(config.get(path))}")
    return words


def short(value) -> str:
    """A value on one line of at most 60 letters; what is cut off, such as most of a template, is told apart by a hash."""
    text = str(value)
    if len(text) <= 60 and text.isprintable():
        return text
    line = " ".join(text.split())
    line = line if len(line) <= 40 else f"{line[:19]}…{line[-20:]}"
    return f"{line} ({hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]})"


def flat(config: dict, prefix: str = "") -> dict[str, object]:
    """A nested dict as one from paths ("train.seed") to values; a tuple is the list that JSON makes of it."""
    paths = {}
    for key, value in config.items():
        if isinstance(value, dict):
            paths |= flat(value, f"{prefix}{key}.")
        else:
            paths[prefix + key] = list(value) if isinstance(value, tuple) else value
    return paths


def compare(runs: Sequence[RunRecord]) -> list[dict]:
    """One row per setting (`by_label`), its numbers as (mean, low, high) over seeds.

    Where runs have not finished, a column "unfinished" says which ones, and how far they are.

    Raises PoiseLabError for a run without a finished step, and for the same run twice.
    """
    for run in runs:
        if not run.metrics:
            raise PoiseLabError(f"run {run.folder} has no finished step yet")
    at = {run.folder: f"{run.name} at step {run.metrics[-1]['step']} of {run.config['train']['steps']}" for run in runs}
    some = not all(run.finished for run in runs)
    rows = []
    for label, group in by_label(runs).items():
        left = ", ".join(at[run.folder] for run in group if not run.finished)
        row = {"run": label, "seeds": len(group)} | ({"unfinished": left or "-"} if some else {})
        rows.append(row | {name: mean_interval([of(run) for run in group]) for name, of in SUMMARY.items()})
    return rows


def format_table(rows: list[dict]) -> str:
    """The rows of `compare` as a Markdown table; an interval is written mean [low, high]. Without rows a word that says so."""
    if not rows:
        return "nothing is recorded"

    def cell(value) -> str:
        if not isinstance(value, tuple) or isinstance(value, Gap):
            return " ".join(str(value).split("\n")).replace("|", "\\|")
        mean, low, high = value
        digits = 0 if abs(mean) >= 1000 else 3
        if mean != mean:
            return "-"
        return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")

    header = list(rows[0])
    lines = [list(map(cell, header)), ["---"] * len(header), *([cell(row[k]) for k in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_json(rows: list[dict]) -> str:
    """The rows of `compare` as JSON, which has no NaN: null stands for it."""

    def plain(value):
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return None if value != value else value

    return json.dumps([{name: plain(value) for name, value in row.items()} for row in rows], indent=1)


def claim_folder(folder: Path, settings: dict, made: dict) -> None:
    """Make a run folder with its config.json.

    made: kept beside the settings: what the run was begun with.

    Raises PoiseLabError for a folder in use, one that cannot be written, or settings that JSON cannot hold.
    """
    ours = {"config.json.partial", LOCK}  # all that a run leaves if it is killed while it claims its folder
    try:
        text = as_json({**settings, **made})
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):  # of two starts at once one finds the other here, or its config.json
            if not folder.is_dir() or any(f.name not in ours for f in folder.iterdir()):
                raise PoiseLabError(f"run folder {folder} is in use already; resume it or choose another")
            write_text(folder / "config.json", text)
    except OSError as e:
        raise PoiseLabError(f"run folder {folder} cannot be written: {e.strerror}") from None
    except TypeError as e:
        raise PoiseLabError(f"the settings of the baseline or the task cannot be written as JSON: {e}") from None


def resumed_config(folder: Path, settings: dict) -> dict:
    """What config.json of a run folder will say when the run goes on; nothing is written.

    settings: must be those of the run, but for the number of steps: a run may be made longer.

    Raises PoiseLabError for nothing to resume, other settings, fewer steps than it has, or a folder that cannot be written.
    """
    if not (folder / "config.json").is_file():
        raise PoiseLabError(f"nothing to resume: {folder} holds no run (no config.json)")
    run = read_run(folder)
    for place in (folder, folder / "checkpoints"):
        check_writable(place, "folder")
    known = [name for name in settings if name in run.config]  # one that is not was not there when the run was started
    found = differences({k: run.config[k] for k in known}, {k: settings[k] for k in known})
    for path, old, new in sorted(found, key=lambda d: not d[0].endswith("name")):
        if path != "train.steps":
            raise PoiseLabError(
                f"run folder {folder} belongs to another run: {path} is {old!r} there and "
                f"{new!r} here; resume with the same settings or use a new folder"
            )
    done = run.metrics[-1]["step"] if run.metrics else 0
    if settings["train"]["steps"] < done:
        raise PoiseLabError(f"run {folder} has {done} steps already; it can be made longer, and not shorter")
    return {**run.config, **settings}


def free_folder(folder: Path) -> None:
    """Take away what a run that finished no step has left; a link, and files of others, stay."""
    for name in ("checkpoints", "logs", "runs", "wandb", "completions"):  # the last three are TRL's
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("config.json", "metrics.jsonl", "samples.jsonl"):
        (folder / name).unlink(missing_ok=True)
    if not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def keep_policy(run: Path, policy: Policy, finished: bool) -> None:
    """Write the weights of a run that has just saved its last step into its folder `policy`; before that it has none."""
    folder = run / "policy"
    shutil.rmtree(folder, ignore_errors=True)  # of the run before it was made longer
    if finished:
        try:
            policy.save(folder)
        except PoiseLabError as e:  # an adapter that has no place in the weights
            warnings.warn(f"run folder {run} has checkpoints, and no final policy: {e}", stacklevel=2)


def differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    """Where two nested dicts differ: (path, old, new)."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif (list(a) if isinstance(a, tuple) else a) != (list(b) if isinstance(b, tuple) else b):
            found.append((prefix + key, a, b))
    return found
