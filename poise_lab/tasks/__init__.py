"""Problems and their verification: reasoning-gym's tasks (`gym`), or questions and answers of one's own (`own`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reasoning_gym.factory import DATASETS

from ..errors import PoiseLabError, unknown_name
from .answers import LOOKED_FOR, rows_of
from .gym import (
    END_OF_REASONING,
    LAPTOP_SETTINGS,
    NO_ANSWER,
    START_OF_REASONING,
    TINY_TASKS,
    Problem,
    Task,
    TaskMixture,
    answer_of,
)
from .own import RecordProblem, RecordTask

__all__ = [
    "END_OF_REASONING",
    "LAPTOP_SETTINGS",
    "NO_ANSWER",
    "START_OF_REASONING",
    "TINY_TASKS",
    "Problem",
    "RecordTask",
    "Task",
    "TaskMixture",
    "answer_of",
    "load_task",
    "looked_for",
]


def load_task(
    name: str | Path | Sequence[dict], *, split: str | None = None, **settings
) -> Task | TaskMixture | RecordTask:
    """A reasoning-gym task by name, several in equal parts as "a+b+c", or questions and answers of one's own.

    One's own: a JSONL, JSON, CSV or parquet file, a list of dicts, or a data set of the library `datasets` in memory.
        question, answer, difficulty: names of the columns (difficulty: a number, or none). prompt: the text around a
        question, "{question}\\nAnswer with a number.", and around other columns, "{context}\\n{question}".
        split: of a data set with several, or of a column "split".
        verify: "exact", "number", "choice", "regex", "math" (see `answers`), or a function (response, record) -> 0 to 1,
            also as "rewards.py:score", by file and name.

    settings: fields of the task's reasoning-gym config. `chain_sum`, `spell_backward` and
        `word_sorting` have laptop-sized defaults (`LAPTOP_SETTINGS`), which they override. A mixture
        takes none.

    Raises PoiseLabError for an unknown task (lists the known ones), a setting it refuses, or a task whose verifier
    pays for anything.
    """
    if not isinstance(name, str) or _names_a_file(name):
        title = Path(name).name if isinstance(name, (str, Path)) else "records"
        try:
            task = RecordTask(title, rows_of(name, split), **settings)
        except TypeError as e:
            raise PoiseLabError(f"task {title!r} refuses its settings: {e}") from None
        task.settings |= {} if split is None else {"split": split}
        task.file = str(name) if isinstance(name, (str, Path)) else None
        return task
    if split is not None:
        raise PoiseLabError(f"split={split!r} belongs to questions of one's own; task {name!r} has none")
    names = name.split("+")
    for one in names:
        if one not in DATASETS:
            raise unknown_name("task", one, DATASETS)
    if len(names) > 1:
        if settings:
            raise PoiseLabError("a mixture of tasks takes no settings; load its tasks one by one, for TaskMixture")
        return TaskMixture([load_task(one) for one in names])
    task = Task(name, {**LAPTOP_SETTINGS.get(name, {}), **settings})
    task.try_out()
    return task


def _names_a_file(name: str) -> bool:
    """Whether it is written as a file is, with an ending or folders; or, where it is no task, lies on the disk."""
    if all(one in DATASETS for one in name.split("+")):
        return False
    return bool(Path(name).suffix) or Path(name).name != name or os.path.exists(name)


def looked_for(problem: Problem) -> str | None:
    """What of a response is compared with the answer, in words; None where a function of one's own knows."""
    if not isinstance(problem, RecordProblem):
        return "all that follows the reasoning, without a word around it"
    return LOOKED_FOR[problem.source.verify] if isinstance(problem.source.verify, str) else None
