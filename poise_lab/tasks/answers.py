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
MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2212\ufe63\uff0d"), "-")  # signs as they are printed
# A dash right in front of a number is a sign, or makes it a part (5\u20136); with a blank behind it, it is a pause
DASH = re.compile(r"(?<![^\s\d$({\[=])[\u2012\u2013](?=[$.]?\d)")
FACTOR = r"[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218b\u03c0]"  # what makes another number of it: a power, 3½, 2π
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)"
MARKS = r"(?:\\?[^\w\s\\^+/\u00d7\u00b7\u00f7\u00b1\u221a-]|_)*"  # brackets, quotes, currency, bold type, the end of a sentence
AHEAD = re.compile(r"[=>\u2248]|(?<=[^\d\s]):|boxed\{")  # what may stand right in front of a number: x=5, Total:5
# One number, and no part of one; 5%, 5km, $5/day and 5-year-old have a unit
ONE_NUMBER = re.compile(
    rf"(?P<before>{MARKS})(?P<sign>[-+]?)\\?[$\u20ac\u00a3]?(?P<digits>{NUMBER})"
    rf"(?!{FACTOR}|x[\da-fA-F]|[kKM]\b)"  # nor 0xF, 5k
    r"(?:\^\{?\\circ\}?|(?:[-/][^\W\d_]{2}|\u00b0?[^\W\d_]|\\(?:text|mathrm|[,;!]))[^\d\s]*)?"
    rf"{MARKS}"
)
LISTED = re.compile(rf"(?:{MARKS}[-+]?{NUMBER})[,;]?")  # in front of another number: 1 234 and 3, 5
OPERATORS = set("+ - * / ^ \u00d7 \u00b7 \u00f7 \u00b1 \\times \\cdot \\div \\pm \\sqrt".split())
WHOLE = re.compile(r"[-+]?\d+")
CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z])")
# Behind the word "I" or "A": an apostrophe, or a word that does not speak of a choice
WORD = r"(?!['\u2019]|\s+(?!(?:is|are|or|and|but|because|since)\b)[a-z])"
CHOSEN = [  # the first of them that is found decides
    re.compile(rf"[Aa]nswer(?: is)?(?: option| choice)?(?:\\text|[^\w\n]){{0,9}}\b([A-HJ]|I{WORD})(?![A-Za-z])"),
    re.compile(rf"(?<![A-Za-z])([B-HJ]|[AI]{WORD})(?![A-Za-z])"),
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


def last_number(text: str) -> tuple[str | None, str]:
    """(the last number of a text with its sign and without commas, ""); (None, what it is a part of) if it does not stand alone.

    A part: 4 in 3/4, 12:04, 10-4, x^4 or `3 + 4`, 34 in `12 34` and `1, 34`. A sign may have a blank behind it: - 5 is -5.
    (None, "") if there is no number.
    """
    lines = [line.split() for line in DASH.sub("-", text.translate(MINUS)).splitlines()]
    words = next((line for line in reversed(lines) if any(map(_digits, line))), [])
    if not words:
        return None, ""
    at = max(i for i, word in enumerate(words) if _digits(word))
    before_that, before, word, behind, then = ["", "", *words, "", ""][at : at + 5]
    rest = AHEAD.split(word)[-1]
    found = ONE_NUMBER.fullmatch(rest)
    sign, operand = before.strip("$({[_*"), re.search(r"[\w)\]}%]\W?$", before_that)
    part = (
        not found
        or (sign in OPERATORS and (operand or sign not in "+-*"))
        or (rest == word and not found["before"] and LISTED.fullmatch(before))
        or (behind in OPERATORS - {"-"} and re.match(r"[A-Za-z](?!\w)|\(", then))
        or re.match(rf"{FACTOR}|[kM]\W*$", behind)
        or behind.startswith(("^", "\\sqrt", "\\pi", "\\times", "\\cdot", "\\div", "\\pm"))
    )
    if part:
        return None, " ".join(filter(None, (before, word, behind)))
    signed = found["sign"] or (sign if sign in ("+", "-") else "")
    return signed + found["digits"].replace(",", ""), ""


def _digits(word: str) -> bool:
    return any(letter.isdecimal() for letter in word)


def exact(text: str, answer: str) -> float:
    """The final answer is the reference, letter for letter but for blanks at the ends."""
    return float(final_answer(text) == answer.strip())


def number(text: str, answer: str) -> float:
    """The last number of the final answer is the reference, and stands alone, as `last_number` has it.

    Two whole numbers are compared exactly, others to one part in a million of the reference.
    """
    (given, _), (right, _) = last_number(final_answer(text)), last_number(answer)
    if given is None or right is None:
        return 0.0
    if WHOLE.fullmatch(given) and WHOLE.fullmatch(right):
        return float(Decimal(given) == Decimal(right))  # of any length, which int() is not
    return float(abs(float(given) - float(right)) <= 1e-6 * abs(float(right)))


def choice(text: str, answer: str) -> float:
    """The chosen letter, from A to J, is the reference's.

    Of the letters that stand alone in the final answer it is the last one behind "answer" or "answer is"; if there is
    none, the last one. The words "I" and "A" (I think, A triangle) count only where nothing else does.
    """
    given, right = _letters(final_answer(text)), _letters(answer)
    return float(bool(given and right) and given[-1] == right[-1])


def _letters(text: str) -> list[str]:
    """The letters that a text may choose, in their order; the last one counts."""
    return next(filter(None, (pattern.findall(text) for pattern in CHOSEN)), [])


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
        right, part = last_number(answer)
        if part:
            return f"ends with {part!r}, which is not one number that stands alone (write 0.75, 3.5 or 1234)"
        if right is None:
            return "has no number in it"
        if math.isinf(float(right)):
            return "is too large a number"
    if verifier == "choice":
        letters = sorted(set(_letters(answer)))
        if len(letters) > 1:
            return f"names {' and '.join(letters)}, of which only one could be right"
        if not letters:
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
        return json.loads(text, object_pairs_hook=lambda pairs: _record(pairs, where))
    except PoiseLabError:
        raise
    except json.JSONDecodeError as e:
        raise PoiseLabError(f"{where}: no JSON ({e})") from None
    except ValueError:  # the only other one
        most = sys.get_int_max_str_digits()
        raise PoiseLabError(f"{where}: a number has more than {most} digits; put it in quotes, as text") from None
    except RecursionError:
        raise PoiseLabError(f"{where}: lists or records lie too deep in one another; write them flat") from None


def _record(pairs: list[tuple[str, object]], where: str) -> dict:
    _check_names([name for name, _ in pairs], where)
    return dict(pairs)


def _check_names(names: Iterable[str], where: str) -> None:
    """Refuse two that are alike, of which one would be lost."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PoiseLabError(f"{where}: {name!r} stands there twice; give one of the two another name")
        seen.add(name)


def _table(path: Path, text: str) -> list[dict]:
    table = csv.DictReader(io.StringIO(text, newline=""))
    _check_names(filter(str.strip, table.fieldnames or ()), f"{path}, its header")
    rows = list(table)
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
