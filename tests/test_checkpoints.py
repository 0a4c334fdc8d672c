"""Checkpoints in the order of their steps."""

from __future__ import annotations

import pytest
import torch

from poise_lab import checkpoints


def test_the_last_two_stay_past_a_million_steps(tmp_path):
    """Their names are longer from there on, and sorted as texts they would come first."""
    for step in (999_998, 999_999, 1_000_000, 1_000_001):
        checkpoints.save(tmp_path, step, {"model": {"a": torch.zeros(1)}})
        assert checkpoints.step_of(checkpoints.saved(tmp_path)[-1]) == step
    assert [path.name for path in checkpoints.saved(tmp_path)] == ["step-1000000", "step-1000001"]
    assert [path.name for path in checkpoints.numbered(tmp_path, r"step-(\d+)")] == ["step-1000000", "step-1000001"]
    assert checkpoints.numbered(tmp_path / "none", r"step-(\d+)") == []


def test_a_full_disk_gets_back_what_was_written_and_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    parts = {"model": {"a": torch.zeros(1)}, "optimizer": {"b": torch.zeros(1)}}
    checkpoints.save(tmp_path, 1, parts)
    save_file = checkpoints.save_file

    def full(tensors, path):
        save_file(tensors, path)
        if path.name == "optimizer.safetensors":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, 2, parts)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
