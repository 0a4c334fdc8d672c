"""The rollout viewer: prompts and their responses as text, each token shaded by what is known of it.

One piece of HTML that moves without a script: the shading by radio buttons and a style sheet, the prompts by folds. A
notebook that is not trusted loses the style sheet as well; what stands in `style` attributes is what it keeps: the
responses side by side, shaded by the first of the measures, and the folds. Colours are transparent ones over the page's
own, and the text has the page's colour, so that it is read in a light and in a dark theme.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..errors import PoiseLabError
from .tokens import ShownPrompt, ShownResponse
from .words import folded

MOST_TOKENS = 2000  # shown in one view, prompts not counted: about 130 bytes each
MOST_OF_A_PROMPT = 300  # tokens: its last ones, behind examples
BLUE, ORANGE = "#4c7dff", "#e16500"
ALPHAS = ("", "24", "4d", "78", "a6")  # of the levels, in hexadecimal; the text keeps a contrast of 4.5 on all of them


class Measure(NamedTuple):
    """How a number of a token becomes one of five levels. bounds: four of them; reached from 0 outwards."""

    key: str  # class of its radio button and legend, and the first letter of those of its levels
    name: str
    bounds: Callable[[float], tuple[float, ...]]  # of the largest number in the view
    unit: str
    explained: str


MEASURES = (
    Measure("e", "entropy", lambda top: (0.1, 0.3, 0.7, 1.5), "nats", "how open the choice of this token was"),
    Measure("l", "log p", lambda top: (-0.05, -0.3, -0.7, -1.6), "nats", "log-probability: how surprising the token was"),
    Measure("v", "value", lambda top: (0.2, 0.4, 0.6, 0.8), "reward",
            "what the probe reads if the response stops behind this token; it was fitted at the end of the reasoning"),
    Measure("b", "baseline", lambda top: (0.2, 0.4, 0.6, 0.8), "reward",
            "what is subtracted from the reward at this token, read from what stands before it"),
    Measure("g", "pull", lambda top: (top / 16, top / 8, top / 4, top / 2), "reward",
            "advantage times 1 - p, the slope of the loss at this token; blue is made likelier, orange with dots less likely"),
)  # fmt: skip
LABELS = {
    "entropy": "entropy",
    "log p": "log-probability",
    "value": "value read there",
    "baseline": "subtracted there",
    "pull": "part of the loss",
}

KEYS = ' data-lm-suppress-shortcuts="true"'  # JupyterLab leaves keys that are pressed here to what has the focus
_DOTS = ";text-decoration:underline dotted"

# controls, marks that turn the direction of text, and halves of characters, which no page may hold
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


class RolloutViewer:
    """Responses as text, token by token, for a notebook or a page.

    readings: by name what `read_tokens` gave: one, or several of the same prompts that stand above one another, as in
        `RolloutViewer(before_training=..., after_training=...)`.

    The page has at most MOST_TOKENS tokens, which is about 300 KB: long responses lose pieces of their middle.

    Raises PoiseLabError for no prompt, or readings of different prompts.
    """

    def __init__(self, **readings: Sequence[ShownPrompt]):
        self.readings = {name.replace("_", " "): list(shown) for name, shown in readings.items()}
        prompts = {tuple("".join(shown.pieces) for shown in reading) for reading in self.readings.values()}
        if len(prompts) != 1 or not min(prompts):
            raise PoiseLabError("show one prompt or more, and in every reading the same ones, in the same order")

    def responses(self) -> list[ShownResponse]:
        """All that are shown."""
        return [one for reading in self.readings.values() for shown in reading for one in shown.responses]

    def words(self) -> str:
        """What is shown, without the texts: for who does not see the shades."""
        return " ".join(
            f"{_heading(i, together)}. {' '.join(_said(name, shown) for name, shown in together.items())}"
            for i, together in enumerate(self._prompts())
        )

    def to_html(self) -> str:
        """A piece of a page; the same readings give the same bytes."""
        known = {name for one in self.responses() for name in one.measures}
        scales = {m: m.bounds(self._largest(m.name)) for m in MEASURES if m.name in known}
        longest = _longest([len(one.pieces) for one in self.responses()])
        body = [_prompt(i, together, scales, longest, self._name()) for i, together in enumerate(self._prompts())]
        parts = [_controls(scales), *body, folded("In words", self.words())]
        return f'{_style(scales)}<form method="dialog" class="poise-view">{"".join(parts)}</form>'

    def _largest(self, name: str) -> float:
        return max((abs(x) for one in self.responses() for x in one.measures.get(name, ())), default=0.0)

    def _prompts(self) -> Iterator[dict[str, ShownPrompt]]:
        for each in zip(*self.readings.values(), strict=True):
            yield dict(zip(self.readings, each, strict=True))

    def _name(self) -> str:
        """Of the folds, of which one is open at a time."""
        return "poise-" + hashlib.sha256(self.words().encode()).hexdigest()[:12]

    def _repr_mimebundle_(self, **options) -> dict:
        return {"text/html": self.to_html(), "text/plain": self.words()}


def _longest(lengths: Sequence[int]) -> int:
    """The largest number of tokens per response with which all stay within MOST_TOKENS."""
    low, high = 1, max([1, *lengths])
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(n, middle) for n in lengths) <= MOST_TOKENS else (low, middle - 1)
    return low


# --- one prompt -----------------------------------------------------------------------------------


def _prompt(i: int, together: dict[str, ShownPrompt], scales: dict, longest: int, name: str) -> str:
    shown = next(iter(together.values()))
    first = max(0, len(shown.pieces) - MOST_OF_A_PROMPT)
    marks = [f"<span>{visible(piece)}</span>" for piece in shown.pieces[first:]]
    asked = _gap(first) + _outlined(marks, len(marks) - min(shown.pool, len(marks)), len(marks))
    rows = []
    for title, reading in together.items():
        cards = [_card(j, reading, scales, longest) for j in range(len(reading.responses))]
        if len(together) > 1:
            rows.append(f'<p style="margin:.6em 0 0"><strong>{html.escape(title)}</strong></p>')
        rows.append(f'<div class="cards" style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cards)}</div>')
    return (
        f'<details name="{name}"{" open" if i == 0 else ""}><summary{KEYS}>{html.escape(_heading(i, together))}</summary>'
        f'<p style="margin:.6em 0 0">Prompt</p>{_text(asked)}{"".join(rows)}</details>'
    )


def _heading(i: int, together: dict[str, ShownPrompt]) -> str:
    """The prompt on a line: why it is shown, its text, the rewards."""
    shown = next(iter(together.values()))
    text = " ".join("".join(shown.pieces).split())
    text = HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text if len(text) <= 60 else "\u2026 " + text[-58:])
    rewards = ", then ".join(_rewarded(reading.responses) for reading in together.values())
    return f"{i + 1}. {shown.kind + ': ' if shown.kind else ''}{text} (rewarded {rewards})"


def _rewarded(responses: Sequence[ShownResponse]) -> str:
    if len(responses) <= 4:
        return " and ".join(f"{one.reward:.3g}" for one in responses)
    return f"{sum(one.reward for one in responses) / len(responses):.2f} in the mean of {len(responses)}"


def _said(name: str, shown: ShownPrompt) -> str:
    parts = []
    for j, one in enumerate(shown.responses):
        open_ones = sum(x >= 0.3 for x in one.measures.get("entropy", ()))
        unsure = f", {open_ones} of them with an entropy of at least 0.3 nats" if "entropy" in one.measures else ""
        size = f"{len(one.pieces)} tokens" if one.measures else f"{len(''.join(one.pieces))} characters"
        parts.append(f"response {j + 1} has {size}{unsure}; {'; '.join(_lines(j, shown))}.")
    return f"{name}: {' '.join(parts)}"


# --- one response ---------------------------------------------------------------------------------


def _card(j: int, shown: ShownPrompt, scales: dict, longest: int) -> str:
    one = shown.responses[j]
    lines = "".join(f'<p style="margin:.2em 0">{html.escape(line)}</p>' for line in _lines(j, shown))
    title = f'<p style="margin:.2em 0">Response {j + 1}{html.escape(one.name and ", " + one.name)}</p>'
    return f'<div style="flex:1 1 260px;min-width:0">{title}{_text(_tokens(one, scales, longest))}{lines}</div>'


def _lines(j: int, shown: ShownPrompt) -> list[str]:
    """What stands under a response: reward, value and whose baseline it is, advantage."""
    one, count = shown.responses[j], len(shown.responses)
    others = f"response {2 - j}" if count == 2 else "the others"
    lines = {"reward": f"reward {one.reward:.3g}"}
    if one.value is not None:
        lines["value"] = f"value read from it {one.value:.2f}"
    if shown.source and j == 1 and count == 2:  # the partner stands to the left
        lines[shown.source] = f"baseline of {others} \u2190 {lines[shown.source]}"
    elif shown.source:
        lines[shown.source] += f" \u2192 baseline of {others}"
    lines = list(lines.values())
    if one.advantage is not None and one.baseline is not None:
        lines.append(f"advantage {one.reward:.3g} \u2212 {one.baseline:.2f} = {_signed(one.advantage)}")
    elif one.advantage is not None:
        lines.append(f"advantage {_signed(one.advantage)}")
    if one.measures and not one.ended:
        lines.append("no tag ends its reasoning, so all of it is read as reasoning")
    return [*lines, *([] if one.finished else ["cut off at the longest response"])]


def _tokens(one: ShownResponse, scales: dict, longest: int) -> str:
    n, end = len(one.pieces), one.reasoning
    marks = [_token(one, t, scales) for t in range(n)]
    if one.ended:
        marks[end - 1] += '<strong title="the reasoning ends here">\u2503</strong>'
    third = longest // 3
    spans = [(0, n)] if n <= longest else _joined([(0, third), (end - third, end), (n - third, n)])
    low = max(0, end - one.pool)
    parts, at = [], 0
    for start, stop in spans:
        parts += [_gap(start - at), _outlined(marks[start:stop], low - start, min(end, n) - start)]
        at = stop
    return "".join(parts)


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, without what one has of those before it."""
    found: list[tuple[int, int]] = []
    for start, stop in spans:
        start = max(0, start)
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _gap(tokens: int) -> str:
    return f"<em>\u2026 {tokens:,} tokens not shown \u2026</em>" if tokens > 0 else ""


