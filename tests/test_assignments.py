"""The assignments' sources, and the machinery that grades them.

What needs nbgrader is skipped without it; `make grade-check` installs it and runs this file too.
"""

from __future__ import annotations

import ast
import builtins
import copy
import json
import re
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

import poise_lab as pl
from poise_lab.checks import check, require

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


def test_every_answer_is_marked_and_every_test_locked(master):
    nbformat.validate(master)
    answers, tests = of_kind(master, "solution"), of_kind(master, "grade")
    assert answers and all(SOLUTION.search(cell.source) for cell in answers)
    assert all(len(HIDDEN.findall(cell.source)) <= 1 and cell.metadata.nbgrader.locked for cell in tests)
    assert all(not SOLUTION.search(cell.source) for cell in master.cells if cell not in answers)
    assert all(cell.metadata.get("nbgrader") for cell in master.cells if cell.cell_type == "code")
    ids = [cell.metadata.nbgrader.grade_id for cell in master.cells if cell.metadata.get("nbgrader")]
    assert len(ids) == len(set(ids))


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
    planted = dict.fromkeys(cells, 0)
    for path in sorted((folder / "planted").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        ast.parse(text)
        head = dict(re.findall(r"^# (cell|loses|says): (.*)$", text, re.M))
        planted[head["cell"]] += 1
        for part in head["loses"].split(","):
            test, points = part.split()
            assert float(points) == tests[test] > 0, path.name
    assert set(planted) == cells and min(planted.values()) >= 3, planted
    right = {path.stem for path in (folder / "planted").glob("right*/*.py")}
    assert right and right <= cells


def test_mistakes_that_an_exercise_names_are_planted(folder, master_of):
    """Each phrase of the line "Recognised" is (in part) the `# recognised:` of a planted answer, and the other way."""
    named, planted, phrases = set(), set(), []
    for cell in master_of(folder).cells:
        line = re.search(r"^\*.*recognised:\* (.*)$", cell.source, re.M | re.I)
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


def test_instructors_table_is_that_of_the_masters():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| (\d+) \|$", INSTRUCTORS, re.M)
    assert [name for name, *_ in rows] == [path.stem for path in MASTERS]
    for name, points, minutes in rows:
        opening = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4).cells[0].source
        stated = re.findall(r"^\| \d .*?\| (\d+) \| (\d+) \|$", opening, re.M)
        assert (sum(int(p) for p, _ in stated), sum(int(m) for _, m in stated)) == (int(points), int(minutes))


def test_messages_of_the_troubleshooting_exist():
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "poise_lab").glob("*.py"))
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
    assert re.search(r"pip install .*-c constraints.txt -e \"\.\[course\]\"$", (ROOT / "Makefile").read_text(), re.M)


# --- what test cells call ------------------------------------------------------------------------


def test_check_accepts_what_is_right_and_names_what_is_not():
    mistakes = {"this is the mean over the whole group": [0.5, 0.5]}
    for right in ([1.0, 0.0], np.array([1.0, 0.0]), torch.tensor([1.0, 0.0], requires_grad=True)):
        check(right, [1, 0], mistakes)
    for found, says in (
        ([0.5, 0.5], "this is the mean over the whole group"),
        ([0.5, 0.4], r"is \[0.5 0.4\], expected \[1. 0.\]"),
        ([1.0], r"shape \(1,\), expected \(2,\)"),
        ([1.0, float("nan")], "NaN"),
        (None, "is there a `return`"),
        ("text", "where numbers are expected"),
        (lambda: 0, "where numbers are expected"),
    ):
        with pytest.raises(AssertionError, match=says):
            check(found, [1, 0], mistakes)
    with pytest.raises(AssertionError, match="no"):
        require(False, "no")


# --- grading, on a toy assignment ----------------------------------------------------------------

