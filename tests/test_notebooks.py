"""Guards on the stored notebooks, and a proof that their comparison (nbval) can fail.

nbval compares a cell only if it was executed, so a stripped notebook would pass unseen: hence the guards.
"""

from __future__ import annotations

import ast
import dis
import json
import re
import subprocess
import symtable
import sys
import textwrap
import types
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import poise_lab as pl
from poise_lab.course.checks import answer
from poise_lab.show import lessons
from poise_lab.show.sliders import PARKED
from tools.notebooks import PLOTLY, WIDGET_VIEW, printed_lines, shaken

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.ipynb"))
CHECK, IGNORE, EXERCISE = "nbval-check-output", "nbval-ignore-output", "exercise"
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|var|opt|usr)/\w|[A-Z]:\\\\?Users")
WIDEST_LINE, LONGEST_CELL, LONGEST_OUTPUT = 100, 25, 25
LARGEST_KB, LARGEST_FIGURE_KB, MOST_DEFINITIONS, HIGHEST_FIGURE = 1500, 300, 3, 700


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


def without_a_picture(notebook) -> list[str]:
    """Cells of whose stored outputs one is a figure that shows nothing before a kernel runs."""
    found = []
    for cell in code_cells(notebook):
        stored = [output.data for output in cell.outputs if "data" in output]
        bars = [data for data in stored if re.search(r"\d%\|", data.get("text/plain", ""))]
        drawn = [data for data in stored if PLOTLY in data and data[PLOTLY]["data"]]
        bare = [data for data in stored if WIDGET_VIEW in data or data.get("text/plain", "").startswith("Figure: ")]
        grows = drawn if "LiveCurves(" in cell.source else []  # while a kernel trains: beside it stands what to expect
        if len([data for data in bare if data not in [*drawn, *bars]]) > len(grows) or (
            "Sliders(" in cell.source and not drawn
        ):
            found.append(cell.source)
    return found


def test_every_figure_is_there_before_a_kernel_runs(notebook):
    assert without_a_picture(notebook) == []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if PLOTLY in data:
                assert "poise-figure" in data["text/html"], f"nothing moves on a page:\n{cell.source}"
                assert len(json.dumps(data)) < LARGEST_FIGURE_KB * 1024, cell.source


def test_a_figure_that_is_stored_as_words_is_found():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    (output, *_) = (o for cell in code_cells(notebook) for o in cell.outputs if PLOTLY in o.get("data", {}))
    assert without_a_picture(notebook) == []
    del output.data[PLOTLY]
    assert len(without_a_picture(notebook)) == 1


def test_curves_that_grow_stand_beside_a_picture():
    notebook = nbformat.read(HERE.parent / "notebooks" / "07_train_with_poise.ipynb", as_version=4)
    (cell,) = [cell for cell in code_cells(notebook) if "LiveCurves(" in cell.source]
    cell.outputs = [output for output in cell.outputs if not drawn_in(output)]
    cell.source = cell.source.replace("Sliders(", "figure(")
    assert without_a_picture(notebook) == [cell.source]


def stuck_controls(figure: dict) -> list[str]:
    """The controls of a stored figure of which no place shows anything else than the figure as it opens."""

    def seen(traces, title):
        drawn = [t for t in traces if t.get("visible", True) is not False and t.get("xaxis") != PARKED["xaxis"]]
        return json.dumps([[(t.get("x"), t.get("y"), t.get("z"), t.get("name")) for t in drawn], title])

    title = figure["layout"]["title"]["text"]
    stuck = []
    for control in [*figure["layout"].get("sliders", ()), *figure["layout"].get("updatemenus", ())]:
        places = set()
        for place in control.get("steps", control.get("buttons")):
            restyle, relayout, touched = place["args"]
            traces = [dict(trace) for trace in figure["data"]]
            for name, values in restyle.items():
                for i, value in zip(touched, values, strict=True):
                    traces[i][name] = value
            places.add(seen(traces, relayout.get("title.text", title)))
        if places == {seen(figure["data"], title)}:
            stuck.append(control["name"])
    return stuck


def stored_figures(notebook) -> list[dict]:
    return [o.data[PLOTLY] for cell in code_cells(notebook) for o in cell.outputs if PLOTLY in o.get("data", {})]


