"""Tasks of one's own: questions and answers from a file, a list or a data set, and how an answer is verified."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random

from ..errors import PoiseLabError, unknown_name
from ..settings import check_text
from .answers import VERIFIERS, check_reference, function_at
from .gym import Problem

DEFAULTS = {"question": "question", "answer": "answer", "difficulty": None, "prompt": "{question}"}


@dataclasses.dataclass(frozen=True)
class RecordProblem(Problem):
    """A problem from a record of one's own, verified by name or by a function.

    entry: the record as it was given. reference: its answer, as text.
    """

    reference: str

    @property
    def answer(self) -> str:
        return self.reference

    def _score(self, answer: str) -> float:
        return VERIFIERS[self.source.verify](answer, self.reference)

    def reward(self, response: str) -> float:
        """What the verifier gives, a number from 0 to 1: a named one reads the answer, a function the whole response.

        A response that a function raises an error on is wrong, and counted; the first error is shown as a warning.

        Raises PoiseLabError if a function gives something else.
        """
        verify = self.source.verify
        if isinstance(verify, str):
            return super().reward(response)
        try:
            value = verify(response, dict(self.entry))  # a function may change what it is given
        except (Exception, SystemExit) as e:  # whatever a policy can write must not end a run
            if not self.source.verifier_errors:
                warnings.warn(
                    f"the reward function of task {self.task!r} stopped with {type(e).__name__}: {e}; such responses "
                    "count as wrong, and the metric verifier_errors says how many there are",
                    stacklevel=2,
                )
            self.source.verifier_errors += 1
            return 0.0
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # of None, complex numbers, tensors of several
            number = math.nan
        if not -1e-6 <= number <= 1 + 1e-6:  # a mean of parts in single precision may end up a little outside
            raise PoiseLabError(
                f"the reward function of task {self.task!r} gave {value!r} for question {self.question[:60]!r}; "
                "it must give a number from 0 to 1"
            )
        return min(max(number, 0.0), 1.0)


def _verifier(verify: str | Callable[[str, dict], float], called: str) -> str | Callable[[str, dict], float]:
    """A verifier's name, or the function. Raises PoiseLabError for what is neither, or lacks its library."""
    if isinstance(verify, str) and ".py:" in verify:
        verify = function_at(verify)
    if not isinstance(verify, str):
        try:
            inspect.signature(verify).bind("a response", {})
        except TypeError as e:
            raise PoiseLabError(f"verify={called} is no function of a response and its record: {e}") from None
        except ValueError:  # one in C, which does not say what it takes
            pass
    elif verify not in VERIFIERS:
        raise unknown_name("verifier", verify, VERIFIERS)
    elif verify == "math" and importlib.util.find_spec("math_verify") is None:
        raise PoiseLabError("the verifier 'math' needs math-verify: pip install \"poise-lab[math]\"")
    return verify


