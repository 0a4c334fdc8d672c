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
from ..errors import PoiseLabError
from ..internals import Internals
from ..rollouts import Rollouts

MOST_RESPONSES, MOST_GROUPS = 100, 1_000_000
MOST_CALLS = 30_000  # of a baseline that must be called batch by batch
COMPARED = 8  # groups that are judged a second time, each by itself


@dataclasses.dataclass(frozen=True)
class ExactProblem:
    """A prompt of the small policy: its number."""

    index: int
    task: str = "exact"


class _Transformer(torch.nn.Module):
    """One causal attention layer and one feed-forward layer, no norms: a few hundred parameters."""

    def __init__(self, tokens: int, vocabulary: int, length: int, width: int):
        super().__init__()
        self.embed, self.position = torch.nn.Embedding(tokens, width), torch.nn.Embedding(length + 1, width)
        self.attend = torch.nn.Linear(width, 3 * width, bias=False)
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)
        self.head = torch.nn.Linear(width, vocabulary)
        self.register_buffer("future", torch.full((length + 1, length + 1), -math.inf).triu(1))

    def forward(self, ids):
        """(R, T) ids to logits (R, T, V), and the hidden states (R, T, D) that they are read from."""
        x = self.embed(ids) + self.position.weight
        q, k, v = self.attend(x).chunk(3, -1)
        x = x + (q @ k.mT / x.shape[-1] ** 0.5 + self.future).softmax(-1) @ v
        x = x + self.down(torch.tanh(self.up(x)))
        return self.head(x), x


