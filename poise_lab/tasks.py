"""Reasoning-gym tasks by name: problems, their wording, and their verification.

Every problem and every verdict comes from `reasoning-gym`; nothing about correctness is written
here. What is ours is a compact wording of three tasks (for a policy with a character tokenizer)
and laptop-sized default settings for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from random import Random

import reasoning_gym
from reasoning_gym.factory import DATASETS

from .answers import FILES, VERIFIERS, check_reference, rows_of
from .errors import PoiseLabError, known

START_OF_REASONING, END_OF_REASONING = "<think>", "</think>"
NO_ANSWER = "no such answer"  # right for no problem; a verifier that pays for it would pay for anything

# Settings of the tasks that the bundled policy knows; any of them can be overridden by keyword.
LAPTOP_SETTINGS = {
    "chain_sum": dict(min_terms=2, max_terms=5, min_digits=1, max_digits=2),
    "spell_backward": dict(min_word_len=3, max_word_len=8),
    "word_sorting": dict(min_words=3, max_words=4, min_word_length=3, max_word_length=5, transformation="lowercase"),
}
TINY_TASKS = "+".join(LAPTOP_SETTINGS)  # the mixture that the bundled policy was taught

COMPACT_WORDING = {
    "chain_sum": lambda m: m["expression"].replace(" ", "") + "=",
    "spell_backward": lambda m: "back:" + m["word"],
    "word_sorting": lambda m: (
        ("sort<" if m["direction"] == "ascending" else "sort>") + ",".join(m["transformed_words"])
    ),
}

LINE_WORDING = {"chain_sum": lambda m: m["expression"] + " ="}


def answer_of(response: str) -> str | None:
    """The answer in a response: what follows the last `</think>`, or all of it if there is none.

    None if the response breaks off within its reasoning: a `<think>` that no `</think>` follows.
    """
    answer = response.rpartition(END_OF_REASONING)[2]
    return None if START_OF_REASONING in answer else answer.strip()


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of one task.

    task: the reasoning-gym task name.
    question: reasoning-gym's own wording.
    compact: short wording of the three bundled tasks; equal to `question` for any other task.
    line: what the answer continues: "7 - 1 =" for sums, for any other task the question and "Answer:" below it.
    difficulty: the settings that this problem was drawn with, by name (numbers only).
    entry: reasoning-gym's record, which its verifier needs.
    source: the task that it was drawn from.
    """

    task: str
    question: str
    compact: str
    line: str
    difficulty: dict[str, float]
    entry: dict = dataclasses.field(repr=False, compare=False)
    dataset: object = dataclasses.field(repr=False, compare=False)
    source: Task = dataclasses.field(repr=False, compare=False)

    def examples(self, n: int) -> list[Problem]:
        """n other problems of the same task, to show in front of this one: the same for all, but never itself."""
        return [p for p in self.source.examples(n + 1) if p.question != self.question][:n]

    @property
    def answer(self) -> str | None:
        """reasoning-gym's reference answer; None in a task that has none, only a verifier."""
        return self.entry["answer"]

    def reward(self, response: str) -> float:
        """1.0 if reasoning-gym's verifier gives the response's answer full marks, else 0.0.

        Partial credit (some verifiers give it) counts as wrong, as in the paper (App. B.1). So does a response that
        breaks off within its reasoning, and an answer that the verifier raises an error on, which the task counts.
        """
        answer = answer_of(response)
        if answer is None:
            return 0.0
        try:
            return float(self.dataset.score_answer(answer, self.entry) >= 1.0)
        except Exception:  # whatever a policy can write must not end a run
            self.source.verifier_errors += 1
            return 0.0


