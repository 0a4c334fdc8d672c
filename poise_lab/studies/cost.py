"""What it takes to leave the laptop: the extra `scale`, and memory and time of a step on paper.

The arithmetic of `step_cost` counts what POISE adds to a step of TRL, against the step itself. Its assumptions
stand in `Assumptions`. The speeds of the CPU were measured (`poise-lab study cost`), and of
those for three widths the slowest is taken. Of a GPU nothing is measured but one small run (`data/scale/h200`).
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np

from ..files import provenance, read_json, write_json
from ..policies import load_policy
from ..probe import PROBE_PRESETS, RecentBuffer, ValueProbe
from ..rollouts import reasoning_ends
from ..runs import format_table
from ..sources import data_dir

FILE, CALLS = "cpu.json", 5  # the record, and calls of which the median counts


@dataclasses.dataclass(frozen=True)
class Size:
    """A policy, as far as the arithmetic needs it: parameters and hidden width."""

    name: str
    parameters: float
    width: int


# from the models' own config.json
SIZES = [Size("Qwen3-0.6B", 0.6e9, 1024), Size("Qwen3-4B", 4.0e9, 2560), Size("Qwen3-8B", 8.2e9, 4096)]
GPUS = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What the arithmetic takes for granted. Speeds of one GPU are an H100's data sheet times a usual share."""

    rows: int = 1024
    """Responses per step, 512 prompts x 2 as in the paper (there Qwen3-4B alone has 1024 x 2)."""
    tokens: int = 4096
    """Prompt and response together, on average."""
    training_flops: float = 0.4 * 989e12
    """Per second: 40 % of the dense bfloat16 peak."""
    sampling_flops: float = 0.1 * 989e12
    """Per second: 10 % of it, since sampling waits for memory."""
    memory_bytes: float = 3.35e12
    """Per second, between a GPU and its memory."""
    host_bytes: float = 25e9
    """Per second, between a GPU and the host."""
    link_bytes: float = 25e9
    """Per second, between nodes, for each GPU."""
    release_flops: float = 23e9
    """Per second, of the thread that fits the release's probe, counted as `fit_flops` does."""
    paper_flops: float = 34e9
    """Per second, of the thread that fits the paper's."""
    cpu_bytes: float = 9e9
    """Per second, of the features that a prediction turns into float64 and multiplies."""
    hash_bytes: float = 0.44e9
    """Per second, SHA-256."""
    scan_tokens: float = 10e6
    """Per second, of the search for the end of reasoning in a response that has none."""
    pool: int = 10
    """Tokens averaged."""
    buffer_rows: int = 4096
    """Rows that the probe is fitted on."""
    components: int = 96
    """Principal components (release: 32 and 64)."""


def fit_flops(features: int, a: Assumptions, preset: str) -> float:
    """Operations of one fit.

    release: scikit-learn's randomised PCA of both states multiplies all rows with k + 10 vectors, 2 (7 iterations + 1)
    times. paper: the products of the features, or of the rows where these are fewer, and Cholesky's factors of them.
    """
    rows = a.buffer_rows
    if preset == "release":
        return 2 * rows * (features / 2) * (a.components + 2 * 10) * 2 * (7 + 1)
    fewer, more = sorted((rows, features))
    return fewer**2 * more + fewer**3 / 3


def fit_bytes(features: int, a: Assumptions, preset: str) -> float:
    """Memory of one fit beside the buffer: its rows in one piece, and copies of them in float64."""
    rows, fewer = a.buffer_rows * features, min(a.buffer_rows, features)
    return rows * (4 + 15) if preset == "release" else rows * (4 + 33) + 8 * fewer**2


def step_cost(size: Size, gpus: int, a: Assumptions | None = None, preset: str = "release") -> dict[str, float]:
    """Seconds and bytes of one step on some GPUs, and what POISE adds. Keys end in their unit.

    sampling: 2 N operations per token. pass: 2 N (log-probabilities). update: 8 N (forward, backward, and the forward
    again under checkpointing).
    capture: each process looks for the end of reasoning in its responses, and its GPU reads the pooled states of its
    rows. gather: every process receives the features of all rows, 2 D + 3 float32 each, and copies them to its host.
    predict: every process, for all rows. fit: on each process's CPU with the hash of its rows, in a thread, from the
    moment that the advantages are known until they are next needed: while the policy is updated, samples and takes the
    pass. What counts is the part that is longer than all that (exposed).
    own_pass: where a batch is one optimizer step TRL makes no such pass, so it is POISE's; its share is of a step
    without one. It is not in added.
    Not counted in bytes: activations, vLLM's copy of the weights and its cache of keys and values.
    """
    a = a or Assumptions()
    features = 2 * size.width + 3
    work = size.parameters * a.rows * a.tokens / gpus
    sampling, scoring, update = 2 * work / a.sampling_flops, 2 * work / a.training_flops, 8 * work / a.training_flops
    capture = a.rows / gpus * (2 * a.pool * size.width * 2 / a.memory_bytes + a.tokens / a.scan_tokens)
    gathered = a.rows * features * 4
    gather = (gathered * (gpus - 1) / gpus) / a.link_bytes + gathered / a.host_bytes
    speed = a.release_flops if preset == "release" else a.paper_flops
    fit = fit_flops(features, a, preset) / speed + a.buffer_rows * features * 4 / a.hash_bytes
    predict = a.rows * features * (4 + 8 + 8) / a.cpu_bytes
    step = sampling + scoring + update
    exposed = max(0.0, fit - step)
    added = capture + gather + predict + exposed
    return {
        "step_seconds": step,
        "capture_seconds": capture,
        "gather_seconds": gather,
        "fit_seconds": fit,
        "predict_seconds": predict,
        "exposed_seconds": exposed,
        "added_seconds": added,
        "added_share": added / step,
        "own_pass_share": scoring / (sampling + update),
        "gpu_bytes": a.rows * features * 4 * (1 + 1 / gpus),  # own rows, and all of them once gathered
        "host_bytes": a.buffer_rows * features * 4 + fit_bytes(features, a, preset),
        "policy_bytes": 16 * size.parameters / gpus,  # weights, gradients and AdamW's moments, spread over the GPUs
    }


