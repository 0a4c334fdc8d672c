"""The one exception that stands for bad input: its message is one sentence, what was wrong and what to do."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


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


def exit_status(command: Callable[[], int | None], resumes: bool = False) -> int:
    """Run a command and return its exit status; what ends it, other than a fault of ours, is one sentence on stderr.

    resumes: whether the same command goes on with `--resume`.
    """
    try:
        return command() or 0
    except PoiseLabError as e:
        said, status = str(e), 2
    except KeyboardInterrupt:  # outside of the training loop, which saves by itself
        said, status = "interrupted", 130
    except BrokenPipeError:  # the reader of our output has gone away
        return 0
    except PermissionError as e:
        said, status = f"{e.filename or 'a file'} cannot be read or written: {e.strerror}; see whose it is", 2
    except Exception as e:
        if not disk_is_full(e):
            raise
        again = " with --resume" if resumes else ""
        said, status = f"the disk is full; make room and run the same command again{again}", 2
    print(f"poise-lab: {said}", file=sys.stderr)
    return status