def test_every_control_of_a_stored_figure_moves_it(notebook):
    assert [stuck for figure in stored_figures(notebook) for stuck in stuck_controls(figure)] == []


def test_a_logarithmic_axis_says_where_its_ticks_are(notebook):
    """Else plotly writes 2 and 5 between the tens in letters too small to read."""
    for figure in stored_figures(notebook):
        for name, axis in figure["layout"].items():
            if re.fullmatch(r"[xy]axis\d*", name) and axis.get("type") == "log":
                assert "tickvals" in axis or "dtick" in axis, (figure["layout"]["title"]["text"], name)


def test_a_control_that_moves_nothing_is_found():
    """As stored once: every trace stood on the axes that are seen, whatever the buttons said."""
    figure = next(
        f for f in stored_figures(nbformat.read(NOTEBOOKS[0], as_version=4)) if f["layout"].get("updatemenus")
    )
    for trace in figure["data"]:
        if trace.get("xaxis") == PARKED["xaxis"]:
            trace.update(xaxis="x", yaxis="y")
    for button in figure["layout"]["updatemenus"][0]["buttons"]:
        button["args"][0] |= {axis: [axis[0]] * len(button["args"][2]) for axis in PARKED}
    assert stuck_controls(figure) == ["subtracted"]


def test_no_cell_moves_a_figure(notebook):
    """Each stands where it opens after all cells have run: what is stored is what is shown, and nothing can move it."""
    for cell in code_cells(notebook):
        for name in ("IntSlider", "SelectionSlider", "interact(", ".controls", "ToggleButtons"):
            assert name not in cell.source, cell.source
        if ".state(" in cell.source:
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), f"in the reader's way:\n{cell.source}"


def test_figures_are_followed_by_a_check(notebook):
    shown = False
    for cell in code_cells(notebook):
        shown = (shown or IGNORE in tags(cell)) and CHECK not in tags(cell)
    assert not shown, "the last figure has no cell after it that prints numbers from it"


def test_no_prose_is_left_to_be_written(notebook):
    assert not [c.source for c in notebook.cells if c.cell_type == "markdown" and c.source.upper() == c.source]


SUMMARY = re.compile(r"<summary>(.*?)</summary>", re.S)


def test_a_summary_is_html_alone(notebook):
    """It is read as no Markdown, and only JupyterLab typesets formulas there: a site and GitHub would show the marks."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for said in SUMMARY.findall(cell.source):
                assert not re.search(r"[`*$]", said), said


def test_a_displayed_formula_is_a_paragraph(notebook):
    """Within one, a site takes it for text between two dollars."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for part in re.split(r"\n\s*\n|</?div[^>]*>", cell.source):
                assert "$$" not in part or re.fullmatch(r"\$\$.*\$\$", part.strip(), re.S), part


def test_no_machine_paths(notebook):
    for cell in notebook.cells:
        texts = [cell.source, *(text_of(output) for output in cell.get("outputs", []))]
        for text in texts:
            assert not MACHINE_PATH.search(text), f"{MACHINE_PATH.search(text)[0]} in:\n{cell.source}"


def names_given_twice(sources) -> set[str]:
    """Names that one cell imports and any other binds to something else: what is imported is gone from there on."""
    names = [name for text in sources for name in symtable.symtable(text, "cell", "exec").get_symbols()]
    imported = {name.get_name() for name in names if name.is_imported()}
    return imported & {name.get_name() for name in names if name.is_assigned() and not name.is_imported()}


def test_no_cell_takes_the_name_of_what_was_imported(notebook):
    assert not names_given_twice(cell.source for cell in code_cells(notebook))
    assert names_given_twice(["from x import plots", "for plots in (1, 2):\n    pass"]) == {"plots"}


