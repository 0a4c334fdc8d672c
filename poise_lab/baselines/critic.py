"""Critics: a second network that learns the value, as PPO has it, to hold the probe against.

A critic is a copy of the policy's trunk with a scalar head. Left out on purpose: value clipping and
pretraining of the critic. Its loss is the binary cross-entropy with the returns as soft targets, which has
the same optimum as the squared error and suits values in [0, 1].
"""

from __future__ import annotations

import copy
import dataclasses

import torch

from ..checkpoints import copy_weights, load_named_moments, named_moments
from ..engine import trunk_of, trunk_states
from ..errors import PoiseLabError
from ..internals import batches_to_score, padded, scoring_states
from ..policies import Policy
from ..rollouts import Rollouts
from ..settings import Count, Positive, Share
from .base import Baseline, checked_rewards, mean_of_all_others


@dataclasses.dataclass(eq=False)
class Critic(Baseline):
    """The sequence-level critic (arXiv 2605.07579, App. D.1): the prompt's value, from the last prompt token.

    A_i = r_i - V(x), with V as it was before the step. Trained by binary cross-entropy on the rewards.

    The order of its mini-batches depends on the number of the pass alone, not on the seed of the run.

    learning_rate: of the critic's AdamW. epochs: passes over each batch. minibatches: optimizer steps per pass.
    """

    responses: int = 1
    learning_rate: Positive = 3e-4
    epochs: Count = 1
    minibatches: Count = 4

    name = "critic"

    def __post_init__(self):
        super().__post_init__()
        self.steps = 0
        self.backbone: Policy | None = None

    def start(self, policy):
        self.backbone = copy.deepcopy(policy)
        with torch.no_grad():  # the trunk of some models gives states of another width than their layers
            width = trunk_states(self.backbone.model, torch.tensor([[0]])).shape[-1]
        self.head = torch.nn.Linear(width, 1).to(policy.device)
        torch.nn.init.zeros_(self.head.weight)  # every value starts at 1/2
        torch.nn.init.zeros_(self.head.bias)
        trunk = [(f"trunk.{name}", p) for name, p in trunk_of(self.backbone.model).named_parameters()]
        self.parameters = dict(trunk + [(f"head.{name}", p) for name, p in self.head.named_parameters()])
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.learning_rate, weight_decay=0.0, fused=True
        )

    @property
    def started(self) -> Policy:
        """The critic's trunk. Raises PoiseLabError if there is none yet."""
        if self.backbone is None:
            raise PoiseLabError(f"baseline {self.name!r} has no critic yet: call start(policy) first, as Trainer does")
        return self.backbone

    def _logits(self, rollouts: Rollouts, rows: torch.Tensor):
        """Value logits before each sampled token of some rows: (N,), and their mask (R, T)."""
        states, mask = scoring_states(self.started, rollouts, rows)
        return self.head(states.float())[:, 0].float(), mask

    @torch.no_grad()
    def token_values(self, rollouts: Rollouts) -> torch.Tensor:
        """(P, M, T) value before each sampled token, in [0, 1]; 0 at padding."""
        p, m, width = rollouts.response_ids.shape
        values = torch.zeros(p * m, width)
        for rows in batches_to_score(self.started, rollouts, torch.arange(p * m)):
            logits, mask = self._logits(rollouts, rows)
            values[rows] = padded(torch.sigmoid(logits), mask).cpu()
        return values.view(p, m, width)

    def _read(self, rollouts: Rollouts) -> Rollouts:
        """What the critic reads: each prompt once, up to its last token."""
        one = rollouts.select(responses=[0])
        return dataclasses.replace(one, lengths=torch.ones_like(one.lengths), response_ids=one.response_ids[..., :1])

    def values(self, rollouts, internals):
        if self.backbone is None:
            return None
        return self.token_values(self._read(rollouts))[..., 0].expand(-1, rollouts.responses).contiguous()

    def advantages(self, rollouts, internals):
        rewards, values = checked_rewards(rollouts), self.values(rollouts, internals)
        if values is None:
            _ = self.started  # which says so
        return rewards - values

    def update(self, rollouts, internals):
        self._fit(self._read(rollouts), rollouts.rewards.mean(1)[:, None, None])

    def _fit(self, rollouts: Rollouts, targets: torch.Tensor) -> None:
        """Optimizer steps towards targets (P, M, T), one per token that the rollouts hold."""
        rows, device = rollouts.rewards.numel(), self.started.device
        targets = targets.flatten(0, 1)
        for _ in range(self.epochs):
            self.steps += 1
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(self.steps))
            for part in order.tensor_split(min(self.minibatches, rows)):
                tokens = rollouts.lengths.flatten()[part].sum()
                for batch in batches_to_score(self.started, rollouts, part):
                    logits, mask = self._logits(rollouts, batch)
                    target = targets[batch][mask].to(device)
                    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
                    (loss / tokens).backward()
                torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self):
        state = {f"weight/{name}": p.detach() for name, p in self.parameters.items()}
        state |= {f"moment/{name}": value for name, value in named_moments(self.optimizer, self.parameters).items()}
        return {"steps": torch.tensor(self.steps), **state}

    def load_state_dict(self, state):
        self.steps = int(state["steps"])
        weights, moments = (
            {k.removeprefix(kind): v for k, v in state.items() if k.startswith(kind)} for kind in ("weight/", "moment/")
        )
        copy_weights(self.parameters, weights)
        load_named_moments(self.optimizer, self.parameters, moments)


