"""Grade a submission of an assignment, whatever is in it. `python -m poise_lab.course` is the command.

nbgrader makes the student versions, restores hidden tests, runs a submission and gives the points. Here is what
it does not do: put deleted cells back wherever they stood, survive a cell that ends the kernel or never ends,
cut megabytes of output, and refuse to grade with a broken reference.

Every submission is graded in a new folder with a kernel of its own; no file of a student is changed. It runs
with the rights of whoever grades, as with nbgrader itself: use a machine or container without secrets.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from traitlets import Integer
from traitlets.config import Config

from .errors import PoiseLabError

try:
    from nbgrader.api import Gradebook, MissingEntry
    from nbgrader.apps import NbGraderAPI
    from nbgrader.preprocessors import Execute
except ImportError:
    raise PoiseLabError("nbgrader is not installed: run `make assignments`, which installs it") from None

TIMEOUT = 120  # seconds per cell; the slowest cell of a solution takes a tenth of it
MOST_OUTPUT = 100_000  # characters kept of what a cell prints
PLANTED = "planted"
# In front of every test: a submission that changed what the tests call (in memory) has changed nothing.
FRESH_CHECKS = (
    '[__import__("importlib").reload(m) for m in [__import__("sys").modules.get("poise_lab.checks")] if m is not None]'
)


class RunSubmission(Execute):
    """nbgrader's execution, with one end for a cell that ends the kernel or never ends: the others run without it."""

    most_output = Integer(MOST_OUTPUT).tag(config=True)

    def preprocess(self, nb, resources, km=None):
        fatal: dict[int, str] = {}
        clean = copy.deepcopy(nb.cells)
        self.fatal = fatal
        while True:
            self.printed: dict[int, int] = {}
            try:
                return super().preprocess(nb, resources, km)
            except CellTimeoutError:
                fatal[self.at] = f"this cell did not end within {self.timeout} seconds; the rest ran without it"
            except DeadKernelError:
                fatal[self.at] = "this cell ended the kernel; the rest ran without it"
            nb.cells = copy.deepcopy(clean)

    def preprocess_cell(self, cell, resources, index):
        self.at = index
        if index in self.fatal:
            says = self.fatal[index]
            cell.outputs = [nbformat.v4.new_output("error", ename="Stopped", evalue=says, traceback=[says])]
            return cell, resources
        source = cell.source
        if is_test(cell):
            cell.source = f"{FRESH_CHECKS}\n{source}"
        try:
            return super().preprocess_cell(cell, resources, index)
        finally:
            cell.source = source

    def output(self, outs, msg, display_id, cell_index):
        content = msg["content"]
        before = self.printed.get(cell_index, 0)
        self.printed[cell_index] = before + len(str(content))
        too_much = self.printed[cell_index] > self.most_output
        if msg["msg_type"] == "error":
            content["evalue"], content["traceback"] = content["evalue"][:1000], content["traceback"][-1:]
            content["traceback"] = [line[:1000] for line in content["traceback"]]
        elif before > self.most_output:
            return None
        elif too_much:  # what it is, a text says so in its place
            text = content["text"][: self.most_output] if msg["msg_type"] == "stream" else ""
            msg["msg_type"] = msg["header"]["msg_type"] = "stream"
            msg["content"] = content = {"name": "stdout", "text": f"{text}\n[cut: this cell prints too much]\n"}
        if msg["msg_type"] == "stream":
            content["name"] = "stdout"  # nbgrader takes all points for a warning
        return super().output(outs, msg, display_id, cell_index)


