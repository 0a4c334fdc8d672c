"""The settings of a run: each field's annotation says what it may be, and it is also a flag of `poise-lab train`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from .errors import PoiseLabError, unknown_name
from .objective import AGGREGATIONS
from .settings import Count, NotNegative, Positive, Range, check_settings

Index = Annotated[int, Range(lambda x: x >= 0, "a whole number, at least 0")]
LowerClip = Annotated[float, Range(lambda x: 0 < x < 1, "a number above 0 and below 1")]
DualClip = Annotated[float, Range(lambda x: x > 1, "a number above 1")]


@dataclasses.dataclass
class TrainConfig:
    """Settings of a run. Each field is also a flag of `poise-lab train`."""

    steps: Count = 100
    """Policy updates on new prompts."""
    prompts: Count = 96
    """Prompts per step."""
    seed: Index = 0
    """Decides prompts, responses, and mini-batches."""
    learning_rate: Positive = 5e-5
    """Of AdamW, constant."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    minibatches: Count = 4
    """Optimizer steps per step; the prompts are split among them."""
    clip_low: LowerClip = 0.2
    """Lower clip of the probability ratio (paper: 0.2)."""
    clip_high: Positive = 0.28
    """Upper clip of the probability ratio (paper: 0.28)."""
    dual_clip: DualClip = 10.0
    """Bound on the loss of a token with a negative advantage, in units of it (release: 10)."""
    aggregation: str = "token_mean"
    """token_mean (every token counts the same) or sequence_mean (every response)."""
    kl: NotNegative = 0.0
    """Weight of the KL penalty towards the starting policy (paper: none)."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    max_new_tokens: Count = 64
    """Longest response, in tokens."""
    temperature: Positive = 1.0
    """Of sampling."""
    layer: Index = 2
    """Decoder layer whose states the probe reads, 0-based."""
    pool: Count = 4
    """Tokens averaged at the end of the prompt and of the reasoning."""
    eval_every: Count = 10
    """Steps between evaluations on held-out problems."""
    eval_prompts: Count = 192
    """Held-out problems."""
    eval_responses: Count = 16
    """Fresh responses to each, whose mean reward is V(x)."""
    checkpoint_every: Count = 10
    """Steps between checkpoints; the last two are kept."""

    def __post_init__(self):
        check_settings(self)
        if self.aggregation not in AGGREGATIONS:
            raise unknown_name("aggregation", self.aggregation, AGGREGATIONS)
        if self.minibatches > self.prompts:
            raise PoiseLabError(f"{self.prompts} prompts cannot be split into {self.minibatches} mini-batches")
