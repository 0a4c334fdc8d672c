"""How many minutes an exercise takes: measured, estimated, and stated in its master."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from ..files import read_json, write_json, write_text
from .cells import grade_id, is_test
from .grading import Classroom

SECONDS = "seconds.json"  # processor seconds of each exercise, as `minutes` measured them
# The formula of an exercise's minutes. Only its inputs are measured; no class has measured the minutes yet.
WORDS_PER_MINUTE = 200  # Brysbaert 2019, J. Memory and Language 109, 104047: 238, most adults 175 to 300, non-fiction
READINGS = 2  # assumption: once at the start, once again when a test fails
MINUTES_PER_EXERCISE = 10  # assumption: to think, and to understand what the tests say
MINUTES_PER_LINE = 1.5  # assumption: 40 lines an hour, with their mistakes
RUNS = 5  # assumption: how often the cells of an exercise are run


def exercises(master) -> list[dict]:
    """What can be counted of each exercise: its words, the lines of its solution, its cells, the minutes it states.

    Words are those that a student sees, in text and in code. What stands before the first exercise counts to it.
    """
    found, before = [], {"number": 0, "stated": 0, "words": 0, "lines": 0, "cells": []}
    at = before
    for cell in master.cells:
        heading = re.match(r"## Exercise (\d+) \([\d.]+ points, (\d+) minutes\):? ?(.*)", cell.source)
        if heading:
            at = {
                "number": int(heading[1]),
                "stated": int(heading[2]),
                "title": heading[3],
                "words": 0,
                "lines": 0,
                "cells": [],
            }
            found.append(at)
        elif found and cell.cell_type == "markdown" and cell.source.startswith("## "):
            at = {"words": 0, "lines": 0, "cells": []}  # of no exercise, until the next one
        solution = "".join(re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", cell.source, re.S))
        seen = re.sub(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n.*?### END \1", "", cell.source, flags=re.S)
        seen = re.sub("</?(details|summary)>", "", seen)
        at["words"] += len(re.findall(r"\w+", seen))
        at["lines"] += sum(bool(line.strip()) and line.strip()[0] != "#" for line in solution.splitlines())
        at["cells"] += [grade_id(cell)] if grade_id(cell) else []
    for key in ("words", "cells") if found else ():
        found[0][key] = before[key] + found[0][key]
    return found


def minutes(words: int, lines: int, seconds: float) -> int:
    """Minutes that an exercise is stated to take, to the nearest five: reading, thinking, writing, waiting."""
    reading, writing, waiting = READINGS * words / WORDS_PER_MINUTE, MINUTES_PER_LINE * lines, RUNS * seconds / 60
    return 5 * round((reading + MINUTES_PER_EXERCISE + writing + waiting) / 5)


def seconds_taken(course: Path, name: str) -> list[dict]:
    """The exercises with their recorded processor seconds, and the minutes that the formula gives."""
    path = course / SECONDS
    seconds = read_json(path).get(name, []) if path.is_file() else []
    found = exercises(nbformat.read(course / "source" / name / f"{name}.ipynb", 4))
    for exercise, taken in zip(found, seconds + [0] * len(found), strict=False):
        exercise["seconds"] = taken
        exercise["minutes"] = minutes(exercise["words"], exercise["lines"], taken)
    return found


def state_minutes(course: Path, name: str) -> list[dict]:
    """Measure the solution's processor seconds, and write the formula's minutes wherever minutes are stated."""
    path = course / "source" / name / f"{name}.ipynb"
    with Classroom(path.parent) as room:
        room.desk.controlled = False
        room.require_reference()
        measured = [round(sum(room.desk.seconds.get(c, 0) for c in e["cells"])) for e in exercises(room.master)]
    record = course / SECONDS
    known = read_json(record) if record.is_file() else {}
    write_json(record, dict(sorted({**known, name: measured}.items())))
    return state(course, name)


def state(course: Path, name: str) -> list[dict]:
    """Write the points of the test cells, and the formula's minutes, wherever they are stated."""
    path = course / "source" / name / f"{name}.ipynb"
    found, master = seconds_taken(course, name), nbformat.read(path, 4)
    points = {grade_id(cell): cell.metadata.nbgrader.points for cell in master.cells if is_test(cell)}
    opening = master.cells[0]
    for exercise in found:
        number, now = exercise["number"], exercise["minutes"]
        worth = f"{sum(points.get(cell, 0) for cell in exercise['cells']):g}"
        for cell in (c for c in master.cells if c.cell_type == "markdown"):
            heading = rf"^(## Exercise {number} \()[\d.]+ points, \d+( minutes\))"
            cell.source = re.sub(heading, rf"\g<1>{worth} points, {now}\2", cell.source, flags=re.M)
        row = rf"^(\| {number} .*\| )[\d.]+ \| \d+ \|$"
        opening.source = re.sub(row, rf"\g<1>{worth} | {now} |", opening.source, flags=re.M)
    total, full = sum(exercise["minutes"] for exercise in found), sum(points.values())
    opening.source = re.sub(r"\d+ minutes of yours", f"{total} minutes of yours", opening.source)
    nbformat.write(master, path)
    guide = course.parent / "INSTRUCTORS.md"
    if guide.is_file():
        row = rf"^(\| `{name}` \|.*\| )[\d.]+ \| \d+ \|$"
        write_text(guide, re.sub(row, rf"\g<1>{full:g} | {total} |", guide.read_text(encoding="utf-8"), flags=re.M))
    return found


def show_minutes(name: str, found: list[dict]) -> None:
    for e in found:
        counted = f"{e['words']:4} words, {e['lines']:2} lines, {e['seconds']:2} processor seconds"
        print(f"  {name} exercise {e['number']}: {counted}: {e['minutes']} minutes")
