"""The quick probe on a real model: 320 sums x 8 responses, from loading the model to the score.

    poise-lab study sums

Over seeds, with the seconds of each part. Examples, layer, window and ridge strength were chosen on the seeds SEARCHED,
which are not recorded. One seed is measured in float32 too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..files import provenance, read_json, write_json
from ..generate import sample_rollouts
from ..internals import read_internals
from ..policies import load_policy
from ..probe import ValueProbe
from ..process import timed
from ..runs import format_table
from ..sources import data_dir
from ..stats import agreement, mean_interval, value_spread
from ..tasks import load_task
from .common import settings_features, splits
from .tables import Plain

SEEDS, SEARCHED = (0, 1, 2, 3, 4), (100, 101, 102)


@dataclasses.dataclass(frozen=True)
class Sums:
    """What is measured: sums of two terms, written as lines, behind three solved ones."""

    policy: str = "smollm2-135m"
    wording: str = "line"
    shots: int = 3
    max_terms: int = 2
    prompts: int = 320
    responses: int = 8
    max_new_tokens: int = 8
    layer: int = 15
    pool: int = 1
    ridge: float = 1000.0


def measure(seed: int, dtype: torch.dtype = torch.bfloat16, setting: Sums | None = None) -> dict:
    """r and MAE on held-out prompts, mean over `common.splits`, against the mean reward of the other responses.

    Beside them r of the task settings and prompt length alone, mean and spread of V(x), and the seconds of each part.
    """
    s, seconds = setting or Sums(), {}
    with timed(seconds, "load"):
        policy = load_policy(s.policy, shots=s.shots, wording=s.wording, dtype=dtype)
        problems = load_task("chain_sum", max_terms=s.max_terms).sample(s.prompts, seed=seed)
    with timed(seconds, "sample"):
        rollouts = sample_rollouts(policy, problems, s.responses, seed=seed, max_new_tokens=s.max_new_tokens)
    with timed(seconds, "read"):
        internals = read_internals(policy, rollouts, layer=s.layer, pool=s.pool)
    targets, scores, known = rollouts.partner_rewards(), [], []
    with timed(seconds, "fit and score"):
        for fit, held_out in splits(s.prompts):
            probe = ValueProbe(ridge=s.ridge).fit(internals.select(fit), targets[fit])
            scores.append(agreement(probe.predict(internals.select(held_out)), targets[held_out]))
    columns, y = settings_features(rollouts)[..., :-1], targets.numpy()
    for fit, held_out in splits(s.prompts):
        plain = Plain().fit(columns[fit].reshape(-1, columns.shape[2]), y[fit].reshape(-1))
        predicted = plain.predict(columns[held_out].reshape(-1, columns.shape[2]))
        known.append(agreement(predicted, y[held_out])["r"])
    return {
        "seed": seed, "dtype": str(dtype).removeprefix("torch."),
        **{name: round(float(np.mean([score[name] for score in scores])), 4) for name in ("r", "mae")},
        "r_settings": round(float(np.mean(known)), 4),
        "mean": round(float(rollouts.rewards.mean()), 4), "spread": round(value_spread(rollouts.rewards), 4),
        "seconds": round(sum(seconds.values()), 1), "parts": {name: round(x, 1) for name, x in seconds.items()},
    }  # fmt: skip


def processor_seconds(dtype: torch.dtype) -> float:
    """Seconds of processor time that 80 prompts take: unlike those of the clock, not a matter of who else is at work."""
    start = time.process_time()
    measure(SEEDS[0], dtype, Sums(prompts=80))
    return round(time.process_time() - start, 1)


FILE = "sums.json"


def missing(out: Path) -> dict[str, float]:
    """The record, if it is not in the folder, with the minutes that the one in the data took."""
    path = data_dir() / "real" / FILE
    taken = [run["seconds"] / 60 for run in _runs(read_json(path))] if path.is_file() else [float("nan")]
    return {} if (out / FILE).is_file() else {FILE: sum(taken)}


def _runs(found: dict) -> list[dict]:
    return [*found["runs"], found["float32"]]


def says(out: Path) -> str:
    """r of the recorded seeds, and how long a seed took."""
    if not (out / FILE).is_file():
        return format_table([])
    runs = read_json(out / FILE)["runs"]
    r = "{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval([run["r"] for run in runs]))
    return f"r {r} over {len(runs)} seeds, at most {max(run['seconds'] for run in runs):.0f} s each"


def record(out: Path, log: Callable[[str], None] = print) -> None:
    """Measure every seed, and the first one in float32, and write them; the dtypes' speed on fewer prompts beside them."""
    runs = []
    for seed, dtype in [*((seed, torch.bfloat16) for seed in SEEDS), (SEEDS[0], torch.float32)]:
        runs.append(measure(seed, dtype))
        log(f"seed {seed}, {runs[-1]['dtype']}: r {runs[-1]['r']:.3f} after {runs[-1]['seconds']:.0f} s")
    about = {"command": "poise-lab study sums", "provenance": provenance(), "setting": dataclasses.asdict(Sums())}
    seconds = {str(dtype).removeprefix("torch."): processor_seconds(dtype) for dtype in (torch.bfloat16, torch.float32)}
    found = {
        "searched": list(SEARCHED),
        "runs": runs[:-1],
        "float32": runs[-1],
        "processor_seconds_80_prompts": seconds,
    }
    write_json(out / FILE, {**about, **found})
