"""Start a script as users do, with `accelerate launch`, on CPU processes that talk over gloo."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from poise_lab.launch import accelerate_command, cpu_environment

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**cpu_environment(), "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}


def launch(processes: int, *arguments, timeout: float = 400) -> subprocess.CompletedProcess:
    command = accelerate_command(processes, *arguments)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
