"""The course as a site of static pages, which needs no network: `make site`, or `python -m tools.site FOLDER`.

The notebooks as they are stored, with figures that move and the rollout viewer; the guides; the texts of the
assignments, without their code; and the public names of the package with their docstrings.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx

import poise_lab as pl

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
GUIDES = {
    "guide": NOTEBOOKS / "GUIDE.md",
    "findings": NOTEBOOKS / "FINDINGS.md",
    "results": NOTEBOOKS / "RESULTS.md",
    "house": ROOT / "poise_lab" / "README.md",
    "students": NOTEBOOKS / "STUDENTS.md",
    "instructors": NOTEBOOKS / "INSTRUCTORS.md",
}
SETTINGS = dict(
    project="poise-lab",
    extensions=["myst_nb", "sphinx.ext.mathjax", "sphinx-mathjax-offline"],
    html_theme="sphinx_book_theme",
    html_title="poise-lab",
    html_theme_options=dict(show_toc_level=2, use_download_button=False),
    html_context=dict(default_mode="auto"),  # light or dark as the reader's system is
    html_css_files=["site.css"],
    html_js_files=["site.js"],
    html_copy_source=False,
    html_show_search_summary=False,  # would fetch pages, which a browser refuses to those of a folder
    html_show_sphinx=False,
    myst_enable_extensions=["dollarmath", "amsmath"],
    nb_execution_mode="off",
    nb_mime_priority_overrides=[("html", "text/html", 1)],  # figures: the HTML that moves, not the JSON of a kernel
    nb_ipywidgets_js={},  # would be asked of a network
    suppress_warnings=["myst", "mystnb", "image", "toc"],  # links into the repository lead nowhere on a site
)

# A figure is drawn as it is read, before the contents beside it have taken their room.
SCRIPT = 'addEventListener("load", () => dispatchEvent(new Event("resize")));\n'
# A hundred columns of code fit beside the contents, text output is broken as JupyterLab breaks it, and a page is read on
# white paper also from the dark theme.
STYLE = """@media screen {
  .bd-main .bd-content .bd-article-container { max-width: 66rem }
  div.cell_input pre { font-size: 0.75rem }
  div.cell_output pre { font-size: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere }
  .bd-article table { font-size: 0.8rem }
  .bd-article :is(td, th) { padding: 0.2rem }
  .bd-article td small { font-size: 0.75em }
}
@media screen and (min-width: 1200px) {
  .bd-sidebar-primary { flex: 0 0 14rem }
  .bd-sidebar-secondary { flex: 0 0 13rem }
}
@media screen and (min-width: 1450px) { div.cell_input pre { font-size: 0.85rem } }
@media print {
  html { color-scheme: light !important }
  pre { white-space: pre-wrap !important; overflow-wrap: anywhere }
  html[data-theme=dark], html[data-theme=dark] :not(.poise-view span, svg, svg *) {
    color: #222 !important; background-color: transparent !important;
  }
  html[data-theme=dark] img, html[data-theme=dark] svg { background-color: transparent !important; filter: none !important }
}
"""


def build(folder: str | Path) -> None:
    """Write the site into a folder: a new or empty one, or one with a site of this course, which it replaces.

    Exits with a sentence for any other.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and (is_site(folder) or not any(folder.iterdir()))):
        raise SystemExit(f"{folder} holds other things than a site made by this; name a new or empty folder")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as workspace:
        source = Path(workspace, "source")
        source.mkdir()
        groups = write_sources(source)
        (source / "index.md").write_text(index(groups), encoding="utf-8")
        (source / "extra").mkdir()
        (source / "extra" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
        (source / "static").mkdir()
        (source / "static" / "site.css").write_text(STYLE, encoding="utf-8")
        (source / "static" / "site.js").write_text(SCRIPT, encoding="utf-8")
        own = {"html_extra_path": ["extra"], "html_static_path": ["static"], "exclude_patterns": ["extra", "static"]}
        settings = {**SETTINGS, **own}
        app = Sphinx(source, None, folder, Path(workspace, "doctrees"), "html", settings, status=None)
        app.build()
        if app.statuscode:
            raise SystemExit(app.statuscode)


def is_site(folder: Path) -> bool:
    """Whether a folder holds what `build` writes: Sphinx's note of a build beside the plotly.js of the figures."""
    return (folder / ".buildinfo").is_file() and (folder / "plotly.min.js").is_file()


def write_sources(source: Path) -> dict[str, list[str]]:
    """Write what the pages are made of; returns the names of the pages by group. All lie side by side, with plotly.js."""
    groups: dict[str, list[str]] = {"Notebooks": [], "Guides": [], "Assignments": [], "Reference": ["api"]}
    shutil.copytree(NOTEBOOKS / "figures", source / "figures", ignore=shutil.ignore_patterns("*.py"))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(folded(nbformat.read(path, as_version=4)), source / path.name)
        groups["Notebooks"].append(path.stem)
    for name, path in GUIDES.items():
        shutil.copy(path, source / f"{name}.md")
        groups["Guides"].append(name)
    for path in sorted((NOTEBOOKS / "assignments" / "source").glob("*/*.ipynb")):
        name = f"assignment_{path.parent.name}"
        (source / f"{name}.md").write_text(assignment(path), encoding="utf-8")
        groups["Assignments"].append(name)
    (source / "api.md").write_text(api(), encoding="utf-8")
    return groups


def folded(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with a fold around what JupyterLab shows closed: the cells that check, and the worked solutions."""
    for cell in notebook.cells:
        closed = [part for part in ("source", "outputs") if cell.metadata.get("jupyter", {}).get(f"{part}_hidden")]
        fold = {("source",): "hide-input", ("outputs",): "hide-output", ("source", "outputs"): "hide-cell"}
        if closed:
            cell.metadata.tags = [*cell.metadata.get("tags", []), fold[tuple(closed)]]
    return notebook


def assignment(path: Path) -> str:
    """The text of an assignment: what it says and asks, no code and nothing that answers."""
    cells = nbformat.read(path, as_version=4).cells
    said = [c.source for c in cells if c.cell_type == "markdown" and not c.metadata.get("nbgrader", {}).get("solution")]
    return "\n\n".join(said) + "\n"


def api() -> str:
    """The public names, each with its signature and docstring, and those of a class's methods below it."""
    parts = ["# Public names\n\n`import poise_lab as pl`, then `pl.NAME`."]
    for name in sorted(pl.__all__, key=str.lower):
        thing = getattr(pl, name)
        parts.append(f"## `{name}`")
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            parts.append(block(f"{name} = {list(thing) if isinstance(thing, dict) else thing!r}"))
            continue
        parts.append(entry(name, thing))
        methods = (
            [m for m, f in vars(thing).items() if m[0] != "_" and inspect.isroutine(f)]
            if inspect.isclass(thing)
            else []
        )
        parts += [entry(f"{name}.{m}", getattr(thing, m)) for m in methods if inspect.getdoc(getattr(thing, m))]
    return "\n\n".join(parts) + "\n"


def entry(name: str, thing) -> str:
    return block(f"{name}{signature(thing)}\n\n{inspect.getdoc(thing)}")


def signature(thing) -> str:
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return ""


def block(text: str) -> str:
    return f"````text\n{text}\n````"


def index(groups: dict[str, list[str]]) -> str:
    """The first page: what it is, and all others by group."""
    trees = [
        f"```{{toctree}}\n:caption: {group}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```"
        for group, pages in groups.items()
    ]
    picture = re.search(r"^!\[.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)[0].replace("notebooks/", "")
    parts = ["# poise-lab", inspect.getdoc(pl).splitlines()[0], picture, *trees]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site")
