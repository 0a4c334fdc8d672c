"""What goes back to a learning platform: tables of grades, and a zip of the feedback."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from ..errors import PoiseLabError
from .deadlines import COLLECTED, attempt
from .gradebook import read_grades
from .papers import mentions
from .sheets import Sheet, with_point


def upload(course: Path, names: list[str], worksheet: Path | None = None) -> list[str]:
    """Write return/: for Moodle a table and a zip of feedback for each assignment, for Canvas a table of all.

    Returns what was written, and a sentence for each student whom no table can name.
    worksheet: the table that the platform gives for grades; it is filled in, and nothing else in it changes.
    """
    grades, who = read_grades(course / "grades.csv"), {}
    grades = {
        key: {**row, "points": with_point(row["points"]), "of": with_point(row["of"])} for key, row in grades.items()
    }
    if not grades:
        raise PoiseLabError(f"nothing is graded yet: there is no {course / 'grades.csv'}, or it is empty")
    if (course / "collected.csv").is_file():
        rows = sorted(Sheet.read(course / "collected.csv", COLLECTED).rows, key=attempt)
        who = {(row["student"], row["assignment"]): row for row in rows}  # that of the last attempt, which counts
    nobody = sorted({key[0] for key in grades if key[1] in names and not who.get(key, {}).get("id")})
    said = [f"{student} is in no table: the paper was not collected from Moodle or Canvas" for student in nobody]
    out = course / "return"
    out.mkdir(exist_ok=True)
    if worksheet:
        return [*said, str(filled(worksheet, out / worksheet.name, names, grades, who))]
    written = [moodle_table(out / f"{name}-moodle.csv", name, grades, who) for name in names]
    written += [feedback_zip(course, out / f"{name}-feedback.zip", name, grades, who) for name in names]
    written += [canvas_table(out / "canvas.csv", names, grades, who)]
    return [*said, *(str(path) for path in written if path)]


def moodle_table(path: Path, name: str, grades: dict, who: dict) -> Path | None:
    """A grading worksheet: Moodle knows its participants by the number in the folder that it gave."""
    columns = ["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)", "Feedback comments"]
    table = Sheet(columns, [])
    for key, row in sorted(grades.items()):
        known = who.get(key, {})
        if key[1] == name and known.get("platform") == "moodle":
            values = f"Participant {known['id']}", known["name"], row["points"], row["of"], "-", ""
            table.rows.append(dict(zip(columns, values, strict=True)))
    if not table.rows:
        return None
    table.write(path)
    return path


def canvas_table(path: Path, names: list[str], grades: dict, who: dict) -> Path | None:
    """A gradebook to import: Canvas knows its users by the number in the file that it gave."""
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *names]
    full = {name: next((row["of"] for key, row in grades.items() if key[1] == name), "") for name in names}
    table = Sheet(columns, [{"Student": "    Points Possible", **full}])
    for student in sorted({student for student, _ in who}):
        known = [who[student, name] for name in names if (student, name) in who and (student, name) in grades]
        known = [row for row in known if row["platform"] == "canvas"]
        points = {row["assignment"]: grades[student, row["assignment"]]["points"] for row in known}
        if known:
            table.rows.append({"Student": known[0]["name"], "ID": known[0]["id"], **points})
    if len(table.rows) == 1:
        return None
    table.write(path)
    return path


def filled(worksheet: Path, out: Path, names: list[str], grades: dict, who: dict) -> Path:
    """The platform's own table with the points in it; a student or an assignment that it does not know is an error."""
    table = Sheet.read(worksheet)
    moodle = "Identifier" in table.columns
    if not moodle and not {"Student", "ID"} <= set(table.columns):
        raise PoiseLabError(
            f"{worksheet.name} is neither Moodle's grading worksheet in English (Identifier, Grade) nor Canvas's gradebook "
            "(Student, ID)"
        )
    if moodle and len(names) != 1:
        raise PoiseLabError("a worksheet of Moodle is of one assignment: name it")
    table.delimiter = "," if moodle else table.delimiter  # which is all that many versions of Moodle read
    platform, key = ("moodle", "Identifier") if moodle else ("canvas", "ID")
    by_id = {re.sub(r"\D", "", row[key]): row for row in table.rows if row[key].strip()}
    for name in names:
        column = "Grade" if moodle else next((c for c in table.columns if mentions(c, name)), None)
        if column not in table.columns:
            raise PoiseLabError(f"{worksheet.name} has no column for the assignment {name!r}")
        for (student, assignment), known in who.items():
            if known["platform"] != platform or assignment != name or (student, name) not in grades:
                continue
            if known["id"] not in by_id:
                raise PoiseLabError(f"{worksheet.name} has no row for {student!r} ({key} {known['id']})")
            by_id[known["id"]][column] = grades[student, name]["points"]
    table.write(out)
    return out


def feedback_zip(course: Path, out: Path, name: str, grades: dict, who: dict) -> Path | None:
    """The feedback of an assignment; of students from Moodle under the names by which it takes them back."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for student, assignment in sorted(grades):
            known = who.get((student, assignment), {})
            for ending in ("html", "md"):
                path = course / "feedback" / student / f"{name}.{ending}"
                if assignment == name and path.is_file():
                    moodle = known.get("platform") == "moodle"
                    folder = f"{known['name']}_{known['id']}_assignsubmission_file_" if moodle else student
                    archive.write(path, f"{folder}/{path.name}")
        if archive.namelist():
            return out
    out.unlink()
    return None
