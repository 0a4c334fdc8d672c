from __future__ import annotations

import copy
import dataclasses
import datetime
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import ToyProblem, ToyTask, assert_close, tiny_policy

import poise_lab as pl
from poise_lab import checkpoints, files, runs
from poise_lab.cli import main
from poise_lab.errors import NotFiniteError
from poise_lab.objective import clipped_surrogate
from poise_lab.runs import read_metrics
from poise_lab.trainer import step_seed

SMALL = dict(
    steps=4, prompts=6, minibatches=2, max_new_tokens=6, layer=1, pool=2, learning_rate=1e-2,
    eval_every=2, eval_prompts=5, eval_responses=3, checkpoint_every=2,
)  # fmt: skip
ALWAYS = {
    "step", "reward", "entropy", "response_length", "loss", "gradient_norm", "clip_fraction", "tokens", "responses",
    "seconds", "seconds_sample", "seconds_internals", "seconds_baseline", "seconds_update", "peak_memory_mb",
}  # fmt: skip


def trainer(out, baseline="poise", resume=False, task=None, policy=None, on_step=None, **changes):
    if baseline == "poise":
        baseline = pl.make_baseline("poise", warmup=1)
    elif isinstance(baseline, str):
        baseline = pl.make_baseline(baseline, responses=2)
    config = pl.TrainConfig(**{**SMALL, **changes})
    return pl.Trainer(
        policy or tiny_policy(), task or ToyTask(), baseline, config, out=out, resume=resume, on_step=on_step,
        progress=False,
    )  # fmt: skip


def timeless(metrics: list[dict]) -> list[dict]:
    return [{k: v for k, v in m.items() if not k.startswith("seconds") and k != "peak_memory_mb"} for m in metrics]


def assert_same_run(a: Path, b: Path):
    """Metrics and last checkpoint (weights, moments, probe and buffer), bit for bit."""
    assert timeless(read_metrics(a)) == timeless(read_metrics(b))
    last = [sorted((folder / "checkpoints").glob("step-*"))[-1] for folder in (a, b)]
    assert last[0].name == last[1].name
    for name in ("model", "optimizer", "baseline"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in last)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one), name


# --- what a run is -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    seen = []
    record = trainer(tmp_path_factory.mktemp("run") / "r", on_step=seen.append).run()
    return record, seen


def test_metrics_of_each_step(run):
    record, seen = run
    assert [m["step"] for m in record.metrics] == [0, 1, 2, 3, 4]
    assert record.finished and seen == record.metrics == read_metrics(record.folder)
    for m in record.metrics[1:]:
        assert ALWAYS <= set(m)
        assert ("accuracy" in m) == (m["step"] % 2 == 0)
        assert m["tokens"] > 0 and 0 <= m["reward"] <= 1 and m["entropy"] > 0
        assert 0 <= m["clip_fraction"] <= 1
    for m in record.metrics[2:]:
        assert {"probe_r_partner", "probe_mae_partner"} <= set(m)
    assert "probe_r_fresh" not in record.metrics[0] and "probe_r_fresh" in record.metrics[2]
    assert {"accuracy_even", "accuracy_odd", "value_std"} <= set(record.metrics[4])
    tokens = record.series("tokens")[1]
    assert tokens == sorted(tokens) and tokens[0] == 0
    # the seconds of the steps add up
    parts = sum(v for m in record.metrics[1:] for k, v in m.items() if k.startswith("seconds_"))
    assert record.metrics[-1]["seconds"] - record.metrics[0]["seconds"] == pytest.approx(parts)


def test_variance_reduction_is_that_of_the_step(tmp_path):
    kept = []

    class Kept(pl.baselines.RLOO):
        def advantages(self, rollouts, internals):
            kept.append((super().advantages(rollouts, internals), rollouts.rewards))
            return kept[-1][0]

    record = trainer(tmp_path / "r", Kept()).run()
    for m, (a, r) in zip(record.metrics[1:], kept, strict=True):
        expected = 1 - a.double().var(correction=0) / r.double().var(correction=0)
        assert m["variance_reduction"] == pytest.approx(expected.item(), abs=1e-5)
        assert m["variance_reduction_rloo"] == pytest.approx(expected.item(), abs=1e-5)
        assert m["reward"] == pytest.approx(r.mean().item())


@pytest.mark.parametrize("name", ["grpo", "ppo", "random_rewards", "sharpen", "dr_grpo", "opo"])
def test_advantages_that_are_no_reward_minus_something_else_have_no_variance_reduction(tmp_path, name):
    """Nor have those whose baseline holds the own reward: for tosses of a coin half of the variance would be gone."""
    for m in trainer(tmp_path / "r", name).run().metrics[1:]:
        assert "variance_reduction" not in m and "variance_reduction_rloo" in m


def test_rewards_that_differ_around_one_mean_are_something_to_learn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyProblem, "reward", lambda self, text: next(rewards))
    rewards = itertools.cycle([0.0, 1.0])
    record = trainer(tmp_path / "r", "rloo", eval_prompts=2, eval_responses=4, eval_every=9, prompts=4).run()
    assert {m["reward"] for m in record.metrics[1:]} == {record.metrics[0]["accuracy"]} == {0.5} and record.finished


