"""Baselines of each token, read from what stands before it: one response, no partner, no second network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from ..errors import PoiseLabError
from ..internals import batches_to_score, scoring_states
from ..policies import Policy
from ..rollouts import Internals, Rollouts
from ..settings import Positive, PositiveShare
from .base import Baseline, checked_rewards


@dataclasses.dataclass(eq=False)
class Prefix(Baseline):
    """The value of what has been written so far: A_t = r - g(x, y_<t), with g aimed at V(x, y_<t) = E[r | x, y_<t].

    Given y_<t the score of token t has mean zero, so what is computed from x and y_<t alone subtracts without bias, with
    one response and no partner. g is a ridge on the policy's state before the token and the mean of these states so far,
    the entropy of what the token is drawn from, the surprise of the tokens so far, and their number; a value is clipped
    to [0, 1]. It is fitted on the steps before from sums of products, (F + 2, F + 2) numbers, so no rows are kept.
    Before the first step nothing is subtracted.

    The states are those at the trunk's end, read in a pass of their own without gradients, one for each step.

    ridge: strength, on standardised columns and in tokens. forget: what the sums shrink by at each step, since the policy moves.
    """

    responses: int = 1
    ridge: Positive = 3000.0
    forget: PositiveShare = 0.9

    name = "prefix"

    def __post_init__(self):
        super().__post_init__()
        self.policy: Policy | None = None
        self.sums: torch.Tensor | None = None  # of products of the columns 1, features, reward
        self.coef: torch.Tensor | None = None  # (F + 1,)
        self.read: tuple[Rollouts, torch.Tensor] | None = None  # a batch whose advantages were taken, and its sums

    def start(self, policy):
        self.policy = policy  # the one that is trained, not a copy

    def states(self, rollouts: Rollouts) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Batches of rows (R,), the states before their tokens (N, D), and the mask (R, T) that says which those are."""
        if self.policy is None:
            raise PoiseLabError(
                f"baseline {self.name!r} has no policy to read: call start(policy) first, as Trainer does"
            )
        with torch.no_grad():
            for rows in batches_to_score(self.policy, rollouts, torch.arange(rollouts.rewards.numel())):
                states, mask = scoring_states(self.policy, rollouts, rows)
                yield rows, states.cpu(), mask

    def features(self, rollouts: Rollouts, internals: Internals) -> Iterator[tuple[torch.Tensor, ...]]:
        """As `states`, with (N, 1 + F) float64 columns in place of them, a 1 in front."""
        surprise = (1 - internals.logprobs.double().exp()) ** 2 * rollouts.mask
        before = (surprise.cumsum(-1) - surprise).flatten(0, 1)
        entropy = internals.token_entropy.double().flatten(0, 1)
        for rows, states, mask in self.states(rollouts):
            states, number = states.double(), mask.cumsum(1)
            so_far = states.new_zeros(*mask.shape, states.shape[1])
            so_far[mask] = states
            means = (so_far.cumsum(1) / number.clamp(min=1)[..., None])[mask]
            few = torch.stack([torch.ones_like(before[rows]), entropy[rows], before[rows], number.double().log1p()], -1)
            yield rows, torch.cat([few[mask], states, means], 1), mask

    def _read(self, rollouts: Rollouts, internals: Internals) -> tuple[torch.Tensor, torch.Tensor]:
        """Values before each token (P, M, T), 0 before the first fit and at padding; and the sums of this batch."""
        rewards = checked_rewards(rollouts)
        values, sums = torch.zeros(rollouts.response_ids.shape, dtype=rewards.dtype), 0.0
        weights = self.weights(internals.logprobs.double()).flatten(0, 1)
        mean = weights[rollouts.mask.flatten(0, 1)].mean()  # so that the ridge means the same for all weights
        for rows, columns, mask in self.features(rollouts, internals):
            place, token = mask.nonzero(as_tuple=True)
            if self.coef is not None:
                values.flatten(0, 1)[rows[place], token] = (columns @ self.coef).clamp(0, 1).to(values)
            columns = torch.cat([columns, rewards.flatten()[rows[place], None].double()], 1)
            sums = sums + (columns * (weights[rows[place], token] / mean)[:, None]).T @ columns
        return values, sums

    def advantages(self, rollouts, internals):
        values, sums = self._read(rollouts, internals)
        self.read = (rollouts, sums)  # for `update`, which so needs no second pass
        return (rollouts.rewards[..., None] - values) * rollouts.mask

    def weights(self, logprobs: torch.Tensor) -> torch.Tensor:
        """Of each token in the least squares, from the tokens' log-probabilities."""
        return torch.ones_like(logprobs)

    def update(self, rollouts, internals):
        same = self.read is not None and self.read[0] is rollouts
        new = self.read[1] if same else self._read(rollouts, internals)[1]
        self.read = None
        self.sums = new if self.sums is None else self.forget * self.sums + new
        self._fit()

    def _fit(self) -> None:
        """The ridge from the sums, with columns standardised and the reward's mean not penalised."""
        n, mean = self.sums[0, 0], self.sums[0, 1:] / self.sums[0, 0]
        products = self.sums[1:, 1:] - n * mean[:, None] * mean
        scale = (products.diagonal()[:-1] / n).clamp(min=1e-12).sqrt()
        scaled = products[:-1, :-1] / (scale[:, None] * scale) + self.ridge * torch.eye(len(scale), dtype=torch.float64)
        slopes = torch.linalg.solve(scaled, products[:-1, -1] / scale) / scale
        self.coef = torch.cat([(mean[-1] - mean[:-1] @ slopes)[None], slopes])

    def state_dict(self):
        return {} if self.sums is None else {"sums": self.sums}

    def load_state_dict(self, state):
        self.sums, self.coef, self.read = state.get("sums"), None, None
        if self.sums is not None:
            self._fit()


class PrefixWeighted(Prefix):
    """`prefix` aimed at less noise instead of the value: E[r |s_t|^2 | y_<t] / E[|s_t|^2 | y_<t], with s_t the token's score.

    So each token is a row with |s_t|^2 as its weight, for which (1 - p_t)^2 stands, p_t the token's probability. (The
    number that leaves the least variance of all has <s_t, s> in place of the upper |s_t|^2, s the response's score.)
    Arguments as for Prefix.
    """

    name = "prefix_weighted"

    def weights(self, logprobs):
        return (1 - logprobs.exp()) ** 2 + 1e-6
