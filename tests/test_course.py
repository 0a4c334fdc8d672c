"""From what students hand in to grades that a platform takes: nothing is lost, and nothing is passed over silently."""

from __future__ import annotations

import copy
import csv
import datetime
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from test_assignments import source_of, toy_course

pytest.importorskip("nbgrader", reason="make assignments installs it")

from poise_lab.course import __main__ as course  # noqa: E402
from poise_lab.course import collect as collecting  # noqa: E402
from poise_lab.course import gradebook, grading, papers  # noqa: E402
from poise_lab.course.collect import collect  # noqa: E402
from poise_lab.course.deadlines import deadlines, tell_late  # noqa: E402
from poise_lab.course.roster import Roster, handed_in_nothing  # noqa: E402
from poise_lab.course.sheets import Sheet  # noqa: E402
from poise_lab.course.upload import filled  # noqa: E402

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


MOODLE, CANVAS = "{}_assignsubmission_file_/{}", "{}_{}"
# Others come by zip: as the platform calls them, their files, and what they get. A second zip holds what came later.
BY_ZIP = {
    ("Anna Müller_101", MOODLE): (lambda nb, raw: {"toy.ipynb": text_of(nb)}, 5),
    ("Anna Müller_102", MOODLE): (lambda nb, raw: {"toy.ipynb": text_of(changed(nb, two=WRONG))}, 2),
    ("王小明_103", MOODLE): (lambda nb, raw: {"作业 (1).ipynb": text_of(nb)}, 5),
    ("Nguyễn Văn A_104", MOODLE): (lambda nb, raw: {"toy.ipynb": text_of(raw)}, 2),  # and once more, below
    ("Ó Briain, Seán_105", MOODLE): (lambda nb, raw: {"toy.ipynb": ""}, 0),
    ("Жуков Пётр_106", MOODLE): (lambda nb, raw: {"toy.ipynb": text_of(nb)[:300]}, 0),
    ("محمد علي_107", MOODLE): (lambda nb, raw: {"essay.pdf": "%PDF"}, None),
    ("राम कुमार_108", MOODLE): (lambda nb, raw: {"work.zip": inner_zip({"a/toy.ipynb": text_of(nb), "a/notes.md": "x"})}, 5),
    ("Eve <script>_109", MOODLE): (
        lambda nb, raw: {"toy.ipynb": text_of(changed(nb, two="import os\n\n\ndef two():\n    os._exit(0)"))}, 2,
    ),
    ("Bob_110", MOODLE): (lambda nb, raw: {"toy.ipynb": text_of(other_assignment(nb))}, 0),
    ("zakanna_LATE_201", CANVAS): (lambda nb, raw: {"1_toy.ipynb": text_of(nb)}, 5),
    ("dossantosjoao_202", CANVAS): (lambda nb, raw: {"2_toy-1.ipynb": text_of(stripped(nb, True))}, 5),
    ("smithjohn_203", CANVAS): (
        lambda nb, raw: {"3_toy.ipynb": text_of(nb), "4_toy-1.ipynb": text_of(changed(nb, one="one = 3"))}, 3,
    ),
    ("kimminji_204", CANVAS): (lambda nb, raw: {"5_toy.ipynb.txt": text_of(nb)}, 5),
    ("leebruce_205", CANVAS): (lambda nb, raw: {"6_all.zip": inner_zip({"../../../../toy.ipynb": text_of(nb)})}, 5),
    ("nobody_206", CANVAS): (lambda nb, raw: {"7_toy.docx": "PK", "8_photo.heic": "x"}, None),
    ("rossimario_207", CANVAS): (lambda nb, raw: {"9_broken.zip": "PK no zip"}, None),
    ("öztürk_208", CANVAS): (lambda nb, raw: {"10_toy.ipynb": text_of(raw)}, 0),
}  # fmt: skip
BY_ZIP_NAMES = {(who, form): re.sub("[<>]", "_", who.replace("_LATE", "")) for who, form in BY_ZIP}  # of folders


