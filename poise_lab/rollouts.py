"""Sampling responses: a KV loop on any causal LM of transformers.

Against `model.generate`: responses that share a beginning share the work. The prompt is prefilled once
per group, and two responses to it are one row of the batch until they draw different tokens; a policy
that is sure of itself parts late. Finished rows leave the batch, the key-value cache grows in place,
and no fp32 copy of all logits is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .errors import NotFiniteError, PoiseLabError
from .policies import Policy
from .prefix import common_prefix, run_prefix
from .tasks import Problem

CHUNK_LOGITS = 2**20  # logits drawn from at a time
CACHE_BYTES = 512 * 2**20  # key-value cache of one batch, if no two responses shared anything


@dataclasses.dataclass
class Rollouts:
    """m responses to each of P problems. Shapes: P prompts, M responses per prompt, T tokens.

    prompt_ids: P lists of token ids.
    response_ids: (P, M, T) int64, right-padded with `pad_id`; includes the end-of-sequence token.
    lengths: (P, M) int64, tokens of each response.
    reasoning_lengths: (P, M) int64, tokens up to and including the last end-of-reasoning tag;
        equal to `lengths` where there is none.
    reasoning_ended: (P, M) bool, whether there is such a tag.
    finished: (P, M) bool, whether the response ended by itself and not at `max_new_tokens`.
    logprobs: (P, M, T) float32, log-probabilities of the sampled tokens, in nats, at `temperature`
        (before top-p and top-k; at temperature 1 if greedy); 0 at padding.
    rewards: (P, M) float32 in [0, 1].
    extra_rewards: (P, K) float32 or None, rewards of further responses that are not learned from: what
        some baselines measure against (a greedy response, or many fresh ones).
    """

    problems: list[Problem]
    prompt_ids: list[list[int]]
    response_ids: torch.Tensor
    lengths: torch.Tensor
    reasoning_lengths: torch.Tensor
    reasoning_ended: torch.Tensor
    finished: torch.Tensor
    logprobs: torch.Tensor
    rewards: torch.Tensor
    texts: list[list[str]]
    temperature: float
    pad_id: int
    extra_rewards: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def responses(self) -> int:
        """M, responses per prompt."""
        return self.response_ids.shape[1]

    @property
    def mask(self) -> torch.Tensor:
        """(P, M, T) bool, True at sampled tokens."""
        return torch.arange(self.response_ids.shape[2]) < self.lengths[..., None]

    @property
    def tokens(self) -> int:
        """Number of sampled tokens."""
        return int(self.lengths.sum())

    @property
    def prompt_lengths(self) -> torch.Tensor:
        """(P,) int64."""
        return torch.tensor([len(p) for p in self.prompt_ids])

    @property
    def tasks(self) -> list[str]:
        """The task name of each prompt."""
        return [p.task for p in self.problems]

    def partner_rewards(self) -> torch.Tensor:
        """(P, M): mean reward of the *other* responses to the same prompt, the probe's target.

        With two responses it is the partner's reward (method Sec. 3.1, Alg. 1). It never contains
        the response's own reward. Raises PoiseLabError if there is one response per prompt.
        """
        return leave_one_out_mean(self.rewards)

    def select(self, prompts=slice(None), responses=slice(None)) -> Rollouts:
        """The rollouts of some prompts, and of some of their responses (slices or index lists)."""
        rows, columns = torch.arange(len(self))[prompts], torch.arange(self.responses)[responses]
        tensors = (
            "response_ids", "lengths", "reasoning_lengths", "reasoning_ended", "finished", "logprobs",
            "rewards",
        )  # fmt: skip
        return dataclasses.replace(
            self,
            problems=[self.problems[i] for i in rows],
            prompt_ids=[self.prompt_ids[i] for i in rows],
            texts=[[self.texts[i][j] for j in columns] for i in rows],
            extra_rewards=None if self.extra_rewards is None else self.extra_rewards[rows],
            **{name: getattr(self, name)[rows][:, columns] for name in tensors},
        )


def join(parts: Sequence[Rollouts]) -> Rollouts:
    """Rollouts of several calls as one, prompts after prompts; the number of responses must agree."""
    width = max(part.response_ids.shape[2] for part in parts)

    def joined(name, fill=0):
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[2]), value=fill) for x in tensors])

    per_response = ("lengths", "reasoning_lengths", "reasoning_ended", "finished", "rewards")
    lists = ("problems", "prompt_ids", "texts")
    return dataclasses.replace(
        parts[0],
        response_ids=joined("response_ids", parts[0].pad_id),
        logprobs=joined("logprobs"),
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in per_response},
        **{name: [one for part in parts for one in getattr(part, name)] for name in lists},
    )


def leave_one_out_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean of the other entries of each row: (P, M) -> (P, M). Raises PoiseLabError if M = 1."""
    m = x.shape[1]
    if m < 2:
        raise PoiseLabError("a partner is needed: sample at least 2 responses per prompt (responses=2)")
    # summed from both sides: (sum - own) would leave a rounding error of the own entry in the result
    before = torch.nn.functional.pad(x.cumsum(1)[:, :-1], (1, 0))
    after = torch.nn.functional.pad(x.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)
    return (before + after) / (m - 1)


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


