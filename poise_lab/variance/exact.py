"""The variance laboratory, exactly: a policy so small that every response can be summed over, in float64.

With a few responses to a few prompts, the expectation of a gradient estimate is a sum over all batches that
could be drawn, and so is its variance: nothing is sampled, nothing has an error bar. The baselines are the
library's own. They are handed every group of M responses as one row of `Rollouts` and `Internals`, and what
they return is weighted with that group's probability. Equations are those of arXiv 2605.07579.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import torch

from ..baselines.base import Baseline
from ..baselines.poise import Poise
from ..baselines.prefix import Prefix, PrefixWeighted
from ..errors import PoiseLabError
from .listed import ExactPolicy

MOST_GROUPS = 1_000_000
MOST_CALLS = 30_000  # of a baseline that must be called batch by batch
COMPARED = 8  # groups that are judged a second time, each by itself


@dataclasses.dataclass
class Moments:
    """Exact moments of a gradient estimate, the mean of Z_i = A_i s_i over a batch: advantage times score.

    by_prompt: (X, K) E[Z | x]. gradient: (K,) what the estimate should have as its mean.
    second: E |estimate|^2. single: E |Z|^2.
    """

    by_prompt: torch.Tensor
    gradient: torch.Tensor
    second: float
    single: float

    @property
    def expectation(self) -> torch.Tensor:
        """(K,)."""
        return self.by_prompt.mean(0)

    @property
    def bias(self) -> float:
        """|E[estimate] - gradient| / |gradient|."""
        return float((self.expectation - self.gradient).norm() / self.gradient.norm())

    @property
    def scale(self) -> float:
        """Length of E[estimate] along the gradient, in units of the gradient."""
        return float(self.expectation @ self.gradient / self.gradient.norm() ** 2)

    @property
    def angle(self) -> float:
        """Degrees between E[estimate] and the gradient; through the chord, which is exact for small angles."""
        a, b = self.expectation, self.gradient
        return math.degrees(2 * math.asin(min(1.0, float((a / a.norm() - b / b.norm()).norm()) / 2)))

    @property
    def trace(self) -> float:
        """Trace of the estimate's covariance: its variance, summed over the parameters."""
        return float(self.second - self.expectation @ self.expectation)

    @property
    def within(self) -> float:
        """Trace of Sigma_w, the mean covariance of a single Z given its prompt (Prop. 1)."""
        return float(self.single - (self.by_prompt**2).sum(1).mean())

    @property
    def between(self) -> float:
        """Trace of Sigma_b, the covariance of E[Z | x] over prompts (Prop. 1)."""
        return float(((self.by_prompt - self.expectation) ** 2).sum(1).mean())

    def by_proposition(self, responses: int, prompts: int = 1) -> float:
        """The variance that Prop. 1 gives a batch: Sigma_w / B + (M / B) Sigma_b, B responses in all."""
        return (self.within / responses + self.between) / prompts


def groups(policy: ExactPolicy, responses: int):
    """All groups: their prompt (G,), their responses (G, M), their probability (G,); G = X N^M."""
    x, n = policy.prob.shape
    if x * n**responses > MOST_GROUPS:
        raise PoiseLabError(f"{x * n**responses} groups of {responses} to sum over, the most are {MOST_GROUPS}")
    which = torch.arange(x).repeat_interleave(n**responses)
    chosen = torch.cartesian_prod(*[torch.arange(n)] * responses).view(-1, responses).repeat(x, 1)
    return which, chosen, policy.prob[which[:, None], chosen].prod(1) / x


