"""What an answer may do while it is graded: some verifiers run it as Python, or work out whatever it says."""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import signal
import sys
import threading
from types import BuiltinFunctionType, FunctionType

import sympy
from reasoning_gym.factory import DATASETS

SECONDS = 2.0  # of the processor's time for one answer; a right one takes a hundredth of that
BYTES = 2**30  # of memory, beyond what the process has
EVALUATING = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")  # with Python's eval
COMPUTING = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
# what those five give to sympy is run as Python too
PLAIN = {"abs", "max", "min", "pow", "round", "sum", "sqrt", "cbrt", "root", "expand", "factor", "simplify"}
NO_MATHEMATICS = re.compile(r"['\":\\]|<<|(?<!\d)\.\s*[^\W\d]")  # text, lambda, shifts, attributes
WORD = re.compile(r"[^\W\d]\w*")
NO_NUMBER = re.compile(r"(?<![a-z])(nan|inf|infinity)(?![a-hk-z])", re.IGNORECASE)
LARGE = re.compile(r"\d{6}")  # of this kind is what a verifier would make a list of, in one go

for _name in EVALUATING:  # lists are still read; nothing is run
    sys.modules[DATASETS[_name][0].__module__].eval = ast.literal_eval


class TooLong(BaseException):
    """Not an Exception, which verifiers catch."""


def check_answer(task: str, answer: str, right: object) -> None:
    """Raises ValueError for an answer that its task's verifier would run as a program, or that is no number.

    right: the reference. A verifier that measures how far an answer is from it may pay for what is at no distance.
    """
    if isinstance(right, str) and re.search(r"\d", right) and NO_NUMBER.search(answer) and not NO_NUMBER.search(right):
        raise ValueError("the answer is no number")
    if task in COMPUTING and (NO_MATHEMATICS.search(answer) or any(map(_does_something, WORD.findall(answer)))):
        raise ValueError("the answer is no mathematics")


def _does_something(word: str) -> bool:
    kinds = (vars(builtins).get(word), BuiltinFunctionType), (vars(sympy).get(word), FunctionType)
    return word.startswith("_") or (word not in PLAIN and any(isinstance(value, kind) for value, kind in kinds))


@contextlib.contextmanager
def limited(answer: str):
    """Within the context, TooLong is raised after SECONDS of the processor's time, and on Linux MemoryError beyond BYTES.

    By a signal, which the main thread alone can have; in another thread there are no limits.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    late = []

    def stop(*_):
        late.append(True)
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        with _memory() if LARGE.search(answer) else contextlib.nullcontext():
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    if late:  # a verifier may catch everything
        raise TooLong


@contextlib.contextmanager
def _memory():
    """Within the context, the process gets no more than BYTES: a list of 10^9 moves is made before a signal is looked at."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as f:
        most = int(f.read().split()[0]) * resource.getpagesize() + BYTES
    if soft != resource.RLIM_INFINITY:
        most = min(soft, most)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
