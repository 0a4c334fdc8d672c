"""Guards on the stored notebooks, and a proof that their comparison (nbval) can fail.

nbval compares a cell only if it was executed, so a stripped notebook would pass unseen: hence the guards.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from poise_lab.notebooks import PLOTLY, WIDGET_VIEW
from poise_lab.widgets import redraw_seconds

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.ipynb"))
CHECK, IGNORE = "nbval-check-output", "nbval-ignore-output"
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|var|opt|usr)/\w|[A-Z]:\\\\?Users")
LARGEST_KB, MOST_DEFINITIONS, HIGHEST_FIGURE = 600, 3, 700


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def text_of(output) -> str:
    if output.output_type == "stream":
        return output.text
    return "\n".join(str(value) for mime, value in output.get("data", {}).items() if mime.startswith("text/"))


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_executed_in_order(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_small_and_without_widget_state(path, notebook):
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size < LARGEST_KB * 1024


def test_no_errors(notebook):
    for cell in code_cells(notebook):
        assert all(output.output_type != "error" for output in cell.outputs), cell.source


def test_checked_cells_have_output(notebook):
    for cell in code_cells(notebook):
        if CHECK in tags(cell):
            assert cell.outputs, f"nothing to compare:\n{cell.source}"


def test_figures_are_tagged_and_not_too_high(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if WIDGET_VIEW in data or PLOTLY in data:
                assert IGNORE in tags(cell), f"a figure or widget is compared bit by bit:\n{cell.source}"
            if PLOTLY in data:
                assert data[PLOTLY]["layout"].get("height", 450) <= HIGHEST_FIGURE, cell.source


def test_figures_are_followed_by_a_check(notebook):
    shown = False
    for cell in code_cells(notebook):
        shown = (shown or IGNORE in tags(cell)) and CHECK not in tags(cell)
    assert not shown, "the last figure has no cell after it that prints numbers from it"


def test_no_prose_is_left_to_be_written(notebook):
    assert not [c.source for c in notebook.cells if c.cell_type == "markdown" and c.source.upper() == c.source]


def test_no_machine_paths(notebook):
    for cell in notebook.cells:
        texts = [cell.source, *(text_of(output) for output in cell.get("outputs", []))]
        for text in texts:
            assert not MACHINE_PATH.search(text), f"{MACHINE_PATH.search(text)[0]} in:\n{cell.source}"


def test_defines_next_to_nothing(notebook):
    """What a notebook defines belongs in the library; and it is plain Python, without magics.

    A baseline as a reader would write it does not count.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    trees = [ast.parse(cell.source) for cell in code_cells(notebook)]
    own = {node for tree in trees for node in tree.body if is_baseline(node)}
    written = {part for node in own for part in ast.walk(node)}
    found = [n.name for tree in trees for n in ast.walk(tree) if isinstance(n, kinds) and n not in written]
    assert len(found) <= MOST_DEFINITIONS, found


def test_the_first_cell_names_what_is_missing(notebook):
    cell = code_cells(notebook)[0].source
    with pytest.raises(ImportError, match="^nosuch is not installed: run `pip install -e .*then restart this kernel$"):
        exec(cell.replace("import poise_lab as pl", "import nosuch", 1), {})


def is_baseline(node) -> bool:
    return isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["pl.Baseline"]


def test_an_own_baseline_takes_about_ten_lines():
    for path in NOTEBOOKS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            for node in ast.parse(cell.source).body:
                assert not is_baseline(node) or len(ast.unparse(node).split("\n")) <= 13, path.name  # blank lines too


def test_another_baseline_joins_every_figure_and_every_slider_is_quick():
    """Notebook 1, run here with another class in the place of its own baseline, one that needs pairs."""
    path = HERE.parent / "notebooks" / "01_policy_gradient_and_baselines.ipynb"
    cells = [cell.source for cell in code_cells(nbformat.read(path, as_version=4))]
    (at,) = [i for i, source in enumerate(cells) if "(pl.Baseline)" in source]
    body = ast.parse(cells[at]).body
    (own,) = [node for node in body if is_baseline(node)]
    another = """
        class Pairs(pl.Baseline):
            name, least = "of pairs", 2

            def advantages(self, rollouts, internals):
                return rollouts.rewards - 0.5 * rollouts.partner_rewards()
    """
    rest = "\n".join(ast.unparse(node) for node in body if node is not own).replace(own.name, "Pairs")
    cells[at] = textwrap.dedent(another) + rest.replace("Pairs()", "Pairs(responses=2)")
    names: dict = {}
    for source in cells:
        exec(source, names)
    boxes = names["boxes"]
    assert len(boxes) == sum(source.count("Sliders(") for source in cells) == 4
    for box in boxes:
        assert any("of pairs" in (trace.name or "") for trace in box.figure.data), box.figure.layout.title.text
        assert redraw_seconds(box) < 0.2, box.figure.layout.title.text


