"""Questions and answers of one's own: read from a file, a list or a data set; and verifiers by name.

A verifier takes a response's text and the reference answer, and gives a number from 0 to 1. `final_answer` says what
counts of a text that is not just the answer: the last `\\boxed{...}`, else the last `<answer>...</answer>`, else all of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import runpy
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..errors import PoiseLabError

FILES = (".jsonl", ".json", ".csv", ".parquet")
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
MINUS = "\u2212"  # the sign as it is printed, which some policies write
FRACTION = re.compile(r"(\d\s*/|frac\s*\{[^{}]*\})\s*\{?\d[\d.,]*\D*$")  # 3/4, or \frac{3}{4}, at the end
CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z])")


def final_answer(text: str) -> str:
    """What counts of a text: the last `\\boxed{...}` (braces balanced), else the last `<answer>`, else all of it."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth, first = 1, start + len("\\boxed{")
        for end in range(first, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[first:end].strip()
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.S)
    return (tagged[-1] if tagged else text).strip()


def last_number(text: str) -> float | None:
    """The last number in a text, commas between thousands allowed; None if there is none."""
    numbers = NUMBER.findall(text.replace(MINUS, "-"))
    return float(numbers[-1].replace(",", "")) if numbers else None


def exact(text: str, answer: str) -> float:
    """The final answer is the reference, letter for letter but for blanks at the ends."""
    return float(final_answer(text) == answer.strip())


def number(text: str, answer: str) -> float:
    """The last number of the final answer is the reference, to one part in a million."""
    given, right = last_number(final_answer(text)), last_number(answer)
    return float(given is not None and right is not None and abs(given - right) <= 1e-6 * max(1.0, abs(right)))


def choice(text: str, answer: str) -> float:
    """The last letter from A to J that stands alone in the final answer is the reference's."""
    given, right = CHOICE.findall(final_answer(text)), CHOICE.findall(answer)
    return float(bool(given and right) and given[-1] == right[-1])


def regex(text: str, answer: str) -> float:
    """The reference, a regular expression, matches the whole final answer."""
    return float(re.fullmatch(answer, final_answer(text)) is not None)


def mathematics(text: str, answer: str) -> float:
    """The two are equal as mathematics, by the library `math-verify` (extra: math)."""
    from math_verify import parse, verify

    # its time limit is a signal, which only the main thread can have
    limit = 5 if threading.current_thread() is threading.main_thread() else None
    right = parse(f"\\boxed{{{answer}}}", parsing_timeout=limit)
    given = parse(text, parsing_timeout=limit)
    return float(verify(right, given, timeout_seconds=limit))


VERIFIERS: dict[str, Callable[[str, str], float]] = {
    "exact": exact, "number": number, "choice": choice, "regex": regex, "math": mathematics,
}  # fmt: skip


IN_FINAL = " (the last \\boxed{...}, else the last <answer>...</answer>, else all that follows the reasoning)"
LOOKED_FOR = {  # what of a response each of them compares with the answer, in words
    "exact": "the final answer" + IN_FINAL + ", letter for letter",
    "number": "the last number in the final answer" + IN_FINAL,
    "choice": "the last letter from A to J that stands alone in the final answer" + IN_FINAL,
    "regex": "the whole final answer" + IN_FINAL,
    "math": "the expression that math-verify finds",
}


def check_reference(verifier: str, answer: str) -> str | None:
    """What is wrong with a reference answer for a named verifier, or None: nothing could ever be right under it."""
    if verifier == "number":
        right = last_number(answer)
        if right is None:
            return "has no number in it"
        if math.isinf(right):
            return "is too large a number"
        if FRACTION.search(answer):
            return "ends with a fraction, of which the lower number alone would count"
    if verifier == "choice" and not CHOICE.findall(answer):
        return "has no letter from A to J that stands alone"
    if verifier == "regex":
        try:
            re.compile(answer)
        except re.error as e:
            return f"is no regular expression ({e})"
    return None


def function_at(place: str) -> Callable[[str, dict], float]:
    """The function that "rewards.py:score" names, from that file, which is run for it.

    Raises PoiseLabError for a file that is not there or does not run, or has no such function.
    """
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise PoiseLabError(f"verify={place!r}: there is no file {path}")
    try:
        function = runpy.run_path(path).get(name)
    except (Exception, SystemExit) as e:  # whatever a file of one's own raises
        raise PoiseLabError(f"verify={place!r}: the file stops with {type(e).__name__}: {e}") from e
    if not callable(function):
        raise PoiseLabError(f"verify={place!r}: the file has no function {name!r}")
    return function


def read_records(path: str | Path) -> list[dict]:
    """The rows of a JSONL, JSON (a list), CSV or parquet file.

    Raises PoiseLabError for a file that is not there, another ending, or a line that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise PoiseLabError(f"there is no file {path}")
    if path.suffix not in FILES:
        raise PoiseLabError(f"{path}: questions are read from {', '.join(FILES)}; convert the file to one of them")
    try:
        if path.suffix == ".parquet":
            return _parquet(path)
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if path.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise PoiseLabError(
                    f"{path}: a .json file must hold a list of records; write one record per line as .jsonl"
                )
            return rows
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as e:
        raise PoiseLabError(f"{path} cannot be read: {e}") from None
    rows = []
    for n, line in enumerate(text.split("\n"), 1):  # a text may hold what else Unicode calls the end of a line
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as e:
            raise PoiseLabError(f"{path}, line {n}: no JSON ({e})") from None
    return rows


def _parquet(path: Path) -> list[dict]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise PoiseLabError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as e:
        raise PoiseLabError(f"{path} cannot be read: {e}") from None


def rows_of(source: object, split: str | None) -> list[dict]:
    """Records of a file, a list of dicts, or a data set of the library `datasets`, as dicts.

    split: of a data set with several, its name; of other sources the rows whose column "split" says so.

    Raises PoiseLabError for something else, or a split that is not there.
    """
    if isinstance(source, (str, Path)):
        source = read_records(source)
    if isinstance(source, Mapping):  # datasets.DatasetDict
        if split not in source:
            raise PoiseLabError(f"the data set has the splits {', '.join(map(str, source))}; name one: split={split!r}")
        source, split = source[split], None
    if not isinstance(source, Iterable):
        raise PoiseLabError(f"a {type(source).__name__} holds no records; give a file, a list of dicts, or a data set")
    rows = list(source)
    for n, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise PoiseLabError(
                f"record {n} is a {type(row).__name__}; a record is a dict with a question and an answer"
            )
    if split is not None:
        names = sorted({str(row.get("split")) for row in rows})
        rows = [row for row in rows if str(row.get("split")) == str(split)]
        if not rows:
            raise PoiseLabError(f"no record is of split {split!r}; there are: {', '.join(names)}")
    return [dict(row) for row in rows]
