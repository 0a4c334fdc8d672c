"""Speed against references, as ratios taken in one run: `poise-lab bench`.

Each side of a comparison runs in a process of its own, so that its peak memory is its own; the two
sides alternate, and the ratio is that of the medians. Machines are shared and noisy: read ratios.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..baselines import make_baseline
from ..errors import PoiseLabError, unknown_name
from ..generate import sample_rollouts
from ..internals import batches_by_length, forward_rows, read_internals
from ..models.pretrain import character_tokenizer
from ..policies import Policy, load_policy
from ..probe import ValueProbe
from ..process import peak_memory_mb
from ..stats import resamples
from ..tasks import TINY_TASKS, load_task
from ..threads import COUNTS, WAITING, usable
from ..trainer import TrainConfig, Trainer
from ..variance.estimates import gradient_variance
from ..variance.scores import Scores, read_scores
from .bench_training import SAME_BATCH, bench_engines, bench_update
from .bench_vllm import bench_vllm

ROUNDS = 3
COURSE_STEPS = 10  # of a live run in a notebook
AS_INSTALLED = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}  # what the OpenMP libraries do by themselves


def matmul_rate(n: int = 2048, seconds: float = 1.0) -> float:
    """FLOP/s of a float32 matrix product on this machine, now."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    rates, end = [], time.perf_counter() + seconds
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


def llama_shaped(seed: int = 0) -> Policy:
    """A random 135M-parameter policy of SmolLM2's shape; its tokens mean nothing, its cost is real."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    return Policy(LlamaForCausalLM(config).eval(), character_tokenizer(), "llama-135m", "compact")


def _generate(policy: Policy, prompts: list[list[int]], responses: int, max_new_tokens: int) -> int:
    """`model.generate` on the same prompts; returns the number of sampled tokens."""
    longest, pad = max(map(len, prompts)), policy.tokenizer.pad_token_id
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


class _Fixed:
    """A problem with given prompt tokens, for models whose tokenizer does not matter here."""

    task, question, compact, difficulty = "fixed", "", "", {}

    def __init__(self, ids):
        self.ids = ids

    def reward(self, response):
        return 0.0


def _prompts_of(case: str):
    """(policy, problems, responses, max_new_tokens) of a case."""
    if case == "llama":
        policy = llama_shaped()
        generator = torch.Generator().manual_seed(0)
        problems = [_Fixed(torch.randint(2, 49152, (64,), generator=generator).tolist()) for _ in range(16)]
        policy.prompt_ids = lambda problem: problem.ids
        policy.tokenizer.batch_decode = lambda rows, **_: [""] * len(rows)
        return policy, problems, 8, 16
    n = int(case.removeprefix("thinker-"))
    return load_policy("thinker"), load_task(TINY_TASKS).sample(n, seed=0), 8, 64


def _sampling_side(case: str, side: str) -> tuple[float, float, float]:
    """(tokens per second, peak MB, floor in tokens per second) of one side of a case, in this process."""
    policy, problems, responses, limit = _prompts_of(case)
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


def bench_internals(prompts: int = 384) -> dict:
    """Cost of `read_internals` over the same pass that gives log-probabilities only."""
    policy, problems, _, _ = _prompts_of(f"thinker-{prompts}")
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
        "case": f"internals, {2 * prompts} rows",
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


def _one_by_one(policy: Policy, rollouts, width: int = 4096, seed: int = 0) -> Scores:
    """What `read_scores` gives, from one backward pass per response."""
    parameters = list(policy.model.parameters())
    size = sum(parameter.numel() for parameter in parameters)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1
    places = torch.randint(0, width, (size,), generator=generator)
    within, kept = [], []
    for i in range(len(rollouts)):
        group = []
        for j in range(rollouts.responses):
            logprobs, _ = forward_rows(policy, rollouts, torch.tensor([i * rollouts.responses + j]))
            gradients = torch.autograd.grad(logprobs.sum(), parameters)
            group.append(torch.cat([gradient.flatten() for gradient in gradients]))
        vectors = torch.stack(group)
        within.append(vectors @ vectors.T)
        kept.append(vectors.new_zeros(len(group), width).index_add_(1, places, vectors * signs))
    return Scores(torch.stack(within), torch.stack(kept))


def bench_variance(prompts: int, responses: int, sample: int = 128) -> dict:
    """Gradient variance from batched passes against one backward pass per response, in turn.

    The latter is timed on `sample` of the responses, taken evenly over the prompts, and scaled up.
    """
    policy, problems, _, _ = _prompts_of(f"thinker-{prompts}")
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


def seconds_of_training(steps: int = 12) -> float:
    """Seconds of the first steps of `poise-lab train` in this process, after everything is loaded."""
    policy, task = load_policy("thinker"), load_task(TINY_TASKS)
    config = TrainConfig(steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        Trainer(policy, task, make_baseline("poise"), config, out=Path(folder) / "run", progress=False).run()
        return time.perf_counter() - start


def seconds_of_sampling() -> float:
    """Seconds of sampling from a policy of SmolLM2's shape in this process, after everything is loaded."""
    policy, problems, responses, limit = _prompts_of("llama")
    start = time.perf_counter()
    sample_rollouts(policy, problems, responses, seed=0, max_new_tokens=limit)
    return time.perf_counter() - start