def test_defines_next_to_nothing(notebook):
    """What a notebook defines belongs in the library; and it is plain Python, without magics.

    A baseline as a reader would write it does not count, nor what an exercise asks for or is checked by.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    cells = code_cells(notebook)
    asked = [EXERCISE in tags(cell) for cell in cells]  # and the cell that checks it stands after it
    trees = [
        ast.parse(c.source)
        for c, here, above in zip(cells, asked, [False, *asked], strict=False)
        if not (here or above)
    ]
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


def test_another_baseline_joins_every_figure():
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


def test_an_own_baseline_stands_in_the_figures_of_the_comparison():
    """Notebook 8: in those that need no final policy, no tokens and no long run, and in what the checked cells read from them."""
    cells = code_cells(nbformat.read(HERE.parent / "notebooks" / "08_baselines_compared.ipynb", as_version=4))
    others = ("arena.matrix(", "arena.beside(", "RolloutViewer(", "long_runs")
    figures = [
        i for i, cell in enumerate(cells) if IGNORE in tags(cell) and not any(name in cell.source for name in others)
    ]
    assert len(figures) == 4
    for i in figures:
        stored = [output.data[PLOTLY] for output in cells[i].outputs if PLOTLY in output.get("data", {})]
        assert all("halfway x2" in str(figure["data"]) for figure in stored), cells[i].source
        assert CHECK in tags(cells[i + 1]) and "halfway x2" in text_of(cells[i + 1].outputs[0]), cells[i + 1].source


def test_opens_and_ends_as_all_do(notebook):
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for word in ("needs", "minute", "seed"):
        assert word in prose[0].lower(), f"the opening says nothing of {word!r}"
    assert re.findall(r"^## .*", "\n".join(prose), re.M)[-1] == "## Exercises"


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


def test_a_number_that_would_not_hold_elsewhere_is_found(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import poise_lab as pl\npolicy, task = pl.load_policy('thinker'), pl.load_task('chain_sum')\n"
                "r = pl.sample_rollouts(policy, task.sample(4, 0), 1, max_new_tokens=8)"
            ),
            nbformat.v4.new_code_cell(
                "print(f'{r.logprobs.sum():.0f}')\nprint(f'{r.logprobs.sum():.9f}')", metadata={"tags": [CHECK]}
            ),
        ]
    )
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    nbformat.write(notebook, tmp_path / "n.ipynb")
    _, exact = printed_lines(notebook.cells[1])
    ((stored, other),) = shaken(tmp_path / "n.ipynb", seed=1)
    assert stored == exact != other and abs(float(stored) - float(other)) < 1e-3


# --- lessons: what is easy to read, and exercises that answer ------------------------------------


def drawn_in(output) -> bool:
    return PLOTLY in output.get("data", {})


def hard_to_read(notebook) -> list[str]:
    """A sentence for each cell of code that is too long or too wide, and for what prints too much."""
    said = []
    for cell in code_cells(notebook):
        lines = cell.source.split("\n")
        if len(lines) > LONGEST_CELL:
            said.append(f"{len(lines)} lines of code: {lines[0]}")
        said += [f"{len(line)} characters: {line}" for line in lines if len(line) > WIDEST_LINE]
        words = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs if not drawn_in(o)]
        if (printed := sum(len(text.strip("\n").split("\n")) for text in words)) > LONGEST_OUTPUT:
            said.append(f"prints {printed} lines: {lines[0]}")
    return said


def test_code_of_a_lesson_is_easy_to_read(notebook):
    assert hard_to_read(notebook) == []


def test_code_that_is_hard_to_read_is_found():
    printed = nbformat.v4.new_output("stream", text="line\n" * 26)
    table = nbformat.v4.new_output("display_data", data={"text/plain": "row\n" * 13})
    cells = [nbformat.v4.new_code_cell("x = 1\n" * 25), nbformat.v4.new_code_cell("y" * 101, outputs=[printed])]
    cells += [nbformat.v4.new_code_cell("z", outputs=[table, table])]
    said = [line.split(":")[0] for line in hard_to_read(nbformat.v4.new_notebook(cells=cells))]
    assert said == ["26 lines of code", "101 characters", "prints 26 lines", "prints 26 lines"]


def exercises(notebook) -> dict[str, str]:
    """The heading of each exercise, and all prose up to the next heading."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    parts = re.split(r"^(#+ .*)$", prose, flags=re.M)[1:]
    return {head: text for head, text in zip(parts[::2], parts[1::2], strict=True) if head.startswith("### Exercise")}


def fold(title: str, text: str) -> str | None:
    """What is folded away under a title."""
    found = re.search(rf"<details><summary>{title}</summary>\n\n(.*?)\n</details>", text, re.S)
    return found and found[1]


def test_every_exercise_says_how_hard_it_is_and_has_a_hint_and_a_solution(notebook):
    assert len(exercises(notebook)) >= 3
    for head, text in exercises(notebook).items():
        assert re.fullmatch(r"### Exercise \d+ · (easy|medium|hard) · \d+ minutes", head)
        assert fold("Hint", text) and fold("Solution", text), head


def test_every_exercise_of_a_lesson_has_its_check(notebook):
    """A cell to fill, tagged, and behind it one that answers."""
    cells = code_cells(notebook)
    filled = [i for i, cell in enumerate(cells) if EXERCISE in tags(cell)]
    assert len(filled) == len(exercises(notebook)) >= 3
    for i in filled:
        assert "answer(" in cells[i + 1].source and CHECK in tags(cells[i + 1]), cells[i].source
        assert text_of(cells[i + 1].outputs[0]).startswith("Not yet: "), cells[i].source


def without_questions(notebook) -> list[str]:
    """Titles of the numbered sections that end with fewer than two questions, each with its answer folded away."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    sections = re.split(r"^## (?=\d)", prose, flags=re.M)[1:]
    asked = [re.split(r"^## ", section, flags=re.M)[0].partition("**Check yourself**")[2] for section in sections]
    found = [re.findall(r"<details><summary>\d\. .+?</summary>\n\n\S", text) for text in asked]
    return [section.split("\n")[0] for section, questions in zip(sections, found, strict=True) if len(questions) < 2]


def test_every_section_of_a_lesson_ends_with_questions(notebook):
    assert sum(len(re.findall(r"^## \d", cell.source, re.M)) for cell in notebook.cells) >= 3
    assert without_questions(notebook) == []


def test_a_section_without_questions_is_found():
    section = "## {}. Noise\n\n**Check yourself**\n"
    asked = "<details><summary>{}. Why?</summary>\n\nSo.\n</details>\n"
    texts = [section.format(1) + asked.format(1) + asked.format(2), section.format(2) + asked.format(1), "## Recap"]
    cells = [nbformat.v4.new_markdown_cell(text) for text in [*texts, asked.format(2)]]
    assert without_questions(nbformat.v4.new_notebook(cells=cells)) == ["2. Noise"]


def lost_sections(notebook) -> list[str]:
    """Numbered headings that do not follow the one before, and sections of this notebook that are named and not there."""
    prose = [re.sub(r"```.*?```", "", c.source, flags=re.S) for c in notebook.cells if c.cell_type == "markdown"]
    numbers = [int(n) for text in prose for n in re.findall(r"^## (\d+)\.", text, re.M)]
    wrong = [f"## {n}" for n, expected in zip(numbers, range(1, len(numbers) + 1), strict=True) if n != expected]
    own = [re.sub(r"[Nn]otebook \d+[^.]{0,20}[Ss]ections? \d+", "", text) for text in prose]  # of this notebook
    named = [n for text in own for n in re.findall(r"\b[Ss]ections? (\d+)", text)]
    return wrong + [f"section {n}" for n in named if int(n) not in numbers]


def test_no_section_is_lost(notebook):
    assert lost_sections(notebook) == []


def test_a_lost_section_is_found():
    cells = [
        nbformat.v4.new_markdown_cell(text)
        for text in ("## 1. A\n\nSee section 2.", "## 3. C", "(notebook 4, section 9)")
    ]
    assert lost_sections(nbformat.v4.new_notebook(cells=cells)) == ["## 3", "section 2"]


def test_the_same_problems_run_through_the_lessons(notebook):
    """Seen in the rollout viewer, each time with what the lesson is about; a real model reads them in full words."""
    shown = [cell for cell in code_cells(notebook) if "lessons.read_pairs(" in cell.source]
    assert shown and any("RolloutViewer(" in cell.source for cell in shown)
    seen = "\n".join(text_of(output) for cell in shown for output in cell.outputs)
    problems = lessons.one_sum() if "lessons.one_sum()" in str(code_cells(notebook)) else lessons.three_problems()
    assert all(problem.compact in seen or problem.question.strip()[-20:] in seen for problem in problems)


def test_the_same_problems_are_as_hard_as_the_lessons_say():
    """V(x) of 2048 responses each: seldom right, about once in seven, and more than once in three."""
    rewards = pl.sample_rollouts(pl.load_policy("thinker"), lessons.three_problems(), 2048, seed=0).rewards
    of_sum, of_word, of_list = rewards.double().mean(1).tolist()
    assert of_sum < 0.02 and 1 / 8 < of_word < 1 / 6 and 1 / 3 < of_list < 0.45
    notebooks = {path.name[:2]: nbformat.read(path, 4) for path in NOTEBOOKS}
    for number, said in (
        ("02", "right about once in seven responses, and a list, more than once in three"),
        ("04", "their $V(x)$ are about 0.0, 0.15 and 0.4"),
        ("05", "The word is spelled right about one time in seven"),
    ):
        assert any(said in cell.source for cell in notebooks[number].cells), number


def read_and_bound(source: str) -> tuple[set[str], set[str]]:
    """Names that code reads from what ran before it, and names that it binds."""
    read, bound = set(), set()

    def look(code: types.CodeType, top: bool) -> None:
        for step in dis.get_instructions(code):
            if top and step.opname == "STORE_NAME":
                bound.add(step.argval)
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in bound:
                read.add(step.argval)
            elif isinstance(step.argval, types.CodeType):
                look(step.argval, False)

    look(compile(source, "cell", "exec"), True)
    return read, bound


def changed(source: str) -> set[str]:
    """Names of what code writes into or calls a method of for its effect: `x[1] = 2`, `x.y = 2`, `x.update(2)`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            node = node.value.func
        elif not isinstance(getattr(node, "ctx", None), ast.Store):
            continue
        if isinstance(node, ast.Name):
            continue
        while isinstance(node, ast.Subscript | ast.Attribute):
            node = node.value
        if isinstance(node, ast.Name):
            found.add(node.id)
    return found


def needed(sources: list[str], read: set[str]) -> set[int]:
    """Cells that bind or change what is read behind them, by themselves or for one another."""
    found = set()
    for i in reversed(range(len(sources))):
        reads, binds = read_and_bound(sources[i])
        if (binds | changed(sources[i])) & read:
            found.add(i)
            read = read - binds | reads
    return found


def test_needed_cells_are_found():
    sources = ["import math", "a = 1", "b = 2", "a = [a * k for k in (1, 2)]", "def f():\n    return math.pi * a[0]"]
    assert needed(sources, {"f"}) == {0, 1, 3, 4}
    assert needed(sources, {"b"}) == {2}
    sources = ["d, e = {}, []", "d[1] = 2", "e.append(3)", "print(d, e)"]
    assert needed(sources, {"d", "print"}) == {0, 1} and needed(sources, {"e", "print"}) == {0, 2}


def test_solutions_of_a_lesson_are_correct(notebook, capsys):
    """The check of an exercise with the solution that is folded away; of the other cells those that this needs.

    An exercise is a cell tagged `exercise`, the cell that checks it stands after it, and its text around the two.
    """
    if "poise_lab.trl" in code_cells(notebook)[0].source:
        pytest.importorskip("trl")
    names: dict = {}
    solutions = [
        re.search(r"```python\n(.*?)```", fold("Solution", text) or "", re.S) for text in exercises(notebook).values()
    ]
    solutions = [found[1] for found in solutions if found]
    sources = [cell.source for cell in code_cells(notebook)]
    checks = [i + 1 for i, cell in enumerate(code_cells(notebook)) if EXERCISE in tags(cell)]
    assert len(solutions) == len(checks) >= 3
    solution_of = dict(zip(checks, solutions, strict=True))
    run, checked = set(checks), []

    def heard(found, right, mistakes=None, **options):
        checked[:] = [right, mistakes, options]
        answer(found, right, mistakes, **options)

    for i, solution in solution_of.items():
        run |= needed(sources[:i], read_and_bound(sources[i])[0] | read_and_bound(solution)[0])
    for i in sorted(run):
        if i in solution_of:
            names["answer"] = heard
        exec(sources[i], names)
        if i in solution_of:
            exec(solution_of[i], names)
            capsys.readouterr()
            exec(sources[i], names)
            assert capsys.readouterr().out.startswith("Correct.\n"), solution_of[i]
            right, mistakes, options = checked
            for mistake in (mistakes or {}).values():
                answer(lambda: mistake, right, mistakes, **options)  # noqa: B023
                assert capsys.readouterr().out.startswith("Not yet: "), (mistake, solution_of[i])


# what should be typeset: values, variances and equations that stand in the text as one would type them
TYPED = re.compile(r"\b(?:V|Var|Cov|E)[(\[]|\b[A-Za-z]\^|(?<![\w`])[A-Za-z] [=<>] [\w-]|[²≤≥√∑]")


def not_typeset(notebook) -> list[str]:
    """Formulas in prose, headings and code apart, that MathJax does not see."""
    prose = [dict(c, source=SUMMARY.sub("", c.source)) for c in notebook.cells if c.cell_type == "markdown"]
    texts = [re.sub(r"`[^`]*`", "", MATH.sub(" ", readable(nbformat.from_dict(c)))) for c in prose]
    return [text[max(0, found.start() - 20) : found.end() + 20] for text in texts for found in TYPED.finditer(text)]


def test_every_formula_is_typeset(notebook):
    assert not_typeset(notebook) == []


def test_a_formula_that_is_not_typeset_is_found():
    text = "$V(x)$ and `V(x) = 1`\n\nthe mean of V(x), r = 0.5\n## E[V]\n"
    found = not_typeset(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]))
    assert [re.findall(r"V\(x\)|r =", piece) for piece in found] == [["V(x)", "r ="], ["V(x)", "r ="]]


