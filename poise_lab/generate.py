"""Sampling responses: a KV loop on any causal LM of transformers.

Against `model.generate`: responses that share a beginning share the work. The prompt is prefilled once
per group, and two responses to it are one row of the batch until they draw different tokens; a policy
that is sure of itself parts late. Finished rows leave the batch, the key-value cache grows in place,
and no fp32 copy of all logits is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .engine import CachedRows, WholeRows, on_layer, window_of
from .errors import NotFiniteError, PoiseLabError
from .internals import assembled, check_layers_and_pools, finite
from .policies import Policy, by_beginning, common_prefix
from .rollouts import Rollouts, build_rollouts, join
from .tasks import Problem

CHUNK_LOGITS = 2**20  # logits drawn from at a time
STEP_TOKENS = 16  # so many tokens of prompts are read in about the time of one more step of few rows
CACHE_BYTES = 512 * 2**20  # key-value cache of one batch, if no two responses shared anything


def _uniforms(seed: int, prompt: Sequence[int], index: int, n: int) -> np.ndarray:
    """n numbers in [0, 1) that depend on the seed, the prompt's tokens and the response's index alone."""
    digest = hashlib.blake2b(repr((int(seed), index, list(prompt))).encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n, dtype=np.float32)


def _draw(logits, rows, u, temperature: float, top_p: float, top_k: int):
    """Sample from rows of logits by inverting their cumulative distributions.

    logits: (B, V). rows: (R,) the row that each draw is from. u: (R,) in [0, 1).
    Returns tokens (R,), their log-probabilities (R,), and the entropies (R,) of what they were drawn from, both before
    top-p and top-k.

    Three draws, the first two from row 0. Its cumulative distribution is [0.25, 0.75, 1]: 0.2 falls into the part of
    token 0, and 0.7 into that of token 1. Row 1 gives token 0 a probability of 0, so that even u = 0 draws token 1.

    >>> logits = torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.5, 0.5]]).log()
    >>> tokens, logprobs, _ = _draw(logits, torch.tensor([0, 0, 1]), torch.tensor([0.2, 0.7, 0.0]), 1.0, 1.0, 0)
    >>> tokens.tolist(), logprobs.exp().tolist()
    ([0, 1, 1], [0.25, 0.5, 0.5])
    """
    chunk = max(1, CHUNK_LOGITS // logits.shape[1])  # a few rows at a time stay in the processor's cache
    if chunk < len(logits):
        drawn = torch.empty_like(rows), torch.empty_like(u), torch.empty_like(u)
        for start in range(0, len(logits), chunk):
            here = ((rows >= start) & (rows < start + chunk)).nonzero()[:, 0]
            part = _draw(logits[start : start + chunk], rows[here] - start, u[here], temperature, top_p, top_k)
            for whole, values in zip(drawn, part, strict=True):
                whole[here] = values
        return drawn
    logits = logits.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    top = logits.max(-1, keepdim=True)
    weights = (logits - top.values).exp_()
    total = weights.sum(-1)
    log_norm = top.values[:, 0] + total.log()
    entropy = log_norm - torch.linalg.vecdot(weights, finite(logits)) / total
    if not torch.isfinite(log_norm).all():
        raise NotFiniteError("the policy's logits are not finite")
    if temperature == 0:
        tokens = top.indices[rows, 0]
        return tokens, logits[rows, tokens] - log_norm[rows], entropy[rows]
    if top_k or top_p < 1:
        ordered, order = weights.sort(-1, descending=True)
        drop = torch.zeros_like(ordered, dtype=torch.bool)
        if top_k:
            drop[:, top_k:] = True
        if top_p < 1:  # keep the smallest set whose mass reaches top_p of what top-k leaves
            left = ordered.masked_fill(drop, 0)
            drop |= left.cumsum(-1) - left >= top_p * left.sum(-1, keepdim=True)
        weights = weights.masked_fill(drop.scatter(1, order, drop), 0)
    cdf = weights.cumsum_(-1)
    cdf = cdf if len(rows) == len(cdf) and bool((rows[1:] > rows[:-1]).all()) else cdf[rows]
    total = cdf[:, -1:]
    target = torch.minimum(u[:, None] * total, total.nextafter(torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, target, right=True)[:, 0]
    return tokens, logits[rows, tokens] - log_norm[rows], entropy[rows]


@torch.inference_mode()
def _sample_batch(policy: Policy, prompts, uniforms, keep, *, temperature, top_p, top_k):
    """Responses to a few prompts: uniforms (P, M, T) -> token ids and log-probabilities (P, M, T), and what is kept.

    keep: None, or the layer whose states are kept, and how many tokens at the end of a prompt are averaged. What is kept:
    these means (P, D), the states (P, M, T, D) and entropies (P, M, T) at the tokens of the responses.
    """
    device = policy.device
    n, m, limit = uniforms.shape
    passes: list[torch.Tensor] = []  # of the layer, (rows, tokens, D) each
    with on_layer(policy.layers, keep[0], passes.append) if keep else contextlib.nullcontext():
        batch = _prefilled(policy, prompts, limit)
        u = torch.from_numpy(uniforms).to(device).view(n * m, limit)
        eos = torch.tensor(policy.eos_token_ids, device=device)
        tokens = torch.full((n * m, limit), -1, dtype=torch.long, device=device)
        logprobs, entropy = torch.zeros(2, n * m, limit, device=device)
        prompt = _prompt_ends(passes, prompts, keep[1]) if keep else None
        states = prompt.new_zeros(n * m, limit, prompt.shape[1]) if keep else None
        live = torch.arange(n * m, device=device)  # rollouts that have not ended
        row = live // m  # the row of the batch that holds each rollout's history
        for t in range(limit):
            drawn = _draw(batch.logits, row[live], u[live, t], temperature, top_p, top_k)
            tokens[live, t], logprobs[live, t], entropy[live, t] = drawn
            going = live[~torch.isin(drawn[0], eos)] if t < limit - 1 else live[:0]
            runs = live if keep else going  # the last token of a response is run for its state alone
            if len(runs):
                row[runs], order, following = _branch(row[runs], tokens[runs, t], batch.logits.shape[1])
                batch.step(order, following)
            if keep:
                states[runs, t] = passes.pop()[row[runs], -1].float()
            live = going
            if len(live) == 0:
                break
    kept = (prompt, states.view(n, m, limit, -1), entropy.view(n, m, limit)) if keep else None
    return tokens.view(n, m, limit).cpu(), logprobs.view(n, m, limit).cpu(), kept


def _prompt_ends(passes: list[torch.Tensor], prompts, pool: int) -> torch.Tensor:
    """(P, D) mean state of the last `pool` tokens of each prompt, from the passes that read them, which are used up.

    There are two where a common beginning is run once; rows are padded on the left behind it.
    """
    *first, rest = passes
    passes.clear()
    beginning = first[0][0] if first else rest[0, :0]
    ends = [
        torch.cat([beginning[-pool:], states[len(beginning) - len(prompt) :]])[-pool:].float().mean(0)
        for states, prompt in zip(rest, prompts, strict=True)
    ]
    return torch.stack(ends)


def _prefilled(policy: Policy, prompts, limit: int) -> CachedRows | WholeRows:
    """The prompts as rows of a batch, each followed by at most `limit` tokens."""
    if policy.ways.sampling == "whole":
        return WholeRows(policy.model, prompts)
    shared = common_prefix(prompts) if policy.ways.sampling == "shared" else 0
    if max(map(len, prompts)) + limit > window_of(policy.model.config):
        shared = 0  # padding would stand behind the beginning, and a window of attention counts it
    return CachedRows(policy.model, prompts, shared, policy.pad_id)


def _branch(row: torch.Tensor, drawn: torch.Tensor, vocabulary: int):
    """Rows for the next step: one for each distinct (row, drawn token).

    Returns the new row of each rollout, the old row that each new row continues, and its token.
    A row keeps its place where it can, so that little of the cache is moved.

    Three responses in the rows 0 and 2 of a batch; the two in row 0 have drawn different tokens, 5 and 6. The first keeps row 0.
    Row 1 has ended, so the second moves there, and row 2 stays:

    >>> row, order, tokens = _branch(torch.tensor([0, 0, 2]), torch.tensor([5, 6, 7]), vocabulary=10)
    >>> row.tolist(), order.tolist(), tokens.tolist()
    ([0, 1, 2], [0, 0, 2], [5, 6, 7])
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


