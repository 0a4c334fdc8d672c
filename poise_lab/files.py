"""Files written atomically, and where a recorded number comes from."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.numpy import save_file

from .errors import PoiseLabError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
LAST = "config.json"  # of a folder that is replaced: without it nothing is loaded
PACKAGES = ("torch", "transformers", "reasoning-gym", "scikit-learn", "numpy")


def provenance() -> dict:
    """Versions, threads, date, and commit in a checkout: what a recorded number needs to be made again."""
    commit = checkout()
    return {
        **({"commit": commit} if commit else {}),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def checkout() -> str | None:
    """The commit of the git checkout that this package is used from, "-dirty" behind it if files were changed."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # installed elsewhere; a repository further up is another one
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def check_writable(path: str | Path, what: str, file: bool = False) -> None:
    """Try whether a folder, or a file, can be written before the work for it begins; leaves nothing behind.

    Raises PoiseLabError that names it (what: "folder", "report").
    """
    path = Path(path).absolute()
    place = path.parent if file else path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        if file and path.is_dir():
            raise IsADirectoryError(None, "Is a directory")
        if not place.exists():  # of Windows, whose drives are no folders of one root
            raise FileNotFoundError(None, f"there is no {place}")
        if not place.is_dir():
            raise NotADirectoryError(None, "Not a directory")
        tempfile.TemporaryFile(dir=place).close()
    except OSError as e:
        raise PoiseLabError(f"{what} {path} cannot be written: {e.strerror}") from None


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within the context no other process that asks for the same gets it; a killed one holds nothing.

    The folder itself is locked, or a file LOCK in it where a system locks no folders (Windows). A folder that is not
    there, and a network drive without such locks, keeps nobody out.

    Raises PoiseLabError while another process is in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            if fcntl:
                place = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, place)
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif folder.is_dir():
                stack.enter_context(FileLock(folder / LOCK, timeout=0))
        except (BlockingIOError, Timeout):
            raise PoiseLabError(
                f"folder {folder} is being written by another process; wait until that ends, or choose another folder"
            ) from None
        except OSError:
            pass
        yield


@contextlib.contextmanager
def whole_folder(folder: str | Path, without: Sequence[str] = ()) -> Iterator[Path]:
    """Within the context, a folder to fill; at its end all that is in it stands in `folder`, and after an error nothing.

    What a folder that is there holds besides stays in it. There, files are moved one by one: an error moves them back,
    and a kill in between leaves some of the old or some of the new, never of both, and never config.json.

    without: patterns of files that do not stay in `folder` where the new ones have no such file.

    Raises PoiseLabError for a place that cannot be written.
    """
    folder = Path(folder).resolve()
    check_writable(folder, "folder")
    partial, old = (folder.with_name(f"{folder.name}.{kind}") for kind in ("partial", "old.partial"))
    for rest in (partial, old):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        yield partial
        if folder.exists():
            old.mkdir()
            names = sorted((path.name for path in partial.iterdir()), key=lambda name: name == LAST)
            goes = {path.name for pattern in without for path in folder.glob(pattern)}
            goes |= {name for name in names if (folder / name).exists()}
            out = [(folder / name, old / name) for name in sorted(goes, key=lambda name: name != LAST)]
            move_all(out + [(partial / name, folder / name) for name in names])
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # it is empty, unless what went wrong could not be moved back either
            old.rmdir()


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move files or folders in their order, (from, to) each; an error moves them back before it is raised."""
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:  # Ctrl-C among them
        for source, target in reversed(done):
            os.replace(target, source)
        raise


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Within the context, a file to write; at its end it stands at `path`, and after an error nothing of it is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:  # safetensors has errors of its own
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_json(path: str | Path, value) -> None:
    """Write JSON atomically, indented."""
    write_text(path, as_json(value))


def as_json(value) -> str:
    """A value as `write_json` writes it. Raises TypeError for what JSON cannot hold."""
    return json.dumps(value, indent=1) + "\n"


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as safetensors, atomically."""
    with whole_file(path) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)


def read_json(path: str | Path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def json_line(value: dict) -> str:
    """One line of a .jsonl file."""
    return json.dumps(value) + "\n"