def _outlined(marks: list[str], start: int, stop: int) -> str:
    """The marks as one text, those from start to stop in a frame: the tokens whose states the probe averages."""
    start, stop = max(0, start), max(0, stop)
    framed = "".join(marks[start:stop])
    if framed:
        framed = f'<span style="border:2px solid" title="the probe averages these">{framed}</span>'
    return "".join([*marks[:start], framed, *marks[stop:]])


def _token(one: ShownResponse, t: int, scales: dict) -> str:
    levels, said, style = [], [], ""
    for k, (measure, bounds) in enumerate(scales.items()):
        if measure.name not in one.measures:
            continue
        number = one.measures[measure.name][t]
        level, less = level_of(number, bounds), number < 0 and measure.key == "g"
        said.append(f"{measure.name} {number:.3g}")
        if level:
            levels.append(f"{measure.key}{level}{'n' if less else ''}")
            look = f"{ORANGE}{ALPHAS[level]}{_DOTS}" if less else f"{BLUE}{ALPHAS[level]}"
            style = f' style="background:{look}"' if k == 0 else style
    classes = f' class="{" ".join(levels)}"' if levels else ""
    title = f' title="{", ".join(said)}"' if said else ""
    return f"<span{classes}{title}{style}>{visible(one.pieces[t]) or chr(0x25CC)}</span>"


