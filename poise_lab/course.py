"""The assignments of the course: release them, grade all submissions, and grade the grader.

    python -m poise_lab.course release           # student versions, into notebooks/assignments/release
    python -m poise_lab.course check             # the grader itself: untouched, solution, planted answers
    python -m poise_lab.course grade             # all of notebooks/assignments/submitted

All assignments, or those that are named. `make assignments` installs nbgrader, which this needs.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import re
import shutil
import sys
from pathlib import Path

from .errors import PoiseLabError
from .grading import PLANTED, TIMEOUT, Classroom, Graded

RIGHT = "right"  # folder of right answers that look different, named like their cells
COURSE = Path(__file__).parent.parent / "notebooks" / "assignments"


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


def check(source: Path, timeout: int = TIMEOUT, show=print) -> list[str]:
    """Grade untouched, solution, other right answers and planted ones; returns what is not as it should be."""
    wrong = []
    with Classroom(source, timeout) as room:
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
        for answer in planted_answers(source):
            graded = room.grade(answer.name, room.solved({answer.cell: answer.source}))
            expected = {test: full - answer.loses.get(test, 0) for test, full in graded.of.items()}
            show(f"  {graded}")
            if graded.points != expected or not set(answer.loses) <= set(graded.of):
                wrong.append(
                    f"{room.name}: planted {answer.name} gets {graded.points}, expected {expected}: {graded.messages}"
                )
            if not any(answer.says in message for message in graded.messages):
                wrong.append(f"{room.name}: planted {answer.name} is not told {answer.says!r} but {graded.messages}")
    return wrong


def release(course: Path, name: str) -> Path:
    """Write the student version of an assignment; returns its folder."""
    folder = course / "release" / name
    with Classroom(course / "source" / name) as room:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(room.released_folder, folder)
    return folder


def grade_all(course: Path, name: str, timeout: int = TIMEOUT, show=print) -> list[Graded]:
    """Grade submitted/<student>/<name>/<name>.ipynb of all students; writes feedback/<student>/<name>.md.

    A notebook under another name is taken if there is none under this one.
    """
    folders = sorted(path for path in (course / "submitted").glob(f"*/{name}") if path.is_dir())
    results = []
    with Classroom(course / "source" / name, timeout) as room:
        room.require_reference()
        for folder in folders:
            papers = [path for path in (folder / f"{name}.ipynb", *sorted(folder.glob("*.ipynb"))) if path.is_file()]
            graded = room.grade(folder.parent.name, papers[0] if papers else folder / f"{name}.ipynb")
            if papers and papers[0].stem != name:
                graded.messages.insert(0, f"graded is the file {papers[0].name!r}; it should be {name}.ipynb")
            results.append(graded)
            show(f"{name}: {graded}")
            lines = [f"# {name}: {graded.total:g} of {graded.full:g} points", ""]
            lines += [f"- {test}: {graded.points[test]:g} of {full:g}" for test, full in graded.of.items()]
            lines += ["", *(f"> {message}\n" for message in graded.messages)]
            feedback = course / "feedback" / graded.student / f"{name}.md"
            feedback.parent.mkdir(parents=True, exist_ok=True)
            feedback.write_text("\n".join(lines), encoding="utf-8")
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m poise_lab.course", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["release", "check", "grade"])
    parser.add_argument("assignments", nargs="*", help="names; all by default")
    parser.add_argument("--course", type=Path, default=COURSE)
    args = parser.parse_args(argv)
    names = args.assignments or sorted(path.parent.name for path in (args.course / "source").glob("*/*.ipynb"))
    wrong, rows = [], []
    try:
        for name in names:
            if not (args.course / "source" / name / f"{name}.ipynb").is_file():
                raise PoiseLabError(f"there is no assignment {name!r} under {args.course / 'source'}")
            if args.command == "release":
                print(release(args.course, name))
            elif args.command == "check":
                wrong += check(args.course / "source" / name)
            else:
                rows += [(g.student, name, g.total, g.full) for g in grade_all(args.course, name)]
    except PoiseLabError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if args.command == "grade":
        with (args.course / "grades.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("student", "assignment", "points", "of"), *rows])
        print(f"{len(rows)} submissions graded, see grades.csv and feedback under {args.course}")
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
