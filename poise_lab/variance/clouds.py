"""Single gradient estimates of a policy that can be listed, in the two directions in which they can be seen best."""

from __future__ import annotations

import torch

from ..baselines.base import Baseline
from ..errors import PoiseLabError
from .exact import ExactPolicy


def estimates(
    policy: ExactPolicy, baseline: Baseline, responses: int, seed: int = 0, number: int = 200
) -> torch.Tensor:
    """(number, 2) estimates, each from `responses` sampled responses, in units of the gradient's length.

    The first direction is the gradient, where 1 is perfect; the second is at right angles to it. The baseline is called
    once for each estimate, so a mean over the batch is one over its own responses.

    Raises PoiseLabError unless the responses are whole groups of as many as the baseline needs.
    """
    group = baseline.least
    if responses % group:
        raise PoiseLabError(f"responses={responses}: baseline {baseline.name!r} needs a multiple of {group}")
    which, chosen = policy.draw(number * responses // group, responses=group, seed=seed)
    batches = zip(which.view(number, -1), chosen.view(number, -1, group), strict=True)
    advantages = torch.cat([baseline.advantages(*policy.records(*batch)) for batch in batches])
    seen = policy.score @ directions(policy).T  # (X, N, 2)
    return (advantages[..., None] * seen[which[:, None], chosen]).reshape(number, -1, 2).mean(1)


def directions(policy: ExactPolicy) -> torch.Tensor:
    """(2, K) the gradient, and the direction across it in which reward times score scatters most; over its length."""
    gradient = policy.gradient()
    unit = gradient / gradient.norm()
    terms = ((policy.prob / policy.prompts).sqrt() * policy.reward)[..., None] * policy.score
    across = terms - (terms @ unit)[..., None] * unit
    most = torch.linalg.svd(across.flatten(0, 1), full_matrices=False).Vh[0]
    return torch.stack([unit, most]) / gradient.norm()
