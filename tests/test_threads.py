"""How many threads a process computes on, and how they wait. Each program runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from poise_lab import threads
from poise_lab.threads import BRIEFLY, COUNTS, PARAMETERS_PER_THREAD, WAITING

WHOLE = "import poise_lab"
ALONE = f"""
import sys, types
sys.modules["poise_lab"] = types.ModuleType("poise_lab")  # the rest of the package takes seconds to load
sys.modules["poise_lab"].__path__ = [{str(Path(threads.__file__).parent)!r}]
"""
SAY = """
import json, os, warnings
from poise_lab import threads
import torch, threadpoolctl
threads.usable = {usable}
{first}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    counts = []
    for parameters in (0, threads.PARAMETERS_PER_THREAD * 2, threads.PARAMETERS_PER_THREAD * 9):
        threads.use_for(parameters)
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        counts.append(sorted({{*pools, torch.get_num_threads()}}))
names = [*threads.COUNTS, *threads.WAITING]
print(json.dumps([counts, len(caught), {{name: os.environ[name] for name in names if name in os.environ}}]))
"""


def said(program: str, **settings: str):
    """What a program prints, without the settings for threads that these tests themselves run with."""
    env = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)}
    env |= {"PYTHONPATH": str(Path(threads.__file__).parents[1]), **settings}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def counted(before: str = ALONE, usable: str = "lambda: 3", first: str = "", **settings: str) -> tuple:
    """Threads for three sizes of policies, how often something was said, and the settings, in a process of its own."""
    return tuple(said(before + SAY.format(usable=usable, first=first), **settings))


def test_small_policies_have_one_thread_and_large_ones_what_pays():
    one = "assert {1, torch.get_num_threads()} == {pool['num_threads'] for pool in threadpoolctl.threadpool_info()}"
    counts, warned, environment = counted(WHOLE, first=one)  # before a policy is loaded
    assert counts == [[1], [2], [3]] and warned == 0
    assert environment == BRIEFLY  # and with that, processes started from here choose for themselves


@pytest.mark.parametrize("name", COUNTS)
def test_a_number_of_the_users_stays(name):
    counts, _, environment = counted(**{name: "2"})
    assert counts[0] == counts[1] == counts[2] and 2 in counts[0]
    assert environment == {name: "2", **BRIEFLY}


@pytest.mark.parametrize(
    "name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE"), ("KMP_BLOCKTIME", "9")]
)
def test_a_way_of_waiting_of_the_users_stays(name, value):
    assert counted("import torch" + ALONE, **{name: value}) == ([[1], [2], [3]], 0, {name: value})


def test_a_number_set_in_torch_stays():
    counts, *_ = counted(first="threads.use_for(0); torch.set_num_threads(5)")
    assert all(5 in each for each in counts)


def test_a_torch_that_came_first_computes_on_one_thread_with_one_sentence():
    assert counted("import torch" + ALONE)[:2] == ([[1], [1], [1]], 1)


def test_a_worker_stays_on_one_thread():
    assert counted(first="threads.use_one()")[0] == [[1], [1], [1]]


def test_the_cores_are_those_that_may_be_used(monkeypatch):
    from joblib.externals.loky.backend import context

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 48, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical: 32)
    monkeypatch.setattr(context, "_cpu_count_cgroup", lambda cores: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert threads.usable() == 12
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical: None)  # not known
    assert threads.usable() == 12
    monkeypatch.setattr(os, "process_cpu_count", lambda: 9)
    assert threads.usable() == 9
    monkeypatch.setattr(context, "_cpu_count_cgroup", lambda cores: 6)
    assert threads.usable() == 6
    for processes, each in (("2", 3), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert threads.usable() == each


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_one_core_is_one_thread():
    on_one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    assert counted(on_one + ALONE, usable="threads.usable")[0] == [[1], [1], [1]]


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_threads_that_wait_take_no_time():
    """Processor seconds of two threads with a pause after each of their products."""
    program = """
from poise_lab import threads
import time, torch
torch.set_num_threads(2)
a = torch.randn(256, 256)
a @ a
start = time.process_time()
for _ in range(30):
    a @ a
    time.sleep(0.02)
print(time.process_time() - start)
"""
    assert said(ALONE + program) < said(ALONE + program, OMP_WAIT_POLICY="ACTIVE") / 3


def test_a_policy_sets_its_number(qwen, monkeypatch):
    asked = []
    monkeypatch.setattr(threads, "use_for", asked.append)
    qwen.__post_init__()
    assert asked == [qwen.model.num_parameters()] and asked[0] < PARAMETERS_PER_THREAD