class EVSwitch(Critic):
    """The critic where it explains rewards, else the mean of all others (EVPO, arXiv 2604.19485).

    A_i = r_i - V(x) while the critic's explained variance on the batch, 1 - Var(r - V) / Var(r), is above 0. The choice
    looks at the batch's own rewards, so there is a bias. Arguments as for Critic.
    """

    name, least_in_step = "ev_switch", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        left = super().advantages(rollouts, internals)
        explains = left.var(correction=0) < rewards.var(correction=0)
        return left if explains else rewards - mean_of_all_others(rewards)


@dataclasses.dataclass(eq=False)
class PPO(Critic):
    """PPO's token-level critic (arXiv 1707.06347) with generalised advantage estimation (arXiv 1506.02438).

    The reward comes with the last token and there is no discount: delta_t = V_{t+1} - V_t, the last one
    r - V_t, and A_t = sum_k lambda^k delta_{t+k}. The critic's target is the lambda-return A_t + V_t.
    Below lambda = 1 the advantages lean on V, and where the learned V is wrong the gradient is biased.

    gae_lambda: 1 gives r - V_t.
    """

    gae_lambda: Share = 0.95

    name, on_reward_scale = "ppo", False  # below lambda = 1 an advantage is no reward minus something

    def __post_init__(self):
        super().__post_init__()
        self.read: tuple[Rollouts, torch.Tensor] | None = None  # a batch whose advantages were taken, and its targets

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        values = self.token_values(rollouts)
        advantages = gae(values, rewards, rollouts.lengths, self.gae_lambda)
        self.read = (rollouts, advantages + values)  # for `update`, which so needs no second pass
        return advantages

    def update(self, rollouts, internals):
        if self.read is None or self.read[0] is not rollouts:
            self.advantages(rollouts, internals)
        (_, targets), self.read = self.read, None
        self._fit(rollouts, targets)


def gae(values: torch.Tensor, rewards: torch.Tensor, lengths: torch.Tensor, gae_lambda: float) -> torch.Tensor:
    """Generalised advantage estimates of rewards that come with the last token, undiscounted.

    values: (P, M, T) before each token, 0 at padding. rewards, lengths: (P, M). Returns (P, M, T), 0 at padding.
    """
    width = values.shape[2]
    at = torch.arange(width)
    following = torch.nn.functional.pad(values[..., 1:], (0, 1))
    last = at == lengths[..., None] - 1
    deltas = torch.where(last, rewards[..., None].to(values.dtype), following) - values
    deltas = deltas * (at < lengths[..., None])
    result, running = torch.zeros_like(values), torch.zeros_like(values[..., 0])
    for t in range(width - 1, -1, -1):
        running = deltas[..., t] + gae_lambda * running
        result[..., t] = running
    return result