# --- words and symbols: where each is explained, and where it is used first ----------------------
#
# A word is explained where it stands in **bold**, or in the first column of a table "| word | meaning |".

# what a reader brings
BROUGHT = set("GPU GPUs CPU CPUs MB GB ASCII JSON NaN PyTorch AdamW".split())
# models and sets of prompts of the paper, and what stands for a path or an address in what is printed
NAMED = set("OLMo DeepSeek DeepScaleR AceCoder ToolDial IF RUNS ADDRESS".split())
# abbreviations, CamelCase, snake_case
NAME = re.compile(r"(?<![\w/.$-])(?=\w*[A-Z]\w*[A-Z]|\w*[a-z]_[a-z])[A-Za-z]\w*")
GREEK = "pi|tau|theta|lambda|Sigma"
SYMBOL = re.compile(rf"(?<![\w'’.&-])(?:{GREEK}|[A-Za-z])(?:_[a-z]+|\d|\*(?=[( ]|$))?(?![\w'’&]|-[a-z]|\.\d)")
MATH = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.S)
MASTERS = sorted((HERE.parent / "notebooks" / "assignments" / "source").glob("*/*.ipynb"))
WORDS = re.compile(r"(?:^\| word \| meaning.*\n\|[-| ]+\n)((?:^\|.*\n?)+)", re.M)


