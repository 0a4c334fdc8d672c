"""Baselines: how a batch of rewards becomes advantages.

A baseline asks for the batch that it wants (`sample`), turns it into advantages, learns from it
afterwards (`update`), and saves and restores its state. To add one, write such a class and pass an
instance to `Trainer`:

    class Shrunk(Baseline):
        name = "shrunk"

        def advantages(self, rollouts, internals):
            return rollouts.rewards - 0.5 * rollouts.partner_rewards()

One of the library stands in a file of this folder and in the table below. Settings of its own are the fields of a
dataclass: `Constant` in `single.py` shows how.
"""

from __future__ import annotations

import inspect

from ..errors import unknown_name
from .base import Baseline
from .controls import RandomRewards, Sharpen
from .critic import PPO, Critic, EVSwitch
from .fused import Fused
from .groups import DAPO, GRPO, OPO, RLOO, DrGRPO, JamesStein
from .poise import Poise, PromptOnly, SameRollout, ScoreWeighted
from .prefix import Prefix, PrefixWeighted
from .single import SPO, BatchMean, Constant, NoBaseline, Oracle, ReMax

# The one table: `poise-lab train --baseline NAME` and `make_baseline(NAME)` look here, and among the controls below.
BASELINES: dict[str, type[Baseline]] = {
    cls.name: cls
    for cls in (
        NoBaseline, BatchMean, Constant, ReMax, RLOO, JamesStein, GRPO, DrGRPO, OPO, DAPO, SPO, Oracle,
        Poise, ScoreWeighted, Fused, PromptOnly, SameRollout, Critic, EVSwitch, PPO,
        Prefix, PrefixWeighted,
    )
}  # fmt: skip
CONTROLS = {cls.name: cls for cls in (RandomRewards, Sharpen)}  # found by name too, but they are no methods


def make_baseline(name: str, **settings) -> Baseline:
    """A baseline by name; settings go to its class. Raises PoiseLabError for an unknown name or setting, or a bad value."""
    known = BASELINES | CONTROLS
    if name not in known:
        raise unknown_name("baseline", name, BASELINES)
    understood = inspect.signature(known[name]).parameters
    for setting in settings:
        if setting not in understood:
            raise unknown_name(f"setting of baseline {name!r}", setting, understood)
    return known[name](**settings)
