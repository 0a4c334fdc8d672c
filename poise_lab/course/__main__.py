"""The assignments of the course: hand them out, collect and grade what comes back, return it, grade the grader.

    python -m poise_lab.course handout           # a zip for students: package, notebooks, student versions
    python -m poise_lab.course release           # student versions only, into notebooks/assignments/release
    python -m poise_lab.course collect FILES     # a zip from Moodle or Canvas, or folders, into submitted
    python -m poise_lab.course grade             # all of notebooks/assignments/submitted that is new or changed
    python -m poise_lab.course return            # grades to upload, and feedback, into notebooks/assignments/return
    python -m poise_lab.course prepare NAME      # makes a notebook of your own an assignment; states its points
    python -m poise_lab.course check             # the grader itself: untouched, solution, planted answers
    python -m poise_lab.course minutes           # measures the exercises, and states their minutes anew

All assignments, or those that are named. `make assignments` installs nbgrader, which this needs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import PoiseLabError
from . import ROOT, TIMEOUT, WHERE
from .cells import grade_ids

COURSE = ROOT / "notebooks" / "assignments"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m poise_lab.course", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("handout", "release", "collect", "grade", "return", "prepare", "check", "minutes"):
        command = commands.add_parser(name)
        command.add_argument("--course", type=Path, default=COURSE)
        if name == "collect":
            command.add_argument("files", nargs="+", type=Path, help="zips from Moodle or Canvas, or folders")
            command.add_argument("--assignment", dest="assignments", action="append", help="only this one")
            command.add_argument("--due", action="append", default=[], metavar="[ASSIGNMENT=]TIME",
                                 help="later is late: 2026-11-30T23:59, or 1_policy_gradient=2026-11-30T23:59")  # fmt: skip
            continue
        command.add_argument("assignments", nargs="*", help="names; all by default")
        if name == "grade":
            command.add_argument("--jobs", type=int, default=1, help="how many are graded at a time")
        if name in ("grade", "check"):
            command.add_argument("--timeout", type=int, default=TIMEOUT, help="seconds that a cell may take")
        if name == "handout":
            command.add_argument("--where", default=WHERE, help="a sentence for students: where, and until when")
        if name == "return":
            command.add_argument("--worksheet", type=Path, help="Moodle's or Canvas's own table, to be filled in")
    return top


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):  # a student's name need not be in a terminal's alphabet
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    try:
        wrong = run(args)
    except PoiseLabError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    return 1 if wrong else 0


def run(args) -> list[str]:
    """Do what was asked for; returns what is wrong with the assignments themselves."""
    course, known, wrong = args.course, sorted(p.parent.name for p in (args.course / "source").glob("*/*.ipynb")), []
    names = args.assignments or known
    if not names:
        raise PoiseLabError(f"there is no assignment under {course / 'source'}; --course takes the folder above it")
    for name in names:
        if not (course / "source" / name / f"{name}.ipynb").is_file():
            raise PoiseLabError(f"there is no assignment {name!r} under {course / 'source'}")
        grade_ids(course / "source" / name / f"{name}.ipynb")  # whether it can be read
    for option in ("jobs", "timeout"):
        if getattr(args, option, 1) < 1:
            raise PoiseLabError(f"--{option} must be 1 or more")
    # Each command imports what it needs itself: nbgrader takes seconds, and collecting does without.
    if args.command == "handout":
        from .handout import handout

        print(handout(course, names, course / "poise-lab-students.zip", args.where))
    elif args.command == "release":
        from .handout import release

        for name in names:
            print(release(course, name))
    elif args.command == "collect":
        from .collect import collect
        from .deadlines import deadlines

        new, left = collect(course, args.files, names, deadlines(args.due, names))
        print(
            "\n".join([*left, f"{new} papers collected into {course / 'submitted'}; {len(left)} lines above need you"])
        )
    elif args.command == "grade":
        grade(course, names, known, args.timeout, args.jobs)
    elif args.command == "return":
        from .upload import upload

        print("\n".join(upload(course, names, args.worksheet)))
    elif args.command == "check":
        from .minutes import seconds_taken, show_minutes
        from .proof import check

        for name in names:
            wrong += check(course / "source" / name, args.timeout)
            show_minutes(name, seconds_taken(course, name))
    elif args.command == "prepare":
        from .minutes import show_minutes
        from .own import prepare

        for name in names:
            show_minutes(name, prepare(course, name))
    elif args.command == "minutes":
        from .minutes import show_minutes, state_minutes

        for name in names:
            show_minutes(name, state_minutes(course, name))
    return wrong


def grade(course: Path, names: list[str], known: list[str], timeout: int, jobs: int) -> None:
    """Grade what is new, and print what the class lost most and what the lecturer should look at."""
    from .gradebook import grade_all, medians, read_grades, to_look_at
    from .losses import most_lost
    from .papers import strays
    from .roster import handed_in_nothing

    count = sum(grade_all(course, name, timeout, jobs) for name in names)
    lines = [line for name in names for line in medians(course, name)]
    graded = {name: {key[0] for key in read_grades(course / "grades.csv") if key[1] == name} for name in names}
    lost = [line for name in names for line in most_lost(course, name, graded[name])]
    lines += ["", "What most lost (papers without a point aside):", *lost] if lost else []
    look = to_look_at(course, names) + strays(course, known) + handed_in_nothing(course, names)
    print("\n".join([*lines, *(["", "To look at:", *look] if look else [])]))
    print(f"{count} submissions graded, others unchanged; see grades.csv and feedback under {course}")


if __name__ == "__main__":
    sys.exit(main())