def inner_zip(files: dict[str, str]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return held.getvalue()


@pytest.fixture(scope="module")
def class_zips(tmp_path_factory, solved, released):
    """A zip of each platform, and a later one in which one student hands in again."""
    folder, files = tmp_path_factory.mktemp("zips"), {MOODLE: {"read me.txt": "x"}, CANVAS: {}}
    for (who, form), (of, _) in BY_ZIP.items():
        files[form] |= {form.format(who, name): text for name, text in of(solved, released).items()}
    again = {MOODLE.format("Nguyễn Văn A_104", "toy.ipynb"): text_of(changed(solved, two=WRONG))}
    first = next(iter(files[MOODLE]))  # so long before that the times are not those of the download
    return [
        zipped(folder / "moodle.zip", files[MOODLE]),
        zipped(folder / "canvas.zip", files[CANVAS]),
        zipped(folder / "later.zip", again | {first: files[MOODLE][first]}, (2026, 11, 21, 9, 0, 0), {first: FIRST}),
    ]


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory, solved, released, class_zips):
    """A class of 40, of whom 22 papers were put into folders by hand."""
    folder = tmp_path_factory.mktemp("class")
    toy_course(folder)
    assert len(CLASS) + len(BY_ZIP) == 40
    for student, (files, _) in CLASS.items():
        for name, text in files(solved, released).items():
            path = folder / "submitted" / student / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    (folder / "submitted" / "toy.ipynb").write_text(text_of(solved))
    command, said = [sys.executable, "-m", "poise_lab.course"], ""
    for step in (
        ["collect", *map(str, class_zips), "--due", "2026-11-20T23:59"],
        ["grade", "--jobs", "2", "--timeout", "20"],
        ["return"],
    ):
        done = subprocess.run(
            [*command, *step, "--course", str(folder)], capture_output=True, text=True, errors="replace"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout
    return folder, said


@pytest.mark.parametrize("student", CLASS)
def test_every_paper_gets_its_points(class_folder, student):
    rows = gradebook.read_grades(class_folder[0] / "grades.csv")
    row = rows.get((papers.plain(student), "toy"))
    assert (row and float(row["points"])) == CLASS[student][1], row


@pytest.mark.parametrize("who", BY_ZIP, ids=lambda who: who[0])
def test_who_came_by_zip_gets_the_points_and_has_them_returned(class_folder, who):
    folder, student, points = class_folder[0], BY_ZIP_NAMES[who], BY_ZIP[who][1]
    row = gradebook.read_grades(folder / "grades.csv").get((student, "toy"))
    assert (row and float(row["points"])) == points, row
    table = Sheet.read(folder / "return" / ("toy-moodle.csv" if who[1] == MOODLE else "canvas.csv")).rows
    number, column = student.rpartition("_")[2], "Grade" if who[1] == MOODLE else "toy"
    given = [float(r[column]) for r in table if (r.get("Identifier") or r.get("ID", "")).endswith(number) and number]
    assert given == ([] if points is None else [points])
    if row:
        assert row["late"] == ("late" if "zak" in student or "104" in student else "")


def test_the_lecturer_knows_of_every_file(class_folder, class_zips):
    folder, said = class_folder
    left = {row["file"]: row["reason"] for row in Sheet.read(folder / "not_graded.csv").rows}
    collected = [row["from"].partition(": ")[2] for row in Sheet.read(folder / "collected.csv").rows]
    for path in class_zips:
        for name in zipfile.ZipFile(path).namelist():
            assert any(file.startswith(name) for file in (*left, *collected)), name
    assert len(collected) == 17 and all(f"{file} is not graded: {reason}" in said for file, reason in left.items())
    assert {file.rpartition("/")[2].partition("_")[0] for file in left} == {
        "read me.txt", "essay.pdf", "notes.md", "nobody", "rossimario",
    }  # fmt: skip
    attempts = sorted(p.name for p in (folder / "attempts" / "Nguyễn Văn A_104" / "toy").iterdir())
    assert attempts == ["2026-11-20 12.00.00.ipynb", "2026-11-21 09.00.00.ipynb"]


def test_the_lecturer_sees_what_the_class_lost_most(class_folder):
    folder, said = class_folder
    rows = [row for row in Sheet.read(folder / "tests.csv").rows if row["assignment"] == "toy"]
    earned = {row["student"] for row in rows if float(row["points"])}
    lost = [row for row in rows if row["test"] == "test_two" and row["student"] in earned and row["points"] == "0"]
    told = sum(row["said"] == "two is not two" for row in lost)
    assert 2 < told < len(lost) < len(earned)
    assert f"toy test_two: lost by {len(lost)} of {len(earned)}; {told} were told: two is not two" in said
    columns = {key: float(row["exercise 1"]) for key, row in gradebook.read_grades(folder / "grades.csv").items()}
    assert columns["zakanna_201", "toy"] == 5 and columns["*", "toy"] == 2


@pytest.mark.parametrize("student", TOLD)
def test_the_lecturer_is_told_in_a_sentence(class_folder, student):
    look = class_folder[1].partition("To look at:")[2]
    assert TOLD[student] in look


def test_no_sentence_for_what_is_in_order(class_folder):
    look = class_folder[1].partition("To look at:")[2].partition("submissions graded")[0]
    assert not any(name in look for name in ("Doe", "Łukasz", "marked", "utf-16", "._toy"))
    assert "submitted/toy.ipynb is not graded: it lies too high" in look


def test_feedback_shows_the_code_of_whoever_handed_in_text(class_folder):
    page = (class_folder[0] / "feedback" / "half a character" / "toy.html").read_text(encoding="utf-8")
    assert "toy: 5 of 5 points" in page and "two" in page and "half a character" in page


# --- collecting ------------------------------------------------------------------------------------

NAMES = ["Anna Müller", "Łukasz Żak", "王小明", "Nguyễn Văn A", "Ó Briain, Seán", "Anna Müller"]  # two of one name


FIRST = (2026, 11, 1, 8, 0, 0)


def zipped(path: Path, files: dict[str, str | bytes], when=(2026, 11, 20, 12, 0, 0), times=None) -> Path:
    """times: of files that have another than `when`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (times or {}).get(name, when)), text)
    return path


def paper_of(course_folder: Path, student: str) -> Path:
    return course_folder / "submitted" / student / "toy" / "toy.ipynb"


def test_moodle_zip(tmp_path, solved):
    toy_course(tmp_path)
    files = {
        f"{n}_{i}_assignsubmission_file_/my work.ipynb": text_of(changed(solved, two=f"two = {i}"))
        for i, n in enumerate(NAMES)
    }
    files["Flat One_77_assignsubmission_file_toy.ipynb"] = text_of(solved)
    files["Text Only_78_assignsubmission_onlinetext/onlinetext.html"] = "see attachment"
    files["Mac User_79_assignsubmission_file_/__MACOSX/._toy.ipynb"] = "x"
    new, left = collect(tmp_path, [zipped(tmp_path / "moodle.zip", files)], ["toy"])
    assert new == len(NAMES) + 1
    for i, name in enumerate(NAMES):
        assert source_of(nbformat.read(paper_of(tmp_path, f"{name}_{i}"), 4), "two").source == f"two = {i}"
    assert paper_of(tmp_path, "Flat One_77").is_file()
    assert (
        len(left) == 2
        and "onlinetext.html is not graded: it is no notebook" in left[0]
        and "1 files that macOS" in left[1]
    )


def test_canvas_zip_with_late_marks_and_attempts(tmp_path, solved, released):
    toy_course(tmp_path)
    first = {
        "muelleranna_101_9001_toy.ipynb": text_of(released),
        "zaklukasz_LATE_102_9002_toy-1.ipynb": text_of(solved),
    }
    assert collect(tmp_path, [zipped(tmp_path / "canvas.zip", first)], ["toy"]) == (2, [])
    later = {"muelleranna_101_9003_toy-1.ipynb": text_of(solved), **first}
    later = {name: later[name] for name in sorted(later)}
    new, left = collect(tmp_path, [zipped(tmp_path / "later.zip", later, (2026, 11, 22, 9, 30, 0))], ["toy"])
    assert (new, left) == (1, [])  # what was collected before is not collected again
    assert paper_of(tmp_path, "muelleranna_101").read_text() == text_of(solved)
    attempts = sorted(path.name for path in (tmp_path / "attempts" / "muelleranna_101" / "toy").iterdir())
    assert attempts == ["2026-11-20 12.00.00.ipynb", "2026-11-22 09.30.00.ipynb"]
    rows = {row["student"]: row for row in Sheet.read(tmp_path / "collected.csv").rows}
    assert rows["zaklukasz_102"]["late"] == "late" and rows["muelleranna_101"]["late"] == ""
    assert tell_late(tmp_path) == {("muelleranna_101", "toy"): "", ("zaklukasz_102", "toy"): "late"}


def test_a_name_with_a_date_in_a_student_s_folder_is_not_canvas_s(tmp_path, solved):
    toy_course(tmp_path)
    files = {
        "Anna Nowak/1_toy/hw_2026_11_30.ipynb": text_of(solved),
        "Cy Roe/1_toy/hw_2026_11_29.ipynb": text_of(changed(solved, two=WRONG)),
        "Di Lee/hw_2026_11_28.ipynb": text_of(solved),
    }
    assert collect(tmp_path, [zipped(tmp_path / "a.zip", files)], ["toy"]) == (3, [])
    assert sorted(p.name for p in (tmp_path / "submitted").iterdir()) == ["Anna Nowak", "Cy Roe", "Di Lee"]
    assert paper_of(tmp_path, "Cy Roe").read_text() == text_of(changed(solved, two=WRONG))


@pytest.mark.parametrize("round_them", ["submissions/", "one/submissions/", "one.zip/"])
def test_canvas_s_files_are_known_in_a_folder_round_them(tmp_path, solved, round_them):
    toy_course(tmp_path)
    files = {f"{round_them}{name}_toy.ipynb": text_of(solved) for name in ("ngamy_101_9001", "leebo_LATE_102_9002")}
    files[f"{round_them}.DS_Store"] = "x"
    assert collect(tmp_path, [zipped(tmp_path / "a.zip", files)], ["toy"])[0] == 2
    assert sorted(p.name for p in (tmp_path / "submitted").iterdir()) == ["leebo_102", "ngamy_101"]


NOON = datetime.datetime(2026, 11, 20, 12)


def dated(path: Path, solved, **times) -> Path:
    """A Moodle zip with the times at which papers were handed in, by student; and one of weeks before."""
    names = {name: f"{name}_1_assignsubmission_file_/toy.ipynb" for name in ("early", *times)}
    files = {names[name]: text_of(changed(solved, two=f"two = {name!r}  # {path.name}")) for name in names}
    return zipped(path, files, times={names["early"]: FIRST, **{names[n]: time for n, time in times.items()}})


def test_late_is_what_comes_after_the_deadline(tmp_path, solved):
    toy_course(tmp_path)
    first = dated(tmp_path / "a.zip", solved, ann=(2026, 11, 20, 12, 0, 0))
    assert collect(tmp_path, [first], ["toy"], {"toy": NOON}) == (2, [])
    assert tell_late(tmp_path)["ann_1", "toy"] == ""
    collect(tmp_path, [dated(tmp_path / "b.zip", solved, ann=(2026, 11, 20, 12, 0, 2))], ["toy"])  # as told before
    assert tell_late(tmp_path) == {("ann_1", "toy"): "late", ("early_1", "toy"): ""}
    assert [row["late"] for row in Sheet.read(tmp_path / "collected.csv").rows if row["name"] == "ann"] == ["", "late"]


def test_a_corrected_deadline_and_extensions_reach_what_is_collected_and_graded(tmp_path, solved):
    toy_course(tmp_path)
    source = dated(tmp_path / "a.zip", solved, ann=(2026, 11, 21, 9, 0, 0), ben=(2026, 11, 22, 9, 0, 0))

    def late() -> list[str]:
        gradebook.grade_all(tmp_path, "toy", show=lambda line: None)
        rows = gradebook.read_grades(tmp_path / "grades.csv")
        return [student for (student, _), row in rows.items() if row["late"] == "late"]

    collect(tmp_path, [source], ["toy"], {"toy": NOON})
    assert late() == ["ann_1", "ben_1"]
    other = zipped(tmp_path / "other.zip", {"ann_1_assignsubmission_file_/essay.pdf": "%PDF"})
    collect(tmp_path, [other], ["toy"], {"": NOON + datetime.timedelta(9)})  # of what is in this zip: of nothing
    assert late() == ["ann_1", "ben_1"]
    assert collect(tmp_path, [source], ["toy"], {"": datetime.datetime(2026, 11, 21, 23, 59)}) == (0, [])
    assert late() == ["ben_1"]
    (tmp_path / "deadlines.csv").write_text("assignment,due\ntoy,2026-11-20T12:00\n")  # or in the file
    assert late() == ["ann_1", "ben_1"]
    roster = "name;extension;extension toy\nann_1;0,5;\nben_1;;2\nearly_1;;\n"
    (tmp_path / "roster.csv").write_text(roster)
    assert late() == ["ann_1"]
    (tmp_path / "roster.csv").write_text(roster.replace("0,5", "1"))
    assert late() == []
    (tmp_path / "roster.csv").write_text(roster.replace("0,5;", "1;0"))  # that of the assignment counts, 0 too
    assert late() == ["ann_1"]
    (tmp_path / "roster.csv").write_text(roster.replace("0,5", "Friday"))
    with pytest.raises(course.PoiseLabError, match="roster.csv, ann_1: 'Friday' is no number of days"):
        late()
    (tmp_path / "deadlines.csv").write_text("assignment,due\ntoy,Friday\n")
    with pytest.raises(course.PoiseLabError, match="deadlines.csv: a time is written like"):
        late()


@pytest.mark.parametrize(
    "name, text, says",
    [
        (
            "deadlines.csv",
            "Task;Due\ntoy;2026-11-20T12:00\n",
            "deadlines.csv has no column 'assignment'; its first line must",
        ),
        ("deadlines.csv", "", "deadlines.csv has no column 'assignment'"),
        (
            "collected.csv",
            "who,assignment\nann,toy\n",
            "collected.csv has no column 'student'; its first line must name stud",
        ),
    ],
)
def test_a_table_without_its_columns_is_one_sentence(tmp_path, solved, capsys, name, text, says):
    toy_course(tmp_path)
    source = dated(tmp_path / "a.zip", solved, ann=(2026, 11, 21, 9, 0, 0))
    (tmp_path / name).write_text(text)
    assert course.main(["collect", str(source), "--course", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {says}") and err.count("\n") == 1, err
    assert (tmp_path / name).read_text() == text and not (tmp_path / "submitted").exists()


def test_columns_in_capitals_are_the_same_columns(tmp_path, solved):
    toy_course(tmp_path)
    source = dated(tmp_path / "a.zip", solved, ann=(2026, 11, 21, 9, 0, 0))
    (tmp_path / "deadlines.csv").write_text("Assignment;Due\ntoy;2026-11-20T12:00\n")
    collect(tmp_path, [source], ["toy"])
    record = tmp_path / "collected.csv"
    record.write_text(record.read_text().replace("student,name", "Student,Name", 1))
    assert tell_late(tmp_path)["ann_1", "toy"] == "late"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cells": [1]}', '{"cells": null}', '{"a":' * 100_000, "\ud83d"])
@pytest.mark.parametrize("command", ["collect", "grade"])
def test_a_broken_master_is_one_sentence(tmp_path, capsys, command, text):
    toy_course(tmp_path)
    (tmp_path / "source" / "toy" / "toy.ipynb").write_bytes(text.encode(errors="surrogatepass"))
    assert course.main([command, *([str(tmp_path)] if command == "collect" else []), "--course", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "toy.ipynb is no notebook that can be read (" in err and err.count("\n") == 1, err


def test_nobody_is_late_by_the_time_of_a_download(tmp_path, solved):
    """Canvas, and many a Moodle, date all files of a zip with the moment at which they make it."""
    toy_course(tmp_path)
    files = {f"{n}_1_assignsubmission_file_/toy.ipynb": text_of(changed(solved, two=f"two = {n!r}")) for n in "ab"}
    source = zipped(tmp_path / "m.zip", files, (2026, 11, 25, 9, 0, 0))
    new, said = collect(tmp_path, [source], ["toy"], {"toy": NOON})
    assert new == 2 and said == [f"m.zip: {collecting.UNDATED}"] and set(tell_late(tmp_path).values()) == {""}
    marked = {"ann_1_2_toy.ipynb": text_of(solved), "ben_LATE_2_3_toy.ipynb": text_of(solved)}
    source = zipped(tmp_path / "c.zip", marked, (2026, 11, 25, 9, 0, 0))
    assert collect(tmp_path, [source], ["toy"]) == (2, [])  # its marks say it
    assert [who for who, late in tell_late(tmp_path).items() if late] == [("ben_2", "toy")]
    table = Sheet.read(tmp_path / "collected.csv")
    table.rows[0]["time"] = "2026-11-20 12:01:00"  # as a lecturer writes it who knows it
    table.write(tmp_path / "collected.csv")
    assert [who for who, late in tell_late(tmp_path).items() if late] == [("a_1", "toy"), ("ben_2", "toy")]


@pytest.mark.parametrize(("minutes", "dated"), [(9, False), (10, True), (11, True)])
def test_a_zip_whose_files_are_ten_minutes_apart_says_when(minutes, dated):
    """As long no platform takes to make one."""
    start = datetime.datetime(2026, 11, 25, 9)
    times = [start, start + datetime.timedelta(minutes=minutes), start]
    files = [collecting.File(("toy.ipynb",), 1, time, bytes) for time in times]
    assert collecting.says_when(files) == dated and not collecting.says_when(files[:1])


def handed(tmp_path, **papers):
    """A zip of Moodle: for each student the text of a cell and the day of November on which it was handed in."""
    names = {student: f"{student}_assignsubmission_file_/toy.ipynb" for student in papers}
    cells = {s: nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(papers[s][0], id="cell")]) for s in papers}
    times = {names[s]: (2026, 11, day, 10, 0, 0) for s, (_, day) in papers.items()}
    return zipped(tmp_path / "moodle.zip", {names[s]: text_of(cells[s]) for s in papers}, times=times)


def read_paper(folder, student):
    return nbformat.read(paper_of(folder, student), 4).cells[0].source


def test_what_is_handed_in_again_after_something_else_is_the_last_attempt(tmp_path):
    toy_course(tmp_path)
    for cell, day, new in (("first", 1, 2), ("second", 2, 1), ("first", 3, 1), ("first", 3, 0)):
        moodle = handed(tmp_path, Ann_1=(cell, day), Ben_2=("same", 20))
        assert collect(tmp_path, [moodle], ["toy"])[0] == new
        assert read_paper(tmp_path, "Ann_1") == cell
    rows = [row["time"] for row in Sheet.read(tmp_path / "collected.csv").rows if row["student"] == "Ann_1"]
    assert rows == [f"2026-11-0{day} 10:00:00" for day in (1, 2, 3)]


def test_collecting_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    """Killed after the first paper, before collected.csv: its student is in the table of the next call."""
    toy_course(tmp_path)
    moodle = handed(tmp_path, Ann_1=("a", 1), Ben_2=("b", 1))
    whole = collecting.keep

    def cut(course, table, student, *rest):
        if student.name == "Ben":
            raise KeyboardInterrupt
        return whole(course, table, student, *rest)

    monkeypatch.setattr(collecting, "keep", cut)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, [moodle], ["toy"])
    monkeypatch.undo()
    collect(tmp_path, [moodle], ["toy"])
    collect(tmp_path, [moodle], ["toy"])
    assert [row["id"] for row in Sheet.read(tmp_path / "collected.csv").rows] == ["1", "2"]


def test_a_paper_is_never_half_written(tmp_path, monkeypatch):
    """A full disk leaves no half a paper, which the next call would take for one that was put there by hand."""
    toy_course(tmp_path)
    moodle = handed(tmp_path, Ann_1=("a", 1))
    replace = os.replace

    def full(source, target):
        if Path(target).parent.parent.parent.name == "submitted":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        collect(tmp_path, [moodle], ["toy"])
    assert not list((tmp_path / "submitted").rglob("*.*"))
    monkeypatch.undo()
    collect(tmp_path, [moodle], ["toy"])
    assert read_paper(tmp_path, "Ann_1") == "a" and len(list((tmp_path / "attempts").rglob("*.ipynb"))) == 1


def test_an_assignment_whose_name_begins_like_another_s(tmp_path):
    toy = toy_course(tmp_path)
    for name in ("homework_10", "homework_1"):
        shutil.copytree(toy, tmp_path / "source" / name)
        (tmp_path / "source" / name / "toy.ipynb").rename(tmp_path / "source" / name / f"{name}.ipynb")
    source, nothing = tmp_path / "in" / "Ann", nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    source.mkdir(parents=True)
    nbformat.write(nothing, source / "homework_10.ipynb")  # its cells do not say which it is
    collect(tmp_path, [source.parent], ["homework_1", "homework_10"])
    assert (tmp_path / "submitted" / "Ann" / "homework_10" / "homework_10.ipynb").is_file()
    sheet, key = tmp_path / "canvas.csv", ("Ann", "homework_1")
    sheet.write_text("Student,ID,homework_10 (5),homework_1 (4)\nAnn,7,,\n")
    filled(
        sheet, tmp_path / "out.csv", ["homework_1"], {key: {"points": "3"}}, {key: {"platform": "canvas", "id": "7"}}
    )
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "Ann,7,,3"


@pytest.mark.parametrize("command", ["grade", "check", "minutes", "handout", "collect"])
def test_a_folder_that_is_no_course_is_refused(tmp_path, capsys, command):
    """A check that checks nothing is not passed."""
    files = [str(tmp_path)] if command == "collect" else []
    assert course.main([command, *files, "--course", str(tmp_path / "none")]) == 2
    assert "there is no assignment under" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_folders_and_archives_in_them(tmp_path, solved):
    toy_course(tmp_path)
    inner = zipped(tmp_path / "inner.zip", {"work/toy.ipynb": text_of(solved)}).read_bytes()
    handed_in = tmp_path / "handed in"
    for name, text in {
        "ann/toy/toy.ipynb": text_of(solved), "bob/anything.ipynb": text_of(solved), "cem/toy.ipynb.txt": text_of(solved),
        "dan/all.zip": inner, "eve/toy.ipynb": "{broken", "fay/essay.ipynb": "{broken", "toy.ipynb": text_of(solved),
        "gil/toy.docx": "x",
    }.items():  # fmt: skip
        path = handed_in / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    two_assignments(tmp_path)
    new, left = collect(tmp_path, [handed_in], ["toy", "other"])
    assert new == 5 and sorted(p.parent.parent.name for p in tmp_path.glob("submitted/*/toy/toy.ipynb")) == [
        "ann",
        "bob",
        "cem",
        "dan",
        "eve",
    ]
    assert sorted(left) == [
        "handed in: fay/essay.ipynb is not graded: neither its cells nor its name say of which assignment it is",
        "handed in: gil/toy.docx is not graded: it is no notebook (.ipynb)",
        "handed in: toy.ipynb is not graded: nothing says whose it is: no name as Moodle or Canvas gives it, "
        "and no folder of a student",
    ]


def two_assignments(folder: Path) -> None:
    master = nbformat.read(folder / "source" / "toy" / "toy.ipynb", 4)
    for cell in master.cells:
        cell.metadata.nbgrader.grade_id += "_of_another"
    (folder / "source" / "other").mkdir()
    nbformat.write(master, folder / "source" / "other" / "other.ipynb")


def test_papers_are_told_apart_by_their_cells(tmp_path, solved):
    toy_course(tmp_path)
    two_assignments(tmp_path)
    files = {"ann_1_assignsubmission_file_/other.ipynb": text_of(solved)}
    assert collect(tmp_path, [zipped(tmp_path / "a.zip", files)], ["other", "toy"]) == (1, [])
    assert paper_of(tmp_path, "ann_1").is_file()


def test_no_archive_writes_elsewhere_and_no_paper_is_lost(tmp_path, solved):
    folder = tmp_path / "course"
    toy_course(folder)
    by_hand = paper_of(folder, "ann")
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("put here by hand")
    files = {"../../../up_5_assignsubmission_file_/toy.ipynb": text_of(solved), "/ann/toy/toy.ipynb": text_of(solved)}
    new, left = collect(folder, [zipped(tmp_path / "a.zip", files)], ["toy"])
    assert new == 2 and not left and paper_of(folder, "up_5").is_file() and "SOLUTION" not in by_hand.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "course"]
    kept = [p for p in (folder / "attempts" / "ann" / "toy").iterdir() if "by hand" in p.name]
    assert [p.read_text() for p in kept] == ["put here by hand"]


def test_collecting_loads_nothing_that_only_grading_needs(tmp_path, solved):
    """nbgrader, nbformat and nbconvert take longer to load than a class takes to collect."""
    toy_course(tmp_path)
    program = """
import sys
sys.modules |= {"nbgrader": None, "nbconvert": None, "nbformat": None}  # an import of them stops
from poise_lab.course.__main__ import main
collected = main(["collect", *sys.argv[1:]])
del sys.modules["nbconvert"], sys.modules["nbformat"]
print(collected, main(["grade", *sys.argv[2:]]))
"""
    moodle = zipped(tmp_path / "moodle.zip", {"Ann_1_assignsubmission_file_/toy.ipynb": text_of(solved)})
    command = [sys.executable, "-c", program, str(moodle), "--course", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("1 papers collected") and done.stdout.endswith("0 2\n"), done.stderr
    assert paper_of(tmp_path, "Ann_1").is_file()
    assert done.stderr == "error: nbgrader is not installed: run `make assignments`, which installs it\n"


def test_what_is_no_zip_is_refused(tmp_path, capsys):
    toy_course(tmp_path)
    (tmp_path / "x.zip").write_text("no zip")
    assert course.main(["collect", str(tmp_path / "x.zip"), "--course", str(tmp_path)]) == 2
    assert "neither a folder nor a zip" in capsys.readouterr().err


ROSTERS = {
    "names": "\ufeffName;Gruppe\nAnna Müller;A\nŁukasz Żak;B\nNg, Amy;B\n",
    "moodle": "First name,Last name,Email address\nAnna,Müller,a@b\nŁukasz,Żak,l@b\nAmy,Ng,n@b\n",
    "canvas": 'Student,ID,Section\n    Points Possible,,\n"Müller, Anna",5,x\n"Żak, Łukasz",6,x\n"Ng, Amy",7,x\n',
}


@pytest.mark.parametrize("form", ROSTERS)
def test_a_roster_brings_together_what_platforms_call_differently(form, tmp_path, solved):
    toy_course(tmp_path)
    two_assignments(tmp_path)
    (tmp_path / "roster.csv").write_text(ROSTERS[form], encoding="utf-8")
    files = {
        "Anna Müller_11_assignsubmission_file_/toy.ipynb": text_of(solved),
        "Eve Else_13_assignsubmission_file_/toy.ipynb": text_of(solved),
    }
    other = {"müller anna_5_9_other.ipynb": "{broken", "żakłukasz_6_8_other.ipynb": "{broken"}
    new, said = collect(
        tmp_path, [zipped(tmp_path / "m.zip", files), zipped(tmp_path / "c.zip", other)], ["other", "toy"]
    )
    anna, zak, amy = (
        ("Müller, Anna", "Żak, Łukasz", "Ng, Amy") if form == "canvas" else ("Anna Müller", "Łukasz Żak", "Ng, Amy")
    )
    amy = "Amy Ng" if form == "moodle" else amy
    assert new == 4 and said == ["Eve Else_13 is not on the roster, or two of it could be meant"]
    papers_of = {str(p.relative_to(tmp_path / "submitted").parent) for p in tmp_path.glob("submitted/*/*/*.ipynb")}
    assert papers_of == {f"{anna}/toy", f"{anna}/other", f"{zak}/other", "Eve Else_13/toy"}
    assert handed_in_nothing(tmp_path, ["other", "toy"]) == [
        f"other: nothing from 1 of 3: {amy}", f"toy: nothing from 2 of 3: {zak}, {amy}",
    ]  # fmt: skip


def test_two_of_one_name_are_told_apart_or_told(tmp_path):
    (tmp_path / "roster.csv").write_text("Student,ID\nKim Min,1\nKim Min,2\nKim Lee,3\n", encoding="utf-8")
    roster = Roster(tmp_path / "roster.csv")
    assert roster.names == ["Kim Min", "Kim Min 2", "Kim Lee"]
    assert [roster.find("kimmin", n) for n in ("1", "2", "")] == ["Kim Min", "Kim Min 2", None]
    assert roster.find("Lee Kim") == "Kim Lee" and roster.find("Kim") is None
    (tmp_path / "roster.csv").write_text(
        "First name,Last name\nAnna,Müller\nAnna,Müller\nAnna,Müller\n", encoding="utf-8"
    )
    roster = Roster(tmp_path / "roster.csv")
    assert roster.names == ["Anna Müller", "Anna Müller 2", "Anna Müller 3"] and roster.find("Anna Müller") is None
    (tmp_path / "roster.csv").write_text("a,b\n1,2\n")
    with pytest.raises(course.PoiseLabError, match="no column name"):
        Roster(tmp_path / "roster.csv")


def test_whom_the_roster_knows_by_a_number_is_no_stranger(tmp_path, solved):
    toy_course(tmp_path)
    (tmp_path / "roster.csv").write_text("Student,ID\nKim Min,1\nKim Min,2\n", encoding="utf-8")
    files = {"kimmin_1_11_toy.ipynb": text_of(solved), "kimmin_2_12_toy.ipynb": text_of(solved)}
    assert collect(tmp_path, [zipped(tmp_path / "c.zip", files)], ["toy"]) == (2, [])
    assert sorted(path.name for path in (tmp_path / "submitted").iterdir()) == ["Kim Min", "Kim Min 2"]


def test_a_zip_that_would_unpack_to_too_much_is_told(tmp_path, solved, monkeypatch):
    toy_course(tmp_path)
    monkeypatch.setattr(collecting, "MOST_UNPACKED", 10)
    outer = {"ann_1_2_all.zip": inner_zip({"toy.ipynb": text_of(solved)})}
    new, said = collect(tmp_path, [zipped(tmp_path / "c.zip", outer)], ["toy"])
    assert new == 0 and "cannot be opened, or that is too large" in said[0]


def test_a_whole_folder_in_a_zip_is_told_in_a_few_lines(tmp_path, solved):
    toy_course(tmp_path)
    files = {f"work/lib/module_{i}.py": "x" for i in range(40)} | {"work/toy.ipynb": text_of(solved)}
    outer = {"ann_1_2_all.zip": inner_zip(files)}
    new, said = collect(tmp_path, [zipped(tmp_path / "c.zip", outer)], ["toy"])
    assert new == 1 and len(said) == 6 and "35 more files of ann likewise" in said[-1]
    assert len(Sheet.read(tmp_path / "not_graded.csv").rows) == 40


def test_deadlines_are_those_of_each_assignment():
    due = deadlines(["a=2026-11-30 10:00", "2026-12-01T10:00"], ["a", "b"])
    assert [due[name].isoformat() for name in ("a", "")] == ["2026-11-30T10:00:00", "2026-12-01T10:00:00"]
    for given, says in (
        ("c=2026-11-30", "no assignment 'c'"),
        ("tomorrow", "a time is written like"),
        ("2026-11-30", "a time is written like"),  # its midnight, or its end?
        ("2026-11-30T23:59+12:00", "a time is written like"),
    ):
        with pytest.raises(course.PoiseLabError, match=says):
            deadlines([given], ["a"])


# --- grades.csv ------------------------------------------------------------------------------------

SAVED = [("ann", "toy", "2.0", "5.0", "", "f1", "2.0", "", ""), ("Bo; Ö", "toy", "3.5", "5.0", "", "f2", "3.5", "", "")]


def grades_in(path: Path) -> gradebook.Grades:
    grades = gradebook.Grades(
        list(gradebook.COLUMNS), [dict(zip(gradebook.COLUMNS, row, strict=True)) for row in SAVED]
    )
    grades.write(path)
    return grades


def saved_by_people(text: str, how: str) -> bytes:
    rows = list(csv.reader(io.StringIO(text)))
    if how == "semicolons":
        out = io.StringIO()
        csv.writer(out, delimiter=";").writerows(
            [[c.replace(".", ",") if re.fullmatch(r"\d\.\d", c) else c for c in r] for r in rows]
        )
        return ("\ufeff" + out.getvalue()).encode()
    if how == "tabs":
        return "\n".join("\t".join(row) for row in rows).encode("utf-16")
    if how == "windows":
        return "\r\n".join(";".join(f'"{c}"' for c in row) for row in rows).encode("cp1252")
    if how == "capitals":
        return text.replace("student,assignment,points", "Student, Assignment ,Points", 1).encode()
    return ("\ufeff" + text).encode()


@pytest.mark.parametrize("how", ["mark", "semicolons", "tabs", "windows", "capitals"])
def test_grades_survive_a_spreadsheet(tmp_path, how):
    path = tmp_path / "grades.csv"
    grades_in(path)
    path.write_bytes(saved_by_people(path.read_text(encoding="utf-8"), how))
    grades = gradebook.Grades.read(path)
    assert list(grades.by_paper()) == [("ann", "toy"), ("Bo; Ö", "toy")]
    assert not any(map(gradebook.by_hand, grades.rows))
    grades.give("ann", "toy", graded=grades.shown(4.5), of="5.0", file="f3", minutes="", note="")
    grades.write(path)
    again = gradebook.Grades.read(path)
    assert again.delimiter == grades.delimiter and again.marked == grades.marked
    assert gradebook.number(again.by_paper()["ann", "toy"]["points"]) == 4.5
    assert ("4,5" in path.read_text(encoding="utf-8-sig")) == (grades.delimiter == ";")


def test_points_and_columns_of_people_stay_and_are_marked(tmp_path):
    path = tmp_path / "grades.csv"
    grades = grades_in(path)
    grades.columns.insert(2, "group")
    for row in grades.rows:
        row["group"] = "B"
    grades.rows[0]["points"] = "3"
    grades.rows[1]["points"] = "excused"
    grades.write(path)
    grades = gradebook.Grades.read(path)
    for student in ("ann", "Bo; Ö"):
        grades.give(student, "toy", graded="1.0", of="5.0", file="new", minutes="", note="late")
    grades.write(path)
    rows = gradebook.read_grades(path)
    assert [row["points"] for row in rows.values()] == ["3", "excused"] and {row["group"] for row in rows.values()} == {
        "B"
    }
    assert {row["note"] for row in rows.values()} == {"points changed by hand: the grader gave 1.0. late"}
    assert path.read_text(encoding="utf-8").startswith("student,assignment,group,points")


def test_a_change_by_hand_is_marked_though_nothing_is_graded(tmp_path, solved):
    toy_course(tmp_path)
    paper = paper_of(tmp_path, "ann")
    paper.parent.mkdir(parents=True)
    paper.write_text(text_of(solved))
    digest = papers.papers(tmp_path, "toy")["ann"].digest(tmp_path / "source" / "toy" / "toy.ipynb")
    grades = gradebook.Grades(list(gradebook.COLUMNS), [])
    grades.give("ann", "toy", graded="5.0", of="5.0", file=digest, minutes="", note="")
    grades.give("gone", "toy", graded="5.0", of="5.0", file="x", minutes="", note="")
    grades.rows[0]["points"] = "4"
    grades.write(tmp_path / "grades.csv")
    for _ in range(2):
        assert gradebook.grade_all(tmp_path, "toy") == 0
        (row,) = gradebook.read_grades(tmp_path / "grades.csv").values()
        assert (row["points"], row["note"]) == ("4", "points changed by hand: the grader gave 5.0.")


def test_nbgrader_s_export_is_read_and_a_foreign_table_refused(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_text("assignment,duedate,student_id,score,max_score\ntoy,None,ann,3.0,5.0\n")
    row = gradebook.read_grades(path)["ann", "toy"]
    assert (row["points"], row["of"], row["duedate"]) == ("3.0", "5.0", "None")
    toy_course(tmp_path)
    assert gradebook.grade_all(tmp_path, "toy") == 0 and gradebook.medians(tmp_path, "toy") == []
    assert gradebook.to_look_at(tmp_path, ["toy"]) == [] and len(gradebook.read_grades(path)) == 1
    for foreign in ("a,b\n1,2\n", ""):
        path.write_text(foreign)
        with pytest.raises(course.PoiseLabError, match="no columns student and assignment"):
            gradebook.read_grades(path)


# --- returning -------------------------------------------------------------------------------------


@pytest.fixture
def graded(tmp_path, solved):
    toy_course(tmp_path)
    files = {"Anna Müller_11_assignsubmission_file_/toy.ipynb": text_of(solved)}
    zips = [
        zipped(tmp_path / "m.zip", files),
        zipped(tmp_path / "c.zip", {"zaklukasz_LATE_22_33_toy.ipynb": text_of(solved)}),
    ]
    collect(tmp_path, zips, ["toy"])
    grades = gradebook.Grades(list(gradebook.COLUMNS), [])
    for student, points in (("Anna Müller_11", "4.5"), ("zaklukasz_22", "3.0")):
        grades.give(student, "toy", graded=points, of="5.0", file="", minutes="", note="")
        for ending in ("md", "html"):
            path = tmp_path / "feedback" / student / f"toy.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("well done")
    grades.write(tmp_path / "grades.csv")
    return tmp_path


def test_grades_and_feedback_go_back_to_both_platforms(graded, capsys):
    grades = gradebook.Grades.read(graded / "grades.csv")
    grades.give("by hand", "toy", graded="1.0", of="5.0", file="", minutes="", note="")
    grades.write(graded / "grades.csv")
    assert course.main(["return", "--course", str(graded)]) == 0
    assert "by hand is in no table" in capsys.readouterr().out
    (moodle,) = Sheet.read(graded / "return" / "toy-moodle.csv").rows
    assert (moodle["Identifier"], moodle["Full name"], moodle["Grade"]) == ("Participant 11", "Anna Müller", "4.5")
    full, canvas = Sheet.read(graded / "return" / "canvas.csv").rows
    assert full["toy"] == "5.0" and (canvas["ID"], canvas["toy"]) == ("22", "3.0")
    with zipfile.ZipFile(graded / "return" / "toy-feedback.zip") as archive:
        assert "Anna Müller_11_assignsubmission_file_/toy.html" in archive.namelist()


def test_a_platform_s_own_table_is_filled_in(graded, capsys):
    sheet = graded / "sheet.csv"
    sheet.write_text(
        "\ufeffIdentifier,Full name,Email address,Grade\nParticipant 11,Anna Müller,a@b,-\nParticipant 12,No One,n@b,-\n"
    )
    assert course.main(["return", "--worksheet", str(sheet), "--course", str(graded)]) == 0
    assert [row["Grade"] for row in Sheet.read(graded / "return" / "sheet.csv").rows] == ["4.5", "-"]
    sheet.write_text("Student,ID,Section,Toy (99)\n    Points Possible,,,5\nŻak,22,A,\n")
    assert course.main(["return", "--worksheet", str(sheet), "--course", str(graded)]) == 0
    assert [row["Toy (99)"] for row in Sheet.read(graded / "return" / "sheet.csv").rows] == ["5", "3.0"]
    for text, says in (
        ("Student,ID\nx,22\n", "no column"),
        ("Student,ID,toy\nx,9\n", "no row for"),
        ("ID;Bewertung\n", "neither Moodle's grading worksheet in English"),
    ):
        sheet.write_text(text)
        assert course.main(["return", "--worksheet", str(sheet), "--course", str(graded)]) == 2
        assert says in capsys.readouterr().err


def test_no_platform_gets_a_decimal_comma(graded):
    """In English, Moodle reads 4,5 as 4, and it takes no semicolons between columns."""
    grades = gradebook.Grades.read(graded / "grades.csv")
    for row in grades.rows:
        row |= {name: row[name].replace(".", ",") for name in ("points", "graded", "of")}
    grades.delimiter = ";"
    grades.write(graded / "grades.csv")
    sheet = graded / "sheet.csv"
    sheet.write_text("\ufeffIdentifier;Full name;Grade;Maximum Grade\nParticipant 11;Müller, Anna;;5.0\n")
    for more in ([], ["--worksheet", str(sheet)]):
        assert course.main(["return", *more, "--course", str(graded)]) == 0
    filled = (graded / "return" / "sheet.csv").read_text(encoding="utf-8-sig")
    assert filled == 'Identifier,Full name,Grade,Maximum Grade\nParticipant 11,"Müller, Anna",4.5,5.0\n'
    (moodle,) = Sheet.read(graded / "return" / "toy-moodle.csv").rows
    assert (moodle["Grade"], moodle["Maximum Grade"]) == ("4.5", "5.0")
    full, canvas = Sheet.read(graded / "return" / "canvas.csv").rows
    assert (full["toy"], canvas["toy"]) == ("5.0", "3.0")


def test_feedback_has_titles_points_code_and_nothing_that_runs(tmp_path, released, solved):
    from poise_lab.course.feedback import write_feedback

    heading = nbformat.v4.new_markdown_cell("## Exercise 1 (5 points, 15 minutes): both numbers")
    notebook = copy.deepcopy(released)
    notebook.cells.insert(0, heading)
    given = grading.Graded("ann", {"test_one": 2.0, "test_two": 0.0}, {"test_one": 2.0, "test_two": 3.0},
                           ["test_two: two is not <script>alert(1)</script>", "of all"], [], {"two": "def two():\n    return 'mine'"})  # fmt: skip
    write_feedback(tmp_path / "toy", "toy", given, notebook)
    page, text = (tmp_path / "toy.html").read_text(encoding="utf-8"), (tmp_path / "toy.md").read_text(encoding="utf-8")
    for shown in (page, text):
        assert "Exercise 1: both numbers: 2 of 5" in shown and "test_two: 0 of 3" in shown and "of all" in shown
    assert "mine" in page and "<script>alert" not in page and "toy: 2 of 5 points" in page


# --- nbgrader's own commands -----------------------------------------------------------------------


def test_nbgrader_s_own_commands_hand_out_no_planted_answer(tmp_path):
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    toy_course(tmp_path)
    config = PyFileConfigLoader("nbgrader_config.py", str(ASSIGNMENTS)).load_config()
    assert config.CsvExportPlugin.to != "grades.csv"
    config.CourseDirectory.root = str(tmp_path)
    with grading.nbgrader_at_hand():
        assert NbGraderAPI(config=config).generate_assignment("toy")["success"]
    assert [p.name for p in (tmp_path / "release" / "toy").iterdir()] == ["toy.ipynb"]


SPOILED = {
    "no source": lambda cell: cell.pop("source"),
    "source null": lambda cell: cell.update(source=None),
    "no metadata": lambda cell: cell.pop("metadata"),
    "metadata null": lambda cell: cell.update(metadata=None),
    "metadata a list": lambda cell: cell.update(metadata=[]),
    "name a list": lambda cell: cell["metadata"].update(nbgrader=["a"]),
    "name of a name": lambda cell: cell["metadata"].update(nbgrader={"grade_id": ["a"]}),
    "line ends of Windows": lambda cell: cell.update(source="".join(cell["source"]).replace("\n", "\r\n")),
    "outputs of no kind": lambda cell: cell.update(outputs=[3, None, {"output_type": "x"}] if "outputs" in cell else 0),
    "counted in words": lambda cell: cell.update(execution_count="ten", outputs=None),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_cell_does_not_spoil_the_paper(how, tmp_path, solved, released):
    """The other cells are read; a cell that may not be edited is as handed out, and said to be edited only if it was."""
    raw = json.loads(nbformat.writes(solved))
    for i, cell in enumerate(raw["cells"]):
        if how.startswith("line ends") or not (solved.cells[i].metadata.get("nbgrader") or {}).get("solution"):
            SPOILED[how](cell)
    raw["cells"].insert(0, "no cell")
    (tmp_path / "toy.ipynb").write_text(json.dumps(raw))
    whole, messages, notes = papers.repaired(papers.read_notebook(tmp_path / "toy.ipynb"), released)
    plainly, _, _ = papers.repaired(copy.deepcopy(solved), released)
    answers = [[c.source for c in nb.cells if papers.is_answer(c)] for nb in (whole, plainly)]
    assert answers[0] == answers[1] and not any("no answer cell" in note for note in notes)
    assert any("was edited" in message for message in messages) == ("source" in how)


@pytest.mark.parametrize("key, value", [("metadata", []), ("nbformat", "4"), ("nbformat_minor", None)])
def test_a_spoiled_notebook_is_read(key, value, tmp_path, solved):
    (tmp_path / "toy.ipynb").write_text(json.dumps(json.loads(nbformat.writes(solved)) | {key: value}))
    assert len(papers.read_notebook(tmp_path / "toy.ipynb").cells) == len(solved.cells)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "toy.ipynb")
    (tmp_path / "master.ipynb").touch()
    paper = papers.Paper(tmp_path / "toy.ipynb", [], [])
    assert paper.digest(tmp_path / "master.ipynb") == papers.Paper(tmp_path / "no", [], []).digest(
        tmp_path / "master.ipynb"
    )
    with pytest.raises(ValueError, match="there is no toy.ipynb"):
        papers.read_notebook(paper.path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '"x"', "3", "null", '{"cells": 3}', "[" * 100_000, "<html>", '{"cells": null}']
)
def test_what_is_json_but_no_notebook(text, tmp_path):
    (tmp_path / "toy.ipynb").write_text(text)
    with pytest.raises(Exception) as e:  # grading makes a sentence of it
        papers.read_notebook(tmp_path / "toy.ipynb")
    assert str(e.value)
