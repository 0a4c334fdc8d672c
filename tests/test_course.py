"""From what students hand in to grades that a platform takes: nothing is lost, and nothing is passed over silently."""

from __future__ import annotations

import copy
import csv
import datetime
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from test_assignments import source_of, toy_course

pytest.importorskip("nbgrader", reason="make assignments installs it")

from poise_lab.course import __main__ as course  # noqa: E402
from poise_lab.course import gradebook, grading, papers  # noqa: E402
from poise_lab.course.collect import collect  # noqa: E402
from poise_lab.course.tables import Table  # noqa: E402

ASSIGNMENTS = Path(__file__).parent.parent / "notebooks" / "assignments"


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    with grading.Classroom(toy_course(tmp_path_factory.mktemp("room"))) as room:
        yield room.solved()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    with grading.Classroom(toy_course(tmp_path_factory.mktemp("room"))) as room:
        yield room.released


def changed(notebook, **answers):
    notebook = copy.deepcopy(notebook)
    for name, source in answers.items():
        source_of(notebook, name, source)
    return notebook


def text_of(notebook) -> str:
    return json.dumps(notebook, indent=1)


def stripped(notebook, ids: bool):
    """As programs leave it that drop what they do not know of a cell, and ids of cells with it."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata = {}
        if not ids:
            del cell["id"]
    notebook.nbformat_minor = 5 if ids else 4
    return notebook


def other_assignment(notebook):
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata.nbgrader.grade_id += "_of_another"
        cell.source = "x = 1"
        cell.id += "x"
    return notebook


def copied_cell(notebook):
    """The answer was written into a new cell, and the cell for it deleted."""
    notebook = copy.deepcopy(notebook)
    at = next(i for i, c in enumerate(notebook.cells) if c.metadata.nbgrader.grade_id == "two")
    notebook.cells[at] = nbformat.v4.new_code_cell("def two():\n    return 2")
    return notebook


BYTES = os.fsdecode(b"B\xf6hm")  # a folder's name from a system that does not write UTF-8
WRONG = "def two():\n    return 7"
# By student: files under submitted/<student>/, and what the paper gets; None where nothing is graded.
CLASS = {
    "half a character": (
        lambda nb, raw: {"toy/toy.ipynb": text_of(changed(nb, two="def two():\n    return 2  # \ud83d"))},
        5,
    ),
    "Doe [late]": (lambda nb, raw: {"toy/toy.ipynb": text_of(nb)}, 5),
    "*": (lambda nb, raw: {"toy/toy.ipynb": text_of(changed(nb, two=WRONG))}, 2),
    "Łukasz 王, O'Neil; {x} 100%": (lambda nb, raw: {"toy/toy.ipynb": text_of(nb)}, 5),
    BYTES: (lambda nb, raw: {"toy/toy.ipynb": text_of(nb)}, 5),
    "macOS": (lambda nb, raw: {"toy/._toy (1).ipynb": "\0\5\26\7", "toy/toy (1).ipynb": text_of(nb)}, 5),
    "stripped": (lambda nb, raw: {"toy/toy.ipynb": text_of(stripped(nb, True))}, 5),
    "stripped of ids": (lambda nb, raw: {"toy/toy.ipynb": text_of(stripped(nb, False))}, 5),
    "copied cell": (lambda nb, raw: {"toy/toy.ipynb": text_of(copied_cell(nb))}, 5),
    "too high": (lambda nb, raw: {"toy.ipynb": text_of(nb)}, None),
    "too deep": (lambda nb, raw: {"toy/mine/toy.ipynb": text_of(nb)}, 0),
    "misnamed": (lambda nb, raw: {"Toy 1/toy.ipynb": text_of(nb)}, None),
    "archive": (lambda nb, raw: {"toy/toy.zip": "PK"}, 0),
    "marked": (lambda nb, raw: {"toy/toy.ipynb": ("\ufeff" + text_of(nb)).encode()}, 5),
    "utf-16": (lambda nb, raw: {"toy/toy.ipynb": text_of(nb).encode("utf-16")}, 5),
    "zero": (lambda nb, raw: {"toy/toy.ipynb": text_of(changed(nb, one="one = 1  # \0"))}, 3),
    "shows half": (
        lambda nb, raw: {
            "toy/toy.ipynb": text_of(changed(nb, one="print('\\ud83d')\n\n\ndef one():\n    raise ValueError('\\ud83d')"))
        },
        3,
    ),
    "another": (lambda nb, raw: {"toy/toy.ipynb": text_of(other_assignment(nb))}, 0),
    "untouched": (lambda nb, raw: {"toy/toy.ipynb": text_of(raw)}, 0),
    "two papers": (lambda nb, raw: {"toy/toy.ipynb": text_of(nb), "toy/toy-Copy1.ipynb": text_of(raw)}, 5),
    "nothing": (lambda nb, raw: {"toy/toy.ipynb": ""}, 0),
    "brackets": (lambda nb, raw: {"toy/toy.ipynb": text_of(changed(nb, two="two = " + "(" * 5000))}, 2),
}  # fmt: skip
# A part of what the lecturer is told of them.
TOLD = {
    "macOS": "graded is the file 'toy (1).ipynb'; it should be toy.ipynb",
    "stripped": "had lost the names",
    "stripped of ids": "had lost the names",
    "copied cell": "had lost the names",
    "too high": "submitted/too high/toy.ipynb is not graded: it lies too high",
    "too deep": "submitted/too deep/toy/mine/toy.ipynb is not graded: it lies too deep",
    "misnamed": "submitted/misnamed/Toy 1/toy.ipynb is not graded: there is no assignment 'Toy 1'",
    "archive": "submitted/archive/toy/toy.zip is not graded: it is no notebook",
    "another": "another, toy: no answer cell of this assignment is in the notebook",
    "untouched": "untouched, toy: all its answers are as they were handed out",
    "two papers": "two papers, toy: 'toy-Copy1.ipynb' lies beside it and was not graded",
    "nothing": "nothing, toy: this is no notebook that can be read: the file is empty",
}


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory, solved, released):
    folder = tmp_path_factory.mktemp("class")
    toy_course(folder)
    for student, (files, _) in CLASS.items():
        for name, text in files(solved, released).items():
            path = folder / "submitted" / student / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    (folder / "submitted" / "toy.ipynb").write_text(text_of(solved))
    command = [sys.executable, "-m", "poise_lab.course", "grade", "--jobs", "2", "--course", str(folder)]
    done = subprocess.run([*command, "--timeout", "20"], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("student", CLASS)
def test_every_paper_gets_its_points(class_folder, student):
    rows = gradebook.read_grades(class_folder[0] / "grades.csv")
    row = rows.get((papers.plain(student), "toy"))
    assert (row and float(row["points"])) == CLASS[student][1], row


@pytest.mark.parametrize("student", TOLD)
def test_the_lecturer_is_told_in_a_sentence(class_folder, student):
    look = class_folder[1].partition("To look at:")[2]
    assert TOLD[student] in look


def test_no_sentence_for_what_is_in_order(class_folder):
    look = class_folder[1].partition("To look at:")[2]
    assert not any(name in look for name in ("Doe", "Łukasz", "marked", "utf-16", "._toy"))
    assert "submitted/toy.ipynb is not graded: it lies too high" in look


def test_feedback_shows_the_code_of_whoever_handed_in_text(class_folder):
    page = (class_folder[0] / "feedback" / "half a character" / "toy.html").read_text(encoding="utf-8")
    assert "toy: 5 of 5 points" in page and "two" in page and "half a character" in page
