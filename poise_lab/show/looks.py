"""What tells the series of a figure apart: colours, and for each a dash, a marker and a hatching that are seen in grey.

Each colour has a contrast of at least 3 to white and to the dark theme of JupyterLab, and was chosen so that readers of
every kind of colour vision tell the eight apart: the smallest difference of two of them, CIEDE2000 under the vision
models of Machado et al. (2009), is as large as a search made it. In grey they are two shades, so no series is known by
its colour alone.
"""

from __future__ import annotations

COLORS = ["#3758E6", "#E16500", "#086E56", "#B184BA", "#64A269", "#C20C12", "#AA2C83", "#858585"]
DASHES = ["solid", "dash", "dashdot", "longdash", "10px,3px", "longdashdot", "10px,3px,2px,3px,2px,3px", "dot"]
SYMBOLS = ["circle", "square", "triangle-up", "x", "cross", "diamond", "triangle-down", "hourglass"]
HATCHES = ["", "/", ".", "x", "-", "\\", "|", "+"]

_NAMED = {"solid": "", "dash": "9 6", "dot": "2 4", "dashdot": "9 4 2 4", "longdash": "15 6", "longdashdot": "15 4 2 4"}


def line_styles(n: int) -> list[dict]:
    """Colour, dash and marker of n lines; past the eighth the colours come again, dashed otherwise and with open markers."""
    return [
        dict(color=COLORS[i % 8], dash=DASHES[(i + i // 8) % 8], symbol=SYMBOLS[i % 8] + "-open" * (i // 8 % 2))
        for i in range(n)
    ]


def dasharray(dash: str) -> str:
    """A dash of plotly's as SVG has it."""
    return _NAMED.get(dash, dash.replace("px", "").replace(",", " "))


def dress(trace) -> None:
    """Give a trace of plotly's what its author left open of dash, marker and hatching: those of its colour."""
    if trace.type == "bar":
        each = trace.marker.color
        if isinstance(each, str):
            hatches = HATCHES[COLORS.index(each)] if each in COLORS else ""
        else:
            hatches = [HATCHES[COLORS.index(color)] if color in COLORS else "" for color in each or ()]
        if any(hatches) and trace.marker.pattern.shape is None:
            trace.marker.update(pattern=dict(shape=hatches, fillmode="replace", size=7), line=dict(width=1, color=each))
    elif trace.type == "scatter":
        color, mode = trace.line.color or trace.marker.color, trace.mode or "lines+markers"
        if isinstance(color, str) and color in COLORS:
            k = COLORS.index(color)
            if "lines" in mode and trace.line.dash is None:
                trace.line.dash = DASHES[k]
            if "markers" in mode and trace.marker.symbol is None:
                trace.marker.symbol = SYMBOLS[k]
