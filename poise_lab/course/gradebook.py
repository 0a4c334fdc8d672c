"""grades.csv, which people edit too; grading what is new, and what students say of their minutes."""

from __future__ import annotations

import ast
import concurrent.futures
import json
import multiprocessing
import statistics
from pathlib import Path

import nbformat

from ..errors import PoiseLabError
from . import TIMEOUT
from .cells import grade_id
from .deadlines import tell_late
from .feedback import points_by_exercise, write_feedback
from .grading import Classroom, Graded
from .losses import note_tests
from .minutes import exercises
from .papers import papers, plain, read_notebook
from .sheets import Sheet, number

COLUMNS = ["student", "assignment", "points", "of", "minutes", "file", "graded", "late", "note"]
ALSO_CALLED = {"student_id": "student", "score": "points", "max_score": "of"}  # in nbgrader's export
BY_HAND = "points changed by hand"
HOW_LONG = "minutes_taken"  # the cell in which students may say how long they took


class Grades(Sheet):
    """grades.csv. `points` are what counts, and a person may change them; `graded` is what the grader gave."""

    @classmethod
    def read(cls, path: Path) -> Grades:
        if not path.is_file():
            return cls(list(COLUMNS), [])
        table = super().read(path)
        lower = {name: ALSO_CALLED.get(name.lower(), name.lower()) for name in table.columns}
        lower = {name: new if new in COLUMNS else name for name, new in lower.items()}
        table.columns = list(lower.values())
        if not {"student", "assignment"} <= set(table.columns):
            raise PoiseLabError(f"{path.name} has no columns student and assignment; move it away to grade all anew")
        table.rows = [{lower[name]: text for name, text in row.items()} for row in table.rows]
        table.columns += [name for name in COLUMNS if name not in table.columns]
        table.rows = [{**dict.fromkeys(table.columns, ""), **row} for row in table.rows]
        return table

    def by_paper(self) -> dict[tuple[str, str], dict[str, str]]:
        return {(row["student"], row["assignment"]): row for row in self.rows}

    def give(self, student: str, assignment: str, **values) -> None:
        """Set the values of a row; points that a person has changed stay, and are marked as such."""
        row = self.by_paper().get((student, assignment))
        if row is None:
            row = {"student": student, "assignment": assignment}
            self.rows.append(row)
        if by_hand(row):
            values["note"] = f"{BY_HAND}: the grader gave {values['graded']}. {values['note']}".strip()
        else:
            row["points"] = values["graded"]
        row.update(values)


def by_hand(row: dict[str, str]) -> bool:
    """Whether someone has given other points than the grader."""
    given, graded = row.get("points", "").strip(), row.get("graded", "").strip()
    return bool(given and graded) and (given != graded if number(given) is None else number(given) != number(graded))


def read_grades(path: Path) -> dict[tuple[str, str], dict]:
    return Grades.read(path).by_paper()


def minutes_taken(path: Path) -> dict[int, float]:
    """Minutes that a student says the exercises took, by exercise; what is no plain number is passed over."""
    try:
        (cell,) = (c for c in read_notebook(path).cells if grade_id(c) == HOW_LONG)
        said = ast.literal_eval(ast.parse(cell.source).body[-1].value)
        return {int(k): float(v) for k, v in said.items() if type(v) in (int, float) and 0 < v <= 600}
    except Exception:  # whatever stands there: no point depends on it
        return {}


