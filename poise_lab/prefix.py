"""Prompts that begin alike: the beginning is run once, and its keys and values serve every row.

Examples in front of a problem are the same for all problems of a task, and most of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .policies import Policy

WORTH = 32  # tokens; a shorter common beginning is not worth a pass of its own


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """Tokens at the start that all prompts have in common, at least one less than any of them; 0 if under WORTH."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # what the first and the last in order share, all between them share
    n, most = 0, min(map(len, prompts)) - 1
    while n < most and first[n] == last[n]:
        n += 1
    return n if n >= WORTH else 0


def run_prefix(policy: Policy, ids: list[int], cache) -> torch.Tensor:
    """Fill an empty cache with a beginning, one row of it; returns the trunk's output (1, tokens, D)."""
    return policy.model.base_model(
        input_ids=torch.tensor([ids], device=policy.device), past_key_values=cache, use_cache=True
    ).last_hidden_state
