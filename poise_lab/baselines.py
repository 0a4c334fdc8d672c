"""Baselines: how a batch of rewards becomes advantages.

A baseline asks for the batch that it wants (`sample`), turns it into advantages, learns from it
afterwards (`update`), and saves and restores its state. To add one, write such a class and pass an
instance to `Trainer`:

    class Median(Baseline):
        name = "median"

        def advantages(self, rollouts, internals):
            return rollouts.rewards - rollouts.rewards.median()
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch

from .errors import PoiseLabError, known
from .internals import Internals
from .policies import Policy
from .rollouts import Rollouts, join, leave_one_out_mean
from .sampler import Sampler


class Baseline:
    """What every baseline answers to. Shapes: P prompts, M responses per prompt.

    responses: responses per prompt that it wants. least: the fewest it can work with.
    on_reward_scale: whether an advantage is a reward minus something, or is rescaled on top of that.
    """

    name = ""
    least = 1
    on_reward_scale = True

    def __init__(self, responses: int = 2):
        if responses < self.least:
            raise PoiseLabError(
                f"baseline {self.name!r} needs at least {self.least} responses per prompt, got responses={responses}"
            )
        self.responses = responses

    def start(self, policy: Policy) -> None:
        """Called once, with the policy as it is before training."""

    def sample(self, sampler: Sampler) -> Rollouts:
        """The batch of a step: by default new problems with `responses` responses each."""
        return sampler.sample(sampler.problems(), self.responses)

    def advantages(self, rollouts: Rollouts, internals: Internals) -> torch.Tensor:
        """(P, M) float32, or (P, M, T) with one per token. What is subtracted from a reward must not depend on that response."""
        raise TypeError(f"{type(self).__name__} must define advantages(rollouts, internals)")

    def update(self, rollouts: Rollouts, internals: Internals) -> None:
        """Learn from a batch whose advantages have been taken."""

    def values(self, rollouts: Rollouts, internals: Internals) -> torch.Tensor | None:
        """(P, M) value of the prompt as predicted from each response, or None if it predicts none."""
        return None

    def settings(self) -> dict:
        """What it was made with, for the run's config."""
        return {"name": self.name, "responses": self.responses}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        pass


class NoBaseline(Baseline):
    """REINFORCE without a baseline: A = r."""

    name = "none"

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts).clone()


class BatchMean(Baseline):
    """REINFORCE with the mean reward of all *other* responses in the batch: A_i = r_i - mean_j r_j."""

    name = "batch_mean"

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        if rewards.numel() < 2:
            raise PoiseLabError("baseline 'batch_mean' needs at least 2 responses in the batch")
        return rewards - leave_one_out_mean(rewards.reshape(1, -1)).view_as(rewards)


class Constant(Baseline):
    """One number for all prompts, aimed at what `score_weighted` aims its probe at: A = r - E[R |s|^2] / E[|s|^2].

    Its control: how far does a baseline get that knows nothing of the prompt? The number is taken from the
    steps before, 0 at first, with the surprise of a response's tokens (`surprise`) for |s|^2.

    rows: responses that it is taken from, the most recent ones.
    """

    name = "constant"

    def __init__(self, responses: int = 1, rows: int = 4096):
        super().__init__(responses)
        if rows < 1:
            raise PoiseLabError(f"rows={rows}; the constant needs at least 1 response")
        self.rows = rows
        self.history = torch.zeros(0, 2)  # surprise and reward, newest last

    @property
    def constant(self) -> float:
        """What is subtracted now."""
        weights, rewards = self.history.double().T
        return float(weights @ rewards / weights.sum()) if len(weights) else 0.0

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts) - self.constant

    def update(self, rollouts, internals):
        new = torch.stack([surprise(rollouts, internals), rollouts.rewards], -1).flatten(0, 1)
        self.history = torch.cat([self.history, new.float()])[-self.rows :]

    def settings(self):
        return {**super().settings(), "rows": self.rows}

    def state_dict(self):
        return {"history": self.history}

    def load_state_dict(self, state):
        self.history = state["history"]


class RLOO(Baseline):
    """Leave-one-out mean of the group (arXiv 2402.14740): A_i = r_i - mean of the siblings' rewards."""

    name, least = "rloo", 2

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - leave_one_out_mean(rewards)


class GRPO(Baseline):
    """Group mean over group standard deviation (arXiv 2402.03300): A_i = (r_i - mean) / (std + 1e-6).

    Population standard deviation. A group whose rewards all agree has advantage 0.
    """

    name, least, on_reward_scale = "grpo", 2, False

    def __init__(self, responses: int = 8):
        super().__init__(responses)

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        centred = rewards - rewards.mean(1, keepdim=True)
        return centred / (rewards.std(1, keepdim=True, correction=0) + 1e-6)