def table(title: str) -> list[tuple[str, ...]]:
    """Rows of the table under one heading of STUDENTS.md."""
    text = (HERE.parent / "notebooks" / "STUDENTS.md").read_text(encoding="utf-8")
    part = text[text.index(f"## {title}") :].split("\n## ")[0]
    rows = [re.split(r" (?<!\\)\| ", row) for row in re.findall(r"^\| (.*) \|$", part, re.M)]
    return [tuple(row) for row in rows[1:]]


def forms(entry: str) -> list[str]:
    """Written forms of an entry of a table of words: no brackets, no code marks, no symbol behind a word."""
    plain = re.sub(r"\(.*?\)|`", "", entry)
    return [re.sub(r" (?:pi|[xysbARVZ])$", "", form.strip()) for form in plain.split(",")]


def pattern(form: str) -> re.Pattern:
    """Finds a form, its plural, and over line ends; small letters stand for large ones too."""
    ending = "(?:y|ies)" if form.endswith("y") else re.escape(form[-1]) + "(?:s|es)?"
    body = r"\s+".join(map(re.escape, form[:-1].split(" "))) + ending
    return re.compile(rf"(?<![\w.]){body}(?!\w)", 0 if form != form.lower() else re.I)


def readable(cell) -> str:
    """What is read of a cell of prose: a table of words first, then the rest; no headings, no blocks of code."""
    text = re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)
    text = re.sub(r"^#.*$|\]\(.*?\)", "", text, flags=re.M)
    return "".join(found[0] for found in WORDS.finditer(text)) + "\n" + WORDS.sub("", text)


