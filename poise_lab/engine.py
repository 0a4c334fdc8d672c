"""How a causal LM of transformers is run: its trunk, its head, and rows that grow token by token.

Nothing here knows families of models by name. Whether a model can be run in these ways is what `ways` finds out.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPast

# --- the model's parts -----------------------------------------------------------------------------


def trunk_of(model) -> torch.nn.Module:
    """The model without its head: its base model, or the part that holds the list of layers, or all of it if none does."""
    if model.base_model is not model:
        return model.base_model
    parts = (part for part in model.children() if any(isinstance(m, torch.nn.ModuleList) for m in part.children()))
    return next(parts, model)


def decoder_layers(model) -> torch.nn.ModuleList | None:
    """The decoder layers, in order: the trunk's list of that name, or the one list that is as long as the model is deep."""
    parts = [trunk_of(model), *([model.get_decoder()] if hasattr(model, "get_decoder") else [])]
    for name in ("layers", "h"):
        for part in parts:
            if isinstance(getattr(part, name, None), torch.nn.ModuleList):
                return getattr(part, name)
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = [m for m in parts[0].modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    return lists[0] if len(lists) == 1 else None


def context_of(model) -> int:
    """Longest sequence that a model takes, in tokens; as good as endless where its config names none.

    Positions that are scaled by the length of the whole sequence (dynamic, longrope) are right up to the length from
    which they are: beyond it, a key in the cache and the same key in a longer sequence differ. So is attention to those
    tokens alone that an index has picked: as long as it picks all; beyond, rounding decides which of two like ones it is.
    Of learned positions that begin behind the padding token's (RoBERTa's) fewer are left than the config says.
    """
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len", "n_positions")
    limits = [n for n in (getattr(config, name, None) for name in names) if n and n > 0][:1]  # XLNet has -1
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes, *(r for r in ropes.values() if isinstance(r, dict))]:
        if rope.get("rope_type") in ("dynamic", "longrope"):
            limits.append(rope.get("original_max_position_embeddings"))
    limits += [getattr(config, name, None) for name in ("index_topk", "indexer_budget", "keep_window_size")]
    limits.append((getattr(config, "index_topk_blocks", None) or 0) * (getattr(config, "index_block_size", None) or 0))
    for name, part in model.named_modules():
        if "position" in name and isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
            limits.append(part.num_embeddings - part.padding_idx - 1)
    return min((n for n in limits if n), default=sys.maxsize)


def window_of(config) -> int:
    """The shortest window or chunk of attention that the config names; as good as endless if it names none."""
    config = config.get_text_config()
    # some configs make sliding_window from another entry, so that it is not in their dict
    sizes = config.to_dict() | {"sliding_window": getattr(config, "sliding_window", None)}
    ends = ("window", "window_size", "chunk_size")
    return min((n for key, n in sizes.items() if key.endswith(ends) and type(n) is int and n > 0), default=sys.maxsize)


@contextlib.contextmanager
def on_layer(layers: Sequence[torch.nn.Module], layer: int, call: Callable[[torch.Tensor], None]):
    """Within the context, `call` is given the output (R, T, D) of one decoder layer at every forward pass."""

    def hook(module, args, output):
        call(output[0] if isinstance(output, tuple | list) else output)

    handle = layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Given(BaseModelOutputWithPast):
    """A trunk's output that holds last hidden states, and None for all else that a head asks for."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return None


def head(model, hidden: torch.Tensor, plain: bool) -> torch.Tensor:
    """Logits from the trunk's last hidden states: (N, D) -> (N, V).

    plain: by the output embeddings alone. Else the model's own pass, with a trunk that gives these states, so that
    whatever the model does to them (scales, caps, another transform) is done.
    """
    if plain:
        return model.get_output_embeddings()(hidden)
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with _instead_of_forward(trunk_of(model), lambda *args, **kwargs: _Given(last_hidden_state=hidden[None])):
        return run(model, input_ids=ids, use_cache=False).logits[0]


@contextlib.contextmanager
def _instead_of_forward(module, function):
    """Within the context, `function` is run instead of the module's pass; its hooks stay."""
    kept = module.__dict__.get("forward")
    module.forward = function  # goes before the method of the class
    try:
        yield
    finally:
        del module.forward
        if kept is not None:
            module.forward = kept


