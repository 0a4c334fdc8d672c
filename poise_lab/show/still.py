"""A figure as a still: the state in which it opens as SVG, for where no script runs, as in a repository's view.

plotly's own way to a picture starts a browser. This draws what the package's figures are made of (lines with bands,
points, bars, one matrix; intervals, panels, logarithms, names) and nothing else of plotly, in whole tenths of a pixel:
a tenth of the bytes of a PNG, and the same ones at every execution.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Sequence

import numpy as np
from plotly.colors import sample_colorscale

from .axes import LETTER, RIGHT, WIDTH, Axis, plain, stacked, tenth, written
from .looks import dasharray

INK = "#767676"
_SHAPES = {  # of half a size s, half of that h, and the arms of an open cross, which are as broad as they are long
    "diamond": "m0 -{s}l{s} {s}l-{s} {s}l-{s} -{s}z", "square": "m-{s} -{s}h{d}v{d}h-{d}z",
    "x": "m-{s} -{s}l{d} {d}m0 -{d}l-{d} {d}", "cross": "m-{s} 0h{d}m-{s} -{s}v{d}",
    "x-open": "m0 {h}l{h} {h}l{h} -{h}l-{h} -{h}l{h} -{h}l-{h} -{h}l-{h} {h}l-{h} -{h}l-{h} {h}l{h} {h}l-{h} {h}l{h} {h}z",
    "cross-open": "m-{a} -{s}h{w}v{w}h{w}v{w}h-{w}v{w}h-{w}v-{w}h-{w}v-{w}h{w}z",
    "triangle-up": "m-{s} {s}h{d}l-{s} -{d}z", "triangle-down": "m-{s} -{s}h{d}l-{s} {d}z",
    "hourglass": "m-{s} -{s}h{d}l-{d} {d}h{d}z", "circle": "m-{s} 0a{s} {s} 0 0 0 {d} 0a{s} {s} 0 0 0 -{d} 0",
}  # fmt: skip
_HATCHINGS = {  # of a square of 7
    "/": "M-1 1L1 -1M0 7L7 0M6 8L8 6", "\\": "M-1 6L1 8M0 0L7 7M6 -1L8 1", "x": "M0 7L7 0M0 0L7 7", "-": "M0 3.5H7",
    "|": "M3.5 0V7", "+": "M0 3.5H7M3.5 0V7", ".": "M2 3.5h3",
}  # fmt: skip


def to_svg(figure: dict) -> str | None:
    """The SVG of the state in which a figure opens; None for kinds of traces that it does not draw.

    figure: data and layout as plotly.js takes them.
    """
    layout = figure["layout"]
    traces = [t for t in figure["data"] if t.get("visible") is not False and t.get("xaxis") != "x99"]
    if not {t["type"] for t in traces} <= {"scatter", "bar", "heatmap"}:
        return None
    traces = [_complete(trace) for trace in traces]
    shown = layout.get("showlegend", len(traces) > 1)
    rows = _legend_rows([t for t in traces if t.get("name") and t.get("showlegend", True)] if shown else [])
    scale = layout.get("coloraxis") if any(isinstance(t["marker"].get("color"), list) for t in traces) else None
    below = 20 * (len(rows) + bool(scale))  # of the axes: the legend, and what colours mean
    title = _lines(layout.get("title", {}).get("text"), 84)
    top = 34 + 18 * len(title) + (10 if _notes(layout) else 0)
    height = layout.get("height", 380) - layout.get("margin", {}).get("t", 50) + top + below
    axes = {name: Axis(name, layout, traces) for name in _axis_names(traces)}
    bottom = height - below - 54 - max(axis.below() for axis in axes.values() if axis.letter == "x")
    left = 44 + max(32, *(round(LETTER * axis.longest()) for axis in axes.values() if axis.letter == "y"))
    for axis in axes.values():
        axis.place(*((left, WIDTH - RIGHT) if axis.letter == "x" else (bottom, top)))
    parts = [written(line, WIDTH / 2, 24 + 18 * i, "middle", size=16) for i, line in enumerate(title)]
    for name, axis in axes.items():
        if axis.letter == "x":
            partner = axes[layout.get(f"xaxis{name[1:]}", {}).get("anchor", "y").replace("domain", "y")]
            parts += [*axis.drawn(partner), *partner.drawn(axis)]
    for line in layout.get("shapes", []):
        y = tenth(axes["y"].at(line["y0"]))
        parts.append(f'<path d="M{left} {y}H{WIDTH - RIGHT}" stroke="{INK}" stroke-dasharray="2 4"/>')
    for kind in ("band", "rest"):
        for k, trace in enumerate(traces):
            if (trace.get("fill") == "toself") == (kind == "band"):
                parts += _trace(trace, k, traces, layout, axes)
    for note in _notes(layout):
        x = left + note["x"] * (WIDTH - RIGHT - left)
        parts.append(written(plain(note["text"]), x, bottom - note["y"] * (bottom - top) - 6, "middle", size=13))
    parts += _legend(rows, height - below)
    if scale:
        parts += _color_bar(scale, left, height - 12)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">{"".join(parts)}</svg>'
    )


def _complete(trace: dict) -> dict:
    """A trace with plain numbers, and what plotly adds where an author says nothing."""
    full = {key: _numbers(value) for key, value in trace.items()}
    full["error_y"] = {key: _numbers(value) for key, value in (trace.get("error_y") or {}).items()}
    values = full.get("y") or full.get("x") or []
    full |= {letter: full.get(letter) or list(range(len(values))) for letter in "xy"} | {
        "marker": full.get("marker", {})
    }
    if full["type"] == "scatter":
        full.setdefault("mode", "lines+markers" if len(values) < 20 else "lines")
    if full["type"] == "heatmap":
        cells = [v for row in full["z"] for v in row if v is not None]
        full = {"zmin": min(cells), "zmax": max(cells), "colorscale": [[0, "#FFFFFF"], [1, "#3758E6"]], **full}
    return full


def _numbers(value):
    """A list, where plotly packs an array of numpy."""
    if isinstance(value, dict) and "bdata" in value:
        flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return flat.reshape([int(n) for n in str(value.get("shape", len(flat))).split(",")]).tolist()
    return value


# --- what is drawn on them ------------------------------------------------------------------------


def _trace(trace: dict, k: int, traces: Sequence[dict], layout: dict, axes: dict) -> Iterator[str]:
    x, y = axes[trace.get("xaxis", "x")], axes[trace.get("yaxis", "y")]
    if trace["type"] == "heatmap":
        yield from _cells(trace, x, y)
    elif trace["type"] == "bar":
        yield from _bars(trace, traces, layout, x, y)
    else:
        shift = _shift(trace, traces) if layout.get("scattermode") == "group" else 0
        points = [(x.at(a, shift), y.at(b)) for a, b in zip(trace["x"], trace["y"], strict=True) if _drawn(a, b, x, y)]
        line, color = trace.get("line", {}), _color(trace, k, layout)
        d = "M" + "L".join(f"{tenth(a)} {tenth(b)}" for a, b in points)
        if trace.get("fill") == "toself":
            yield f'<path d="{d}z" fill="{trace["fillcolor"]}"/>'
        elif points and "lines" in trace["mode"]:
            yield f'<path d="{d}" fill="none" stroke="{color}" stroke-width="2"{_dashed(line)}/>'
        if "markers" in trace["mode"]:
            yield from _markers(trace, points, color, layout)
            yield _spans(trace, color, x, y, shift)


def _markers(trace: dict, points: Sequence[tuple], color: str, layout: dict) -> Iterator[str]:
    marker = trace["marker"]
    size, each = marker.get("size", 6), marker.get("color")
    colors = [color] * len(points)
    if isinstance(each, list):
        scale = [color for _, color in layout["coloraxis"]["colorscale"]]
        colors = sample_colorscale(scale, [round(min(max(v, 0), 1) * 8) / 8 for v in each])
    for one in dict.fromkeys(colors):
        here = [point for point, its in zip(points, colors, strict=True) if its == one]
        yield _symbols(here, marker.get("symbol", "circle"), size, one, marker.get("opacity", 1))


def _dashed(line: dict) -> str:
    dashes = dasharray(line.get("dash") or "solid")
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def _symbols(points: Sequence[tuple], symbol: str, size: float, color: str, opacity: float = 1, fill: str = "") -> str:
    """Points as one path; overlapping ones are no darker."""
    at = [f"M{tenth(a)} {tenth(b)}" for a, b in points]
    style = f'stroke="{color}" stroke-opacity="{opacity:g}" fill-opacity="{opacity:g}"'
    if symbol == "circle":
        return f'<path d="{"".join(p + "h0" for p in at)}" stroke-width="{size}" stroke-linecap="round" {style}/>'
    sizes = {"s": size / 2, "d": size, "h": size / 4, "a": size / 6, "w": size / 3}
    shape = _SHAPES.get(symbol, _SHAPES[symbol.removesuffix("-open")])
    shape = shape.format(**{name: tenth(part) for name, part in sizes.items()})
    filled = "none" if symbol.endswith("-open") or symbol in ("x", "cross") else fill or color
    return f'<path d="{"".join(p + shape for p in at)}" fill="{filled}" stroke-width="{1 if fill else 2}" {style}/>'


def _spans(trace: dict, color: str, x: Axis, y: Axis, shift: float = 0) -> str:
    """The intervals of a trace."""
    error = trace["error_y"]
    below, parts = error.get("arrayminus") or error.get("array") or (), []
    for a, b, up, down in zip(trace["x"], trace["y"], error.get("array") or (), below, strict=False):
        if _drawn(a, b, x, y) and up is not None and down is not None:
            low = max(b - down, 10 ** min(y.low, y.high)) if y.log else b - down
            parts.append(f"M{tenth(x.at(a, shift))} {tenth(y.at(low))}V{tenth(y.at(b + up))}")
    return f'<path d="{"".join(parts)}" stroke="{error.get("color", color)}" stroke-width="2"/>' if parts else ""


def _bars(trace: dict, traces: Sequence[dict], layout: dict, x: Axis, y: Axis) -> Iterator[str]:
    along, names, values, base, width, shift = stacked(trace, traces, layout)
    place, length = (x, y) if along == "x" else (y, x)
    colors, hatches = trace["marker"].get("color"), trace["marker"].get("pattern", {}).get("shape", "")
    color = colors[0] if isinstance(colors, list) else _color(trace, traces.index(trace), layout)
    each = [  # colour and hatching of each bar
        (colors[i] if isinstance(colors, list) else color, hatches[i] if isinstance(hatches, list) else hatches)
        for i in range(len(names))
    ]
    yield from (_hatching(*one) for one in dict.fromkeys(each) if one[1])
    for i, (name, value, low) in enumerate(zip(names, values, base, strict=True)):
        if value is None:
            continue
        a, b = sorted((place.at(name, shift - width / 2), place.at(name, shift + width / 2)))
        c, d = sorted((length.at(low), length.at(low + value)))
        box = (a, c, b - a, d - c) if along == "x" else (c, a, d - c, b - a)
        left, top, wide, high = map(tenth, box)
        opacity = trace["marker"].get("opacity", 1)
        edge = f' stroke="{each[i][0]}"' if each[i][1] else ""
        yield (f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="{_filled(*each[i])}"{edge}'
               f' fill-opacity="{opacity:g}"/>')  # fmt: skip
        if trace.get("text"):
            yield written(trace["text"][i], (a + b) / 2, c - 4 if value >= 0 else d + 13, "middle")
    if along == "x":
        yield _spans(trace, color, x, y, shift)


def _hatching(color: str, hatch: str) -> str:
    """The tile of a hatching, under the name by which `_filled` asks for it."""
    name = _filled(color, hatch)[5:-1]
    tile = f'<path d="{_HATCHINGS[hatch]}" stroke="{color}" stroke-width="{3 if hatch == "." else 1.5}"/>'
    return f'<pattern id="{name}" width="7" height="7" patternUnits="userSpaceOnUse">{tile}</pattern>'


def _filled(color: str, hatch: str) -> str:
    return f"url(#h{list(_HATCHINGS).index(hatch)}{color[1:]})" if hatch else color


def _cells(trace: dict, x: Axis, y: Axis) -> Iterator[str]:
    low, high = trace["zmin"], trace["zmax"]
    scale, texts = [color for _, color in trace["colorscale"]], []
    for i, (name, row) in enumerate(zip(trace["y"], trace["z"], strict=True)):
        c, d = (round(y.at(name, side)) for side in (-0.5, 0.5))  # whole pixels: no seams, and fewer digits
        letters, places = [], []  # of a row in one element: a matrix of many rows stays small
        for j, value in enumerate(row):
            a, b = (round(x.at(trace["x"][j], side)) for side in (-0.5, 0.5))
            if value is not None:
                at = (value - low) / (high - low) if high > low else 0.5  # the middle, as plotly.js has it
                (color,) = sample_colorscale(scale, [at])
                red_green_blue = "".join(f"{int(part):02x}" for part in re.findall(r"\d+", color))
                yield f'<rect x="{a}" y="{min(c, d)}" width="{b - a}" height="{abs(d - c)}" fill="#{red_green_blue}"/>'
                if trace.get("text") and (words := trace["text"][i][j]):
                    letters.append(words)
                    places.append((a + b) / 2)
        if all(len(words) == 1 for words in letters) and letters:
            xs = " ".join(f"{at:.0f}" for at in places)  # one for each letter
            texts.append(f'<text x="{xs}" y="{tenth((c + d) / 2 + 4)}">{html.escape("".join(letters))}</text>')
        else:
            texts += [written(words, at, (c + d) / 2 + 4) for words, at in zip(letters, places, strict=True)]
    yield f'<g text-anchor="middle" fill="#222">{"".join(texts)}</g>'


def _shift(trace: dict, traces: Sequence[dict]) -> float:
    """How far the points of a group stand beside their name."""
    groups = list(dict.fromkeys(t.get("offsetgroup") for t in traces))
    return 0.7 * (groups.index(trace.get("offsetgroup")) - (len(groups) - 1) / 2) / len(groups)


# --- the legend, and words ------------------------------------------------------------------------


def _legend_rows(traces: Sequence[dict]) -> list[list[tuple[float, dict]]]:
    """Traces by rows, each with where it begins."""
    rows, x = [], WIDTH
    for trace in traces:
        width = 44 + LETTER * len(plain(trace["name"]))
        if x + width > WIDTH - RIGHT:
            rows, x = [*rows, []], 44
        rows[-1].append((x, trace))
        x += width
    return rows


def _color_bar(scale: dict, x: float, y: float) -> Iterator[str]:
    """What colours mean: from the lowest to the highest, in as many steps as `_markers` takes."""
    low, high = (f"{scale[end]:g}" for end in ("cmin", "cmax"))
    yield written(f"{plain(scale['colorbar']['title']['text'])}: {low}", x, y + 4)
    x += LETTER * (len(plain(scale["colorbar"]["title"]["text"])) + len(low) + 3)
    for i, color in enumerate(sample_colorscale([color for _, color in scale["colorscale"]], 9)):
        yield f'<rect x="{tenth(x + 20 * i)}" y="{tenth(y - 6)}" width="20" height="12" fill="{color}"/>'
    yield written(high, x + 186, y + 4)


def _legend(rows: Sequence[Sequence[tuple]], top: float) -> Iterator[str]:
    for i, row in enumerate(rows):
        y = top + 20 * i + 8
        for x, trace in row:
            color = _color(trace, 0, {})
            if "lines" in trace.get("mode", ""):
                yield f'<path d="M{tenth(x)} {y}h24" stroke="{color}" stroke-width="2"{_dashed(trace.get("line", {}))}/>'
            if trace["type"] == "bar":
                hatch = trace["marker"].get("pattern", {}).get("shape", "")
                yield _symbols([(x + 12, y)], "square", 10, color, fill=_filled(color, hatch))
            elif "markers" in trace["mode"]:
                size = trace["marker"].get("size", 6) if "lines" in trace["mode"] else 9
                yield _symbols([(x + 12, y)], trace["marker"].get("symbol", "circle"), size, color)
            yield written(plain(trace["name"]).replace("\n", " "), x + 30, y + 4)


def _color(trace: dict, k: int, layout: dict) -> str:
    way = layout.get("template", {}).get("layout", {}).get("colorway") or [INK]
    for part in (trace["marker"], trace.get("line", {})):
        if isinstance(part.get("color"), str):
            return part["color"]
    return way[k % len(way)]


def _notes(layout: dict) -> list[dict]:
    """What is written above panels."""
    return [note for note in layout.get("annotations", []) if note.get("name") != "control"]


def _lines(text: str, most: int) -> list[str]:
    """A title, broken into lines of at most so many letters."""
    lines = [""]
    for word in plain(text).split():
        lines = (
            [*lines, word] if lines[-1] and len(lines[-1]) + len(word) >= most else [*lines[:-1], f"{lines[-1]} {word}"]
        )
    return [line.strip() for line in lines]


def _axis_names(traces: Sequence[dict]) -> list[str]:
    return sorted({trace.get(f"{letter}axis", letter) for trace in traces for letter in "xy"} | {"x", "y"})


def _drawn(a, b, x: Axis, y: Axis) -> bool:
    return all(v is not None and (not axis.log or v > 0) for v, axis in ((a, x), (b, y)))
