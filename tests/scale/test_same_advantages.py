"""The same rollouts forced through our Trainer's baseline and through PoiseTrainer with 1, 2 and 4 processes.

One launch per number of processes runs every scenario. Responses have float32 noise in their states that depends
on how rows are padded and stacked; the scenarios named padded fix both, so that what is compared is the gathering,
the partners, the probe and the slicing alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from launching import launch
from safetensors.torch import load_file

import poise_lab as pl

STEPS, WARMUP = 5, 2
# name: prompts, responses, rows of a chunk, processes that run it. With 2 responses 45 rows, and with either 23,
# end within a group.
SHAPES = {"pairs": (46, 2, 23, (1, 2, 4)), "odd pairs": (45, 2, 45, (1, 2)), "fours": (23, 4, 23, (1, 2, 4))}
STRADDLING = [("pairs", 4), ("odd pairs", 2), ("fours", 2), ("fours", 4)]


def sampled(prompts: int, responses: int, task=None) -> list[pl.Rollouts]:
    """Some batches of real responses of the bundled policy, to problems that differ."""
    policy, task, batches = pl.load_policy("thinker"), task or pl.load_task(pl.TINY_TASKS), []
    for step in range(STEPS):
        problems = task.sample(prompts, seed=step, exclude=[p for batch in batches for p in batch.problems])
        batches.append(pl.sample_rollouts(policy, problems, responses, seed=step))
    return batches


def as_rows(batches: list[pl.Rollouts]) -> list[dict]:
    return [
        {
            "prompt": problem.compact,
            "task": problem.task,
            "prompt_ids": batch.prompt_ids[i],
            "response_ids": [ids[:n].tolist() for ids, n in zip(batch.response_ids[i], batch.lengths[i], strict=True)],
            "rewards": batch.rewards[i].tolist(),
        }
        for batch in batches
        for i, problem in enumerate(batch.problems)
    ]


def in_the_lab(
    batches: list[pl.Rollouts], features: list[torch.Tensor] | None = None, dtype=torch.float32, **settings
) -> torch.Tensor:
    """(STEPS, rows): what `Trainer.train_step` does for its advantages, in its order; given features replace those read."""
    policy, baseline = pl.load_policy("thinker", dtype=dtype), pl.Poise(batches[0].responses, warmup=WARMUP, **settings)
    advantages = []
    for i, batch in enumerate(batches):
        internals = pl.read_internals(policy, batch, layer=2, pool=4)
        if features:
            internals.prompt, internals.reasoning, internals.entropy = features[i].split([128, 128, 3], -1)
        advantages.append(baseline.advantages(batch, internals).flatten())
        baseline.update(batch, internals)
    return torch.stack(advantages)


@pytest.fixture(scope="session")
def batches():
    alike = pl.load_task("chain_sum", min_terms=3, max_terms=3, min_digits=2)
    made = {name: sampled(prompts, responses) for name, (prompts, responses, _, _) in SHAPES.items()}
    return {**made, "float64": sampled(46, 2, alike)}


@pytest.fixture(scope="session")
def runs(batches, tmp_path_factory):
    """(name, processes) -> what tests/scale/forced.py wrote."""
    results = {}
    for processes in (1, 2, 4):
        scenarios = []
        for name, (prompts, responses, each, on) in SHAPES.items():
            if processes in on:
                common = dict(
                    responses=responses, rows=prompts * responses, rollouts=as_rows(batches[name]), steps=STEPS
                )
                scenarios.append(dict(common, name=name, rows_each=each, pad=64))
                if name == "pairs":
                    loose = dict(common, rows_each=prompts * responses // processes)
                    scenarios.append(dict(loose, name="unpadded"))
                    scenarios.append(dict(loose, name="learning", learning_rate=1e-3))
                    scenarios.append(dict(loose, name="resumed", learning_rate=1e-3, stop_after=3))
                    if processes < 4:
                        same = dict(loose, rollouts=as_rows(batches["float64"]))
                        scenarios.append(dict(same, name="float64", dtype="float64"))
                        scenarios.append(dict(loose, name="per task", per_task=True))
                    if processes > 1:
                        scenarios.append(dict(loose, name="spoiled", spoiled=2))
        out = tmp_path_factory.mktemp(f"processes-{processes}")
        (out / "scenarios.json").write_text(json.dumps(scenarios))
        done = launch(processes, Path(__file__).with_name("forced.py"), out / "scenarios.json", out)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        for scenario in scenarios:
            if "spoiled" in scenario:
                said = [(out / f"{scenario['name']}-{rank}.txt").read_text() for rank in range(processes)]
                results[scenario["name"], processes] = said
                continue
            result = json.loads((out / f"{scenario['name']}.json").read_text())
            assert result["processes"] == processes and result["steps"] == STEPS
            results[scenario["name"], processes] = result, load_file(out / f"{scenario['name']}.safetensors")
    return results


def advantages(runs, name, processes) -> torch.Tensor:
    return torch.tensor(runs[name, processes][0]["advantages"])


def features(runs, name, processes) -> list[torch.Tensor]:
    return [runs[name, processes][1][f"features/{i}"] for i in range(STEPS)]


@pytest.mark.parametrize(("name", "processes"), [(n, k) for n, (*_, on) in SHAPES.items() for k in on if k > 1])
def test_several_processes_give_the_advantages_of_one(runs, name, processes):
    several, one = advantages(runs, name, processes), advantages(runs, name, 1)
    assert one.abs().max() > 0.5 and one.unique().numel() > 50  # there is something to compare
    assert (several - one).abs().max() < 1e-6
    assert torch.equal(several[:WARMUP], one[:WARMUP])


def test_groups_do_straddle(batches):
    for name, processes in STRADDLING:
        prompts, responses, *_ = SHAPES[name]
        assert prompts * responses // processes % responses


@pytest.mark.parametrize("processes", (2, 4))
def test_padding_and_stacking_leave_float_noise_only(runs, processes):
    assert (advantages(runs, "unpadded", processes) - advantages(runs, "unpadded", 1)).abs().max() < 2e-5


@pytest.mark.parametrize("name", SHAPES)
def test_reads_the_states_that_the_lab_reads(runs, batches, name):
    """States to float noise; entropies to that of TRL's fused head, which subtracts two float32 of about 100."""
    policy = pl.load_policy("thinker")
    for batch, ours in zip(batches[name], features(runs, name, 1), strict=True):
        expected = pl.read_internals(policy, batch, layer=2, pool=4).features()
        assert expected[..., :256].abs().max() > 1
        assert (ours - expected)[..., :256].abs().max() < 3e-5
        assert (ours - expected)[..., 256:].abs().max() < 3e-5


