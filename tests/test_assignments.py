"""The assignments' sources, and the machinery that grades them.

What needs nbgrader is skipped without it; `make grade-check` installs it and runs this file too.
"""

from __future__ import annotations

import ast
import builtins
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from packaging.requirements import Requirement

import poise_lab as pl
from poise_lab.course.cells import names_set
from poise_lab.course.checks import check, require

SOURCE = Path(__file__).parent.parent / "notebooks" / "assignments" / "source"
MASTERS = sorted(SOURCE.glob("*/*.ipynb"))
SOLUTION = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.S)
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.S)


@pytest.fixture(params=MASTERS, ids=lambda path: path.stem)
def master(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=MASTERS, ids=lambda path: path.stem)
def folder(request):
    return request.param.parent


def of_kind(notebook, kind):
    return [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get(kind)]


# --- the masters ---------------------------------------------------------------------------------


def test_masters_have_no_outputs(master):
    cells = [cell for cell in master.cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_no_line_of_code_runs_off_the_page(master):
    code = (cell.source for cell in master.cells if cell.cell_type == "code")
    assert [line for source in code for line in source.split("\n") if len(line) > 100] == []


def test_every_answer_is_marked_and_every_test_locked(master):
    nbformat.validate(master)
    answers, tests = of_kind(master, "solution"), of_kind(master, "grade")
    assert answers and all(SOLUTION.search(cell.source) for cell in answers)
    assert all(len(HIDDEN.findall(cell.source)) <= 1 and cell.metadata.nbgrader.locked for cell in tests)
    assert all(not SOLUTION.search(cell.source) for cell in master.cells if cell not in answers)
    assert all(cell.metadata.get("nbgrader") for cell in master.cells if cell.cell_type == "code")
    ids = [cell.metadata.nbgrader.grade_id for cell in master.cells if cell.metadata.get("nbgrader")]
    assert len(ids) == len(set(ids))


def test_students_are_told_every_name_that_tests_use(master):
    """Where an answer is a name and no function, the student's cell is empty: the text must say the name."""
    text, tests = "", "".join(cell.source for cell in of_kind(master, "grade"))
    for cell in master.cells:
        text += cell.source * (cell.cell_type == "markdown")
        if cell.metadata.get("nbgrader", {}).get("solution"):
            asked = {name for name in names_set(cell) if re.search(rf"\b{name}\b", tests)}
            stub = set(re.findall(r"^(?:def|class) (\w+)", SOLUTION.sub("", cell.source), re.M))
            assert asked and asked <= stub | set(re.findall(r"`(\w+)`", text)), asked


def test_points_and_minutes_are_stated_as_they_are(master):
    """Points of the test cells after a heading, and the table of the opening, agree with the heading."""
    stated, found, minutes = [], [], []
    for cell in master.cells:
        heading = re.search(r"^## Exercise \d+ \((\d+) points, (\d+) minutes\)", cell.source, re.M)
        if cell.cell_type == "markdown" and heading:
            stated.append(int(heading[1]))
            minutes.append(int(heading[2]))
            found.append(0)
            assert re.search("recognised", cell.source, re.I), heading[0]
        elif cell.metadata.get("nbgrader", {}).get("grade"):
            found[-1] += cell.metadata.nbgrader.points
    rows = re.findall(r"^\| \d .*?\| (\d+) \| (\d+) \|$", master.cells[0].source, re.M)
    assert stated == found and [(str(p), str(m)) for p, m in zip(stated, minutes, strict=True)] == rows
    assert 60 <= sum(minutes) <= 120
    assert f"{sum(minutes)} minutes" in master.cells[0].source


def test_minutes_are_those_of_the_formula():
    """A master that was changed is measured again by `python -m poise_lab.course minutes`."""
    pytest.importorskip("nbgrader", reason="make assignments installs it")
    from poise_lab.course import __main__ as course
    from poise_lab.course import minutes as course_minutes

    seconds = json.loads((course.COURSE / course_minutes.SECONDS).read_text(encoding="utf-8"))
    for path in MASTERS:
        found = course_minutes.seconds_taken(course.COURSE, path.stem)
        assert len(found) == len(seconds[path.stem]) and all(s >= 0 for s in seconds[path.stem])
        assert [e["stated"] for e in found] == [e["minutes"] for e in found], path.stem
        assert 60 <= sum(e["minutes"] for e in found) <= 120
    # two readings of 200 words, ten minutes, 4 lines, five runs of 12 seconds: 2 + 10 + 6 + 1
    assert course_minutes.minutes(200, 4, 12.0) == 20 and course_minutes.minutes(200, 0, 0) == 10
    for constant in (
        course_minutes.WORDS_PER_MINUTE,
        course_minutes.MINUTES_PER_EXERCISE,
        course_minutes.MINUTES_PER_LINE,
        course_minutes.RUNS,
    ):
        assert re.search(rf"\b{constant:g}\b", INSTRUCTORS[INSTRUCTORS.index("### Where the minutes come from") :])


def test_words_lines_and_cells_of_an_exercise_are_counted():
    pytest.importorskip("nbgrader", reason="make assignments installs it")
    from poise_lab.course import minutes as course_minutes

    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    answer = "def f():\n    ### BEGIN SOLUTION\n    # why\n    x = 1\n\n    return x\n    ### END SOLUTION"
    test = "assert f()\n### BEGIN HIDDEN TESTS\nassert not seen\n### END HIDDEN TESTS"
    named = [code(answer), code(test)]
    for cell, name in zip(named, ("f", "test_f"), strict=True):
        cell.metadata.nbgrader = {"grade_id": name}
    heading = "## Exercise 1 (4 points, 15 minutes): one"
    cells = [
        text("## Setup"),
        text("## Here"),
        text(heading),
        *named,
        code("## no heading"),
        text("## After it\nnot counted"),
    ]
    second = text("## Exercise 2 (1 points, 5 minutes): two"), code("pass")
    found, after = course_minutes.exercises(nbformat.v4.new_notebook(cells=[*cells, *second]))
    assert (after["number"], after["words"]) == (2, 8)  # no word before it is counted
    # 2 words before, 7 in the heading, "def f" and "assert f", 2 of the comment
    assert found == {"number": 1, "stated": 15, "title": "one", "words": 15, "lines": 2, "cells": ["f", "test_f"]}


def test_students_may_say_how_long_they_took(master):
    (cell,) = (c for c in master.cells if c.metadata.get("nbgrader", {}).get("grade_id") == "minutes_taken")
    assert not cell.metadata.nbgrader.locked and not cell.metadata.nbgrader.grade
    numbers = [int(n) for n in re.findall(r"^## Exercise (\d+)", "\n".join(c.source for c in master.cells), re.M)]
    assert ast.literal_eval(cell.source.removeprefix("minutes = ")) == dict.fromkeys(numbers)


def test_a_solution_is_not_in_what_students_see(master):
    """Single lines may stand elsewhere (a bug is shown in code that is otherwise right), but no three in a row."""

    def stripped(text):
        return "\n".join(line.strip() for line in text.splitlines())

    visible = "\n".join(stripped(SOLUTION.sub("", HIDDEN.sub("", cell.source))) for cell in master.cells)
    for cell in of_kind(master, "solution"):
        for solution in SOLUTION.findall(cell.source):
            lines = stripped(solution).splitlines()
            size = min(3, len(lines))
            for start in range(len(lines) - size + 1):
                piece = "\n".join(lines[start : start + size])
                assert piece not in visible, piece


def test_at_least_three_planted_answers_for_each_exercise(folder, master_of):
    cells = {cell.metadata.nbgrader.grade_id for cell in of_kind(master_of(folder), "solution")}
    tests = {
        cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points for cell in of_kind(master_of(folder), "grade")
    }
    planted, lost = dict.fromkeys(cells, 0), set()
    for path in sorted((folder / "planted").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        ast.parse(text)
        head = dict(re.findall(r"^# (cell|loses|says): (.*)$", text, re.M))
        planted[head["cell"]] += 1
        for test in head["loses"].split(", "):
            assert tests[test] > 0, path.name
            lost.add(test)
    assert lost == set(tests), set(tests) - lost
    assert set(planted) == cells and min(planted.values()) >= 3, planted
    right = {path.stem for path in (folder / "planted").glob("right*/*.py")}
    assert right and right <= cells


def test_mistakes_that_an_exercise_names_are_planted(folder, master_of):
    """Each phrase in the fold of recognised mistakes is (in part) the `# recognised:` of a planted answer, and the other way."""
    named, planted, phrases = set(), set(), []
    for cell in master_of(folder).cells:
        line = re.search(
            r"^<details><summary>Recognised mistakes .*</summary>\n\n(.*)\n\n</details>$", cell.source, re.M
        )
        if cell.cell_type == "markdown" and line:
            phrases = line[1].split(". ")[0].rstrip(".").split("; ")
        elif cell.metadata.get("nbgrader", {}).get("solution"):
            named |= {(cell.metadata.nbgrader.grade_id, phrase) for phrase in phrases}
    for path in sorted((folder / "planted").glob("*.py")):
        head = dict(re.findall(r"^# (cell|recognised): (.*)$", path.read_text(encoding="utf-8"), re.M))
        if "recognised" in head:
            found = {(cell, phrase) for cell, phrase in named if cell == head["cell"] and head["recognised"] in phrase}
            assert len(found) == 1, (path.name, found)
            planted |= found
    assert planted == named, sorted(named - planted)


def test_mistakes_that_tests_name_are_planted(folder, master_of):
    """Each sentence in a test cell's dict of mistakes is (in part) the `# says:` of a planted answer."""
    says = [re.search(r"^# says: (.*)$", p.read_text(encoding="utf-8"), re.M)[1] for p in folder.glob("planted/*.py")]
    for cell in of_kind(master_of(folder), "grade"):
        for node in ast.walk(ast.parse(cell.source)):
            for key in node.keys if isinstance(node, ast.Dict) else ():
                if isinstance(key, ast.Constant) and " " in str(key.value):
                    assert any(part in key.value for part in says), key.value


@pytest.fixture
def master_of():
    return lambda folder: nbformat.read(folder / f"{folder.name}.ipynb", as_version=4)


# --- the guides ----------------------------------------------------------------------------------

ROOT = SOURCE.parent.parent.parent
INSTRUCTORS = (ROOT / "notebooks" / "INSTRUCTORS.md").read_text(encoding="utf-8")
STUDENTS = (ROOT / "notebooks" / "STUDENTS.md").read_text(encoding="utf-8")


def test_guides_name_what_exists():
    makefile = (ROOT / "Makefile").read_text()
    for text in (INSTRUCTORS, STUDENTS):
        for target in re.findall(r"\bmake ([a-z-]+)(?=`| {2,}#)", text):
            assert re.search(rf"^{target}:", makefile, re.M), target
        for name in re.findall(r"`(\d_\w+)`", text):
            assert (SOURCE / name).is_dir(), name
        for number in re.findall(r"\b(0\d)\b", text):
            assert list((ROOT / "notebooks").glob(f"{number}_*.ipynb")), number
        for name in re.findall(r"`pl\.(\w+)", text):
            assert hasattr(pl, name), name
        for path in re.findall(r"`((?:notebooks|tests)/[\w/]+\.?\w*)`", text):
            assert (ROOT / path).exists() or path.startswith("notebooks/assignments/"), path
    assert all(f"`{path.stem}`" in INSTRUCTORS for path in MASTERS)


def test_students_install_the_torch_that_the_constraints_name():
    """Another one would be replaced by the next line, on Linux by gigabytes of parts for GPUs; so in the grader's container."""
    root = SOURCE.parent.parent.parent
    start, pinned = (SOURCE.parent / "START.md").read_text(), (root / "constraints.txt").read_text().split()
    for page in (start, INSTRUCTORS):
        assert re.findall(r"install (torch\S*)", page) == [pin for pin in pinned if pin.startswith("torch==")]


def test_every_notebook_has_its_place_in_the_plan_of_eight_sessions():
    rows = re.findall(r"^\| (\d) \|.*\| ([^|]+) \|$", INSTRUCTORS[INSTRUCTORS.index("## Plans") :], re.M)[:8]
    assert [number for number, _ in rows] == list("12345678")
    named = {n for _, last in rows for n in re.findall(r"\b(\d\d)\b", last)}
    assert named == {path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert all(f"home: `{path.stem}`" in " ".join(last for _, last in rows) for path in MASTERS)


def test_what_the_plans_say_of_the_notebooks():
    """Minutes of their heads, which of them have sliders, and that no plan shows one before another that it needs."""
    part = INSTRUCTORS[INSTRUCTORS.index("## Plans") : INSTRUCTORS.index("## The assignments")]
    books = {path.name[:2]: nbformat.read(path, as_version=4).cells for path in (ROOT / "notebooks").glob("*.ipynb")}
    minutes = [
        int(re.search(r"about (\d+) minutes (?:to read and do|of yours)", "".join(c.source for c in cells))[1])
        for cells in books.values()
    ]
    assert f"{min(minutes)} to {max(minutes)} minutes" in " ".join(part.split())
    code = {n: "".join(c.source for c in cells if c.cell_type == "code") for n, cells in books.items()}
    still = sorted(n for n, text in code.items() if "Sliders(" not in text)
    assert f"({' and '.join(still)} have none)" in " ".join(part.split())
    for column in zip(*re.findall(r"^\| \d \| (.*?) \| (.*?) \| (.*?) \|$", part, re.M), strict=True):
        shown = [n for cell in column for n in re.findall(r"\b(\d\d)\b", cell)]
        assert shown == sorted(shown), shown


def test_commands_of_the_course_are_given_with_and_without_make():
    pytest.importorskip("nbgrader", reason="make assignments installs it")
    from poise_lab.course import __main__ as course

    for command in re.findall(r"python -m poise_lab\.course (\w+)", INSTRUCTORS):
        assert f"course {command}" in course.__doc__
    makefile = (ROOT / "Makefile").read_text()
    for target, command in re.findall(
        r"^\| .*\| `make ([a-z-]+)` \| .*`python -m poise_lab\.course (\w+)` \|$", INSTRUCTORS, re.M
    ):
        recipe = makefile[makefile.index(f"\n{target}:") :].split("\n\n")[0]
        assert f"poise_lab.course {command}" in recipe


def test_the_grader_needs_no_shell_no_fork_and_no_signal_of_one_system():
    for path in (ROOT / "poise_lab" / "course").glob("*.py"):
        if path.stem == "guard":  # which names them to forbid them
            continue
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"\bsignal\b|os\.(kill|fork|setsid)|preexec_fn|shell=True|\bresource\b|/tmp|/dev/", source)


def test_instructors_table_is_that_of_the_masters():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| (\d+) \|$", INSTRUCTORS, re.M)
    assert [name for name, *_ in rows] == [path.stem for path in MASTERS]
    for name, points, minutes in rows:
        opening = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4).cells[0].source
        stated = re.findall(r"^\| \d .*?\| (\d+) \| (\d+) \|$", opening, re.M)
        assert (sum(int(p) for p, _ in stated), sum(int(m) for _, m in stated)) == (int(points), int(minutes))


def test_messages_of_the_troubleshooting_exist():
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "poise_lab").rglob("*.py"))
    sources += "".join(cell.source for path in MASTERS for cell in nbformat.read(path, as_version=4).cells)
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # messages that go over two lines
    part = STUDENTS[STUDENTS.index("## It does not work") :]
    messages = [m for row in re.findall(r"^\| (.*?) \|", part, re.M) for m in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 10
    for message in messages:
        assert message in sources or hasattr(builtins, message), message


def test_words_that_notebooks_explain_are_in_the_glossary():
    """Words of the tables in the openings; a symbol behind a word belongs to the symbols."""
    known = " ".join(re.findall(r"^\| ([^|]+) \|", STUDENTS, re.M)).lower()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        opening = nbformat.read(path, as_version=4).cells[0].source
        table = opening[opening.find("| word |") :] if "| word |" in opening else ""
        for entry in re.findall(r"^\| ([^|]+) \| ", table, re.M):
            for word in re.sub(r"\(.*?\)", "", entry).split(","):
                plain = re.sub(r" (?:pi|[xysbARVZ])$", "", word.strip())
                assert plain.lower() in known, f"{plain!r} of {path.name}: add it to notebooks/STUDENTS.md"


def test_nbgrader_is_pinned_within_its_bounds_and_installed_by_make():
    (text,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["course"]
    requirement = Requirement(text)
    pin = re.search(rf"^{requirement.name}==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert requirement.specifier.contains(pin[1])
    assert re.search(r"-c constraints.txt -e \"\.\[course\]\" && touch \$@$", (ROOT / "Makefile").read_text(), re.M)


# --- what test cells call ------------------------------------------------------------------------


def test_check_accepts_what_is_right_and_names_what_is_not():
    mistakes = {"this is the mean over the whole group": [0.5, 0.5]}
    learned = torch.tensor([1.0, 0.0], requires_grad=True)
    for right in ([1.0, 0.0], np.array([1.0, 0.0]), learned, list(learned), (learned[0], 0)):
        check(right, [1, 0], mistakes)
    for found, says in (
        ([0.5, 0.5], "this is the mean over the whole group"),
        ([0.5, 0.4], r"is \[0.5 0.4\], expected \[1. 0.\]"),
        ([learned[0] * 0.5, learned[0] * 0.5], "this is the mean over the whole group"),
        ([learned, learned[0]], "list, where numbers are expected"),
        ([1.0], r"shape \(1,\), expected \(2,\)"),
        ([1.0, float("nan")], "NaN"),
        (None, r"is still None: put your result there \(in a function: is there a `return`\?\)"),
        ("text", "where numbers are expected"),
        (lambda: 0, "where numbers are expected"),
    ):
        with pytest.raises(AssertionError, match=says):
            check(found, [1, 0], mistakes)
    with pytest.raises(AssertionError, match="no"):
        require(False, "no")


@pytest.mark.parametrize("right", [0.5, 200.0])
def test_check_takes_what_is_near_and_nothing_else(right):
    """1e-5, and as much again in parts of the answer; another tolerance is said."""
    near = 1e-5 * (1 + right)
    for found in (right + 0.9 * near, right - 0.9 * near):
        check(found, right)
    for found in (right + 1.1 * near, right - 1.1 * near, right + 0.01):
        with pytest.raises(AssertionError, match="the result is .*, expected"):
            check(found, right)
        check(found, right, tolerance=0.01)


# --- grading, on a toy assignment ----------------------------------------------------------------

TESTS = {
    "test_one": "assert one() == 1, 'one is not one'\n### BEGIN HIDDEN TESTS\nassert one() + one() == 2\n### END HIDDEN TESTS",
    "test_two": "assert two() == 2 * unit(), 'two is not two'",
}


def toy_course(root: Path, right: str = "return 1") -> Path:
    """A source folder with a toy assignment: two exercises of 2 and 3 points."""

    def cell(name, source, points=None, solution=False):
        metadata = dict(
            schema_version=3,
            grade_id=name,
            solution=solution,
            grade=points is not None,
            locked=not solution,
            task=False,
        )
        if points is not None:
            metadata["points"] = points
        return nbformat.v4.new_code_cell(source, metadata={"nbgrader": metadata})

    body = "def {}():\n    ### BEGIN SOLUTION\n    {}\n    ### END SOLUTION"
    notebook = nbformat.v4.new_notebook(
        cells=[
            cell("setup", "import os\n\nscale = 1\n\n\ndef unit():\n    return scale"),
            cell("one", body.format("one", right), solution=True),
            cell("test_one", TESTS["test_one"], 2),
            cell("two", body.format("two", "return 2"), solution=True),
            cell("test_two", TESTS["test_two"], 3),
        ],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    folder = root / "source" / "toy"
    (folder / "planted").mkdir(parents=True)
    nbformat.write(notebook, folder / "toy.ipynb")
    planted = "# cell: {0}\n# loses: test_{0}\n# says: {0} is not {0}\ndef {0}():\n    return 3\n"
    (folder / "planted" / "three.py").write_text(planted.format("one"))
    (folder / "planted" / "two_three.py").write_text(planted.format("two"))
    return folder


@pytest.fixture(scope="module")
def grading():
    pytest.importorskip("nbgrader", reason="make assignments installs it")
    from poise_lab.course import grading

    return grading


@pytest.fixture(scope="module")
def course(grading):
    from poise_lab.course import __main__ as course

    return course


@pytest.fixture(scope="module")
def room(grading, tmp_path_factory):
    source = toy_course(tmp_path_factory.mktemp("course"))
    with grading.Classroom(source, timeout=6, most_memory=400 * 2**20, most_disk=20 * 2**20) as room:
        yield room


def source_of(notebook, name, source=None):
    (cell,) = (c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)
    if source is not None:
        cell.source = source
    return cell


def test_released_without_solutions_hidden_tests_and_planted_answers(room):
    text = nbformat.writes(room.released)
    assert "NotImplementedError" in text and "return 1" not in text
    assert "HIDDEN" not in text and "one() + one()" not in text and "SOLUTION" not in text
    assert [path.name for path in room.released_folder.iterdir()] == ["toy.ipynb"]


def test_untouched_and_solution(room):
    room.require_reference()
    untouched = room.grade("untouched", room.released)
    assert untouched.total == 0 and untouched.full == 5
    assert any("NotImplementedError" in message for message in untouched.messages)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("def two():\n    while True:\n        try:\n            pass\n        except:\n            pass", "did not end within 6 seconds"),
        ("def two():\n    os._exit(3)", "ended the kernel"),
        ("os._exit(3)", "two: this cell ended the kernel"),
        ("while True:\n    print('x' * 1000)", "did not end within 6 seconds"),
    ],
    ids=["loops for ever", "ends the kernel in a test", "ends the kernel", "prints for ever"],
)  # fmt: skip
def test_what_does_not_come_back_costs_its_own_points_only(room, answer, says):
    graded = room.grade("wild", room.solved({"two": answer}))
    assert graded.points == {"test_one": 2, "test_two": 0}
    assert any(says in message for message in graded.messages)


@pytest.mark.parametrize(("deaths", "points"), [(2, 5), (3, 0)])
def test_a_kernel_that_dies_before_its_first_cell_is_started_again(room, monkeypatch, deaths, points):
    from poise_lab.course.submission import RunSubmission

    start, left = RunSubmission.start_new_kernel_client, [deaths]

    def dying(self, **options):
        if left[0]:
            left[0] -= 1
            raise RuntimeError("Kernel died before replying to kernel_info")
        return start(self, **options)

    monkeypatch.setattr(RunSubmission, "start_new_kernel_client", dying)
    graded = room.grade("unlucky", room.solved())
    assert graded.total == points and left == [0]
    assert ("Kernel died" in " ".join(graded.messages)) == (points == 0)


def test_the_next_submission_is_not_harmed(room):
    room.grade("wild", room.solved({"two": "def one():\n    os._exit(3)\n\n\ndef two():\n    os._exit(3)"}))
    graded = room.grade("good", room.solved())
    assert graded.total == 5 and not graded.messages


def test_edited_test_cell_is_graded_as_handed_out(room):
    notebook = room.solved({"one": "def one():\n    return 7"})
    source_of(notebook, "test_one", "pass")
    graded = room.grade("edits", notebook)
    assert graded.points == {"test_one": 0, "test_two": 3}
    assert "cell 'test_one' was edited; it was graded as handed out" in graded.messages
    assert source_of(notebook, "test_one").source == "pass"  # the student's file stays as it is


@pytest.mark.parametrize(
    ("deleted", "points"),
    [({"test_one"}, 5), ({"setup"}, 5), ({"one"}, 3), ({"one", "test_one"}, 3), ({"setup", "one", "test_one", "two", "test_two"}, 0)],
    ids=lambda x: "-".join(sorted(x)) if isinstance(x, set) else "",
)  # fmt: skip
def test_deleted_cells_are_put_back(room, deleted, points):
    notebook = room.solved()
    notebook.cells = [c for c in notebook.cells if c.metadata.nbgrader.grade_id not in deleted]
    graded = room.grade("deletes", notebook)
    assert graded.total == points
    for name in deleted:
        assert f"cell {name!r} was deleted; it was put back as handed out" in graded.messages


def test_megabytes_are_cut(room):
    answer = "print('x' * 5_000_000)\nfor _ in range(20_000):\n    print('y' * 100)\n\n\ndef two():\n    return 2"
    graded = room.grade("prints", room.solved({"two": answer}))
    assert graded.total == 5 and "two: prints too much; only its beginning was kept" in graded.messages
    assert (
        sum(p.stat().st_size for p in (room.course / "autograded" / f"submission-{room.number}").rglob("*.ipynb"))
        < 500_000
    )


@pytest.mark.parametrize(
    "wild",
    [
        "from IPython.display import HTML, display\nfor _ in range(300):\n    display(HTML('x' * 50_000))",
        "import sys\nfor _ in range(3000):\n    print('y' * 1000, file=sys.stderr)",
        "def many(n):\n    return many(n - 1) if n else 1 / 0\n\n\nraise ValueError('z' * 3_000_000)",
    ],
    ids=["display", "stderr", "exception"],
)
def test_megabytes_of_any_kind_are_cut(room, wild):
    graded = room.grade("shows", room.solved({"two": f"def two():\n    return 2\n\n\n{wild}"}))
    assert graded.points["test_one"] == 2 and any(message.startswith("two: ") for message in graded.messages)
    assert (
        sum(p.stat().st_size for p in (room.course / "autograded" / f"submission-{room.number}").rglob("*.ipynb"))
        < 500_000
    )
    assert room.grade("good", room.solved()).total == 5


def test_tests_are_not_fooled_by_a_changed_checker(grading):
    """Answers that give None, and a cell that makes the checker agree with everything."""
    from poise_lab.course.cells import is_answer

    folder = ROOT / "notebooks" / "assignments" / "source" / "1_policy_gradient"
    with grading.Classroom(folder) as real:
        notebook = copy.deepcopy(real.released)
        for cell in notebook.cells:
            if is_answer(cell):
                cell.source = cell.source.replace("raise NotImplementedError()", "return None")
        agrees = "import poise_lab.course.checks\n\npoise_lab.course.checks.check = poise_lab.course.checks.require = lambda *a, **k: None"
        notebook.cells.insert(2, nbformat.v4.new_code_cell(agrees))
        assert real.grade("agrees", notebook).total == 0


def test_a_warning_costs_nothing(room):
    answer = "import warnings\n\n\ndef two():\n    warnings.warn('careful')\n    return 2"
    assert room.grade("warns", room.solved({"two": answer})).total == 5


def test_own_cells_and_copied_cells(room):
    notebook = room.solved({"one": "def one():\n    return mine"})
    notebook.cells.insert(1, nbformat.v4.new_code_cell("mine = 1"))
    copied = nbformat.v4.new_code_cell("pass", metadata=source_of(notebook, "test_two").metadata)
    notebook.cells.append(copied)
    assert room.grade("own", notebook).total == 5


def test_notebooks_of_other_programs(room, tmp_path):
    """Another kernel's name, an older format without cell ids, an answer cell split in two."""
    notebook = room.solved({"one": "value = 1"})
    second_half = nbformat.v4.new_code_cell(
        "def one():\n    return value", metadata=source_of(notebook, "one").metadata
    )
    notebook.cells.insert(2, second_half)
    notebook.metadata = {
        "kernelspec": {"display_name": "mine", "language": "python", "name": "conda-env-mine"},
        "colab": {},
    }
    for cell in notebook.cells:
        del cell["id"]
    notebook.nbformat_minor = 0
    (tmp_path / "old.ipynb").write_text(json.dumps(notebook))
    graded = room.grade("old", tmp_path / "old.ipynb")
    assert graded.total == 5, graded.messages


# Cells that a hostile student adds in front of answers that are wrong.
FOOLS = {
    "tests are emptied": """
def emptied(lines):
    return ["pass\\n"] if any(line.startswith("assert") for line in lines) else lines

get_ipython().input_transformers_cleanup.append(emptied)""",
    "errors do not happen": """
shell = type(get_ipython())
run = shell.run_code

async def quiet(self, code, result=None, **more):
    await run(self, code, result, **more)
    if result is not None:
        result.error_in_exec = None
    return False

shell.run_code, shell.showtraceback = quiet, lambda *args, **more: None""",
    "a test shows a number": "def one():\n    get_ipython().displayhook(2)\n\n\ndef two():\n    get_ipython().displayhook(3)",
    "the grader's database is read": "open('../../../gradebook.db', 'rb').read()",
    "the solutions are read": """
import glob, json, re

for path in glob.glob("../../../**/*.ipynb", recursive=True) + [MASTER]:
    for cell in json.loads(open(path).read())["cells"]:
        if "SOLUTION" in "".join(cell["source"]):
            exec("".join(cell["source"]), globals())""",
}


@pytest.mark.parametrize("fool", FOOLS)
def test_nothing_is_gained_by_changing_what_grades(room, fool):
    notebook = room.released
    wrong = {"one": "one = globals().get('one', lambda: 7)", "two": "two = globals().get('two', lambda: 7)"}
    notebook = room.solved(wrong)
    source = FOOLS[fool].replace("MASTER", repr(str(room.closed / "source" / "toy" / "toy.ipynb")))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
    graded = room.grade("fools", notebook)
    assert graded.total == 0, graded.messages
    assert room.grade("good", room.solved()).total == 5


def test_a_test_that_accepts_a_wrong_answer_says_so(room):
    notebook = room.solved()
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FOOLS["tests are emptied"]))
    graded = room.grade("empties", notebook)
    assert graded.total == 0 and "test_one: no points, for here it passes a wrong answer too" in graded.messages[0]


