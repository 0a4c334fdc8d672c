"""Starting the processes of a run, and what is left when one of them is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from ..checkpoints import numbered
from ..errors import PoiseLabError


class ProcessLostError(PoiseLabError):
    """Another process of the run was lost; what this one has written is gone on with."""


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def accelerate_command(processes: int, *arguments) -> list[str]:
    """`accelerate launch` on this machine, as a list for subprocess, with a port that is free now.

    Without a GPU several processes run on the CPU and talk over gloo; accelerate wants --multi_gpu for that too.
    """
    launch = f"-m accelerate.commands.launch --num_processes {processes} --num_machines 1"
    start = [sys.executable, *f"{launch} --mixed_precision no --dynamo_backend no".split()]
    start += ["--multi_gpu", "--main_process_port", str(free_port())] if processes > 1 else []
    return start + [str(argument) for argument in arguments]


def cpu_environment() -> dict[str, str]:
    """The environment for processes that are to stay on the CPU. accelerate gives each of them one thread."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def whole_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first. A kill may leave one that is not whole."""
    found = numbered(folder, r"checkpoint-(\d+)")
    return [path for path in found if (path / "trainer_state.json").is_file()]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run folder, None if there is none."""
    return (whole_checkpoints(folder) or [None])[-1]


@contextlib.contextmanager
def refused_by_all():
    """What one process refuses within the context, the first, all refuse in its words, instead of waiting for it."""
    said: list[str | None] = [None]
    try:
        yield
    except PoiseLabError as e:
        said = [str(e)]
    broadcast_object_list(said)
    if said[0] is not None:
        raise PoiseLabError(said[0])


@contextlib.contextmanager
def one_sentence_if_a_process_is_lost(folder: Path, processes: int):
    """Within the context, the end of another process ends this one with a sentence that says how to go on.

    The launcher then sends SIGTERM to the rest. A process that waits for the others inside C++ (NCCL) never gets to run
    a signal handler of Python's, so a thread of its own does it: the interpreter writes each signal's number to a pipe
    at once, and the thread reads from that.
    """

    def how_to_go_on(reason: str) -> str:
        checkpoint = last_checkpoint(folder)
        saved = f"the last checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        return f"{reason}; {saved}; start the same command again with --resume"

    def watch(pipe: int) -> None:
        while number := os.read(pipe, 1):
            if number[0] == signal.SIGTERM:
                reason = "stopped by the launcher: another process of the run was lost, or the job was ended"
                os.write(2, f"poise-lab: {how_to_go_on(reason)}\n".encode())
                os._exit(143)  # peers are gone: nothing that waits for them may run
        os.close(pipe)

    if processes == 1:
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=watch, args=(read_end,), daemon=True, name="signals").start()
    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(write_end)
    try:
        yield
    except RuntimeError as e:
        words = ("gloo", "nccl", "connection")
        if not (isinstance(e, torch.distributed.DistError) or any(word in str(e).lower() for word in words)):
            raise
        reason = f"another process of the run was lost or stopped answering ({str(e).strip().splitlines()[0]})"
        raise ProcessLostError(how_to_go_on(reason)) from None
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.set_wakeup_fd(before[1])
        os.close(write_end)  # ends the thread
