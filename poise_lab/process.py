"""What a process takes: seconds, memory, and Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time

import torch
from threadpoolctl import threadpool_limits
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def without_bars():
    """No bar of transformers in the context: one for each load and save says nothing that a notebook should keep."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def timed(seconds: dict, part: str):
    """Add the seconds spent in the context to seconds[part]."""
    start = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start


def timed_as(part: str):
    """Decorator of a method: the seconds spent in it are added to its object's `seconds[part]`."""

    def decorate(method):
        @functools.wraps(method)
        def call(self, *args, **kwargs):
            with timed(self.seconds, part):
                return method(self, *args, **kwargs)

        return call

    return decorate


@contextlib.contextmanager
def one_thread():
    """One thread for torch and for the linear algebra of NumPy within the context: what it makes repeats."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def finish_step_on_interrupt():
    """Within the context the first Ctrl-C only fills the list that it yields; the second one interrupts."""
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    previous = signal.getsignal(signal.SIGINT)

    def handler(number, frame):
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(number)

    signal.signal(signal.SIGINT, handler)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (psutil's current figure where there is no peak)."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().rss / 1e6
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