# What a hostile student's cell tries. FILE: one of the grader's. Each prints "done" if it was let.
HARM = {
    "writes a file of the grader": "open(FILE, 'a').close()",
    "writes over another submission": "open(OTHER, 'w').close()",
    "reads another submission": "open(OTHER).read()",
    "lists other submissions": "os.listdir(os.path.dirname(OTHER))",
    "deletes": "os.remove(OTHER)",
    "moves": "os.rename(OTHER, 'mine.ipynb')",
    "moves over": "open('m', 'w').close(); os.rename('m', OTHER)",
    "links": "os.link(OTHER, 'mine.ipynb')",
    "opens a database": "import sqlite3; sqlite3.connect('../../../gradebook.db').execute('select 1')",
    "starts a shell": "assert os.system('exit 0') == 0",
    "starts a program": "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)",
    "starts a process": "import multiprocessing as m; p = m.get_context('spawn').Process(target=print); p.start()",
    "forks": "import multiprocessing as m; p = m.get_context('fork').Process(target=print); p.start()",
    "kills its parent": "os.kill(os.getppid(), 0)",
    "opens the network": "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
    "asks for an address": "import socket; socket.getaddrinfo('example.org', 80)",
}


@pytest.mark.parametrize("harm", HARM)
def test_doors_are_closed(room, harm):
    if "fork" in harm and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    file = room.closed / "of_the_grader.py"
    other = room.closed / "submitted" / "ann" / "toy" / "toy.ipynb"
    other.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("x = 1\n")
    other.write_text("mine")
    body = HARM[harm].replace("FILE", repr(str(file))).replace("OTHER", repr(str(other)))
    notebook = room.solved({"two": f"def two():\n    {body}\n    return 2"})
    graded = room.grade("harms", notebook)
    assert graded.points == {"test_one": 2, "test_two": 0}
    assert any("while it is graded, a notebook" in message for message in graded.messages), graded.messages
    assert (file.read_text(), other.read_text()) == ("x = 1\n", "mine")


