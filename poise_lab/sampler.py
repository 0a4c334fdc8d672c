"""What a baseline may ask for at a step: problems, responses to them, and a bill.

Most baselines take new problems and some responses to each. Some need more: a greedy response, a
second draw where the first taught nothing, the same problems again. They ask here, and what they ask
for is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from .errors import PoiseLabError
from .generate import sample_rollouts
from .policies import Policy
from .rollouts import Rollouts
from .tasks import Problem, Task, TaskMixture


def step_seed(seed: int, step: int, what: str) -> int:
    """A seed for one purpose of one step; different arguments give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{what}".encode()).digest()[:6], "big")


def held_out_problems(task: Task | TaskMixture, prompts: int, seed: int) -> list[Problem]:
    """The problems that a run of this seed is evaluated on and never trains on."""
    return task.sample(prompts, step_seed(seed, 0, "held-out"))


class Sampler:
    """Problems and responses of one step after another, as functions of (seed, step) alone.

    prompts: problems per step. exclude: problems that are never drawn (the held-out ones).
    keep: layer and pool of the internals that come with responses to learn from (see `sample_rollouts`).
    tokens, responses: sampled tokens and responses since `begin`, greedy and discarded ones included.
    """

    def __init__(
        self,
        policy: Policy,
        task: Task | TaskMixture,
        prompts: int = 96,
        *,
        seed: int = 0,
        exclude: Sequence[Problem] = (),
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        keep: tuple[int, int] | None = None,
    ):
        self.policy, self.task, self.prompts, self.seed, self.exclude = policy, task, prompts, seed, exclude
        self.max_new_tokens, self.temperature, self.keep = max_new_tokens, temperature, keep
        self._pools: dict[int, tuple[list[Problem], list[int]]] = {}  # problems, and their numbers in the order of use
        self.begin(1)

    def begin(self, step: int) -> None:
        """Start the bill of a step (1 is the first)."""
        self.step, self.tokens, self.responses = step, 0, 0
        self._drawn = (step - 1) * self.prompts  # a mixture's turns go on from step to step
        self._calls = {"problems": 0, "responses": 0}

    def _next_seed(self, what: str) -> int:
        self._calls[what] += 1
        again = "" if self._calls[what] == 1 else f" {self._calls[what]}"
        return step_seed(self.seed, self.step, what + again)

    def problems(self, n: int | None = None) -> list[Problem]:
        """n new problems, by default `prompts` of them; the tasks of a mixture take turns, from one draw and step to the next."""
        n = n or self.prompts
        turns = len(self.task.tasks) if isinstance(self.task, TaskMixture) else 1
        had = self._drawn % turns  # every draw begins with the first task: the turns that were had are left out
        self._drawn += n
        return self.task.sample(had + n, self._next_seed("problems"), exclude=self.exclude)[had:]

    def pool_problems(self, pool: int) -> list[Problem]:
        """The step's `prompts` problems of a fixed pool, which is gone through again and again in new orders.

        No problem comes twice in a step: the same problem would get the same responses. Raises PoiseLabError for a
        pool with fewer problems than a step takes.
        """
        if pool < self.prompts:
            raise PoiseLabError(
                f"a pool of {pool} problems is too small for {self.prompts} prompts per step; enlarge it"
            )
        if pool not in self._pools:
            self._pools[pool] = self.task.sample(pool, step_seed(self.seed, 0, "pool"), exclude=self.exclude), []
        problems, order = self._pools[pool]
        while len(order) < self.step * self.prompts:
            generator = torch.Generator().manual_seed(step_seed(self.seed, len(order) // pool, "pool order"))
            new = torch.randperm(pool, generator=generator).tolist()
            begun = set(order[len(order) - len(order) % self.prompts :])  # the step that the last time through ends in
            first = [i for i in new if i not in begun][: self.prompts - len(begun)]
            order += dict.fromkeys(first + new)
        return [problems[i] for i in order[(self.step - 1) * self.prompts : self.step * self.prompts]]

    def sample(
        self, problems: Sequence[Problem], responses: int, *, temperature: float | None = None, counted: bool = True
    ) -> Rollouts:
        """Responses to problems; temperature 0 is greedy.

        counted: False for responses that only measure (the oracle's), which no method could have.
        """
        rollouts = sample_rollouts(
            self.policy, problems, responses, seed=self._next_seed("responses"), max_new_tokens=self.max_new_tokens,
            temperature=self.temperature if temperature is None else temperature,
            keep=self.keep if counted and temperature is None else None,
        )  # fmt: skip
        if counted:
            self.tokens += rollouts.tokens
            self.responses += rollouts.rewards.numel()
        return rollouts
