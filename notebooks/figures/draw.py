"""Draw the schematics and the picture of the front page: `python notebooks/figures/draw.py` writes SVG files beside this.

Every drawing has a ground of its own, light or dark as the reader's system is, so that it is read on any page. What a
colour says is said by a word or a dash as well. The same script writes the same bytes.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

WIDTH, FONT = 620, 15  # px; a notebook shows them as wide as they are
RECORDED = Path(__file__).parents[2] / "data" / "runs"
SHOWN, PROBLEMS = 3, (18, 3, 1)  # the run whose texts are shown, and the problems among its held-out ones
SECONDS = 2  # that an evaluation stays
STYLE = """
.ground{fill:#fff}.box{fill:#eef1f8;stroke:#555}.warm{fill:#fdeee0;stroke:#555}.plain{fill:none;stroke:#555}
text{font:15px system-ui,sans-serif;fill:#222}.small{font-size:13px}.strong{font-weight:600}
.line{fill:none;stroke:#444;stroke-width:1.6}.value{stroke:#2c4bd0;stroke-width:2.2}
.never{stroke:#c20c12;stroke-width:2.2;stroke-dasharray:6 4}text.never{fill:#c20c12;stroke:none;font-weight:600}
.tip{fill:#444}.tip.value{fill:#2c4bd0;stroke:none}.tip.never{fill:#c20c12;stroke:none}
.full{fill:#2c4bd0;stroke:#2c4bd0}.empty{fill:none;stroke:#444;stroke-width:1.6}
@media (prefers-color-scheme:dark){.ground{fill:#1c2028}.box{fill:#2b3342;stroke:#aaa}.warm{fill:#46341f;stroke:#aaa}
.plain{stroke:#aaa}text{fill:#eee}.line{stroke:#bbb}.value{stroke:#8ea6ff}.never{stroke:#ff8d8d}text.never{fill:#ff8d8d}
.tip{fill:#bbb}.tip.value{fill:#8ea6ff}.tip.never{fill:#ff8d8d}.full{fill:#8ea6ff;stroke:#8ea6ff}.empty{stroke:#bbb}}
"""
MOVING = """.mono{font:14px ui-monospace,monospace;white-space:pre}.other{fill:none;stroke:#bbb}.right{fill:#086e56}.wrong{fill:#c20c12}
.frame{opacity:0}.last{opacity:1}
@media (prefers-reduced-motion:no-preference){.frame{opacity:0;animation:shown 22s step-end infinite}}
@keyframes shown{0%{opacity:1}9.0909%{opacity:0}}
@media (prefers-color-scheme:dark){.other{stroke:#666}.right{fill:#7fd8b8}.wrong{fill:#ff8d8d}}
"""


class Drawing:
    """An SVG file in the making. title, desc: for who does not see it. Lengths in px, from the upper left."""

    def __init__(self, title: str, desc: str, height: int, style: str = STYLE):
        size = {"width": str(WIDTH), "height": str(height), "viewBox": f"0 0 {WIDTH} {height}"}
        self.root = ET.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-labelledby": "title desc", **size}
        )
        ET.SubElement(self.root, "title", id="title").text = title
        ET.SubElement(self.root, "desc", id="desc").text = desc
        ET.SubElement(self.root, "style").text = style
        self.add("rect", "ground", width=WIDTH, height=height)

    def add(self, tag: str, kind: str, **attributes) -> ET.Element:
        return ET.SubElement(
            self.root, tag, {"class": kind, **{k.replace("_", "-"): str(v) for k, v in attributes.items()}}
        )

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> None:
        self.add("text", kind, x=x, y=y, text_anchor=anchor).text = text

    def box(self, x: float, y: float, w: float, h: float, *lines: str, kind: str = "box") -> None:
        """A box with lines of text in its middle, of which the first is strong."""
        self.add("rect", kind, x=x, y=y, width=w, height=h, rx=6)
        top = y + h / 2 - 9.5 * (len(lines) - 1) + 5
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 19 * i, line, "strong" if i == 0 else "small")

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        """A line through points with a tip at the last; the last two differ."""
        self.add("polyline", f"line {kind}".strip(), points=" ".join(f"{x:g},{y:g}" for x, y in points))
        (a, b), (x, y) = points[-2:]
        length = ((x - a) ** 2 + (y - b) ** 2) ** 0.5
        u, v = (x - a) / length, (y - b) / length
        corners = [(x, y), (x - 10 * u + 5 * v, y - 10 * v - 5 * u), (x - 10 * u - 5 * v, y - 10 * v + 5 * u)]
        self.add("polygon", f"tip {kind}".strip(), points=" ".join(f"{p:.1f},{q:.1f}" for p, q in corners))

    def cross(self, x: float, y: float) -> None:
        """A mark over what is forbidden."""
        for s in (-7, 7):
            self.add(
                "line",
                "line never",
                x1=x - 7,
                y1=y - s,
                x2=x + 7,
                y2=y + s,
                stroke_dasharray="none",
                style="stroke-dasharray:none",
            )

    def bracket(self, x: float, y: float, w: float, text: str) -> None:
        """A bracket below something, with a text below it."""
        self.add("polyline", "line", points=f"{x:g},{y:g} {x:g},{y + 7:g} {x + w:g},{y + 7:g} {x + w:g},{y:g}")
        self.text(x + w / 2, y + 24, text, "small")

    def svg(self) -> str:
        ET.indent(self.root, " ")
        return ET.tostring(self.root, encoding="unicode") + "\n"


def loop() -> Drawing:
    d = Drawing(
        "One step of reinforcement learning",
        "A prompt goes to the policy, which writes responses; a verifier turns them into rewards. A baseline is subtracted "
        "from each reward, which gives the advantage; the gradient, made of advantages and scores, changes the policy. "
        "The baseline of a response comes from anything but that response.", 260)  # fmt: skip
    for x, y, *lines in (
        (15, 30, "prompt", "x"), (155, 30, "policy", "writes"), (315, 30, "responses", "y"), (480, 30, "rewards", "R, verified"),
        (155, 170, "gradient", "A × score"), (315, 170, "advantage", "A = R − b"), (480, 170, "baseline", "b"),
    ):  # fmt: skip
        d.box(x, y, 125, 56, *lines, kind="warm" if lines[0] == "baseline" else "box")
    for start, end in (((140, 58), (155, 58)), ((280, 58), (315, 58)), ((440, 58), (480, 58)), ((480, 198), (440, 198)),
                       ((315, 198), (280, 198)), ((217, 170), (217, 86))):  # fmt: skip
        d.arrow(start, end)
    d.arrow((515, 86), (515, 128), (378, 128), (378, 170))
    d.text(205, 133, "changes the weights", "small", "end")
    d.text(542, 246, "from anything but y", "small")
    return d


def pair() -> Drawing:
    d = Drawing(
        "The cross-rollout pair",
        "Two responses to one prompt, one above the other. From the states of each the probe reads a value. The value "
        "read from response 1 is the baseline of response 2, and the value read from response 2 that of response 1: two "
        "arrows cross. A red, dashed, crossed-out arrow shows what is forbidden: from the states of a response to its own "
        "baseline.", 300)  # fmt: skip
    for i, y in ((1, 45), (2, 195)):
        d.box(15, y, 110, 60, f"response {i}", f"reward R{i}")
        d.box(155, y, 110, 60, "states", f"of response {i}")
        d.box(295, y, 90, 60, "value", f"v{i}")
        d.box(485, y, 120, 60, f"advantage {i}", f"R{i} − v{3 - i}", kind="warm")
        d.arrow((125, y + 30), (155, y + 30))
        d.arrow((265, y + 30), (295, y + 30))
        d.arrow((385, y + 30), (485, y + 30), kind="never")
        d.cross(432, y + 30)
    d.text(435, 58, "never", "never")
    d.text(435, 250, "never", "never")
    d.arrow((385, 92), (485, 208), kind="value")
    d.arrow((385, 208), (485, 92), kind="value")
    d.text(405, 154, "is the baseline of the other", "small", "end")
    d.text(280, 122, "read by the probe", "small")
    for i, y in ((1, 20), (2, 280)):
        up = y < 100
        d.arrow((70, 45 if up else 255), (70, y), (545, y), (545, 45 if up else 255))
        d.text(310, y + (-5 if up else 15), f"its reward R{i}", "small")
    return d


def refit() -> Drawing:
    d = Drawing(
        "Refit first, and a response's own reward comes back",
        "Upper part, wrong order: the probe is fitted on this step's pairs first. The reward of response 1 is the target "
        "of the states of response 2; so the fitted probe gives that reward back when it reads response 2, and it is "
        "subtracted from the reward of response 1. Lower part, right order: advantages first, by the probe of earlier "
        "steps, then the fit, for the next step.", 330)  # fmt: skip
    d.text(15, 26, "Wrong: fit on this step, then read", "strong", "start")
    y = 45
    d.box(15, y, 120, 60, "R1", "own reward")
    d.box(175, y, 160, 60, "target of", "states of response 2", kind="warm")
    d.box(385, y, 95, 60, "probe", "knows R1")
    d.box(515, y, 90, 60, "v2", "about R1")
    d.arrow((135, y + 30), (175, y + 30), kind="never")
    d.arrow((335, y + 30), (385, y + 30), kind="never")
    d.arrow((480, y + 30), (515, y + 30), kind="never")
    d.box(230, 145, 220, 50, "advantage 1 = R1 − v2", "near 0, whatever R1 is", kind="warm")
    d.arrow((560, 105), (560, 170), (450, 170), kind="never")
    d.arrow((75, 105), (75, 170), (230, 170))
    d.text(330, 130, "R1 comes back over the partner", "never")
    d.text(15, 240, "Right: read with the probe of the steps before, then fit", "strong", "start")
    for x, w, *lines in (
        (15, 140, "1. read", "by the old probe"),
        (195, 150, "2. advantages", "fixed from here on"),
        (385, 220, "3. fit", "with this step, for the next"),
    ):
        d.box(x, 258, w, 56, *lines)
    d.arrow((155, 286), (195, 286), kind="value")
    d.arrow((345, 286), (385, 286), kind="value")
    return d


def budget() -> Drawing:
    d = Drawing(
        "Variance within and between prompts, and a budget cut in two ways",
        "Sixteen responses as dots, full ones right and open ones wrong. On the left two prompts with eight responses "
        "each, on the right eight prompts with two each. Within a column the rewards of one prompt differ; from column to "
        "column the prompts differ. Both ways average the variance within prompts over sixteen responses; the variance "
        "between prompts is averaged over two prompts on the left, over eight on the right.", 330)  # fmt: skip
    right = {8: (0b11101101, 0b01000100), 2: (0b11, 0b00, 0b01, 0b11, 0b10, 0b00, 0b11, 0b01)}
    for start, width, m in ((90, 60, 8), (330, 30, 2)):
        columns = right[m]
        for p, bits in enumerate(columns):
            x = start + p * width + width / 2
            for j in range(m):
                d.add("circle", "full" if bits >> j & 1 else "empty", cx=x, cy=215 - 20 * j, r=7)
        d.bracket(start, 230, width * len(columns), f"{len(columns)} prompts")
    d.text(150, 32, "2 prompts × 8 responses", "strong")
    d.text(450, 32, "8 prompts × 2 responses", "strong")
    for a, b, label, x, y in (
        ((222, 222), (222, 68), "within", 234, 150),
        ((330, 165), (570, 165), "between prompts", 450, 152),
    ):
        d.arrow(a, b)
        d.arrow(b, a)
        d.text(x, y, label, "small", "start" if label == "within" else "middle")
    d.text(234, 168, "a prompt", "small", "start")
    d.text(150, 280, "between / 2  +  within / 16", "small")
    d.text(450, 280, "between / 8  +  within / 16", "small")
    d.text(310, 312, "variance of the mean over the batch: the same 16 responses, cut in two ways", "small")
    return d


def reading() -> Drawing:
    d = Drawing(
        "Where on the line of tokens the probe reads",
        "A line of tokens: the prompt, then the reasoning that ends with its end tag, then the answer. The last four "
        "tokens of the prompt and the last four of the reasoning, the tag among them, are framed: their states at one "
        "layer are averaged. Mean entropies are taken over the whole output, over the reasoning and over the answer.", 300)  # fmt: skip
    tokens = ["1", "7", "+", "2", "5", "=", "<think>", "7", "+", "5", "1", "2", "</think>", "4", "2", "<eos>"]
    x, left = 12, []
    for token in tokens:
        w = 14 + 9 * len(token) if len(token) > 1 else 28
        left.append(x)
        d.add("rect", "box" if len(left) > 6 else "plain", x=x, y=110, width=w, height=32)
        d.text(x + w / 2, 131, token, "small")
        x += w
    left.append(x)
    for name, first, last, kind in (("prompt state", 2, 6, "value"), ("reasoning state", 9, 13, "value")):
        a, b = left[first], left[last]
        d.add("rect", f"plain {kind}", x=a, y=105, width=b - a, height=42)
        d.box((a + b) / 2 - 75, 22, 150, 48, name, "mean of 4, one layer", kind="warm")
        d.arrow(((a + b) / 2, 105), ((a + b) / 2, 70), kind="value")
    d.text((left[0] + left[6]) / 2, 168, "prompt", "small")
    d.bracket(left[6] + 2, 152, left[13] - left[6] - 4, "entropy of the reasoning")
    d.bracket(left[13] + 2, 152, left[16] - left[13] - 4, "of the answer")
    d.bracket(left[6] + 2, 190, left[16] - left[6] - 4, "entropy of the whole output")
    d.text(310, 255, "What the probe reads from one response: two states and three mean entropies,", "small")
    d.text(310, 276, "2 D + 3 numbers. No token that comes later can change what was read.", "small")
    return d


def gpus() -> Drawing:
    d = Drawing(
        "One step on several GPUs",
        "Three processes, one on each GPU, side by side. Each samples and reads its own part of the batch. Then features "
        "and rewards of all are gathered on each, so each knows all pairs, computes all advantages with the same probe "
        "and takes its own. Gradients are averaged over the processes. Meanwhile each fits the probe on the same rows, so "
        "that the probes stay the same.", 430)  # fmt: skip
    for i in range(3):
        x = 15 + 200 * i
        d.text(x + 95, 26, f"GPU {i}", "strong")
        d.box(x, 40, 190, 56, "sample, verify, read", f"part {i} of the batch")
        d.arrow((x + 95, 96), (x + 95, 130))
        d.arrow((x + 95, 180), (x + 95, 210))
        d.box(x, 210, 190, 56, "advantages of all", f"keep part {i}")
        d.arrow((x + 50, 266), (x + 50, 300))
        d.box(x, 300, 100, 50, "gradient", f"of part {i}")
        d.arrow((x + 145, 266), (x + 145, 300))
        d.box(x + 106, 300, 84, 50, "fit probe", "on all rows", kind="warm")
        d.arrow((x + 50, 350), (x + 50, 375))
    d.box(15, 130, 590, 50, "gather", "2 D + 3 numbers and a reward per response, to every process")
    d.box(15, 375, 590, 44, "average the gradients", "the same update everywhere")
    return d


def lines_of(seed: int, name: str) -> list[dict]:
    return [json.loads(line) for line in (RECORDED / f"poise-{seed}" / name).read_text("utf-8").splitlines()]


def learning() -> Drawing:
    """A recorded run, evaluation after evaluation: what it writes to three problems, and five runs' curves beside it."""
    d = Drawing(
        "A policy learns to think",
        "One recorded run of POISE, shown at its eleven evaluations in turn: the greedy response to three held-out problems, "
        "right or wrong, first answered at once and in the end worked step by step or in a leap. Below, greedy accuracy and tokens a "
        "response against steps, for that run and four others.", 400, STYLE + MOVING)  # fmt: skip
    evaluations = [[m for m in lines_of(seed, "metrics.jsonl") if "greedy_accuracy" in m] for seed in range(5)]
    steps = [m["step"] for m in evaluations[SHOWN]]
    frames = [
        d.add("g", "frame last" if step == steps[-1] else "frame", style=f"animation-delay:{SECONDS * i}s")
        for i, step in enumerate(steps)
    ]
    for frame, record in zip(frames, lines_of(SHOWN, "samples.jsonl"), strict=True):
        label(frame, 605, 26, f"after step {record['step']}", "strong", "end")
        for row, problem in enumerate(PROBLEMS):
            sample, y = record["samples"][problem], 82 + 52 * row
            word = "right" if sample["greedy_reward"] == 1 else "wrong"
            label(frame, 15, y, sample["greedy"], "mono")
            label(frame, 605, y, word, word, "end")
    for row, problem in enumerate(PROBLEMS):
        d.text(15, 62 + 52 * row, lines_of(SHOWN, "samples.jsonl")[0]["samples"][problem]["prompt"], "strong", "start")
    d.text(15, 26, "What it writes to three held-out problems", "small", "start")
    for left, name, title, top in (
        (15, "greedy_accuracy", "greedy accuracy", 1.0),
        (325, "held_out_length", "tokens a response", 30.0),
    ):
        panel(d, frames, left, title, [[(m["step"], m[name]) for m in run] for run in evaluations], top)
    return d


def panel(d: Drawing, frames: list[ET.Element], left: float, title: str, curves: list, top: float) -> None:
    """Curves over steps 0 to 100 and values 0 to `top`; the shown run in front, with a dot in each frame."""

    def at(step: float, value: float) -> tuple[float, float]:
        return left + 35 + 2.35 * step, 355 - 125 * value / top

    d.text(left, 215, title, "small", "start")
    for value in (0, top / 2, top):
        d.text(left + 28, at(0, value)[1] + 5, f"{value:g}", "small", "end")
    for step in (0, 50, 100):
        d.text(at(step, 0)[0], 376, f"{step}", "small")
    d.text(at(25, 0)[0], 392, "step", "small")
    d.add("polyline", "line", points=" ".join(f"{x:g},{y:g}" for x, y in (at(0, top), at(0, 0), at(100, 0))))
    for seed, curve in sorted(enumerate(curves), key=lambda pair: pair[0] == SHOWN):
        points = " ".join("{:.0f},{:.0f}".format(*at(*point)) for point in curve)
        d.add("polyline", "line value" if seed == SHOWN else "other", points=points)
    for frame, point in zip(frames, curves[SHOWN], strict=True):
        x, y = at(*point)
        ET.SubElement(frame, "circle", {"class": "full", "cx": f"{x:.0f}", "cy": f"{y:.0f}", "r": "6"})


def label(parent: ET.Element, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
    ET.SubElement(parent, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}).text = text


DRAWINGS = {
    "loop": loop,
    "pair": pair,
    "refit": refit,
    "budget": budget,
    "reading": reading,
    "gpus": gpus,
    "learning": learning,
}


def write(folder: Path) -> None:
    """Write every drawing into a folder."""
    for name, draw in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
