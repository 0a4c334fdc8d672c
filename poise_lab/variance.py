"""The variance laboratory: how noisy a policy gradient is, estimated for a frozen policy (arXiv 2605.07579, Sec. 2).

Every response has a score s = grad log pi(y | x), which no baseline changes. A batch of B responses, M to a
prompt, estimates the gradient by g = mean of Z = A s, so for given responses its variance is a quadratic form
in the advantages. The scores are read once (`read_scores`); any baseline, fusion or allocation is then
arithmetic on inner products. All gradients are of the sum over a response's tokens of their
log-probabilities (nats), so variances are in squared units of reward times nats per unit of weight.

Two inner products are kept. Those of responses to the same prompt are exact. Those across prompts enter only
through the squared length of the expected gradient, a mean over many pairs; for them each score is folded into
`width` numbers with random signs (a count sketch), which leaves every inner product right in expectation and
errs by about sqrt(2 / width) of that squared length. With width=None nothing is folded, and they are exact too.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from .baselines import Baseline
from .errors import PoiseLabError
from .internals import Internals, row_lengths, score_tokens, scoring_states
from .policies import Policy
from .records import mean_interval
from .rollouts import Rollouts

BATCH_TOKENS = 3072  # padded tokens of one pass


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
    width: int | None = 4096,
    seed: int = 0,
) -> Scores:
    """The scores of all responses, from batched passes: one gradient per response, none of them stored whole.

    A forward and a backward pass leave the inputs and the output gradients of every module that has weights;
    the gradient of one response is the product of its own. Prompts are batched whole.

    weights: (P, M, T) of the tokens in a response's sum, by default 1 each; with the advantages of a
        token-level critic as weights, the advantages of the responses are 1.
    width: numbers kept per score for products across prompts; None keeps all.

    Raises PoiseLabError for a module whose weights it cannot follow, or weights of another shape.
    """
    p, m, t = rollouts.response_ids.shape
    weights = torch.ones(p, m, t) if weights is None else weights
    if weights.shape != (p, m, t):
        raise PoiseLabError(f"token weights of shape {tuple(weights.shape)}; the rollouts have {(p, m, t)}")
    parameters = dict(policy.model.named_parameters())  # a tied weight is listed once
    size = sum(q.numel() for q in parameters.values())
    k = size if width is None else min(width, size)
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).to(policy.device) * 2.0 - 1
    dtype = torch.promote_types(policy.model.dtype, torch.float32)
    within, kept = torch.zeros(p, m, m, dtype=dtype), torch.zeros(p, m, k, dtype=dtype)
    for prompts, distinct, which in _prompt_batches(rollouts, weights):
        n, u = distinct.shape
        rows = (prompts[:, None] * m + distinct).flatten()
        uses = _uses(policy, rollouts, rows, weights.flatten(0, 1)[rows])
        inner = torch.zeros(n, u, u, dtype=dtype, device=policy.device)
        folded, offset = torch.zeros(n * u, k, dtype=dtype, device=policy.device), 0
        for name, parameter in parameters.items():
            if parameter not in uses:
                raise PoiseLabError(f"weight {name!r} of policy {policy.name!r} is in no module that can be followed")
            first, *others = (_row_gradient(parameter, *use) for use in uses[parameter])
            gradient = sum(others, first).to(dtype).flatten(1)
            groups = gradient.view(n, u, -1)
            inner += groups @ groups.mT
            _fold(folded, gradient, signs[offset : offset + parameter.numel()], offset)
            offset += parameter.numel()
        of_prompt = torch.arange(n)[:, None]
        within[prompts] = inner.cpu()[of_prompt[..., None], which[:, :, None], which[:, None]]
        kept[prompts] = folded.view(n, u, k).cpu()[of_prompt, which]
    return Scores(within, kept)


def _prompt_batches(rollouts: Rollouts, weights: torch.Tensor):
    """Prompts of similar length, at most BATCH_TOKENS padded tokens with all of their distinct responses.

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
            if end == len(found) or int(lengths[found[end][0]]) * u * (end + 1 - start) > BATCH_TOKENS:
                yield tuple(torch.tensor(column) for column in zip(*found[start:end], strict=True))
                start = end


