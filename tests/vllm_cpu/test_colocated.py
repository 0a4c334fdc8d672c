"""PoiseTrainer with vLLM sampling in the same process, on the CPU: the same checks as with the other engines.

Three runs of the bundled policy. vLLM holds the weights in bfloat16 in one, as it does where TRL starts it, and in float32
in two, where its log-probabilities must be the policy's; the third goes on from the second's checkpoint.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import poise_lab as pl
from poise_lab.internals import forward_rows
from poise_lab.rollouts import build_rollouts
from poise_lab.sampler import step_seed
from poise_lab.trl.processes import cpu_environment

ROOT = Path(__file__).parents[2]
STEPS, WARMUP, PROMPTS, HELD_OUT, LAYER, POOL = 4, 2, 16, 8, 2, 4
SETTINGS = dict(
    policy="thinker", eval_prompts=HELD_OUT, max_steps=STEPS, per_device_train_batch_size=2 * PROMPTS, steps_per_generation=1,
    gradient_accumulation_steps=1, num_generations=2, learning_rate=1e-3, lr_scheduler_type="constant",
    max_completion_length=40, poise_layer=LAYER, poise_pool=POOL, poise_warmup=WARMUP, logging_steps=1, save_steps=2,
    report_to="none", bf16=False, use_cpu=True, gradient_checkpointing=False, use_vllm=True, vllm_mode="colocate",
    vllm_max_model_length=128,
)  # fmt: skip


def run(out: Path, dtype: str, folder: Path, *more: str) -> subprocess.CompletedProcess:
    """`python -m poise_lab.trl` with vLLM, what its batches were made of in `out`."""
    flags = [word for name, value in {**SETTINGS, "output_dir": folder}.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(Path(__file__).with_name("colocated.py")), str(out), dtype, *flags, *more]
    # a cache of 1 GB, and no address but this machine's
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**cpu_environment(), **settings, "PYTHONPATH": paths}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def batches(out: Path, first: int = 0) -> list[dict[str, torch.Tensor]]:
    return [load_file(out / f"{step}.safetensors") for step in range(first, STEPS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def as_started(folder):
    """The batches of a run as TRL starts vLLM for it."""
    done = run(folder / "auto", "auto", folder / "run-auto")
    assert done.returncode == 0, done.stderr[-3000:]
    return batches(folder / "auto")


@pytest.fixture(scope="module")
def exact(folder):
    """The batches of a run with vLLM in float32."""
    done = run(folder / "float32", "float32", folder / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    return batches(folder / "float32")


@pytest.fixture(scope="module")
def resumed(folder, exact):
    """The second half of that run once more, from its checkpoint in the middle."""
    shutil.copytree(folder / "run", folder / "again")
    shutil.rmtree(folder / "again" / f"checkpoint-{STEPS}")
    done = run(folder / "resumed", "float32", folder / "again", "--resume", "True")
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (folder / "resumed" / "0.safetensors").exists()
    return batches(folder / "resumed", first=2)


@functools.cache
def problems() -> list[list[pl.Problem]]:
    """Those that `poise-lab train` puts to the policy, batch by batch."""
    task = pl.load_task(pl.TINY_TASKS)
    held_out = task.sample(HELD_OUT, step_seed(42, 0, "held-out"))  # 42 is TRL's seed
    return [task.sample(PROMPTS, step_seed(42, i, "problems"), exclude=held_out) for i in range(1, STEPS + 1)]


def policy_of(batch) -> pl.Policy:
    policy = pl.load_policy("thinker")
    weights = {name.removeprefix("policy/"): w for name, w in batch.items() if name.startswith("policy/")}
    policy.model.load_state_dict(weights, strict=False)
    return policy


def rollouts_of(batch, asked, policy) -> pl.Rollouts:
    """The lab's own record of the tokens that vLLM sampled: spans and rewards are worked out anew."""
    lengths = batch["completion_mask"].sum(1).view(PROMPTS, 2)
    tokens, logprobs = (batch[name].view(PROMPTS, 2, -1) for name in ("completion_ids", "sampling_per_token_logps"))
    return build_rollouts(policy, asked, [policy.prompt_ids(p) for p in asked], tokens, lengths, logprobs)


def logprobs_of(batch, rollouts, policy) -> torch.Tensor:
    with torch.no_grad():
        return forward_rows(policy, rollouts, torch.arange(2 * PROMPTS))[0]


def apart(batch, logprobs: torch.Tensor) -> torch.Tensor:
    """How far the log-probabilities of vLLM are from these, token by token."""
    return (batch["sampling_per_token_logps"] - logprobs)[batch["completion_mask"].bool()].abs()


