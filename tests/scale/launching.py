"""Start a script as users do, with `accelerate launch`, on CPU processes that talk over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from poise_lab.trl.processes import accelerate_command, cpu_environment, free_port

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**cpu_environment(), "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}


def launch(processes: int, *arguments, config: Path | None = None, timeout: float = 400) -> subprocess.CompletedProcess:
    """config: a file of accelerate's that says how processes are started, instead of flags."""
    command = accelerate_command(processes, *arguments)
    if config:
        port = ["--main_process_port", str(free_port())] if processes > 1 else []
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *port]
        command += map(str, arguments)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
