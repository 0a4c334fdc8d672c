"""What goes back to a student: points by exercise, what the checker said, and the code that it said it of."""

from __future__ import annotations

import html
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from ..files import write_text
from .cells import grade_id, is_answer, is_test
from .grading import Graded
from .minutes import exercises
from .papers import plain


def sections(released) -> list[tuple[str, list[str], list[str]]]:
    """By exercise: its title, its answer cells, its test cells. A notebook without exercises is one section."""
    cells = {grade_id(cell): cell for cell in released.cells if grade_id(cell)}
    parts = [(f"Exercise {e['number']}: {e['title']}", e["cells"]) for e in exercises(released)] or [
        ("Answers", list(cells))
    ]
    return [
        (title, [n for n in names if is_answer(cells[n])], [n for n in names if is_test(cells[n])])
        for title, names in parts
    ]


def points_by_exercise(graded: Graded, released) -> dict[str, float]:
    """By "exercise 1", "exercise 2", ..., as columns of grades.csv are called."""
    tests = [tests for _, _, tests in sections(released)]
    return {f"exercise {i}": sum(graded.points[test] for test in of) for i, of in enumerate(tests, 1)}


def write_feedback(path: Path, name: str, graded: Graded, released) -> None:
    """Write path.md, and path.html, which shows the student's code too."""
    head, cells = f"# {name}: {graded.total:g} of {graded.full:g} points", []
    lines, note, code = [head, ""], nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    rest = list(graded.messages)
    for title, answers, tests in sections(released):
        points, full = (sum(of[test] for test in tests) for of in (graded.points, graded.of))
        listed = [f"- {test}: {graded.points[test]:g} of {graded.of[test]:g}" for test in tests]
        said = [m for m in rest if m.split(":")[0] in (*answers, *tests)]
        rest = [m for m in rest if m not in said]
        lines += [f"## {title}: {points:g} of {full:g}", "", *listed, "", *(f"> {message}\n" for message in said)]
        cells.append(note(f"## {html.escape(title)}: {points:g} of {full:g}\n\n" + "\n".join(listed) + quoted(said)))
        cells += [code(graded.answers[answer]) for answer in answers if answer in graded.answers]
    lines += [f"> {message}\n" for message in rest]
    write_text(path.with_name(f"{path.name}.md"), plain("\n".join(lines)))
    notebook = nbformat.v4.new_notebook(cells=[note(head + quoted(rest)), *cells])
    exporter = HTMLExporter(template_name="classic", sanitize_html=True, exclude_input_prompt=True)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    write_text(path.with_name(f"{path.name}.html"), plain(page))


def quoted(messages: list[str]) -> str:
    """Sentences as they are: what stands in them is neither Markdown nor HTML."""
    return "".join(f"\n\n<blockquote>{html.escape(m).replace(chr(10), '<br>')}</blockquote>" for m in messages)
