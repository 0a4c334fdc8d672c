"""Who is late: the deadline of each assignment, a student's extension, and when a paper came, where that is known."""

from __future__ import annotations

import datetime
from pathlib import Path

from ..errors import PoiseLabError
from .roster import roster_of
from .sheets import Sheet

DEADLINES = ("assignment", "due")  # columns of deadlines.csv
COLLECTED = ("student", "name", "platform", "id", "assignment", "time", "late", "from", "kept")  # and of collected.csv


def read_time(text: str, where: str) -> datetime.datetime:
    """A local time, as platforms give it. Raises PoiseLabError for a day alone, which might be its midnight or its end."""
    try:
        at = datetime.datetime.fromisoformat(text.strip())
        if at.tzinfo or ":" not in text:
            raise ValueError
        return at
    except ValueError:
        raise PoiseLabError(f"{where}: a time is written like 2026-11-30T23:59") from None


def deadlines(given: list[str], names: list[str]) -> dict[str, datetime.datetime]:
    """By assignment, from TIME and ASSIGNMENT=TIME; under "" the time that was given alone."""
    due = {}
    for text in given:
        name, time = text.split("=", 1) if "=" in text else ("", text)
        if name and name not in names:
            raise PoiseLabError(f"--due {text}: there is no assignment {name!r}")
        due[name] = read_time(time, f"--due {text}")
    return due


def kept_deadlines(course: Path) -> dict[str, datetime.datetime]:
    """Those in deadlines.csv, which people edit too."""
    path = course / "deadlines.csv"
    rows = Sheet.read(path, DEADLINES).rows if path.is_file() else []
    return {row["assignment"]: read_time(row["due"], path.name) for row in rows if row["due"].strip()}


def keep_deadlines(course: Path, given: dict[str, datetime.datetime], collected: set[str]) -> dict:
    """Write deadlines (`deadlines`) over those that are kept: a time alone is that of what was collected. Returns all."""
    due = kept_deadlines(course)
    if "" in given:
        due |= dict.fromkeys(collected, given[""])
    due |= {name: at for name, at in given.items() if name}
    if given:
        rows = [{"assignment": name, "due": f"{at}"} for name, at in sorted(due.items())]
        Sheet(list(DEADLINES), rows).write(course / "deadlines.csv")
    return due


def tell_late(course: Path) -> dict[tuple[str, str], str]:
    """Put anew into collected.csv who is late; returns it by student and assignment, of the last attempt.

    Late is what came after the deadline and the student's extension. Canvas's own mark stays as it is, and so does
    a row whose time, or whose deadline, is not known.
    """
    record = course / "collected.csv"
    if not record.is_file():
        return {}
    table, due, roster = Sheet.read(record, COLLECTED), kept_deadlines(course), roster_of(course)
    before = [row["late"] for row in table.rows]
    for row in table.rows:
        at = due.get(row["assignment"])
        if at and row["time"].strip() and row["platform"] != "canvas":
            at += datetime.timedelta(days=roster.extension(row["student"], row["assignment"]) if roster else 0)
            row["late"] = "late" if read_time(row["time"], record.name) > at else ""
    if [row["late"] for row in table.rows] != before:
        table.write(record)
    return {(row["student"], row["assignment"]): row["late"] for row in sorted(table.rows, key=attempt)}


def attempt(row: dict[str, str]) -> str:
    """Attempts that are sorted by this stand in the order in which they were handed in."""
    return row["kept"].removesuffix(".ipynb")
