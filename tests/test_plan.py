"""The plan of the house: every file has a room, imports run downwards only, and there is no circle."""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "poise_lab"

# From the ground up. A room may use those of the lines above it, and a wing its own files; rooms of one line do not
# use each other.
PLAN = [
    ["errors"],
    ["files", "process", "settings", "sources", "stats", "threads"],
    ["checkpoints", "engine", "loading", "logs", "objective"],
    ["config", "packed", "tasks"],
    ["ways"],
    ["templates"],
    ["policies"],
    ["rollouts"],
    ["internals"],
    ["generate"],
    ["probe", "sampler"],
    ["baselines"],
    ["evaluation", "runs"],
    ["beginning"],
    ["trainer"],
    ["variance", "show"],
    ["models"],
    ["studies", "course", "trl"],
    ["__init__"],
    ["flags"],
    ["cli"],
    ["__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(PLAN) for room in rooms}


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted names within the package ("baselines.poise") and their files; a folder's own is "baselines.__init__"."""
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}


def room_of(module: str) -> str:
    return module.split(".")[0]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(module: str, path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, wherever in it."""
    inside, found = module.split(".")[:-1], set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "poise_lab"):
            start = inside[: len(inside) + 1 - node.level] if node.level else []
            parts = start + [p for p in (node.module or "").split(".") if p and p != "poise_lab"]
            for name in (alias.name for alias in node.names):
                whole = ".".join([*parts, name])
                candidates = (whole, f"{whole}.__init__", ".".join(parts), ".".join([*parts, "__init__"]))
                found.add(next(c for c in candidates if c in known))
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("poise_lab.") for alias in node.names if alias.name.startswith("poise_lab.")
            }
    return found - {module}


def broken_rules(files: dict[str, Path]) -> list[str]:
    """A sentence for each file without a room, each import upwards, and a circle if there is one."""
    said, graph = [], {}
    for module, path in files.items():
        if room_of(module) not in LEVEL:
            said.append(f"{module} has no room in the plan")
            continue
        graph[module] = imported(module, path, set(files))
        for other in sorted(graph[module]):
            here, there = room_of(module), room_of(other)
            if here != there and LEVEL.get(there, len(PLAN)) >= LEVEL[here]:
                said.append(f"{module} imports {other}, which is not below it")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        said.append(f"a circle: {' <- '.join(e.args[1])}")
    return said


def test_imports_run_downwards_only():
    assert broken_rules(modules()) == []


@pytest.mark.parametrize(
    "module, line",
    [
        ("baselines.poise", "from ..trainer import Trainer"),
        ("internals", "from .generate import sample_rollouts"),
        ("variance.exact", "from ..studies.tables import measures_of"),
        ("show.plots", "def late():\n    from ..variance import read_scores"),
        ("models.fetch", "from ..studies import sums"),
        ("studies.early", "import poise_lab.trl.launch"),
        ("course.checks", "from ..studies.common import splits"),
        ("trl.needed", "from poise_lab.course import checks"),
        ("trainer", "from . import TINY_TASKS"),
        ("files", "from .sources import cache_dir"),
        ("baselines.base", "from .poise import Poise"),
        ("extra", "import json"),
    ],
)
def test_a_step_out_of_the_plan_is_seen(tmp_path, module, line):
    files = modules()
    changed = tmp_path / "changed.py"
    changed.write_text((files[module].read_text() if module in files else "") + "\n" + line + "\n")
    assert len(broken_rules({**files, module: changed})) >= 1
    assert broken_rules(files) == []
