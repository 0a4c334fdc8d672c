"""The one exception that stands for bad input: its message is one sentence, what was wrong and what to do."""

from __future__ import annotations

import errno


class PoiseLabError(ValueError):
    """Bad input. The command line prints the message and exits with status 2."""


class NotFiniteError(PoiseLabError):
    """NaN or infinity where a policy should have given numbers; the trainer adds the step to it."""


def unknown_name(kind: str, name: object, names) -> PoiseLabError:
    """The error for an unknown name; lists the known ones."""
    return PoiseLabError(f"unknown {kind} {name!r}; known: {', '.join(sorted(map(str, names)))}")


def disk_is_full(error: Exception) -> bool:
    """Whether an error means that there is no room: the system's, or that of safetensors, which names its number only."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in numbers or any(f"(os error {n})" in str(error) for n in numbers)
