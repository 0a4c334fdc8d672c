"""CSV files that people open in a spreadsheet, change and save."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from ..errors import PoiseLabError
from ..files import write_text
from .papers import plain


@dataclasses.dataclass
class Sheet:
    """A CSV file that a spreadsheet may have saved: with a byte-order mark, semicolons, further columns."""

    columns: list[str]
    rows: list[dict[str, str]]
    delimiter: str = ","
    marked: bool = False  # whether it begins with a byte-order mark

    @classmethod
    def read(cls, path: Path, needed: Sequence[str] = ()) -> Sheet:
        """needed: columns that must be there, in small letters; they are found in capitals too.

        Raises PoiseLabError for a file that is no text, or lacks one of them.
        """
        raw, text = path.read_bytes(), None
        for encoding in ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252", "latin-1"):
            with contextlib.suppress(UnicodeDecodeError):
                text = raw.decode(encoding)
                break
        if text is None:
            raise PoiseLabError(f"{path.name} is no text that can be read; save it as CSV (UTF-8)")
        if text[:4].lower() == "sep=":  # a line for Excel
            text = text.partition("\n")[2]
        head = text.partition("\n")[0]
        delimiter = max(",;\t", key=head.count)
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        columns = [name.strip() for name in lines[0]] if lines else []
        columns = [name.lower() if name.lower() in needed else name for name in columns]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise PoiseLabError(
                f"{path.name} has no column {missing[0]!r}; its first line must name {', '.join(needed)}: put that right, or "
                "move the file away"
            )
        rows = [dict(zip(columns, line + [""] * len(columns), strict=False)) for line in lines[1:] if any(line)]
        return cls(columns, rows, delimiter, encoding != "utf-8-sig" or raw[:3] == b"\xef\xbb\xbf")

    def write(self, path: Path) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", delimiter=self.delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            write_text(path, ("\ufeff" if self.marked else "") + plain(text.getvalue()))
        except OSError as e:
            raise PoiseLabError(f"{path} cannot be written ({e.strerror}); is it open in another program?") from None

    def shown(self, number: float) -> str:
        """As the spreadsheet of this file reads it: one that separates by semicolons has a decimal comma."""
        return str(number).replace(".", ",") if self.delimiter == ";" else str(number)


def with_point(text: str) -> str:
    """A number with a decimal point, as platforms read it; what is no number stays as it is."""
    return text if number(text) is None else text.strip().replace(",", ".")


def number(text: object) -> float | None:
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
