"""Sampling responses: a KV loop on any causal LM of transformers.

Against `model.generate`: responses that share a beginning share the work. The prompt is prefilled once
per group, and two responses to it are one row of the batch until they draw different tokens; a policy
that is sure of itself parts late. Finished rows leave the batch, the key-value cache grows in place,
and no fp32 copy of all logits is kept.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence

import torch

from .errors import PoiseLabError
from .tasks import Problem


@dataclasses.dataclass
class Rollouts:
    """m responses to each of P problems. Shapes: P prompts, M responses per prompt, T tokens.

    prompt_ids: P lists of token ids.
    response_ids: (P, M, T) int64, right-padded with `pad_id`; includes the end-of-sequence token.
    lengths: (P, M) int64, tokens of each response.
    reasoning_lengths: (P, M) int64, tokens up to and including the last end-of-reasoning tag;
        equal to `lengths` where there is none.
    reasoning_ended: (P, M) bool, whether there is such a tag.
    finished: (P, M) bool, whether the response ended by itself and not at `max_new_tokens`.
    logprobs: (P, M, T) float32, log-probabilities of the sampled tokens, in nats, at `temperature`
        (before top-p and top-k; at temperature 1 if greedy); 0 at padding.
    rewards: (P, M) float32 in [0, 1].
    extra_rewards: (P, K) float32 or None, rewards of further responses that are not learned from: what
        some baselines measure against (a greedy response, or many fresh ones).
    """

    problems: list[Problem]
    prompt_ids: list[list[int]]
    response_ids: torch.Tensor
    lengths: torch.Tensor
    reasoning_lengths: torch.Tensor
    reasoning_ended: torch.Tensor
    finished: torch.Tensor
    logprobs: torch.Tensor
    rewards: torch.Tensor
    texts: list[list[str]]
    temperature: float
    pad_id: int
    extra_rewards: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def responses(self) -> int:
        """M, responses per prompt."""
        return self.response_ids.shape[1]

    @property
    def mask(self) -> torch.Tensor:
        """(P, M, T) bool, True at sampled tokens."""
        return torch.arange(self.response_ids.shape[2]) < self.lengths[..., None]

    @property
    def tokens(self) -> int:
        """Number of sampled tokens."""
        return int(self.lengths.sum())

    @property
    def prompt_lengths(self) -> torch.Tensor:
        """(P,) int64."""
        return torch.tensor([len(p) for p in self.prompt_ids])

    @property
    def tasks(self) -> list[str]:
        """The task name of each prompt."""
        return [p.task for p in self.problems]

    def partner_rewards(self) -> torch.Tensor:
        """(P, M): mean reward of the *other* responses to the same prompt, the probe's target.

        With two responses it is the partner's reward (method Sec. 3.1, Alg. 1). It never contains
        the response's own reward. Raises PoiseLabError if there is one response per prompt.
        """
        return leave_one_out_mean(self.rewards)

    def select(self, prompts=slice(None), responses=slice(None)) -> Rollouts:
        """The rollouts of some prompts, and of some of their responses (slices or index lists)."""
        rows, columns = torch.arange(len(self))[prompts], torch.arange(self.responses)[responses]
        tensors = (
            "response_ids", "lengths", "reasoning_lengths", "reasoning_ended", "finished", "logprobs",
            "rewards",
        )  # fmt: skip
        return dataclasses.replace(
            self,
            problems=[self.problems[i] for i in rows],
            prompt_ids=[self.prompt_ids[i] for i in rows],
            texts=[[self.texts[i][j] for j in columns] for i in rows],
            extra_rewards=None if self.extra_rewards is None else self.extra_rewards[rows],
            **{name: getattr(self, name)[rows][:, columns] for name in tensors},
        )


def join(parts: Sequence[Rollouts]) -> Rollouts:
    """Rollouts of several calls as one, prompts after prompts.

    Raises PoiseLabError if the parts differ in responses per prompt, extra ones included, or in temperature.
    """
    extras = [part.extra_rewards for part in parts]
    shapes = {
        (part.responses, None if x is None else x.shape[1], part.temperature)
        for part, x in zip(parts, extras, strict=True)
    }
    if len(shapes) > 1:
        raise PoiseLabError(
            "rollouts that differ in responses per prompt, extra responses or temperature cannot be joined: "
            f"{', '.join(map(str, sorted(shapes, key=str)))}"
        )
    width = max(part.response_ids.shape[2] for part in parts)

    def joined(name, fill=0):
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[2]), value=fill) for x in tensors])

    per_response = ("lengths", "reasoning_lengths", "reasoning_ended", "finished", "rewards")
    lists = ("problems", "prompt_ids", "texts")
    return dataclasses.replace(
        parts[0],
        response_ids=joined("response_ids", parts[0].pad_id),
        logprobs=joined("logprobs"),
        extra_rewards=None if extras[0] is None else torch.cat(extras),
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in per_response},
        **{name: [one for part in parts for one in getattr(part, name)] for name in lists},
    )


def leave_one_out_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean of the other entries of each row: (P, M) -> (P, M). Raises PoiseLabError if M = 1."""
    m = x.shape[1]
    if m < 2:
        raise PoiseLabError("a partner is needed: sample at least 2 responses per prompt (responses=2)")
    # summed from both sides: (sum - own) would leave a rounding error of the own entry in the result
    before = torch.nn.functional.pad(x.cumsum(1)[:, :-1], (1, 0))
    after = torch.nn.functional.pad(x.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)
    return (before + after) / (m - 1)