def moments(
    policy: ExactPolicy, baseline: Baseline, responses: int = 2, prompts: int = 1,
    extra: torch.Tensor | None = None, alone: bool = False,
) -> Moments:  # fmt: skip
    """Exact moments over all batches of `prompts` independent, uniform prompts with `responses` responses each.

    The baseline stays as it is: copies of it are called.

    extra: (X, E) extra rewards of each prompt, for remax and oracle.
    alone: call the baseline for one batch at a time, as is always done for several prompts. Needed where
        advantages depend on all that comes in one call: a mean over the batch, a refit on the batch.

    Raises PoiseLabError if there is too much to sum over, for advantages that are not one per response, or for a
    baseline that must be called alone and is not.
    """
    n, size = policy.prob.shape[1], prompts * responses
    which, chosen, probability = groups(policy, responses)
    if prompts == 1 and not alone:
        batches = torch.arange(len(which))[:, None]
        advantages = copy.deepcopy(baseline).advantages(*policy.records(which, chosen, extra))
        for b in torch.linspace(0, len(which) - 1, COMPARED).long()[:, None]:  # as a step would have handed it over
            by_itself = copy.deepcopy(baseline).advantages(*policy.records(which[b], chosen[b], extra))
            if not torch.allclose(by_itself, advantages[b].to(by_itself), atol=1e-5):
                raise PoiseLabError(
                    f"advantages of baseline {baseline.name!r} change with the other groups of a call, "
                    "and here all groups come in one: pass alone=True"
                )
    else:
        if len(which) ** prompts > MOST_CALLS:
            raise PoiseLabError(f"{len(which) ** prompts} batches, one call each, the most are {MOST_CALLS}")
        batches = torch.cartesian_prod(*[torch.arange(len(which))] * prompts).view(-1, prompts)
        each = [copy.deepcopy(baseline).advantages(*policy.records(which[b], chosen[b], extra)) for b in batches]
        advantages = torch.stack(each)
    if advantages.numel() != len(batches) * size:
        raise PoiseLabError(f"baseline {baseline.name!r} gives no single advantage per response; it cannot be summed")
    advantages = advantages.double().view(len(batches), size)
    weight = probability[batches].prod(1)
    rows = (which[batches][..., None] * n + chosen[batches]).view(-1, size)  # of all X N responses

    credit = torch.zeros(policy.prob.numel(), dtype=torch.float64)  # probability times advantage, by response
    credit.index_add_(0, rows.flatten(), (weight[:, None] * advantages / size).flatten())
    by_prompt = torch.einsum("xn,xnk->xk", credit.view(-1, n), policy.score) * policy.prompts
    scores = policy.score.flatten(0, 1)
    inner, squares = scores @ scores.T, (scores**2).sum(1)
    second = sum(
        float((weight * advantages[:, i] * advantages[:, j] * inner[rows[:, i], rows[:, j]]).sum())
        for i, j in itertools.product(range(size), repeat=2)
    )
    single = (weight[:, None] * advantages**2 * squares[rows]).sum() / size
    return Moments(by_prompt, policy.gradient(), second / size**2, float(single))


def token_moments(policy: ExactPolicy, advantages: torch.Tensor) -> Moments:
    """Exact moments of the estimate from one response to one prompt, with an advantage for each of its tokens.

    advantages: (X, N, T), as `every_response` gives them for a baseline.
    """
    z = (advantages.double()[..., None] * policy.token_score).sum(2)
    square = float((policy.prob * (z**2).sum(-1)).sum(1).mean())
    return Moments((policy.prob[..., None] * z).sum(1), policy.gradient(), square, square)


def every_response(policy: ExactPolicy, baseline: Baseline) -> torch.Tensor:
    """(X, N, T) advantages that a copy of a token-level baseline gives all responses, one to a prompt."""
    which, chosen, _ = groups(policy, 1)
    advantages = copy.deepcopy(baseline).advantages(*policy.records(which, chosen))
    return advantages.view(policy.prompts, len(policy.responses), -1)


def after_earlier_step(policy: ExactPolicy, baseline: Baseline, responses: int = 2, **options) -> Moments:
    """Exact moments where the baseline learns from an earlier batch first, summed over earlier batches as well.

    Every group that could have been drawn is given to a copy (`update`), which then judges every present batch.
    Arguments as for `moments`.
    """
    by_prompt, second, single = 0.0, 0.0, 0.0
    which, chosen, probability = groups(policy, responses)
    for i, weight in enumerate(probability.tolist()):
        learned = copy.deepcopy(baseline)
        learned.update(*policy.records(which[i : i + 1], chosen[i : i + 1]))
        found = moments(policy, learned, responses, **options)
        by_prompt, second = by_prompt + weight * found.by_prompt, second + weight * found.second
        single += weight * found.single
    return Moments(by_prompt, policy.gradient(), second, single)


class PerPrompt(Baseline):
    """Given numbers as the baseline of each prompt of an ExactPolicy, (X,): A_i = r_i - given[x]."""

    name = "per_prompt"

    def __init__(self, given: torch.Tensor, responses: int = 1):
        super().__init__(responses)
        self.given = given

    def advantages(self, rollouts, internals):
        return rollouts.rewards - self.given[[p.index for p in rollouts.problems]][:, None]


class OwnStates(Poise):
    """A mistake to measure: the baseline of a response is the probe's prediction from its *own* states."""

    name = "own_states"

    def advantages(self, rollouts, internals):
        return rollouts.rewards - self.values(rollouts, internals)


class ListedPrefix(Prefix):
    """`prefix` on a policy whose responses are listed: `start` takes an ExactPolicy."""

    def states(self, rollouts):
        mask = rollouts.mask.flatten(0, 1)
        yield torch.arange(len(mask)), self.policy.states_along(rollouts)[:, :-1][mask], mask


class ListedPrefixWeighted(ListedPrefix, PrefixWeighted):
    """`prefix_weighted` there."""


class RefitFirst(Baseline):
    """A mistake to measure: a baseline that learns from a batch before it judges it. To be called `alone`."""

    name = "refit_first"

    def __init__(self, inner: Baseline):
        super().__init__(inner.responses)
        self.inner = inner

    def advantages(self, rollouts, internals):
        self.update(rollouts, internals)
        return self.inner.advantages(rollouts, internals)

    def update(self, rollouts, internals):
        self.inner.update(rollouts, internals)
