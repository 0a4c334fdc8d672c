"""Sampling by the lab's own loop and by vLLM on the CPU, in turn: `poise-lab bench vllm`.

vLLM lies in an environment of its own, which `make test-vllm` makes: .venv-vllm/bin/poise-lab bench vllm. Each side is a
process with one thread that holds SmolLM2-135M, is given the same prompts, and returns a log-probability for each token.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from .. import threads
from ..generate import sample_rollouts
from ..policies import load_policy
from ..sources import fetched
from ..tasks import TINY_TASKS, load_task
from .bench_cases import ROUNDS

POLICY = "smollm2-135m"
PROMPTS, RESPONSES = 32, 8
CACHE_GB = 4  # of keys and values, which vLLM takes at the start
Sample = Callable[[int, int], int]  # (most new tokens, seed) -> tokens sampled

_sample: Sample  # of this process


def _lab(dtype: str) -> Sample:
    policy = load_policy(POLICY, dtype=getattr(torch, dtype))
    problems = load_task(TINY_TASKS).sample(PROMPTS, seed=0)
    return lambda limit, seed: sample_rollouts(policy, problems, RESPONSES, seed=seed, max_new_tokens=limit).tokens


def _vllm(dtype: str) -> Sample:
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams

    policy = load_policy(POLICY)
    prompts = [{"prompt_token_ids": policy.prompt_ids(p)} for p in load_task(TINY_TASKS).sample(PROMPTS, seed=0)]
    ends = policy.eos_token_ids
    engine = LLM(str(fetched(POLICY)), dtype=dtype, max_model_len=1024, generation_config="vllm")

    def sample(limit: int, _: int) -> int:  # a seed for each call ends in an error on a CPU, vLLM 0.32
        engine.reset_prefix_cache()  # the prompts are new to a policy that has learned since
        asked = SamplingParams(n=RESPONSES, max_tokens=limit, stop_token_ids=ends, logprobs=0, detokenize=False)
        answered = engine.generate(prompts, asked, use_tqdm=False)
        return sum(len(response.token_ids) for prompt in answered for response in prompt.outputs)

    return sample


SIDES = {"ours": _lab, "vLLM": _vllm}


def _load(side: str, dtype: str) -> None:
    global _sample
    threads.use_one()
    _sample = SIDES[side](dtype)


def _rate(limit: int, seed: int) -> float:
    """Tokens per second of this process, on the processor: a second during which others run does not count."""
    start = time.process_time()
    tokens = _sample(limit, seed)
    return tokens / (time.process_time() - start)


def bench_vllm(dtype: str, limits: Sequence[int] = (8, 64), rounds: int = ROUNDS) -> list[dict]:
    """Tokens per second of both on PROMPTS x RESPONSES responses, a row for each of the lengths that they may have."""
    case = f"{POLICY} beside vLLM in {dtype}, one thread, {PROMPTS} prompts x {RESPONSES}"
    if importlib.util.find_spec("vllm") is None:
        return [{"case": case, "not measured": "needs vLLM, in the environment of `make test-vllm`"}]
    rates = {limit: {side: [] for side in SIDES} for limit in limits}
    with contextlib.ExitStack() as running:
        pools = {side: running.enter_context(multiprocessing.get_context("spawn").Pool(1)) for side in SIDES}
        for side, pool in pools.items():
            pool.apply(_load, (side, dtype))
            pool.apply(_rate, (min(limits), 0))  # warm up
        for seed in range(1, rounds + 1):
            for limit in limits:
                for side, pool in pools.items():
                    rates[limit][side].append(pool.apply(_rate, (limit, seed)))
    return [
        {
            "case": f"{case} x up to {limit} tokens",
            **{f"{side}, tokens/s": round(statistics.median(each)) for side, each in sides.items()},
            "ratio": round(statistics.median(a / b for a, b in zip(*sides.values(), strict=True)), 2),
        }
        for limit, sides in rates.items()
    ]