def reasoning_ends(policy, rows: Sequence[list[int]], texts: Sequence[str] | None = None) -> list[int]:
    """Tokens up to and including the one in which the reasoning ends, for each row of token ids; -1 where it does not.

    It ends with the last end tag of the text, as the answer begins there, unless a start tag follows. In the text and
    not in the tokens: in most vocabularies the tag's `<` and `>` merge with what stands beside them.

    texts: of the rows (`policy.decode`), if they are known.
    """
    texts = policy.decode(rows) if texts is None else texts
    return [_reasoning_end(policy, row, text) for row, text in zip(rows, texts, strict=True)]


def _reasoning_end(policy, ids: list[int], text: str) -> int:
    start, end = policy.tags
    at = text.rfind(end)
    if at < 0 or (start and start in text[at + len(end) :]):
        return -1
    tag = policy.end_of_reasoning
    if len(tag) == 1 and ids.count(tag[0]) == text.count(end):  # every tag of the text is a token of its own
        return len(ids) - ids[::-1].index(tag[0])
    first, at = len(ids), -1
    while at < 0 and first:  # answers are short: look from the end
        first = max(0, 2 * first - len(ids) - 32)
        at = policy.decode([ids[first:]])[0].rfind(end)
    # the fewest tokens whose text has the tag; a character that is not whole yet shows as another one, so compare tags
    prefixes = range(first, len(ids))
    return first + bisect_left(prefixes, at, key=lambda n: policy.decode([ids[first:n]])[0].rfind(end))


def reward_of(problem: Problem, text: str) -> float:
    """The reward of a response. Raises PoiseLabError if the problem gives no number, or one outside [0, 1]."""
    reward = problem.reward(text)
    try:
        value = float(reward)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise PoiseLabError(
            f"a problem of task {problem.task!r} gave a response the reward {reward!r}; it must be a number from 0 to 1"
        )
    return value


def build_rollouts(policy, problems, prompts, tokens, lengths, logprobs, temperature=1.0) -> Rollouts:
    """The record of given responses: texts, reasoning spans and rewards are worked out here.

    tokens: (P, M, T) token ids, anything beyond `lengths` is ignored. lengths: (P, M).

    A response without an end tag is reasoning as a whole, also where it is an answer alone: the probe then reads the end
    of what was written, and the entropy of the reasoning is the whole output's. (The official release has 0.0 there.
    A response that was cut off has reasoned, and this way the two cases need not be told apart; see `Internals`.)
    """
    p, m, width = tokens.shape
    pad = policy.tokenizer.pad_token_id
    pad = policy.eos_token_ids[0] if pad is None else pad
    mask = torch.arange(width) < lengths[..., None]
    tokens = tokens.masked_fill(~mask, pad)
    ids = [[tokens[i, j, : lengths[i, j]].tolist() for j in range(m)] for i in range(p)]
    eos = set(policy.eos_token_ids)
    flat = [row for group in ids for row in group]
    decoded = policy.decode(flat)
    ends = torch.tensor(reasoning_ends(policy, flat, decoded)).view(p, m)
    texts = [[policy.text_of(text) for text in decoded[i * m : (i + 1) * m]] for i in range(p)]
    graded = [[policy.graded(text, prompts[i]) for text in texts[i]] for i in range(p)]
    rewards = torch.tensor([[reward_of(problems[i], t) for t in graded[i]] for i in range(p)], dtype=torch.float32)
    return Rollouts(
        problems=problems,
        prompt_ids=prompts,
        response_ids=tokens,
        lengths=lengths,
        reasoning_lengths=torch.where(ends >= 0, ends, lengths),
        reasoning_ended=ends >= 0,
        finished=torch.tensor([[bool(row) and row[-1] in eos for row in group] for group in ids]),
        logprobs=logprobs.masked_fill(~mask, 0.0),
        rewards=rewards,
        texts=texts,
        temperature=temperature,
        pad_id=pad,
    )
