"""The schematics of the notebooks: made by the script beside them, said in words, and shown where they belong."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools.notebooks import write_pages

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
DRAWN = sorted((NOTEBOOKS / "figures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> Path:
    """A folder into which the script has drawn once more."""
    folder = tmp_path_factory.mktemp("figures")
    subprocess.run([sys.executable, NOTEBOOKS / "figures" / "draw.py", folder], check=True)
    return folder


def test_the_script_draws_what_is_stored(again):
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in DRAWN
    }


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_drawings_are_said_in_words_and_have_a_dark_theme(path):
    root = ET.parse(path).getroot()
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert root.find(f"{SVG}title").text and len(root.find(f"{SVG}desc").text) > 100
    style = root.find(f"{SVG}style").text
    assert "prefers-color-scheme:dark" in style and min(map(int, re.findall(r"(\d+)px", style))) >= 12
    used = {kind for part in root.iter() for kind in (part.get("class") or "").split()}
    assert used <= set(re.findall(r"\.([a-z]+)", style)), "a class without a colour"
    assert path.stat().st_size < 20_000 and "http" not in path.read_text().replace("http://www.w3.org/2000/svg", "")


def test_every_drawing_is_shown_with_a_text_for_it():
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    shown = {name: alt for alt, name in re.findall(r"!\[([^\]]*)\]\(notebooks/figures/([^)]*)\)", readme)}
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                shown |= {name: alt for alt, name in re.findall(r"!\[([^\]]*)\]\(figures/([^)]*)\)", cell.source)}
    assert set(shown) == {path.name for path in DRAWN} and len(DRAWN) == 7
    assert all(len(alt) > 60 for alt in shown.values())


def test_a_page_holds_its_drawings(tmp_path):
    write_pages([NOTEBOOKS / "05_cross_rollout_baseline.ipynb"], tmp_path)
    (page,) = tmp_path.glob("*.html")
    images = re.findall(r'<img [^>]*src="([^"]+)', page.read_text(encoding="utf-8"))
    drawn = {f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in DRAWN}
    assert sum(source in drawn for source in images) == 2  # beside the still pictures of the figures
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)
    folds = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find_all("details")
    answers = [fold for fold in folds if fold.summary.get_text().strip() == "Answer"]
    assert answers and all(len(fold.get_text()) > 40 for fold in answers)  # what a fold hides lies in it
