"""The axes of a still: what they span, where a value lies on them, their ticks and words."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence

WIDTH, RIGHT = 700, 16  # px
LETTER = 6.8  # px, of a mean letter at 12 px
GRID = "#808080"


class Axis:
    """An axis: what it spans, where it lies, and its ticks."""

    def __init__(self, name: str, layout: dict, traces: Sequence[dict]):
        self.letter, self.set = name[0], layout.get(f"{name[0]}axis{name[1:]}", {})
        root = _root(name, layout)
        mine = [t for t in traces if _root(t.get(f"{self.letter}axis", self.letter), layout) == root]
        values = [v for t in mine for v in _reach(t, self.letter, layout, traces)]
        self.log = self.set.get("type") == "log"
        names = dict.fromkeys(v for v in values if isinstance(v, str))
        self.names = list(names) if names or self.set.get("type") == "category" else None
        if self.names is not None:
            self.low, self.high = -0.5, len(self.names) - 0.5
        elif "range" in self.set:
            self.low, self.high = self.set["range"]
        else:
            numbers = [math.log10(v) if self.log else v for v in values if v is not None and (v > 0 or not self.log)]
            self.low, self.high = min(numbers, default=0), max(numbers, default=1)
            room = 0.05 * (self.high - self.low) or 0.5
            bars = [t for t in mine if t["type"] == "bar" and along_axis(t) != self.letter]
            self.low -= 0 if bars and self.low == 0 else room
            self.high += 0 if bars and self.high == 0 else room
            if self.set.get("rangemode") == "tozero":
                self.low = min(0, self.low + room)
        if self.set.get("autorange") == "reversed":
            self.low, self.high = self.high, self.low

    def place(self, start: float, end: float) -> None:
        """Where it begins and ends, in px, of the room that all panels have."""
        first, last = self.set.get("domain", (0, 1))
        self.start, self.end = start + first * (end - start), start + last * (end - start)

    def number(self, value) -> float:
        """A value of the data on the scale of the axis."""
        if isinstance(value, str):
            return self.names.index(value)
        return math.log10(value) if self.log else value

    def at(self, value, shift: float = 0) -> float:
        """px of a value; shift: on the scale of the axis."""
        return self.start + (self.number(value) + shift - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple]:
        """(value, label), within the axis."""
        if self.names is not None:
            return [(name, plain(name)) for name in self.names]
        low, high = sorted((self.low, self.high))
        if "tickvals" in self.set:
            values = self.set["tickvals"]
        elif self.log:
            exponents = range(math.floor(low), math.ceil(high) + 1)
            values = [m * 10.0**e for e in exponents for m in ((1,) if high - low > 1.5 else (1, 2, 5))]
        else:
            step = _step((high - low) / 5)
            values = [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        labels = self.set.get("ticktext") or [f"{v:g}" for v in values]
        spare = 1e-9 * (high - low)
        return [
            (v, plain(label)) for v, label in zip(values, labels, strict=True)
            if (v > 0 or not self.log) and low - spare <= self.number(v) <= high + spare
        ]  # fmt: skip

    def below(self) -> int:
        """px that its labels take more than one line does."""
        if self.slanted():
            return round(0.6 * LETTER * self.longest())
        return 13 * max((label.count("\n") for _, label in self.ticks()), default=0)

    def longest(self) -> int:
        """Letters of the longest line of a label."""
        lines = (line for _, label in self.ticks() for line in label.split("\n"))
        return max(map(len, lines), default=0) if self.set.get("showticklabels", True) else 0

    def slanted(self) -> bool:
        """Whether the labels are too long to stand side by side."""
        first, last = self.set.get("domain", (0, 1))
        ticks = self.ticks()
        room = (last - first) * (WIDTH - 90) / max(1, len(ticks))
        return any(max(map(len, label.split("\n"))) * LETTER > room for _, label in ticks)

    def drawn(self, other: Axis) -> Iterator[str]:
        """Grid, labels and title; other: the axis that crosses it."""
        grid, labelled = [], self.set.get("showticklabels", True)
        for value, label in self.ticks():
            p = self.at(value)
            if self.set.get("showgrid", True) and self.names is None:
                grid.append(f"M{tenth(p)} {tenth(other.start)}V{tenth(other.end)}" if self.letter == "x" else
                            f"M{tenth(other.start)} {tenth(p)}H{tenth(other.end)}")  # fmt: skip
            if labelled and self.letter == "y":
                for i, line in enumerate(lines := label.split("\n")):
                    yield written(line, other.start - 6, p + 4 + 13 * (i - (len(lines) - 1) / 2), "end")
            elif labelled and self.slanted():
                yield written(label.replace("\n", " "), p + 4, other.start + 14, "end", turn=-37)
            elif labelled:
                for i, line in enumerate(label.split("\n")):
                    yield written(line, p, other.start + 16 + 13 * i, "middle")
        yield f'<path d="{"".join(grid)}" stroke="{GRID}" stroke-opacity=".25"/>'
        if title := plain(self.set.get("title", {}).get("text")):
            middle = (self.start + self.end) / 2
            if self.letter == "x":
                yield written(title.replace("\n", " "), middle, other.start + 38 + self.below(), "middle", size=13)
            for i, line in enumerate((lines := title.split("\n")) if self.letter == "y" else ()):
                yield written(line, 30 + 15 * (i - len(lines) + 1), middle, "middle", size=13, turn=-90)


# --- what traces span --------------------------------------------------------------------------------


def _root(name: str, layout: dict) -> str:
    """The axis whose span it shares."""
    return layout.get(f"{name[0]}axis{name[1:]}", {}).get("matches", name)


def along_axis(trace: dict) -> str:
    return "y" if trace.get("orientation") == "h" else "x"


def stacked(trace: dict, traces: Sequence[dict], layout: dict) -> tuple:
    """Letter of the axis that bars stand on, names, values, where each begins, their width, how far they stand aside."""
    along = along_axis(trace)
    names, values = trace[along], trace["y" if along == "x" else "x"]
    bars = [t for t in traces if t["type"] == "bar" and t.get("xaxis") == trace.get("xaxis")]
    k = next(i for i, t in enumerate(bars) if t is trace)
    numbers = sorted({n for n in names if not isinstance(n, str)})
    slot = 0.8 * min((b - a for a, b in zip(numbers, numbers[1:], strict=False)), default=1)
    if layout.get("barmode") == "stack":
        base = [sum((dict(zip(t[along], t["y" if along == "x" else "x"], strict=True)).get(n) or 0) for t in bars[:k])
                for n in names]  # fmt: skip
        return along, names, values, base, slot, 0
    width = slot / len(bars)
    return along, names, values, [0] * len(names), width, (k - (len(bars) - 1) / 2) * width


def _reach(trace: dict, letter: str, layout: dict, traces: Sequence[dict]) -> Iterator:
    """All that a trace covers on an axis."""
    if trace["type"] == "bar":
        along, names, values, base, width, shift = stacked(trace, traces, layout)
        if letter == along:
            yield from (n if isinstance(n, str) else n + shift + side * width / 2 for n in names for side in (-1, 1))
            return
        yield from (b for b in base)
        yield from (b + v for b, v in zip(base, values, strict=True) if v is not None)
    else:
        yield from trace[letter]
    error = trace["error_y"]
    if letter == "y" and error.get("array"):
        for v, up, down in zip(trace["y"], error["array"], error.get("arrayminus") or error["array"], strict=True):
            if v is not None and up is not None:
                yield from (v + up, v - (down or 0))


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least so large."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


# --- words and numbers ---------------------------------------------------------------------------


def written(words: str, x: float, y: float, anchor: str = "start", size: int = 12, turn: int = 0) -> str:
    more = f' text-anchor="{anchor}"' if anchor != "start" else ""
    more += f' font-size="{size}"' if size != 12 else ""
    more += f' transform="rotate({turn} {tenth(x)} {tenth(y)})"' if turn else ""
    return f'<text x="{tenth(x)}" y="{tenth(y)}"{more}>{html.escape(str(words))}</text>' if words else ""


def plain(text) -> str:
    """Text without markup; a new line where one is broken."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br ?/?>", "\n", str(text or ""))))


def tenth(value: float) -> str:
    return f"{round(value, 1) + 0.0:g}"