def cost_table() -> list[dict]:
    """`step_cost` for each policy and number of GPUs, rounded; release / paper where the two presets differ."""
    rows = []
    for size in SIZES:
        for n in GPUS:
            release, paper = (step_cost(size, n, preset=preset) for preset in PROBE_PRESETS)

            def both(key, form, unit, costs=(release, paper)):
                return " / ".join(f"{cost[key] * unit:{form}}" for cost in costs)

            rows.append(
                {
                    "policy": size.name,
                    "GPUs": n,
                    "step, s": f"{release['step_seconds']:.1f}"
                    if release["step_seconds"] < 10
                    else f"{release['step_seconds']:.0f}",
                    "capture, ms": f"{1e3 * release['capture_seconds']:.1f}",
                    "gather, ms": f"{1e3 * release['gather_seconds']:.1f}",
                    "predict, ms": f"{1e3 * release['predict_seconds']:.1f}",
                    "fit in a thread, s": both("fit_seconds", ".1f", 1),
                    "of it exposed, s": both("exposed_seconds", ".1f", 1),
                    "added to the step, %": both("added_share", ".2f", 100),
                    "added per GPU, MB": f"{release['gpu_bytes'] / 1e6:.0f}",
                    "added per process on the host, MB": both("host_bytes", ".0f", 1e-6),
                    "weights and AdamW per GPU, GB": f"{release['policy_bytes'] / 1e9:.1f}",
                    "fit 80 GB": "yes" if release["policy_bytes"] < 80e9 else "no",
                }
            )
    return rows


def measure(a: Assumptions | None = None) -> dict:
    """The speeds of this machine's CPU that `Assumptions` needs, for each size of policy, on made-up features."""
    a, result = a or Assumptions(), {}
    for size in SIZES:
        features = 2 * size.width + 3
        X = np.random.default_rng(0).normal(size=(a.buffer_rows, features)).astype(np.float32)
        y = (X[:, 0] > 0).astype(np.float32)
        buffer = RecentBuffer(a.buffer_rows)
        buffer.add(X.reshape(-1, 2, features), y.reshape(-1, 2))
        probe = ValueProbe.preset("release").fit(X, y)
        fit = {preset: _seconds(ValueProbe.preset(preset).fit, X, y) for preset in PROBE_PRESETS}
        predict = _seconds(probe.predict, X[: a.rows])
        result[size.name] = {
            **{f"{preset}_seconds": seconds for preset, seconds in fit.items()},
            **{f"{preset}_flops": fit_flops(features, a, preset) / seconds for preset, seconds in fit.items()},
            "predict_seconds": predict,
            "cpu_bytes": a.rows * features * 20 / predict,
            "hash_bytes": X.nbytes / _seconds(buffer.digest),
        }
    policy = load_policy("thinker")
    ids = policy.tokenizer.encode("7" * a.tokens, add_special_tokens=False)
    result["scan_tokens"] = a.tokens / _seconds(reasoning_ends, policy, [ids])
    return result


def _seconds(call, *args) -> float:
    """Of processor time, the median of CALLS calls; a first fit may take twice as long."""
    taken = []
    for _ in range(CALLS):
        start = time.process_time()
        call(*args)
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def missing(out: Path) -> dict[str, float]:
    """The measured speeds, if they are not in the folder, with the minutes that the recorded ones took."""
    path = data_dir() / "scale" / FILE
    found = [read_json(path)[size.name] for size in SIZES] if path.is_file() else []
    seconds = [x for each in found for key, x in each.items() if key.endswith("_seconds")]
    return {} if (out / FILE).is_file() else {FILE: CALLS * sum(seconds) / 60 if seconds else float("nan")}


def record(out: Path) -> None:
    """Measure the speeds of this machine's CPU."""
    write_json(out / FILE, {"command": "poise-lab study cost", **measure(), **provenance()})


def says(out: Path) -> str:
    """The arithmetic of a step, by policy and number of GPUs."""
    return format_table(cost_table())
