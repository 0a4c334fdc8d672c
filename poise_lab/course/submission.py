"""Run the notebook of one submission, whatever is in it: in a kernel of its own, whose doors `guard` closes.

What kind of cell each is, `cells` says.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.preprocessors import Execute

from .cells import called, grade_id, is_answer, is_test, names_set
from .checks import GRADES

MOST_OUTPUT = 100_000  # characters kept of what a cell prints
STARTS = 3  # of a kernel that dies before its first cell, as one does whose port was taken by another
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
MARK = GRADES  # with a mark of its own in the environment of all processes of one submission


@dataclass
class Desk:
    """What submissions are run under, and what was noticed of the last one.

    course: the folder of the grader. closed: the real course, which no submission may read. most_memory, most_disk:
    bytes. given: names that the tests use, by the cell that sets them. controls: a wrong answer for each test.
    controlled: whether they are tried. notes: sentences for the student. withheld: tests that accept a wrong answer.
    seconds: of the processor, by cell.
    """

    course: Path
    closed: Path
    most_memory: int
    most_disk: int
    given: dict[str, list[str]]
    controls: dict[str, str]
    controlled: bool = True
    notes: list[str] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class RunSubmission(Execute):
    """nbgrader's execution, with one end for a cell that ends the kernel or never ends: the others run without it."""

    desk: Desk  # which a subclass sets

    def preprocess(self, nb, resources, km=None):
        self.fatal: dict[int, str] = {}
        starts = STARTS
        clean = copy.deepcopy(nb.cells)
        own = Path(resources["metadata"]["path"] or ".").resolve()
        handed_in = set(own.rglob("*"))
        while True:
            self.own = [own, Path(tempfile.mkdtemp(dir=self.desk.course))]
            self.printed: dict[int, int] = {}
            self.too_much, self.locked, self.mark, self.over = "", False, uuid.uuid4().hex, threading.Event()
            self.desk.notes, self.desk.withheld, self.desk.seconds = [], [], {}
            try:
                return super().preprocess(nb, resources, km)
            except CellTimeoutError:
                self.fatal[self.at] = f"this cell did not end within {self.timeout} seconds; the rest ran without it"
            except DeadKernelError:
                self.fatal[self.at] = f"this cell {self.too_much or 'ended the kernel'}; the rest ran without it"
            except RuntimeError:
                starts -= 1
                if not starts:
                    raise
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
            if memory > self.desk.most_memory:
                self.too_much = f"took more than {self.desk.most_memory / 2**30:.2g} GB of memory"
            elif disk > self.desk.most_disk:
                self.too_much = f"wrote more than {self.desk.most_disk / 2**30:.2g} GB"
            if self.too_much:
                with contextlib.suppress(psutil.Error):
                    kernel.kill()
                return

    def preprocess_cell(self, cell, resources, index):
        self.at = index
        if not self.locked:
            own, closed = ([str(p) for p in paths] for paths in (self.own, (self.desk.course, self.desk.closed)))
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
                self.desk.seconds[grade_id(cell)] = self.processor_seconds() - before
            names = self.desk.given.get(grade_id(cell))
            if names:
                self.aside(f"__import__('poise_lab_guard').keep(globals(), {names})", index)
        if index == len(self.nb.cells) - 1 and self.desk.controlled:
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
            if note not in self.desk.notes:
                self.desk.notes.append(note)

    def try_wrong_answers(self, index: int) -> None:
        """A test that was passed, and that a planted wrong answer passes as well, tests nothing in this kernel."""
        passed = [c for c in self.nb.cells if is_test(c) and not any(o.output_type == "error" for o in c.outputs)]
        tests = {grade_id(c): c.source for c in passed if grade_id(c) in self.desk.controls}
        self.desk.withheld = list(tests)
        try:
            for name, test in tests.items():
                self.aside(self.desk.controls[name], index)
                self.before_test(index)
                if any(output.output_type == "error" for output in self.aside(test, index)):
                    self.desk.withheld.remove(name)
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
            if content["ename"] == "AssertionError" and not content["evalue"]:  # a test without a sentence of its own
                content["evalue"] = f"this does not hold: {line_that_failed(content['traceback'])}"
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


def line_that_failed(traceback: list[str]) -> str:
    """The line of code that the last arrow of IPython's traceback points at."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(traceback))
    return (re.findall(r"^-+> \d+ *(.*)$", plain, re.M) or ["a condition"])[-1]


def end_processes(mark: str) -> None:
    """End every process that a submission has left behind."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                process.kill()