def labels(cell) -> str:
    """What the outputs of a cell show in words: prints, tables, and the titles and legends of figures."""
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts += [output.get("text", ""), data.get("text/markdown", "")]
        figure = data.get(PLOTLY, {})
        layout = figure.get("layout", {})
        axes = [axis for name, axis in layout.items() if re.match("[xy]axis", name)]
        texts += [part.get("title", {}).get("text", "") for part in (layout, *axes)]
        texts += [str(trace.get("name", "")) for trace in figure.get("data", [])]
    return "\n".join(filter(None, texts))


def reading() -> list[tuple[str, int, str, str]]:
    """All that is read, in order: (notebook, cell, kind, text)."""
    pages = []
    for path in NOTEBOOKS:
        for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
            kind = cell.cell_type
            pages.append((path.name, i, kind, readable(cell) if kind == "markdown" else labels(cell)))
    return pages


def explained_in(text: str, form: str) -> list[range]:
    """Where a cell of prose explains a form: in bold, or in the first column of its table of words."""
    spans = [found.span() for found in re.finditer(r"\*\*[^*]+\*\*", text)]
    spans += [
        row.span(1)
        for block in WORDS.finditer(text)
        for row in re.compile(r"^\| ([^|]+) \|", re.M).finditer(text, *block.span())
    ]
    return [
        range(*span) for span in spans if any(pattern(form).fullmatch(f) for f in forms(text[slice(*span)].strip("*")))
    ]


