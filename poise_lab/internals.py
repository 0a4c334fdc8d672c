"""One teacher-forced pass over rollouts: log-probabilities, token entropies, pooled hidden states.

Rows (one prompt with one response) are sorted by length and padded on the right, where causal
attention never looks, so no mask is needed and little is padding. The language-model head runs on
the response positions only, in chunks, so that a wide vocabulary costs no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from .engine import behind, layers_to_recompute, on_layer, trunk_states, window_of
from .errors import PoiseLabError
from .packed import packed_states
from .policies import Policy, by_beginning, common_prefix
from .rollouts import Internals, Rollouts

BATCH_TOKENS = 2048  # padded tokens of one forward pass; more do not fit the caches of a CPU
PACKED_TOKENS = 1024  # the same where nothing is padded
CHUNK_LOGITS = 8 * 2**20  # logits held at a time: 32 MB in float32


def batches_by_length(policy: Policy, rollouts: Rollouts, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Split rows (indices into the flattened P * M) into batches of similar length; of one row where a model asks for it.

    A common beginning is run once per batch, so it counts once.
    """
    if policy.ways.scoring == "alone":
        yield from rows.split(1)
        return
    for some in _alike(policy, rollouts, rows):
        lengths = row_lengths(rollouts)[some]
        order = some[lengths.argsort(stable=True)]
        lengths = lengths.sort(stable=True).values.tolist()
        shared = common_prefix(_prompts_of(rollouts, some))
        start = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or shared + (lengths[end] - shared) * (end + 1 - start) > BATCH_TOKENS:
                yield order[start:end]
                start = end


