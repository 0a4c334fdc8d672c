"""What a policy wrote to the same held-out problems while it was trained: the samples that a run folder keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..files import read_json
from ..runs import RunRecord, read_lines
from .tokens import ShownPrompt, ShownResponse
from .viewer import RolloutViewer


def samples_of(run: RunRecord) -> dict[int, list[dict]]:
    """The samples of a run by the step of their evaluation; none if the run kept none."""
    return {line["step"]: line["samples"] for line in read_lines(run.folder / "samples.jsonl")}


def written(run: RunRecord, steps: Sequence[int] = (), problems: Sequence[int] | None = None) -> RolloutViewer:
    """The same held-out problems at some evaluations of a run, by default at the first one and the last.

    problems: indices among those that the run kept; None shows all.
    """
    kept = samples_of(run)
    readings = {
        f"step {step}": [_prompt_of(kept[step][i]) for i in (range(len(kept[step])) if problems is None else problems)]
        for step in steps or (min(kept), max(kept))
    }
    return RolloutViewer(**readings)


def recorded_pairs(path: str | Path) -> RolloutViewer:
    """The view that `poise-lab study pairs` kept in a file."""

    def prompt(kept: dict) -> ShownPrompt:
        return ShownPrompt(**{**kept, "responses": [ShownResponse(**one) for one in kept["responses"]]})

    return RolloutViewer(**{when: [prompt(kept) for kept in view] for when, view in read_json(path)["views"].items()})


def _prompt_of(sample: dict) -> ShownPrompt:
    """A problem of an evaluation: the greedy response, and sampled ones, of which the first was read."""

    def response(text: str, reward: float, **more) -> ShownResponse:
        # words, so that a long text can be cut
        return ShownResponse(re.findall(r"\s*\S+|\s+$", text), {}, reward, **more)

    responses = [response(sample["greedy"], sample["greedy_reward"], name="greedy")]
    for j, (text, reward) in enumerate(zip(sample["sampled"], sample["rewards"], strict=True)):
        responses.append(response(text, reward, value=sample.get("value") if j == 0 else None, name="sampled"))
    return ShownPrompt(0, sample["task"], [sample["prompt"]], responses)