def test_an_own_baseline_stands_in_every_figure_of_the_comparison():
    """Notebook 8: in the figures that are stored, and in what the checked cells read from the others."""
    cells = code_cells(nbformat.read(HERE.parent / "notebooks" / "08_baselines_compared.ipynb", as_version=4))
    figures = [i for i, cell in enumerate(cells) if IGNORE in tags(cell)]
    assert len(figures) >= 6
    for i in figures:
        stored = [output.data[PLOTLY] for output in cells[i].outputs if PLOTLY in output.get("data", {})]
        assert all("halfway x2" in str(figure["data"]) for figure in stored), cells[i].source
        assert CHECK in tags(cells[i + 1]) and "halfway x2" in text_of(cells[i + 1].outputs[0]), cells[i + 1].source


def test_opens_and_ends_as_all_do(notebook):
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for word in ("needs", "minute", "seed"):
        assert word in prose[0].lower(), f"the opening says nothing of {word!r}"
    assert "## Exercises" in prose[-1]


def nbval(path) -> int:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--nbval-sanitize-with", str(HERE / "sanitize.cfg"), "--rootdir", str(path.parent), str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, timeout=300).returncode


def test_comparison_catches_a_changed_constant(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("pool = 4"),
            nbformat.v4.new_code_cell("print(round(pool / 3, 2))", metadata={"tags": [CHECK]}),
        ]
    )
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    same, changed = tmp_path / "same.ipynb", tmp_path / "changed.ipynb"
    nbformat.write(notebook, same)
    notebook.cells[0].source = "pool = 5"
    nbformat.write(notebook, changed)
    assert nbval(same) == 0
    assert nbval(changed) == 1


def test_no_slider_reads_a_name_that_a_later_cell_binds_anew(notebook):
    """After all cells have run, a moved slider calls its function with what the names mean *then*."""
    cells = [cell.source for cell in code_cells(notebook)]
    trees = [ast.parse(source) for source in cells]

    def names(tree, context):
        return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}

    for i, tree in enumerate(trees):
        if "Sliders(" not in cells[i]:
            continue
        used = set()
        for f in ast.walk(tree):
            if isinstance(f, ast.Lambda | ast.FunctionDef):
                used |= names(f, ast.Load) - {a.arg for a in f.args.args} - names(f, ast.Store)
        for later in trees[i + 1 :]:
            changed = names(later, ast.Store) | {f.name for f in ast.walk(later) if isinstance(f, ast.FunctionDef)}
            for n in ast.walk(later):  # x[...] = ...
                if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name):
                    changed.add(n.value.id)
            assert not used & changed, f"cell {i}: {sorted(used & changed)}"


def words_of(entry: str) -> list[str]:
    """The words of one entry of a table of words, without their symbols."""
    return [re.sub(r" (?:pi|[xysbARVZ])$", "", w.strip()).lower() for w in re.sub(r"\(.*?\)", "", entry).split(",")]


def unexplained(glossary: str, cells: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Entries of the glossary that a notebook's prose uses before an opening table explains them: (notebook, entry).

    cells: notebook to its cells of prose, in the order of reading.
    """
    entries = [words_of(entry) for entry in re.findall(r"^\| ([^|]+) \| ", glossary, re.M)]
    explained, found = set(), []
    for name, prose in cells.items():
        table = prose[0][prose[0].find("| word |") :]
        for entry in re.findall(r"^\| ([^|]+) \| ", table, re.M):
            explained |= set(words_of(entry))
        text = " ".join(prose).lower()
        for words in entries:
            used = {word for word in words if re.search(rf"\b{re.escape(word)}s?\b", text)}
            if not used <= explained:
                found.append((name, ", ".join(words)))
    return found


def test_no_word_of_the_glossary_is_used_before_it_is_explained():
    students = (HERE.parent / "notebooks" / "STUDENTS.md").read_text()
    glossary = students[students.index("## Glossary") : students.index("## Symbols")]
    cells = {
        path.name: [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
        for path in NOTEBOOKS
    }
    assert unexplained(glossary, cells) == []
    first = next(iter(cells))
    cells[first][0] = cells[first][0].replace("| unbiased |", "| fair |")  # the check can fail
    assert (first, "unbiased") in unexplained(glossary, cells)
