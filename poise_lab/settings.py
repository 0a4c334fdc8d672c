"""Settings: what a field of a dataclass may hold is said by its annotation, and checked in one place."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Annotated, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from .errors import PoiseLabError


class Range(NamedTuple):
    """Which values of its type a setting may have, and the words for it."""

    holds: Callable[[float], bool]
    words: str


Count = Annotated[int, Range(lambda x: x >= 1, "a whole number, at least 1")]
Positive = Annotated[float, Range(lambda x: x > 0, "a number above 0")]
NotNegative = Annotated[float, Range(lambda x: x >= 0, "a number, at least 0")]
Share = Annotated[float, Range(lambda x: 0 <= x <= 1, "a number from 0 to 1")]
PositiveShare = Annotated[float, Range(lambda x: 0 < x <= 1, "a number above 0 and at most 1")]

TYPES = {  # what stands for each type, NumPy's included, and the words for it
    bool: ((bool, np.bool_), "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
}


def check_settings(made, owner: str = "") -> None:
    """Check all fields of a dataclass as `checked` does; what a type that is not among TYPES may be, its class checks.

    owner: what the sentence of the PoiseLabError begins with, before the name of the field.
    """
    hints = get_type_hints(type(made), include_extras=True)
    for field in dataclasses.fields(made):
        setattr(made, field.name, checked(getattr(made, field.name), hints[field.name], owner + field.name))


def check_text(text: str, what: str) -> None:
    """Refuse what no text has in it, such as the \\b of "\\boxed" in a string whose backslash was not doubled."""
    strange = [letter for letter in text if ord(letter) < 32 and letter not in "\n\r\t"]
    if strange:
        raise PoiseLabError(
            f"{what} {text[:60]!r} has the control character {strange[0]!r} in it; write each backslash twice"
        )


def checked(value, annotation, what: str):
    """A value that is what its annotation says, NumPy's numbers as Python's. A number is finite, and no bool is one.

    what: how the sentence of the PoiseLabError begins for any other value.
    """
    plain, allowed = annotation, None
    if get_origin(annotation) is Annotated:
        plain, allowed = get_args(annotation)
    if plain not in TYPES:
        return value
    types, words = TYPES[plain]
    right = isinstance(value, types) and (plain is bool or not isinstance(value, bool))
    if right and plain in (int, float):
        right = abs(value) < math.inf and (allowed is None or allowed.holds(value))
    if not right:
        raise PoiseLabError(f"{what}={value!r}; it must be {allowed.words if allowed else words}")
    return plain(value)
