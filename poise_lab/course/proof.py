"""Grade the grader: the untouched notebook, the solution, other right answers, and planted wrong ones."""

from __future__ import annotations

from pathlib import Path

from . import TIMEOUT
from .grading import PLANTED, RIGHT, Classroom, PlantedAnswer, planted_answers


def check(source: Path, timeout: int = TIMEOUT, show=print) -> list[str]:
    """Grade untouched, solution, other right answers and planted ones; returns what is not as it should be."""
    wrong = []
    with Classroom(source, timeout) as room:
        room.desk.controlled = False  # planted answers are not out to deceive, and are themselves what is checked here
        room.require_reference()
        untouched = room.grade("untouched", room.released)
        show(f"{room.name}\n  {untouched}")
        if untouched.total:
            wrong.append(f"{room.name}: the untouched notebook gets {untouched.total:g} points")
        show(f"  {'solution':32} {untouched.full:5g} of {untouched.full:g}")
        for folder in sorted((source / PLANTED).glob(f"{RIGHT}*")):
            others = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
            graded = room.grade(f"{folder.name}, in another way", room.solved(others))
            show(f"  {graded}")
            if graded.total != graded.full:
                wrong.append(
                    f"{room.name}: right answers in {PLANTED}/{folder.name} get {graded.points}: {graded.messages}"
                )
        for together in rounds(planted_answers(source)):
            amiss = graded_as_planted(room, together, show)
            if amiss and len(together) > 1:  # one may have got in the way of another
                amiss = [line for answer in together for line in graded_as_planted(room, [answer], show)]
            wrong += amiss
        room.desk.controlled = True
        if not wrong:
            room.require_reference()
    return wrong


def rounds(answers: list[PlantedAnswer]) -> list[list[PlantedAnswer]]:
    """Planted answers that one notebook can hold: to different cells, with no test that two of them should fail."""
    found: list[list[PlantedAnswer]] = []
    for answer in answers:
        for others in found:
            if all(answer.cell != other.cell and not {*answer.loses} & {*other.loses} for other in others):
                others.append(answer)
                break
        else:
            found.append([answer])
    return found


def graded_as_planted(room: Classroom, answers: list[PlantedAnswer], show) -> list[str]:
    """Grade one notebook with these answers; returns what is not as it should be."""
    names = ", ".join(answer.name for answer in answers)
    graded = room.grade("planted", room.solved({answer.cell: answer.source for answer in answers}))
    loses = {test for answer in answers for test in answer.loses}
    expected = {test: 0 if test in loses else full for test, full in graded.of.items()}
    show(f"  {graded.total:5g} of {graded.full:g} with {names}")
    wrong = []
    if graded.points != expected or not loses <= graded.of.keys():
        wrong.append(f"{room.name}: planted {names} gets {graded.points}, expected {expected}: {graded.messages}")
    for answer in answers:
        told = [m for m in graded.messages if len(answers) == 1 or m.split(":")[0] in answer.loses]
        if not any(answer.says in message for message in told):
            wrong.append(f"{room.name}: planted {answer.name} is not told {answer.says!r} but {graded.messages}")
    return wrong
