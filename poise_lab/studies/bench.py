"""Speed against references, as ratios taken in one run: `poise-lab bench`.

Each side of a comparison runs in a process of its own, so that its peak memory is its own; the two
sides alternate, and the ratio is that of the medians. Machines are shared and noisy: read ratios.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import unknown_name
from ..generate import sample_rollouts
from ..internals import batches_by_length, forward_rows, read_internals
from ..policies import Policy
from ..probe import ValueProbe
from ..process import peak_memory_mb
from ..stats import resamples
from ..variance.estimates import gradient_variance
from ..variance.scores import Scores, gradients_by_row, read_scores
from .bench_cases import ROUNDS, prompts_of
from .bench_shared import WORK, bench_course, bench_shared
from .bench_training import SAME_BATCH, bench_engines, bench_update
from .bench_vllm import bench_vllm


def matmul_rate() -> float:
    """FLOP/s of a float32 matrix product on this machine, over a second from now."""
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    rates, end = [], time.perf_counter() + 1.0
    while time.perf_counter() < end or len(rates) < 3:
        start = time.perf_counter()
        a @ b
        rates.append(2 * n**3 / (time.perf_counter() - start))
    return statistics.median(rates)


def matmul_flops_per_token(policy: Policy) -> float:
    """Floating-point operations of the weight products for one token, head included."""
    head = policy.model.get_output_embeddings().weight.numel()
    inside = sum(p.numel() for p in policy.model.base_model.parameters() if p.dim() == 2)
    embedding = policy.model.get_input_embeddings().weight.numel()
    return 2.0 * (inside - embedding + head)


def _generate(policy: Policy, prompts: list[list[int]], responses: int, max_new_tokens: int) -> int:
    """`model.generate` on the same prompts; returns the number of sampled tokens."""
    longest, pad = max(map(len, prompts)), policy.pad_id
    ids = torch.full((len(prompts), longest), pad)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
    torch.manual_seed(0)
    with torch.inference_mode():
        out = policy.model.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, num_return_sequences=responses, max_new_tokens=max_new_tokens, pad_token_id=pad,
        )  # fmt: skip
    return int((out[:, longest:] != pad).sum())


def _sampling_side(case: str, side: str) -> tuple[float, float, float]:
    """(tokens per second, peak MB, floor in tokens per second) of one side of a case, in this process."""
    policy, problems, responses, limit = prompts_of(case)
    prompts = [policy.prompt_ids(p) for p in problems]

    def ours(problems):
        return sample_rollouts(policy, problems, responses, seed=0, max_new_tokens=limit).tokens

    def theirs(problems):
        return _generate(policy, [policy.prompt_ids(p) for p in problems], responses, limit)

    run = ours if side == "poise_lab" else theirs
    run(problems)  # warm up
    start = time.perf_counter()
    tokens = run(problems)
    rate = tokens / (time.perf_counter() - start)
    # the floor processes each prompt token once and each sampled token once
    total = tokens + sum(map(len, prompts))
    floor = matmul_rate() / matmul_flops_per_token(policy) * tokens / total
    return rate, peak_memory_mb(), floor


def _in_process(function, *args):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def bench_sampling(case: str) -> dict:
    """Tokens per second of `sample_rollouts` and of `model.generate`, in turn."""
    sides = {"poise_lab": [], "generate": []}
    for _ in range(ROUNDS):
        for side, results in sides.items():
            results.append(_in_process(_sampling_side, case, side))
    ours, theirs = ([statistics.median(column) for column in zip(*results, strict=True)] for results in sides.values())
    return {
        "case": case,
        "ours, tokens/s": round(ours[0]),
        "generate, tokens/s": round(theirs[0]),
        "ratio": round(ours[0] / theirs[0], 2),
        "floor, tokens/s": round(ours[2]),
        "ours, peak MB": round(ours[1]),
        "generate, peak MB": round(theirs[1]),
    }


def bench_internals() -> dict:
    """Cost of `read_internals` over the same pass that gives log-probabilities only."""
    policy, problems, _, _ = prompts_of("thinker-384")
    rollouts = sample_rollouts(policy, problems, 2, seed=0)

    def logprobs_only():
        with torch.no_grad():
            for rows in batches_by_length(policy, rollouts, torch.arange(2 * len(problems))):
                forward_rows(policy, rollouts, rows)

    both = {"log-probs": logprobs_only, "internals": lambda: read_internals(policy, rollouts)}
    seconds = {name: [] for name in both}
    for i in range(1 + 5 * ROUNDS):
        for name, run in both.items():
            start = time.perf_counter()
            run()
            if i:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    tokens = int((rollouts.prompt_lengths[:, None] + rollouts.lengths).sum())
    floor = tokens * matmul_flops_per_token(policy) / matmul_rate()
    return {
        "case": f"internals, {2 * len(problems)} rows",
        "log-probs, s": round(statistics.median(seconds["log-probs"]), 3),
        "internals, s": round(statistics.median(seconds["internals"]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "floor, s": round(floor, 3),
    }


def bench_probe(rows: int, width: int, preset: str) -> dict:
    """Seconds of one fit on random rows."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 2 * width + 3)).astype(np.float32)
    y = rng.integers(0, 2, rows).astype(np.float32)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        ValueProbe.preset(preset).fit(X, y)
        seconds.append(time.perf_counter() - start)
    return {
        "case": f"probe fit, {rows} rows of {X.shape[1]} features, {preset}",
        "s": round(statistics.median(seconds), 3),
    }