# What the guard alone is asked, without a notebook. EMPTY: a folder beside OTHER.
PROGRAM = "sys.executable, [sys.executable, '-c', '']"
CALLS = {
    "truncate": "os.truncate(OTHER, 0)",
    "chmod": "os.chmod(OTHER, 0o600)",
    "chown": "os.chown(OTHER, os.getuid(), os.getgid())",
    "utime": "os.utime(OTHER, (0, 0))",
    "symlink": "os.symlink(OTHER, 'mine')",
    "symlink there": "os.symlink('mine', OTHER + '2')",
    "link there": "open('mine', 'w').close(); os.link('mine', OTHER + '2')",
    "replace": "open('mine', 'w').close(); os.replace('mine', OTHER)",
    "mkdir": "os.mkdir(OTHER + '2')",
    "rmdir": "os.rmdir(EMPTY)",
    "posix_spawn": f"os.waitpid(os.posix_spawn({PROGRAM}, {{}}), 0)",
    "spawnv": f"os.spawnv(os.P_WAIT, {PROGRAM})",
    "execv": f"os.execv({PROGRAM})",
    "fork": "os.fork() or os._exit(0)",
    "forkpty": "os.forkpty()[0] or os._exit(0)",
    "killpg": "os.killpg(os.getpgid(os.getppid()), 0)",
    "sendto": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
}


