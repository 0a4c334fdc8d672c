"""Files and folders are written whole, or what was there stays."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

import poise_lab as pl
from poise_lab import files
from poise_lab.files import check_writable, whole_folder, write_arrays, write_text

OLD = {"config.json": "old", "weights": "old", "gone.part": "old", "own.txt": "mine"}
NEW = {"config.json": "new", "weights": "new", "more": "new", "own.txt": "mine"}


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def replaced(folder: Path) -> None:
    """Put NEW where OLD lies; what is one's own stays."""
    with whole_folder(folder, without=("*.part",)) as partial:
        partial.mkdir()
        for name in ("config.json", "more", "weights"):
            write_text(partial / name, "new")


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in OLD.items():
        write_text(tmp_path / "f" / name, text)
    return tmp_path / "f"


def test_an_error_while_a_folder_is_replaced_leaves_what_was_there(folder, monkeypatch):
    """Wherever it comes: the disk, a file that another program holds open, Ctrl-C."""
    move = os.replace
    for moves in itertools.count():
        left = iter([True] * moves + [False])

        def failing(source, target, left=left):
            if Path(target).parent.parent == folder.parent and not next(left, True):
                raise PermissionError(13, "in use")
            move(source, target)

        monkeypatch.setattr(os, "replace", failing)
        try:
            replaced(folder)
        except PermissionError:
            assert content(folder) == OLD and [path.name for path in folder.parent.iterdir()] == ["f"]
        else:
            break
    assert moves > 5 and content(folder) == NEW and [path.name for path in folder.parent.iterdir()] == ["f"]


def test_a_kill_while_a_folder_is_replaced_leaves_no_mixture_that_is_loaded(folder, monkeypatch):
    move, seen = os.replace, []

    def watched(source, target):
        move(source, target)
        seen.append(content(folder))

    monkeypatch.setattr(os, "replace", watched)
    replaced(folder)
    for state in seen:
        assert state in (OLD, NEW) or "config.json" not in state
        assert len({*state.values()} - {"mine"}) < 2


def test_arrays_are_on_the_disk_or_not_at_all(tmp_path, monkeypatch):
    path, save, synced = tmp_path / "a.safetensors", files.save_file, []

    def full(arrays, partial):
        save(arrays, partial)
        raise ValueError("I/O error: No space left on device (os error 28)")

    write_arrays(path, {"a": np.zeros(3)})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        with pytest.raises(ValueError):
            write_arrays(path, {"a": np.ones(3)})
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before
    monkeypatch.setattr(os, "fsync", synced.append)
    write_arrays(path, {"a": np.ones(3)})
    write_text(tmp_path / "text", "1")
    assert len(synced) == 2


def test_a_drive_that_is_not_there(monkeypatch):
    """On Windows the parent of a drive is the drive."""
    asked = itertools.count()
    monkeypatch.setattr(Path, "exists", lambda self: next(asked) > 1000)
    with pytest.raises(pl.PoiseLabError, match="report /a/b.html cannot be written: there is no /$"):
        check_writable("/a/b.html", "report", file=True)
