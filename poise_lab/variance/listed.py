"""A policy so small that all its responses can be listed, with their probabilities, scores and states, in float64."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch

from ..errors import PoiseLabError
from ..internals import Internals
from ..rollouts import Rollouts

MOST_RESPONSES = 100


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
    token_score: (X, N, length, K) the parts that its tokens have in it, 0 after the end.
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
        flat = logprobs.flatten()
        rows = torch.autograd.grad(flat, self.parameters, torch.eye(len(flat)).double(), is_grads_batched=True)
        self.token_score = torch.cat([row.flatten(1) for row in rows], 1).view(prompts, n, length, -1)
        self.score = self.token_score.sum(2)
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

    @torch.no_grad()
    def states_along(self, rollouts: Rollouts) -> torch.Tensor:
        """(P * M, length + 1, D) the state at the prompt and at each token of given responses."""
        numbers = torch.tensor(rollouts.prompt_ids).repeat_interleave(rollouts.responses, 0)
        ids = torch.cat([self.model.head.out_features + numbers, rollouts.response_ids.flatten(0, 1)], 1)
        return self.model(ids)[1]

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

    def prefix_values(self, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        """(X, N, length) E[upper | x, y_<t] / E[lower | x, y_<t] of numbers of the same shape; 0 after the end.

        For V(x, y_<t) these are the rewards and 1. For the numbers that leave the least variance they are R <s_t, s> and
        |s_t|^2, with s_t the score of token t and s that of the response. (E|sum_t (R - b_t) s_t|^2 is a parabola in
        each b_t by itself: E[b_t b_u <s_t, s_u>] = 0 for t < u, as all but s_u is fixed by y_<u.)
        """
        found = torch.zeros_like(upper)
        for t in range(upper.shape[2]):
            alike = (self.responses[:, None, :t] == self.responses[:, :t]).all(-1) & self.mask[:, t]  # (N, N)
            above, below = ((self.prob * x[..., t]) @ alike.double().T for x in (upper, lower))
            found[..., t] = torch.where(self.mask[:, t], above / below, 0)
        return found

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
