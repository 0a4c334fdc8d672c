"""The records of a batch: rollouts with their rewards, and the internals of the policy over them."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch.nn.functional import pad

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
    internals: what `read_internals` would give, where it was kept while sampling.
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
    internals: Internals | None = None

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

        With two responses it is the partner's reward (arXiv 2605.07579, Sec. 3.1 and Alg. 1). It never contains
        the response's own reward. Raises PoiseLabError if there is one response per prompt.
        """
        return leave_one_out_mean(self.rewards)

    def select(self, prompts=slice(None), responses=slice(None)) -> Rollouts:
        """The rollouts of some prompts, and of some of their responses (slices or index lists)."""
        rows, columns = torch.arange(len(self))[prompts], torch.arange(self.responses)[responses]
        tensors = {name: x[rows] for name, x in vars(self).items() if isinstance(x, torch.Tensor)}
        tensors |= {name: x[:, columns] for name, x in tensors.items() if name != "extra_rewards"}
        return dataclasses.replace(
            self,
            problems=[self.problems[i] for i in rows],
            prompt_ids=[self.prompt_ids[i] for i in rows],
            texts=[[self.texts[i][j] for j in columns] for i in rows],
            internals=self.internals and self.internals.select(rows, columns),
            **tensors,
        )


@dataclasses.dataclass
class Internals:
    """By-products of the log-probability pass. Shapes: P prompts, M responses, T tokens, D width.

    prompt: (P, M, D) float32, mean hidden state of the last `pool` prompt tokens.
    reasoning: (P, M, D) float32, the same over the last `pool` tokens of the reasoning, which ends
        with (and includes) the last end-of-reasoning tag, or with the response if there is none;
        zeros for an empty response.
    entropy: (P, M, 3) float32, mean token entropy in nats over the output, the reasoning, the
        answer; 0.0 for a missing answer (arXiv 2605.07579, Sec. 3.1 and B.3). Without an end-of-reasoning tag the reasoning is
        the whole output, so its entropy is too, where the official release has 0.0 (see `build_rollouts`).
    logprobs, token_entropy: (P, M, T) float32, in nats, 0 at padding.
    layer: decoder layer index, 0-based. pool: number of tokens averaged.
    """

    prompt: torch.Tensor
    reasoning: torch.Tensor
    entropy: torch.Tensor
    logprobs: torch.Tensor
    token_entropy: torch.Tensor
    layer: int
    pool: int

    def features(self) -> torch.Tensor:
        """(P, M, 2 D + 3): prompt state, reasoning state, entropies, side by side."""
        return torch.cat([self.prompt, self.reasoning, self.entropy], -1)

    def select(self, prompts=slice(None), responses=slice(None)) -> Internals:
        """The internals of some prompts, and of some of their responses (slices or index lists)."""
        tensors = {name: x[prompts][:, responses] for name, x in vars(self).items() if isinstance(x, torch.Tensor)}
        return dataclasses.replace(self, **tensors)


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
    lists = ("problems", "prompt_ids", "texts")
    internals = [part.internals for part in parts]
    return dataclasses.replace(
        parts[0],
        **_joined(parts, response_ids=parts[0].pad_id),
        internals=None if None in internals else dataclasses.replace(internals[0], **_joined(internals)),
        **{name: [one for part in parts for one in getattr(part, name)] for name in lists},
    )


def _joined(parts: Sequence, **fill: int) -> dict[str, torch.Tensor]:
    """The tensors of records, prompts after prompts; narrower ones are padded with 0, or with what `fill` names."""
    result = {}
    for name in (name for name, x in vars(parts[0]).items() if isinstance(x, torch.Tensor)):
        tensors = [getattr(part, name) for part in parts]
        width = max(x.shape[-1] for x in tensors)
        result[name] = torch.cat([pad(x, (0, width - x.shape[-1]), value=fill.get(name, 0)) for x in tensors])
    return result


def leave_one_out_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean of the other entries of each row: (P, M) -> (P, M). Raises PoiseLabError if M = 1."""
    m = x.shape[1]
    if m < 2:
        raise PoiseLabError("a partner is needed: sample at least 2 responses per prompt (responses=2)")
    # summed from both sides: (sum - own) would leave a rounding error of the own entry in the result
    before = pad(x.cumsum(1)[:, :-1], (1, 0))
    after = pad(x.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)
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
    mask = torch.arange(width) < lengths[..., None]
    tokens = tokens.masked_fill(~mask, policy.pad_id)
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
        pad_id=policy.pad_id,
    )