TESTS = {
    "test_one": "assert one() == 1, 'one is not one'\n### BEGIN HIDDEN TESTS\nassert one() + one() == 2\n### END HIDDEN TESTS",
    "test_two": "assert two() == 2, 'two is not two'",
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
            cell("setup", "import os"),
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
    planted = "# cell: one\n# loses: test_one 2\n# says: one is not one\ndef one():\n    return 3\n"
    (folder / "planted" / "three.py").write_text(planted)
    return folder


@pytest.fixture(scope="module")
def grading():
    pytest.importorskip("nbgrader", reason="make assignments installs it")
    from poise_lab import grading

    return grading


@pytest.fixture(scope="module")
def course(grading):
    from poise_lab import course

    return course


@pytest.fixture(scope="module")
def room(grading, tmp_path_factory):
    with grading.Classroom(toy_course(tmp_path_factory.mktemp("course")), timeout=4) as room:
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
        ("def two():\n    while True:\n        try:\n            pass\n        except:\n            pass", "did not end within 4 seconds"),
        ("def two():\n    os._exit(3)", "ended the kernel"),
        ("os._exit(3)", "two: this cell ended the kernel"),
        ("while True:\n    print('x' * 1000)", "did not end within 4 seconds"),
    ],
    ids=["loops for ever", "ends the kernel in a test", "ends the kernel", "prints for ever"],
)  # fmt: skip
def test_what_does_not_come_back_costs_its_own_points_only(room, answer, says):
    graded = room.grade("wild", room.solved({"two": answer}))
    assert graded.points == {"test_one": 2, "test_two": 0}
    assert any(says in message for message in graded.messages)


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
    assert sum(p.stat().st_size for p in (room.course / "autograded" / "prints").rglob("*.ipynb")) < 500_000


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
    assert sum(p.stat().st_size for p in (room.course / "autograded" / "shows").rglob("*.ipynb")) < 500_000
    assert room.grade("good", room.solved()).total == 5


def test_tests_are_not_fooled_by_a_changed_checker(grading):
    """Answers that give None, and a cell that makes the checker agree with everything."""
    folder = ROOT / "notebooks" / "assignments" / "source" / "1_policy_gradient"
    with grading.Classroom(folder) as real:
        notebook = copy.deepcopy(real.released)
        for cell in notebook.cells:
            if grading.is_answer(cell):
                cell.source = cell.source.replace("raise NotImplementedError()", "return None")
        agrees = "import poise_lab.checks\n\npoise_lab.checks.check = poise_lab.checks.require = lambda *a, **k: None"
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


def test_what_is_no_notebook_is_graded_too(room, tmp_path):
    for text in ("", "{", '{"cells": 3}', '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{}]}'):
        (tmp_path / "broken.ipynb").write_text(text)
        graded = room.grade("broken", tmp_path / "broken.ipynb")
        assert graded.total == 0 and graded.full == 5 and "no notebook" in graded.messages[0]


def test_broken_reference_refuses(course, tmp_path, capsys):
    folder = toy_course(tmp_path, right="return 7")
    (tmp_path / "submitted" / "ann" / "toy").mkdir(parents=True)
    (tmp_path / "submitted" / "ann" / "toy" / "toy.ipynb").write_bytes((folder / "toy.ipynb").read_bytes())
    with pytest.raises(course.PoiseLabError, match="its own solution gets 3 of 5 points"):
        course.check(folder)
    assert course.main(["grade", "--course", str(tmp_path)]) == 2
    assert "is not graded" in capsys.readouterr().err
    assert not (tmp_path / "grades.csv").exists() and not (tmp_path / "feedback").exists()


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
    assert (tmp_path / "grades.csv").read_text().split() == [
        "student,assignment,points,of", "ann,toy,0.0,5.0", "bob,toy,0.0,5.0", "eve,toy,0.0,5.0",
    ]  # fmt: skip
    feedback = {s: (tmp_path / "feedback" / s / "toy.md").read_text() for s in ("ann", "bob", "eve")}
    assert all("0 of 5 points" in text for text in feedback.values())
    assert (
        "'toy (1).ipynb'" in feedback["bob"]
        and "no notebook" in feedback["eve"]
        and "no notebook" not in feedback["ann"]
    )
    (folder / "planted" / "right" / "one.py").write_text("one = lambda: 3")
    wrong = (folder / "planted" / "three.py").read_text().replace("loses: test_one 2", "loses: test_two 3")
    (folder / "planted" / "three.py").write_text(wrong)
    capsys.readouterr()
    assert course.main(["check", "toy", "--course", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "planted three gets" in told and "right answers in planted/right get" in told
