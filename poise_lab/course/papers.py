"""What students hand in, made gradeable: which file is the paper, how it is read, and its cells put right.

What cannot be graded as it is gets a sentence, for the student or for the lecturer, and never silence.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import re
from pathlib import Path

from .cells import grade_id, is_answer, is_open, names_set

MOST_NOTEBOOK = 50 * 2**20  # bytes of the file that is handed in


def plain(text: object) -> str:
    """A text that can be written and shown anywhere: halves of surrogates become the sign for an unknown character."""
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_notebook(path: Path):
    """The notebook in a file, in whatever Unicode it is written; raises ValueError for what is none."""
    import nbformat  # takes seconds, and collecting needs none of it

    if not path.is_file():
        raise ValueError(f"there is no {path.name}")
    if path.stat().st_size > MOST_NOTEBOOK:
        raise ValueError(f"it has more than {MOST_NOTEBOOK / 2**20:g} MB; clear its outputs and attachments")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError("the file is empty")
    return nbformat.reads(_with_all_entries(raw.decode(json.detect_encoding(raw), "replace")), 4)


def _with_all_entries(text: str) -> str:
    """A notebook whose cells have the entries that its format asks for, where a program or a hand has spoiled some."""
    try:
        notebook = json.loads(text)
        cells = notebook["cells"] = [cell for cell in notebook["cells"] if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):  # none, or an older format: nbformat says so
        return text
    for name, value in (("nbformat", 4), ("nbformat_minor", 4), ("metadata", {})):
        if not isinstance(notebook.get(name), type(value)):
            notebook[name] = value
    for cell in cells:
        if cell.get("cell_type") == "code":  # it is run again
            cell["outputs"], cell["execution_count"] = [], None
        lines = cell.get("source")
        lines = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else [lines or ""]
        cell["source"] = "".join(map(str, lines)).replace("\r\n", "\n")
        if not isinstance(cell.get("metadata"), dict):
            cell["metadata"] = {}
        named = cell["metadata"].get("nbgrader")
        if not (isinstance(named, dict) and isinstance(named.get("grade_id"), str)):
            cell["metadata"].pop("nbgrader", None)
    return json.dumps(notebook)


def mentions(text: str, assignment: str) -> bool:
    """Whether a text, such as a path or the title of a column, names an assignment; homework_10 is not homework_1."""
    return re.search(rf"(?<!\d){re.escape(assignment)}(?!\d)", text, re.IGNORECASE) is not None


# --- the cells of a notebook ---------------------------------------------------------------------


def recognised(cells: list, released) -> set[str]:
    """Give cells without a name that of the released cell they were made of; returns the names given.

    Some programs drop what nbgrader notes in a cell. It is the same cell if its id is, if its text is that of a cell
    that may not be edited, or if it sets what an answer sets. A name that some cell still has is not given again.
    """
    names = {grade_id(cell) for cell in cells}
    nameless = [cell for cell in cells if not grade_id(cell)]
    given = set()
    for original in (c for c in released.cells if grade_id(c) and grade_id(c) not in names):
        sets = names_set(original) if is_answer(original) else set()
        alike = [c for c in nameless if c.get("id", "") == original.get("id")]
        alike = alike or [c for c in nameless if c.source.strip() == original.source.strip()]
        alike = alike or [c for c in nameless if sets and sets <= names_set(c)][-1:]
        if len(alike) == 1:
            alike[0].metadata.nbgrader = copy.deepcopy(original.metadata.nbgrader)
            nameless.remove(alike[0])
            given.add(grade_id(original))
    return given


def repaired(notebook, released) -> tuple:
    """A submission with all cells of the released notebook in it, as released except for answers.

    Returns it, sentences for the student about what was done, and those for the lecturer. A missing cell goes behind
    the released cell before it. Further cells of the student stay where they are. What a notebook carries besides its
    cells' sources is left behind: outputs, attachments, metadata, cell ids.
    """
    wanted = {grade_id(cell): cell for cell in released.cells if grade_id(cell)}
    answers = {name for name, cell in wanted.items() if is_answer(cell)}
    messages, notes, cells, seen = [], [], [], set()
    if recognised(notebook.cells, released):
        messages.append("some cells had lost the names that nbgrader gives them; they were known by what is in them")
        notes += messages
    untouched = True
    for cell in notebook.cells:
        name, source = grade_id(cell), plain(cell.source)
        if source != cell.source:
            messages.append(f"cell {name!r} holds half a character; it was replaced" if name else
                            "a cell holds half a character; it was replaced")  # fmt: skip
        if name not in wanted or name in seen:  # the student's own, or a copy
            cell.metadata.pop("nbgrader", None)
            cell.source = source
        else:
            seen.add(name)
            original = wanted[name]
            cell = copy.deepcopy(original)
            if is_open(original):
                untouched = untouched and (name not in answers or source.strip() == original.source.strip())
                cell.source = source
            elif source != original.source:
                messages.append(f"cell {name!r} was edited; it was graded as handed out")
        cells.append(cell)
    if answers and not seen & answers:
        notes.append("no answer cell of this assignment is in the notebook; is it another notebook?")
        messages.append(notes[-1])
    elif untouched:
        notes.append("all its answers are as they were handed out; is it the right file?")
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
            cell.metadata.clear()
    whole = copy.deepcopy(released)
    whole.cells = cells
    return whole, messages, notes


# --- the files under submitted -------------------------------------------------------------------


@dataclasses.dataclass
class Paper:
    """What a student handed in for an assignment: the file, or where it should be; and sentences for both readers."""

    path: Path
    messages: list[str]
    notes: list[str]

    def digest(self, master: Path) -> str:
        """Changes if the file or the master does."""
        seen = hashlib.sha256(master.read_bytes())
        with contextlib.suppress(OSError):  # not to be read: grading says so
            seen.update(self.path.read_bytes() if self.path.is_file() else b"")
        return seen.hexdigest()[:16]


def hidden(path: Path) -> bool:
    """Whether a system made it, not the student: macOS puts ._x.ipynb beside x.ipynb, Jupyter its checkpoints."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def notebooks_in(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() == ".ipynb" and p.is_file() and not hidden(Path(p.name))
    )