@dataclasses.dataclass
class Graded:
    """A graded submission. points, of: by the id of the test cell. messages: sentences for the student."""

    student: str
    points: dict[str, float]
    of: dict[str, float]
    messages: list[str]

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

    source: the folder source/<name> of the assignment. timeout: seconds per cell.
    """

    def __init__(self, source: Path, timeout: int = TIMEOUT):
        self.name, self.timeout = source.name, timeout
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.course = Path(self._folder.name)
        config = Config()
        config.CourseDirectory.root = str(self.course)
        config.CourseDirectory.ignore = [".ipynb_checkpoints", "__pycache__", PLANTED]
        config.Autograde.autograde_preprocessors = [
            RunSubmission, "nbgrader.preprocessors.LimitOutput", "nbgrader.preprocessors.SaveAutoGrades",
        ]  # fmt: skip
        config.RunSubmission.timeout, config.RunSubmission.iopub_timeout = timeout, 30
        config.RunSubmission.interrupt_on_timeout, config.RunSubmission.error_on_timeout = False, {}
        config.RunSubmission.extra_arguments = ["--log-level=ERROR"]
        shutil.copytree(source, self.course / "source" / self.name)
        self.master = nbformat.read(source / f"{self.name}.ipynb", 4)
        with nbgrader_at_hand():
            self.api = NbGraderAPI(config=config)
            result = self.api.generate_assignment(self.name)
        if not result["success"]:
            raise PoiseLabError(f"assignment {self.name!r} cannot be released: {result.get('log') or result['error']}")
        self.released_folder = self.course / "release" / self.name
        self.released = nbformat.read(self.released_folder / f"{self.name}.ipynb", 4)

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
            notebook = nbformat.read(submission, 4) if isinstance(submission, Path) else copy.deepcopy(submission)
            notebook, messages = repaired(notebook, self.released)
            text = nbformat.writes(notebook)
        except Exception as e:  # whatever a student hands in
            return Graded(student, dict.fromkeys(of, 0.0), of, [f"this is no notebook that can be read: {e}"[:300]])
        folder = self.course / "submitted" / student / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.ipynb").write_text(text, encoding="utf-8")
        with nbgrader_at_hand():
            result = self.api.autograde(self.name, student)
        if "KeyboardInterrupt" in result.get("error", ""):  # it catches even that, and would grade on
            raise KeyboardInterrupt
        if not result["success"]:
            log = result.get("log") or result["error"]
            return Graded(student, dict.fromkeys(of, 0.0), of, [*messages, f"could not be graded: {log[-1500:]}"])
        points = {}
        with Gradebook(f"sqlite:///{self.course / 'gradebook.db'}") as gradebook:
            for test in of:
                try:
                    points[test] = float(gradebook.find_grade(test, self.name, self.name, student).auto_score or 0)
                except MissingEntry:
                    points[test] = 0.0
        ran = nbformat.read(self.course / "autograded" / student / self.name / f"{self.name}.ipynb", 4)
        return Graded(student, points, of, messages + said(ran))


def grade_id(cell) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_answer(cell) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_test(cell) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


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


def repaired(notebook, released):
    """A submission with all cells of the released notebook in it, as released except for answers, and what was done.

    A missing cell goes behind the released cell before it. Further cells of the student stay where they are.
    """
    messages, wanted = [], {grade_id(cell): cell for cell in released.cells if grade_id(cell)}
    cells, seen = [], set()
    for cell in notebook.cells:
        name = grade_id(cell)
        if name not in wanted or name in seen:  # the student's own, or a copy
            cell.metadata.pop("nbgrader", None)
        else:
            seen.add(name)
            original, answer = wanted[name], cell.source
            if not is_answer(original) and answer != original.source:
                messages.append(f"cell {name!r} was edited; it was graded as handed out")
            cell = copy.deepcopy(original)
            if is_answer(original):
                cell.source = answer
        cells.append(cell)
    for before, name in zip([None, *wanted], wanted, strict=False):
        if name not in seen:
            messages.append(f"cell {name!r} was deleted; it was put back as handed out")
            at = next((i + 1 for i, cell in enumerate(cells) if before and grade_id(cell) == before), 0)
            cells.insert(at, copy.deepcopy(wanted[name]))
    notebook.cells = cells
    return notebook, messages


def said(notebook) -> list[str]:
    """What went wrong in an executed notebook: one sentence per cell with an error."""
    messages = []
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                text = (
                    output.evalue
                    if output.ename in ("AssertionError", "Stopped")
                    else f"{output.ename}: {output.evalue}"
                )
                messages.append(f"{grade_id(cell) or f'cell {i + 1}'}: {text[:500]}")
            elif "[cut: this cell prints too much]" in output.get("text", ""):
                messages.append(f"{grade_id(cell) or f'cell {i + 1}'}: prints too much; only its beginning was kept")
    return messages
