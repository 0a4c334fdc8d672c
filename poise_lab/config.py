"""The settings of a run: a field says what it may be, and is also a flag of `poise-lab train`."""

from __future__ import annotations

import dataclasses
import numbers
import operator
import sys

from .errors import PoiseLabError, known
from .objective import AGGREGATIONS

RULES = {"least": (operator.ge, "at least"), "above": (operator.gt, "above"), "below": (operator.lt, "below")}


def setting(default, **bounds):
    """A field of a config: its default, whose type it keeps, and its bounds: among (names), or least, above, below."""
    return dataclasses.field(default=default, metadata=bounds)


def check_fields(config) -> None:
    """Hold each field of a config made of `setting`s against its type and its bounds; numbers become int and float.

    Raises PoiseLabError that names the first field that is wrong. NaN and infinity always are.
    """
    for field in dataclasses.fields(config):
        value, kind, bounds = getattr(config, field.name), type(field.default), field.metadata
        if kind is str:
            if value not in bounds["among"]:
                raise known(field.name, value, bounds["among"])
            continue
        numeric = isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
        if not numeric:
            must = "a whole number" if kind is int else "a number"
        elif not all(RULES[rule][0](value, limit) for rule, limit in bounds.items()):  # neither does NaN
            must = " and ".join(f"{RULES[rule][1]} {limit:g}" for rule, limit in bounds.items())
        elif kind is float and abs(value) > sys.float_info.max:
            must = "finite"
        else:
            setattr(config, field.name, kind(value))
            continue
        raise PoiseLabError(f"{field.name}={value!r}; it must be {must}")


@dataclasses.dataclass
class TrainConfig:
    """Settings of a run. Each field is also a flag of `poise-lab train`."""

    steps: int = setting(100, least=1)
    """Policy updates on new prompts."""
    prompts: int = setting(96, least=1)
    """Prompts per step."""
    seed: int = setting(0, least=0)
    """Decides prompts, responses, and mini-batches."""
    learning_rate: float = setting(1e-4, above=0)
    """Of AdamW, constant."""
    weight_decay: float = setting(0.0, least=0)
    """Of AdamW."""
    minibatches: int = setting(4, least=1)
    """Optimizer steps per step; the prompts are split among them."""
    clip_low: float = setting(0.2, above=0, below=1)
    """Lower clip of the probability ratio (paper: 0.2)."""
    clip_high: float = setting(0.28, above=0)
    """Upper clip of the probability ratio (paper: 0.28)."""
    dual_clip: float = setting(10.0, above=1)
    """Bound on the loss of a token with a negative advantage, in units of it (release: 10)."""
    aggregation: str = setting("token_mean", among=AGGREGATIONS)
    """token_mean (every token counts the same) or sequence_mean (every response)."""
    kl: float = setting(0.0, least=0)
    """Weight of the KL penalty towards the starting policy (paper: none)."""
    max_grad_norm: float = setting(1.0, above=0)
    """Gradients are clipped to this norm."""
    max_new_tokens: int = setting(64, least=1)
    """Longest response, in tokens."""
    temperature: float = setting(1.0, above=0)
    """Of sampling."""
    layer: int = setting(2, least=0)
    """Decoder layer whose states the probe reads, 0-based."""
    pool: int = setting(4, least=1)
    """Tokens averaged at the end of the prompt and of the reasoning."""
    eval_every: int = setting(10, least=1)
    """Steps between evaluations on held-out problems."""
    eval_prompts: int = setting(192, least=1)
    """Held-out problems."""
    eval_responses: int = setting(16, least=1)
    """Fresh responses to each, whose mean reward is V(x)."""
    checkpoint_every: int = setting(10, least=1)
    """Steps between checkpoints; the last two are kept."""

    def __post_init__(self):
        check_fields(self)
        if self.minibatches > self.prompts:
            raise PoiseLabError(f"{self.prompts} prompts cannot be split into {self.minibatches} mini-batches")