def first_use(form: str, pages) -> tuple[str, int, bool] | None:
    """Notebook and cell in which a form is read first, and whether it is explained at that very place."""
    for name, cell, kind, text in pages:
        if found := pattern(form).search(text):
            return name, cell, kind == "markdown" and any(found.start() in span for span in explained_in(text, form))
    return None


def unexplained(pages, words=None) -> list[str]:
    """Words, by default all of the glossary, that are used before they are explained, or never."""
    if words is None:
        words = [form for entry, *_ in table("Glossary") for form in forms(entry)]
    found = []
    for form in words:
        name, cell, explained = first_use(form, pages) or ("no notebook", 0, False)
        if not explained:
            found.append(f"{form!r}: {name} cell {cell}")
    return found


def unknown_names(pages) -> list[str]:
    """Abbreviations and names of code that neither the glossary nor the code holds.

    In prose: abbreviations, CamelCase and snake_case. In what is printed: abbreviations and CamelCase.
    """
    known = {
        word for entry, *_ in table("Glossary") for form in forms(entry) for word in re.split(r"[\s-]", form.lower())
    }
    library = "".join(path.read_text(encoding="utf-8") for path in (HERE.parent / "poise_lab").rglob("*.py"))
    code = {
        path.name: library + "".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
        for path in NOTEBOOKS
    }
    found = []
    for name, cell, kind, text in pages:
        for word in NAME.findall(MATH.sub(" ", text)):
            of_code = "_" in word or re.search("[a-z][A-Z]", word)
            named = "_" in word and kind == "code" or of_code and re.search(rf"\b{word}\b", code[name])
            if not named and word not in BROUGHT | NAMED and not {word.lower(), word.lower().rstrip("s")} & known:
                found.append(f"{word}: {name} cell {cell}")
    return found


def typed(found: re.Match) -> str:
    """A typeset formula as one would type it: letters, Greek names and indices stay, words and signs go."""
    tex = re.sub(r"\\(?:text|textbf|mathrm|operatorname|begin|end)\{[^}]*\}", " ", found[0].strip("$"))
    tex = re.sub(r"\^(?:\*|\\star|\{\*\})", "*", tex)
    tex = re.sub(rf"\\({GREEK}|epsilon|varepsilon|sigma|mu|phi|rho|delta|alpha)(?![a-z])", r" \1", tex)
    tex = re.sub(r"\\[A-Za-z]+", " ", tex)
    for _ in range(2):
        tex = re.sub(r"_\{([A-Za-z]+)\}", r"_\1", tex)
    return re.sub(r"[{}^\\\d]|_(?![A-Za-z])", " ", tex).replace("\n", " ")


