"""Reasoning-gym tasks by name: problems, their wording, and their verification.

Every problem and every verdict comes from `reasoning-gym`; nothing about correctness is written
here. What is ours is a compact wording of three tasks (for a policy with a character tokenizer)
and laptop-sized default settings for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from enum import Enum

import reasoning_gym
from reasoning_gym.factory import DATASETS

from ..errors import PoiseLabError, unknown_name
from .limits import TooLong, check_answer, limited

START_OF_REASONING, END_OF_REASONING = "<think>", "</think>"
NO_ANSWER = "no such answer"  # right for no problem; a verifier that pays for it would pay for anything
RUBBISH = ("", "0", "0.", "1", "-", "[]")  # and for several answers, each of these

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
        breaks off within its reasoning, and an answer that the verifier raises an error on or takes too long over, or
        that is a program (`limits`), which the task counts.
        """
        answer = answer_of(response)
        if answer is None:
            return 0.0
        try:
            with limited(answer):
                return float(self._score(answer) >= 1.0)
        except (Exception, TooLong, SystemExit):  # whatever a policy can write must not end a run
            self.source.verifier_errors += 1
            return 0.0

    def _score(self, answer: str) -> float:
        check_answer(self.task, answer, self.answer)
        return self.dataset.score_answer(answer, self.entry)


class Task:
    """One reasoning-gym task with fixed settings. Made by `load_task`.

    verifier_errors: answers so far that the verifier raised an error on or took too long over; they count as wrong.
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
                raise unknown_name(f"setting of task {self.name!r}", key, set(fields) - {"seed", "size"})
            default = fields[key].default
            if isinstance(default, Enum) and not isinstance(value, Enum):
                try:
                    value = type(default)(value)
                except ValueError:
                    raise unknown_name(f"value of {key}", value, [m.value for m in type(default)]) from None
            settings[key] = value
        try:
            return reasoning_gym.create_dataset(self.name, seed=seed, size=size, **settings)
        except Exception as e:  # of many kinds
            raise self._refusal(e) from None

    def _refusal(self, e: Exception) -> PoiseLabError:
        return PoiseLabError(f"reasoning-gym refuses the settings of task {self.name!r}: {e}")

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
        except Exception:  # numpy takes seeds of 32 bits
            self._seeds = 2**31
        dataset = self._dataset(seed=0, size=8)
        try:
            first = [dataset[i] for i in range(3)]
        except Exception as e:  # what it does not check before it draws
            raise self._refusal(e) from None
        for text in (NO_ANSWER, *RUBBISH):
            if any(self._pays(dataset, text, entry) for entry in first):
                right = {str(e["answer"]) for e in map(dataset.__getitem__, range(8)) if self._pays(dataset, text, e)}
                # one answer may be right for many problems, but what they have for an answer is the same then
                if text == NO_ANSWER or len(right) > 2:
                    raise PoiseLabError(
                        f"the verifier of task {self.name!r} gives full marks to {text!r}, so there is nothing to learn; "
                        "use another task"
                    )

    def _pays(self, dataset, text: str, entry: dict) -> bool:
        try:
            return dataset.score_answer(text, entry) >= 1.0
        except Exception:  # wrong, as in Problem.reward
            return False

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
    """Several tasks in equal parts. Made by `load_task("a+b+c")`, or from tasks that were loaded one by one.

    settings: of the tasks that have others than `load_task` gives them.
    Raises PoiseLabError for two tasks of one name.
    """

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = list(tasks)
        names = [task.name for task in self.tasks]
        self.name = "+".join(names)
        if len(set(names)) < len(names):
            raise PoiseLabError(
                f"task mixture {self.name!r} has two tasks of one name; give one of them another (task.name)"
            )
        told = {task.name: getattr(task, "settings", {}) for task in self.tasks}
        self.settings = {name: own for name, own in told.items() if own != LAPTOP_SETTINGS.get(name, {})}

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
