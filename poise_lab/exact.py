"""The variance laboratory, exactly: a policy so small that every response can be summed over, in float64.

For a policy with a few responses to a few prompts the expectation of a gradient estimate is a sum over all
batches that could be drawn, and so is its variance. Nothing is sampled here. The baselines are the library's
own: they are handed every group of M responses as one row of `Rollouts` and `Internals`, and what they return
is weighted with the probability of that group.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import torch

from .baselines import Baseline
from .errors import PoiseLabError
from .internals import Internals
from .poise import Poise
from .rollouts import Rollouts

MOST_BATCHES = 2_000_000


@dataclasses.dataclass(frozen=True)
class ExactProblem:
    """A prompt of the small policy: its number."""

    index: int
    task: str = "exact"


class _Transformer(torch.nn.Module):
    """One causal attention layer and one feed-forward layer, no norms: a few hundred parameters."""

    def __init__(self, prompts: int, vocabulary: int, length: int, width: int):
        super().__init__()
        self.embed = torch.nn.Embedding(prompts + vocabulary, width)
        self.position = torch.nn.Embedding(length + 1, width)
        self.mix = torch.nn.Linear(width, 3 * width, bias=False)
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)
        self.head = torch.nn.Linear(width, vocabulary)

    def forward(self, ids):
        """(R, T) ids to logits (R, T, V) and the states (R, T, D) that they are read from."""
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        q, k, v = self.mix(x)[:, None].chunk(3, -1)
        x = x + torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        x = x + self.down(torch.tanh(self.up(x)))
        return self.head(x), x


class ExactPolicy:
    """A softmax policy with hidden states of its own, all of whose responses are listed.

    Shapes: X prompts, N = vocabulary ** length responses to each, K parameters, D width. All float64.

    prob: (X, N) probability of each response. score: (X, N, K) gradient of its log-probability.
    reward: (X, N), 0 or 1, drawn once from the seed; every prompt has both. responses: (N, length) token ids.
    internals: of all responses, (X, N, D): last state before the response, mean state of the response, mean entropies.

    Raises PoiseLabError if there are too many responses to list.
    """

    def __init__(self, prompts: int = 3, vocabulary: int = 3, length: int = 3, width: int = 6, seed: int = 2):
        if vocabulary**length > 300 or min(prompts, vocabulary - 1, length, width) < 1:
            raise PoiseLabError(
                f"{vocabulary} tokens in {length} places: at most 300 responses can be summed over, and at least 2 tokens are needed"
            )
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            self.model = _Transformer(prompts, vocabulary, length, width).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        self.prompts, self.length = prompts, length
        self.responses = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))
        n = len(self.responses)
        chance = 0.15 + 0.7 * torch.rand(prompts, 1, generator=generator, dtype=torch.float64)
        self.reward = torch.bernoulli(chance.expand(-1, n), generator=generator)
        self.reward[:, 0], self.reward[:, 1] = 0, 1
        with torch.no_grad():
            logprobs, states, entropy = self._run()
        self.prob = logprobs.exp()
        self.score = self._scores()
        self.internals = Internals(
            prompt=states[:, :, 0],
            reasoning=states[:, :, 1:].mean(2),
            entropy=entropy.mean(-1, keepdim=True).expand(-1, -1, 3).contiguous(),
            logprobs=torch.zeros(prompts, n, 1),
            token_entropy=entropy,
            layer=0,
            pool=1,
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())

    def _run(self):
        """Log-probabilities (X, N), states (X, N, length + 1, D), token entropies (X, N, length)."""
        vocabulary = self.model.head.out_features
        first = vocabulary + torch.arange(self.prompts)  # prompts are tokens of their own
        ids = torch.cat(
            [first[:, None, None].expand(-1, len(self.responses), 1), self.responses.expand(self.prompts, -1, -1)], -1
        )
        logits, states = self.model(ids.flatten(0, 1))
        steps = logits[:, :-1].log_softmax(-1)
        logprobs = steps.gather(-1, ids.flatten(0, 1)[:, 1:, None])[..., 0].sum(-1)
        entropy = -(steps.exp() * steps).sum(-1)
        shape = ids.shape[:2]
        return logprobs.view(shape), states.view(*shape, *states.shape[1:]), entropy.view(*shape, -1)

    def _scores(self) -> torch.Tensor:
        logprobs = self._run()[0].flatten()
        eye = torch.eye(len(logprobs), dtype=torch.float64)
        rows = torch.autograd.grad(logprobs, self.parameters, eye, is_grads_batched=True)
        return torch.cat([row.flatten(1) for row in rows], 1).view(*self.reward.shape, -1)

    def expected_reward(self) -> torch.Tensor:
        """E[R] as a function of the parameters, to differentiate (Eq. 2)."""
        return (self._run()[0].exp() * self.reward).sum(1).mean()

    def values(self) -> torch.Tensor:
        """(X,) V(x) (Eq. 4)."""
        return (self.prob * self.reward).sum(1)

    def gradient(self) -> torch.Tensor:
        """(K,) gradient of the expected reward (Eq. 3)."""
        return ((self.prob * self.reward)[..., None] * self.score).sum(1).mean(0)

    def greedy_rewards(self) -> torch.Tensor:
        """(X,) reward of the response that takes the likeliest token at each step."""
        chosen = []
        for x in range(self.prompts):
            alive = torch.ones(len(self.responses), dtype=torch.bool)
            for t in range(self.length):
                mass = torch.zeros(self.model.head.out_features, dtype=torch.float64)
                mass.index_add_(0, self.responses[alive, t], self.prob[x, alive])
                alive &= self.responses[:, t] == mass.argmax()
            chosen.append(self.reward[x, alive][0])
        return torch.stack(chosen)

    def optimal_values(self) -> torch.Tensor:
        """(X,) the number per prompt that leaves the least variance: E[R |s|^2] / E[|s|^2]."""
        square = self.prob * (self.score**2).sum(-1)
        return (square * self.reward).sum(1) / square.sum(1)

    def records(self, prompts: torch.Tensor, chosen: torch.Tensor, extra: torch.Tensor | None = None):
        """Rollouts and Internals of given responses.

        prompts: (P,) prompt numbers. chosen: (P, M) response numbers. extra: (X, E) extra rewards per prompt.
        """
        p, m = chosen.shape
        lengths = torch.full((p, m), self.length)
        problems = [ExactProblem(x) for x in range(self.prompts)]
        rollouts = Rollouts(
            problems=[problems[x] for x in prompts.tolist()],
            prompt_ids=[[x] for x in prompts.tolist()],
            response_ids=self.responses[chosen],
            lengths=lengths,
            reasoning_lengths=lengths,
            reasoning_ended=lengths > 0,
            finished=lengths > 0,
            logprobs=torch.zeros(p, m, self.length),
            rewards=self.reward[prompts[:, None], chosen],
            texts=[[""] * m] * p,
            temperature=1.0,
            pad_id=0,
            extra_rewards=None if extra is None else extra[prompts],
        )
        at = prompts[:, None], chosen
        fields = ("prompt", "reasoning", "entropy", "logprobs", "token_entropy")
        internals = Internals(*(getattr(self.internals, name)[at] for name in fields), layer=0, pool=1)
        return rollouts, internals


class PerPrompt(Baseline):
    """A given number for each prompt of an ExactPolicy: A_i = r_i - values[x]."""

    name = "per_prompt"

    def __init__(self, values: torch.Tensor, responses: int = 1):
        super().__init__(responses)
        self.given = values

    def advantages(self, rollouts, internals):
        return rollouts.rewards - self.given[[p.index for p in rollouts.problems]][:, None]


class OwnStates(Poise):
    """The mistake: the prediction from a response is its own baseline. Honest otherwise: the probe is Poise's."""

    name = "own_states"

    def advantages(self, rollouts, internals):
        return rollouts.rewards - self.values(rollouts, internals)