def test_folder_holds_what_made_it(run):
    record, _ = run
    config = json.loads((record.folder / "config.json").read_text())
    assert config["train"] == dataclasses.asdict(pl.TrainConfig(**SMALL))
    assert config["baseline"]["name"] == "poise" and config["task"] == "toy"
    assert {"torch", "transformers", "numpy"} <= set(config["versions"]) and config["threads"] >= 1
    files = {f.name for f in record.folder.iterdir()}
    assert files == {"config.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "policy"}
    assert [f.name for f in sorted((record.folder / "checkpoints").iterdir())] == [
        "step-000002",
        "step-000004",
    ]


def test_commit_of_the_checkout_and_of_no_other(tmp_path, monkeypatch):
    def git(*command):
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        return subprocess.run(["git", *who, *command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    package = tmp_path / "inner" / "poise_lab"
    package.mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    assert files.checkout() is None and "commit" not in files.provenance()  # a repository further up
    shutil.copytree(tmp_path / ".git", tmp_path / "inner" / ".git")
    (tmp_path / "inner" / "file").write_text("1")
    head = git("rev-parse", "HEAD").strip()
    assert files.provenance()["commit"] == head
    (tmp_path / "inner" / "file").write_text("2")
    assert files.checkout() == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git here
    assert files.checkout() is None


def test_checkpoint_holds_the_weights(tmp_path):
    t = trainer(tmp_path / "r")
    t.run()
    saved = load_file(tmp_path / "r" / "checkpoints" / "step-000004" / "model.safetensors")
    start = dict(tiny_policy().model.named_parameters())
    for name, p in t.policy.model.named_parameters():
        assert torch.equal(saved[name], p)
    assert any(not torch.equal(saved[name], start[name]) for name in saved)


def test_order_of_a_step(tmp_path):
    """Advantages and values first, then the update with the step's rewards; the policy moves last."""
    calls = []

    class Recorder(pl.Baseline):
        name = "recorder"

        def advantages(self, rollouts, internals):
            calls.append(("advantages", self.weight()))
            return rollouts.rewards - 0.5

        def values(self, rollouts, internals):
            calls.append(("values", self.weight()))

        def update(self, rollouts, internals):
            calls.append(("update", self.weight()))

        def weight(self):
            return float(next(t.policy.model.parameters()).detach().double().sum())

    t = trainer(tmp_path / "r", Recorder(), steps=2, eval_every=9)
    t.run()
    names = [name for name, _ in calls]
    assert names[names.index("advantages") :][:3] == ["advantages", "values", "update"]
    steps = [weight for name, weight in calls if name in ("advantages", "update")]
    assert steps[0] == steps[1] != steps[2] == steps[3]


def test_held_out_problems_are_never_trained_on(tmp_path):
    seen = []

    class Watching(ToyTask):
        def sample(self, n, seed, exclude=()):
            problems = super().sample(n, seed % 3, exclude)  # few different problems: overlaps are certain
            seen.append([p.compact for p in problems])
            return problems

    t = trainer(tmp_path / "r", task=Watching())
    t.run()
    held_out = {p.compact for p in t.held_out}
    assert (
        len(seen) == 9 and set(seen[0]) == held_out and seen[1:5] == seen[5:]
    )  # those of all steps are looked at before
    assert not held_out & {c for step in seen[1:] for c in step}


def test_step_seeds_differ():
    seeds = {step_seed(s, i, w) for s in range(20) for i in range(20) for w in ("problems", "responses")}
    assert len(seeds) == 800


def test_seeds_repeat_and_differ(tmp_path):
    a, b, c = (trainer(tmp_path / n, seed=s).run() for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert_same_run(a.folder, b.folder)
    assert timeless(a.metrics) != timeless(c.metrics)


@pytest.mark.parametrize("name", sorted(pl.BASELINES))
def test_every_baseline_learns(tmp_path, name):
    """Half of the toy responses are right at the start; two dozen steps repair many of the others."""
    settings = dict(steps=25, prompts=32, eval_prompts=80, eval_every=25, learning_rate=2e-2)
    record = trainer(tmp_path / "r", name, **settings).run()
    assert record.series("accuracy")[1][0] < 0.7
    assert record.lift() > 0.15  # 5 standard errors of 240 responses, which share their random numbers


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_first_update_is_a_step_of_adamw_on_the_policy_gradient(tmp_path, aggregation):
    """One mini-batch, one step: the weights equal those of a plain loop over -A log pi."""
    record = {}

    class Keep(pl.baselines.RLOO):
        def advantages(self, rollouts, internals):
            record["rollouts"], record["a"] = rollouts, super().advantages(rollouts, internals)
            return record["a"]

    t = trainer(tmp_path / "r", Keep(), steps=1, minibatches=1, eval_every=9, aggregation=aggregation,
                max_grad_norm=0.05, weight_decay=0.1)  # fmt: skip
    t.run()
    policy = tiny_policy()
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-2, weight_decay=0.1)
    rollouts, loss = record["rollouts"], 0.0
    for i in range(6):
        for j in range(2):
            n, prompt = int(rollouts.lengths[i, j]), rollouts.prompt_ids[i]
            tokens = rollouts.response_ids[i, j, :n]
            logits = policy.model(input_ids=torch.tensor([prompt + tokens.tolist()])).logits[0, len(prompt) - 1 : -1]
            logprob = logits.log_softmax(-1)[torch.arange(n), tokens].sum()
            scale = 1 / rollouts.tokens if aggregation == "token_mean" else 1 / (12 * n)
            loss = loss - record["a"][i, j] * logprob * scale
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 0.05)
    optimizer.step()
    assert norm > 0.05
    assert read_metrics(tmp_path / "r")[1]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-3)
    start = dict(tiny_policy().model.named_parameters())
    for (name, found), expected in zip(t.policy.model.named_parameters(), policy.model.parameters(), strict=True):
        moved, should = (found - start[name]).flatten(), (expected - start[name]).flatten()
        # Adam's first step is about +-lr by the sign of the gradient: tiny gradients may round either way
        assert ((moved - should).abs() < 1e-4).double().mean() > 0.98, name


class Keeps(pl.baselines.RLOO):
    """RLOO that keeps what it was given."""

    def advantages(self, rollouts, internals):
        self.rollouts, self.taken = rollouts, super().advantages(rollouts, internals)
        return self.taken


def plain_distributions(policy, rollouts) -> list[torch.Tensor]:
    """Log-probabilities of all tokens where each response's were sampled, row by row, (length, V), without a batch."""
    found = []
    with torch.no_grad():
        for i, prompt in enumerate(rollouts.prompt_ids):
            for ids, n in zip(rollouts.response_ids[i].tolist(), rollouts.lengths[i].tolist(), strict=True):
                logits = policy.model(input_ids=torch.tensor([prompt + ids[:n]])).logits[0, len(prompt) - 1 : -1]
                found.append(logits.log_softmax(-1))
    return found


def plain_logprobs(policy, rollouts) -> torch.Tensor:
    """(P * M, T), 0 at padding."""
    kept, ids = torch.zeros_like(rollouts.logprobs.flatten(0, 1)), rollouts.response_ids.flatten(0, 1)
    for row, logprobs in enumerate(plain_distributions(policy, rollouts)):
        kept[row, : len(logprobs)] = logprobs.gather(1, ids[row, : len(logprobs), None])[:, 0]
    return kept


def test_second_update_of_a_step_is_clipped_by_the_bounds_of_the_config(tmp_path):
    """The mini-batches' loss and clip fraction, each against the policy as it was before that update."""
    bounds, policies, baseline = dict(clip_low=0.05, clip_high=0.4, dual_clip=1.5), [], Keeps()
    t = trainer(tmp_path / "r", baseline, steps=1, eval_every=9, learning_rate=3e-2, max_grad_norm=1e9, **bounds)
    step = t.optimizer.step
    t.optimizer.step = lambda: (policies.append(copy.deepcopy(t.policy)), step())
    metrics = t.run().metrics[1]
    rollouts, advantages = baseline.rollouts, baseline.taken.flatten()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(step_seed(0, 1, "mini-batches")))
    mask, old, found = rollouts.mask.flatten(0, 1), plain_logprobs(policies[0], rollouts), []
    for policy, prompts in zip(policies, order.tensor_split(2), strict=True):
        rows = (prompts[:, None] * 2 + torch.arange(2)).flatten()
        new, weights = plain_logprobs(policy, rollouts)[rows], mask[rows] / mask[rows].sum()
        found.append(clipped_surrogate(new, old[rows], advantages[rows], weights, **bounds))
    ratio, a = (new - old[rows]).exp()[mask[rows]], advantages[rows][:, None].expand_as(new)[mask[rows]]
    for active in (ratio[a < 0] < 0.8, ratio[a < 0] > 1.5, ratio[a > 0] > 1.4):
        assert active.any()  # each bound holds a token, so that another would show
    assert metrics["loss"] == pytest.approx(sum(float(loss) for loss, _ in found) / 2, rel=1e-4)
    assert [float(share) for _, share in found][0] == 0 < metrics["clip_fraction"]
    assert metrics["clip_fraction"] == pytest.approx(float(found[1][1]) / 2, abs=1e-6)