class RecordTask:
    """Questions and answers of one's own. Made by `load_task`.

    Problems are the records with pairwise different questions (blanks at their ends aside), the first of each; a warning
    says how many others are left out if some have another answer. Every draw is without replacement.
    file: where the records come from, if it is a file. sha256: that of questions and answers, if they must be the same.
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
        sha256: str | None = None,
    ):
        self.name, self.verifier_errors, self.file = name, 0, None
        self._examples: dict[int, list[Problem]] = {}
        called = verify if isinstance(verify, str) else getattr(verify, "__qualname__", type(verify).__name__)
        self.verify = _verifier(verify, called)
        check_text(prompt, "prompt")
        if not any(name in prompt for name in ("{question}", f"{{{question}}}")):
            raise PoiseLabError(f"prompt={prompt!r} must have {{question}} in it, where the question goes")
        self.answers = answer  # the column
        self.problems = self._different(rows, question, answer, difficulty, prompt)
        if not self.problems:
            raise PoiseLabError(f"task {name!r} has no records")
        rows_as_text = json.dumps([(p.question, p.answer) for p in self.problems])
        found = hashlib.sha256(rows_as_text.encode()).hexdigest()
        if sha256 not in (None, found):
            raise PoiseLabError(f"task {name!r} has other questions or answers than it had: their sha256 is {found}")
        told = {"question": question, "answer": answer, "difficulty": difficulty, "prompt": prompt}
        self.settings = {
            "records": len(self.problems),
            "sha256": found,
            "verify": called,
            **{setting: value for setting, value in told.items() if value != DEFAULTS[setting]},
        }

    def _different(
        self, rows: Sequence[dict], question: str, answer: str, difficulty: str | None, prompt: str
    ) -> list[Problem]:
        """A problem for each question as it is put, blanks at its ends aside, by the first record that asks it."""
        first: dict[str, RecordProblem] = {}
        others = 0
        for n, row in enumerate(rows):
            asked, right = self._column(n, row, question), self._column(n, row, answer)
            wrong = check_reference(self.verify, right) if isinstance(self.verify, str) else None
            if wrong:
                raise PoiseLabError(
                    f"record {n} of task {self.name!r}: the answer {right[:60]!r} {wrong}; mend it, or use another verifier"
                )
            text, bare = (self._filled(prompt, n, row, question, said) for said in (asked, asked.strip()))
            known = first.get(bare)
            if known:
                others += known.answer.strip() != right.strip()
            else:
                first[bare] = self._problem(n, row, text, right, difficulty)
        if others:
            warnings.warn(
                f"task {self.name!r}: {len(rows) - len(first)} records repeat a question and were left out, and {others} of "
                "these have another answer than the first that asks it; look at which answer is right",
                stacklevel=4,
            )
        return list(first.values())

    def _filled(self, prompt: str, n: int, row: dict, question: str, asked: str) -> str:
        """The words of a prompt with the record's columns in place of their names in braces, but for the answer's.

        question: the column that {question} stands for. asked: its text.
        """

        def text(match: re.Match) -> str:
            if match[1] in ("question", question):
                return asked
            told = None if match[1] == self.answers else self._told(n, row, match[1])
            return match[0] if told is None else told

        return re.sub(r"\{(\w+)\}", text, prompt)

    def _told(self, n: int, row: dict, column: str) -> str | None:
        """A column beside question and answer: "" where it is empty, None where the record has none of that name."""
        value = row.get(column)
        if value is None or isinstance(value, str) and not value.strip():
            return "" if column in row else None
        return self._column(n, row, column)

    def _column(self, n: int, row: dict, column: str) -> str:
        value = row.get(column)
        if (
            isinstance(value, Collection)
            and not isinstance(value, str)
            and not (column == self.answers and callable(self.verify))
        ):
            kind = type(value).__name__
            raise PoiseLabError(
                f"record {n} of task {self.name!r}: column {column!r} holds a {kind}; give one text or number, or for several "
                "right answers a function as verify"
            )
        try:
            text = str(value)
            text.encode()
        except (ValueError, RecursionError) as e:  # half a character, thousands of digits or of lists in lists
            raise PoiseLabError(f"record {n} of task {self.name!r}: column {column!r} is no text: {e}") from None
        if value is None or text.strip() == "" or isinstance(value, float) and math.isnan(value):
            what = "is empty" if column in row else f"is missing; the record has {', '.join(map(str, row))}"
            raise PoiseLabError(f"record {n} of task {self.name!r}: column {column!r} {what}")
        return text

    def _problem(self, n: int, row: dict, text: str, right: str, difficulty: str | None) -> RecordProblem:
        level = {}
        if difficulty is not None:
            try:
                level = {difficulty: float(row[difficulty])}
            except (KeyError, TypeError, ValueError, OverflowError):
                raise PoiseLabError(
                    f"column {difficulty!r} of task {self.name!r} is no number in record {n}; mend it there"
                ) from None
        return RecordProblem(
            task=self.name, question=text, compact=text, line=f"{text}\nAnswer:", difficulty=level,
            entry=row, dataset=None, source=self, reference=right,
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
        if n not in self._examples:
            chosen = self.sample(n, "examples")
            if any("\n" in problem.answer for problem in chosen):
                raise PoiseLabError(
                    f"task {self.name!r} has answers of several lines, which cannot be shown; use shots=0"
                )
            self._examples[n] = chosen
        return self._examples[n]