@dataclasses.dataclass
class Moments:
    """Exact first and second moments of a gradient estimate: the mean of A_i s_i over a batch.

    expectation: (K,). gradient: (K,) what it should be. trace: of its covariance.
    within, between: traces of Sigma_w and Sigma_b of single terms Z = A s (Prop. 1).
    """

    expectation: torch.Tensor
    gradient: torch.Tensor
    trace: float
    within: float
    between: float

    @property
    def bias(self) -> float:
        """|E[estimate] - gradient| / |gradient|."""
        return float((self.expectation - self.gradient).norm() / self.gradient.norm())

    @property
    def scale(self) -> float:
        """Length of the expectation along the gradient, in units of the gradient."""
        return float(self.expectation @ self.gradient / self.gradient.norm() ** 2)

    @property
    def angle(self) -> float:
        """Degrees between the expectation and the gradient."""
        sine = (self.expectation / self.expectation.norm() - self.gradient / self.gradient.norm()).norm() / 2
        return math.degrees(2 * math.asin(min(1.0, float(sine))))


def moments(
    policy: ExactPolicy, baseline: Baseline, responses: int = 2, prompts: int = 1,
    extra: torch.Tensor | None = None, alone: bool = False,
) -> Moments:  # fmt: skip
    """Exact moments of the gradient estimate over all batches of `prompts` prompts with `responses` responses.

    Prompts are uniform and independent. The baseline is called on a copy, so it stays as it is.

    extra: (X, E) extra rewards, for baselines that read them.
    alone: call the baseline once per batch, as for prompts > 1: needed where a batch's advantages depend on
        more than the group (a mean over the batch, a probe that is refitted on the batch).

    Raises PoiseLabError if there are too many batches.
    """
    x, n = policy.prob.shape
    count = (x * n**responses) ** prompts
    if count > MOST_BATCHES:
        raise PoiseLabError(
            f"{count} batches to sum over; the most are {MOST_BATCHES}: take fewer prompts or responses"
        )
    groups = torch.cartesian_prod(*[torch.arange(n)] * responses).view(-1, responses)  # (N ** M, M)
    which = torch.arange(x).repeat_interleave(len(groups))  # prompt of each group
    chosen = groups.repeat(x, 1)
    probability = policy.prob[which[:, None], chosen].prod(1) / x
    batches = torch.cartesian_prod(*[torch.arange(len(chosen))] * prompts).view(-1, prompts)  # groups of each batch
    weight = probability[batches].prod(1)  # (batches,)

    if prompts == 1 and not alone:
        advantages = copy.deepcopy(baseline).advantages(*policy.records(which, chosen, extra))[:, None]
    else:
        advantages = torch.stack([
            copy.deepcopy(baseline).advantages(*policy.records(which[batch], chosen[batch], extra)) for batch in batches
        ])  # fmt: skip
    advantages = advantages.double()  # (batches, prompts, M)

    # E[estimate] by the weight that every response gets in all batches together
    size = prompts * responses
    gram = torch.einsum("xik,xjk->xij", policy.score, policy.score)
    at_prompt, at_response = which[batches][..., None].expand_as(advantages), chosen[batches]
    flat = (at_prompt * n + at_response).flatten()
    total = torch.zeros(x * n, dtype=torch.float64)
    total.index_add_(0, flat, (weight[:, None, None] * advantages / size).flatten())
    per_prompt = torch.einsum("xn,xnk->xk", total.view(x, n), policy.score)  # E[Z; x], sums to the expectation
    expectation = per_prompt.sum(0)

    # E|estimate|^2: groups of one prompt through its Gram matrix, different prompts of a batch through all of it
    pairs = policy.score.flatten(0, 1) @ policy.score.flatten(0, 1).T if prompts > 1 else None
    second = torch.zeros((), dtype=torch.float64)
    terms = advantages.flatten(1)
    for i, j in itertools.product(range(size), repeat=2):
        a, b = (at_prompt * n + at_response).flatten(1)[:, [i, j]].T
        inner = gram[a // n, a % n, b % n] if pairs is None else pairs[a, b]
        second += (weight * terms[:, i] * terms[:, j] * inner).sum()
    trace = second / size**2 - expectation @ expectation

    own = (weight[:, None, None] * advantages**2 * gram[at_prompt, at_response, at_response]).sum() / size
    by_prompt = x * per_prompt  # E[Z | x]
    common = (by_prompt**2).sum() / x
    return Moments(
        expectation, policy.gradient(), float(trace), float(own - common), float(common - expectation @ expectation)
    )


def after_earlier_step(policy: ExactPolicy, baseline: Baseline, late: bool = False) -> Moments:
    """Moments with pairs where the baseline has learned from an earlier step, summed over all earlier steps too.

    For every earlier pair of responses to every prompt the baseline is given that batch (`update`), and then
    judges every present pair. Only the expectation is exact over both; trace, within and between are means
    over earlier steps of those given the step.

    late: the mistake; the baseline is given the *present* batch before its advantages are taken.
    """
    x, n = policy.prob.shape
    groups = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    parts, weights = [], []
    if late:
        return moments(policy, _Late(baseline), alone=True)
    for prompt in range(x):
        for group in groups:
            learned = copy.deepcopy(baseline)
            learned.update(*policy.records(torch.tensor([prompt]), group[None]))
            parts.append(moments(policy, learned))
            weights.append(float(policy.prob[prompt, group].prod() / x))
    mean = lambda name: sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True))  # noqa: E731
    return Moments(mean("expectation"), policy.gradient(), *(mean(k) for k in ("trace", "within", "between")))


class _Late(Baseline):
    """A baseline that learns from a batch before it judges it."""

    name, least = "late", 2

    def __init__(self, inner: Baseline):
        super().__init__(2)
        self.inner = inner

    def advantages(self, rollouts, internals):
        self.inner.update(rollouts, internals)
        return self.inner.advantages(rollouts, internals)
