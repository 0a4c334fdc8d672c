"""Grade a submission of an assignment, whatever is in it. `python -m poise_lab.course` is the command.

nbgrader makes the student versions, restores hidden tests, runs a submission and gives the points. Here is what
it does not do: put deleted cells and redefined names back, survive a cell that ends the kernel or never ends,
cut megabytes of output, and refuse to grade with a broken reference.

Every submission is graded in a new folder with a kernel of its own (`submission`); no file of a student is changed.
After a submission each test that it passed is given a planted wrong answer, in the same kernel: a test that accepts
that one too gives no points, whatever the submission did to it.

All of this works on any system; what a determined attacker can still do is said in notebooks/INSTRUCTORS.md.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import nbformat
from traitlets.config import Config

from ..errors import PoiseLabError

try:
    from nbgrader.api import Gradebook, MissingEntry
    from nbgrader.apps import NbGraderAPI
except ImportError:
    raise PoiseLabError("nbgrader is not installed: run `make assignments`, which installs it") from None

from . import TIMEOUT
from .cells import given_names, grade_id, is_answer, is_test
from .papers import plain, read_notebook, repaired
from .submission import Desk, RunSubmission

MOST_MEMORY = 4 * 2**30  # bytes of a submission's processes; a solution takes a quarter of it
MOST_DISK = 2**30  # bytes that a submission may write
PLANTED = "planted"
RIGHT = "right"  # folder of right answers that look different, named like their cells


@dataclasses.dataclass
class Graded:
    """A graded submission. points, of: by the id of the test cell. messages: sentences for the student.

    notes: sentences for the lecturer, who should look at it. answers: the student's, by the id of the cell.
    """

    student: str
    points: dict[str, float]
    of: dict[str, float]
    messages: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)
    answers: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.points.values())

    @property
    def full(self) -> float:
        return sum(self.of.values())

    def __str__(self) -> str:
        return f"{self.student:32} {self.total:5g} of {self.full:g}"


class Classroom:
    """A temporary nbgrader course with one assignment, released; `grade` grades one notebook after another.

    source: the folder source/<name> of the assignment. timeout: seconds per cell. most_memory, most_disk: bytes.
    """

    def __init__(
        self, source: Path, timeout: int = TIMEOUT, most_memory: int = MOST_MEMORY, most_disk: int = MOST_DISK
    ):
        self.name, self.source, self.number = source.name, source, 0
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.course = Path(self._folder.name).resolve()
        self.closed = source.resolve().parent.parent  # solutions, submissions and grades of the real course
        self.master = nbformat.read(source / f"{self.name}.ipynb", 4)
        controls = {test: answer.source for answer in reversed(planted_answers(source)) for test in answer.loses}
        self.desk = Desk(self.course, self.closed, most_memory, most_disk, given_names(self.master), controls)

        class Run(RunSubmission):
            desk = self.desk

        config = Config()
        config.CourseDirectory.root = str(self.course)
        config.CourseDirectory.ignore = [".ipynb_checkpoints", "__pycache__", PLANTED]
        config.Autograde.autograde_preprocessors = [
            Run, "nbgrader.preprocessors.LimitOutput", "nbgrader.preprocessors.SaveAutoGrades",
        ]  # fmt: skip
        config.RunSubmission.timeout, config.RunSubmission.iopub_timeout = timeout, 30
        config.RunSubmission.interrupt_on_timeout, config.RunSubmission.error_on_timeout = False, {}
        config.RunSubmission.extra_arguments = ["--log-level=ERROR"]
        shutil.copytree(source, self.course / "source" / self.name)
        with nbgrader_at_hand():
            self.api = NbGraderAPI(config=config)
            result = self.api.generate_assignment(self.name)
        if not result["success"]:
            raise PoiseLabError(f"assignment {self.name!r} cannot be released: {result.get('log') or result['error']}")
        self.released_folder = self.course / "release" / self.name
        self.released = nbformat.read(self.released_folder / f"{self.name}.ipynb", 4)
        shutil.rmtree(self.course / "source")  # from here on the solutions are in memory only

    def close(self) -> None:
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def solved(self, changes: dict[str, str] | None = None):
        """The released notebook with the solutions filled in, or with other answers to some cells."""
        answers = {grade_id(cell): cell.source for cell in self.master.cells if is_answer(cell)} | (changes or {})
        notebook = copy.deepcopy(self.released)
        unknown = set(answers) - {grade_id(cell) for cell in notebook.cells if is_answer(cell)}
        if unknown:
            raise PoiseLabError(f"assignment {self.name!r} has no answer cell {', '.join(sorted(unknown))}")
        for cell in notebook.cells:
            if is_answer(cell):
                cell.source = answers[grade_id(cell)]
        return notebook

    def require_reference(self) -> None:
        """Refuse to grade if the reference solution does not get full marks: then no grade means anything."""
        graded = self.grade("reference", self.solved())
        if graded.total != graded.full or not graded.full:
            raise PoiseLabError(
                f"assignment {self.name!r} is not graded: its own solution gets {graded.total:g} of {graded.full:g} "
                f"points here. Is a package missing? {' | '.join(graded.messages)}"
            )

    def grade(self, student: str, submission: Path | nbformat.NotebookNode) -> Graded:
        """Grade a notebook, or the file of one; whatever is in it, this returns."""
        of = {grade_id(c): float(c.metadata.nbgrader.points) for c in self.released.cells if is_test(c)}
        try:
            notebook = read_notebook(submission) if isinstance(submission, Path) else copy.deepcopy(submission)
            notebook, messages, notes = repaired(notebook, self.released)
            text = nbformat.writes(notebook)
        except Exception as e:  # whatever a student hands in
            unread = f"this is no notebook that can be read: {plain(e)}"[:300]
            return Graded(student, dict.fromkeys(of, 0.0), of, [unread], [unread])
        self.number += 1
        alias = f"submission-{self.number}"  # nbgrader looks for folders by pattern, and a name may hold one: [late]
        folder = self.course / "submitted" / alias / self.name
        folder.mkdir(parents=True)
        (folder / f"{self.name}.ipynb").write_text(text, encoding="utf-8")
        with nbgrader_at_hand():
            result = self.api.autograde(self.name, alias)
        if "KeyboardInterrupt" in result.get("error", ""):  # it catches even that, and would grade on
            raise KeyboardInterrupt
        answers = {grade_id(c): c.source for c in notebook.cells if is_answer(c)}
        if not result["success"]:
            failed = f"could not be graded: {(result.get('log') or result['error'])[-1500:]}"
            return Graded(student, dict.fromkeys(of, 0.0), of, [*messages, failed], [*notes, failed], answers)
        points = {}
        with Gradebook(f"sqlite:///{self.course / 'gradebook.db'}") as gradebook:
            for test in of:
                try:
                    points[test] = float(gradebook.find_grade(test, self.name, self.name, alias).auto_score or 0)
                except MissingEntry:
                    points[test] = 0.0
        for test in self.desk.withheld:
            points[test] = 0.0
            messages.append(
                f"{test}: no points, for here it passes a wrong answer too: the notebook changes what tests use"
            )
        ran = nbformat.read(self.course / "autograded" / alias / self.name / f"{self.name}.ipynb", 4)
        return Graded(student, points, of, messages + self.desk.notes + said(ran), notes, answers)


@dataclasses.dataclass
class PlantedAnswer:
    """A wrong answer that looks right: for which cell, which tests it must lose, what the checker must say."""

    name: str
    cell: str
    loses: list[str]
    says: str
    source: str

    @classmethod
    def read(cls, path: Path) -> PlantedAnswer:
        """A Python file whose first comment lines are `# cell: id`, `# loses: test, test`, `# says: text`."""
        text = path.read_text(encoding="utf-8")
        head = dict(re.findall(r"^# (cell|loses|says): (.*)$", text, re.M))
        if set(head) != {"cell", "loses", "says"}:
            raise PoiseLabError(f"{path.name} must begin with the lines # cell:, # loses: and # says:")
        loses = [test.strip() for test in head["loses"].split(",")]
        source = re.sub(r"^# (cell|loses|says): .*\n", "", text, flags=re.M)
        return cls(path.stem, head["cell"], loses, head["says"], source.strip())


def planted_answers(source: Path) -> list[PlantedAnswer]:
    return [PlantedAnswer.read(path) for path in sorted((source / PLANTED).glob("*.py"))]


@contextlib.contextmanager
def nbgrader_at_hand():
    """Its log goes into its results, not on the screen; and it finds `alembic`, which it calls by name."""
    log, path = logging.getLogger("traitlets"), os.environ.get("PATH", "")
    handlers, propagate = log.handlers, log.propagate
    log.handlers, log.propagate = [logging.NullHandler()], False
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its database
            yield
    finally:
        log.handlers, log.propagate = handlers, propagate
        os.environ["PATH"] = path


def said(notebook) -> list[str]:
    """What went wrong in an executed notebook: one sentence per cell with an error."""
    messages = []
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                text = (
                    output.evalue
                    if output.ename in ("AssertionError", "NotYet", "Stopped")
                    else f"{output.ename}: {output.evalue}"
                )
                messages.append(f"{grade_id(cell) or f'cell {i + 1}'}: {text[:500]}")
            elif "[cut: this cell prints too much]" in output.get("text", ""):
                messages.append(f"{grade_id(cell) or f'cell {i + 1}'}: prints too much; only its beginning was kept")
    return messages
