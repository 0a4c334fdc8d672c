"""Questions and answers of one's own: read from a file, a list or a data set; and verifiers by name.

A verifier takes a response's text and the reference answer, and gives a number from 0 to 1. `final_answer` says what
counts of a text that is not just the answer: the last `\\boxed{...}`, else the last `<answer>...</answer>`, else all of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from ..errors import PoiseLabError

FILES = (".jsonl", ".json", ".csv", ".parquet")
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
MINUS = "\u2212"  # the sign as it is printed, which some policies write
FRACTION = re.compile(r"(\d\s*/|frac\s*\{[^{}]*\})\s*\{?\d[\d.,]*\D*$")  # 3/4, or \frac{3}{4}, at the end
# Between two numbers that are parts of one (3,5 or 12:30 or 1 234 or 10^5), or of a list: a mark, a blank, or no more
JOINED = re.compile(r"[^\S\n]?|[.:'\u2019_]|[,;][^\S\n]*|[^\S\n]*[*\u00d7\u00b7^][^\S\n]*\{?")
WHOLE = re.compile(r"[-+]?\d+")
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
    written = _written(text)
    return None if written is None else float(written)


def _written(text: str) -> str | None:
    """The last number as it stands in a text, without commas."""
    numbers = NUMBER.findall(text.replace(MINUS, "-"))
    return numbers[-1].replace(",", "") if numbers else None


def _has_parts(text: str) -> bool:
    """Whether another number is joined to the last one."""
    text = text.replace(MINUS, "-")
    *_, before, last = [None, None, *NUMBER.finditer(text)]
    return before is not None and JOINED.fullmatch(text, before.end(), last.start()) is not None


def exact(text: str, answer: str) -> float:
    """The final answer is the reference, letter for letter but for blanks at the ends."""
    return float(final_answer(text) == answer.strip())


def number(text: str, answer: str) -> float:
    """The last number of the final answer is the reference: two whole ones exactly, others to one part in a million."""
    given, right = _written(final_answer(text)), _written(answer)
    if given is None or right is None:
        return 0.0
    if WHOLE.fullmatch(given) and WHOLE.fullmatch(right):
        return float(Decimal(given) == Decimal(right))  # of any length, which int() is not
    return float(abs(float(given) - float(right)) <= 1e-6 * max(1.0, abs(float(right))))


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
        if _has_parts(answer):
            return "has several numbers, of which only the last would count (write 3.5 or 1234)"
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
    if os.path.isdir(path):
        raise PoiseLabError(f"{path} is a folder; name a file in it")
    if not os.path.isfile(path):  # Path's own raises on a name that is too long
        raise PoiseLabError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind not in FILES:
        raise PoiseLabError(f"{path}: questions are read from {', '.join(FILES)}; convert the file to one of them")
    try:
        if kind == ".parquet":
            return _parquet(path)
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
        if kind == ".csv":
            return _table(path, text)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise PoiseLabError(f"{path} cannot be read: {e}") from None
    if kind == ".json":
        rows = _json(text, f"{path}")
        if not isinstance(rows, list):
            raise PoiseLabError(
                f"{path}: a .json file must hold a list of records; write one record per line as .jsonl"
            )
        return rows
    rows = []
    for n, line in enumerate(text.split("\n"), 1):  # a text may hold what else Unicode calls the end of a line
        rows += [_json(line, f"{path}, line {n}")] if line.strip() else []
    return rows


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise PoiseLabError(f"{where}: no JSON ({e})") from None
    except ValueError:  # the only other one
        most = sys.get_int_max_str_digits()
        raise PoiseLabError(f"{where}: a number has more than {most} digits; put it in quotes, as text") from None
    except RecursionError:
        raise PoiseLabError(f"{where}: lists or records lie too deep in one another; write them flat") from None


def _table(path: Path, text: str) -> list[dict]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for n, row in enumerate(rows):
        if None in row:  # cells without a column
            raise PoiseLabError(f"{path}: record {n} has more cells than the header; put a text with a comma in quotes")
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
