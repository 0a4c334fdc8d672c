"""Points by test, in tests.csv, and what a class lost most of them by."""

from __future__ import annotations

import collections
from pathlib import Path

from .grading import Graded
from .papers import plain
from .sheets import Sheet, number

COLUMNS = ["student", "assignment", "test", "points", "of", "said"]
SHOWN = 5  # tests of an assignment that are told


def note_tests(course: Path, name: str, graded: Graded) -> None:
    """Write what each test gave a student, and what it said, in the place of what stood there of this paper."""
    path, student = course / "tests.csv", plain(graded.student)
    table = Sheet.read(path) if path.is_file() else Sheet(list(COLUMNS), [])
    table.rows = [row for row in table.rows if (row["student"], row["assignment"]) != (student, name)]
    for test, full in graded.of.items():
        said = next((m.split(": ", 1)[1] for m in graded.messages if m.startswith(f"{test}: ")), "")
        values = student, name, test, f"{graded.points[test]:g}", f"{full:g}", " ".join(plain(said).split())
        table.rows.append(dict(zip(COLUMNS, values, strict=True)))
    table.write(path)


def most_lost(course: Path, name: str, students: set[str]) -> list[str]:
    """Lines about the tests that cost most, among papers that earned anything: how many lost, and by what."""
    path = course / "tests.csv"
    rows = [row for row in Sheet.read(path).rows if row["assignment"] == name] if path.is_file() else []
    earned = {row["student"] for row in rows if number(row["points"])} & students
    rows = [row for row in rows if row["student"] in earned]
    lost: dict[str, list[str]] = {}
    for row in rows:
        if (number(row["points"]) or 0) < (number(row["of"]) or 0):
            lost.setdefault(row["test"], []).append(row["said"])
    lines = []
    for test in sorted(lost, key=lambda test: -len(lost[test]))[:SHOWN]:
        told = collections.Counter(filter(None, lost[test])).most_common(1)
        most = "".join(f"; {times} were told: {says[:150]}" for says, times in told)
        lines.append(f"{name} {test}: lost by {len(lost[test])} of {len(earned)}{most}")
    return lines
