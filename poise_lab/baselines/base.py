"""What every baseline answers to."""

from __future__ import annotations

import dataclasses

import torch

from ..errors import PoiseLabError
from ..internals import Internals
from ..policies import Policy
from ..rollouts import Rollouts, leave_one_out_mean
from ..sampler import Sampler
from ..settings import check_settings
from ..tasks import Problem


@dataclasses.dataclass(eq=False)
class Baseline:
    """What every baseline answers to. Shapes: P prompts, M responses per prompt.

    A baseline with settings of its own is a dataclass: its fields are what it can be made with, they are checked by
    their annotations, and they stand in the config of a run.

    responses: responses per prompt that it wants. least: the fewest it can work with. least_in_step: responses to all
        prompts of a step together, and least_prompts what follows for these.
    on_reward_scale: whether an advantage is a reward minus something, or is rescaled on top of that.
    holds_own_reward: whether the response's own reward is in what is subtracted, or what tells of it: its own states.
        Advantages then vary less without any knowledge of the prompt, so their variance is no metric.
    """

    responses: int = 2

    run = None  # the folder of the run that it was given to
    name = ""
    least = least_in_step = 1
    on_reward_scale = True
    holds_own_reward = False

    def __post_init__(self):
        check_settings(self, f"baseline {self.name!r}: ")
        if self.responses < self.least:
            raise PoiseLabError(
                f"baseline {self.name!r} needs at least {self.least} responses per prompt, got responses={self.responses}"
            )

    @property
    def least_prompts(self) -> int:
        return -(-self.least_in_step // self.responses)

    def start(self, policy: Policy) -> None:
        """Called once, with the policy as it is before training."""

    def step_problems(self, sampler: Sampler) -> list[Problem]:
        """The problems that a step begins with: by default new ones."""
        return sampler.problems()

    def sample(self, sampler: Sampler) -> Rollouts:
        """The batch of a step: by default its problems with `responses` responses each."""
        return sampler.sample(self.step_problems(sampler), self.responses)

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
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        pass


def checked(baseline: Baseline, what: str, given: object, *shapes: torch.Size) -> torch.Tensor:
    """What a baseline has given. Raises PoiseLabError for another type or shape, and for what is not finite."""
    number = isinstance(given, torch.Tensor) and given.is_floating_point()
    if number and given.shape in shapes and torch.isfinite(given).all():
        return given
    kind = f"shape {tuple(given.shape)}" if number else getattr(given, "dtype", type(given).__name__)
    wanted = " or ".join(str(tuple(shape)) for shape in shapes)
    raise PoiseLabError(
        f"baseline {baseline.name!r} must give finite {what} of shape {wanted}, a tensor of floating-point numbers; got {kind}"
    )


def checked_values(baseline: Baseline, rollouts: Rollouts, internals: Internals) -> torch.Tensor | None:
    """(P, M) what a baseline predicts, or None if it predicts nothing. Raises PoiseLabError as `checked`."""
    values = baseline.values(rollouts, internals)
    return None if values is None else checked(baseline, "values", values, rollouts.rewards.shape)


def checked_rewards(rollouts: Rollouts) -> torch.Tensor:
    """The rewards, (P, M). Raises PoiseLabError if one is NaN or outside [0, 1]."""
    rewards = rollouts.rewards
    if not torch.isfinite(rewards).all() or rewards.min() < 0 or rewards.max() > 1:
        raise PoiseLabError("rewards must lie in [0, 1], without NaN; rescale or repair the verifier")
    return rewards


def mean_of_all_others(rewards: torch.Tensor) -> torch.Tensor:
    """(P, M) mean reward of all other responses in the batch. Raises PoiseLabError if there is no other."""
    if rewards.numel() < 2:
        raise PoiseLabError("a mean over all other responses needs at least 2 responses in the batch")
    return leave_one_out_mean(rewards.reshape(1, -1)).view_as(rewards)


def standardised(x: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """(x - mean) / (std + 1e-6) over an axis, with the population's standard deviation; 0 where all of x agree.

    There the mean's rounding error would be all that is left, and the 1e-6 would make it large.
    """
    mean, std = x.mean(dim, keepdim=True), x.std(dim, keepdim=True, correction=0)
    agree = x.amax(dim, keepdim=True) == x.amin(dim, keepdim=True)
    return ((x - mean) / (std + 1e-6)).masked_fill(agree, 0.0)


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
