"""How many threads torch and BLAS compute on, and how these wait; imported before torch.

torch's OpenMP threads spin while they wait for each other, which gains a little on an idle machine and loses most of
it beside another busy process. How they wait is read from the environment when torch is loaded, so this module sets it
when it is imported; processes started from here inherit it. How many there are follows the policy. Nothing is set over
a user's own choice: the variables below, or torch.set_num_threads after this package was imported.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings

import psutil
from joblib import cpu_count
from threadpoolctl import threadpool_limits

COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
BRIEFLY = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
"""Rounds of spinning before a thread sleeps in GNU's OpenMP (Linux), and milliseconds in LLVM's and Intel's."""
PARAMETERS_PER_THREAD = 20_000_000
"""Matrix products of smaller policies are over before a second thread has gained anything to speak of."""

spins = "torch" in sys.modules and not any(name in os.environ for name in WAITING)
"""Whether torch was here first, so that its threads wait as they do by default."""

if not any(name in os.environ for name in WAITING):
    os.environ |= BRIEFLY

_used: int | None = None  # what `use` has set last


def usable() -> int:
    """Cores that this process may use: by its affinity, its container's quota, and its part among processes of torchrun."""
    counts = [cpu_count(), psutil.cpu_count(logical=False)]  # a core's second hyperthread adds nothing to products
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        counts.append(os.process_cpu_count())
    return max(1, min(filter(None, counts)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def use(threads: int) -> None:
    """Compute on so many threads from now on, whatever has been chosen."""
    global _used
    import torch  # not above: the environment must be set before

    torch.set_num_threads(threads)
    threadpool_limits(threads)  # BLAS of numpy and scipy too, which may have been loaded long before
    _used = torch.get_num_threads()


def use_one() -> None:
    """Compute on one thread for good: for a process that shares the cores with others like it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    use(1)


def use_for(parameters: int) -> None:
    """Compute on as many threads as pay for a policy of that size, unless the user has chosen.

    For a small policy that is one, whatever the machine, so that a run does not depend on its cores.
    """
    import torch

    if any(name in os.environ for name in COUNTS) or _used not in (None, torch.get_num_threads()):
        return
    threads = max(1, min(usable(), parameters // PARAMETERS_PER_THREAD))
    if spins and threads > 1:
        _say_once()
        threads = 1
    use(threads)


@functools.cache
def _say_once() -> None:
    warnings.warn(
        "torch was imported before poise_lab, and several threads of it would slow down whatever else runs here, so "
        "one is used; to use more, import poise_lab first or set OMP_NUM_THREADS before the start",
        stacklevel=3,
    )
