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
    for name, responses in (("poise", 2), ("rloo", 2), ("grpo", 8), ("none", 1), ("constant", 1), ("score_weighted", 2))
}
RUNS = {
    f"{name}-{seed}": f"{_SUMS} --baseline {name} --set responses={responses} --prompts {prompts} --seed {seed}"
    for seed in trained.SEEDS
    for name, responses, prompts in METHODS.values()
}
ASKED = (  # pairs: do findings 10 and 12, which are of the bundled policy, hold here?
    ("poise x2", "none x1"), ("constant x1", "none x1"), ("score_weighted x2", "poise x2"), ("score_weighted x2", "constant x1"),
)  # fmt: skip
# column: the figure of the last evaluation that it shows
COLUMNS = {"sampled accuracy": "accuracy", "greedy accuracy": "greedy_accuracy", "pass@8": "pass_at_8"}


def recorded(out: Path) -> dict[str, list[RunRecord]]:
    """The runs of each method of which every seed is there, in order of their seeds."""
    folders = {label: [out / f"{name}-{seed}" for seed in trained.SEEDS] for label, (name, *_) in METHODS.items()}
    return {label: list(map(read_run, each)) for label, each in folders.items() if all(f.is_dir() for f in each)}


def asked(out: Path) -> list[dict]:
    """The rows of `common.differences` for the pairs of ASKED whose methods are whole, by COLUMNS of the last evaluation."""
    runs = recorded(out)
    pairs = [pair for pair in ASKED if set(pair) <= runs.keys()]
    of = {
        label: {column: [run.series(metric)[1][-1] for run in runs[label]] for column, metric in COLUMNS.items()}
        for label in {label for pair in pairs for label in pair}
    }
    return differences(of, pairs, tuple(COLUMNS))


def says(out: Path) -> str:
    """The runs as `compare` has them, then what `asked` found, with * at what survives."""
    tables = [compare([run for runs in recorded(out).values() for run in runs]), asked(out)]
    return "\n\n".join(map(format_table, filter(None, tables))) or format_table([])