def test_entropy_and_length_are_those_of_the_whole_responses(tmp_path, bundled):
    """Of the bundled policy's, which reason before they answer."""
    baseline, policy = Keeps(), copy.deepcopy(bundled)
    task, sizes = pl.load_task("chain_sum"), dict(eval_prompts=1, max_new_tokens=24)
    metrics = trainer(tmp_path / "r", baseline, task=task, policy=policy, steps=1, **sizes).run().metrics[1]
    rows = plain_distributions(bundled, baseline.rollouts)
    entropies = [-(logprobs.exp() * logprobs).sum(-1).mean().item() for logprobs in rows]
    assert metrics["entropy"] == pytest.approx(np.mean(entropies), rel=1e-3)
    lengths = [len(logprobs) for logprobs in rows]
    assert metrics["response_length"] == pytest.approx(np.mean(lengths)) and len(set(lengths)) > 1


def test_responses_to_learn_from_have_the_temperature_of_the_config(tmp_path):
    baseline = Keeps()
    trainer(tmp_path / "r", baseline, steps=1, temperature=0.5).run()
    assert baseline.rollouts.temperature == 0.5


class OnePush(pl.Baseline):
    """Advantages at the first step, zeros after it: then the KL penalty alone moves the policy."""

    name = "one_push"
    seen: list

    def advantages(self, rollouts, internals):
        self.seen = [*getattr(self, "seen", []), rollouts]
        return (rollouts.rewards - 0.5) * (len(self.seen) == 1)


@pytest.mark.parametrize("kl", [0.0, 0.7])
def test_kl_pulls_towards_the_policy_of_the_start(tmp_path, kl):
    """The gradient of the second step is that of kl times k3 against the untouched starting weights."""
    baseline, moved, gradients = OnePush(), [], []
    t = trainer(tmp_path / "r", baseline, steps=2, minibatches=1, kl=kl, eval_every=9, max_grad_norm=1e9)
    step = t.optimizer.step

    def watched():
        moved.append({k: v.clone() for k, v in t.policy.model.state_dict().items()})
        gradients.append([p.grad.clone() for p in t.policy.model.parameters()])
        step()

    t.optimizer.step = watched
    t.run()
    policy, reference, rollouts, loss = tiny_policy(), tiny_policy(), baseline.seen[1], 0.0
    policy.model.load_state_dict(moved[1])
    for i in range(6):
        for j in range(2):
            n, prompt = int(rollouts.lengths[i, j]), rollouts.prompt_ids[i]
            tokens = rollouts.response_ids[i, j, :n]
            logprobs, start = (
                p.model(input_ids=torch.tensor([prompt + tokens.tolist()]))
                .logits[0, len(prompt) - 1 : -1]
                .log_softmax(-1)[torch.arange(n), tokens]
                for p in (policy, reference)
            )
            d = start.detach() - logprobs
            loss = loss + kl * (d.exp() - d - 1).sum() / rollouts.tokens
    loss.backward()
    assert read_metrics(tmp_path / "r")[2]["loss"] == pytest.approx(loss.item(), rel=1e-3, abs=1e-6)
    assert (loss.item() > 1e-3) == (kl > 0)
    for found, p in zip(gradients[1], policy.model.parameters(), strict=True):
        assert torch.allclose(found, p.grad, rtol=1e-3, atol=1e-3 * float(p.grad.abs().max()) + 1e-7)


# --- resume --------------------------------------------------------------------------------------