def symbols(text: str) -> set[str]:
    """Single letters (with an index) and Greek names of formulas; `code` is no formula, nor are articles."""
    text = re.sub(r"`[^`]*`|\"[^\"]*\"|\]\(.*?\)", " ", text)
    text = MATH.sub(typed, text)
    return {re.sub(r"\d$", "", s) for s in SYMBOL.findall(text)} - {"a", "I"}


def test_first_use_of_every_word_is_where_it_is_explained():
    """`pytest -k first_use -s` prints the list."""
    pages = reading()
    rows = [(entry, stated, first_use(forms(entry)[0], pages)) for entry, _, stated in table("Glossary")]
    for entry, _, use in rows:
        print(f"{entry:45} {'nowhere' if use is None else f'{use[0]} cell {use[1]}'}")
    assert unexplained(pages) == []
    assert {entry: stated for entry, stated, _ in rows} == {entry: name[:2] for entry, _, (name, *_) in rows}


def test_first_use_can_be_wrong():
    pages = reading()
    fair = [(name, cell, kind, text.replace("**unbiased**", "**fair**")) for name, cell, kind, text in pages]
    assert any(line.startswith("'unbiased'") for line in unexplained(fair))
    printed = [(pages[0][0], 0, "code", "by GAE"), *pages]
    assert unexplained(printed) == [f"'GAE': {pages[0][0]} cell 0"]
    assert unexplained(pages, ["importance sampling"]) == ["'importance sampling': no notebook cell 0"]


def test_first_use_in_an_assignment_comes_after_the_notebook_that_explains_the_word():
    words = [(form, stated) for entry, _, stated in table("Glossary") for form in forms(entry)]
    for path in MASTERS:
        cells = nbformat.read(path, as_version=4).cells
        after = max(re.findall(r"`(\d\d)_", cells[0].source))
        pages = [(path.stem, i, "markdown", readable(c)) for i, c in enumerate(cells) if c.cell_type == "markdown"]
        later = [form for form, stated in words if stated > after and first_use(form, pages)]
        assert unexplained(pages, later) == []


def test_every_abbreviation_and_name_in_prose_is_known():
    pages = reading()
    assert unknown_names(pages) == []
    wrong = [(pages[0][0], 3, "markdown", "QRPO, `q_rpo`, `QRpo`"), (pages[0][0], 4, "code", "QRPO, q_rpo")]
    assert [line.split(":")[0] for line in unknown_names(wrong)] == ["QRPO", "q_rpo", "QRpo", "QRPO"]


def unknown_symbols(pages) -> list[str]:
    known = set().union(*(symbols(re.sub(r"\(.*?\)", "", row[0])) for row in table("Symbols")))
    prose = [(name, cell, text) for name, cell, kind, text in pages if kind == "markdown"]
    found = [(symbol, name, cell) for name, cell, text in prose for symbol in sorted(symbols(text) - known)]
    # R_i is R with an index, where it has no row of its own
    return [f"{s}: {name} cell {cell}" for s, name, cell in found if not ("_" in s and set(s.split("_")) <= known)]


def test_every_symbol_in_prose_has_one_row_in_the_table():
    rows = [symbols(re.sub(r"\(.*?\)", "", row[0])) for row in table("Symbols")]
    assert [row for i, row in enumerate(rows) if any(row & other for other in rows[:i])] == []
    assert unknown_symbols(reading()) == []
    wrong = "a gain of u(x) and theta, b*(x) q_hat, `Q`, in V(x)"
    assert [line.split(":")[0] for line in unknown_symbols([("01", 0, "markdown", wrong)])] == ["q_hat", "theta", "u"]
    typeset = (
        r"in $\nabla J = \mathbb{E}[(R_i - b^*(x))\, s_{j}]$ and $$\theta \cdot \frac{u}{M} \text{ with U}$$, not u"
    )
    assert [line.split(":")[0] for line in unknown_symbols([("01", 0, "markdown", typeset)])] == ["theta", "u"]