def papers(course: Path, name: str) -> dict[str, Paper]:
    """By student: submitted/<student>/<name>/<name>.ipynb, or the only other notebook where there is none."""
    found = {}
    for folder in sorted(path / name for path in (course / "submitted").glob("*") if (path / name).is_dir()):
        files, paper = notebooks_in(folder), Paper(folder / f"{name}.ipynb", [], [])
        others = [path for path in files if path.name != f"{name}.ipynb"]
        if others and len(others) == len(files):
            paper.path = others.pop(0)
            paper.messages.append(f"graded is the file {plain(paper.path.name)!r}; it should be {name}.ipynb")
            paper.notes += paper.messages
        for path in others:
            paper.notes.append(f"{plain(path.name)!r} lies beside it and was not graded")
        found[folder.parent.name] = paper
    return found


def strays(course: Path, names: list[str]) -> list[str]:
    """A sentence for each file under submitted that is graded for no assignment, though it may be meant to be."""
    submitted, said = course / "submitted", []
    belongs = "submitted/<student>/<assignment>/<assignment>.ipynb"
    for path in sorted(p for p in submitted.rglob("*") if p.is_file() and not hidden(p.relative_to(submitted))):
        parts, here = path.relative_to(submitted).parts, plain(path.relative_to(course))
        if path.suffix.lower() != ".ipynb":
            said.append(f"{here} is not graded: it is no notebook (.ipynb)")
        elif len(parts) < 3:
            said.append(f"{here} is not graded: it lies too high; it belongs into {belongs}")
        elif parts[1] not in names:
            said.append(f"{here} is not graded: there is no assignment {plain(parts[1])!r}; it belongs into {belongs}")
        elif len(parts) > 3:
            said.append(f"{here} is not graded: it lies too deep; it belongs into {belongs}")
    return said