class Task:
    """One reasoning-gym task with fixed settings. Made by `load_task`.

    verifier_errors: answers so far that the verifier raised an error on; they count as wrong.
    """

    def __init__(self, name: str, settings: dict):
        self.name, self.settings, self.verifier_errors = name, settings, 0
        self._examples: list[Problem] = []
        self._seeds = 2**48  # how many seeds the task takes

    def _dataset(self, seed: int, size: int):
        config_class = DATASETS[self.name][1]
        fields = {f.name: f for f in dataclasses.fields(config_class)}
        settings = {}
        for key, value in self.settings.items():
            if key not in fields or key in ("seed", "size"):
                raise known(f"setting of task {self.name!r}", key, set(fields) - {"seed", "size"})
            default = fields[key].default
            if isinstance(default, Enum) and not isinstance(value, Enum):
                try:
                    value = type(default)(value)
                except ValueError:
                    raise known(f"value of {key}", value, [m.value for m in type(default)]) from None
            settings[key] = value
        try:
            return reasoning_gym.create_dataset(self.name, seed=seed, size=size, **settings)
        except (AssertionError, TypeError, ValueError) as e:
            raise PoiseLabError(f"reasoning-gym refuses the settings of task {self.name!r}: {e}") from None

    def sample(self, n: int, seed: int | str, exclude: Iterable[Problem] = ()) -> list[Problem]:
        """n problems with pairwise different questions, none of them in `exclude`.

        The same (task, settings, n, seed, exclude) gives the same problems. Different seeds give
        independent draws, which may overlap where a task has few problems: pass the training
        problems as `exclude` to draw held-out ones.

        Raises PoiseLabError if n < 1 or if the task has too few different problems.
        """
        if n < 1:
            raise PoiseLabError(f"{n} problems asked for; ask for at least 1")
        # reasoning-gym draws entry i from Random(seed + i): nearby seeds would share entries
        digest = hashlib.sha256(f"{self.name}/{seed}".encode()).digest()
        dataset = self._dataset(seed=int.from_bytes(digest[:6], "big") % self._seeds, size=max(500, 50 * n))
        seen = {problem.question for problem in exclude}
        problems = []
        for index in range(50 * n):
            entry = dataset[index]
            if entry["question"] in seen:
                continue
            seen.add(entry["question"])
            problems.append(self._problem(entry, dataset))
            if len(problems) == n:
                return problems
        raise PoiseLabError(
            f"task {self.name!r} with {self.settings} has too few different problems for {n} more; "
            "ask for fewer or widen its settings"
        )

    def examples(self, n: int) -> list[Problem]:
        """The first n problems of a draw of their own, which no seed of `sample` gives; see `Problem.examples`.

        Raises PoiseLabError if one of the answers has several lines (in a row of examples an answer is one line), or if
        the task has no answers to show.
        """
        if len(self._examples) < n:
            self._examples = self.sample(n, "examples")
            for problem in self._examples:
                if not isinstance(problem.answer, str):
                    raise PoiseLabError(
                        f"task {self.name!r} can verify answers but has none to show as examples; use shots=0 or "
                        "another task"
                    )
                if "\n" in problem.answer:
                    raise PoiseLabError(
                        f"task {self.name!r} has answers of several lines, which cannot be shown as examples of one "
                        "line each; use shots=0 or another task"
                    )
        return self._examples[:n]

    def try_out(self) -> None:
        """Refuse bad settings, and a verifier that pays for anything, now and not at the first sample."""
        try:
            self._dataset(seed=self._seeds - 2, size=1)[0]
        except ValueError:  # numpy takes seeds of 32 bits
            self._seeds = 2**31
        dataset = self._dataset(seed=0, size=1)
        if self._problem(dataset[0], dataset).reward(NO_ANSWER):
            raise PoiseLabError(
                f"the verifier of task {self.name!r} gives full marks to {NO_ANSWER!r}, so there is nothing to learn; "
                "use another task"
            )
        self.verifier_errors = 0

    def _problem(self, entry: dict, dataset) -> Problem:
        metadata = entry["metadata"]
        compact, line = COMPACT_WORDING.get(self.name), LINE_WORDING.get(self.name)
        stated = metadata.get("difficulty", {})  # the names of settings, or in some tasks one number
        names = stated if isinstance(stated, dict) else ["difficulty"]
        difficulty = {name: float(metadata[name]) for name in names if isinstance(metadata.get(name), (int, float))}
        question = entry["question"]
        return Problem(
            task=self.name,
            question=question,
            compact=compact(metadata) if compact else question,
            line=line(metadata) if line else f"{question}\nAnswer:",
            difficulty=difficulty,
            entry=entry,
            dataset=dataset,
            source=self,
        )