def test_resume_from_every_moment_at_which_a_kill_can_come(tmp_path, monkeypatch):
    """The folder as it is before and after each file operation of a run, each gone on with."""
    states = []

    def snapshot():
        if whole.exists():
            states.append(tmp_path / f"state-{len(states)}")
            shutil.copytree(whole, states[-1])

    def watched(function):
        def call(*args, **kwargs):
            snapshot()
            result = function(*args, **kwargs)
            snapshot()
            return result

        return call

    whole = tmp_path / "whole"
    settings = dict(steps=3, checkpoint_every=2, eval_every=2, kl=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(checkpoints, "save_file", watched(checkpoints.save_file))
        patch.setattr(shutil, "rmtree", watched(shutil.rmtree))
        patch.setattr(pl.Trainer, "_record", watched(pl.Trainer._record))
        trainer(whole, **settings).run()
    assert len(states) > 30
    contents = {}
    for state in states:  # equal folders once
        key = tuple((str(f.relative_to(state)), f.read_bytes()) for f in sorted(state.rglob("*")) if f.is_file())
        contents.setdefault(key, state)
    assert len(contents) > 20
    for state in contents.values():
        trainer(state, resume=(state / "config.json").is_file(), **settings).run()
        assert_same_run(whole, state)


def test_resume_after_a_line_of_metrics_was_cut_off(tmp_path):
    trainer(tmp_path / "whole").run()
    trainer(tmp_path / "cut", steps=2).run()
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as f:
        f.write('{"step": 3, "rew')
    trainer(tmp_path / "cut", resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("name", sorted(pl.BASELINES))
def test_every_baseline_resumes_bit_for_bit(tmp_path, name):
    trainer(tmp_path / "whole", name).run()
    trainer(tmp_path / "cut", name, steps=2).run()
    record = trainer(tmp_path / "cut", name, resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert record.metrics[-1]["responses"] >= record.metrics[-1]["step"] * 6


def test_tokens_that_a_baseline_asked_for_on_top_are_counted(tmp_path):
    runs = {name: trainer(tmp_path / name, name).run().metrics[-1] for name in ("rloo", "oracle", "remax", "dapo")}
    assert runs["rloo"]["responses"] == runs["oracle"]["responses"] == 4 * 6 * 2
    assert runs["remax"]["responses"] == 4 * 6 * 3
    assert runs["dapo"]["responses"] > 4 * 6 * 2 and runs["dapo"]["tokens"] > runs["rloo"]["tokens"]


def test_advantages_per_token_weigh_tokens(tmp_path):
    """An advantage of 1 at the first token alone: the update is that of the first tokens' log-probabilities."""

    class First(pl.Baseline):
        name = "first"

        def advantages(self, rollouts, internals):
            a = torch.zeros(rollouts.response_ids.shape)
            a[..., 0] = 1
            return a

    class Same(First):
        def advantages(self, rollouts, internals):
            return torch.ones_like(rollouts.rewards)

    norms = {}
    for cls, limit in ((First, 6), (Same, 6), (First, 1), (Same, 1)):
        run = trainer(tmp_path / f"{cls.__name__}-{limit}", cls(), max_new_tokens=limit, steps=1).run()
        assert "variance_reduction" not in run.metrics[1] or cls is Same
        norms[cls, limit] = run.metrics[1]["gradient_norm"]
    assert norms[First, 1] == norms[Same, 1]  # one token: the same thing
    assert norms[First, 6] != pytest.approx(norms[Same, 6], rel=1e-3)


def test_a_finished_run_can_be_made_longer(tmp_path):
    trainer(tmp_path / "whole", steps=6).run()
    # steps=4 evaluates and saves at 4 anyway
    trainer(tmp_path / "longer", steps=4).run()
    longer = trainer(tmp_path / "longer", steps=6, resume=True)
    there = []
    longer.on_step = lambda metrics: there.append((tmp_path / "longer" / "policy").exists())
    record = longer.run()
    assert there == [True, True], "until more is saved, its old final weights are its last"
    assert_same_run(tmp_path / "whole", tmp_path / "longer")
    whole, longer = ((tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("whole", "longer"))
    assert whole == longer
    assert record.config["train"]["steps"] == 6
    before = (tmp_path / "longer" / "metrics.jsonl").read_bytes()
    trainer(tmp_path / "longer", steps=6, resume=True).run()  # nothing left to do
    assert (tmp_path / "longer" / "metrics.jsonl").read_bytes() == before


COMMAND = [
    "train", "--prompts", "9", "--minibatches", "2", "--max-new-tokens", "48", "--eval-every", "2",
    "--eval-prompts", "6", "--eval-responses", "2", "--checkpoint-every", "2", "--set", "warmup=1",
]  # fmt: skip


def start(out, *more) -> subprocess.Popen:
    program = [sys.executable, "-m", "poise_lab.cli", *COMMAND, "--out", str(out), *more]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(process, out, n):
    """Wait until n lines of metrics are there."""
    for _ in range(12000):
        if (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").read_text().count("\n") >= n:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("the run does not get on")


def test_kill_9_and_resume_on_the_command_line(tmp_path):
    """A process that is killed while it trains, gone on with by another, against a run in one piece."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with start(killed, "--steps", "7") as process:
        wait_for_steps(process, killed, 4)
        process.send_signal(signal.SIGKILL)
    assert 4 <= len(read_metrics(killed)) < 8  # it really was stopped on its way
    assert main([*COMMAND, "--steps", "7", "--out", str(killed), "--resume"]) == 0
    assert main([*COMMAND, "--steps", "7", "--out", str(whole)]) == 0
    assert_same_run(whole, killed)
    assert any(m["gradient_norm"] > 0 for m in read_metrics(whole)[1:])


def test_interrupt_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "r"
    with start(out, "--steps", "500") as process:
        wait_for_steps(process, out, 2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr and "--resume" in stdout and "saved" in stdout
    last = read_metrics(out)[-1]["step"]
    assert 1 <= last < 500
    assert (out / "checkpoints" / f"step-{last:06d}" / "state.json").is_file()
    assert main([*COMMAND, "--out", str(out), "--steps", str(last + 1), "--resume"]) == 0
    assert [m["step"] for m in read_metrics(out)] == list(range(last + 2))


def test_interrupt_after_a_step_is_that_of_the_next(tmp_path, monkeypatch):
    """Between the checkpoint of a step and the end of its loop: what is called saved is saved."""
    run, postfix = trainer(tmp_path / "r", steps=5), pl.Trainer._postfix

    def interrupting(self):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return postfix(self)

    monkeypatch.setattr(pl.Trainer, "_postfix", interrupting)
    last = run.run().metrics[-1]["step"]
    assert last == 3 and (run.out / "checkpoints" / f"step-{last:06d}" / "state.json").is_file()


def test_interrupt_inside_a_step_finishes_the_step(tmp_path):
    """What was done before the resume equals a run that was never interrupted."""

    def interrupt(metrics):
        if metrics["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    trainer(tmp_path / "whole").run()
    handler = signal.getsignal(signal.SIGINT)
    record = trainer(tmp_path / "r", on_step=interrupt, checkpoint_every=99).run()
    assert signal.getsignal(signal.SIGINT) is handler
    assert not record.finished and record.metrics[-1]["step"] == 2
    trainer(tmp_path / "r", resume=True, checkpoint_every=99).run()
    assert timeless(read_metrics(tmp_path / "r")) == timeless(read_metrics(tmp_path / "whole"))


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["model", "optimizer", "baseline", "state"])
def test_damaged_checkpoint(tmp_path, damaged):
    trainer(tmp_path / "r").run()
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    (file,) = (tmp_path / "r" / "checkpoints" / "step-000004").glob(f"{damaged}.*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(pl.PoiseLabError, match="checkpoint .*step-000004 is damaged") as e:
        trainer(tmp_path / "r", resume=True)
    assert "\n" not in str(e.value)
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(file.parent)  # what the message says
    trainer(tmp_path / "r", resume=True).run()
    assert read_metrics(tmp_path / "r")[-1]["step"] == 4
    trainer(tmp_path / "whole").run()
    assert_same_run(tmp_path / "whole", tmp_path / "r")


def test_used_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(pl.PoiseLabError, match="is in use already"):
        trainer(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(pl.PoiseLabError, match="is in use already"):
        trainer(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    trainer(tmp_path / "empty")


@pytest.mark.parametrize("locks", [files.fcntl, None], ids=["folder", "file"])
def test_two_starts_at_once_do_not_get_one_folder(tmp_path, monkeypatch, locks):
    """Both have seen it empty: the second comes while the first writes config.json."""
    write = runs.write_text

    def second(path, text):
        with pytest.raises(pl.PoiseLabError, match="is being written by another process"):
            trainer(tmp_path / "r", learning_rate=1.0)
        write(path, text)

    monkeypatch.setattr(files, "fcntl", locks)
    monkeypatch.setattr(runs, "write_text", second)
    trainer(tmp_path / "r")
    assert json.loads((tmp_path / "r" / "config.json").read_text())["train"]["learning_rate"] != 1.0


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(pl.PoiseLabError, match="cannot be written"):
        trainer(tmp_path / "file" / "run")


def test_nothing_to_resume(tmp_path):
    with pytest.raises(pl.PoiseLabError, match="nothing to resume"):
        trainer(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        (dict(seed=1), "train.seed is 0 there and 1 here"),
        (dict(learning_rate=1.0), "train.learning_rate"),
        (dict(baseline="rloo"), "baseline"),
        (dict(policy=tiny_policy("llama")), "policy"),
        (dict(task=pl.load_task("chain_sum")), "task"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_another_config_at_resume(tmp_path, changes, path):
    trainer(tmp_path / "r", steps=1).run()
    before = {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()}
    with pytest.raises(pl.PoiseLabError, match=f"belongs to another run: {path}"):
        trainer(tmp_path / "r", resume=True, **changes)
    assert {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()} == before


def test_a_run_is_not_made_shorter_and_a_refused_resume_changes_nothing(tmp_path):
    trainer(tmp_path / "r").run()
    before = {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()}
    with pytest.raises(pl.PoiseLabError, match="has 4 steps already; it can be made longer, and not shorter"):
        trainer(tmp_path / "r", resume=True, steps=2)
    weights = tmp_path / "r" / "checkpoints" / "step-000004" / "model.safetensors"
    weights.write_bytes(b"cut off")
    with pytest.raises(pl.PoiseLabError, match="is damaged"):
        trainer(tmp_path / "r", resume=True, steps=9)
    after = {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()}
    assert after == before | {weights: b"cut off"}


def test_a_checkpoint_that_does_not_fit_is_not_called_damaged(tmp_path):
    class Reads(Median):
        def load_state_dict(self, state):
            state["weight"]

    trainer(tmp_path / "r", Median(), steps=2).run()
    with pytest.raises(pl.PoiseLabError, match="does not fit: its baseline cannot be read .KeyError") as error:
        trainer(tmp_path / "r", Reads(), resume=True)
    assert "damaged" not in str(error.value) and "delete" not in str(error.value)


def test_folders_beside_the_checkpoints_are_not_checkpoints(tmp_path):
    trainer(tmp_path / "r", steps=2).run()
    saved = tmp_path / "r" / "checkpoints"
    own = [saved / "step-000002-best1", saved / "step-000002 2", saved / "step-9"]
    for folder in own:
        shutil.copytree(saved / "step-000002", folder)
    trainer(tmp_path / "r", resume=True).run()
    assert all(folder.is_dir() for folder in own)
    trainer(tmp_path / "whole").run()
    for folder in own:
        shutil.rmtree(folder)
    assert_same_run(tmp_path / "r", tmp_path / "whole")


@pytest.mark.parametrize("locks", [files.fcntl, None], ids=["folder", "file"])
def test_two_processes_do_not_write_one_run(tmp_path, monkeypatch, locks):
    """A lock is held while a run is trained and while it is taken up; a Trainer that others have overtaken says so.

    Where a system locks no folders, it is a file in it.
    """
    monkeypatch.setattr(files, "fcntl", locks)
    trainer(tmp_path / "r", steps=2).run()
    late = trainer(tmp_path / "r", resume=True)
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    with files.only_writer(tmp_path / "r"):
        with pytest.raises(pl.PoiseLabError, match="is being written by another process"):
            late.run()
        with pytest.raises(pl.PoiseLabError, match="is being written by another process"):
            trainer(tmp_path / "r", resume=True)
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before
    trainer(tmp_path / "r", resume=True).run()
    with pytest.raises(pl.PoiseLabError, match="has been written by another; make the Trainer anew"):
        late.run()
    assert [m["step"] for m in read_metrics(tmp_path / "r")] == [0, 1, 2, 3, 4]


def test_steps_out_of_order_are_a_damaged_record(tmp_path):
    trainer(tmp_path / "r", steps=2).run()
    metrics = tmp_path / "r" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + json.dumps({"step": 2}) + "\n")
    with pytest.raises(pl.PoiseLabError, match="is damaged: step 2 stands behind step 2"):
        pl.read_run(tmp_path / "r")


def test_gradients_that_others_have_left_are_no_part_of_the_first_update(tmp_path):
    used = tiny_policy()
    used.model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    trainer(tmp_path / "used", policy=used).run()
    trainer(tmp_path / "fresh").run()
    assert_same_run(tmp_path / "used", tmp_path / "fresh")


def test_an_interrupt_before_the_first_step_leaves_the_folder_free(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("poise_lab.trainer.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "r").run()
    monkeypatch.undo()
    trainer(tmp_path / "r").run()


def assert_named(error, step, checkpoint, folder):
    message = str(error.value)
    assert f"step {step}: " in message and "\n" not in message
    assert f"the last good checkpoint is {folder / 'checkpoints' / f'step-{checkpoint:06d}'}" in message
    saved = load_file(folder / "checkpoints" / f"step-{checkpoint:06d}" / "model.safetensors")
    assert all(torch.isfinite(v).all() for v in saved.values())


def test_nan_loss_names_the_step_and_the_last_good_checkpoint(tmp_path):
    class Poisoned(pl.baselines.RLOO):
        def update(self, rollouts, internals):
            if t.step == 2:
                with torch.no_grad():
                    t.policy.model.lm_head.weight[7] = float("nan")

    t = trainer(tmp_path / "r", Poisoned(), checkpoint_every=1)
    with pytest.raises(NotFiniteError.__base__, match="loss is nan|gradient norm") as e:
        t.run()
    assert_named(e, 3, 2, tmp_path / "r")
    assert read_metrics(tmp_path / "r")[-1]["step"] == 2


def test_weights_that_overflow_are_never_a_checkpoint(tmp_path):
    t = trainer(tmp_path / "r", "rloo", checkpoint_every=1, minibatches=1)
    step = t.optimizer.step

    def overflowing():
        step()
        if t.step == 1:
            with torch.no_grad():
                next(t.policy.model.parameters()).fill_(float("inf"))

    t.optimizer.step = overflowing
    with pytest.raises(pl.PoiseLabError, match="not finite") as e:
        t.run()
    assert_named(e, 2, 1, tmp_path / "r")


def test_a_huge_learning_rate_stops_with_one_sentence(tmp_path):
    """Within the first step there is no good checkpoint but the start, and the folder is free again."""
    with pytest.raises(pl.PoiseLabError, match=r"step 1: .*; start a new run with a lower learning rate") as e:
        trainer(tmp_path / "r", "none", learning_rate=1e37, checkpoint_every=1, steps=6).run()
    assert "checkpoint" not in str(e.value) and not (tmp_path / "r").exists()


def test_broken_start_weights(tmp_path):
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(pl.PoiseLabError, match="not finite"):
        trainer(tmp_path / "r", policy=policy).run()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [(dict(max_new_tokens=200), "longer than the context"), (dict(layer=7), "has layers 0 to 2")],
)
def test_settings_that_do_not_fit_the_policy_leave_no_run_behind(tmp_path, changes, message):
    with pytest.raises(pl.PoiseLabError, match=message):
        trainer(tmp_path / "r", **changes).run()
    assert not (tmp_path / "r").exists()
    trainer(tmp_path / "r", steps=1).run()


NUMBERS = [f.name for f in dataclasses.fields(pl.TrainConfig) if f.name != "aggregation"]
WRONG = (True, None, "1", [1], float("nan"), float("inf"), -float("inf"), -1e-9, -1)


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_field_refuses_what_it_may_not_be(name, value):
    """Every number is finite and has a lower bound, so a field whose annotation names none fails here."""
    with pytest.raises(pl.PoiseLabError) as e:
        pl.TrainConfig(**{name: value})
    assert re.match(rf"{name}=.*; it must be a (whole )?number", str(e.value)) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *((dict([(name, 0)]), f"{name}=0; it must be a whole number, at least 1") for name in NUMBERS
          if type(getattr(pl.TrainConfig(), name)) is int and name not in ("seed", "layer")),
        *((dict([(name, 0)]), f"{name}=0; it must be a number above") for name in
          ("learning_rate", "clip_low", "clip_high", "dual_clip", "max_grad_norm", "temperature")),
        *((dict([(f.name, 2.5)]), f"{f.name}=2.5; it must be a whole number")
          for f in dataclasses.fields(pl.TrainConfig) if type(f.default) is int),
        (dict(prompts=2, minibatches=3), "2 prompts cannot be split into 3 mini-batches"),
        (dict(aggregation="sum"), "unknown aggregation 'sum'; known: sequence_mean, token_mean"),
        (dict(aggregation=1), "aggregation=1; it must be a text"),
        (dict(clip_low=1), "clip_low=1; it must be a number above 0 and below 1"),
        (dict(dual_clip=1.0), "dual_clip=1.0; it must be a number above 1"),
    ],
)  # fmt: skip
def test_bad_config(changes, message):
    with pytest.raises(pl.PoiseLabError, match=message):
        pl.TrainConfig(**changes)


def test_numbers_are_kept_as_python_has_them():
    config = pl.TrainConfig(kl=0, learning_rate=np.float64(1e-3), steps=np.int64(7), layer=0, seed=0, weight_decay=0)
    assert config == pl.TrainConfig(learning_rate=1e-3, steps=7, layer=0)
    assert json.dumps(dataclasses.asdict(config)) == json.dumps(
        dataclasses.asdict(pl.TrainConfig(learning_rate=1e-3, steps=7, layer=0))
    )


@pytest.mark.parametrize("at", [1, 2])
def test_a_step_that_fails(tmp_path, at):
    """Before the first step was finished the folder is free again; after it, the run is kept."""

    class Wrong(pl.Baseline):
        name = "wrong"

        def advantages(self, rollouts, internals):
            return (rollouts.rewards - 0.5)[: len(rollouts) - (t.step == at - 1)]

    t = trainer(tmp_path / "r", Wrong())
    with pytest.raises(pl.PoiseLabError, match="must give finite advantages"):
        t.run()
    assert (tmp_path / "r").exists() == (at == 2)
    if at == 2:
        assert [c.name for c in checkpoints.saved(tmp_path / "r" / "checkpoints")] == ["step-000000"]
        assert [m["step"] for m in read_metrics(tmp_path / "r")] == [0, 1]
    else:
        trainer(tmp_path / "r", steps=1).run()


def test_a_run_folder_that_is_a_link(tmp_path):
    (tmp_path / "place").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "place", target_is_directory=True)
    with pytest.raises(pl.PoiseLabError, match="has layers 0 to 2"):
        trainer(link, layer=7).run()
    assert link.is_symlink() and not any((tmp_path / "place").iterdir())
    trainer(link, steps=1).run()
    trainer(link, steps=2, resume=True).run()
    assert link.is_symlink() and pl.read_run(tmp_path / "place").finished
    with pytest.raises(pl.PoiseLabError, match="are one run"):
        pl.compare([pl.read_run(link), pl.read_run(tmp_path / "place")])


@pytest.mark.parametrize("lines", [4, 3, 1, 0])
def test_metrics_that_end_before_the_checkpoint(tmp_path, lines):
    """Checkpoints of steps 2 and 4: the run goes on from the one that the metrics reach, and repeats no step."""
    trainer(tmp_path / "whole", steps=5).run()
    trainer(tmp_path / "cut").run()
    metrics = tmp_path / "cut" / "metrics.jsonl"
    kept = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(kept[:lines]))
    if lines < 3:
        with pytest.raises(pl.PoiseLabError, match="ends before the checkpoint .*step-000002"):
            trainer(tmp_path / "cut", resume=True, steps=5)
        assert metrics.read_text() == "".join(kept[:lines])
        return
    resumed = trainer(tmp_path / "cut", resume=True, steps=5)
    assert resumed.step == 2
    resumed.run()
    assert [m["step"] for m in read_metrics(tmp_path / "cut")] == [0, 1, 2, 3, 4, 5]
    assert timeless(read_metrics(tmp_path / "cut")) == timeless(read_metrics(tmp_path / "whole"))


def test_a_damaged_line_of_metrics(tmp_path):
    trainer(tmp_path / "r", steps=1).run()
    (tmp_path / "r" / "metrics.jsonl").write_text('{"step": 0\n{"step": 1}\n')
    with pytest.raises(pl.PoiseLabError, match="metrics.jsonl is damaged"):
        pl.read_run(tmp_path / "r")


@pytest.mark.parametrize("reward", [None, float("nan"), "right", -0.1, 2])
def test_own_rewards_that_are_none(tmp_path, monkeypatch, reward):
    monkeypatch.setattr(ToyProblem, "reward", lambda self, text: reward)
    sentence = (
        rf"task '(even|odd)' gave a response the reward {re.escape(repr(reward))}; it must be a number from 0 to 1"
    )
    with pytest.raises(pl.PoiseLabError, match=sentence):
        trainer(tmp_path / "r").run()
    assert not (tmp_path / "r").exists()


DATED = """{{ strftime_now('%d %b %Y') }}{{ strftime_now( "/%Y" ) }}: {% for m in messages %}{{ m['content'] }}{% endfor %}"""


def test_a_chat_template_that_prints_the_date_is_no_other_run_tomorrow():
    """transformers gives templates a clock (`strftime_now`); a resumed run would have other prompts every day."""
    policy = tiny_policy()
    policy.wording, policy.tokenizer.chat_template = "question", DATED
    assert policy.tokenizer.decode(policy.prompt_ids(ToyProblem("2+2="))) == "26 Jul 2024/2024: 2+2="
    today = policy.tokenizer.apply_chat_template([{"role": "user", "content": "2+2="}], tokenize=False)
    assert datetime.date.today().strftime("%d %b %Y") in today


# --- weights that are not trained, and gradient checkpointing ------------------------------------


def partly_frozen():
    policy = tiny_policy()
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("layers.1" in name)
    return policy


def test_frozen_weights_stay_and_are_not_saved(tmp_path):
    """As with an adapter: only what requires a gradient is stepped on, checked and saved; a resume is the same run."""
    t = trainer(tmp_path / "whole", policy=partly_frozen(), weight_decay=0.1)
    t.run()
    start = dict(tiny_policy().model.named_parameters())
    moved = {name for name, p in t.policy.model.named_parameters() if not torch.equal(p, start[name])}
    trained = {name for name, p in t.policy.model.named_parameters() if p.requires_grad}
    assert moved == trained and len(trained) < len(start)
    last = tmp_path / "whole" / "checkpoints" / "step-000004"
    assert set(load_file(last / "model.safetensors")) == trained
    assert {key.rpartition("/")[0] for key in load_file(last / "optimizer.safetensors")} == trained
    trainer(tmp_path / "cut", policy=partly_frozen(), weight_decay=0.1, steps=2).run()
    trainer(tmp_path / "cut", policy=partly_frozen(), weight_decay=0.1, resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(pl.PoiseLabError, match="does not fit"):  # other weights than those that were saved
        trainer(tmp_path / "cut", weight_decay=0.1, resume=True)


def test_a_policy_without_weights_to_train(tmp_path):
    policy = tiny_policy()
    policy.model.requires_grad_(False)
    with pytest.raises(pl.PoiseLabError, match="has no weights to train"):
        trainer(tmp_path / "r", policy=policy)
    assert not (tmp_path / "r").exists()


# --- an own baseline -----------------------------------------------------------------------------


class Median(pl.Baseline):
    """The example of the docstring."""

    name = "median"

    def advantages(self, rollouts, internals):
        return rollouts.rewards - rollouts.rewards.median()


def test_own_baseline(tmp_path):
    record = trainer(tmp_path / "r", Median()).run()
    assert record.finished and record.label == "median x2"
    trainer(tmp_path / "short", Median(), steps=2).run()
    trainer(tmp_path / "short", Median(), resume=True).run()
    assert_same_run(tmp_path / "r", tmp_path / "short")


def test_own_baseline_with_one_response(tmp_path):
    record = trainer(tmp_path / "r", Median(responses=1)).run()
    assert record.finished and "variance_reduction_rloo" not in record.metrics[-1]


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda r: r.mean(1), r"shape \(6,\)"), (lambda r: r * float("nan"), r"shape \(6, 2\)"), (lambda r: r[:1], "shape"),
        (lambda r: r.tolist(), "list"), (lambda r: r.numpy(), "float32"), (lambda r: r > 0, "torch.bool"),
        (lambda r: None, "NoneType"),
    ],
    ids=["shape", "nan", "rows", "list", "numpy", "bool", "none"],
)  # fmt: skip
def test_own_baseline_with_wrong_advantages(tmp_path, wrong, got):
    class Wrong(pl.Baseline):
        name = "wrong"

        def advantages(self, rollouts, internals):
            return wrong(rollouts.rewards)

    with pytest.raises(pl.PoiseLabError, match=rf"'wrong' must give finite advantages of shape \(6, 2\) .*got {got}"):
        trainer(tmp_path / "r", Wrong()).run()


def test_own_baseline_with_wrong_values(tmp_path):
    class Wrong(Median):
        def values(self, rollouts, internals):
            return rollouts.rewards.mean(1)

    with pytest.raises(pl.PoiseLabError, match=r"must give finite values of shape \(5, 1\), .*got shape \(5,\)"):
        trainer(tmp_path / "r", Wrong()).run()


def test_own_baseline_with_a_state_that_cannot_be_saved(tmp_path):
    class Wrong(Median):
        def state_dict(self):
            return {"mean": 0.5}

    with pytest.raises(pl.PoiseLabError, match="baseline gives a float to save as 'mean'; it must be a tensor"):
        trainer(tmp_path / "r", Wrong()).run()


def test_own_baseline_with_a_setting_that_json_cannot_hold(tmp_path):
    class Wrong(Median):
        def settings(self):
            return super().settings() | {"weight": np.float32(1)}

    with pytest.raises(pl.PoiseLabError, match="settings of the baseline or the task cannot be written as JSON"):
        trainer(tmp_path / "r", Wrong())
    trainer(tmp_path / "r", Median())  # the folder is free


def test_baseline_without_advantages(tmp_path):
    class Empty(pl.Baseline):
        name = "empty"

    with pytest.raises(pl.PoiseLabError, match="Empty must define advantages"):
        trainer(tmp_path / "r", Empty())
    assert not (tmp_path / "r").exists()


# --- internals come with the responses -----------------------------------------------------------


@pytest.mark.parametrize("baseline", ["poise", "remax", "dapo", "spo", "ppo"])
def test_a_step_takes_no_pass_for_internals(tmp_path, monkeypatch, baseline):
    """Nor does it in a run with several calls of the sampler; what it learns from is what the pass would read."""
    passes, learned = [], []
    read = pl.trainer.read_internals
    monkeypatch.setattr(pl.trainer, "read_internals", lambda *args: passes.append(1) or read(*args))
    t = trainer(tmp_path / "r", baseline, steps=1)
    monkeypatch.setattr(t.baseline, "update", lambda rollouts, internals: learned.append((rollouts, internals)))
    t.train_step(1)
    assert passes == []
    (rollouts, internals), policy = learned[0], tiny_policy()  # the policy as it was before the step
    assert_close(internals, read(policy, rollouts, 1, 2))


def test_a_step_in_half_precision_takes_the_pass(tmp_path, monkeypatch):
    passes, policy = [], tiny_policy()
    policy.model.to(torch.bfloat16)
    read = pl.trainer.read_internals
    monkeypatch.setattr(pl.trainer, "read_internals", lambda *args: passes.append(1) or read(*args))
    trainer(tmp_path / "r", policy=policy).train_step(1)
    assert passes == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_to_train_in_half_precision_are_told_of(tmp_path, dtype, recwarn):
    policy = tiny_policy()
    policy.model.to(dtype)
    trainer(tmp_path / "half", policy=policy)
    (told,) = [w for w in recwarn if "to train" in str(w.message)]
    name = str(dtype).removeprefix("torch.")
    assert str(told.message) == (
        f"policy 'random-qwen3' has weights in {name} to train, which rounds most steps of a small learning rate away; "
        "load it in float32"
    )
    policy.model.requires_grad_(False).get_output_embeddings().float().requires_grad_(True)  # as an adapter has it
    recwarn.clear()
    trainer(tmp_path / "head", policy=policy)
    trainer(tmp_path / "whole")
    assert not [w for w in recwarn if "to train" in str(w.message)]


def test_a_run_computes_on_the_threads_of_its_policy(tmp_path, monkeypatch):
    """Also where a larger policy was loaded between its loading and its run."""
    t, asked = trainer(tmp_path / "r", steps=1), []
    monkeypatch.setattr(pl.trainer.threads, "use_for", asked.append)
    t.run()
    assert asked == [t.policy.model.num_parameters()]


# --- what a run is begun with --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["poise", "none"])
def test_a_baseline_has_one_run(tmp_path, name):
    """With what it learned in another it would begin where that ended, and seeds would not be independent."""
    baseline = pl.make_baseline(name)
    trainer(tmp_path / "a", baseline, steps=2).run()
    with pytest.raises(pl.PoiseLabError, match=r"has been given to the run .*a already, .*make one for each run"):
        trainer(tmp_path / "b", baseline)
    assert not (tmp_path / "b").exists()
    trainer(tmp_path / "a", baseline, resume=True).run()  # its own run goes on
    trainer(tmp_path / "whole", name if name == "none" else pl.make_baseline(name)).run()
    assert_same_run(tmp_path / "a", tmp_path / "whole")


@pytest.mark.parametrize("name", ["prefix", "poise", "spo", "constant", "critic"])
def test_the_same_object_goes_on_from_before_its_first_step(tmp_path, name):
    def stop(metrics):
        if metrics["step"] == 2:
            raise RuntimeError("power cut")

    settings = (
        dict(responses=2) | (dict(pool=30) if name == "spo" else {}) | (dict(warmup=1) if name == "poise" else {})
    )

    def make():
        return pl.make_baseline(name, **settings)

    trainer(tmp_path / "whole", make(), checkpoint_every=9).run()
    baseline = make()
    with pytest.raises(RuntimeError):
        trainer(tmp_path / "parts", baseline, on_step=stop, checkpoint_every=9).run()
    first, second = checkpoints.saved(tmp_path / "parts" / "checkpoints")
    assert [first.name, second.name] == ["step-000000", "step-000002"]
    shutil.rmtree(second)  # which a power cut would not have written
    trainer(tmp_path / "parts", baseline, resume=True, checkpoint_every=9).run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_reference_of_a_kl_penalty_stays_that_of_the_start(tmp_path):
    policy = tiny_policy()
    trainer(tmp_path / "r", policy=policy, steps=2, kl=1.0).run()
    with pytest.raises(pl.PoiseLabError, match="belongs to another run: starting_weights is "):
        trainer(tmp_path / "r", policy=policy, kl=1.0, resume=True)  # as training left it
    trainer(tmp_path / "r", kl=1.0, resume=True).run()


def test_a_run_goes_on_in_its_own_precision(tmp_path):
    trainer(tmp_path / "r", steps=2).run()
    policy = tiny_policy()
    policy.model.to(torch.float64)
    with pytest.raises(pl.PoiseLabError, match="dtype is 'float32' there and 'float64' here"):
        trainer(tmp_path / "r", policy=policy, resume=True)


class Records(ToyTask):
    """Its problems are known before the first step, as those of a file."""

    def __init__(self, problems):
        self.problems = problems

    def sample(self, n, seed, exclude=()):
        rest = [p for p in self.problems if p not in set(exclude)]
        if len(rest) < n:
            raise pl.PoiseLabError("too few")
        return rest[:n]


PROBLEMS = [ToyProblem(f"{i}+1") for i in range(11)]
LONG = pl.load_task([{"question": q, "answer": 1} for q in ("1" * 200, *(f"{i}+1" for i in range(40)))])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(layer=9), "layer 9 asked for, but policy 'random-qwen3' has layers 0 to 2"),
        (dict(task=Records(PROBLEMS), baseline="rloo", prompts=7), "^too few$"),
        (dict(baseline=lambda: pl.make_baseline("spo", pool=5)), "a pool of 5 problems is too small for 6 prompts"),
        (dict(task=LONG, baseline="rloo", eval_prompts=2), "a prompt of 20. tokens .* is longer"),
        (dict(policy="thinker"), "policy='thinker' is no policy; give pl.load_policy"),
        (dict(task="chain_sum"), "task='chain_sum' is no task; give pl.load_task"),
        (dict(task=ToyTask), "is no task; give pl.load_task"),
        (dict(baseline=lambda: pl.Poise), "is no baseline; give pl.make_baseline"),
    ],
    ids=["layer", "problems", "pool", "long", "policy", "task", "class of a task", "class of a baseline"],
)  # fmt: skip
def test_what_a_step_would_refuse_is_refused_at_once(tmp_path, settings, says):
    baseline = settings.pop("baseline", "poise")
    with pytest.raises(pl.PoiseLabError, match=says):
        trainer(tmp_path / "r", baseline() if callable(baseline) else baseline, **settings)
    assert not (tmp_path / "r").exists()


class Failing(ToyTask):
    """Gives no problems the n-th time that it is asked."""

    def __init__(self, n):
        self.left = n

    def sample(self, n, seed, exclude=()):
        self.left -= 1
        if not self.left:
            raise pl.PoiseLabError("no problems today")
        return super().sample(n, seed, exclude)


def test_what_a_task_refuses_in_a_step_loses_no_finished_step(tmp_path):
    """Once, and then no more: the run goes on from the step before, and is that which had none of this."""
    trainer(tmp_path / "whole", checkpoint_every=9).run()
    with pytest.raises(
        pl.PoiseLabError, match="no problems today"
    ):  # held out, a look at four steps, and three of them
        trainer(tmp_path / "parts", task=Failing(8), checkpoint_every=9).run()
    assert [c.name for c in checkpoints.saved(tmp_path / "parts" / "checkpoints")] == ["step-000000", "step-000002"]
    trainer(tmp_path / "parts", resume=True, checkpoint_every=9).run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_an_error_in_on_step_loses_no_finished_step(tmp_path):
    def stop(metrics):
        if metrics["step"] == 2:
            raise RuntimeError("no more")

    trainer(tmp_path / "whole", checkpoint_every=9).run()
    with pytest.raises(RuntimeError, match="no more"):
        trainer(tmp_path / "parts", on_step=stop, checkpoint_every=9).run()
    assert checkpoints.saved(tmp_path / "parts" / "checkpoints")[-1].name == "step-000002"
    trainer(tmp_path / "parts", resume=True, checkpoint_every=9).run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("name", ["batch_mean", "james_stein", "ev_switch", "same_rollout", "prompt_only"])
def test_one_prompt_is_too_few_for_a_mean_of_others_and_said_before_the_first_evaluation(name, tmp_path):
    seen, baseline = [], pl.make_baseline(name, responses=2 if name == "james_stein" else 1)
    with pytest.raises(pl.PoiseLabError, match=f"baseline '{name}' needs at least 2 prompts in a step, got prompts=1"):
        trainer(tmp_path / "r", baseline, on_step=seen.append, prompts=1, minibatches=1).run()
    assert not seen and pl.make_baseline("batch_mean", responses=2).least_prompts == 1


def test_a_prompt_that_comes_later_is_read_before_the_first_evaluation(tmp_path):
    class Growing(ToyTask):
        def sample(self, n, seed, exclude=()):
            problems = super().sample(n, seed, exclude)
            return [ToyProblem("a" * 200) for _ in problems] if seed == step_seed(0, 3, "problems") else problems

    seen = []
    with pytest.raises(pl.PoiseLabError, match="a prompt of 20. tokens .* is longer than the context"):
        trainer(tmp_path / "r", task=Growing(), on_step=seen.append).run()
    assert not seen


def test_a_step_that_may_have_taught_the_baseline_is_not_kept(tmp_path):
    class Moody(pl.Baseline):
        name, seen = "moody", 0

        def advantages(self, rollouts, internals):
            return rollouts.rewards - 0.5

        def update(self, rollouts, internals):
            self.seen += 1
            if self.seen == 3:
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        trainer(tmp_path / "r", Moody(), checkpoint_every=9).run()
    assert [c.name for c in checkpoints.saved(tmp_path / "r" / "checkpoints")] == ["step-000000"]


def test_the_policy_of_a_run_that_failed_is_that_of_its_last_step(tmp_path):
    trainer(tmp_path / "r", steps=2).run()
    policy = tiny_policy()
    with pytest.raises(pl.PoiseLabError, match="no problems today"):  # held out, a look, and step 3 of those to come
        trainer(tmp_path / "r", policy=policy, task=Failing(7), resume=True).run()
    assert [c.name for c in checkpoints.saved(tmp_path / "r" / "checkpoints")] == ["step-000002", "step-000003"]
    assert not (tmp_path / "r" / "policy").exists()


def test_a_run_that_left_nothing_gives_its_baseline_back(tmp_path):
    baseline = pl.make_baseline("rloo")
    with pytest.raises(pl.PoiseLabError, match="no problems today"):
        trainer(tmp_path / "r", baseline, task=Failing(6)).run()
    assert not (tmp_path / "r").exists()
    assert trainer(tmp_path / "r", baseline).run().finished


def test_a_function_that_fails_is_what_is_to_be_mended(tmp_path):
    def reward(response, record):
        return record["nothing"]

    task = pl.load_task([{"question": f"{i}+1", "answer": i + 1} for i in range(40)], verify=reward)
    with (
        pytest.warns(UserWarning, match="stopped with KeyError"),
        pytest.raises(
            pl.PoiseLabError,
            match=r"the reward function stopped with an error on 36 of the responses, .*: mend it first",
        ),
    ):
        trainer(tmp_path / "r", "rloo", task=task, eval_every=9).run()


def test_a_full_disk_is_not_written_to_again(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    t = trainer(tmp_path / "r", checkpoint_every=9)
    monkeypatch.setattr(
        t, "_sample", lambda step, sample=t._sample: sample(step) if step < 3 else (_ for _ in ()).throw(full)
    )
    with pytest.raises(OSError, match="No space left"):
        t.run()
    assert [c.name for c in checkpoints.saved(tmp_path / "r" / "checkpoints")] == ["step-000000"]
