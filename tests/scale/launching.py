"""Start a script as users do, with `accelerate launch`, on CPU processes that talk over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(processes: int, *arguments) -> list[str]:
    """The command line. On a machine without a GPU `--multi_gpu` starts processes on the CPU, `--cpu` a single one."""
    with socket.socket() as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    start += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    start += ["--multi_gpu", "--main_process_port", str(port)] if processes > 1 else []
    return start + [str(a) for a in arguments]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": paths,
        "HF_HUB_OFFLINE": "1",
    }


def launch(processes: int, *arguments, timeout: float = 400) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(processes, *arguments), env=environment(), capture_output=True, text=True, timeout=timeout
    )