@functools.cache
def _arguments(model_type: type) -> tuple[set[str], bool]:
    """The arguments that a model's pass names, and whether it takes others."""
    named = inspect.signature(model_type.forward).parameters
    return set(named), any(p.kind is p.VAR_KEYWORD for p in named.values())


def run(model, **inputs):
    """The model's pass, without the arguments that it does not know."""
    named, others = _arguments(type(model))
    if "cache_params" in named and "past_key_values" in inputs:
        inputs["cache_params"] = inputs.pop("past_key_values")
    return model(**{name: value for name, value in inputs.items() if others or name in named})


def run_prefix(model, ids: list[int], cache) -> torch.Tensor:
    """Fill an empty cache with a beginning, one row of it; returns the trunk's output (1, tokens, D)."""
    return (
        trunk_of(model)(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    ).last_hidden_state


def trunk_states(model, ids: torch.Tensor, shared: int = 0) -> torch.Tensor:
    """The trunk's output over rows of token ids, padded on the right: (R, T) -> (R, T, D).

    shared: tokens at the start of all rows that are run once.
    """
    ids = ids.to(model.device)
    with recomputed_layers(model):
        if not shared:
            return trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        cache = new_cache(model, DynamicLayer)
        first = run_prefix(model, ids[0, :shared].tolist(), cache)
        cache.batch_repeat_interleave(len(ids))
        rest = trunk_of(model)(input_ids=ids[:, shared:], past_key_values=cache, use_cache=True).last_hidden_state
        return behind(first, rest)


def layers_to_recompute(model) -> list[torch.nn.Module]:
    """The layers that gradient checkpointing is enabled for."""
    everywhere = getattr(trunk_of(model), "gradient_checkpointing", False)
    return [m for m in decoder_layers(model) or () if getattr(m, "gradient_checkpointing", everywhere)]


@contextlib.contextmanager
def recomputed_layers(model):
    """Within the context, the layers that gradient checkpointing is enabled for are run again in the backward pass.

    transformers does so in training mode only, in which dropout is on, and without a cache.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers_to_recompute(model) if torch.is_grad_enabled() else ():
            stack.enter_context(_instead_of_forward(layer, partial(_recomputed, layer.forward)))
        yield


def _recomputed(forward, *args, **kwargs):
    """A layer's pass whose activations are not kept: each time it finds the cache as it was the first time."""
    caches = [value for value in (*args, *kwargs.values()) if isinstance(value, Cache)]
    layers = [layer for cache in caches for layer in cache.layers]
    found = [dict(vars(layer)) for layer in layers]

    def again(*args, **kwargs):
        for layer, state in zip(layers, found, strict=True):
            vars(layer).update(state)
        return forward(*args, **kwargs)

    return checkpoint(again, *args, use_reentrant=False, **kwargs)


def behind(first: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """States of a common beginning, (1, L, D), and of what follows it in each row, as (R, L + T, D)."""
    return torch.cat([first.expand(len(states), -1, -1), states], 1)


# --- a cache whose rows are moved ------------------------------------------------------------------


class _GrowingLayer(DynamicLayer):
    """A cache layer that appends and moves rows in place, where DynamicLayer copies all of it."""

    STEP = 16  # tokens by which it grows

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = key_states[:, :, :0], value_states[:, :, :0]
        n, start = key_states.shape[0], self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self._keys.shape[2]:
            length = (end // self.STEP + 1) * self.STEP  # with room for the next token
            self._keys = _larger(self._keys, self._keys.shape[0], length)
            self._values = _larger(self._values, self._values.shape[0], length)
        self._keys[:n, :, start:end] = key_states
        self._values[:n, :, start:end] = value_states
        self.keys, self.values = self._keys[:n, :, :end], self._values[:n, :, :end]
        return self.keys, self.values

    def take(self, order: torch.Tensor, moved: torch.Tensor) -> None:
        """Row i becomes what row order[i] was; `moved` lists the rows that change."""
        n, end, rows = len(order), self.get_seq_length(), self._keys.shape[0]
        if n > rows:  # the rows that are not in use yet hold copies of row 0
            order = torch.nn.functional.pad(order, (0, max(0, 2 * rows - n)))
            self._keys, self._values = self._keys[order], self._values[order]
        else:
            for buffer in (self._keys, self._values):
                buffer[moved, :, :end] = buffer[order[moved], :, :end]
        self.keys, self.values = self._keys[:n, :, :end], self._values[:n, :, :end]


def _larger(old: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    new = old.new_empty(rows, old.shape[1], length, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def new_cache(model, keeps_all: type[DynamicLayer] = _GrowingLayer) -> DynamicCache:
    """A cache that forgets nothing: which keys are within a window of attention is for the model's own masks to say.

    Some models have a window in their config that their plain pass does not look at.
    """
    cache = DynamicCache(config=model.config)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [keeps_all() if type(layer) in plain else layer for layer in cache.layers]
    return cache


def take(cache: DynamicCache, order: torch.Tensor) -> None:
    """Row i of the cache becomes what row order[i] was."""
    moved = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
    for layer in cache.layers:
        if isinstance(layer, _GrowingLayer):
            if layer.is_initialized:  # some models share the keys of a layer with those below it
                layer.take(order, moved)
        else:
            layer.reorder_cache(order)


def holds_a_state(cache: DynamicCache) -> bool:
    """Whether a layer keeps a state that every token changes, and not keys and values alone."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def cache_bytes(cache: DynamicCache) -> int:
    held = [v for layer in cache.layers for name, v in vars(layer).items() if not name.startswith("_")]
    tensors = [x for v in held for x in (v if isinstance(v, list) else [v]) if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in tensors)


class CachedRows:
    """Rows of token ids that grow together, with a key-value cache; between steps rows are split, moved and dropped.

    prompts: a row each, padded on the left. shared: tokens at the start of all prompts that are run once.
    logits: (rows, V) what comes next.
    """

    def __init__(self, model, prompts: Sequence[list[int]], shared: int = 0, pad: int = 0):
        device, n = model.device, len(prompts)
        self.model, self.cache = model, new_cache(model)
        if shared:
            run_prefix(model, prompts[0][:shared], self.cache)
            take(self.cache, torch.zeros(n, dtype=torch.long, device=device))
        prompts = [p[shared:] for p in prompts]
        longest = max(len(p) for p in prompts)
        ids = torch.full((n, longest), pad, dtype=torch.long)
        mask = torch.zeros(n, longest, dtype=torch.long)
        for i, prompt in enumerate(prompts):  # left padding: the last prompt token ends every row
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            mask[i, longest - len(prompt) :] = 1
        self.padded = bool((mask == 0).any())
        mask, ids = mask.to(device), ids.to(device)
        self.positions = (mask.cumsum(1) - 1).clamp(min=0) + shared
        self.mask = torch.cat([mask.new_ones(n, shared), mask], 1)
        self._run(ids, logits_to_keep=1)

    def step(self, order: torch.Tensor, tokens: torch.Tensor) -> None:
        """Row i becomes what row order[i] was, with tokens[i] behind it."""
        take(self.cache, order)
        self.mask, self.positions = self.mask[order], self.positions[order, -1:] + 1
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self._run(tokens[:, None])

    def _run(self, ids: torch.Tensor, **more) -> None:
        out = run(
            self.model,
            input_ids=ids,
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            **more,
        )
        self.logits = out.logits[:, -1]


class WholeRows:
    """The same without a cache, for a model whose state cannot be moved: each step runs whole rows of one length."""

    def __init__(self, model, prompts: Sequence[list[int]]):
        self.model, self.ids = model, torch.tensor(prompts, device=model.device)
        self._run()

    def step(self, order: torch.Tensor, tokens: torch.Tensor) -> None:
        """Row i becomes what row order[i] was, with tokens[i] behind it."""
        self.ids = torch.cat([self.ids[order], tokens[:, None]], 1)
        self._run()

    def _run(self) -> None:
        self.logits = run(self.model, input_ids=self.ids, use_cache=False, logits_to_keep=1).logits[:, -1]
