"""What the cells that grade an assignment call: compare an answer, and name the usual mistake if it is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def check(found, right, mistakes: Mapping[str, object] | None = None, *, what: str = "the result", tolerance=1e-5):
    """Raise AssertionError unless `found` equals `right`; the message names the mistake where it is a known one.

    found, right: a number, a list, an array or a tensor. mistakes: from what to say to the value that
    this mistake gives. tolerance: absolute, on top of a relative one of the same size.
    """
    if found is None or isinstance(found, list) and any(x is None for x in found):
        raise AssertionError(f"{what} is None: is there a `return`?")
    try:
        found = _numbers(found)
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what} is {type(found).__name__}, where numbers are expected") from None
    right = _numbers(right)
    if found.shape == right.shape and np.allclose(found, right, rtol=tolerance, atol=tolerance):
        return
    for says, value in (mistakes or {}).items():
        value = _numbers(value)
        if found.shape == value.shape and np.allclose(found, value, tolerance, tolerance, equal_nan=True):
            raise AssertionError(f"{what}: {says}")
    if found.shape != right.shape:
        raise AssertionError(f"{what} has shape {found.shape}, expected {right.shape}")
    if not np.isfinite(found).all():
        raise AssertionError(f"{what} holds NaN or infinity")
    raise AssertionError(f"{what} is {_shown(found)}, expected {_shown(right)}")


def answer(found: Callable[[], object], right, mistakes: Mapping[str, object] | None = None, **options) -> None:
    """Print in one sentence what `check` says of found(): for an exercise in a notebook, which runs unsolved as well."""
    try:
        check(found(), right, mistakes, **options)
    except AssertionError as e:
        print(f"Not yet: {e}")
    except Exception as e:  # of the reader's code; a traceback would show this file, not theirs
        print(f"Not yet: your code stopped with {type(e).__name__}: {e}")
    else:
        print("Correct.")


def require(condition, says: str) -> None:
    """Raise AssertionError with a sentence unless the condition holds."""
    if not condition:
        raise AssertionError(says)


def _numbers(x) -> np.ndarray:
    if hasattr(x, "detach"):  # a tensor, of any device, with or without a gradient
        x = x.detach().cpu()
    return np.asarray(x, dtype=np.float64)


def _shown(x: np.ndarray) -> str:
    return np.array2string(x, precision=4, threshold=12, edgeitems=3).replace("\n", "")
