"""What each token of a response is shown with: its text, entropy, log-probability, the value read there, its pull."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from ..baselines.base import Baseline
from ..baselines.poise import Poise
from ..errors import PoiseLabError
from ..internals import Internals, captured_layers, scoring_states
from ..policies import Policy
from ..rollouts import Rollouts, leave_one_out_mean

AGREE, DIFFER, MISS = "the rewards agree", "the rewards differ", "the surest miss"


@dataclasses.dataclass
class ShownResponse:
    """One response, in plain numbers. T: its tokens.

    pieces: T texts (`pieces_of`).
    measures: T numbers each, by name, where they are known: "entropy" and "log p" (nats), "value" (what the probe reads
        if the response stops behind the token), "baseline" (what is subtracted from the reward at this token, where each
        token has its own), "pull" (advantage times 1 - p: how far the loss pulls the token's logit up, times the number of
        tokens in the loss).
    advantage: the mean, if there is one per token. value: read from it, if the baseline reads any.
    baseline: what was subtracted from the reward, where the advantage is on that scale.
    reasoning: tokens up to the end of its reasoning. ended: whether a tag ends it. pool: tokens averaged there.
    name: what kind of response it is, where they are not all sampled.
    """

    pieces: list[str]
    measures: dict[str, list[float]]
    reward: float
    advantage: float | None = None
    value: float | None = None
    baseline: float | None = None
    reasoning: int = 0
    ended: bool = False
    finished: bool = True
    pool: int = 0
    name: str = ""


@dataclasses.dataclass
class ShownPrompt:
    """A prompt with its responses. index: among those of the rollouts. kind: why it is shown, or "".

    source: what the partners of a response give to its baseline, "value" (POISE), "reward" (RLOO) or None.
    """

    index: int
    kind: str
    pieces: list[str]
    responses: list[ShownResponse]
    source: str | None = None
    pool: int = 0


def read_tokens(
    policy: Policy,
    rollouts: Rollouts,
    internals: Internals,
    baseline: Baseline | None = None,
    prompts: int | Sequence[int] = 6,
) -> list[ShownPrompt]:
    """What `RolloutViewer` shows of rollouts: read it before the baseline learns from them, and before the update.

    internals: of these rollouts under the policy (`read_internals`).
    baseline: its values and advantages are shown as it stands now. None shows what was sampled alone.
    prompts: indices of prompts in the order in which they are shown, or how many: then a prompt whose rewards agree
        comes first, one whose rewards differ second, and the wrong response of which the policy was surest third.

    Raises PoiseLabError for a prompt that is not there.
    """
    advantages = None if baseline is None else baseline.advantages(rollouts, internals)
    values = None if baseline is None else baseline.values(rollouts, internals)
    by_token = advantages is not None and advantages.dim() == 3
    on_scale = advantages is not None and not by_token and baseline.on_reward_scale
    kinds = picked(rollouts, advantages) if isinstance(prompts, int) else {}  # whoever chose them knows why
    if isinstance(prompts, int):
        prompts = list(dict.fromkeys([*kinds, *range(len(rollouts))]))[:prompts]
    source = source_of(rollouts, advantages, values) if on_scale else None
    shown = []
    for p in prompts:
        if not 0 <= p < len(rollouts):
            raise PoiseLabError(f"prompt {p} asked for, but there are prompts 0 to {len(rollouts) - 1}")
        probe = _probe_for(baseline, rollouts.tasks[p])
        responses = []
        for j in range(rollouts.responses):
            response = _read_response(policy, rollouts, internals, probe, advantages, p, j)
            if values is not None:
                response.value = values[p, j].item()
            if on_scale:
                response.baseline = response.reward - response.advantage
            if by_token and baseline.on_reward_scale:
                subtracted = response.reward - advantages[p, j, : len(response.pieces)]
                response.measures["baseline"] = [round(x, 4) for x in subtracted.tolist()]
            responses.append(response)
        pieces = pieces_of(policy.tokenizer, rollouts.prompt_ids[p])
        shown.append(ShownPrompt(p, kinds.get(p, ""), pieces, responses, source, internals.pool))
    return shown


def picked(rollouts: Rollouts, advantages: torch.Tensor | None) -> dict[int, str]:
    """Up to three prompts that say most, in order: index and why; of equal ones that with the largest advantage."""
    rewards, found = rollouts.rewards, {}
    size = torch.zeros(len(rollouts)) if advantages is None else advantages.abs().flatten(1).amax(1)
    agree = rewards.amax(1) == rewards.amin(1)
    for kind, at in ((AGREE, agree), (DIFFER, ~agree)):
        if rollouts.responses > 1 and at.any():
            found[int(torch.where(at, size, -1.0).argmax())] = kind
    sure = (rollouts.logprobs.sum(-1) / rollouts.lengths.clamp(min=1)).masked_fill(rewards >= 0.5, -torch.inf)
    sure[list(found)] = -torch.inf
    if sure.max() > -torch.inf:
        found[int(sure.amax(1).argmax())] = MISS
    return found


def source_of(rollouts: Rollouts, advantages: torch.Tensor, values: torch.Tensor | None) -> str | None:
    """What stands in for a response's baseline, by its numbers: the mean of its partners' values, or of their rewards."""
    if rollouts.responses < 2:
        return None
    for name, given in (("value", values), ("reward", rollouts.rewards)):
        if given is not None and torch.allclose(advantages, rollouts.rewards - leave_one_out_mean(given), atol=1e-5):
            return name
    return None


def _probe_for(baseline: Baseline, task: str):
    return baseline.probes.get(task if baseline.per_task else "all") if isinstance(baseline, Poise) else None


def _read_response(policy, rollouts, internals, probe, advantages, p: int, j: int) -> ShownResponse:
    n = int(rollouts.lengths[p, j])
    logprobs = internals.logprobs[p, j, :n]
    measures = {"entropy": internals.token_entropy[p, j, :n], "log p": logprobs}
    if probe is not None and n:
        measures["value"] = probe.predict(prefix_features(policy, rollouts, internals, p, j))
    own = None
    if advantages is not None:
        own = advantages[p, j, :n] if advantages.dim() == 3 else advantages[p, j]
        measures["pull"] = own * (1 - logprobs.exp())
    return ShownResponse(
        pieces=pieces_of(policy.tokenizer, rollouts.response_ids[p, j, :n].tolist()),
        measures={name: [round(x, 4) for x in values.tolist()] for name, values in measures.items()},
        reward=rollouts.rewards[p, j].item(),
        advantage=None if own is None else own.mean().item(),
        reasoning=int(rollouts.reasoning_lengths[p, j]),
        ended=bool(rollouts.reasoning_ended[p, j]),
        finished=bool(rollouts.finished[p, j]),
        pool=internals.pool,
    )


@torch.no_grad()
def prefix_features(policy: Policy, rollouts: Rollouts, internals: Internals, prompt: int, response: int):
    """(T, 2 D + 3) what the probe would read from a response that stopped behind each of its T tokens, by one pass."""
    n, end = int(rollouts.lengths[prompt, response]), int(rollouts.reasoning_lengths[prompt, response])
    row = torch.tensor([prompt * rollouts.responses + response])
    with captured_layers(policy, [internals.layer]) as captured:
        scoring_states(policy, rollouts, row, pack=False)  # whole: a packed row ends before its last token
    start = len(rollouts.prompt_ids[prompt])
    states = captured[internals.layer][0, start : start + n].double().cpu()
    sums = torch.nn.functional.pad(states.cumsum(0), (0, 0, 1, 0))  # (T + 1, D)
    read = torch.arange(1, n + 1)
    ends = read.clamp(max=end)  # an answer leaves the reasoning as it was
    first = (ends - internals.pool).clamp(min=0)
    pooled = (sums[ends] - sums[first]) / (ends - first)[:, None]
    total = torch.nn.functional.pad(internals.token_entropy[prompt, response, :n].double().cumsum(0), (1, 0))
    answer = (total[read] - total[ends]) / (read - ends).clamp(min=1)
    entropies = torch.stack([total[read] / read, total[ends] / ends, answer], -1)
    asked = internals.prompt[prompt, response].double().expand(n, -1)
    return torch.cat([asked, pooled, entropies], -1)


def pieces_of(tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; joined they are the text, where its bytes are characters.

    A token that ends inside a character (bytes of it, in most vocabularies) adds "", and the last of that character adds
    all of it. Special tokens are text like others.
    """

    def text(part):
        return tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    # what is decoded starts one piece earlier: the first token of a text may lose a space
    pieces, before, done = [], 0, 0
    for i in range(1, len(ids) + 1):
        piece = text(ids[before:i])[len(text(ids[before:done])) :]
        if piece.endswith("\ufffd") and i - done < 4 and i < len(ids):  # a character has four bytes at most
            pieces.append("")
        else:
            pieces.append(piece)
            before, done = done, i
    return pieces