def _uses(policy: Policy, rollouts: Rollouts, rows: torch.Tensor, weights: torch.Tensor) -> dict:
    """Of each weight: the modules it is used in, their inputs, outputs and output gradients, (R, positions, features)."""
    captured, handles = [], []

    def hook(module, args, output):
        x = args[0].detach()
        if len(output) == 1 < len(rows):  # the same positions for all rows: give each its own gradient
            x, output = x.expand(len(rows), *x.shape[1:]), output.expand(len(rows), *output.shape[1:])
        captured.append((module, x, output))
        return output

    for module in policy.model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(hook))
    try:
        with torch.enable_grad():
            states, mask = scoring_states(policy, rollouts, rows, share=False)  # each row needs its own gradient
            mask = mask[:, : int(mask.sum(1).max())]
            row, token = mask.nonzero(as_tuple=True)
            laid_out = states.new_zeros(*mask.shape, states.shape[1]).index_put((row, token), states)
            tokens = rollouts.response_ids.flatten(0, 1)[rows, : mask.shape[1]].flatten().to(states.device)
            logprobs, _ = score_tokens(policy, laid_out.flatten(0, 1), tokens, rollouts.temperature, False)
            total = (logprobs.view(mask.shape) * (weights[:, : mask.shape[1]] * mask).to(logprobs)).sum()
            gradients = torch.autograd.grad(total, [output for _, _, output in captured])
    finally:
        for handle in handles:
            handle.remove()
    uses: dict = {}
    for (module, x, output), gradient in zip(captured, gradients, strict=True):
        shape = () if isinstance(module, torch.nn.Embedding) else x.shape[-1:]  # an embedding's inputs are token ids
        record = [each.reshape(len(rows), -1, each.shape[-1]) for each in (output.detach(), gradient)]
        for parameter in module.parameters(recurse=False):
            uses.setdefault(parameter, []).append((module, x.reshape(len(rows), -1, *shape), *record))
    return uses


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
        bias = getattr(module, "bias", None)
        scaled = output if bias is None else output - bias
        return (scaled * d).sum(1) / _gain(module)
    raise PoiseLabError(f"a weight of a {type(module).__name__} cannot be followed response by response")


@torch.no_grad()
def _gain(norm) -> torch.Tensor:
    """(D,) what a norm multiplies the normed values by: its weight, or 1 + its weight.

    Dividing by it gives the normed values back, which is cheaper than norming again.
    """
    x = (-1.0) ** torch.arange(len(norm.weight), device=norm.weight.device, dtype=norm.weight.dtype)  # normed, never 0
    y, more = norm(x), torch.func.functional_call(norm, {"weight": norm.weight + 1}, (x,))
    bias = getattr(norm, "bias", None)
    gain = (y if bias is None else y - bias) / (more - y)
    if (gain == 0).any():
        raise PoiseLabError(
            f"a {type(norm).__name__} multiplies by 0, so the gradient of its weight cannot be read back"
        )
    return gain


def _fold(folded: torch.Tensor, gradient: torch.Tensor, signs: torch.Tensor, offset: int) -> None:
    """Add sign * gradient[:, i] to column (offset + i) mod K."""
    done, k = 0, folded.shape[1]
    while done < gradient.shape[1]:
        start = (offset + done) % k
        n = min(k - start, gradient.shape[1] - done)
        folded[:, start : start + n].addcmul_(gradient[:, done : done + n], signs[done : done + n])
        done += n


def resamples(prompts: int, draws: int = 400, seed: int = 0) -> np.ndarray:
    """(1 + draws, P): how often each prompt is in each bootstrap sample; first the data as they are.

    The same for every method, so that ratios and differences of estimates are paired.
    """
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)
    return np.concatenate([np.ones((1, prompts)), counts])


