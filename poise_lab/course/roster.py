"""Who is in the class: roster.csv, which may be Moodle's list of participants or the gradebook that Canvas exports."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ..errors import PoiseLabError
from .papers import plain
from .sheets import Sheet, number

WHOLE = ("name", "full name", "student")  # columns, in small letters
PARTS = (("first name", "last name"), ("first name", "surname"))


def letters(name: str) -> set[str]:
    """A name as platforms write it: "Żak, Anna", "Anna Żak", and Canvas's "zakanna" have one way in common."""
    text = unicodedata.normalize("NFKD", name).casefold()
    words = ["".join(c for c in word if c.isalnum()) for word in text.split()]
    words = [word for word in words if word]
    return {"".join(words[i:] + words[:i]) for i in range(len(words))}


class Roster:
    """The people of a class. names: each once, as folders and grades call them.

    A column `extension` holds days that a student has longer, for all assignments; `extension 1_policy_gradient`, for one,
    for which it is what counts, 0 too, unless it is empty.
    """

    def __init__(self, path: Path):
        table = Sheet.read(path)
        column = {name.lower(): name for name in table.columns}
        whole = next((column[name] for name in WHOLE if name in column), None)
        parts = next(([column[p] for p in pair] for pair in PARTS if set(pair) <= set(column)), None)
        if not whole and not parts:
            raise PoiseLabError(f"{path.name} has no column name, nor the columns first name and last name")
        self.names, self.by_letters, self.by_id, self.extensions = [], {}, {}, {}
        longer = {name: column[name] for name in column if name.split()[:1] == ["extension"]}
        for row in table.rows:
            name = row[whole].strip() if whole else " ".join(row[part].strip() for part in parts)
            if not name.strip() or name.strip().lower() in ("points possible", "student, test"):  # rows of Canvas
                continue
            name, number = unicodedata.normalize("NFC", name), row.get(column.get("id", ""), "").strip()
            said, same = name, sum(known == name or known.startswith(f"{name} ") for known in self.names)
            if name in self.names:  # two people of one name
                name = f"{name} {number or same + 1}"
            self.names.append(name)
            filled = [c for c in longer if row[longer[c]].strip()]
            self.extensions[name] = {c: days(row[longer[c]], f"{path.name}, {name}") for c in filled}
            for written in letters(said):
                self.by_letters.setdefault(written, []).append(name)
            if number:
                self.by_id[number] = name

    def find(self, name: str, canvas_id: str = "") -> str | None:
        """The person whom a platform, or a folder, calls so; None for nobody, or if two could be meant."""
        if canvas_id in self.by_id:
            return self.by_id[canvas_id]
        found = {person for written in letters(name) for person in self.by_letters.get(written, [])}
        return found.pop() if len(found) == 1 else None

    def extension(self, folder: str, assignment: str) -> float:
        """Days that the student of this folder has longer; 0 for whom the roster does not know."""
        person = folder if folder in self.extensions else self.find(folder)
        own = self.extensions.get(person, {})
        return own.get(f"extension {assignment}".lower(), own.get("extension", 0.0))


def days(text: str, where: str) -> float:
    """An extension. Raises PoiseLabError for what is no number."""
    value = number(text)
    if value is None:
        raise PoiseLabError(f"{where}: {text!r} is no number of days")
    return value


def roster_of(course: Path) -> Roster | None:
    return Roster(course / "roster.csv") if (course / "roster.csv").is_file() else None


def handed_in_nothing(course: Path, names: list[str]) -> list[str]:
    """A sentence for each assignment for which some of the roster have handed in nothing."""
    roster, said = roster_of(course), []
    for name in names if roster else ():
        folders = [path.parent.name for path in (course / "submitted").glob(f"*/{name}")]
        missing = [
            person for person in roster.names if person not in {roster.find(plain(f)) or plain(f) for f in folders}
        ]
        if folders and missing:
            said.append(f"{name}: nothing from {len(missing)} of {len(roster.names)}: {', '.join(missing)}")
    return said