def _prompts_of(rollouts: Rollouts, rows: torch.Tensor) -> list[list[int]]:
    return [rollouts.prompt_ids[row // rollouts.responses] for row in rows.tolist()]


def _alike(policy: Policy, rollouts: Rollouts, rows: torch.Tensor) -> list[torch.Tensor]:
    """The rows in parts, where that leaves a beginning in common to most of them (`policies.by_beginning`)."""
    if policy.ways.scoring != "shared":
        return [rows]
    return [rows[part] for part in by_beginning(_prompts_of(rollouts, rows))]


def packs(policy: Policy, rollouts: Rollouts, rows: torch.Tensor) -> bool:
    """Whether some rows are scored in one (`packed`): where that is exact, and no long beginning is common to all.

    Windows of attention are not looked after there, nor layers that are run again in the backward pass.
    """
    if not policy.ways.packs or layers_to_recompute(policy.model):
        return False
    prompts = [rollouts.prompt_ids[i] for i in sorted({row // rollouts.responses for row in rows.tolist()})]
    fits = int(row_lengths(rollouts)[rows].max()) <= window_of(policy.model.config)
    return fits and not (policy.ways.scoring == "shared" and common_prefix(prompts))


def batches_to_score(policy: Policy, rollouts: Rollouts, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Split rows into batches for `forward_rows`: as they come, where they are packed, and else by their length."""
    parts = _alike(policy, rollouts, rows)
    if len(parts) > 1 and packs(policy, rollouts, rows):  # whatever runs fewer tokens: a prompt once, or its beginning
        of_rows = _prompts_of(rollouts, parts[0])
        prompts = sum(len(rollouts.prompt_ids[i]) for i in {row // rollouts.responses for row in parts[0].tolist()})
        if prompts <= sum(map(len, of_rows)) - common_prefix(of_rows) * len(of_rows):
            parts = [rows]
    for some in parts:
        yield from (_packed_batches if packs(policy, rollouts, some) else batches_by_length)(policy, rollouts, some)


def _packed_batches(policy: Policy, rollouts: Rollouts, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    lengths, m = rollouts.lengths.flatten().tolist(), rollouts.responses
    batch, tokens = [], 0
    for row in rows.tolist():
        whole = lengths[row] + len(rollouts.prompt_ids[row // m])
        more = lengths[row] if batch and batch[-1] // m == row // m else whole
        if batch and tokens + more > PACKED_TOKENS:
            yield torch.tensor(batch)
            batch, tokens, more = [], 0, whole
        batch.append(row)
        tokens += more
    yield torch.tensor(batch)


def row_lengths(rollouts: Rollouts) -> torch.Tensor:
    """(P * M,) tokens of prompt and response together."""
    return (rollouts.prompt_lengths[:, None] + rollouts.lengths).flatten()


@contextlib.contextmanager
def captured_layers(policy: Policy, layers: Sequence[int]):
    """Within the context, the given decoder layers leave their output in the dict that it yields.

    A second pass is taken to go on where the first ended (`engine.trunk_states`, shared): its tokens stand behind those of the first.
    """
    captured: dict[int, torch.Tensor] = {}

    def keep(layer: int, states: torch.Tensor) -> None:
        captured[layer] = behind(captured[layer], states) if layer in captured else states

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(on_layer(policy.layers, layer, partial(keep, layer)))
        yield captured


def score_tokens(policy, hidden, tokens, temperature, with_entropy):
    """Log-probability of each token, and the entropy, from the trunk's output: (N, D) -> (N,), (N,)."""
    logits = policy.head(hidden).float()
    if temperature not in (0, 1):  # greedy responses are scored at temperature 1
        logits = logits / temperature
    log_norm = logits.logsumexp(-1)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - log_norm
    if not with_entropy:
        return logprobs, None
    return logprobs, log_norm - ((logits - log_norm[:, None]).exp() * finite(logits)).sum(-1)


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Logits of any shape with the lowest number in place of -inf, which adds 0 to an entropy and not 0 times infinity."""
    return logits.clamp(min=torch.finfo(logits.dtype).min)


def scoring_states(policy: Policy, rollouts: Rollouts, rows: torch.Tensor, *, share: bool = True, pack: bool = True):
    """The trunk's output at the positions that score the sampled tokens of some rows.

    rows: (R,) indices into the flattened P * M. Returns states (N, D) on the policy's device, one for
    each sampled token, row by row, and the mask (R, T) that says which ones those are. The state that
    scores a token is that of the position before it, so the first of a row has read the prompt alone.

    share: run a long beginning that all prompts have in common once and not once per row.
    pack: run all rows in one where that is faster; the layers then see one row and not a row of each.
    """
    m, width = rollouts.responses, rollouts.response_ids.shape[2]
    lengths = rollouts.lengths.flatten()[rows]
    starts = rollouts.prompt_lengths[rows // m]
    total = int((starts + lengths).max())
    if total > policy.context:
        raise PoiseLabError(
            f"a row of {total} tokens is longer than the context of {policy.context} of policy {policy.name!r}"
        )
    mask = torch.arange(width) < lengths[:, None]  # (R, T)
    responses = rollouts.response_ids.flatten(0, 1)[rows]
    if share and pack and packs(policy, rollouts, rows):
        return _packed_states(policy, rollouts, rows, responses, lengths.tolist()), mask
    ids = torch.full((len(rows), total), rollouts.pad_id, dtype=torch.long)
    for i, row in enumerate(rows.tolist()):
        prompt, n = rollouts.prompt_ids[row // m], int(lengths[i])
        ids[i, : len(prompt)] = torch.tensor(prompt)
        ids[i, len(prompt) : len(prompt) + n] = responses[i, :n]
    share = share and policy.ways.scoring == "shared"
    shared = common_prefix(_prompts_of(rollouts, rows)) if share else 0
    hidden = trunk_states(policy.model, ids, shared)
    row_index, token_index = mask.nonzero(as_tuple=True)
    states = hidden[row_index.to(policy.device), (starts[row_index] - 1 + token_index).to(policy.device)]
    return states, mask


def _packed_states(policy: Policy, rollouts: Rollouts, rows, responses, lengths: list[int]) -> torch.Tensor:
    """The states of `scoring_states`, (N, D). Nothing is scored by the last token of a response, so it is not run."""
    trees: dict[int, list[int]] = {}  # each prompt, and which of the rows are responses to it
    for i, row in enumerate(rows.tolist()):
        trees.setdefault(row // rollouts.responses, []).append(i)
    cut = [responses[i, : max(0, n - 1)].tolist() for i, n in enumerate(lengths)]
    states, found = packed_states(
        policy.model, [(rollouts.prompt_ids[prompt], [cut[i] for i in group]) for prompt, group in trees.items()]
    )
    places = dict(zip((i for group in trees.values() for i in group), found, strict=True))
    scoring = [places[i][len(places[i]) - len(cut[i]) - 1 :][:n] for i, n in enumerate(lengths)]
    return states[torch.tensor([place for row in scoring for place in row], device=states.device)]


def padded(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One value per sampled token, (N,), as (R, T) with 0 at padding."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask.to(values.device), values)


def forward_rows(policy: Policy, rollouts: Rollouts, rows: torch.Tensor, *, entropy: bool = False):
    """Log-probabilities of the sampled tokens of some rows, with gradients where they are enabled.

    rows: (R,) indices into the flattened P * M. Returns (logprobs, token_entropy or None), each
    (R, T) float32 on the policy's device, 0 at padding. With entropies, each row runs as one of the batch: the hidden
    states are read beside them (`read_internals`).
    """
    states, mask = scoring_states(policy, rollouts, rows, pack=not entropy)
    tokens = rollouts.response_ids.flatten(0, 1)[rows][mask].to(policy.device)
    chunk = max(1, CHUNK_LOGITS // policy.model.config.get_text_config().vocab_size)
    parts = []
    for i in range(0, max(1, len(tokens)), chunk):  # once for no tokens at all
        args = (policy, states[i : i + chunk], tokens[i : i + chunk], rollouts.temperature, entropy)
        if torch.is_grad_enabled() and len(tokens) > chunk:  # recompute the logits in the backward pass
            parts.append(checkpoint(score_tokens, *args, use_reentrant=False))
        else:
            parts.append(score_tokens(*args))
    logprobs = padded(torch.cat([p for p, _ in parts]), mask)
    return logprobs, padded(torch.cat([e for _, e in parts]), mask) if entropy else None


def pool_last(states: torch.Tensor, ends: torch.Tensor, lengths: torch.Tensor, pool: int) -> torch.Tensor:
    """Mean of the last `pool` of `lengths` positions before `ends`: (R, T, D) -> (R, D) float32."""
    back = torch.arange(pool, device=states.device)
    valid = back < lengths[:, None]  # (R, pool)
    positions = (ends[:, None] - 1 - back).clamp(min=0)
    gathered = states.gather(1, positions[..., None].expand(-1, -1, states.shape[2])).float()
    return (gathered * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)


def span_mean(values: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Mean of values (R, T) over [starts, ends), 0.0 where that is empty."""
    at = torch.arange(values.shape[1], device=values.device)
    span = (at >= starts[:, None]) & (at < ends[:, None])
    return (values * span).sum(1) / span.sum(1).clamp(min=1)


def span_entropies(token_entropy: torch.Tensor, lengths: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(R, 3) mean entropy over the output, the reasoning, the answer, from that of each token, (R, T).

    lengths, ends: (R,) tokens of the response, and of its reasoning.
    """
    zero = torch.zeros_like(ends)
    return torch.stack(
        [span_mean(token_entropy, a, b) for a, b in ((zero, lengths), (zero, ends), (ends, lengths))], -1
    )


def check_layers_and_pools(policy: Policy, layers: Sequence[int], pools: Sequence[int]) -> None:
    """Raises PoiseLabError for a layer that the policy does not have or pool < 1."""
    for layer in layers:
        if not 0 <= layer < len(policy.layers):
            raise PoiseLabError(
                f"layer {layer} asked for, but policy {policy.name!r} has layers 0 to {len(policy.layers) - 1}"
            )
    if min(pools) < 1:
        raise PoiseLabError(f"pool={min(pools)}; average at least 1 token")


def assembled(rollouts: Rollouts, prompt, states, token_entropy, layer: int, pool: int) -> Internals:
    """The internals of rollouts whose states were seen while they were sampled.

    prompt: (P, D), pooled. states: (P, M, T, D) and token_entropy: (P, M, T) of each token, at least as wide as the rollouts.
    """
    p, m, width = rollouts.response_ids.shape
    lengths, ends = rollouts.lengths.flatten(), rollouts.reasoning_lengths.flatten()
    token_entropy = token_entropy[..., :width].masked_fill(~rollouts.mask, 0.0)
    return Internals(
        prompt[:, None].expand(-1, m, -1),
        pool_last(states.flatten(0, 1), ends, ends, pool).view(p, m, -1),
        span_entropies(token_entropy.flatten(0, 1), lengths, ends).view(p, m, 3),
        rollouts.logprobs,
        token_entropy,
        layer,
        pool,
    )


@torch.no_grad()
def read_internals(
    policy: Policy, rollouts: Rollouts, layer: int | Sequence[int] = 2, pool: int | Sequence[int] = 4
) -> Internals | dict:
    """Run the policy once over the rollouts and keep what the value probe needs.

    layer: decoder layer index (0-based; its output, as `hidden_states[layer + 1]` of transformers,
        which differs for the last layer, where transformers gives the state after the final norm), or several: then the result
        is a dict from layer to Internals. Other layers are not kept.
    pool: number of tokens to average, at most as many as there are; or several: then the result is a
        dict from (layer, pool) to Internals.

    Raises PoiseLabError for a layer that the policy does not have or pool < 1.
    """
    layers = [layer] if isinstance(layer, int) else list(layer)
    pools = [pool] if isinstance(pool, int) else list(pool)
    check_layers_and_pools(policy, layers, pools)
    p, m, width = rollouts.response_ids.shape
    keys = [(k, n) for k in layers for n in pools]
    prompt, reasoning = {}, {}  # of a width that the config does not say: some models have several streams side by side
    logprobs, token_entropy = torch.zeros(p * m, width), torch.zeros(p * m, width)
    lengths, ends = rollouts.lengths.flatten(), rollouts.reasoning_lengths.flatten()
    starts = rollouts.prompt_lengths.repeat_interleave(m)
    _ = policy.ways  # compares the model's passes if nothing has yet, before anything listens to them
    for rows in batches_by_length(policy, rollouts, torch.arange(p * m)):
        with captured_layers(policy, layers) as captured:
            row_logprobs, row_entropy = forward_rows(policy, rollouts, rows, entropy=True)
        logprobs[rows], token_entropy[rows] = row_logprobs.cpu(), row_entropy.cpu()
        at, end = starts[rows].to(policy.device), ends[rows].to(policy.device)
        for k, n in keys:
            for kept, stop, tokens in ((prompt, at, at), (reasoning, at + end, end)):
                states = pool_last(captured[k], stop, tokens, n).cpu()
                kept.setdefault((k, n), states.new_zeros(p * m, states.shape[1]))[rows] = states
    entropy = span_entropies(token_entropy, lengths, ends)
    result = {
        (k, n): Internals(
            prompt[k, n].view(p, m, -1),
            reasoning[k, n].view(p, m, -1),
            entropy.view(p, m, 3),
            logprobs.view(p, m, width),
            token_entropy.view(p, m, width),
            layer=k,
            pool=n,
        )
        for k, n in keys
    }
    if not isinstance(pool, int):
        return result
    return result[layer, pool] if isinstance(layer, int) else {k: result[k, pool] for k in layers}
