"""POISE: the baseline of a response is read from its siblings' states; with other targets, and without the pair."""

from __future__ import annotations

import dataclasses

import torch
from sklearn.base import clone

from ..errors import PoiseLabError
from ..probe import RecentBuffer, ValueProbe
from ..rollouts import Rollouts, leave_one_out_mean
from ..settings import Count
from .base import Baseline, checked_rewards, mean_of_all_others, surprise


@dataclasses.dataclass(eq=False)
class Poise(Baseline):
    """POISE (arXiv 2605.07579, Eq. 12 and 13): the baseline of a response is read from its siblings' states.

    b_i = mean over the siblings j of g(phi(y_j)), A_i = r_i - b_i, with g the value probe. With two
    responses: the prediction from the partner. The probe is fitted on earlier steps only; the
    current step's rows join the buffer after its advantages are fixed (Alg. 1).

    responses: per prompt, at least 2.
    probe: a ValueProbe or the name of a preset.
    buffer_rows: rows that the probe is fitted on, the most recent ones.
    warmup: steps that use RLOO before the first fit.
    per_task: one probe and buffer per task (the release routes by domain), or one for all.
    """

    probe: ValueProbe | str = "release"
    buffer_rows: Count = 4096
    warmup: Count = 4
    per_task: bool = False

    name, least = "poise", 2

    def __post_init__(self):
        super().__post_init__()
        self.template = ValueProbe.preset(self.probe) if isinstance(self.probe, str) else self.probe
        if not isinstance(self.template, ValueProbe):
            raise PoiseLabError(
                f"baseline {self.name!r}: probe={self.probe!r}; it must be a ValueProbe or a preset's name"
            )
        self.template.check_params()
        self.steps = 0
        self.probes: dict[str, ValueProbe] = {}
        self.buffers: dict[str, RecentBuffer] = {}

    def _routes(self, rollouts: Rollouts) -> dict[str, torch.Tensor]:
        """Prompts by the probe that serves them."""
        if not self.per_task:
            return {"all": torch.arange(len(rollouts))}
        tasks = rollouts.tasks
        return {name: torch.tensor([i for i, task in enumerate(tasks) if task == name]) for name in sorted(set(tasks))}

    def values(self, rollouts, internals):
        routes = self._routes(rollouts)
        if not self.probes or any(name not in self.probes for name in routes):
            return None
        values = torch.zeros(len(rollouts), rollouts.responses)
        for name, prompts in routes.items():
            values[prompts] = self.probes[name].predict(internals.select(prompts))
        return values

    def advantages(self, rollouts, internals, values=None):
        """values: those of `values`, where they are known already."""
        rewards = checked_rewards(rollouts)
        values = self.values(rollouts, internals) if values is None else values
        return rewards - leave_one_out_mean(rewards if values is None else values)

    def targets(self, rollouts, internals) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the probe learns from each response, (P, M), and the weights of these rows."""
        return rollouts.partner_rewards(), None

    def update(self, rollouts, internals):
        features = internals.features()
        targets, weights = self.targets(rollouts, internals)
        self.steps += 1
        for name, prompts in self._routes(rollouts).items():
            buffer = self.buffers.setdefault(name, RecentBuffer(self.buffer_rows))
            buffer.add(features[prompts], targets[prompts], None if weights is None else weights[prompts])
            if self.steps >= self.warmup:
                self.probes[name] = clone(self.template).fit(*buffer.data())

    def settings(self):
        return {**super().settings(), "probe": {**self.template.get_params(), "inputs": list(self.template.inputs)}}

    def state_dict(self):
        state = {"steps": torch.tensor(self.steps)}
        for name, buffer in self.buffers.items():
            state |= {f"buffer/{name}/{key}": value for key, value in buffer.state_dict().items()}
        for name, probe in self.probes.items():
            state[f"probe/{name}/coef"] = torch.from_numpy(probe.coef_)
            state[f"probe/{name}/intercept"] = torch.tensor(probe.intercept_, dtype=torch.float64)
        return state

    def load_state_dict(self, state):
        self.steps = int(state["steps"])
        self.buffers, self.probes = {}, {}
        parts: dict[tuple[str, str], dict] = {}
        for key, value in state.items():
            if "/" in key:
                kind, rest = key.split("/", 1)
                name, field = rest.rsplit("/", 1)  # a task's name may have a slash
                parts.setdefault((kind, name), {})[field] = value
        for (kind, name), fields in parts.items():
            if kind == "buffer":
                self.buffers[name] = RecentBuffer(self.buffer_rows)
                self.buffers[name].load_state_dict(fields)
            else:
                self.probes[name] = clone(self.template).set_fitted(fields["coef"].numpy(), fields["intercept"].item())


class ScoreWeighted(Poise):
    """POISE whose probe predicts the number that leaves the least variance, instead of the value.

    That number is E[R |s|^2] / E[|s|^2] with s the score (the gradient of log pi(y | x)), and not V(x) = E[R]:
    where wrong responses have longer scores than right ones it lies below V(x). So each sibling's reward is a
    target with its |s|^2 as weight, for which the surprise of its tokens stands (`surprise`). Arguments as for Poise.
    """

    name = "score_weighted"

    def targets(self, rollouts, internals):
        own = surprise(rollouts, internals)
        own = own / own.mean()
        weights = leave_one_out_mean(own)
        return (leave_one_out_mean(own * rollouts.rewards) / weights).clamp(0, 1), weights


@dataclasses.dataclass(eq=False)
class SameRollout(Poise):
    """The ablation that breaks the pair (third version of arXiv 2605.07579, Table 3): A_i = r_i - g(phi(y_i)).

    The probe reads a response's own states, and has learned from the responses' own rewards; so what it reads is of the
    response, and the gradient is biased. One response per prompt is enough for it. The warm-up subtracts the mean
    reward of all other responses. Arguments as for Poise.
    """

    responses: int = 1

    name, least, least_in_step, holds_own_reward = "same_rollout", 1, 2, True

    def advantages(self, rollouts, internals):
        rewards, values = checked_rewards(rollouts), self.values(rollouts, internals)
        return rewards - (mean_of_all_others(rewards) if values is None else values)

    def targets(self, rollouts, internals):
        return rollouts.rewards, None


class PromptOnly(SameRollout):
    """The other ablation there: the probe reads the prompt's state alone, A_i = r_i - g(phi(x)).

    Nothing of the response is in it, so with one response per prompt it is unbiased. Arguments as for Poise; of the
    probe's inputs only the prompt is taken.
    """

    name, holds_own_reward = "prompt_only", False

    def __post_init__(self):
        super().__post_init__()
        self.template = clone(self.template).set_params(inputs=("prompt",))