@pytest.mark.parametrize("call", CALLS)
def test_the_guard_refuses_each_call_that_it_names(tmp_path, call):
    if not hasattr(os, call.split()[0]) and call != "sendto":
        pytest.skip(f"this system has no os.{call}")
    own, closed, empty = tmp_path / "own", tmp_path / "closed", tmp_path / "closed" / "empty"
    other = closed / "toy.ipynb"
    own.mkdir()
    empty.mkdir(parents=True)
    other.write_text("mine")
    before = os.stat(other)
    body = CALLS[call].replace("OTHER", repr(str(other))).replace("EMPTY", repr(str(empty)))
    lines = [
        "import os, runpy, socket, sys",
        f"runpy.run_path({str(ROOT / 'poise_lab' / 'course' / 'guard.py')!r})['lock']([os.getcwd()], [{str(closed)!r}])",
        f"try: {body}",
        "except PermissionError as e: print(e)",
        "else: print('done')",
    ]
    command = [sys.executable, "-I", "-S", "-c", "\n".join(lines)]
    told = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=60)
    assert told.stdout.startswith("while it is graded, a notebook"), told
    assert other.read_text() == "mine" and sorted(closed.iterdir()) == [empty, other]
    assert (os.stat(other).st_mode, os.stat(other).st_mtime) == (before.st_mode, before.st_mtime)