def _new_cache(model) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _take(cache: DynamicCache, order: torch.Tensor) -> None:
    moved = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
    for layer in cache.layers:
        if isinstance(layer, _GrowingLayer):
            layer.take(order, moved)
        else:
            layer.batch_select_indices(order)


def _uniforms(seed: int, prompt: Sequence[int], index: int, n: int) -> np.ndarray:
    """n numbers in [0, 1) that depend on the seed, the prompt's tokens and the response's index alone."""
    digest = hashlib.blake2b(repr((seed, index, list(prompt))).encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n, dtype=np.float32)


def _draw(logits, rows, u, temperature: float, top_p: float, top_k: int):
    """Sample from rows of logits by inverting their cumulative distributions.

    logits: (B, V). rows: (R,) the row that each draw is from. u: (R,) in [0, 1).
    Returns tokens (R,) and their log-probabilities (R,).
    """
    chunk = max(1, CHUNK_LOGITS // logits.shape[1])  # a few rows at a time stay in the processor's cache
    if chunk < len(logits):
        tokens, logprobs = torch.empty_like(rows), torch.empty_like(u)
        for start in range(0, len(logits), chunk):
            here = ((rows >= start) & (rows < start + chunk)).nonzero()[:, 0]
            tokens[here], logprobs[here] = _draw(
                logits[start : start + chunk], rows[here] - start, u[here], temperature, top_p, top_k
            )
        return tokens, logprobs
    logits = logits.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    top = logits.max(-1, keepdim=True)
    weights = (logits - top.values).exp_()
    log_norm = top.values[:, 0] + weights.sum(-1).log()
    if not torch.isfinite(log_norm).all():
        raise NotFiniteError("the policy's logits are not finite")
    if temperature == 0:
        tokens = top.indices[rows, 0]
        return tokens, logits[rows, tokens] - log_norm[rows]
    if top_k or top_p < 1:
        ordered, order = weights.sort(-1, descending=True)
        drop = torch.zeros_like(ordered, dtype=torch.bool)
        if top_k:
            drop[:, top_k:] = True
        if top_p < 1:  # keep the smallest set whose mass reaches top_p
            drop |= ordered.cumsum(-1) - ordered >= top_p * ordered.sum(-1, keepdim=True)
        weights = weights.masked_fill(drop.scatter(1, order, drop), 0)
    cdf = weights.cumsum_(-1)
    cdf = cdf if len(rows) == len(cdf) and bool((rows[1:] > rows[:-1]).all()) else cdf[rows]
    total = cdf[:, -1:]
    target = torch.minimum(u[:, None] * total, total.nextafter(torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, target, right=True)[:, 0]
    return tokens, logits[rows, tokens] - log_norm[rows]


def _cache_bytes_per_token(model) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize


@torch.inference_mode()
def _sample_batch(policy: Policy, prompts, uniforms, *, temperature, top_p, top_k):
    """Responses to a few prompts: uniforms (P, M, T) -> token ids and logprobs (P * M, T), lengths."""
    model, device = policy.model, policy.device
    n, m, limit = uniforms.shape
    cache = _new_cache(model)
    shared = common_prefix(prompts)
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and max(map(len, prompts)) + limit > window:
        shared = 0  # padding would stand behind the beginning, and a sliding window counts it
    if shared:
        run_prefix(policy, prompts[0][:shared], cache)
        _take(cache, torch.zeros(n, dtype=torch.long, device=device))
    prompts = [p[shared:] for p in prompts]
    longest = max(len(p) for p in prompts)
    ids = torch.full((n, longest), policy.eos_token_ids[0], dtype=torch.long)
    mask = torch.zeros(n, longest, dtype=torch.long)
    for i, prompt in enumerate(prompts):  # left padding: the last prompt token ends every row
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    padded = bool((mask == 0).any())
    mask, ids = mask.to(device), ids.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0) + shared
    mask = torch.cat([mask.new_ones(n, shared), mask], 1)
    out = model(
        input_ids=ids,
        attention_mask=mask if padded else None,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = out.logits[:, -1]
    mask = torch.cat([mask, mask.new_ones(n, limit)], 1)
    positions = positions[:, -1:]
    u = torch.from_numpy(uniforms).to(device).view(n * m, limit)
    eos = torch.tensor(policy.eos_token_ids, device=device)

    tokens = torch.full((n * m, limit), -1, dtype=torch.long, device=device)
    logprobs = torch.zeros(n * m, limit, device=device)
    live = torch.arange(n * m, device=device)  # rollouts that have not ended
    row = live // m  # the row of the batch that holds each rollout's history
    for t in range(limit):
        drawn, drawn_logprobs = _draw(logits, row[live], u[live, t], temperature, top_p, top_k)
        tokens[live, t], logprobs[live, t] = drawn, drawn_logprobs
        going = ~torch.isin(drawn, eos)
        live, drawn = live[going], drawn[going]
        if t == limit - 1 or len(live) == 0:
            break
        row[live], order, drawn = _branch(row[live], drawn, logits.shape[1])
        _take(cache, order)
        mask, positions = mask[order], positions[order] + 1
        out = model(
            input_ids=drawn[:, None],
            attention_mask=mask[:, : shared + longest + t + 1] if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    return tokens.cpu(), logprobs.cpu(), (tokens >= 0).sum(1).cpu()


def _branch(row: torch.Tensor, drawn: torch.Tensor, vocabulary: int):
    """Rows for the next step: one for each distinct (row, drawn token).

    Returns the new row of each rollout, the old row that each new row continues, and its token.
    A row keeps its place where it can, so that little of the cache is moved.
    """
    branches, which = torch.unique(row * vocabulary + drawn, return_inverse=True)
    parent, token = branches // vocabulary, branches % vocabulary
    n = len(branches)
    first = torch.ones_like(parent, dtype=torch.bool)
    first[1:] = parent[1:] != parent[:-1]
    stays = first & (parent < n)
    free = torch.ones_like(first)
    free[parent[stays]] = False
    place = torch.empty_like(parent)
    place[stays] = parent[stays]
    place[~stays] = free.nonzero()[:, 0]
    order, tokens = torch.empty_like(parent), torch.empty_like(token)
    order[place], tokens[place] = parent, token
    return place[which], order, tokens


def reasoning_end(ids: list[int], tag: list[int]) -> int:
    """Tokens up to and including the last occurrence of the tag; -1 if there is none."""
    for end in range(len(ids), len(tag) - 1, -1):
        if ids[end - len(tag) : end] == tag:
            return end
    return -1


def sample_rollouts(
    policy: Policy,
    problems: Sequence[Problem],
    responses: int = 2,
    *,
    seed: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    batch_rows: int | None = None,
) -> Rollouts:
    """Sample `responses` responses to each problem and verify them.

    Sampling inverts the cumulative distribution at a uniform number that is a function of (seed,
    prompt, response index, token position) alone. So a rollout does not depend on the batch size or
    on what runs beside it, as far as the model's own numerics allow: in float32 on CPU the logits of
    a row differ by about 1e-6 between batches of different shape, and a response changes only where
    a uniform number falls into a gap of that size; in bfloat16 expect changes. Two equal prompts in
    one call get equal rollouts.

    temperature: 0 is greedy. top_p, top_k: 1.0 and 0 switch them off.
    batch_rows: responses sampled side by side; by default as many as a cache of 512 MB holds.

    Raises PoiseLabError for no problems, no responses, an empty prompt, or a prompt that with
    `max_new_tokens` is longer than the model's context.
    """
    problems = list(problems)
    if not problems:
        raise PoiseLabError("there are zero problems to sample responses to; ask the task for some")
    if responses < 1:
        raise PoiseLabError(f"responses={responses}; ask for at least 1 response per prompt")
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise PoiseLabError(
            f"max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}, top_k={top_k}: "
            "need max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1, top_k >= 0"
        )
    prompts = [policy.prompt_ids(problem) for problem in problems]
    for prompt in prompts:
        if not prompt:
            raise PoiseLabError("a prompt has no tokens; the tokenizer turned it into nothing")
        if len(prompt) + max_new_tokens > policy.context:
            raise PoiseLabError(
                f"a prompt of {len(prompt)} tokens with max_new_tokens={max_new_tokens} is longer than "
                f"the context of {policy.context} tokens of policy {policy.name!r}; shorten one of them"
            )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    longest = len(prompts[order[-1]]) + max_new_tokens
    rows = batch_rows or max(responses, CACHE_BYTES // (_cache_bytes_per_token(policy.model) * longest))
    step = max(1, rows // responses)
    p = len(problems)
    tokens = torch.full((p, responses, max_new_tokens), -1, dtype=torch.long)
    logprobs = torch.zeros(p, responses, max_new_tokens)
    lengths = torch.zeros(p, responses, dtype=torch.long)
    for start in range(0, p, step):
        part = order[start : start + step]
        uniforms = np.stack([[_uniforms(seed, prompts[i], k, max_new_tokens) for k in range(responses)] for i in part])
        drawn, drawn_logprobs, drawn_lengths = _sample_batch(
            policy, [prompts[i] for i in part], uniforms,
            temperature=temperature, top_p=top_p, top_k=top_k,
        )  # fmt: skip
        tokens[part] = drawn.view(len(part), responses, -1)
        logprobs[part] = drawn_logprobs.view(len(part), responses, -1)
        lengths[part] = drawn_lengths.view(len(part), responses)
    width = int(lengths.max())
    tokens, logprobs = tokens[..., :width].clone(), logprobs[..., :width].clone()
    return build_rollouts(policy, problems, prompts, tokens, lengths, logprobs, temperature)


def build_rollouts(policy, problems, prompts, tokens, lengths, logprobs, temperature=1.0) -> Rollouts:
    """The record of given responses: texts, reasoning spans and rewards are worked out here.

    tokens: (P, M, T) token ids, anything beyond `lengths` is ignored. lengths: (P, M).
    """
    p, m, width = tokens.shape
    pad = policy.tokenizer.pad_token_id
    pad = policy.eos_token_ids[0] if pad is None else pad
    mask = torch.arange(width) < lengths[..., None]
    tokens = tokens.masked_fill(~mask, pad)
    ids = [[tokens[i, j, : lengths[i, j]].tolist() for j in range(m)] for i in range(p)]
    eos = set(policy.eos_token_ids)
    flat = policy.tokenizer.batch_decode([row for group in ids for row in group], skip_special_tokens=True)
    texts = [[policy.text_of(text) for text in flat[i * m : (i + 1) * m]] for i in range(p)]
    tag = policy.end_of_reasoning
    ends = torch.tensor([[reasoning_end(row, tag) for row in group] for group in ids])
    rewards = torch.tensor([[problems[i].reward(t) for t in texts[i]] for i in range(p)], dtype=torch.float32)
    return Rollouts(
        problems=problems,
        prompt_ids=prompts,
        response_ids=tokens,
        lengths=lengths,
        reasoning_lengths=torch.where(ends >= 0, ends, lengths),
        reasoning_ended=ends >= 0,
        finished=torch.tensor([[bool(row) and row[-1] in eos for row in group] for group in ids]),
        logprobs=logprobs.masked_fill(~mask, 0.0),
        rewards=rewards,
        texts=texts,
        temperature=temperature,
        pad_id=pad,
    )