def interval(estimates: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """(value, low, high) of an estimate on `resamples`: the first is the value, the others give percentiles."""
    low, high = np.nanquantile(estimates[1:], [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(estimates[0]), float(low), float(high)


@dataclasses.dataclass
class GradientVariance:
    """Variance of the policy gradient, unbiased estimates, each (1 + draws,) as `resamples` orders them.

    What divides one by another (`snr`, `cosine`, `effective_prompts`, ratios of two baselines) is consistent, right
    with many prompts, and no longer unbiased.

    within, between: traces of Sigma_w and Sigma_b (Prop. 1), where Z are taken as independent given the prompt.
        Where advantages were made in groups smaller than M they mix pairs of one group, which hang together, with
        pairs of two groups, which do not: `spread` is then the one to trust.
    spread: trace of the covariance of one prompt's mean Z over a group of `group`; no premise needed.
    signal: squared length of the expected gradient.
    """

    within: np.ndarray
    between: np.ndarray
    spread: np.ndarray
    signal: np.ndarray
    group: int

    def predicted(self, budget: int, group: int | None = None) -> np.ndarray:
        """Trace of Cov(g) for `budget` responses, `group` to a prompt: Sigma_w / B + (m / B) Sigma_b (Eq. 10)."""
        return (self.within + (group or self.group) * self.between) / budget

    def trace(self, budget: int) -> np.ndarray:
        """Trace of Cov(g) for `budget` responses, whatever the baseline: B / m independent prompts."""
        return self.spread * self.group / budget

    def snr(self, budget: int) -> np.ndarray:
        """Signal-to-noise ratio: squared length of the gradient over the trace; no unit, no scale."""
        return self.signal / self.trace(budget)

    def cosine(self, budget: int) -> np.ndarray:
        """E<g, G> / sqrt(E|g|^2 |G|^2) with G the expected gradient: about the cosine of a batch with the truth."""
        snr = np.maximum(self.snr(budget), 0)
        return np.sqrt(snr / (1 + snr))

    def effective_prompts(self, budget: int) -> np.ndarray:
        """Prompts with one response each whose gradient is as noisy as this batch's (of Z as they are)."""
        return (self.within + self.between) / self.trace(budget)


def gradient_variance(
    scores: Scores, advantages: torch.Tensor, group: int | None = None, counts: np.ndarray | None = None
) -> GradientVariance:
    """Unbiased estimates of the parts of Cov(g) (Prop. 1, Eq. 10), with bootstrap samples over prompts.

    With W the inner products of Z within a prompt and H those of the prompts' means across prompts:
    E|Z|^2 = mean of W_jj; E|E[Z|x]|^2 = mean of W_jk, j != k; |E Z|^2 = mean of H_il, i != l.
    Sigma_w = E|Z|^2 - E|E[Z|x]|^2, Sigma_b = E|E[Z|x]|^2 - |E Z|^2. In a bootstrap sample a prompt that was
    drawn twice makes no pair with itself.

    advantages: (P, M), P >= 2. Where they were made in groups, consecutive responses form one.
    group: responses of one group, M by default; must divide M. With M = 1 within and between are NaN.
    counts: (draws, P) from `resamples`; by default the data alone.

    Raises PoiseLabError for shapes that do not fit.
    """
    p, m = scores.within.shape[:2]
    group = group or m
    if tuple(advantages.shape) != (p, m) or p < 2 or m % group:
        raise PoiseLabError(
            f"advantages {tuple(advantages.shape)} in groups of {group}, scores of {p} prompts x {m}: need equal "
            "shapes, at least 2 prompts, and a group that divides the responses"
        )
    a = advantages.double().numpy()
    z = a[:, :, None] * scores.within.double().numpy() * a[:, None, :]  # (P, M, M) inner products of Z
    own, every = np.trace(z, axis1=1, axis2=2), z.sum((1, 2))
    blocks = np.einsum("igjgk->i", z.reshape(p, m // group, group, m // group, group)) / (m * group)
    means = torch.bmm(advantages.to(scores.kept)[:, None] / m, scores.kept)[:, 0]
    across = (means @ means.T).double().numpy()
    counts = np.ones((1, p)) if counts is None else counts

    share = counts / counts.sum(1, keepdims=True)
    pairs = np.einsum("di,di->d", share @ across, share) - share**2 @ np.diag(across)
    signal = pairs / (1 - (share**2).sum(1))
    common = share @ ((every - own) / (m * (m - 1)) if m > 1 else np.full(p, np.nan))
    return GradientVariance(share @ own / m - common, common - signal, share @ blocks - signal, signal, group)


def cosine_to(
    reference: torch.Tensor, scores: Scores, advantages: torch.Tensor, found: GradientVariance, budget: int,
    counts: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """E<g, r> / sqrt(E|g|^2 |r|^2): about the cosine of a batch with a reference gradient from other prompts.

    reference: (K,) folded as the scores are. found: of the same scores, advantages and counts.
    """
    m = scores.kept.shape[1]
    means = torch.bmm(advantages.to(scores.kept)[:, None] / m, scores.kept)[:, 0]
    along = counts / counts.sum(1, keepdims=True) @ (means @ reference).double().numpy()
    return along / np.sqrt((found.trace(budget) + found.signal) * float(reference.norm()) ** 2)


def group_advantages(
    baseline: Baseline, rollouts: Rollouts, internals: Internals | None, group: int | None = None
) -> torch.Tensor:
    """(P, M) advantages where the M responses are cut into groups of `group`, and the baseline sees one group at a time."""
    m = rollouts.responses
    parts = []
    for start in range(0, m, group or m):
        columns = slice(start, start + (group or m))
        some = internals and internals.select((slice(None), columns))
        parts.append(baseline.advantages(rollouts.select(responses=columns), some))
    return torch.cat(parts, 1)


def drawn_gradients(
    scores: Scores, advantages: torch.Tensor, budget: int, group: int, pairs: int = 400, seed: int = 0
) -> torch.Tensor:
    """(pairs, 2, K) folded gradients of drawn batches of `budget` responses, the two of a pair from different prompts.

    So the two are independent batches from the task, not only from the P prompts at hand. A prompt gives
    one of its groups of `group` consecutive responses.

    Raises PoiseLabError if there are fewer than 2 budget / group prompts, or the group does not divide.
    """
    p, m, k = scores.kept.shape
    n = budget // group
    if budget % group or m % group or 2 * n > p:
        raise PoiseLabError(f"two batches of {budget} responses in groups of {group} need {2 * n} of the {p} prompts")
    generator = np.random.default_rng(seed)
    weights = torch.zeros(2 * pairs, p, m // group, dtype=scores.kept.dtype)
    for pair in range(pairs):
        prompts = generator.permutation(p)[: 2 * n]
        weights[np.repeat([2 * pair, 2 * pair + 1], n), prompts, generator.integers(m // group, size=2 * n)] = (
            1 / budget
        )
    weights = weights.repeat_interleave(group, 2) * advantages.to(weights)
    return (weights.flatten(1) @ scores.kept.flatten(0, 1)).view(pairs, 2, k)


def drawn_trace(gradients: torch.Tensor) -> tuple[float, float, float]:
    """Trace of Cov(g) from pairs of independent batches, half of their mean squared distance: (value, low, high).

    The interval is that of drawing finitely many pairs; the prompts they are drawn from are taken as given.
    """
    return mean_interval(((gradients[:, 0] - gradients[:, 1]).double() ** 2).sum(-1) / 2)


def adam_proxy(gradients: torch.Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """What the official release logs: sum over weights of v_hat - m_hat^2 of Adam's moments, after these gradients.

    Of N independent gradients with one mean it expects less than their variance: m_hat is a mean of few steps, and
    its square keeps the share (1 - beta_1) / (1 + beta_1) of the noise, about 5 %.

    gradients: (N, K), in the order of the steps. Folding leaves both sums right in expectation.
    """
    gradients = gradients.double()
    first, second = (beta ** torch.arange(len(gradients) - 1, -1, -1, dtype=torch.float64) for beta in betas)
    mean = (first / first.sum()) @ gradients
    return float((second / second.sum()) @ (gradients**2).sum(1) - mean @ mean)