def test_what_is_one_s_own_may_be_written_and_read(room):
    answer = """
import tempfile
from pathlib import Path


def two():
    Path("mine.txt").write_text("2")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x").write_text("1")
    return int(Path("mine.txt").read_text())"""
    graded = room.grade("writes", room.solved({"two": answer}))
    assert graded.total == 5, graded.messages


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("x = [bytearray(b'x' * 2**20) for _ in range(2000)]", "took more than 0.39 GB of memory"),
        ("for i in range(2000):\n        open(f'{i}', 'wb').write(b'x' * 2**20)", "wrote more than 0.02 GB"),
        ("exit()", "exit ends a cell here"),
    ],
    ids=["memory", "disk", "exit"],
)
def test_too_much_costs_its_own_points_only(room, body, says):
    graded = room.grade("takes", room.solved({"two": f"def two():\n    {body}"}))
    assert graded.points == {"test_one": 2, "test_two": 0}
    assert any(says in message for message in graded.messages), graded.messages


def test_processes_that_a_submission_leaves_behind_are_ended(grading):
    from poise_lab.course.submission import MARK, end_processes

    command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    left, other = (
        subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, start_new_session=True)
        for mark in ("mine", "other")
    )
    try:
        assert left.stdout.readline() and other.stdout.readline()
        end_processes("mine")
        assert left.wait(timeout=20) != 0 and other.poll() is None
    finally:
        left.kill()
        other.kill()