def _seconds_beside(busy: int, work: str, settings: dict[str, str]) -> float:
    """What a function of this module returns in a process with these environment variables, beside `busy` processes that never wait."""
    environment = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)} | settings
    program = f"from {__name__} import {work}; print({work}())"
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    if done.returncode:
        raise PoiseLabError(f"the process of {work} ended with status {done.returncode}; see above")
    return float(done.stdout.splitlines()[-1])


def bench_shared(work: str, case: str) -> list[dict]:
    """The same work alone and beside one busy process, in turn, for three settings of the threads."""
    settings = {
        "as the package sets it": {},
        "one thread": {"OMP_NUM_THREADS": "1"},
        f"as installed, {usable()} threads": {"OMP_NUM_THREADS": str(usable()), **AS_INSTALLED},
    }
    seconds = {(name, busy): [] for name in settings for busy in (0, 1)}
    for _ in range(ROUNDS):
        for name, busy in seconds:
            seconds[name, busy].append(_seconds_beside(busy, work, settings[name]))
    median = {key: statistics.median(each) for key, each in seconds.items()}
    best = min(median[name, 0] for name in settings)
    return [
        {
            "case": f"{case}, {name}",
            "alone, s": round(median[name, 0], 1),
            "of the best alone": round(median[name, 0] / best, 2),
            "beside one busy process, s": round(median[name, 1], 1),
            "of its time alone": round(median[name, 1] / median[name, 0], 2),
        }
        for name in settings
    ]


def _seconds_together(kernels: int) -> float:
    """Seconds until so many processes, begun at once, have each loaded the package and made the first steps of a run."""
    environment = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)}
    command = [sys.executable, "-c", f"from {__name__} import seconds_of_training; seconds_of_training({COURSE_STEPS})"]
    start = time.perf_counter()
    begun = [subprocess.Popen(command, env=environment) for _ in range(kernels)]
    ended = [process.wait() for process in begun]
    if any(ended):
        raise PoiseLabError(f"{sum(map(bool, ended))} of {kernels} processes ended with an error; see above")
    return time.perf_counter() - start


def bench_course(kernels: int = 10) -> dict:
    """A course: as many runs at once as students, against one alone."""
    alone = statistics.median(_seconds_together(1) for _ in range(ROUNDS))
    together = _seconds_together(kernels)
    return {
        "case": f"{kernels} live runs of {COURSE_STEPS} steps at once on {usable()} cores",
        "one alone, s": round(alone, 1),
        "all, s": round(together, 1),
        "of the work divided by the cores": round(together / (kernels * alone / usable()), 2),
    }


WORK = (
    ("seconds_of_training", "twelve steps of the bundled policy"),
    ("seconds_of_sampling", "sampling from llama-135m"),
)
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
