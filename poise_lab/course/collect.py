"""Put what a learning platform gives into submitted/<student>/<assignment>: Moodle's zip, Canvas's zip, folders."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ..errors import PoiseLabError
from ..files import write_bytes
from .cells import grade_id, grade_ids
from .deadlines import COLLECTED, keep_deadlines, kept_deadlines, tell_late
from .papers import MOST_NOTEBOOK, hidden, mentions, plain
from .roster import Roster, roster_of
from .sheets import Sheet

MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_[a-z]+(_.*)?$")  # a folder, or the file itself
CANVAS = re.compile(r"(?P<name>.+?)_(?P<late>LATE_)?(?P<id>\d+)_\d+_.+$")  # the file itself
MAY_BE_NOTEBOOKS = (".ipynb", ".json", ".txt")  # browsers and mail programs rename
MOST_UNPACKED = 10 * MOST_NOTEBOOK  # bytes of what may be notebooks, in a zip that a student has handed in
MADE_BY_SYSTEM = "macOS or Jupyter made it, no student"
AT_ONCE = datetime.timedelta(minutes=10)  # longer than a platform takes to make a zip
UNDATED = "its files all have the time of the download, so who is late is not known; see column time of collected.csv"
SHOWN = 5  # files of one student with one reason that are named on the screen; not_graded.csv has all


@dataclasses.dataclass
class File:
    """A file that was handed in. parts: its path within the zip or the folder."""

    parts: tuple[str, ...]
    size: int
    time: datetime.datetime
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return "/".join(self.parts)


@dataclasses.dataclass
class Student:
    name: str
    platform: str = "folders"
    id: str = ""
    late: bool = False

    def folder(self, roster: Roster | None) -> str:
        """A name that any file system takes: the roster's, or with the number that tells two of one name apart."""
        person = roster and roster.find(self.name, self.id if self.platform == "canvas" else "")
        name = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", person or self.name).strip(" .") or "_"
        return f"{name}_{self.id}" if self.id and not person else name


def files_of_zip(archive: zipfile.ZipFile, outer: File | None = None) -> Iterator[File]:
    """outer: the zip as it was handed in. When that was, its own files do not say: a student's clock has dated them."""
    above = outer.parts if outer else ()
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = info.filename
        if not info.flag_bits & 0x800:  # not said to be UTF-8, though macOS writes it without saying so
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")
        parts = (*above, *(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("..", "/")))
        time = outer.time if outer else zip_time(info)
        yield from unpacked(File(parts, info.file_size, time, lambda info=info: archive.read(info)))


def zip_time(info: zipfile.ZipInfo) -> datetime.datetime:
    try:
        return datetime.datetime(*info.date_time)
    except ValueError:
        return datetime.datetime(1980, 1, 1)


def unpacked(file: File) -> Iterator[File]:
    """The files in a zip that a student has handed in, or the file itself."""
    if file.parts[-1].lower().endswith(".zip") and len(file.parts) < 10 and file.size <= MOST_NOTEBOOK:
        try:
            archive = zipfile.ZipFile(io.BytesIO(file.read()))
            sizes = [
                i.file_size for i in archive.infolist() if i.filename.lower().endswith((*MAY_BE_NOTEBOOKS, ".zip"))
            ]
            if sum(sizes) <= MOST_UNPACKED:
                yield from files_of_zip(archive, file)
                return
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
            pass  # named as a file that is not graded
    yield file


def files_in(source: Path) -> list[File]:
    """All files of a zip or a folder, without a folder round all of them that is no student's."""
    if source.is_dir():
        found = []
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            time = datetime.datetime.fromtimestamp(int(path.stat().st_mtime))
            found += unpacked(File(path.relative_to(source).parts, path.stat().st_size, time, path.read_bytes))
        return found
    try:
        return list(files_of_zip(zipfile.ZipFile(source)))
    except (OSError, zipfile.BadZipFile) as e:
        raise PoiseLabError(f"{source} is neither a folder nor a zip that can be read: {e}") from None