def level_of(number: float, bounds: Sequence[float]) -> int:
    """0 to 4: how many of the bounds a number reaches, from 0 outwards."""
    return sum(abs(number) >= abs(bound) > 0 for bound in bounds)


def visible(piece: str) -> str:
    """A text as HTML in which nothing is a command: neither to the page nor to the direction of the text."""
    escaped = html.escape(HIDDEN.sub(lambda found: f"\u27e8U+{ord(found[0]):04X}\u27e9", piece))
    return escaped.replace("\n", "\u21b5\n")


def _text(inner: str) -> str:
    return (
        '<div dir="auto" class="text" style="white-space:pre-wrap;overflow-wrap:break-word;border:1px solid #888;padding:6px;'
        f'font-family:monospace;font-size:13px;line-height:1.7">{inner}</div>'
    )


# --- what moves it --------------------------------------------------------------------------------


def _controls(scales: dict) -> str:
    if not scales:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="shade" class="{m.key}"{KEYS}{" checked" if k == 0 else ""}> {LABELS[m.name]}</label>'
        for k, m in enumerate(scales)
    )
    legends = "".join(_legend(m, bounds, k) for k, (m, bounds) in enumerate(scales.items()))
    choice = f'<fieldset style="display:none"><legend>Shaded by</legend>{buttons}</fieldset>'
    plain = '<p class="plain">Trust this notebook to choose what shades the text.</p>'
    return (
        f"{choice + legends + plain if len(scales) > 1 else legends}"
        f'<p style="margin:.4em 0">{_outlined(["framed"], 0, 1)}: the probe averages the states of these tokens; '
        "<strong>\u2503</strong>: end of the reasoning; \u21b5: a new line; \u25cc: a token without text of its own.</p>"
    )


