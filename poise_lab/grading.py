"""Grade a submission of an assignment, whatever is in it. `python -m poise_lab.course` is the command.

nbgrader makes the student versions, restores hidden tests, runs a submission and gives the points. Here is what
it does not do: put deleted cells and redefined names back, survive a cell that ends the kernel or never ends,
cut megabytes of output, and refuse to grade with a broken reference.

Every submission is graded in a new folder with a kernel of its own, whose doors `guard` closes; no file of a student
is changed. After a submission each test that it passed is given a planted wrong answer, in the same kernel: a test
that accepts that one too gives no points, whatever the submission did to it.

All of this works on any system; what a determined attacker can still do is said in notebooks/INSTRUCTORS.md.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import dis
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
import warnings
from pathlib import Path
from types import CodeType

import nbformat
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
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
MOST_MEMORY = 4 * 2**30  # bytes of a submission's processes; a solution takes a quarter of it
MOST_DISK = 2**30  # bytes that a submission may write
MOST_NOTEBOOK = 50 * 2**20  # bytes of the file that is handed in
PLANTED = "planted"
RIGHT = "right"  # folder of right answers that look different, named like their cells
GUARD = """
def _load():
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("poise_lab_guard", {path!r})
    sys.modules["poise_lab_guard"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.lock({own}, {closed})

    def leave():
        raise SystemExit("exit ends a cell here, not the kernel")
    get_ipython().ask_exit = leave
_load()
del _load
"""  # without the package, whose import takes seconds
MARK = "POISE_LAB_GRADES"  # in the environment of all processes of one submission


class RunSubmission(Execute):
    """nbgrader's execution, with one end for a cell that ends the kernel or never ends: the others run without it.

    room: the Classroom, which subclasses set. What was noticed goes into room.notes and room.withheld.
    """

    room: Classroom

    def preprocess(self, nb, resources, km=None):
        self.fatal: dict[int, str] = {}
        clean = copy.deepcopy(nb.cells)
        own = Path(resources["metadata"]["path"] or ".").resolve()
        handed_in = set(own.rglob("*"))
        while True:
            self.own = [own, Path(tempfile.mkdtemp(dir=self.room.course))]
            self.printed: dict[int, int] = {}
            self.too_much, self.locked, self.mark, self.over = "", False, uuid.uuid4().hex, threading.Event()
            self.room.notes, self.room.withheld, self.room.seconds = [], [], {}
            try:
                return super().preprocess(nb, resources, km)
            except CellTimeoutError:
                self.fatal[self.at] = f"this cell did not end within {self.timeout} seconds; the rest ran without it"
            except DeadKernelError:
                self.fatal[self.at] = f"this cell {self.too_much or 'ended the kernel'}; the rest ran without it"
            finally:
                self.over.set()
                end_processes(self.mark)
                shutil.rmtree(self.own[1], ignore_errors=True)
                for path in set(own.rglob("*")) - handed_in:
                    with contextlib.suppress(OSError):
                        path.unlink()
            nb.cells = copy.deepcopy(clean)

    def start_new_kernel(self, **kwargs):
        """In an environment of its own: places for temporary files and settings that no other submission sees."""
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP", "IPYTHONDIR"), str(self.own[1]))
        env = {**os.environ, **places, "PYTHONDONTWRITEBYTECODE": "1", MARK: self.mark}
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # what does not go through Jupyter
        super().start_new_kernel(env=env, **quiet, **kwargs)
        self.kernel = psutil.Process(self.km.provisioner.pid)
        threading.Thread(target=self.watch, args=(self.kernel, self.over), daemon=True).start()

    def watch(self, kernel: psutil.Process, over: threading.Event) -> None:
        """End the kernel if it takes too much memory or disk."""
        while not over.wait(0.2):
            try:
                memory = sum(process.memory_info().rss for process in (kernel, *kernel.children(recursive=True)))
                disk = sum(p.lstat().st_size for folder in self.own for p in folder.rglob("*"))
            except (psutil.Error, OSError):  # something is gone while one looks
                continue
            if memory > self.room.most_memory:
                self.too_much = f"took more than {self.room.most_memory / 2**30:.2g} GB of memory"
            elif disk > self.room.most_disk:
                self.too_much = f"wrote more than {self.room.most_disk / 2**30:.2g} GB"
            if self.too_much:
                with contextlib.suppress(psutil.Error):
                    kernel.kill()
                return

    def preprocess_cell(self, cell, resources, index):
        self.at = index
        if not self.locked:
            own, closed = ([str(p) for p in paths] for paths in (self.own, (self.room.course, self.room.closed)))
            self.aside(GUARD.format(path=str(Path(__file__).with_name("guard.py")), own=own, closed=closed), index)
            self.locked = True
        if index in self.fatal:
            says = self.fatal[index]
            cell.outputs = [nbformat.v4.new_output("error", ename="Stopped", evalue=says, traceback=[says])]
        else:
            if is_test(cell):
                self.before_test(index)
            before = self.processor_seconds()
            cell, resources = super().preprocess_cell(cell, resources, index)
            if grade_id(cell):
                self.room.seconds[grade_id(cell)] = self.processor_seconds() - before
            names = self.room.given.get(grade_id(cell))
            if names:
                self.aside(f"__import__('poise_lab_guard').keep(globals(), {names})", index)
        if index == len(self.nb.cells) - 1 and self.room.controlled:
            self.try_wrong_answers(index)
        return cell, resources

    def aside(self, source: str, index: int) -> list:
        """Run code that is not in the notebook; returns its outputs."""
        cell, (kept, printed) = nbformat.v4.new_code_cell(source), (self.nb.cells[index], self.printed.pop(index, 0))
        try:
            return self.execute_cell(cell, index, store_history=False).outputs
        finally:
            self.nb.cells[index], self.printed[index] = kept, printed

    def before_test(self, index: int) -> None:
        """The checker and the names that the notebook gives, as handed out."""
        outputs = self.aside("__import__('poise_lab_guard').ready(globals())", index)
        try:
            changed = json.loads(outputs[0].text)
        except (IndexError, AttributeError, ValueError):  # the submission has changed that too
            changed = []
        for name in changed:
            where = [c for c in self.nb.cells if name in names_set(c) and (is_answer(c) or not grade_id(c))]
            cells = " and ".join(called(self.nb.cells.index(c), c) for c in where) or "a cell"
            note = f"{cells} redefines `{name}`, which the notebook gives; the tests took the notebook's"
            if note not in self.room.notes:
                self.room.notes.append(note)

    def try_wrong_answers(self, index: int) -> None:
        """A test that was passed, and that a planted wrong answer passes as well, tests nothing in this kernel."""
        passed = [c for c in self.nb.cells if is_test(c) and not any(o.output_type == "error" for o in c.outputs)]
        tests = {grade_id(c): c.source for c in passed if grade_id(c) in self.room.controls}
        self.room.withheld = list(tests)
        try:
            for name, test in tests.items():
                self.aside(self.room.controls[name], index)
                self.before_test(index)
                if any(output.output_type == "error" for output in self.aside(test, index)):
                    self.room.withheld.remove(name)
        except (CellTimeoutError, DeadKernelError):
            pass  # what could not be tried gives no points

    def processor_seconds(self) -> float:
        try:
            times = self.kernel.cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def clear_output(self, outs, msg, cell_index):
        """Never: what a test said stays."""

    def output(self, outs, msg, display_id, cell_index):
        content = msg["content"]
        before = self.printed.get(cell_index, 0)
        self.printed[cell_index] = before + len(str(content))
        too_much = self.printed[cell_index] > MOST_OUTPUT
        if msg["msg_type"] == "execute_result":  # nbgrader takes a number that a test shows for its points
            msg["msg_type"] = msg["header"]["msg_type"] = "display_data"
        if msg["msg_type"] == "error":
            content["evalue"], content["traceback"] = content["evalue"][:1000], content["traceback"][-1:]
            content["traceback"] = [line[:1000] for line in content["traceback"]]
        elif before > MOST_OUTPUT:
            return None
        elif too_much:  # what it is, a text says so in its place
            text = content["text"][:MOST_OUTPUT] if msg["msg_type"] == "stream" else ""
            msg["msg_type"] = msg["header"]["msg_type"] = "stream"
            msg["content"] = content = {"name": "stdout", "text": f"{text}\n[cut: this cell prints too much]\n"}
        if msg["msg_type"] == "stream":
            content["name"] = "stdout"  # nbgrader takes all points for a warning
        return super().output(outs, msg, display_id, cell_index)


def end_processes(mark: str) -> None:
    """End every process that a submission has left behind."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                process.kill()


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

    source: the folder source/<name> of the assignment. timeout: seconds per cell. most_memory, most_disk: bytes.
    given: names that the tests use, by the cell that sets them. controls: a wrong answer for each test.
    """

    def __init__(
        self, source: Path, timeout: int = TIMEOUT, most_memory: int = MOST_MEMORY, most_disk: int = MOST_DISK
    ):
        self.name, self.timeout, self.most_memory, self.most_disk = source.name, timeout, most_memory, most_disk
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.course = Path(self._folder.name).resolve()
        self.closed = source.resolve().parent.parent  # solutions, submissions and grades of the real course
        self.notes, self.withheld, self.seconds, self.controlled = [], [], {}, True

        class Run(RunSubmission):
            room = self

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
        self.master = nbformat.read(source / f"{self.name}.ipynb", 4)
        with nbgrader_at_hand():
            self.api = NbGraderAPI(config=config)
            result = self.api.generate_assignment(self.name)
        if not result["success"]:
            raise PoiseLabError(f"assignment {self.name!r} cannot be released: {result.get('log') or result['error']}")
        self.released_folder = self.course / "release" / self.name
        self.released = nbformat.read(self.released_folder / f"{self.name}.ipynb", 4)
        shutil.rmtree(self.course / "source")  # from here on the solutions are in memory only
        self.given = given_names(self.master)
        self.controls = {}
        for answer in planted_answers(source):
            for test in answer.loses:
                self.controls.setdefault(test, answer.source)

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
            if isinstance(submission, Path) and submission.stat().st_size > MOST_NOTEBOOK:
                raise ValueError(f"it has more than {MOST_NOTEBOOK / 2**20:g} MB; clear its outputs and attachments")
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
        for test in self.withheld:
            points[test] = 0.0
            messages.append(
                f"{test}: no points, for here it passes a wrong answer too: the notebook changes what tests use"
            )
        ran = nbformat.read(self.course / "autograded" / student / self.name / f"{self.name}.ipynb", 4)
        return Graded(student, points, of, messages + self.notes + said(ran))


@dataclasses.dataclass
class PlantedAnswer:
    """A wrong answer that looks right: for which cell, which points it must lose, what the checker must say."""

    name: str
    cell: str
    loses: dict[str, float]
    says: str
    source: str

    @classmethod
    def read(cls, path: Path) -> PlantedAnswer:
        """A Python file whose first comment lines are `# cell: id`, `# loses: test 3, test 2`, `# says: text`."""
        text = path.read_text(encoding="utf-8")
        head = dict(re.findall(r"^# (cell|loses|says): (.*)$", text, re.M))
        if set(head) != {"cell", "loses", "says"}:
            raise PoiseLabError(f"{path.name} must begin with the lines # cell:, # loses: and # says:")
        loses = {test: float(points) for test, points in (part.split() for part in head["loses"].split(","))}
        source = re.sub(r"^# (cell|loses|says): .*\n", "", text, flags=re.M)
        return cls(path.stem, head["cell"], loses, head["says"], source.strip())


def planted_answers(source: Path) -> list[PlantedAnswer]:
    return [PlantedAnswer.read(path) for path in sorted((source / PLANTED).glob("*.py"))]


def instructions(code: CodeType, inner: bool = False):
    """Name of operation, name that it is about, and whether it stands in a function; of a compiled cell."""
    for instruction in dis.get_instructions(code):
        yield instruction.opname, instruction.argval, inner
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant, True)


def of_cell(cell) -> list:
    try:
        return list(instructions(compile(cell.source, "cell", "exec"))) if cell.cell_type == "code" else []
    except (SyntaxError, ValueError):  # IPython's magics, or no Python at all
        return []


def names_set(cell) -> set[str]:
    """The global names that a cell sets: variables, functions, classes, imports."""
    return {name for op, name, inner in of_cell(cell) if op == "STORE_GLOBAL" or op == "STORE_NAME" and not inner}


def given_names(master) -> dict[str, list[str]]:
    """Names that tests use, or functions of the notebook, by the cell that sets them as handed out; answers' aside."""
    loads, given = {"LOAD_NAME", "LOAD_GLOBAL"}, [c for c in master.cells if grade_id(c) and not is_answer(c)]
    used = {name for c in given for op, name, inner in of_cell(c) if op in loads and (inner or is_test(c))}
    used -= {name for c in master.cells if is_answer(c) for name in names_set(c)}
    return {grade_id(c): sorted(names_set(c) & used) for c in given if not is_test(c)}


def grade_id(cell) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_answer(cell) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_open(cell) -> bool:
    """Whether students write here: an answer, or a cell that gives no points and is not locked."""
    return is_answer(cell) or not cell.metadata.get("nbgrader", {}).get("locked")


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


def called(i: int, cell) -> str:
    return f"cell {grade_id(cell)!r}" if grade_id(cell) else f"cell {i + 1}"


def repaired(notebook, released):
    """A submission with all cells of the released notebook in it, as released except for answers, and what was done.

    A missing cell goes behind the released cell before it. Further cells of the student stay where they are.
    What a notebook carries besides its cells' sources is left behind: outputs, attachments, metadata, cell ids.
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
            cell = copy.deepcopy(original)
            if is_open(original):
                cell.source = answer
            elif answer != original.source:
                messages.append(f"cell {name!r} was edited; it was graded as handed out")
        cells.append(cell)
    for before, name in zip([None, *wanted], wanted, strict=False):
        if name not in seen:
            messages.append(f"cell {name!r} was deleted; it was put back as handed out")
            at = next((i + 1 for i, cell in enumerate(cells) if before and grade_id(cell) == before), 0)
            cells.insert(at, copy.deepcopy(wanted[name]))
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i:03}"
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if not grade_id(cell):
            cell.metadata = nbformat.NotebookNode()
    repaired = copy.deepcopy(released)
    repaired.cells = cells
    return repaired, messages


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