@pytest.mark.parametrize(("name", "processes"), [(n, k) for n, (*_, on) in SHAPES.items() for k in on])
def test_same_features_give_the_advantages_of_the_lab(runs, batches, name, processes):
    expected = in_the_lab(batches[name], features(runs, name, processes))
    assert (advantages(runs, name, processes) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("processes", (1, 2))
def test_both_engines_agree_from_the_rollouts_on(runs, batches, processes):
    """Without float32's noise, to 1e-6; with TRL's entropies, to the noise of those (its fused head is float32).

    In float64, and on prompts of one length: TRL pads prompts on the left, the lab pads responses on the right,
    and transformers keeps the rotary angles of shifted positions in float32.
    """
    given, own = batches["float64"], in_the_lab(batches["float64"], dtype=torch.float64)
    assert len({len(ids) for batch in given for ids in batch.prompt_ids}) == 1
    policy, mixed = pl.load_policy("thinker", dtype=torch.float64), features(runs, "float64", processes)
    for batch, read in zip(given, mixed, strict=True):
        read[..., 256:] = pl.read_internals(policy, batch, layer=2, pool=4).entropy
    assert (in_the_lab(given, mixed) - own).abs().max() < 1e-6
    assert (advantages(runs, "float64", processes) - own).abs().max() < 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_both_engines_agree_in_float32_up_to_its_noise(runs, batches, name):
    assert (advantages(runs, name, 1) - in_the_lab(batches[name])).abs().max() < 2e-4


def test_probe_takes_over_after_the_warm_up(runs, batches):
    rewards = torch.stack([b.rewards for b in batches["pairs"]])
    rloo = (rewards - rewards.flip(2)).flatten(1)
    found = advantages(runs, "pairs", 2)
    assert torch.equal(found[:WARMUP], rloo[:WARMUP])
    assert (found[WARMUP:] - rloo[WARMUP:]).abs().max() > 0.1
    logged = [entry for entry in runs["pairs", 2][0]["logged"] if "poise/fitted" in entry]
    assert [entry["poise/fitted"] for entry in logged] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert [entry["poise/buffer_rows"] for entry in logged] == [92.0 * i for i in range(STEPS)]
    read = features(runs, "pairs", 2)
    assert [entry["poise/entropy"] for entry in logged] == pytest.approx([x[..., 256].mean().item() for x in read])
    for entry, a, r in zip(logged, found, rewards.flatten(1), strict=True):
        expected = 1 - a.var(correction=0) / r.var(correction=0)
        assert entry["poise/variance_reduction"] == pytest.approx(expected.item(), abs=1e-4)
    assert {
        "poise/probe_r_partner",
        "poise/probe_mae_partner",
        "poise/seconds_probe",
        "poise/seconds_gather",
        "poise/seconds_wait",
    } <= set(logged[-1])


@pytest.mark.parametrize("processes", (2, 4))
def test_a_process_whose_buffer_is_spoiled_stops_all(runs, processes):
    """One number of one row, on one of the processes: all stop before a probe that was fitted on it is used."""
    sentence = "the processes have fitted their probes to different rows; after a resume, give each of them the same "
    for said in runs["spoiled", processes]:
        assert said.startswith(f"3 batches, then: {sentence}")


@pytest.mark.parametrize("processes", (1, 2, 4))
def test_resume_from_a_checkpoint_goes_on_as_if_nothing_had_happened(runs, processes):
    """A policy that learns, stopped after batch 3: the advantages and, at the end, buffer and probe."""
    assert torch.equal(advantages(runs, "resumed", processes), advantages(runs, "learning", processes))
    resumed, straight = runs["resumed", processes][1], runs["learning", processes][1]
    names = {k for k in straight if not k.startswith("features/")}
    assert any(k.startswith("buffer/") for k in names) and any(k.startswith("probe/") for k in names)
    assert any(k.startswith("policy/") for k in names)
    for name in names:
        assert torch.equal(resumed[name], straight[name]), name
    moved = runs["pairs", 1][1]
    assert any(not torch.equal(moved[k], straight[k]) for k in names if k.startswith("policy/"))  # it did learn


@pytest.mark.parametrize("processes", (1, 2))
def test_one_probe_per_task(runs, batches, processes):
    expected = in_the_lab(batches["pairs"], features(runs, "per task", processes), per_task=True)
    assert (advantages(runs, "per task", processes) - expected).abs().max() < 1e-6
    assert {k.split("/")[1] for k in runs["per task", processes][1] if k.startswith("probe/")} == set(
        pl.TINY_TASKS.split("+")
    )