def _legend(measure: Measure, bounds: Sequence[float], k: int) -> str:
    swatches = [(BLUE, alpha, bound) for alpha, bound in zip(ALPHAS[1:], bounds, strict=True)]
    if measure.key == "g":
        swatches = [(ORANGE, alpha, -bound) for _, alpha, bound in swatches[::-1]] + swatches
    steps = [
        f'<span style="background:{color}{alpha};padding:0 6px{_DOTS if color == ORANGE else ""}">'
        f"{'to' if bound < 0 else 'from'} {_short(bound)}</span>"
        for color, alpha, bound in swatches
    ]
    hidden = ";display:none" if k else ""
    return (
        f'<p class="legend {measure.key}" style="margin:.4em 0{hidden}">{" ".join(steps)} {measure.unit}: '
        f"{html.escape(measure.explained)}</p>"
    )


def _short(number: float) -> str:
    return f"{number:.2g}".replace("-", "\u2212")


def _signed(number: float) -> str:
    return f"{number:+.2f}".replace("-", "\u2212")


def _style(scales: dict) -> str:
    """The sheet: it shows what moves the view, and shades by the button that is pressed."""
    view = ".poise-view"
    rules = [
        f"{view}{{max-width:1100px;font-size:14px}}",
        f"{view} fieldset{{display:flex!important;flex-wrap:wrap;gap:4px 16px;border:0;padding:0;margin:.4em 0}}",
        f"{view} legend{{float:left;padding:0;margin-right:12px}}",
        f"{view} summary{{cursor:pointer;padding:6px 0;overflow-wrap:anywhere}}",
        f"{view} .plain{{display:none}}",
        f"{view} fieldset~details .text>span,{view} fieldset~details .text>span>span{{box-shadow:inset 1px 0 #8886}}",
    ]
    for m in scales if len(scales) > 1 else ():  # one measure stands in the `style` attributes
        on = f"{view}:has(input.{m.key}:checked)"
        rules.append(f"{view} .legend.{m.key}{{display:none}}{on} .legend.{m.key}{{display:block!important}}")
        rules.append(f"{on} .text span{{background:none!important}}")
        for level, alpha in enumerate(ALPHAS[1:], 1):
            rules.append(f"{on} .text .{m.key}{level}{{background:{BLUE}{alpha}!important}}")
            if m.key == "g":
                below = f"background:{ORANGE}{alpha}!important{_DOTS}"
                rules.append(f"{on} .text .g{level}n{{{below}}}")
    return f"<style>{''.join(rules)}</style>"