def test_names_that_the_notebook_gives_are_put_back(room):
    notebook = room.solved()
    notebook.cells.insert(3, nbformat.v4.new_code_cell("scale = 10\nmine = 3\n\n\ndef unit():\n    return 'x'"))
    graded = room.grade("redefines", notebook)
    assert graded.total == 5
    assert graded.messages == [
        f"cell 4 redefines `{name}`, which the notebook gives; the tests took the notebook's"
        for name in ("scale", "unit")
    ]
    graded = room.grade("deletes", room.solved({"two": "def two():\n    return 2\n\n\ndel unit"}))
    assert graded.total == 5 and "`unit`" in graded.messages[0]


def test_swapped_and_doubled_cells_gain_nothing(room):
    notebook = room.solved({"one": "def one():\n    return 7"})
    source_of(notebook, "test_one").metadata.nbgrader.points = 0
    source_of(notebook, "test_two").metadata.nbgrader.points = 50
    source_of(notebook, "one").metadata.nbgrader.grade_id = "two"  # an answer under another's name
    for cell in notebook.cells:
        cell.id = "same"
    graded = room.grade("swaps", notebook)
    assert graded.points == {"test_one": 0, "test_two": 3} and graded.full == 5, graded.messages


def test_what_a_notebook_carries_is_left_behind_and_a_huge_one_refused(room, tmp_path, monkeypatch):
    from poise_lab.course import papers

    notebook = room.solved()
    pictures = {"x.png": {"image/png": "x" * 2_000_000}}
    notebook.cells.append(nbformat.v4.new_markdown_cell("![x](attachment:x.png)", attachments=pictures))
    notebook.metadata.widgets = {"state": "x" * 2_000_000}
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="x" * 2_000_000)]
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    assert room.grade("carries", tmp_path / "toy.ipynb").total == 5
    assert (room.course / "submitted" / f"submission-{room.number}" / "toy" / "toy.ipynb").stat().st_size < 50_000
    monkeypatch.setattr(papers, "MOST_NOTEBOOK", 2**20)
    assert "clear its outputs" in room.grade("carries", tmp_path / "toy.ipynb").messages[0]


def test_what_is_no_notebook_is_graded_too(room, tmp_path):
    for text in ("", "{", '{"cells": 3}', '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{}]}'):
        (tmp_path / "broken.ipynb").write_text(text)
        graded = room.grade("broken", tmp_path / "broken.ipynb")
        assert graded.total == 0 and graded.full == 5 and "no notebook" in graded.messages[0]


def test_broken_reference_refuses(course, tmp_path, capsys):
    from poise_lab.course.proof import check as check_grader

    folder = toy_course(tmp_path, right="return 7")
    (tmp_path / "submitted" / "ann" / "toy").mkdir(parents=True)
    (tmp_path / "submitted" / "ann" / "toy" / "toy.ipynb").write_bytes((folder / "toy.ipynb").read_bytes())
    with pytest.raises(course.PoiseLabError, match="its own solution gets 3 of 5 points"):
        check_grader(folder)
    assert course.main(["grade", "--course", str(tmp_path)]) == 2
    assert "is not graded" in capsys.readouterr().err
    assert not (tmp_path / "grades.csv").exists() and not (tmp_path / "feedback").exists()


def test_planted_answers_that_could_hide_each_other_are_graded_apart():
    pytest.importorskip("nbgrader", reason="make assignments installs it")
    from poise_lab.course.grading import PlantedAnswer
    from poise_lab.course.proof import rounds

    def answer(name, cell, *tests):
        return PlantedAnswer(name, cell, list(tests), "", "")

    given = [answer("a", "one", "t1"), answer("b", "one", "t4"), answer("c", "two", "t2"), answer("d", "three", "t2", "t3"),
             answer("e", "three", "t3")]  # fmt: skip
    found = [[answer.name for answer in together] for together in rounds(given)]
    assert found == [["a", "c", "e"], ["b", "d"]]


