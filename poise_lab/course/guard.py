"""What runs in the kernel of a submission while it is graded: closed doors, and the names that the notebook gives.

The tests of an assignment run in the process of the submission, so nothing here stops a determined attacker: it
stops plain Python from reading solutions, changing the grader or another submission, starting processes and using
the network. Python's audit hooks see such a call before it happens, on every system, and cannot be taken out again.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

# The event's first arguments are paths that would be changed.
CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime", "sqlite3.connect",
}  # fmt: skip
PROCESSES = {
    "_winapi.CreateProcess", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.system", "pty.spawn", "subprocess.Popen",
}  # fmt: skip
LOCAL = {None, "", "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1"}
given: dict[str, object] = {}


def lock(own: list[str], closed: list[str]) -> None:
    """From now on in this process: write under `own` only, read nothing under `closed` except what is `own` too."""
    own = [os.path.realpath(path) for path in own] + [os.path.realpath(os.devnull)]
    closed = [os.path.realpath(path) for path in closed]
    realpath, normcase, sep, pid, fspath = os.path.realpath, os.path.normcase, os.sep, os.getpid(), os.fspath
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def inside(path, folders):
        path = normcase(path)
        return any(path == normcase(folder) or path.startswith(normcase(folder) + sep) for folder in folders)

    def door(path, change):
        if path is None or isinstance(path, int):
            return
        path = fspath(path)
        path = realpath(os.fsdecode(path) if isinstance(path, bytes) else path)
        if inside(path, own) or not change and not inside(path, closed):
            return
        raise PermissionError(f"while it is graded, a notebook may not {'change' if change else 'read'} {path}")

    def hook(event, args):
        if event == "open":
            door(args[0], bool((args[2] or 0) & writing))
        elif event in ("os.listdir", "os.scandir"):
            door(args[0], False)
        elif event in CHANGES:
            if args[0] not in (":memory:", b":memory:"):
                for path in args[:2] if event in ("os.link", "os.rename", "os.symlink") else args[:1]:
                    door(path, True)
        elif event in PROCESSES or event in ("os.kill", "os.killpg") and args[0] != pid:
            raise PermissionError(f"while it is graded, a notebook may not start or end processes ({event})")
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            host = args[0] if event == "socket.getaddrinfo" else args[1]
            host = host[0] if isinstance(host, tuple) else host
            if host not in LOCAL:
                raise PermissionError(f"while it is graded, a notebook has no network ({host})")

    if sys.platform != "win32":
        import _posixsubprocess  # what multiprocessing calls, without an event

        def refuse(*args):
            raise PermissionError("while it is graded, a notebook may not start or end processes (multiprocessing)")

        _posixsubprocess.fork_exec = refuse
    sys.addaudithook(hook)


def keep(namespace: dict, names: list[str]) -> None:
    """Remember what these names stand for: a cell of the notebook as handed out has just set them."""
    given.update({name: namespace[name] for name in names if name in namespace})


def ready(namespace: dict) -> None:
    """Before a test: the checker as it is on disk, and the notebook's own names; prints those that were changed."""
    if "poise_lab.course.checks" in sys.modules:
        importlib.reload(sys.modules["poise_lab.course.checks"])
    changed = [name for name, value in given.items() if namespace.get(name, given) is not value]
    namespace.update(given)
    print(json.dumps(changed))
