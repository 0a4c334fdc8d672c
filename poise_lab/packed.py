"""A pass over prompts with all their responses, in one row without padding.

A prompt is run once and each response sees it and itself: a tree. Layers work on tokens one by one and do not mind what
stands beside them; attention does, so within such a pass transformers is given one that takes each tree for itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from .engine import trunk_of

NAME = "poise_lab_packed"
_trees: tuple[list[int], list[torch.Tensor | None]] | None = None  # of the pass that runs: their tokens and masks


def packed_states(model, trees: Sequence[tuple[list[int], list[list[int]]]]) -> tuple[torch.Tensor, list[list[int]]]:
    """The trunk's output over trees: a prompt and the responses to it each, as token ids.

    Returns states (N, D), and for each response in turn the places in it of the prompt's and of its own tokens.
    """
    ids, positions, places, sizes, masks = [], [], [], [], []
    for prompt, responses in trees:
        start, at, owner = len(ids), list(range(len(prompt))), [-1] * len(prompt)
        ids += prompt
        for i, response in enumerate(responses):
            places.append([*range(start, start + len(prompt)), *range(len(ids), len(ids) + len(response))])
            ids += response
            at += range(len(prompt), len(prompt) + len(response))
            owner += [i] * len(response)
        positions += at
        sizes.append(len(at))
        masks.append(_mask(at, owner).to(model.device, model.dtype) if len(responses) > 1 else None)
    with _attending(model, (sizes, masks)):
        inputs = (torch.tensor([numbers], device=model.device) for numbers in (ids, positions))
        out = trunk_of(model)(**dict(zip(("input_ids", "position_ids"), inputs, strict=True)), use_cache=False)
    return out.last_hidden_state[0], places


def _mask(at: list[int], owner: list[int]) -> torch.Tensor:
    """(T, T) 0 where a token of a tree sees another: of the prompt or of its own response, and not behind it; else -inf."""
    at, owner = torch.tensor(at), torch.tensor(owner)
    sees = ((owner == -1) | (owner == owner[:, None])) & (at <= at[:, None])
    return torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)


@contextlib.contextmanager
def _attending(model, trees):
    """Within the context, attention is that of these trees."""
    global _trees
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}.values()
    before = [config._attn_implementation for config in configs]
    try:
        _trees = trees
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        _trees = None
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _attention(module, query, key, value, attention_mask, scaling=None, **more):
    """(1, H, N, d) of a layer -> (1, N, H, d). What a model asks of attention beyond that is not done here."""
    asked = {name for name in ("softcap", "s_aux", "head_mask", "position_bias") if more.get(name) is not None}
    if asked or attention_mask is not None or _trees is None:
        raise NotImplementedError(f"packed attention with {asked or 'a mask'}")
    sizes, masks = _trees
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), masks, strict=True)
    outs = [scaled_dot_product_attention(q, k, v, m, is_causal=m is None, scale=scaling) for q, k, v, m in parts]
    return torch.cat(outs, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention)
