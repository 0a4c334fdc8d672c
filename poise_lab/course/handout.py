"""What students get: student versions of the assignments, and a zip to install and work in."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import nbformat

from ..files import write_text
from . import ROOT, WHERE
from .cells import is_test
from .grading import Classroom
from .minutes import exercises

HANDED_OUT = ("poise_lab", "data", "notebooks", ".binder", "pyproject.toml", "constraints.txt", "environment.yml",
              "LICENSE")  # fmt: skip
KEPT_BACK = ("assignments", "INSTRUCTORS.md", "__pycache__", ".ipynb_checkpoints", "*.partial")


def release(course: Path, name: str) -> Path:
    """Write the student version of an assignment; returns its folder."""
    folder = course / "release" / name
    with Classroom(course / "source" / name) as room:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(room.released_folder, folder)
    return folder


def handout(course: Path, names: list[str], out: Path, where: str = WHERE, root: Path = ROOT) -> Path:
    """A zip with all that a student needs to install and work, and nothing that shows solutions; returns its path.

    Left out are the masters, planted answers, the guide for instructors, the tests, and the history of the repository;
    README.md is a page for students. where: a sentence that says where they hand in.
    """
    folder = out.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    for name in HANDED_OUT:
        source, target = root / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*KEPT_BACK))
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for name in names:
        shutil.copytree(release(course, name), folder / "notebooks" / "assignments" / name)
    write_text(folder / "README.md", first_page(root, listed(course, names), where))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, Path(folder.name) / path.relative_to(folder))
    shutil.rmtree(folder)
    return out


def first_page(root: Path, assignments: str, where: str) -> str:
    """START.md, filled in, with links from the top of the zip, and that part of the front page which the guide refers to."""
    folder = root / "notebooks" / "assignments"
    page, front = (path.read_text(encoding="utf-8") for path in (folder / "START.md", root / "README.md"))
    own_questions = re.search(r"^## In Python, .*?(?=^## |\Z)", front, re.M | re.S)[0].strip()
    page = re.sub(r"\]\(\.\./(?=\w)", "](notebooks/", page)
    for name, text in (("assignments", assignments), ("where", where), ("own_questions", own_questions)):
        page = page.replace(f"{{{name}}}", text)
    return page


def listed(course: Path, names: list[str]) -> str:
    """A table of the assignments, as Markdown with links from the top of the zip."""
    rows = ["| assignment | points | minutes |", "|---|---|---|"]
    for name in names:
        master = nbformat.read(course / "source" / name / f"{name}.ipynb", 4)
        title = next((line[2:] for line in master.cells[0].source.splitlines() if line.startswith("# ")), name)
        points = sum(cell.metadata.nbgrader.points for cell in master.cells if is_test(cell))
        minutes = sum(exercise["stated"] for exercise in exercises(master)) or "?"
        rows.append(f"| [{title}](notebooks/assignments/{name}/{name}.ipynb) | {points:g} | {minutes} |")
    return "\n".join(rows)
