"""The variance laboratory: how noisy a policy gradient is, estimated for a frozen policy (arXiv 2605.07579, Sec. 2).

Every response has a score s = grad log pi(y | x), which no baseline changes. A batch of B responses, M to a
prompt, estimates the gradient by g = mean of Z = A s, so for given responses its variance is a quadratic form
in the advantages. The scores are read once (`read_scores`); any baseline, fusion or allocation is then
arithmetic on inner products. All gradients are of the sum over a response's tokens of their
log-probabilities (nats), so variances are in squared units of reward times nats per unit of weight.

Two inner products are kept. Those of responses to the same prompt are exact. Those across prompts enter only
through the squared length of the expected gradient, a mean over many pairs; for them each score is folded into
`width` numbers, each weight at a random place with a random sign (a count sketch), which leaves every inner product
right in expectation and errs by about sqrt(2 / width) of the two lengths. With width=None nothing is folded, and they are exact too.
"""

from .estimates import (
    GradientVariance,
    adam_proxy,
    drawn_gradients,
    drawn_trace,
    gradient_variance,
    group_advantages,
)
from .scores import Scores, adam_scale, read_scores

__all__ = [
    "GradientVariance",
    "Scores",
    "adam_proxy",
    "adam_scale",
    "drawn_gradients",
    "drawn_trace",
    "gradient_variance",
    "group_advantages",
    "read_scores",
]
