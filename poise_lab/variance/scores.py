"""The scores of all responses, from batched passes."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from transformers.pytorch_utils import Conv1D

from ..errors import PoiseLabError
from ..internals import batches_to_score, forward_rows, row_lengths, score_tokens, scoring_states
from ..policies import Policy
from ..rollouts import Rollouts


@dataclasses.dataclass
class Scores:
    """What is kept of the scores. Shapes: P prompts, M responses per prompt, K numbers per score.

    within: (P, M, M) inner products of the scores of one prompt.
    kept: (P, M, K) the scores, folded, for inner products across prompts.
    """

    within: torch.Tensor
    kept: torch.Tensor

    @classmethod
    def of(cls, vectors: torch.Tensor) -> Scores:
        """From the scores themselves, (P, M, N)."""
        return cls(vectors @ vectors.mT, vectors)

    def select(self, prompts=slice(None), responses=slice(None)) -> Scores:
        """The scores of some prompts, and of some of their responses."""
        columns = torch.arange(self.within.shape[1])[responses]
        return Scores(self.within[prompts][:, columns][:, :, columns], self.kept[prompts][:, columns])


def read_scores(
    policy: Policy,
    rollouts: Rollouts,
    weights: torch.Tensor | None = None,
    *,
    scale: dict[str, torch.Tensor] | None = None,
    width: int | None = 4096,
    seed: int = 0,
) -> Scores:
    """The scores of all responses in the weights that are trained, from batched passes: no gradient is stored whole.

    A forward and a backward pass leave the inputs and the output gradients of every module that has weights;
    the gradient of one response is the product of its own. Prompts are batched whole. Where two responses that are compared
    first have other gradients than this (a mixture of experts, or weights that no text reaches: freeze these), each
    response has a backward pass of its own.

    weights: (P, M, T) of the tokens in a response's sum, by default 1 each; with the advantages of a
        token-level critic as weights, the advantages of the responses are 1.
    scale: by the name of each trained weight, what its numbers in a score are multiplied by (`adam_scale`); by default 1.
    width: numbers kept per score for products across prompts; None keeps all. seed: of places and signs of the fold.

    Raises PoiseLabError for weights of another shape, or if no weight is trained.
    """
    p, m, t = rollouts.response_ids.shape
    weights = torch.ones(p, m, t) if weights is None else weights
    if weights.shape != (p, m, t):
        raise PoiseLabError(f"token weights of shape {tuple(weights.shape)}; the rollouts have {(p, m, t)}")
    parameters = {n: q for n, q in policy.model.named_parameters() if q.requires_grad}  # a tied weight is listed once
    if not parameters:
        raise PoiseLabError(f"policy {policy.name!r} has no weights to train: none of them requires a gradient")
    trained, followed = list(parameters.values()), _modules_tell(policy, rollouts, list(parameters.values()))
    size = sum(q.numel() for q in parameters.values())
    k = size if width is None else min(width, size)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size,), generator=generator).to(policy.device) * 2.0 - 1
    places = torch.randint(0, k, (size,), generator=generator) if k < size else torch.arange(size)  # a count sketch
    places = places.to(policy.device)
    dtype = torch.promote_types(policy.model.dtype, torch.float32)
    within, kept = torch.zeros(p, m, m, dtype=dtype), torch.zeros(p, m, k, dtype=dtype)
    largest = max(q.numel() for q in trained) if followed else size
    for prompts, distinct, which in _prompt_batches(rollouts, weights, largest):
        n, u = distinct.shape
        rows = (prompts[:, None] * m + distinct).flatten()
        of = weights.flatten(0, 1)[rows]
        if followed:
            gradients = map(partial(_gradient_of, uses=_uses(policy, rollouts, rows, of)), trained)
        else:
            gradients = gradients_by_row(policy, rollouts, rows, of, trained)
        inner = torch.zeros(n, u, u, dtype=dtype, device=policy.device)
        folded, offset = torch.zeros(n * u, k, dtype=dtype, device=policy.device), 0
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            gradient = gradient.to(dtype).flatten(1)
            if scale:
                gradient = gradient * scale[name].flatten()
            groups = gradient.view(n, u, -1)
            inner += groups @ groups.mT
            part = slice(offset, offset + parameter.numel())
            folded.scatter_add_(1, places[part].expand(len(gradient), -1), gradient * signs[part])
            offset += parameter.numel()
        of_prompt = torch.arange(n)[:, None]
        within[prompts] = inner.cpu()[of_prompt[..., None], which[:, :, None], which[:, None]]
        kept[prompts] = folded.view(n, u, k).cpu()[of_prompt, which]
    return Scores(within, kept)


def adam_scale(
    policy: Policy, rollouts: Rollouts, advantages: torch.Tensor, batches: int = 16
) -> dict[str, torch.Tensor]:
    """By the name of each trained weight, what Adam multiplies its gradient by: 1 / (sqrt(v) + 1e-8).

    v: mean of the squared gradients of mini-batches, each the mean over its responses of advantage times score. With
    beta_2 = 0.999 that is what Adam's second moment is after so few steps, corrected for its start at 0 (arXiv 1412.6980).

    advantages: (P, M). batches: mini-batches of consecutive prompts, no more than there are prompts.
    """
    parameters = {n: q for n, q in policy.model.named_parameters() if q.requires_grad}
    moments = {name: torch.zeros_like(q) for name, q in parameters.items()}
    m, batches = rollouts.responses, min(batches, len(rollouts))
    policy.model.zero_grad(set_to_none=True)  # what others have left
    for prompts in torch.arange(len(rollouts)).tensor_split(batches):
        rows = (prompts[:, None] * m + torch.arange(m)).flatten()
        for some in batches_to_score(policy, rollouts, rows):
            logprobs, _ = forward_rows(policy, rollouts, some)
            (advantages.flatten()[some].to(logprobs) * logprobs.sum(1)).sum().div(len(rows)).backward()
        for name, q in parameters.items():
            if q.grad is not None:  # some models have weights that no text reaches
                moments[name] += q.grad**2 / batches
            q.grad = None
    return {name: 1 / (moment.sqrt() + 1e-8) for name, moment in moments.items()}


BATCH_TOKENS = 3072  # padded tokens of one pass
BATCH_NUMBERS = 2**27  # of the gradients of one weight, one for each of a pass's responses, that are held at once


def _prompt_batches(rollouts: Rollouts, weights: torch.Tensor, largest: int):
    """Prompts of similar length with all of their distinct responses, as many as BATCH_TOKENS and BATCH_NUMBERS allow.

    largest: numbers of the policy's largest weight. One prompt is always taken.

    A policy that is sure of itself gives the same response again and again; its score is read once.
    Yields prompts (N,), which of their responses are read (N, U), and which of those each response is (N, M).
    """
    m = rollouts.responses
    lengths = row_lengths(rollouts).view(-1, m).amax(1)
    keys = torch.cat(
        [rollouts.response_ids.double(), rollouts.lengths[..., None].double(), weights.double()], -1
    ).numpy()
    by_number: dict[int, list] = {}
    for i in lengths.argsort(stable=True).tolist():
        first: dict[bytes, int] = {}  # of each distinct response, where it stands first
        of = [first.setdefault(key.tobytes(), j) for j, key in enumerate(keys[i])]
        order = {j: n for n, j in enumerate(first.values())}
        by_number.setdefault(len(first), []).append((i, list(order), [order[j] for j in of]))
    for u, found in by_number.items():
        start = 0
        for end in range(1, len(found) + 1):
            rows = u * (end + 1 - start)
            more = end < len(found) and rows * int(lengths[found[end][0]]) <= BATCH_TOKENS
            if not more or rows * largest > BATCH_NUMBERS:
                yield tuple(torch.tensor(column) for column in zip(*found[start:end], strict=True))
                start = end


def _uses(policy: Policy, rollouts: Rollouts, rows: torch.Tensor, weights: torch.Tensor) -> dict:
    """Of each weight: the modules it is used in, their inputs, outputs and output gradients, (R, positions, features)."""
    captured, handles, through_trunk = [], [], False
    _ = policy.ways  # compares the model's passes if nothing has yet, before anything listens to them

    def hook(module, args, output):
        x = args[0].detach()
        if not through_trunk and len(output) == 1 < len(
            rows
        ):  # the same positions for all rows: each has its own gradient
            x, output = x.expand(len(rows), *x.shape[1:]), output.expand(len(rows), *output.shape[1:])
        captured.append((module, x, output))
        return output

    for module in policy.model.modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(hook))
    try:
        with torch.enable_grad():
            states, mask = scoring_states(policy, rollouts, rows, share=False)  # each row needs its own gradient
            through_trunk = True  # the head is given all rows' positions, one behind the other
            mask = mask[:, : int(mask.sum(1).max())]
            row, token = mask.nonzero(as_tuple=True)
            laid_out = states.new_zeros(*mask.shape, states.shape[1]).index_put((row, token), states)
            tokens = rollouts.response_ids.flatten(0, 1)[rows, : mask.shape[1]].flatten().to(states.device)
            logprobs, _ = score_tokens(policy, laid_out.flatten(0, 1), tokens, rollouts.temperature, False)
            total = (logprobs.view(mask.shape) * (weights[:, : mask.shape[1]] * mask).to(logprobs)).sum()
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(total, [output for _, _, output in captured])
    uses: dict = {}
    for (module, x, output), gradient in zip(captured, gradients, strict=True):
        shape = () if isinstance(module, torch.nn.Embedding) else x.shape[-1:]  # an embedding's inputs are token ids
        record = [each.reshape(len(rows), -1, each.shape[-1]) for each in (output.detach(), gradient)]
        for parameter in module.parameters(recurse=False):
            uses.setdefault(parameter, []).append((module, x.reshape(len(rows), -1, *shape), *record))
    return uses


def _gradient_of(parameter, uses: dict) -> torch.Tensor:
    """(R, *parameter.shape): of each row, over all uses of a weight."""
    first, *others = (_row_gradient(parameter, *use) for use in uses[parameter])
    return sum(others, first)


def gradients_by_row(policy: Policy, rollouts: Rollouts, rows: torch.Tensor, weights: torch.Tensor, parameters) -> list:
    """The gradients of `_gradient_of`, each weight's in turn, from a backward pass for each row."""
    found = []
    for row, of in zip(rows.split(1), weights, strict=True):
        with torch.enable_grad():
            total = (forward_rows(policy, rollouts, row)[0] * of.to(policy.device)).sum()
        found.append(torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True))
    return list(map(torch.stack, zip(*found, strict=True)))


