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

from ..errors import PoiseLabError, known
from .base import Baseline
from .critic import PPO, Critic
from .fused import Fused
from .groups import DAPO, GRPO, OPO, RLOO, DrGRPO
from .poise import Poise, ScoreWeighted
from .single import SPO, BatchMean, Constant, NoBaseline, Oracle, ReMax

# The one table: `poise-lab train --baseline NAME` and `make_baseline(NAME)` look here and nowhere else.
BASELINES: dict[str, type[Baseline]] = {
    cls.name: cls
    for cls in (
        NoBaseline, BatchMean, Constant, ReMax, RLOO, GRPO, DrGRPO, OPO, DAPO, SPO, Oracle,
        Poise, ScoreWeighted, Fused, Critic, PPO,
    )
}  # fmt: skip


def make_baseline(name: str, **settings) -> Baseline:
    """A baseline by name; settings go to its class. Raises PoiseLabError for an unknown name."""
    if name not in BASELINES:
        raise known("baseline", name, BASELINES)
    try:
        return BASELINES[name](**settings)
    except TypeError as e:
        raise PoiseLabError(f"baseline {name!r} refuses its settings: {e}") from None