def prompts_of(policy: Policy, problems: Sequence[Problem], max_new_tokens: int) -> list[list[int]]:
    """The token ids of each prompt. Raises PoiseLabError for one that cannot be answered, as `sample_rollouts` says."""
    prompts, context = [policy.prompt_ids(problem) for problem in problems], policy.context
    for prompt in prompts:
        if not prompt:
            raise PoiseLabError("a prompt has no tokens; the tokenizer turned it into nothing")
        if max(prompt) >= policy.model.config.get_text_config().vocab_size:
            raise PoiseLabError(
                f"a prompt has token {max(prompt)}, which the model of policy {policy.name!r} has no embedding for; after "
                "adding tokens, call resize_token_embeddings"
            )
        if len(prompt) + max_new_tokens > context:
            raise PoiseLabError(
                f"a prompt of {len(prompt)} tokens with max_new_tokens={max_new_tokens} is longer than "
                f"the context of {context} tokens of policy {policy.name!r}; shorten one of them"
            )
    return prompts


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
    keep: tuple[int, int] | None = None,
) -> Rollouts:
    """Sample `responses` responses to each problem and verify them.

    Sampling inverts the cumulative distribution at a uniform number that is a function of (seed,
    prompt, response index, token position) alone. So a rollout does not depend on the batch size or
    on what runs beside it, as far as the model's own numerics allow: in float32 on CPU the logits of
    a row differ by about 1e-6 between batches of different shape, and a response changes only where
    a uniform number falls into a gap of that size; in bfloat16 expect changes. Two equal prompts in
    one call get equal rollouts.

    temperature: 0 is greedy. top_p, top_k: 1.0 and 0 switch them off; top_p is a share of what top_k leaves.
    batch_rows: responses sampled side by side; by default as many as a cache of 512 MB holds.
    keep: layer and pool of the internals to keep on the way (`Rollouts.internals`), which saves `read_internals`. They are
        kept in float32 on a CPU alone: elsewhere the two differ by more than 1e-4.

    Raises PoiseLabError for no problems, no responses, an empty prompt, one with tokens that the model does not know, one
    that with `max_new_tokens` is longer than the model's context, or a layer and pool that `read_internals` refuses.
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
    if keep:
        check_layers_and_pools(policy, keep[:1], keep[1:])
        exact = policy.device.type == "cpu" and policy.model.dtype in (torch.float32, torch.float64)
        keep = keep if exact else None
    prompts = prompts_of(policy, problems, max_new_tokens)
    longest = max(map(len, prompts)) + max_new_tokens
    rows = batch_rows or max(responses, CACHE_BYTES // (policy.ways.bytes_per_token * longest))
    step = max(1, rows // responses)
    alike = policy.ways.sampling in ("equal", "whole")  # prompts of one length only, side by side
    order, parts = [], []
    for part in _parts(_turns(policy, prompts, max_new_tokens), step, list(map(len, prompts)) if alike else None):
        uniforms = np.stack([[_uniforms(seed, prompts[i], k, max_new_tokens) for k in range(responses)] for i in part])
        asked = [prompts[i] for i in part]
        tokens, logprobs, kept = _sample_batch(
            policy, asked, uniforms, keep, temperature=temperature, top_p=top_p, top_k=top_k
        )
        lengths = (tokens >= 0).sum(-1)
        width = int(lengths.max())
        tokens, logprobs = tokens[..., :width], logprobs[..., :width]
        rollouts = build_rollouts(policy, [problems[i] for i in part], asked, tokens, lengths, logprobs, temperature)
        if kept:
            rollouts.internals = assembled(rollouts, *kept, *keep)
        order += part
        parts.append(rollouts)
    return join(parts).select(np.argsort(order).tolist())


def _turns(policy: Policy, prompts, limit: int) -> list[list[int]]:
    """The prompts by their length: all in one turn, or in two where that spares most of them a long beginning."""
    turns = by_beginning(prompts) if policy.ways.sampling == "shared" else []
    if len(turns) != 2 or common_prefix([prompts[i] for i in turns[0]]) * len(turns[0]) < STEP_TOKENS * limit:
        turns = [list(range(len(prompts)))]
    return [sorted(turn, key=lambda i: len(prompts[i])) for turn in turns]


def _parts(turns: list[list[int]], step: int, lengths: list[int] | None) -> Iterator[list[int]]:
    """The prompts of each turn in its order, at most `step` at a time; with `lengths`, those of one length."""
    for turn in turns:
        for _, alike in itertools.groupby(turn, key=lambda i: lengths and lengths[i]):
            part = list(alike)
            yield from (part[start : start + step] for start in range(0, len(part), step))
