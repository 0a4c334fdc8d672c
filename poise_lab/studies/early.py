"""How early in a response is V(x) readable?

A response is cut after part of its reasoning and read as if it had stopped there: its states and entropies are those
that the policy had at that moment, since no state looks ahead. The probe is fitted and scored on rows cut alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import PoiseLabError
from ..internals import read_internals
from ..policies import Policy
from ..probe import INPUTS, ValueProbe
from ..rollouts import Rollouts, join
from ..stats import agreement, mean_interval
from ..tasks.strategies import strategy
from .common import splits

SHARES = tuple(round(0.1 * k, 1) for k in range(11))


def that_work(rollouts: Rollouts, responses: int = 2) -> tuple[list[int], Rollouts]:
    """The first so many responses to each prompt that are not given at once, and the prompts that have so many."""
    works = [
        [j for j, text in enumerate(texts) if strategy(problem.task, text) != "at once"][:responses]
        for problem, texts in zip(rollouts.problems, rollouts.texts, strict=True)
    ]
    kept = [i for i, found in enumerate(works) if len(found) == responses]
    return kept, join([rollouts.select([i], works[i]) for i in kept])


def cut(rollouts: Rollouts, kept: torch.Tensor) -> Rollouts:
    """The rollouts as if each response had ended after its first `kept` tokens of reasoning: (P, M) integers.

    Raises PoiseLabError for a number below 0 or past the end of the reasoning.
    """
    if kept.shape != rollouts.lengths.shape or (kept < 0).any() or (kept > rollouts.reasoning_lengths).any():
        raise PoiseLabError("keep 0 tokens of each response's reasoning, or as many as it has, or a number between")
    return dataclasses.replace(rollouts, lengths=kept, reasoning_lengths=kept)


def read_shares(policy: Policy, rollouts: Rollouts, shares: Sequence[float] = SHARES, layer: int = 2,
                pool: int = 4) -> np.ndarray:  # fmt: skip
    """(S, P, M, 2 D + 3) features after each share of the reasoning, in [0, 1]; whole tokens, rounded up."""
    kept = [(rollouts.reasoning_lengths.double() * share - 1e-9).ceil().long() for share in shares]  # 25 x 0.6 is 15
    return np.stack([read_internals(policy, cut(rollouts, k), layer, pool).features().numpy() for k in kept])


def read_tokens(policy: Policy, rollouts: Rollouts, prompt: int, response: int, layer: int = 2,
                pool: int = 4) -> np.ndarray:  # fmt: skip
    """(N + 1, 2 D + 3) features of one response before its reasoning and after each of its N tokens."""
    n = int(rollouts.reasoning_lengths[prompt, response])
    one = rollouts.select([prompt], [response] * (n + 1))
    return read_internals(policy, cut(one, torch.arange(n + 1)[None]), layer, pool).features()[0].numpy()


def skill(
    features: np.ndarray, targets: np.ndarray, own: np.ndarray | None = None, inputs: Sequence[str] = INPUTS
) -> list[list[float]]:
    """r on held-out prompts after each share, one value per split: (S, splits).

    features: (S, P, M, F). targets: (P, M) what the probe is fitted on and, without `own`, scored against:
    the mean reward of other responses. own: (P, M) the responses' own rewards, to be scored against instead. What goes
    with the own reward knows the response, and is no baseline. inputs: what the probe reads.
    """
    found = []
    for X in features:
        of_split = []
        for fit, held_out in splits(len(targets)):
            probe = ValueProbe.preset("release", inputs=inputs).fit(X[fit], targets[fit])
            truth = (targets if own is None else own)[held_out]
            of_split.append(agreement(probe.predict(X[held_out]), truth)["r"])
        found.append(of_split)
    return found


def beats_prompt(r: Sequence[Sequence[float]], shares: Sequence[float] = SHARES) -> tuple[float, tuple] | None:
    """The first share that knows more than the prompt alone: (share, (gain, low, high)), the paired interval above 0.

    r: what `skill` gives for these shares, of which the first is 0. None if no share does.
    """
    gains = [(share, mean_interval(np.subtract(of_split, r[0]))) for share, of_split in zip(shares, r, strict=True)]
    return next((gain for gain in gains[1:] if gain[1][1] > 0), None)
