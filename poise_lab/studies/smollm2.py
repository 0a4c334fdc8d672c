"""SmolLM2 itself trained on sums, at equal responses a step, over seeds: `poise-lab study smollm2`.

What is the same for all: start, held-out problems of a seed, the clipped surrogate, mini-batches, 96 responses a step, and
the learning rate, which was searched for none. What differs is the baseline, and how it spends the responses on prompts.
"""

from __future__ import annotations

from pathlib import Path

from ..runs import RunRecord, compare, format_table, read_run
from . import trained
from .common import differences

_SUMS = (
    "--policy smollm2-135m --shots 4 --wording line --task chain_sum --task-set max_terms=2 --steps 30 "
    "--learning-rate 1e-5 --max-new-tokens 8 --layer 15 --eval-prompts 128 --eval-responses 8"
)
METHODS = {  # label: baseline, responses to a prompt, prompts
    f"{name} x{responses}": (name, responses, 96 // responses)
    for name, responses in (
        ("poise", 2), ("rloo", 2), ("grpo", 8), ("none", 1), ("constant", 1), ("batch_mean", 1), ("prefix", 1), ("ppo", 1),
    )
}  # fmt: skip
RUNS = {
    f"{name}-{seed}": f"{_SUMS} --baseline {name} --set responses={responses} --prompts {prompts} --seed {seed}"
    for seed in trained.SEEDS
    for name, responses, prompts in METHODS.values()
}
# the pairs that are asked about: the paper's own, those of findings 10 and 12, and what reads the tokens so far
ASKED = (
    ("poise x2", "rloo x2"), ("poise x2", "grpo x8"), ("rloo x2", "grpo x8"), ("poise x2", "none x1"),
    ("poise x2", "constant x1"), ("constant x1", "none x1"), ("constant x1", "batch_mean x1"),
    ("prefix x1", "none x1"), ("ppo x1", "none x1"), ("poise x2", "ppo x1"),
)  # fmt: skip
LOOKS = {"after 10 steps": 10, "after 30 steps": 30}


def recorded(out: Path) -> dict[str, list[RunRecord]]:
    """The runs of each method of which every seed is there, in order of their seeds."""
    folders = {label: [out / f"{name}-{seed}" for seed in trained.SEEDS] for label, (name, *_) in METHODS.items()}
    return {label: list(map(read_run, each)) for label, each in folders.items() if all(f.is_dir() for f in each)}


def asked(out: Path) -> list[dict]:
    """Held-out accuracy: the rows of `common.differences` for the pairs of ASKED whose methods are whole, at LOOKS."""
    at = {
        label: [dict(zip(*run.series("accuracy"), strict=True)) for run in runs]
        for label, runs in recorded(out).items()
    }
    of = {label: {look: [run[step] for run in runs] for look, step in LOOKS.items()} for label, runs in at.items()}
    return differences(of, [pair for pair in ASKED if set(pair) <= of.keys()], tuple(LOOKS))


def says(out: Path) -> str:
    """The runs as `compare` has them, then what `asked` found, with * at what survives."""
    tables = [compare([run for runs in recorded(out).values() for run in runs]), asked(out)]
    return "\n\n".join(map(format_table, filter(None, tables))) or format_table([])