def _one_by_one(policy: Policy, rollouts) -> Scores:
    """What `read_scores` gives, from one backward pass per response."""
    parameters, m, width = list(policy.model.parameters()), rollouts.responses, 4096
    size = sum(parameter.numel() for parameter in parameters)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1
    places = torch.randint(0, width, (size,), generator=generator)
    within, kept = [], []
    for rows in torch.arange(len(rollouts) * m).split(m):
        gradients = gradients_by_row(policy, rollouts, rows, torch.ones(m, 1), parameters)
        vectors = torch.cat([gradient.flatten(1) for gradient in gradients], 1)
        within.append(vectors @ vectors.T)
        kept.append(vectors.new_zeros(m, width).index_add_(1, places, vectors * signs))
    return Scores(torch.stack(within), torch.stack(kept))


def bench_variance(prompts: int, responses: int, sample: int = 128) -> dict:
    """Gradient variance from batched passes against one backward pass per response, in turn.

    The latter is timed on `sample` of the responses, taken evenly over the prompts, and scaled up.
    """
    policy, problems, _, _ = prompts_of(f"thinker-{prompts}")
    rollouts = sample_rollouts(policy, problems, responses, seed=0)
    some = rollouts.select(slice(None, None, prompts * responses // sample))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        gradient_variance(read_scores(policy, rollouts), rollouts.rewards, counts=resamples(prompts))
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        gradient_variance(_one_by_one(policy, some), some.rewards, counts=resamples(len(some)))
        theirs.append((time.perf_counter() - start) * prompts / len(some))
    tokens = int((rollouts.prompt_lengths[:, None] + rollouts.lengths).sum())
    # forward, backward to the activations, and one product per weight
    floor = 3 * tokens * matmul_flops_per_token(policy) / matmul_rate()
    return {
        "case": f"gradient variance, {prompts} prompts x {responses}",
        "ours, s": round(statistics.median(ours), 1),
        f"one backward pass per response, s (from {len(some) * responses} responses)": round(
            statistics.median(theirs), 1
        ),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2),
        "floor, s (three passes over every token)": round(floor, 1),
    }


# name: its rows, each made when it is asked for, so that a long part prints as it goes
PARTS = {
    "rollouts": lambda: (bench_sampling(case) for case in ("thinker-256", "thinker-1024")),
    "llama": lambda: [bench_sampling("llama")],
    "internals": lambda: [bench_internals()],
    "probe": lambda: (bench_probe(4096, width, preset) for width in (128, 2560) for preset in ("paper", "release")),
    "shared": lambda: (row for work in WORK for row in bench_shared(*work)),
    "course": lambda: [bench_course()],
    "update": lambda: [bench_update(matmul_flops_per_token, matmul_rate)],
    "trl": lambda: (bench_engines(case) for case in SAME_BATCH),
    "vllm": lambda: (row for dtype in ("float32", "bfloat16") for row in bench_vllm(dtype)),
    "variance": lambda: (bench_variance(*size) for size in ((1024, 2), (256, 16))),
}


def run_bench(parts: Sequence[str] = ()) -> None:
    """Run parts of the benchmark (all by default) and print a line for each case."""
    for part in parts:
        if part not in PARTS:
            raise unknown_name("part of the benchmark", part, PARTS)
    print(f"float32 matrix product: {matmul_rate() / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads", flush=True)
    for part in parts or PARTS:
        for row in PARTS[part]():
            print(
                ", ".join(f"{key} {value}" if key != "case" else f"{value}:" for key, value in row.items()), flush=True
            )