def without_wrapper(files: list[File], names: list[str]) -> list[File]:
    """Files without a folder that is round all of them, unless it is the student's, and without those round Canvas's."""
    tops = {file.parts[0] for file in files}
    if len(tops) == 1 and all(len(f.parts) > 2 and f.parts[1] not in names for f in files):
        (top,) = tops
        if not MOODLE.match(top) and not top.lower().endswith(".zip"):  # which one student alone has handed in
            files = without(tops, files)
    seen = [file.parts for file in files if not hidden(Path(*file.parts))]
    tops = {parts[0] for parts in seen}
    return without({top for top in tops if from_canvas([parts[1:] for parts in seen if parts[0] == top])}, files)


def without(tops: set[str], files: list[File]) -> list[File]:
    return [dataclasses.replace(f, parts=f.parts[1:]) if f.parts[0] in tops else f for f in files]


def from_canvas(paths: list[tuple[str, ...]]) -> bool:
    """Whether all files are named as Canvas names those of several students; one student's may look so: hw_2026_11_30."""
    found = [CANVAS.match(parts[0]) if parts else None for parts in paths]
    return all(found) and len({one["id"] for one in found}) > 1


def student_of(file: File) -> Student | None:
    """Whose a file is: a folder of Moodle's anywhere in its path says so, else the first part: Canvas's file, or a folder."""
    for part in file.parts:
        found = MOODLE.match(part)
        if found:
            return Student(unicodedata.normalize("NFC", found["name"]), "moodle", found["id"])
    found = CANVAS.match(file.parts[0])
    if found:
        return Student(unicodedata.normalize("NFC", found["name"]), "canvas", found["id"], bool(found["late"]))
    return Student(unicodedata.normalize("NFC", file.parts[0])) if len(file.parts) > 1 else None


def assignment_of(file: File, text: bytes, ids: dict[str, set[str]]) -> str | None:
    """The assignment whose cells a notebook holds; else the one that its path names, or the only one asked for."""
    try:
        held = {grade_id(cell) for cell in json.loads(text)["cells"] if isinstance(cell.get("metadata"), dict)}
    except Exception:  # whatever it is; an .ipynb that cannot be read is told so when it is graded
        if not file.parts[-1].lower().endswith(".ipynb"):
            return None
        held = set()
    score = {name: (len(held & cells), mentions(str(file), name)) for name, cells in ids.items()}
    best = max(score, key=score.get)
    return best if any(score[best]) or len(ids) == 1 else None


def collect(
    course: Path, sources: list[Path], names: list[str], due: dict[str, datetime.datetime] | None = None
) -> tuple[int, list[str]]:
    """Put papers into submitted and every attempt into attempts; returns how many are new, and what was left, and why.

    Of several attempts the last counts. collected.csv says for each what the platform calls the student, the time where
    it is known, and whether it is late (`tell_late`). not_graded.csv names what was left this time.
    due: deadlines by assignment, and under "" that of all that is in the sources; kept for later calls.
    """
    ids, roster, collected = {}, roster_of(course), set()
    for name in names:
        ids[name] = grade_ids(course / "source" / name / f"{name}.ipynb")
    kept_deadlines(course)  # whether they can be read
    record = course / "collected.csv"
    table = Sheet.read(record, COLLECTED) if record.is_file() else Sheet(list(COLLECTED), [])
    left, new, strangers, undated = Sheet(["from", "student", "file", "reason"], []), 0, [], []
    for source in sources:
        files, before = without_wrapper(files_in(source), names), len(table.rows)
        known = says_when(files)
        for file in files:
            student = student_of(file)
            text, reason = text_of(file, student)
            name = None if reason else assignment_of(file, text, ids)
            if not reason and name is None:
                reason = "neither its cells nor its name say of which assignment it is"
            if reason:
                row = source.name, student.name if student else "", file, reason
                left.rows.append(dict(zip(left.columns, map(plain, row), strict=True)))
                continue
            folder = plain(student.folder(roster))
            if roster and folder not in (*strangers, *map(plain, roster.names)) and not roster.find(folder):
                strangers.append(folder)
            collected.add(name)
            new += keep(course, table, student, folder, name, file, text, f"{source.name}: {plain(file)}", known)
        if not known and any(row["platform"] != "canvas" for row in table.rows[before:]):
            undated.append(f"{source.name}: {UNDATED}")
    table.write(record)
    due = keep_deadlines(course, due or {}, collected)
    tell_late(course)
    left.write(course / "not_graded.csv")
    return new, [
        *told(left.rows),
        *(f"{folder} is not on the roster, or two of it could be meant" for folder in strangers),
        *(undated if due else ()),
    ]


