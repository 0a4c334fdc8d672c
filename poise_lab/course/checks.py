"""What the cells that grade an assignment call: compare an answer, and name the usual mistake if it is one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..errors import PoiseLabError
from .cells import grade_id, is_test

GRADES = "POISE_LAB_GRADES"  # in the environment of a notebook that is being graded
_passed: list[bool] = globals().get("_passed", [])  # checks of the cell that runs; the grader reloads this file


class NotYet(AssertionError):
    """What a check says of an answer that is not right: in a notebook the sentence alone, without the way to it."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


def check(found, right, mistakes: Mapping[str, object] | None = None, *, what: str = "the result", tolerance=1e-5):
    """Raise NotYet unless `found` equals `right`; the message names the mistake where it is a known one.

    found, right: a number, an array, a tensor, or a list of them. mistakes: from what to say to the value that
    this mistake gives. tolerance: absolute, on top of a relative one of the same size.
    """
    _compare(found, right, mistakes, what=what, tolerance=tolerance)
    _has_passed()


def require(condition, says: str) -> None:
    """Raise NotYet with a sentence unless the condition holds."""
    if not condition:
        raise NotYet(says)
    _has_passed()


def check_all(file: str) -> None:
    """Run every test cell of the notebook in `file` on what was defined here, and add up the points that can be seen."""
    import nbformat
    from IPython import get_ipython

    if GRADES in os.environ:  # whoever grades runs them anyway
        return
    if not Path(file).is_file():
        raise PoiseLabError(f"there is no {file} here: put the name of this notebook's file into this cell")
    points, full = 0.0, 0.0
    for cell in (cell for cell in nbformat.read(file, 4).cells if is_test(cell)):
        of, says = float(cell.metadata.nbgrader.points), ""
        try:
            get_ipython().ex(cell.source)
        except AssertionError as e:
            says = f"  not yet: {e}"
        except Exception as e:
            says = f"  not yet: {type(e).__name__} {e}"
        points, full = points + of * (not says), full + of
        print(f"{grade_id(cell):32} {of * (not says):g} of {of:g}{says}")
    _passed.clear()
    print(f"Together {points:g} of {full:g} points, by the tests that can be seen; more run when you hand in.")


def _has_passed() -> None:
    """Have the end of the cell say how many checks it passed, in a notebook."""
    if "IPython" not in sys.modules or not (shell := sys.modules["IPython"].get_ipython()):
        return
    if not any(f.__name__ == "_tell" for f in shell.events.callbacks["post_run_cell"]):
        shell.events.register("post_run_cell", _tell)
    _passed.append(True)


def _tell(result) -> None:
    if _passed and result.success:
        print(f"Passed, {len(_passed)} of {len(_passed)}.")
    _passed.clear()


def _compare(found, right, mistakes: Mapping[str, object] | None = None, *, what="the result", tolerance=1e-5) -> None:
    if found is None or isinstance(found, list) and any(x is None for x in found):
        raise NotYet(f"{what} is still None: put your result there (in a function: is there a `return`?)")
    try:
        found = _numbers(found)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{what} is {type(found).__name__}, where numbers are expected") from None
    right = _numbers(right)
    if found.shape == right.shape and np.allclose(found, right, rtol=tolerance, atol=tolerance):
        return
    for says, value in (mistakes or {}).items():
        value = _numbers(value)
        if found.shape == value.shape and np.allclose(found, value, tolerance, tolerance, equal_nan=True):
            raise NotYet(f"{what}: {says}")
    if found.shape != right.shape:
        raise NotYet(f"{what} has shape {found.shape}, expected {right.shape}")
    if not np.isfinite(found).all():
        raise NotYet(f"{what} holds NaN or infinity")
    raise NotYet(f"{what} is {_shown(found)}, expected {_shown(right)}")


def answer(found: Callable[[], object], right, mistakes: Mapping[str, object] | None = None, **options) -> None:
    """Print in one sentence what `check` says of found(): for an exercise in a notebook, which runs unsolved as well."""
    try:
        _compare(found(), right, mistakes, **options)
    except AssertionError as e:
        print(f"Not yet: {e}")
    except Exception as e:  # of the reader's code; a traceback would show this file, not theirs
        print(f"Not yet: your code stopped with {type(e).__name__}: {e}")
    else:
        print("Correct.")


def _numbers(x) -> np.ndarray:
    if hasattr(x, "detach"):  # a tensor, of any device, with or without a gradient
        x = x.detach().cpu()
    elif isinstance(x, list | tuple) and any(hasattr(y, "detach") for y in x):  # numpy takes none with a gradient
        x = [_numbers(y) for y in x]
    return np.asarray(x, dtype=np.float64)


def _shown(x: np.ndarray) -> str:
    return np.array2string(x, precision=4, threshold=12, edgeitems=3).replace("\n", "")