def test_pairs_of_the_labs_problems(exact):
    for batch, asked in zip(exact, problems(), strict=True):
        policy = policy_of(batch)
        given = [ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
        assert given[::2] == given[1::2] == [policy.prompt_ids(problem) for problem in asked]
        rollouts = rollouts_of(batch, asked, policy)
        assert torch.equal(rollouts.rewards, batch["rewards"])
        ids = rollouts.response_ids
        assert (ids[:, 0] != ids[:, 1]).any(1).sum() > 3  # of 16: the two of a pair are two samples


def test_the_probe_reads_what_the_lab_reads(exact):
    for batch, asked in zip(exact, problems(), strict=True):
        policy = policy_of(batch)
        expected = pl.read_internals(policy, rollouts_of(batch, asked, policy), layer=LAYER, pool=POOL).features()
        assert (batch["features"] - expected).abs().max() < 1e-4 < expected.abs().max()


@pytest.mark.parametrize("engine", ["exact", "as_started"])
def test_advantages_are_the_labs(request, engine):
    baseline = pl.Poise(2, warmup=WARMUP)
    for i, (batch, asked) in enumerate(zip(request.getfixturevalue(engine), problems(), strict=True)):
        policy = policy_of(batch)
        rollouts = rollouts_of(batch, asked, policy)
        internals = pl.read_internals(policy, rollouts, layer=LAYER, pool=POOL)
        internals.prompt, internals.reasoning, internals.entropy = batch["features"].split([128, 128, 3], -1)
        assert (baseline.values(rollouts, internals) is not None) == (i >= WARMUP)
        advantages = baseline.advantages(rollouts, internals)
        assert (batch["advantages"] - advantages.flatten()).abs().max() < 1e-6 < advantages.abs().max()
        baseline.update(rollouts, internals)


@pytest.mark.parametrize("engine", ["exact", "as_started"])
def test_log_probabilities_are_taken_anew_and_the_samplers_corrected_for(request, engine):
    """The ratio of the update is to the policy's own; the sampler's weigh a whole response, or leave it out beyond the clip."""
    losses = []
    for batch, asked in zip(request.getfixturevalue(engine), problems(), strict=True):
        policy = policy_of(batch)
        ours = logprobs_of(batch, rollouts_of(batch, asked, policy), policy)
        assert (batch["old_per_token_logps"] - ours)[batch["completion_mask"].bool()].abs().max() < 1e-4
        difference = (ours - batch["sampling_per_token_logps"]) * batch["completion_mask"]
        expected = difference.sum(1, keepdim=True).exp()
        expected = expected.where(expected <= 3, 0)  # TRL's clip
        assert (batch["importance_sampling_ratio"] - expected).abs().max() < 1e-3
        doubled, plain = batch["losses"]
        assert doubled.item() == pytest.approx(2 * plain.item(), rel=1e-5, abs=1e-6)
        losses.append(abs(plain.item()))
    assert max(losses) > 0.01


def test_a_sampler_in_bfloat16_is_another_policy(as_started):
    """By so much that there is something to correct for."""
    for batch in as_started:
        assert 1e-3 < apart(batch, batch["old_per_token_logps"]).max() < 0.5
        assert (batch["importance_sampling_ratio"] - 1).abs().max() > 0.01


def synchronised(found, asked) -> None:
    for i, (batch, now) in enumerate(zip(found, asked, strict=True)):
        policy = policy_of(batch)
        rollouts = rollouts_of(batch, now, policy)
        assert apart(batch, logprobs_of(batch, rollouts, policy)).max() < 1e-4
        if i:  # those of the batch before are far off
            assert apart(batch, logprobs_of(batch, rollouts, policy_of(found[i - 1]))).max() > 0.05


def test_weights_are_synchronised(exact):
    """After each update vLLM's log-probabilities are those of the policy as it has become."""
    synchronised(exact, problems())


def test_resume(folder, exact, resumed):
    """The weights and the probe's rows are those of the checkpoint, and vLLM is given them before it samples."""
    synchronised(resumed, problems()[2:])
    before = policy_of(resumed[0]).model.state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in policy_of(exact[2]).model.state_dict().items())
    baseline = pl.Poise(2, warmup=WARMUP)
    for batch, asked in zip([*exact[:2], *resumed], problems(), strict=True):
        policy = policy_of(batch)
        rollouts = rollouts_of(batch, asked, policy)
        internals = pl.read_internals(policy, rollouts, layer=LAYER, pool=POOL)
        internals.prompt, internals.reasoning, internals.entropy = batch["features"].split([128, 128, 3], -1)
        assert (batch["advantages"] - baseline.advantages(rollouts, internals).flatten()).abs().max() < 1e-6
        baseline.update(rollouts, internals)
    record = pl.read_run(folder / "again")
    assert record.finished and [m["step"] for m in record.metrics] == [1, 2, 3, 4]


def test_what_the_shim_is_for(folder):
    """Once this fails, TRL or vLLM hands weights over on the CPU, and the shim can go."""
    done = run(folder / "plain", "auto", folder / "run-plain", "--no-shim")
    assert done.returncode != 0
    assert "object has no attribute 'weight_loader'" in done.stderr and "sync_weights" in done.stderr
