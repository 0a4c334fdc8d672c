"""Speed of training: a step's update against its arithmetic, and the lab's engine against TRL's."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ..baselines import make_baseline
from ..config import TrainConfig
from ..internals import PACKED_TOKENS
from ..policies import Policy, load_policy
from ..runs import read_metrics
from ..tasks import TINY_TASKS, load_task
from ..trainer import Trainer
from .bench_cases import ROUNDS

STEPS = 6  # of a run of each engine; the first two warm up
SAME_BATCH = {  # what both engines are given
    "the bundled policy, 128 prompts x 2": ["--policy", "thinker", "--prompts", "128"],
    "SmolLM2, 32 prompts x 2": [
        *("--policy", "smollm2-135m", "--shots", "4", "--wording", "line", "--task", "chain_sum", "--task-set"),
        *("max_terms=2", "--max-new-tokens", "8", "--layer", "15", "--prompts", "32"),
    ],
}


def rate_of_passes(policy: Policy, seconds: float = 1.0) -> float:
    """FLOP/s of the policy's largest weight product inside its layers, at the rows of one pass of an update."""
    inside = [p for p in policy.model.base_model.parameters() if p.dim() == 2]
    weight = max((p for p in inside if p is not policy.model.get_input_embeddings().weight), key=torch.numel)
    rows, rates, end = torch.randn(PACKED_TOKENS, weight.shape[1]), [], time.perf_counter() + seconds
    with torch.no_grad():
        while time.perf_counter() < end or len(rates) < 3:
            start = time.perf_counter()
            rows @ weight.T
            rates.append(2 * len(rows) * weight.numel() / (time.perf_counter() - start))
    return statistics.median(rates)


def bench_update(flops_per_token, square_rate) -> dict:
    """The optimizer steps of one step of training, and what its weight products would take: three over every token.

    flops_per_token: of a policy's weight products. square_rate: measures the FLOP/s of a large product.
    """
    policy, seconds, large, passes = load_policy("thinker"), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            policy, load_task(TINY_TASKS), make_baseline("poise"), TrainConfig(), out=f"{folder}/run", progress=False
        )
        rollouts = trainer._sample(1)
        internals = trainer._read(rollouts)
        advantages = trainer._take_advantages(rollouts, internals)
        for _ in range(1 + ROUNDS):
            start = time.perf_counter()
            for rows in trainer._minibatches(1, rollouts):
                trainer._update_policy(rows, rollouts, internals, advantages)
            seconds.append(time.perf_counter() - start)
            large.append(square_rate())
            passes.append(rate_of_passes(policy))
    tokens = int(rollouts.prompt_lengths.sum() + rollouts.lengths.sum())  # a prompt is run once for its responses
    flops = 3 * tokens * flops_per_token(policy)  # forward, backward to the activations, and one product per weight
    took, large, passes = (statistics.median(each[1:]) for each in (seconds, large, passes))  # the first warms up
    return {
        "case": f"update of the bundled policy, {len(rollouts)} prompts x {rollouts.responses}",
        "s": round(took, 3),
        "GFLOP/s": round(flops / took / 1e9, 1),
        "of a large product's rate": round(flops / took / large, 2),
        "of its own products' rate": round(flops / took / passes, 2),
    }


def step_seconds(engine: str, flags: list[str]) -> float:
    """Median seconds of a step of `poise-lab train` on an engine, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        few = ["--steps", str(STEPS), "--eval-every", str(STEPS), "--eval-prompts", "2", "--eval-responses", "2"]
        command = [sys.executable, "-m", "poise_lab", "train", "--engine", engine, *flags, *few, "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        at = [metrics["seconds"] for metrics in read_metrics(out)]
    return statistics.median(after - before for before, after in zip(at[2:-2], at[3:-1], strict=True))


def bench_engines(case: str) -> dict:
    """Seconds of a step on either engine at the same batch, in turn, on one thread each."""
    engines = ("lab", "trl")
    if importlib.util.find_spec("trl") is None:
        return {"case": f"a step beside TRL, {case}", "not measured": 'needs the extra "scale"'}
    seconds = {engine: [] for engine in engines}
    for _ in range(ROUNDS):
        for engine in engines:
            seconds[engine].append(step_seconds(engine, SAME_BATCH[case]))
    return {
        "case": f"a step beside TRL, {case}",
        **{f"{engine}, s": round(statistics.median(seconds[engine]), 2) for engine in engines},
        "ratio": round(statistics.median(b / a for a, b in zip(*seconds.values(), strict=True)), 2),
    }
