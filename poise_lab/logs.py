"""Where others look: the metrics of a run for TensorBoard, trackio or wandb, by their own libraries, on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from .errors import PoiseLabError, unknown_name
from .files import read_json

LOGS = ("tensorboard", "trackio", "wandb")


class Log:
    """Called with the metrics of each step, as `Trainer` does with `on_step`; `close` at the end.

    name: one of LOGS. run: a run folder, whose name and settings the log has; TensorBoard's files and wandb's lie in its
    folder `logs`, trackio keeps a place of its own. wandb stays offline unless WANDB_MODE says otherwise. A
    resumed run goes on in trackio by its name, in wandb online by the id in WANDB_RUN_ID.

    Raises PoiseLabError at once if the library is missing.
    """

    def __init__(self, name: str, run: Path):
        check_log(name)
        self.name, self.run = name, Path(run)
        self._write: Callable[[dict, int], None] | None = None  # nothing is written before the run folder is there
        self._finish: Callable[[], None] = lambda: None

    def __call__(self, metrics: dict) -> None:
        if self._write is None:
            self._write, self._finish = self._tensorboard() if self.name == "tensorboard" else self._tracker()
        self._write({name: value for name, value in metrics.items() if name != "step"}, metrics["step"])

    def close(self) -> None:
        self._finish()

    def _tensorboard(self):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.run / "logs"))

        def write(figures: dict, step: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

        return write, writer.close

    def _tracker(self):
        library = importlib.import_module(self.name)  # trackio has the calls of wandb
        how = {"resume": "allow"}
        if self.name == "wandb":
            (self.run / "logs").mkdir(exist_ok=True)
            mode = os.environ.get("WANDB_MODE", "offline")
            # offline each start is a run of its own, and wandb would warn that it resumes none
            how = {"dir": str(self.run / "logs"), "mode": mode} | ({} if mode == "offline" else how)
        library.init(project="poise-lab", name=self.run.name, config=read_json(self.run / "config.json"), **how)
        return lambda figures, step: library.log(figures, step=step), library.finish


def check_log(name: str) -> None:
    """Raises PoiseLabError for an unknown log, or one whose library is missing."""
    if name not in LOGS:
        raise unknown_name("log", name, LOGS)
    if importlib.util.find_spec(name) is None:
        raise PoiseLabError(f"the log {name!r} needs the library of that name: pip install {name}")