def test_one_command_checks_and_one_grades(course, tmp_path, capsys):
    folder = toy_course(tmp_path)
    (folder / "planted" / "right").mkdir()
    (folder / "planted" / "right" / "one.py").write_text("one = lambda: 3 - 2")
    assert course.main(["check", "--course", str(tmp_path)]) == 0
    assert course.main(["release", "--course", str(tmp_path)]) == 0
    for student, file in (("ann", "toy.ipynb"), ("bob", "toy (1).ipynb"), ("eve", None)):
        folder_of = tmp_path / "submitted" / student / "toy"
        folder_of.mkdir(parents=True)
        if file:
            (folder_of / file).write_bytes((tmp_path / "release" / "toy" / "toy.ipynb").read_bytes())
    assert course.main(["grade", "--course", str(tmp_path)]) == 0
    rows = [",".join(line.split(",")[:4]) for line in (tmp_path / "grades.csv").read_text().splitlines()]
    assert rows == ["student,assignment,points,of", "ann,toy,0.0,5.0", "bob,toy,0.0,5.0", "eve,toy,0.0,5.0"]
    feedback = {s: (tmp_path / "feedback" / s / "toy.md").read_text() for s in ("ann", "bob", "eve")}
    assert all("0 of 5 points" in text for text in feedback.values())
    assert (
        "'toy (1).ipynb'" in feedback["bob"]
        and "no notebook" in feedback["eve"]
        and "no notebook" not in feedback["ann"]
    )
    (folder / "planted" / "right" / "one.py").write_text("one = lambda: 3")
    wrong = (folder / "planted" / "three.py").read_text().replace("loses: test_one", "loses: test_two")
    (folder / "planted" / "three.py").write_text(wrong)
    capsys.readouterr()
    assert course.main(["check", "toy", "--course", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "planted three gets" in told and "right answers in planted/right get" in told


def hand_in(course_folder: Path, student: str, notebook) -> Path:
    path = course_folder / "submitted" / student / "toy" / "toy.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def test_grades_are_kept_after_each_submission_and_given_once(course, grading, room, tmp_path, monkeypatch, capsys):
    from poise_lab.course.gradebook import read_grades

    toy_course(tmp_path)
    for student in ("ann", "bob", "eve"):
        hand_in(tmp_path, student, room.solved())
    graded, grade = [], grading.Classroom.grade

    def interrupted(self, student, submission):
        graded.append(student)
        if student == "bob" and graded.count("bob") == 1:
            raise KeyboardInterrupt
        return grade(self, student, submission)

    monkeypatch.setattr(grading.Classroom, "grade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        course.main(["grade", "--course", str(tmp_path)])
    assert list(read_grades(tmp_path / "grades.csv")) == [("ann", "toy")]
    assert course.main(["grade", "--course", str(tmp_path)]) == 0
    assert graded == ["reference", "ann", "bob", "reference", "bob", "eve"]
    assert "2 submissions graded" in capsys.readouterr().out
    hand_in(tmp_path, "eve", room.released)
    (tmp_path / "submitted" / "ann" / "toy" / "toy.ipynb").unlink()
    (tmp_path / "submitted" / "ann" / "toy").rmdir()
    graded.clear()
    assert course.main(["grade", "--course", str(tmp_path)]) == 0
    assert graded == ["reference", "eve"]  # the only one that has changed
    rows = read_grades(tmp_path / "grades.csv")
    assert {student: row["points"] for (student, _), row in rows.items()} == {"bob": "5.0", "eve": "0.0"}
    graded.clear()
    assert course.main(["grade", "--course", str(tmp_path)]) == 0 and graded == []


def test_medians_of_the_minutes_that_students_say(course, grading, tmp_path):
    from poise_lab.course import gradebook

    folder = toy_course(tmp_path)
    master = nbformat.read(folder / "toy.ipynb", 4)
    metadata = dict(schema_version=3, grade_id="minutes_taken", solution=False, grade=False, locked=False, task=False)
    asked = nbformat.v4.new_code_cell("minutes = {1: None}", metadata={"nbgrader": metadata})
    heading = nbformat.v4.new_markdown_cell("## Exercise 1 (5 points, 15 minutes): both")
    master.cells = [heading, *master.cells, asked]
    nbformat.write(master, folder / "toy.ipynb")
    said = {
        "ann": "{1: 10}",
        "bob": "{1: 22.5}",
        "cis": "{1: 30}",
        "dan": "{1: None}",
        "eve": "{1: 1 / 0}",
        "fay": "{1: -3}",
    }
    with grading.Classroom(folder) as room:
        for student, text in said.items():
            notebook = room.solved()
            source_of(notebook, "minutes_taken", f"minutes = {text}")
            hand_in(tmp_path, student, notebook)
    shown = []
    assert gradebook.grade_all(tmp_path, "toy", show=shown.append) == 6
    assert all("5 of 5" in line for line in shown)
    assert "edited" not in (tmp_path / "feedback" / "ann" / "toy.md").read_text()
    assert gradebook.medians(tmp_path, "toy") == ["toy exercise 1: stated 15 minutes, median 22.5 of 3 students"]


def anchors(page: Path) -> list[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]


def test_the_page_that_opens_the_zip_has_links_here_and_there(course):
    """In the repository they lead from START.md, in the zip from its top; the ten lines stand there, too."""
    from poise_lab.course.handout import first_page

    start = ROOT / "notebooks" / "assignments" / "START.md"
    page = first_page(ROOT, "TABLE", "By Friday.")
    for folder, text in ((start.parent, start.read_text(encoding="utf-8")), (ROOT, page)):
        links = re.findall(r"\]\(([^)\s#]+)", text)
        assert links and all((folder / link).exists() for link in links), links
    assert "TABLE" in page and "By Friday." in page and not re.search(r"\{\w+\}", page)
    assert page.count("```python") == 1 and "pl.load_task(" in page and page.count("## Hand in") == 1


def test_what_is_handed_out_runs_and_shows_no_solution(course, tmp_path):
    """A single line that returns something may stand in the package as well; nothing longer, and no named choice."""
    name = "6_silent_bug"
    (tmp_path / "course" / "source").mkdir(parents=True)
    shutil.copytree(SOURCE / name, tmp_path / "course" / "source" / name)
    from poise_lab.course.handout import handout  # which needs nbgrader, as the fixture does

    archive = handout(tmp_path / "course", [name], tmp_path / "students.zip", "On paper, by Friday.")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "student")
    folder = tmp_path / "student" / "students"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert f"notebooks/assignments/{name}/{name}.ipynb" in files and "notebooks/STUDENTS.md" in files
    assert not any("planted" in f or "INSTRUCTORS" in f or f.startswith("tests/") or ".git/" in f for f in files)
    assert [f for f in files if f.startswith("notebooks/assignments/")] == [
        f"notebooks/assignments/{name}/{name}.ipynb"
    ]
    texts = "\n".join(
        (folder / f).read_text(encoding="utf-8") for f in files if f.endswith((".ipynb", ".md", ".py", ".toml"))
    )
    assert "BEGIN HIDDEN TESTS\\n" not in texts and "BEGIN SOLUTION\\n    " not in texts
    plain = "\n".join(line.strip() for line in texts.replace("\\n", "\n").replace('\\"', '"').splitlines())
    for path in MASTERS:
        for cell in nbformat.read(path, as_version=4).cells:
            for secret in SOLUTION.findall(cell.source) + HIDDEN.findall(cell.source):
                lines = [line.strip() for line in secret.strip().splitlines()]
                line_of_the_package = len(lines) == 1 and lines[0].startswith("return ")
                assert line_of_the_package or "\n".join(lines) not in plain, secret
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "make " not in page and "by Friday" in page and "2 GB" in page and f"{name}.ipynb) | 20 | 110 |" in page
    assert [f for f in files if f.endswith("Makefile")] == []
    for file in (f for f in files if f.endswith((".md", ".ipynb"))):
        held = folder / file
        cells = (
            nbformat.read(held, 4).cells
            if file.endswith(".ipynb")
            else [nbformat.v4.new_markdown_cell(held.read_text(encoding="utf-8"))]
        )
        for cell in (cell for cell in cells if cell.cell_type == "markdown"):
            for link, part in re.findall(r"\]\((?!https?:|attachment:)([^)\s#]*)#?([^)\s]*)\)", cell.source):
                assert (held.parent / link).exists(), (file, link)
                assert not part or part in anchors(held.parent / link if link else held), (file, link, part)
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert (folder / project["project"]["readme"]).is_file()
    found = "import poise_lab as pl; print(pl.__file__); pl.load_policy('thinker')"
    ran = subprocess.run([sys.executable, "-c", found], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
                         capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.startswith(str(folder)), ran.stderr
    assert all(
        (folder / source).exists() for source in project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    )
    code = "import poise_lab as pl; print(pl.__file__); pl.load_policy('thinker')"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith(str(folder)), ran.stderr


def test_what_a_student_sees_of_tests(course, tmp_path):
    """A check that passed says so, one that did not is its sentence; all tests at once add up the points."""
    folder = toy_course(tmp_path)
    master = nbformat.read(folder / "toy.ipynb", 4)
    source_of(
        master,
        "test_one",
        "from poise_lab.course.checks import check, require\n\ncheck(one(), 1)\nrequire(one(), 'no')",
    )
    source_of(master, "test_two", "from poise_lab.course.checks import check, require\n\ncheck(two(), 2, {'three': 3})")
    source_of(master, "two", "def two():\n    ### BEGIN SOLUTION\n    return 3\n    ### END SOLUTION")
    texts = ["from poise_lab.course.checks import check_all\n\ncheck_all('toy.ipynb')", "check_all('mine.ipynb')"]
    asked = [nbformat.v4.new_code_cell(text) for text in texts]
    master.cells += asked
    nbformat.write(master, tmp_path / "toy.ipynb")
    client = NotebookClient(master, resources={"metadata": {"path": str(tmp_path)}}, allow_errors=True)
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert source_of(master, "test_one").outputs[0].text == "Passed, 2 of 2.\n"
    (told,) = source_of(master, "test_two").outputs
    assert told.traceback == ["Not yet: the result: three"] and told.ename == "NotYet"
    lines = [line.split() for line in asked[0].outputs[0].text.splitlines()]
    assert lines[:2] == ["test_one 2 of 2".split(), "test_two 0 of 3 not yet: the result: three".split()]
    assert lines[2][:5] == "Together 2 of 5 points,".split() and len(lines) == 3
    assert "there is no mine.ipynb here" in asked[1].outputs[0].evalue


PLAIN = {  # what a lecturer writes in JupyterLab: cells with no mark that nbgrader knows
    "text": "# My assignment\n\n| exercise | points | minutes |\n|---|---|---|\n| 1 doubling | ? | ? |",
    "heading": "## Exercise 1: doubling",
    "given": "unit = 2",
    "answer": "def double(x):\n    ### BEGIN SOLUTION\n    return unit * x\n    ### END SOLUTION",
    "seen": "# 1 point\nassert double(1) == 2",
    "hidden": "# 2 points\nassert double(0) == 0\n### BEGIN HIDDEN TESTS\nassert double(21) == 42\n### END HIDDEN TESTS",
}


def test_a_plain_notebook_becomes_an_assignment_and_grades(course, grading, tmp_path, capsys):
    """As the guide says: solution and points marked in comments, tests with plain asserts, points changed in one place."""
    from poise_lab.course.own import prepare

    path = tmp_path / "source" / "mine" / "mine.ipynb"
    path.parent.mkdir(parents=True)
    make = {"text": nbformat.v4.new_markdown_cell, "heading": nbformat.v4.new_markdown_cell}
    cells = [make.get(name, nbformat.v4.new_code_cell)(text) for name, text in PLAIN.items()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert course.main(["prepare", "mine", "--course", str(tmp_path)]) == 0
    master = nbformat.read(path, 4)
    named = {
        c.metadata.nbgrader.grade_id: c.metadata.nbgrader.get("points")
        for c in master.cells
        if "nbgrader" in c.metadata
    }
    assert named == {"given": None, "double": None, "test_double": 1, "test_double_2": 2}
    assert master.cells[1].source == "## Exercise 1 (3 points, 10 minutes): doubling"
    with pytest.raises(pl.PoiseLabError, match="no text cell that begins with a heading such as"):
        without = nbformat.v4.new_notebook(cells=[c for c in master.cells if c.cell_type == "code"])
        (tmp_path / "source" / "other").mkdir()
        nbformat.write(without, tmp_path / "source" / "other" / "other.ipynb")
        prepare(tmp_path, "other")
    before = path.read_bytes()
    assert course.main(["prepare", "mine", "--course", str(tmp_path)]) == 0 and path.read_bytes() == before
    source_of(master, "test_double_2").source = PLAIN["hidden"].replace("2 points", "4 points")
    master.cells[0].source = master.cells[0].source.replace("| ? | ? |", "| 0 | 0 |")
    nbformat.write(master, path)
    assert course.main(["prepare", "mine", "--course", str(tmp_path)]) == 0
    master = nbformat.read(path, 4)
    assert "Exercise 1 (5 points" in master.cells[1].source and "| 1 doubling | 5 | 10 |" in master.cells[0].source
    with grading.Classroom(path.parent) as room:
        room.require_reference()
        graded = room.grade("ann", room.solved({"double": "def double(x):\n    return 2"}))
    assert graded.points == {"test_double": 1, "test_double_2": 0} and graded.full == 5
    assert graded.messages == ["test_double_2: this does not hold: assert double(0) == 0"]
    cells.append(nbformat.v4.new_code_cell('check_all("mine.ipynb")'))  # a student who renames the file writes so here
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert course.main(["prepare", "mine", "--course", str(tmp_path)]) == 0
    assert not source_of(nbformat.read(path, 4), "check_all").metadata.nbgrader.locked
    nbformat.write(nbformat.v4.new_notebook(cells=cells[:3]), path)
    assert course.main(["prepare", "mine", "--course", str(tmp_path)]) == 2
    assert "no cell that is an answer" in capsys.readouterr().err


def test_the_page_of_one_s_own_assignment_is_true(course, tmp_path, capsys):
    """Its cells, as they stand there, are an assignment that proves itself."""
    page = (ROOT / "notebooks" / "assignments" / "OWN.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, re.M)
    blocks = [re.sub(r"^    ", "", block, flags=re.M).strip() for block in found]
    text, answer, tests, planted = blocks[1], blocks[2], blocks[3], blocks[5]
    cells = [*map(nbformat.v4.new_markdown_cell, text.split("\n\n")), nbformat.v4.new_code_cell(answer)]
    cells += [nbformat.v4.new_code_cell(cell) for cell in re.split(r"\n\n(?=# \d)", tests)]
    folder = tmp_path / "source" / "moving_average"
    (folder / "planted").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "moving_average.ipynb")
    (folder / "planted" / "first_ones.py").write_text(planted)
    for command in re.findall(r"course (\w+) moving_average$", blocks[4], re.M):
        assert course.main([command, "moving_average", "--course", str(tmp_path)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "0 of 4\n  solution" in " ".join(said.split(" ")) and "0 of 4 with first_ones" in said
    for command in re.findall(r"python -m poise_lab\.course (\w+)", page):
        assert f"course {command}" in course.__doc__
