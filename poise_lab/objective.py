"""The clipped surrogate (arXiv 2605.07579, Eq. 14) and its aggregations over tokens.

That a baseline leaves the expected gradient as it is holds for a sum over a response's tokens. `token_mean` divides by
the tokens of the mini-batch, the response's own among them, so there it holds the better, the more responses a
mini-batch has; and only for the first of several steps on a batch, before a ratio is clipped.
"""

from __future__ import annotations

import torch

from .errors import unknown_name

AGGREGATIONS = ("token_mean", "sequence_mean")
MAX_LOG_RATIO = 20.0  # as verl has it; exp overflows in float32 above 88, and infinity times a clip's 0 is NaN
MAX_KL = 10.0  # of a token, as verl has it


def token_weights(mask: torch.Tensor, aggregation: str) -> torch.Tensor:
    """Weight of each token in the loss, summing to 1 over the mini-batch: (R, T) bool -> (R, T).

    token_mean: every token counts the same (DAPO, POISE). sequence_mean: every response counts the
    same, its tokens share its weight (GRPO). Without any token all weights are 0.
    """
    if aggregation == "token_mean":
        return mask / mask.sum().clamp(min=1)
    if aggregation == "sequence_mean":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    raise unknown_name("aggregation", aggregation, AGGREGATIONS)


def clipped_surrogate(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss to minimise, and the weight of the tokens at which a clip is active.

    ratio = exp(logprobs - old_logprobs) per token, its logarithm held within +-20 as verl does
    (`compute_policy_loss`), where a token has no gradient to speak of; the loss of a token is
    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), for A < 0 at most -dual_clip A.

    logprobs, old_logprobs, weights: (R, T). advantages: (R,), or (R, T) one per token. Both results are sums over tokens
    times weights, so micro-batches of one mini-batch add up.
    """
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    a = advantages if advantages.dim() == 2 else advantages[:, None]
    free = ratio * a
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * a
    objective = torch.minimum(free, clipped)
    bounded = torch.where(a < 0, torch.maximum(objective, dual_clip * a), objective)
    active = (bounded != free).float()
    return -(bounded * weights).sum(), (active * weights).sum().detach()


def kl_penalty(logprobs: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) per token by the k3 estimator, summed with weights: exp(d) - d - 1, at most 10.

    On tokens that the policy has drawn its mean is KL(policy || reference), while its gradient, in which the probability
    of drawing a token is held fixed, has as its mean that of KL(reference || policy): both are 0 at the reference alone.
    d = reference - logprobs, within +-20. Both bounds are those of verl's `kl_penalty` (low_var_kl), and a token that is
    at one of them has no gradient. All are (R, T).
    """
    d = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return ((d.exp() - d - 1).clamp(-MAX_KL, MAX_KL) * weights).sum()