def grade_all(course: Path, name: str, timeout: int = TIMEOUT, jobs: int = 1, show=print) -> int:
    """Grade submitted/<student>/<name>/<name>.ipynb of all students; returns how many were graded now.

    Writes grades.csv, tests.csv and feedback/<student>/<name>.md and .html after each. What is in grades.csv already is not
    graded again unless the file, or the master, has changed. jobs: how many are graded at a time.
    """
    master, path = course / "source" / name / f"{name}.ipynb", course / "grades.csv"
    found, grades = papers(course, name), Grades.read(path)
    digests = {student: paper.digest(master) for student, paper in found.items()}
    known, late = grades.by_paper(), tell_late(course)
    new = [s for s in found if known.get((plain(s), name), {}).get("file") != digests[s]]
    if path.is_file() and (brought_up_to_date(grades, name, set(map(plain, found)), late) or new):
        grades.write(path)  # before the work: whether it can be written
    if not new:
        return 0
    with Classroom(master.parent, timeout) as room:
        room.require_reference()
        for graded in graded_papers(room, {s: found[s].path for s in new}, timeout, jobs):
            student = graded.student
            graded.messages[:0], graded.notes[:0] = found[student].messages, found[student].notes
            show(f"{name}: {plain(graded)}")
            write_feedback(course / "feedback" / student / name, name, graded, room.released)
            grades = Grades.read(path)  # someone may have written it meanwhile
            taken = minutes_taken(found[student].path)
            by_exercise = points_by_exercise(graded, room.released)
            grades.columns += [exercise for exercise in by_exercise if exercise not in grades.columns]
            grades.give(
                plain(student), name, late=late.get((plain(student), name), ""), of=grades.shown(graded.full), graded=grades.shown(graded.total), file=digests[student],
                minutes=json.dumps(taken) if taken else "", note=plain("; ".join(graded.notes)),
                **{exercise: grades.shown(points) for exercise, points in by_exercise.items()},
            )  # fmt: skip
            grades.rows.sort(key=lambda row: (row["student"], row["assignment"]))
            grades.write(path)
            note_tests(course, name, graded)
    return len(new)


def brought_up_to_date(grades: Grades, name: str, students: set[str], late: dict[tuple[str, str], str]) -> bool:
    """Rows whose paper is gone are dropped, unless a person has given their points; that is marked. Who is late is told
    anew, by student and assignment. Returns whether anything is other than it was.
    """
    before = json.dumps(grades.rows)
    for row in [row for row in grades.rows if row["assignment"] == name]:
        row["late"] = late.get((row["student"], name), row["late"])
        if by_hand(row) and BY_HAND not in row["note"]:
            row["note"] = f"{BY_HAND}: the grader gave {row['graded']}. {row['note']}".strip()
        elif row["student"] not in students and row["file"] and not by_hand(row):
            grades.rows.remove(row)
    return json.dumps(grades.rows) != before


# --- several at a time ---------------------------------------------------------------------------

_rooms: list[Classroom] = []  # of a process that grades beside others


def open_room(source: Path, timeout: int) -> None:
    _rooms.append(Classroom(source, timeout))


def grade_here(student: str, paper: Path) -> Graded:
    return _rooms[0].grade(student, paper)


def graded_papers(room: Classroom, papers: dict[str, Path], timeout: int, jobs: int):
    """Yield what the papers get, in any order; each process has a classroom of its own."""
    if jobs < 2:
        for student, paper in papers.items():
            yield room.grade(student, paper)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(papers)), multiprocessing.get_context("spawn"), open_room, (room.source, timeout)
    )
    try:
        for done in concurrent.futures.as_completed([pool.submit(grade_here, *paper) for paper in papers.items()]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def to_look_at(course: Path, names: list[str]) -> list[str]:
    """What the lecturer should see of the papers: the notes in grades.csv."""
    rows = sorted(read_grades(course / "grades.csv").items())
    return [f"{student}, {name}: {row['note']}" for (student, name), row in rows if name in names and row.get("note")]


def medians(course: Path, name: str) -> list[str]:
    """Beside the stated minutes of each exercise: the median of those that students say they took, and how many did."""
    said = [json.loads(row["minutes"]) for key, row in read_grades(course / "grades.csv").items()
            if key[1] == name and row["minutes"].startswith("{")]  # fmt: skip
    lines = []
    for exercise in exercises(nbformat.read(course / "source" / name / f"{name}.ipynb", 4)):
        taken = [answer[str(exercise["number"])] for answer in said if str(exercise["number"]) in answer]
        if taken:
            lines.append(f"{name} exercise {exercise['number']}: stated {exercise['stated']} minutes, "
                         f"median {statistics.median(taken):g} of {len(taken)} students")  # fmt: skip
    return lines
