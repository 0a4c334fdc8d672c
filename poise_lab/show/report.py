"""The report of runs: one offline HTML file."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import plotly.io as pio
from plotly.offline import get_plotlyjs

from ..errors import PoiseLabError
from ..files import write_text
from ..runs import RunRecord, by_label, compare
from .curves import METRICS, seconds_by_part
from .looks import dasharray, line_styles
from .report_parts import AXES, WINDOWS, chart, more_metrics, pair_matrix, paired, settings_told
from .report_style import SCRIPT, STYLE
from .samples import samples_of, written
from .tables import Table
from .words import describe, span

FEW = 3  # settings whose verdicts are read faster in a list than in a matrix


def write_report(runs: Sequence[RunRecord], path: str | Path) -> None:
    """Write one HTML file with the figures of the runs; it asks the network for nothing.

    Raises PoiseLabError if a run has no finished step or the file cannot be written.
    """
    rows = sorted(compare(list(runs)), key=lambda row: -row["accuracy at end"][0])  # the best first, everywhere
    by_name = by_label(runs)
    groups = {row["run"]: by_name[row["run"]] for row in rows}
    sections = {
        "Summary": Table(rows).to_html([f"data-settings='{i}'" for i in range(len(rows))]),
        "Which is better?": _verdicts(groups),
        "Curves": _charts(groups, list(METRICS)),
        "By task": _charts(groups, more_metrics(runs, "accuracy_")),
        "Ways of working": _charts(groups, more_metrics(runs, "share_")),
        "Where the time goes": _time(runs),
        "What the policy writes": _texts(groups),
        "What made these runs": _settings(groups),
    }
    shown = {title: content for title, content in sections.items() if content}
    links = "".join(f"<li><a href='#{_anchor(title)}'>{title}</a></li>" for title in shown)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>poise-lab report</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head><body>",
        f"<aside><nav aria-label='Contents'><ul>{links}</ul></nav>{_controls(groups)}</aside><main>",
        f"<h1>poise-lab report</h1><p class='note'>{len(runs)} run(s). Intervals and bands are 95 % t intervals over seeds; bands are drawn while at most six settings are shown.</p>",
        *(f"<section id='{_anchor(title)}'><h2>{title}</h2>{content}</section>" for title, content in shown.items()),
        f"</main><script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>",
    ]
    try:
        write_text(path, "\n".join(parts))
    except OSError as e:
        raise PoiseLabError(f"report {path} cannot be written: {e.strerror}") from None


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _controls(groups: dict[str, Sequence[RunRecord]]) -> str:
    """What x is, how much curves are smoothed, and which settings are shown, each with the line that it has."""
    axes = "".join(
        f"<label><input type='radio' name='axis' value='{axis}'{' checked' * (axis == AXES[0])}> {axis}</label>"
        for axis in AXES
    )
    windows = "".join(
        f"<label><input type='radio' name='smoothing' value='{n}'{' checked' * (n == 1)}> {n if n > 1 else 'none'}</label>"
        for n in WINDOWS
    )
    boxes = []
    for i, (label, style) in enumerate(zip(groups, line_styles(len(groups)), strict=True)):
        line = f"<line x2='26' y1='4' y2='4' stroke='{style['color']}' stroke-width='3' stroke-dasharray='{dasharray(style['dash'])}'/>"
        boxes.append(
            f"<label><input type='checkbox' name='setting' value='{i}' checked>"
            f"<svg width='26' height='8' aria-hidden='true'>{line}</svg>{html.escape(label)}</label>"
        )
    every = "<button type='button' value='all'>all</button> <button type='button' value='none'>none</button>"
    return (
        f"<form><fieldset><legend>Across</legend>{axes}</fieldset>"
        f"<fieldset><legend>Mean over the last steps</legend>{windows}</fieldset>"
        f"<fieldset class='settings'><legend>Shown</legend>{every}{''.join(boxes)}</fieldset></form>"
    )


def _charts(groups: dict[str, Sequence[RunRecord]], metrics: Sequence[str]) -> str:
    made = [(metric, *chart(groups, metric)) for metric in metrics]
    figures = [_figure(fig, caption, "wide" * (metric == "accuracy")) for metric, fig, caption in made if fig.data]
    return f"<div class='charts'>{''.join(figures)}</div>" if figures else ""


def _time(runs: Sequence[RunRecord]) -> str:
    fig = seconds_by_part(runs)
    caption = "Mean over steps and seeds; evaluations are spread over all steps."
    return _figure(fig, caption) if fig.data else ""


def _figure(fig, caption: str, where: str = "") -> str:
    words, drawn = html.escape(describe(fig), quote=True), json.loads(pio.to_json(fig))
    data = json.dumps({k: drawn[k] for k in ("data", "layout")}, separators=(",", ":")).replace("</", "<\\/")
    return (
        f"<figure data-figure class='{where}' aria-label='{words}'><div></div>"
        f"<script type='application/json'>{data}</script><figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _verdicts(groups: dict[str, Sequence[RunRecord]]) -> str:
    """A matrix where there are many settings, and a line for each pair."""
    tokens, found = paired(groups)
    number = {label: i for i, label in enumerate(groups)}
    rows = [
        f"<tr data-settings='{number[a]} {number[b]}'><td>{html.escape(a)}</td><td>{word}{' than' * (word != 'inconclusive')}</td>"
        f"<td>{html.escape(b)}</td><td>{span(*difference, digits=3)}</td></tr>"
        for (a, b), (word, difference) in found.items()
        if number[a] < number[b]
    ]
    if not rows:
        return ""
    said = (
        f"Held-out accuracy when {tokens:,} tokens had been sampled, as many as every run has; the difference with its 95 % "
        "interval from pairs of runs with the same seed. A verdict is said where it survives Holm's correction for the "
        "number of pairs."
    )
    pairs = f"<div class='table'><table class='words'>{''.join(rows)}</table></div>"
    if len(groups) <= FEW:
        return f"<p class='note'>{said}</p>{pairs}"
    names = [label for label in groups if any(label in pair for pair in found)]
    fig = pair_matrix(found, names, "Row minus column", "", "", "accuracy", height=220 + 26 * len(names))
    matrix = _figure(fig, f"{said} b: better, w: worse, empty: inconclusive or not compared.")
    return f"{matrix}<details><summary>{len(rows)} pairs, one by one</summary>{pairs}</details>"


def _texts(groups: dict[str, Sequence[RunRecord]]) -> str:
    """The first seed of each setting whose runs keep texts, folded where there are several."""
    first = [next(filter(samples_of, group), None) for group in groups.values()]
    kept = [(i, run) for i, run in enumerate(first) if run]
    return "".join(
        f"<details data-settings='{i}'{' open' * (len(kept) == 1)}><summary>{html.escape(run.name)}</summary>"
        f"{written(run).to_html()}</details>"
        for i, run in kept
    )


def _settings(groups: dict[str, Sequence[RunRecord]]) -> str:
    common, own = settings_told(groups)
    rows = "".join(
        f"<tr data-settings='{i}'><td>{html.escape(label)}</td><td>{html.escape(', '.join(run.name for run in group))}</td>"
        f"<td>{html.escape(own[label])}</td></tr>"
        for i, (label, group) in enumerate(groups.items())
    )
    head = "<tr><th>setting</th><th>runs</th><th>what is not the same in all of them</th></tr>"
    same = html.escape("\n".join(f"{name}: {value}" for name, value in common.items()))
    return (
        f"<div class='table'><table class='words'>{head}{rows}</table></div>"
        f"<details><summary>What is the same in all runs</summary><pre>{same}</pre></details>"
    )