class ExactPolicy:
    """A causal transformer with a softmax over tokens, all of whose responses are listed.

    A response ends with token 0, or at `length` tokens. Shapes: X prompts, N responses to each, K parameters,
    D width. All numbers are float64 and follow from the seed.

    prob: (X, N) probability of each response. score: (X, N, K) gradient of its log-probability (nats).
    reward: (X, N), 0 or 1, drawn once; every prompt has a wrong and a right response.
    responses: (N, length) token ids, 0 after the end. lengths: (N,).
    internals: of all responses, as a probe reads them: state of the prompt, mean state and entropy of the response.

    Raises PoiseLabError for fewer than 2 responses or more than MOST_RESPONSES.
    """

    def __init__(self, prompts: int = 3, vocabulary: int = 3, length: int = 3, width: int = 6, seed: int = 0):
        n = sum((vocabulary - 1) ** k for k in range(length)) + (vocabulary - 1) ** length
        if min(prompts, vocabulary - 1, length, width) < 1 or n > MOST_RESPONSES:
            raise PoiseLabError(
                f"{prompts} prompts, {vocabulary} tokens, length {length}, width {width}: need at least 1 prompt, "
                f"2 tokens, and at most {MOST_RESPONSES} responses to sum over"
            )
        generator = torch.Generator().manual_seed(seed)
        self.model = _Transformer(prompts + vocabulary, vocabulary, length, width).double()
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                spread = 0.8 if name == "embed.weight" else 0.4  # prompts differ, no token is certain
                weight.copy_(spread * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        strings = itertools.product(range(vocabulary), repeat=length)  # those that stay 0 after the first 0
        listed = [s for s in strings if 0 not in s or not any(s[s.index(0) :])]
        self.responses = torch.tensor(listed)
        self.lengths = torch.tensor([s.index(0) + 1 if 0 in s else length for s in listed])
        self.mask = torch.arange(length) < self.lengths[:, None]  # (N, length)
        self.prompts = prompts
        chance = 0.15 + 0.7 * torch.rand(prompts, 1, generator=generator, dtype=torch.float64)
        self.reward = torch.bernoulli(chance.expand(-1, n), generator=generator)
        self.reward[:, 0], self.reward[:, 1] = 0, 1
        logprobs, states, entropy = self._run()
        flat = logprobs.sum(-1).flatten()
        rows = torch.autograd.grad(flat, self.parameters, torch.eye(len(flat)).double(), is_grads_batched=True)
        self.score = torch.cat([row.flatten(1) for row in rows], 1).view(prompts, n, -1)
        self.prob = logprobs.detach().sum(-1).exp()
        in_response = (self.mask / self.lengths[:, None]).double()  # (N, length), weights of a mean
        mean_entropy = (entropy * in_response).sum(-1)
        self.internals = Internals(
            prompt=states[:, :, 0].detach(),
            reasoning=(states[:, :, 1:] * in_response[..., None]).sum(2).detach(),
            entropy=torch.stack([mean_entropy, mean_entropy, 0 * mean_entropy], -1).detach(),  # there is no answer span
            logprobs=logprobs.detach(),
            token_entropy=entropy.detach(),
            layer=0,
            pool=length,
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())

    def _run(self):
        """Token log-probabilities (X, N, length), states (X, N, length + 1, D), token entropies (X, N, length)."""
        n, length = self.responses.shape
        numbers = self.model.head.out_features + torch.arange(self.prompts)  # a prompt is a token of its own
        ids = torch.cat([numbers.repeat_interleave(n)[:, None], self.responses.repeat(self.prompts, 1)], 1)
        logits, states = self.model(ids)
        steps = logits[:, :-1].log_softmax(-1)
        logprobs = steps.gather(-1, ids[:, 1:, None])[..., 0].view(-1, n, length) * self.mask
        entropy = -(steps.exp() * steps).sum(-1).view(-1, n, length) * self.mask
        return logprobs, states.view(-1, n, length + 1, states.shape[-1]), entropy

    def expected_reward(self) -> torch.Tensor:
        """E[R] over prompts and responses, as a function of the parameters: what autograd can differentiate."""
        return (self._run()[0].sum(-1).exp() * self.reward).sum(1).mean()

    def gradient(self) -> torch.Tensor:
        """(K,) the gradient of the expected reward, E[R grad log pi] (Eq. 3)."""
        return torch.einsum("xn,xnk->k", self.prob * self.reward, self.score) / self.prompts

    def values(self) -> torch.Tensor:
        """(X,) V(x), the expected reward of each prompt (Eq. 4)."""
        return (self.prob * self.reward).sum(1)

    def optimal_values(self) -> torch.Tensor:
        """(X,) the number per prompt that leaves the least variance: E[R |s|^2] / E[|s|^2], s the score."""
        weight = self.prob * (self.score**2).sum(-1)
        return (weight * self.reward).sum(1) / weight.sum(1)

    def greedy_rewards(self) -> torch.Tensor:
        """(X,) reward of the response that takes the likeliest token at every step."""
        chosen = []
        for prob in self.prob:
            alive = torch.ones(len(prob), dtype=torch.bool)
            for tokens in self.responses.T:
                alive &= tokens == torch.bincount(tokens, prob * alive).argmax()
            chosen.append(int(alive.nonzero()))
        return self.reward[torch.arange(self.prompts), chosen]

    def draw(self, groups: int, responses: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompt numbers (P,), uniform, and response numbers (P, M), from the policy, for `records`."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(self.prompts, (groups,), generator=generator)
        return which, torch.multinomial(self.prob[which], responses, replacement=True, generator=generator)

    def records(
        self, which: torch.Tensor, chosen: torch.Tensor, extra: torch.Tensor | None = None
    ) -> tuple[Rollouts, Internals]:
        """The library's records of given groups, with float64 numbers.

        which: (P,) prompt numbers. chosen: (P, M) response numbers. extra: (X, E) extra rewards of each prompt.
        """
        lengths, problems = self.lengths[chosen], [ExactProblem(x) for x in range(self.prompts)]
        at = which[:, None], chosen
        rollouts = Rollouts(
            problems=[problems[x] for x in which.tolist()],
            prompt_ids=[[x] for x in which.tolist()],
            response_ids=self.responses[chosen],
            lengths=lengths,
            reasoning_lengths=lengths,
            reasoning_ended=torch.zeros_like(lengths, dtype=torch.bool),
            finished=(self.responses[chosen] == 0).any(-1),
            logprobs=self.internals.logprobs[at],
            rewards=self.reward[at],
            texts=[[""] * chosen.shape[1]] * len(which),
            temperature=1.0,
            pad_id=0,
            extra_rewards=None if extra is None else extra[which],
        )
        return rollouts, self.internals.select(at)


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