def says_when(files: list[File]) -> bool:
    """Whether the times of files are those at which they were handed in, and not all that of the download.

    Canvas, and Moodle in many versions, date what they put into a zip with the moment at which they make it.
    """
    times = [file.time for file in files]
    return bool(times) and max(times) - min(times) >= AT_ONCE


def text_of(file: File, student: Student | None) -> tuple[bytes, str]:
    """What is in a file that may be a notebook of a student, or why it is not graded."""
    if hidden(Path(*file.parts)):
        return b"", MADE_BY_SYSTEM
    if student is None:
        return b"", "nothing says whose it is: no name as Moodle or Canvas gives it, and no folder of a student"
    if file.parts[-1].lower().endswith(".zip"):
        return b"", "it is a zip that cannot be opened, or that is too large"
    if not file.parts[-1].lower().endswith(MAY_BE_NOTEBOOKS):
        return b"", "it is no notebook (.ipynb)"
    if file.size > MOST_NOTEBOOK:
        return b"", f"it has more than {MOST_NOTEBOOK / 2**20:g} MB"
    try:
        return file.read(), ""
    except Exception as e:  # a password, a checksum, a right to read
        return b"", f"it cannot be read: {e}"


def told(left: list[dict[str, str]]) -> list[str]:
    """A sentence for each file that was left; of many of one student with one reason, for some and for the rest."""
    alike: dict[tuple, list[str]] = {}
    for row in left:
        alike.setdefault((row["from"], row["student"], row["reason"]), []).append(row["file"])
    said, by_system = [], 0
    for (source, student, reason), files in alike.items():
        if reason == MADE_BY_SYSTEM:
            by_system += len(files)
            continue
        shown = files if len(files) <= SHOWN + 1 else files[:SHOWN]
        said += [f"{source}: {file} is not graded: {reason}" for file in shown]
        if len(files) > len(shown):
            said.append(
                f"{source}: {len(files) - len(shown)} more files of {student or 'nobody'} likewise (not_graded.csv)"
            )
    if by_system:
        said.append(f"{by_system} files that macOS or Jupyter made, no student, were passed over (not_graded.csv)")
    return said


def keep(
    course: Path,
    table: Sheet,
    student: Student,
    folder: str,
    name: str,
    file: File,
    text: bytes,
    origin: str,
    known: bool,
) -> bool:
    """Keep an attempt, and make the last one the paper that is graded. Returns whether it is new.

    known: whether the time of the file is that at which it was handed in. Then what is handed in once more after
    something else is the last attempt.
    """
    attempts = course / "attempts" / folder / name
    attempts.mkdir(parents=True, exist_ok=True)
    paper = course / "submitted" / folder / name / f"{name}.ipynb"
    kept = {path: path.read_bytes() for path in sorted(attempts.glob("*.ipynb"))}
    if paper.is_file() and paper.read_bytes() not in kept.values():  # put there by hand
        time = datetime.datetime.fromtimestamp(int(paper.stat().st_mtime))
        write_bytes(attempts / f"{time:%Y-%m-%d %H.%M.%S} by hand.ipynb", paper.read_bytes())
    same = [path for path in kept if kept[path] == text]
    path = attempts / f"{file.time:%Y-%m-%d %H.%M.%S}.ipynb"
    last = max(kept, key=lambda p: p.stem, default=None)
    if same and (not known or last in same or path.stem <= last.stem):
        mine = [row["kept"] for row in table.rows if (row["student"], row["assignment"]) == (folder, name)]
        if any(p.name in mine for p in same):
            return False
        path = same[0]  # of a call that was ended before it could say whose it is
    else:
        while path.exists():  # Canvas gives all files of a zip one time, and numbers attempts in the order of names
            path = path.with_name(f"{path.stem}+.ipynb")
        write_bytes(path, text)
    time, late = f"{file.time}" if known else "", "late" if student.late else ""
    values = (folder, student.name, student.platform, student.id, name, time, late, origin, path.name)
    table.rows.append(dict(zip(COLLECTED, map(plain, values), strict=True)))
    last = max(attempts.glob("*.ipynb"), key=lambda p: p.stem)
    write_bytes(paper, last.read_bytes())
    return True
