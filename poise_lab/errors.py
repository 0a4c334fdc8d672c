"""The one exception that stands for bad input: its message is one sentence, what was wrong and what to do."""


class PoiseLabError(ValueError):
    """Bad input. The command line prints the message and exits with status 2."""


class NotFiniteError(PoiseLabError):
    """NaN or infinity where a policy should have given numbers; the trainer adds the step to it."""


def known(kind: str, name: object, names) -> PoiseLabError:
    """The error for an unknown name; lists the known ones."""
    return PoiseLabError(f"unknown {kind} {name!r}; known: {', '.join(sorted(map(str, names)))}")
