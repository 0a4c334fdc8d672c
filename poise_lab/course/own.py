"""An ordinary notebook made an assignment: which cells are answers, which are tests, and what these are worth."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from ..errors import PoiseLabError
from .cells import grade_id, is_answer, is_test, names_set
from .minutes import exercises, state

POINTS = re.compile(r"#\s*(\d+(?:\.\d+)?) points?\b")  # the first line of a test cell
ANSWER = "### BEGIN SOLUTION"


def prepare(course: Path, name: str) -> list[dict]:
    """Mark the code cells of a master as nbgrader wants them, and state points and minutes at its exercises.

    A cell with a solution in it is an answer, called after what it sets; one that begins with `# 3 points` is a test of
    the answer above it; one that calls `check_all` is open; the others are given. Cells that have a name keep it.
    Returns the exercises (`minutes`).
    """
    path = course / "source" / name / f"{name}.ipynb"
    master = nbformat.read(path, 4)
    taken, above = {grade_id(cell) for cell in master.cells}, "given"
    for cell in (cell for cell in master.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
        points, answer, runs_all = POINTS.match(cell.source), ANSWER in cell.source, "check_all(" in cell.source
        if answer:
            above = grade_id(cell) or next(iter(sorted(names_set(cell))), "answer")
        if grade_id(cell):
            if points:
                cell.metadata.nbgrader.points = float(points[1])
            continue
        called = wanted = above if answer else f"test_{above}" if points else "check_all" if runs_all else "given"
        for number in range(2, len(master.cells) + 2):
            if called not in taken:
                break
            called = f"{wanted}_{number}"
        taken.add(called)
        kind = dict(grade=bool(points), solution=answer, locked=not (answer or runs_all), task=False, schema_version=3)
        cell.metadata.nbgrader = kind | {"grade_id": called} | ({"points": float(points[1])} if points else {})
    for what, found in (("answer: none holds " + ANSWER, is_answer), ("test: none begins with # 3 points", is_test)):
        if not any(map(found, master.cells)):
            raise PoiseLabError(f"{path.name} has no cell that is an {what}".replace("an test", "a test"))
    for cell in (cell for cell in master.cells if cell.cell_type == "markdown"):  # a heading as people write it
        cell.source = re.sub(r"\A(## Exercise \d+)(?! \():? ?(.*)", r"\1 (0 points, 0 minutes): \2", cell.source)
    if not exercises(master):
        raise PoiseLabError(f"{path.name} has no text cell that begins with a heading such as ## Exercise 1: name")
    nbformat.write(master, path)
    return state(course, name)