class TaskMixture:
    """Several tasks in equal parts. Made by `load_task("a+b+c")`."""

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = list(tasks)
        self.name = "+".join(t.name for t in self.tasks)

    @property
    def verifier_errors(self) -> int:
        """As of a `Task`, of all of them together."""
        return sum(task.verifier_errors for task in self.tasks)

    def sample(self, n: int, seed: int, exclude: Iterable[Problem] = ()) -> list[Problem]:
        """As `Task.sample`; problem i is of task i modulo the number of tasks."""
        if n < 1:
            raise PoiseLabError(f"{n} problems asked for; ask for at least 1")
        exclude = list(exclude)
        k = len(self.tasks)
        parts = [task.sample(len(range(i, n, k)), seed, exclude) if i < n else [] for i, task in enumerate(self.tasks)]
        return [parts[i % k][i // k] for i in range(n)]


@dataclasses.dataclass(frozen=True)
class NamedVerifier:
    """A verifier of `answers` behind the call that reasoning-gym's data sets have."""

    name: str

    def score_answer(self, answer: str, entry: dict) -> float:
        return VERIFIERS[self.name](answer, entry["answer"])


class RecordProblem(Problem):
    """A problem from a record of one's own, verified by name or by a function."""

    def reward(self, response: str) -> float:
        """What the verifier gives, a number from 0 to 1: a named one reads the answer, a function the whole response.

        Raises PoiseLabError if a function gives something else.
        """
        verify = self.source.verify
        if isinstance(verify, str):
            return super().reward(response)
        value = verify(response, self.entry)
        number = isinstance(value, (int, float)) and not math.isnan(value) and 0 <= value <= 1
        if not number:
            raise PoiseLabError(
                f"the reward function of task {self.task!r} gave {value!r} for question {self.question[:60]!r}; "
                "it must give a number from 0 to 1"
            )
        return float(value)


class RecordTask:
    """Questions and answers of one's own. Made by `load_task`.

    Problems are the records with pairwise different questions, the first of each; every draw is without replacement.
    verifier_errors: as of `Task`.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[dict],
        *,
        question: str = "question",
        answer: str = "answer",
        difficulty: str | None = None,
        verify: str | Callable[[str, dict], float] = "exact",
        prompt: str = "{question}",
    ):
        self.name, self.verify, self.verifier_errors = name, verify, 0
        if isinstance(verify, str) and verify not in VERIFIERS:
            raise known("verifier", verify, VERIFIERS)
        if verify == "math" and importlib.util.find_spec("math_verify") is None:
            raise PoiseLabError("the verifier 'math' needs math-verify: pip install \"poise-lab[math]\"")
        if "{question}" not in prompt:
            raise PoiseLabError(f"prompt={prompt!r} must have {{question}} in it, where the question goes")
        self.problems: list[Problem] = []
        seen = set()
        for n, row in enumerate(rows):
            asked, right = self._column(n, row, question), self._column(n, row, answer)
            wrong = check_reference(verify, right) if isinstance(verify, str) else None
            if wrong:
                raise PoiseLabError(
                    f"record {n} of task {name!r}: the answer {right!r} {wrong}; mend it, or use another verifier"
                )
            text = prompt.replace("{question}", asked)
            if text in seen:
                continue
            seen.add(text)
            self.problems.append(self._problem(row, text, right, difficulty))
        if not self.problems:
            raise PoiseLabError(f"task {name!r} has no records")
        rows_as_text = json.dumps([(p.question, p.answer) for p in self.problems])
        self.settings = {
            "records": len(self.problems),
            "sha256": hashlib.sha256(rows_as_text.encode()).hexdigest(),
            "verify": verify if isinstance(verify, str) else getattr(verify, "__qualname__", type(verify).__name__),
        }

    def _column(self, n: int, row: dict, column: str) -> str:
        value = row.get(column)
        if value is None or str(value).strip() == "":
            what = "is empty" if column in row else f"is missing; the record has {', '.join(map(str, row))}"
            raise PoiseLabError(f"record {n} of task {self.name!r}: column {column!r} {what}")
        return str(value)

    def _problem(self, row: dict, text: str, right: str, difficulty: str | None) -> RecordProblem:
        level = {}
        if difficulty is not None:
            try:
                level = {difficulty: float(row[difficulty])}
            except (KeyError, TypeError, ValueError):
                raise PoiseLabError(f"column {difficulty!r} of task {self.name!r} is no number in {row!r}") from None
        return RecordProblem(
            task=self.name, question=text, compact=text, line=f"{text}\nAnswer:", difficulty=level,
            entry={**row, "answer": right}, source=self,
            dataset=NamedVerifier(self.verify) if isinstance(self.verify, str) else None,
        )  # fmt: skip

    def sample(self, n: int, seed: int | str, exclude: Iterable[Problem] = ()) -> list[Problem]:
        """As `Task.sample`. Raises PoiseLabError if the records, less those in `exclude`, are fewer than n."""
        if n < 1:
            raise PoiseLabError(f"{n} problems asked for; ask for at least 1")
        left_out = {problem.question for problem in exclude}
        rest = [problem for problem in self.problems if problem.question not in left_out]
        if len(rest) < n:
            raise PoiseLabError(
                f"task {self.name!r} has {len(self.problems)} problems, {len(rest)} after those that are held out, and "
                f"{n} were asked for; set fewer prompts or held-out problems (prompts, eval_prompts, a baseline's pool)"
            )
        return Random(f"{self.settings['sha256']}/{seed}").sample(rest, n)

    def examples(self, n: int) -> list[Problem]:
        """n problems in an order of their own; see `Problem.examples`. Raises PoiseLabError for an answer of several lines."""
        chosen = self.sample(n, "examples")
        if any("\n" in problem.answer for problem in chosen):
            raise PoiseLabError(f"task {self.name!r} has answers of several lines, which cannot be shown; use shots=0")
        return chosen


def load_task(
    name: str | Path | Sequence[dict], *, split: str | None = None, **settings
) -> Task | TaskMixture | RecordTask:
    """A reasoning-gym task by name, several in equal parts as "a+b+c", or questions and answers of one's own.

    One's own: a JSONL, JSON, CSV or parquet file, a list of dicts, or a data set of the library `datasets` in memory.
        question, answer, difficulty: names of the columns (difficulty: a number, or none). prompt: the text around a
        question, "{question}\\nAnswer with a number." split: of a data set with several, or of a column "split".
        verify: "exact", "number", "choice", "regex", "math" (see `answers`), or a function (response, record) -> 0 to 1.

    settings: fields of the task's reasoning-gym config. `chain_sum`, `spell_backward` and
        `word_sorting` have laptop-sized defaults (`LAPTOP_SETTINGS`), which they override. A mixture
        takes none.

    Raises PoiseLabError for an unknown task (lists the known ones), a setting it refuses, or a task whose verifier
    pays for anything.
    """
    if not isinstance(name, str) or name.endswith(FILES):
        title = Path(name).name if isinstance(name, (str, Path)) else "records"
        try:
            return RecordTask(title, rows_of(name, split), **settings)
        except TypeError as e:
            raise PoiseLabError(f"task {title!r} refuses its settings: {e}") from None
    if split is not None:
        raise PoiseLabError(f"split={split!r} belongs to questions of one's own; task {name!r} has none")
    names = name.split("+")
    for one in names:
        if one not in DATASETS:
            raise known("task", one, DATASETS)
    if len(names) > 1:
        if len(set(names)) < len(names):
            raise PoiseLabError(f"task mixture {name!r} names a task twice; its problems would come twice")
        if settings:
            raise PoiseLabError("a mixture of tasks takes no settings; load its tasks one by one")
        return TaskMixture([load_task(one) for one in names])
    task = Task(name, {**LAPTOP_SETTINGS.get(name, {}), **settings})
    task.try_out()
    return task