class DrGRPO(Baseline):
    """Group mean, undivided (Dr. GRPO, arXiv 2503.20783): A_i = r_i - mean.

    The mean contains r_i, so the expected gradient is (M - 1) / M of the true one. That method's other
    half, no division by the response's length, is the trainer's `token_mean`.
    """

    name, least = "dr_grpo", 2

    def __init__(self, responses: int = 8):
        super().__init__(responses)

    def advantages(self, rollouts, internals):
        rewards = checked_rewards(rollouts)
        return rewards - rewards.mean(1, keepdim=True)


class OPO(Baseline):
    """Group mean weighted by response length (OPO, arXiv 2505.23585): A_i = r_i - sum_j l_j r_j / sum_j l_j.

    The length stands for the squared norm of the score, which the best constant baseline is weighted by.
    """

    name, least = "opo", 2

    def __init__(self, responses: int = 8):
        super().__init__(responses)

    def advantages(self, rollouts, internals):
        rewards, lengths = checked_rewards(rollouts), rollouts.lengths
        return rewards - (lengths * rewards).sum(1, keepdim=True) / lengths.sum(1, keepdim=True)


class DAPO(GRPO):
    """GRPO with dynamic sampling (DAPO, arXiv 2503.14476): groups whose rewards all agree are drawn again.

    What is thrown away was sampled and is counted. That method's other parts, the decoupled clip and the
    token mean, are the trainer's defaults.

    rounds: how often it draws for what is still missing; after that the batch stays smaller.
    """

    name = "dapo"

    def __init__(self, responses: int = 8, rounds: int = 10):
        super().__init__(responses)
        if rounds < 1:
            raise PoiseLabError(f"rounds={rounds}; it must be at least 1")
        self.rounds = rounds

    def sample(self, sampler):
        kept, missing = [], sampler.prompts
        for _ in range(self.rounds):
            rollouts = sampler.sample(sampler.problems(missing), self.responses)
            mixed = (rollouts.rewards != rollouts.rewards[:, :1]).any(1).nonzero()[:, 0]
            if len(mixed):
                kept.append(rollouts.select(mixed))
                missing -= len(mixed)
            if missing == 0:
                break
        return join(kept) if kept else rollouts

    def settings(self):
        return {**super().settings(), "rounds": self.rounds}


class ReMax(Baseline):
    """The reward of the greedy response (ReMax, arXiv 2310.10505): A_i = r_i - r_greedy."""

    name = "remax"

    def __init__(self, responses: int = 1):
        super().__init__(responses)

    def sample(self, sampler):
        rollouts = super().sample(sampler)
        greedy = sampler.sample(rollouts.problems, 1, temperature=0)
        return dataclasses.replace(rollouts, extra_rewards=greedy.rewards)

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts) - extra_rewards(rollouts, self.name).mean(1, keepdim=True)


class Oracle(Baseline):
    """V(x) as the mean reward of many fresh responses: the best that a baseline of the prompt can be.

    For measurement only: the fresh responses are not counted, and no method has them.

    fresh: how many.
    """

    name = "oracle"

    def __init__(self, responses: int = 1, fresh: int = 16):
        super().__init__(responses)
        if fresh < 1:
            raise PoiseLabError(f"fresh={fresh}; the oracle needs at least 1 fresh response")
        self.fresh = fresh

    def sample(self, sampler):
        rollouts = super().sample(sampler)
        fresh = sampler.sample(rollouts.problems, self.fresh, counted=False)
        return dataclasses.replace(rollouts, extra_rewards=fresh.rewards)

    def advantages(self, rollouts, internals):
        return checked_rewards(rollouts) - extra_rewards(rollouts, self.name).mean(1, keepdim=True)

    def settings(self):
        return {**super().settings(), "fresh": self.fresh}