def _modules_tell(policy: Policy, rollouts: Rollouts, parameters) -> bool:
    """Whether `_gradient_of`, of the shortest two responses, gives one what its own backward pass gives it."""
    rows = row_lengths(rollouts).argsort(stable=True)[:2]
    of = torch.ones(len(rows), rollouts.response_ids.shape[2])
    expected = [gradient[0] for gradient in gradients_by_row(policy, rollouts, rows[:1], of[:1], parameters)]
    slack = max(1e-3, 8 * torch.finfo(policy.model.dtype).eps)  # half precision rounds at other places
    largest = max(float(gradient.abs().max()) for gradient in expected)
    try:
        uses = _uses(policy, rollouts, rows, of)
        found = (_gradient_of(parameter, uses)[0] for parameter in parameters)
        pairs = zip(found, expected, strict=True)
        return all(torch.allclose(one.to(other), other, slack, slack * largest) for one, other in pairs)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # experts, states that are carried along, what a module does to its output: each in its own way
        return False


def _row_gradient(parameter, module, x, output, d) -> torch.Tensor:
    """(R, *parameter.shape): the gradient that one use of a weight leaves, for each row."""
    if parameter is getattr(module, "bias", None):
        return d.sum(1)
    if isinstance(module, torch.nn.Linear):
        return d.mT @ x
    if isinstance(module, Conv1D):  # GPT-2's, which holds its weight transposed
        return x.mT @ d
    if isinstance(module, torch.nn.Embedding):
        result = d.new_zeros(len(x), *parameter.shape)
        index = (x + torch.arange(len(x), device=x.device)[:, None] * len(parameter)).flatten()
        result.view(-1, d.shape[-1]).index_add_(0, index, d.flatten(0, 1) * getattr(module, "embed_scale", 1.0))
        if module.padding_idx is not None:
            result[:, module.padding_idx] = 0
        return result
    if "Norm" in type(module).__name__ and parameter is getattr(module, "weight", None):
        gain, bias = _gain(module), getattr(module, "bias", None)
        if (gain == 0).any():  # nothing is left of some features, so they are normed again
            return ((_heavier(module, x) - output) * d).sum(1)
        scaled = output if bias is None else output - bias
        return (scaled * d).sum(1) / gain
    raise PoiseLabError(f"a weight of a {type(module).__name__} cannot be followed response by response")


@torch.no_grad()
def _gain(norm) -> torch.Tensor:
    """(D,) what a norm multiplies the normed values by: its weight, or 1 + its weight.

    Dividing by it gives the normed values back, which is cheaper than norming again.
    """
    x = (-1.0) ** torch.arange(len(norm.weight), device=norm.weight.device, dtype=norm.weight.dtype)  # normed, never 0
    y, bias = norm(x), getattr(norm, "bias", None)
    return (y if bias is None else y - bias) / (_heavier(norm, x) - y)


@torch.no_grad()
def _heavier(norm, x: torch.Tensor) -> torch.Tensor:
    """What the norm would give with 1 more in each weight: its output, and the normed values beside it."""
    return torch.func.functional_call(norm, {"weight": norm.weight + 1}, (x,))
