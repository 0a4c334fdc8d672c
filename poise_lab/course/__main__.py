"""The assignments of the course: hand them out, grade all submissions, and grade the grader.

    python -m poise_lab.course handout           # a zip for students: package, notebooks, student versions
    python -m poise_lab.course release           # student versions only, into notebooks/assignments/release
    python -m poise_lab.course grade             # all of notebooks/assignments/submitted that is new or changed
    python -m poise_lab.course check             # the grader itself: untouched, solution, planted answers
    python -m poise_lab.course minutes           # measures the exercises, and states their minutes anew

All assignments, or those that are named. `make assignments` installs nbgrader, which this needs.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import json
import shutil
import statistics
import sys
import zipfile
from pathlib import Path

import nbformat

from ..errors import PoiseLabError
from ..files import write_text
from .cells import grade_id
from .grading import PLANTED, RIGHT, TIMEOUT, Classroom, Graded, PlantedAnswer, planted_answers
from .minutes import exercises, seconds_taken, show_minutes, state_minutes

ROOT = Path(__file__).parent.parent.parent
COURSE = ROOT / "notebooks" / "assignments"
COLUMNS = ["student", "assignment", "points", "of", "minutes", "file"]
HANDED_OUT = ("poise_lab", "data", "notebooks", ".binder", "pyproject.toml", "constraints.txt", "environment.yml",
              "LICENSE", "README.md")  # fmt: skip
KEPT_BACK = ("assignments", "INSTRUCTORS.md", "__pycache__", ".ipynb_checkpoints", "*.partial")
HOW_LONG = "minutes_taken"  # the cell in which students may say how long they took


def check(source: Path, timeout: int = TIMEOUT, show=print) -> list[str]:
    """Grade untouched, solution, other right answers and planted ones; returns what is not as it should be."""
    wrong = []
    with Classroom(source, timeout) as room:
        room.desk.controlled = False  # planted answers are not out to deceive, and are themselves what is checked here
        room.require_reference()
        untouched = room.grade("untouched", room.released)
        show(f"{room.name}\n  {untouched}")
        if untouched.total:
            wrong.append(f"{room.name}: the untouched notebook gets {untouched.total:g} points")
        show(f"  {'solution':32} {untouched.full:5g} of {untouched.full:g}")
        for folder in sorted((source / PLANTED).glob(f"{RIGHT}*")):
            others = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
            graded = room.grade(f"{folder.name}, in another way", room.solved(others))
            show(f"  {graded}")
            if graded.total != graded.full:
                wrong.append(
                    f"{room.name}: right answers in {PLANTED}/{folder.name} get {graded.points}: {graded.messages}"
                )
        for together in rounds(planted_answers(source)):
            amiss = graded_as_planted(room, together, show)
            if amiss and len(together) > 1:  # one may have got in the way of another
                amiss = [line for answer in together for line in graded_as_planted(room, [answer], show)]
            wrong += amiss
        room.desk.controlled = True
        if not wrong:
            room.require_reference()
    return wrong


def rounds(answers: list[PlantedAnswer]) -> list[list[PlantedAnswer]]:
    """Planted answers that one notebook can hold: to different cells, with no test that two of them should fail."""
    found: list[list[PlantedAnswer]] = []
    for answer in answers:
        for others in found:
            if all(answer.cell != other.cell and not answer.loses.keys() & other.loses.keys() for other in others):
                others.append(answer)
                break
        else:
            found.append([answer])
    return found


def graded_as_planted(room: Classroom, answers: list[PlantedAnswer], show) -> list[str]:
    """Grade one notebook with these answers; returns what is not as it should be."""
    names = ", ".join(answer.name for answer in answers)
    graded = room.grade("planted", room.solved({answer.cell: answer.source for answer in answers}))
    loses = {test: points for answer in answers for test, points in answer.loses.items()}
    expected = {test: full - loses.get(test, 0) for test, full in graded.of.items()}
    show(f"  {graded.total:5g} of {graded.full:g} with {names}")
    wrong = []
    if graded.points != expected or not loses.keys() <= graded.of.keys():
        wrong.append(f"{room.name}: planted {names} gets {graded.points}, expected {expected}: {graded.messages}")
    for answer in answers:
        told = [m for m in graded.messages if len(answers) == 1 or m.split(":")[0] in answer.loses]
        if not any(answer.says in message for message in told):
            wrong.append(f"{room.name}: planted {answer.name} is not told {answer.says!r} but {graded.messages}")
    return wrong


def release(course: Path, name: str) -> Path:
    """Write the student version of an assignment; returns its folder."""
    folder = course / "release" / name
    with Classroom(course / "source" / name) as room:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(room.released_folder, folder)
    return folder


def handout(course: Path, names: list[str], out: Path, root: Path = ROOT) -> Path:
    """A zip with all that a student needs to install and work, and nothing that shows solutions; returns its path.

    Left out are the masters, planted answers, the guide for instructors, the tests, and the history of the repository.
    """
    folder = out.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    for name in HANDED_OUT:
        source, target = root / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*KEPT_BACK))
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for name in names:
        shutil.copytree(release(course, name), folder / "notebooks" / "assignments" / name)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, Path(folder.name) / path.relative_to(folder))
    shutil.rmtree(folder)
    return out


def minutes_taken(path: Path) -> dict[int, float]:
    """Minutes that a student says the exercises took, by exercise; what is no plain number is passed over."""
    try:
        (cell,) = (c for c in nbformat.read(path, 4).cells if grade_id(c) == HOW_LONG)
        said = ast.literal_eval(ast.parse(cell.source).body[-1].value)
        return {int(k): float(v) for k, v in said.items() if type(v) in (int, float) and 0 < v <= 600}
    except Exception:  # whatever stands there: no point depends on it
        return {}


def read_grades(path: Path) -> dict[tuple[str, str], dict]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["student"], row["assignment"]): row for row in csv.DictReader(file)}


def write_grades(path: Path, rows: dict[tuple[str, str], dict]) -> None:
    lines = [COLUMNS, *([row.get(column, "") for column in COLUMNS] for _, row in sorted(rows.items()))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())


def grade_all(course: Path, name: str, timeout: int = TIMEOUT, show=print) -> int:
    """Grade submitted/<student>/<name>/<name>.ipynb of all students; returns how many were graded now.

    Writes grades.csv and feedback/<student>/<name>.md after each. What is in grades.csv already is not graded again
    unless the file, or the master, has changed. A notebook under another name is taken if there is none under this one.
    """
    master = course / "source" / name / f"{name}.ipynb"
    grades, rows = course / "grades.csv", read_grades(course / "grades.csv")
    papers = {}
    for folder in sorted(path for path in (course / "submitted").glob(f"*/{name}") if path.is_dir()):
        files = [path for path in (folder / f"{name}.ipynb", *sorted(folder.glob("*.ipynb"))) if path.is_file()]
        paper = files[0] if files else folder / f"{name}.ipynb"
        digest = hashlib.sha256(master.read_bytes() + (paper.read_bytes() if files else b"")).hexdigest()[:16]
        papers[folder.parent.name] = paper, digest
    rows = {key: row for key, row in rows.items() if key[1] != name or key[0] in papers}
    new = {s: paper for s, (paper, digest) in papers.items() if rows.get((s, name), {}).get("file") != digest}
    if not new:
        return 0
    with Classroom(master.parent, timeout) as room:
        room.require_reference()
        for student, paper in new.items():
            graded = room.grade(student, paper)
            if paper.is_file() and paper.stem != name:
                graded.messages.insert(0, f"graded is the file {paper.name!r}; it should be {name}.ipynb")
            show(f"{name}: {graded}")
            write_feedback(course / "feedback" / student / f"{name}.md", name, graded)
            taken = json.dumps(minutes_taken(paper)) if minutes_taken(paper) else ""
            row = [student, name, graded.total, graded.full, taken, papers[student][1]]
            rows[student, name] = dict(zip(COLUMNS, row, strict=True))
            write_grades(grades, rows)
    return len(new)


def write_feedback(path: Path, name: str, graded: Graded) -> None:
    lines = [f"# {name}: {graded.total:g} of {graded.full:g} points", ""]
    lines += [f"- {test}: {graded.points[test]:g} of {full:g}" for test, full in graded.of.items()]
    write_text(path, "\n".join([*lines, "", *(f"> {message}\n" for message in graded.messages)]))


def medians(course: Path, name: str) -> list[str]:
    """Beside the stated minutes of each exercise: the median of those that students say they took, and how many did."""
    said = [json.loads(row["minutes"]) for key, row in read_grades(course / "grades.csv").items()
            if key[1] == name and row["minutes"]]  # fmt: skip
    lines = []
    for exercise in exercises(nbformat.read(course / "source" / name / f"{name}.ipynb", 4)):
        taken = [answer[str(exercise["number"])] for answer in said if str(exercise["number"]) in answer]
        if taken:
            lines.append(f"{name} exercise {exercise['number']}: stated {exercise['stated']} minutes, "
                         f"median {statistics.median(taken):g} of {len(taken)} students")  # fmt: skip
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m poise_lab.course", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["handout", "release", "check", "grade", "minutes"])
    parser.add_argument("assignments", nargs="*", help="names; all by default")
    parser.add_argument("--course", type=Path, default=COURSE)
    args = parser.parse_args(argv)
    names = args.assignments or sorted(path.parent.name for path in (args.course / "source").glob("*/*.ipynb"))
    wrong, count = [], 0
    try:
        for name in names:
            if not (args.course / "source" / name / f"{name}.ipynb").is_file():
                raise PoiseLabError(f"there is no assignment {name!r} under {args.course / 'source'}")
        if args.command == "handout":
            print(handout(args.course, names, args.course / "poise-lab-students.zip"))
        for name in names:
            if args.command == "release":
                print(release(args.course, name))
            elif args.command == "minutes":
                show_minutes(name, state_minutes(args.course, name))
            elif args.command == "check":
                wrong += check(args.course / "source" / name)
                show_minutes(name, seconds_taken(args.course, name))
            elif args.command == "grade":
                count += grade_all(args.course, name)
    except PoiseLabError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if args.command == "grade":
        for line in (line for name in names for line in medians(args.course, name)):
            print(line)
        print(f"{count} submissions graded, others unchanged; see grades.csv and feedback under {args.course}")
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
