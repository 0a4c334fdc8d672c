"""The report of runs: one offline HTML file."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import plotly.io as pio

from ..errors import PoiseLabError
from ..files import write_text
from ..runs import RunRecord, compare, read_lines
from .curves import METRICS, accuracy_by_task, run_curves, seconds_by_part, ways_of_working
from .page import CONFIG
from .tokens import ShownPrompt, ShownResponse
from .viewer import RolloutViewer
from .words import describe

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #222; background: #fff; }
figure { margin: 1.5rem 0; break-inside: avoid; }
figcaption { color: #555; font-size: .9rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
pre { overflow-x: auto; background: #f5f5f5; padding: .6rem; }
@media print { .plotly .modebar { display: none } body { max-width: none } }
"""

CAPTIONS = {
    "accuracy": "Mean reward of fresh responses to held-out problems, which no step trains on.",
    "greedy_accuracy": "Share of held-out problems that the most probable response solves.",
    "pass_at_16": "Share of held-out problems that at least one of 16 sampled responses solves.",
    "reward": "Mean reward of the sampled responses of each step.",
    "variance_reduction": "How much smaller the variance of the advantages is than that of the rewards; "
    "the dotted line is what leave-one-out (RLOO) would have given on the same rewards.",
    "probe_r_fresh": "The probe reads one response to a held-out problem; V(x) is the mean reward of others.",
    "probe_mae_fresh": "The same predictions, mean absolute error.",
    "probe_r_partner": "Before its refit, on the step's new prompts, against single 0/1 rewards.",
    "probe_mae_partner": "The same predictions, mean absolute error.",
    "entropy": "Mean over the sampled tokens.",
    "gradient_norm": "Mean over the mini-batches of a step.",
    "clip_fraction": "Share of tokens whose gradient the clipped surrogate stops.",
    "response_length": "Mean over the responses of each step.",
    "held_out_length": "Mean over the sampled responses to held-out problems.",
    "tokens": "Sampled for training; evaluations are not counted.",
    "peak_memory_mb": "Largest resident memory of the process so far.",
}


def write_report(runs: Sequence[RunRecord], path: str | Path, first: Sequence[tuple] = ()) -> None:
    """Write one HTML file with the figures of the runs; it asks the network for nothing.

    first: (figure, caption) pairs that come before the others.

    Raises PoiseLabError if a run has no finished step or the file cannot be written.
    """
    rows = compare(list(runs))
    figures = [(run_curves(runs, metric), CAPTIONS[metric]) for metric in METRICS]
    figures.insert(1, (accuracy_by_task(runs), "The same, by task, mean over the runs shown."))
    figures.insert(
        1, (ways_of_working(runs), "Read from the texts: without reasoning, results alone, or every step written.")
    )
    figures.append((seconds_by_part(runs), "Mean over steps and seeds; evaluations are spread over all steps."))
    figures = [(fig, caption) for fig, caption in [*first, *figures] if fig.data]
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>poise-lab report</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head><body>",
        "<h1>poise-lab report</h1>",
        f"<p>{len(runs)} run(s). Intervals and bands are 95 % t intervals over seeds.</p>",
        _table(rows),
    ]
    for i, (fig, caption) in enumerate(figures):
        words = html.escape(describe(fig))
        plot = pio.to_html(fig, full_html=False, include_plotlyjs=(i == 0), config=CONFIG)
        parts.append(f"<figure aria-label='{words}'>{plot}<figcaption>{html.escape(caption)}</figcaption></figure>")
    if written := [(run, _written(run)) for run in runs if read_lines(run.folder / "samples.jsonl")]:
        parts.append("<h2>What the policy writes</h2>")
        parts += [f"<h3>{html.escape(run.name)}</h3>{view.to_html()}" for run, view in written]
    parts.append("<h2>What made these runs</h2>")
    for run in runs:
        parts.append(f"<h3>{html.escape(run.name)}</h3><pre>{html.escape(_yaml(run.config))}</pre>")
    parts.append("</body></html>")
    try:
        write_text(path, "\n".join(parts))
    except OSError as e:
        raise PoiseLabError(f"report {path} cannot be written: {e.strerror}") from None


def _written(run: RunRecord) -> RolloutViewer:
    """The same held-out problems at the first and at the last evaluation of a run, whose folder keeps such samples."""
    lines = read_lines(run.folder / "samples.jsonl")
    return RolloutViewer(
        **{f"step {line['step']}": list(map(_prompt_of, line["samples"])) for line in (lines[0], lines[-1])}
    )


def _prompt_of(sample: dict) -> ShownPrompt:
    """A problem of an evaluation: the greedy response, and sampled ones, of which the first was read."""

    def response(text: str, reward: float, **more) -> ShownResponse:
        return ShownResponse(
            re.findall(r"\s*\S+|\s+$", text), {}, reward, **more
        )  # words, so that a long text can be cut

    responses = [response(sample["greedy"], sample["greedy_reward"], name="greedy")]
    for j, (text, reward) in enumerate(zip(sample["sampled"], sample["rewards"], strict=True)):
        responses.append(response(text, reward, value=sample.get("value") if j == 0 else None, name="sampled"))
    return ShownPrompt(0, sample["task"], [sample["prompt"]], responses)


def _table(rows: list[dict]) -> str:
    def cell(value) -> str:
        if not isinstance(value, tuple):
            return html.escape(str(value))
        mean, low, high = value
        if mean != mean:
            return "–"
        digits = 0 if abs(mean) >= 1000 else 3
        return f"{mean:,.{digits}f}" + (
            f"<br><small>[{low:,.{digits}f}, {high:,.{digits}f}]</small>" if low == low else ""
        )

    head = "".join(f"<th>{html.escape(k)}</th>" for k in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<div class='table'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _yaml(config: dict, indent: int = 0) -> str:
    lines = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            lines += [" " * indent + f"{key}:", _yaml(value, indent + 2)]
        else:
            lines.append(" " * indent + f"{key}: {value}")
    return "\n".join(lines)
