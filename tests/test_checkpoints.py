"""Checkpoints in the order of their steps."""

from __future__ import annotations

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