class SPO(Baseline):
    """Single stream (SPO, arXiv 2509.13232): a running mean per prompt, over the times that it was seen.

    The value of a prompt is alpha / (alpha + beta). Before a prompt's new rewards are added, its old counts
    shrink by `forget`, since the policy has moved (the paper ties this to the KL distance; here it is a
    constant, and problems are not prioritised). A prompt seen for the first time has the mean reward so far,
    worth one response. Advantages are normalised over the batch. Problems come from a fixed pool.

    pool: problems in it.
    """

    name, on_reward_scale = "spo", False

    def __init__(self, responses: int = 1, pool: int = 960, forget: float = 0.9):
        super().__init__(responses)
        if pool < 1 or not 0 < forget <= 1:
            raise PoiseLabError(f"pool={pool}, forget={forget}: need pool >= 1 and 0 < forget <= 1")
        self.pool, self.forget = pool, forget
        self.counts: dict[int, list[float]] = {}  # prompt: [alpha, beta]
        self.total = [0.5, 0.5]

    def sample(self, sampler):
        return sampler.sample(sampler.pool_problems(self.pool), self.responses)

    def _counts(self, rollouts) -> list[tuple[int, list[float]]]:
        prior = [x / sum(self.total) for x in self.total]
        keys = [_prompt_key(ids) for ids in rollouts.prompt_ids]
        return [(key, self.counts.get(key, prior)) for key in keys]

    def tracked(self, rollouts: Rollouts) -> torch.Tensor:
        """(P, 1) the tracker's value of each prompt."""
        return torch.tensor([[alpha / (alpha + beta)] for _, (alpha, beta) in self._counts(rollouts)])

    def advantages(self, rollouts, internals):
        raw = checked_rewards(rollouts) - self.tracked(rollouts)
        return (raw - raw.mean()) / (raw.std(correction=0) + 1e-6)

    def update(self, rollouts, internals):
        counts = self._counts(rollouts)
        for (key, (alpha, beta)), rewards in zip(counts, rollouts.rewards.tolist(), strict=True):
            right, wrong = sum(rewards), len(rewards) - sum(rewards)
            self.counts[key] = [self.forget * alpha + right, self.forget * beta + wrong]
            self.total = [self.total[0] + right, self.total[1] + wrong]

    def settings(self):
        return {**super().settings(), "pool": self.pool, "forget": self.forget}

    def state_dict(self):
        return {
            "keys": torch.tensor(list(self.counts), dtype=torch.long),
            "counts": torch.tensor(list(self.counts.values()), dtype=torch.float64).view(-1, 2),
            "total": torch.tensor(self.total, dtype=torch.float64),
        }

    def load_state_dict(self, state):
        self.counts = dict(zip(state["keys"].tolist(), state["counts"].tolist(), strict=True))
        self.total = state["total"].tolist()


def _prompt_key(ids: list[int]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(ids).encode(), digest_size=8).digest(), "big", signed=True)


_HERE = (NoBaseline, BatchMean, Constant, ReMax, RLOO, GRPO, DrGRPO, OPO, DAPO, SPO, Oracle)
BASELINES = {cls.name: cls for cls in _HERE}  # poise.py and critic.py add theirs


def make_baseline(name: str, **settings) -> Baseline:
    """A baseline by name; settings go to its class. Raises PoiseLabError for an unknown name."""
    if name not in BASELINES:
        raise known("baseline", name, BASELINES)
    try:
        return BASELINES[name](**settings)
    except TypeError as e:
        raise PoiseLabError(f"baseline {name!r} refuses its settings: {e}") from None


def checked_rewards(rollouts: Rollouts) -> torch.Tensor:
    """The rewards, (P, M). Raises PoiseLabError if one is NaN or outside [0, 1]."""
    rewards = rollouts.rewards
    if not torch.isfinite(rewards).all() or rewards.min() < 0 or rewards.max() > 1:
        raise PoiseLabError("rewards must lie in [0, 1], without NaN; rescale or repair the verifier")
    return rewards


def surprise(rollouts: Rollouts, internals: Internals) -> torch.Tensor:
    """(P, M) sum over a response's tokens of (1 - p_t)^2, which stands for the squared length of its score; above 0.

    It is what the output layer's gradient starts from, and costs nothing.
    """
    return ((1 - internals.logprobs.exp()) ** 2 * rollouts.mask).sum(-1) + 1e-6


def extra_rewards(rollouts: Rollouts, name: str) -> torch.Tensor:
    """(P, K) rewards of the extra responses. Raises PoiseLabError if none were sampled."""
    if rollouts.extra_rewards is None:
        raise PoiseLabError(
            f"baseline {name!r} needs extra responses: take rollouts from its sample(sampler), or set extra_rewards"
        )
    return rollouts.extra_rewards


def variance_reduction(advantages: torch.Tensor, rewards: torch.Tensor) -> float:
    """1 - Var(A) / Var(R) over a batch (method Sec. 4; Fig. 4 of the paper); NaN if all rewards agree.

    Takes tensors, or arrays as `bootstrap_interval` gives them.
    """
    if isinstance(rewards, np.ndarray):
        spread, left = rewards.var(), advantages.var()
    else:
        spread, left = rewards.var(correction=0), advantages.var(correction=0)
    return float("nan") if spread == 0 else float(1 - left / spread)


def own_share(baselines: torch.Tensor, rewards: torch.Tensor, fresh: torch.Tensor) -> float:
    """How much of a response's own reward its baseline holds: Cov(b, R | x) / Var(R | x), means over prompts.

    0 for a baseline that is independent of its response, 1 / M for the mean of a group of M. Right
    and wrong responses to a prompt then differ in their mean advantage by 1 minus this, where they
    should differ by 1.

    baselines, rewards: (P, M). fresh: (P, N) rewards of N >= 2 other responses, which no baseline has seen.
    """
    halves = [fresh[:, k::2].mean(1)[:, None] for k in (0, 1)]
    covariance = spread = 0.0
    for value, other in (halves, halves[::-1]):  # two independent estimates of V(x): their errors do not multiply
        covariance += float(((baselines - value) * (rewards - other)).mean())
        spread += float(((rewards - value) * (rewards - other)).mean())
    return covariance / spread
