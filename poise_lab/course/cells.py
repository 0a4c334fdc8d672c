"""What a cell of an assignment is: an answer, a test, given, open."""

from __future__ import annotations

import dis
from pathlib import Path
from types import CodeType

from ..errors import PoiseLabError
from ..files import read_json


def instructions(code: CodeType, inner: bool = False):
    """Name of operation, name that it is about, and whether it stands in a function; of a compiled cell."""
    for instruction in dis.get_instructions(code):
        yield instruction.opname, instruction.argval, inner
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant, True)


def of_cell(cell) -> list:
    try:
        return list(instructions(compile(cell.source, "cell", "exec"))) if cell.cell_type == "code" else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # IPython's magics, or no Python at all
        return []


def names_set(cell) -> set[str]:
    """The global names that a cell sets: variables, functions, classes, imports."""
    return {name for op, name, inner in of_cell(cell) if op == "STORE_GLOBAL" or op == "STORE_NAME" and not inner}


def given_names(master) -> dict[str, list[str]]:
    """Names that tests use, or functions of the notebook, by the cell that sets them as handed out; answers' aside."""
    loads, given = {"LOAD_NAME", "LOAD_GLOBAL"}, [c for c in master.cells if grade_id(c) and not is_answer(c)]
    used = {name for c in given for op, name, inner in of_cell(c) if op in loads and (inner or is_test(c))}
    used -= {name for c in master.cells if is_answer(c) for name in names_set(c)}
    return {grade_id(c): sorted(names_set(c) & used) for c in given if not is_test(c)}


def grade_id(cell) -> str | None:
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def grade_ids(master: Path) -> set[str]:
    """The names of the cells of an assignment's master. Raises PoiseLabError for a file that is no notebook."""
    try:
        found = {grade_id(cell) for cell in read_json(master)["cells"]}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as e:
        raise PoiseLabError(
            f"{master} is no notebook that can be read ({type(e).__name__}: {e}); put the assignment's master right first"
        ) from None
    return found - {None}


def is_answer(cell) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_open(cell) -> bool:
    """Whether students write here: an answer, or a cell that gives no points and is not locked."""
    return is_answer(cell) or not cell.metadata.get("nbgrader", {}).get("locked")


def is_test(cell) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def called(i: int, cell) -> str:
    return f"cell {grade_id(cell)!r}" if grade_id(cell) else f"cell {i + 1}"
