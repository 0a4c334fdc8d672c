"""Tables of results: HTML in the colours of the page it stands on, and the same in plain text."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence

from ..stats import Gap

Cell = str | int | float | tuple[float, float, float] | Gap


class Table:
    """Rows of results as a table, for a notebook or a page.

    rows: dicts with the same keys, the columns. A cell is a text, a number, or (value, low, high): its interval stands
        below it, and is left out where it is not known. A `Gap` has a sign, too, and a star if it is kept.
    digits: decimals, of all columns or by column; a number of 1000 or more has none. signed: columns whose numbers have
        a sign. marked: first cells of rows that stand out.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Cell]],
        digits: int | Mapping[str, int] = 3,
        signed: Sequence[str] = (),
        marked: Sequence[str] = (),
    ):
        self.rows, self.digits, self.signed, self.marked = list(rows), digits, signed, marked

    def _said(self, column: str, value: Cell) -> tuple[str, str, str]:
        """A cell in words: the value, its interval or "", and a star or ""."""
        if isinstance(value, str | int):
            return str(value), "", ""
        gap = isinstance(value, Gap)
        first, *bounds = value[:3] if isinstance(value, tuple) else (value,)
        digits = self.digits if isinstance(self.digits, int) else self.digits.get(column, 3)
        digits, sign = 0 if abs(first) >= 1000 else digits, "+" if gap or column in self.signed else ""
        if first != first:
            return "–", "", ""
        zero = -0.0 if sign else 0.0  # added to what rounds to 0: a sign that is shown says on which side it lies
        shown = [round(x, digits) + zero for x in (first, *bounds) if x == x]
        said, *bounds = (f"{x:{sign},.{digits}f}" for x in shown)
        return said, f"[{', '.join(bounds)}]" if bounds else "", "*" if gap and value.kept else ""

    def to_html(self, attributes: Sequence[str] = ()) -> str:
        """A piece of a page; a wide table scrolls in its own box. attributes: of each row, as HTML writes them."""
        names, lines = list(self.rows[0]), []
        texts = {name for name in names if any(isinstance(row[name], str) for row in self.rows)}
        left = {name: ' style="text-align:left"' if name in {names[0], *texts} else "" for name in names}
        head = "".join(f"<th{left[name]}>{html.escape(name)}</th>" for name in names)
        for row, own in itertools.zip_longest(self.rows, attributes, fillvalue=""):
            cells = []
            for i, name in enumerate(names):
                value, bounds, star = map(html.escape, self._said(name, row[name]))
                value += f" {star}" if star else ""
                value = f"<strong>{value}</strong>" if i == 0 and row[name] in self.marked else value
                below = f'<br><small style="white-space:nowrap">{bounds}</small>' if bounds else ""
                cells.append(f"<td{left[name]}>{value}{below}</td>")
            lines.append(f"<tr {own}".rstrip() + f">{''.join(cells)}</tr>")
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        return f'<div class="table poise-table" style="overflow-x:auto">{table}</div>'

    def words(self) -> str:
        """The same in plain text, each column as wide as its widest cell."""
        names = list(self.rows[0])
        lines = [names, *([" ".join(filter(None, self._said(name, row[name]))) for name in names] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def _repr_mimebundle_(self, **options) -> dict:
        return {"text/html": self.to_html(), "text/plain": self.words()}
