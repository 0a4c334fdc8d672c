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
NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+")
MINUS = "\u2212"  # the sign as it is printed, which some policies write
# What a sign stands behind is no number, name or bracket
SIGN = re.compile(r"(?<![^\W_])(?<![)\]}%])([-+])(?:[^\S\n]*|\\?[$€£])$")
# 3/4, or \frac{3}{4}, at the end
FRACTION = re.compile(r"(\d\s*/|frac\s*(\{[^{}]*\})?|\}\s*(?=\{))\s*\{?[-+]?\d[\d.,]*\D*$")
# Between two numbers that are parts of one (3,5 or 12:30 or 1 234 or 10^5), or of a list: a mark, a blank, or no more
JOINED = re.compile(r"(?:[^\S\n]?|[.:'\u2019_\u2013]|[,;][^\S\n]*|[^\S\n]*[-+*\u00d7\u00b7^][^\S\n]*\{?)[-+]?")
# An operator has a blank on both sides or on none, and a sign (-5) or a mark of bold type (**5**) on one side alone
OPERATOR = re.compile(
    r"(?:(?:[^\W_]|[)\]}%])(?:[-+*/_\u00d7\u00b7\u00f7]+|[^\S\n]+[-+*/\u00d7\u00b7\u00f7]+[^\S\n]+)"
    r"|\$[^\S\n]+[-+*/\u00d7\u00b7\u00f7][^\S\n]+|[\^\u221a\u00b1][^\S\n]*"
    r"|\\(?:times|cdot|div|pm)[^\S\n]*|sqrt[^\S\n]*(?:\[\d+\])?)[({]*[-+]?(?:\\?[$€£])?$"
)
# What makes the number in front of it a part: 2^n, 5\pi, 2+x; an angle (30^\circ) or a unit (km/h) does not
GOES_ON = re.compile(
    r"[^\S\n]*\^(?!\s*\{?\s*\\circ)|[^\S\n]*\\(?:sqrt|pi|times|cdot|div|pm)(?![a-z])"
    r"|(?:[-+*/\u00d7\u00b7\u00f7]|[^\S\n]+[+*/\u00d7\u00b7\u00f7][^\S\n]+)(?:[A-Za-z](?!\w)|\()"
)
WHOLE = re.compile(r"[-+]?\d+")
CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z])")
# Behind the word "I" or "A": an apostrophe, or a word that does not speak of a choice
WORD = r"(?!['\u2019]|\s+(?!(?:is|are|or|and|but|because|since)\b)[a-z])"
LETTER = rf"(?<![A-Za-z])([B-HJ]|[AI]{WORD})(?![A-Za-z])"
CHOSEN = [  # the first of them that is found decides
    re.compile(rf"[Aa]nswer(?: is)?(?: option| choice)?(?:\\text|[^\w\n]){{0,9}}\b([A-HJ]|I{WORD})(?![A-Za-z])"),
    re.compile(rf"{LETTER}(?=[)\]}}])"),
    re.compile(rf"{LETTER}(?=[.:]|\W*$)"),
    re.compile(LETTER),
    CHOICE,
]


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


def _last(text: str) -> tuple[str, str, str] | None:
    """The last number of a text as it stands there, and what stands before and behind it; None if there is none."""
    *_, last = [None, *NUMBER.finditer(text)]
    return last and (last[0], text[: last.start()], text[last.end() :])


def _written(text: str) -> str | None:
    """The last number of a text with its sign, without commas."""
    found = _last(text.replace(MINUS, "-"))
    if found is None:
        return None
    sign = SIGN.search(found[1])
    return (sign[1] if sign else "") + found[0].replace(",", "")


def _has_parts(text: str) -> bool:
    """Whether another number is joined to the last one."""
    text = text.replace(MINUS, "-")
    *_, before, last = [None, None, *NUMBER.finditer(text)]
    return before is not None and JOINED.fullmatch(text, before.end(), last.start()) is not None


def _only_part(text: str) -> str | None:
    """What the last number of a text is a part of, in words that go on after the text; None where it stands alone."""
    if FRACTION.search(text.replace(MINUS, "-")):
        return "ends with a fraction, of which the lower number alone would count"
    if _has_parts(text):
        return "has several numbers, of which only the last would count (write 3.5 or 1234)"
    found = _last(text.replace(MINUS, "-"))
    if found and (OPERATOR.search(found[1]) or GOES_ON.match(found[2])):
        return "ends with an expression, of which the last number alone would count"
    return None


def exact(text: str, answer: str) -> float:
    """The final answer is the reference, letter for letter but for blanks at the ends."""
    return float(final_answer(text) == answer.strip())


def number(text: str, answer: str) -> float:
    """The last number of the final answer is the reference: two whole ones exactly, others to one part in a million.

    It must stand alone: 3/4 is not 4, nor are 12:04, 10-4, x^4. A sign may have a blank behind it: - 5 is -5.
    """
    said = final_answer(text)
    given, right = _written(said), _written(answer)
    if given is None or right is None or _only_part(said):
        return 0.0
    if WHOLE.fullmatch(given) and WHOLE.fullmatch(right):
        return float(Decimal(given) == Decimal(right))  # of any length, which int() is not
    return float(abs(float(given) - float(right)) <= 1e-6 * max(1.0, abs(float(right))))


def choice(text: str, answer: str) -> float:
    """The chosen letter, from A to J, is the reference's.

    Of the letters that stand alone in the final answer it is the last one behind "answer" or "answer is"; if there is
    none, the last one in brackets; else before a full stop, a colon or the end; else the last one. The words "I" and "A"
    (I think, A triangle) count only where nothing else does.
    """
    given, right = _chosen(final_answer(text)), _chosen(answer)
    return float(given is not None and given == right)


def _chosen(text: str) -> str | None:
    """The letter that a text chooses; None if there is none."""
    return next((found[-1] for found in (pattern.findall(text) for pattern in CHOSEN) if found), None)


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
    "number": "the last number in the final answer" + IN_FINAL + ", unless it is a part of 3/4, 12:30 or x^2",
    "choice": "the letter from A to J that the final answer chooses" + IN_FINAL,
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
        return _only_part(answer)
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
