"""Runs as users start them: the command line, accelerate, a process that is killed, the configurations under data/launch."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from launching import ROOT, environment, launch
from trl import TrlParser

import poise_lab as pl
from poise_lab import trl as module
from poise_lab.cli import main
from poise_lab.launch import RunOptions, accelerate_command, from_train_config, last_checkpoint
from poise_lab.trl import PoiseConfig

SMALL = [
    "--steps", "6", "--prompts", "8", "--minibatches", "2", "--eval-every", "3", "--eval-prompts", "4", "--eval-responses", "4",
    "--checkpoint-every", "1", "--max-new-tokens", "40", "--set", "warmup=2",
]  # fmt: skip
TRAIN = ["-m", "poise_lab.cli", "train", "--engine", "trl", *SMALL, "--out"]
CONFIGS = ROOT / "data" / "launch"


def timeless(run: pl.RunRecord) -> list[dict]:
    return [{k: v for k, v in m.items() if not k.startswith("seconds")} for m in run.metrics]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run on two processes."""
    out = tmp_path_factory.mktemp("two") / "run"
    done = launch(2, *TRAIN, out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "held-out accuracy" in done.stdout and done.stdout.count("held-out accuracy") == 1
    return pl.read_run(out)


def test_run_folder_is_like_any_other(two):
    assert two.finished and two.label == "poise x2 on trl" and two.config["processes"] == 2
    assert [m["step"] for m in two.metrics] == list(range(7))
    assert {"trl", "accelerate"} <= set(two.config["versions"])
    assert len(two.series("accuracy")[0]) == 3 and len(two.series("probe_r_fresh")[0]) == 2
    assert [m["fitted"] for m in two.metrics[1:]] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    for name in ("reward", "response_length", "gradient_norm", "variance_reduction", "tokens", "responses", "seconds"):
        assert len(two.series(name)[0]) >= 6, name
    assert two.metrics[-1]["responses"] == 6 * 16
    assert pl.compare([two])[0]["run"] == "poise x2 on trl"
    pickles = [f for f in two.folder.rglob("*") if "poise" in f.name and f.suffix not in (".json", ".safetensors")]
    assert not pickles and (last_checkpoint(two.folder) / "poise.safetensors").is_file()


def test_problems_are_those_of_the_laptop(two):
    """Same seed, same held-out problems: before training only the sampling differs between engines."""
    from poise_lab.sampler import step_seed

    task = pl.load_task(pl.TINY_TASKS)
    assert two.config["task"] == pl.TINY_TASKS and two.seed == 0
    held_out = task.sample(4, step_seed(0, 0, "held-out"))
    rollouts = pl.sample_rollouts(pl.load_policy("tiny"), held_out, 64, seed=1)
    assert two.metrics[0]["accuracy"] == pytest.approx(rollouts.rewards.mean().item(), abs=0.45)


def test_killed_process_stops_the_rest_and_the_run_resumes(two, tmp_path):
    """One of two processes is killed in the middle; the launcher ends, says why and how to go on; the resumed run is whole."""
    out = tmp_path / "run"
    with open(tmp_path / "log", "w") as log:
        started = subprocess.Popen(
            accelerate_command(2, *TRAIN, out), env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            end = time.time() + 300
            while last_checkpoint(out) is None and time.time() < end and started.poll() is None:
                time.sleep(0.1)
            workers = [
                p for p in psutil.Process(started.pid).children(recursive=True) if "poise_lab.cli" in p.cmdline()
            ]
            ranks = {p.environ().get("RANK"): p for p in workers if "RANK" in p.environ()}
            ranks["1"].kill()
            assert started.wait(timeout=90) != 0
            _, alive = psutil.wait_procs([ranks["0"]], timeout=30)
            assert not alive
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
    text = (tmp_path / "log").read_text()
    lines = [line for line in text.splitlines() if "poise-lab: " in line]
    assert lines, text[-3000:]
    assert "another process of the run was lost" in lines[0] and "--resume" in lines[0] and "checkpoint-" in lines[0]
    before = pl.read_run(out)
    assert not before.finished
    again = launch(2, *TRAIN, out, "--resume")
    assert again.returncode == 0, again.stderr[-3000:]
    run = pl.read_run(out)
    assert run.finished and [m["step"] for m in run.metrics] == list(range(7))
    assert [m["buffer_rows"] for m in run.metrics[1:]] == [16.0 * i for i in range(6)]
    # what was sampled again after the checkpoint is what the run that was never stopped had sampled
    assert timeless(run)[1:] == timeless(two)[1:]


def test_module_takes_a_file_and_flags(tmp_path):
    out = tmp_path / "run"
    done = launch(
        1, "-m", "poise_lab.trl", "--config", CONFIGS / "tiny.yaml", "--output_dir", out, "--max_steps", "4", "--eval_prompts", "4",
        "--per_device_eval_batch_size", "16", "--use_cpu", "True",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = pl.read_run(out)
    assert run.finished and len(run.metrics) == 2  # four optimizer steps on each batch: the start and one step


def test_on_the_device_of_this_machine(tmp_path):
    """Without a GPU this is the CPU again; with one it is that, and the 135M model too if it has been fetched."""
    from poise_lab.fetch import fetched

    if not torch.cuda.is_available():
        pytest.skip("no GPU here; the CPU runs are the other tests")
    policies = ["tiny"] + (["smollm2-135m"] if fetched("smollm2-135m") else [])
    for policy in policies:
        assert main(["train", "--engine", "trl", *SMALL, "--policy", policy, "--out", str(tmp_path / policy)]) == 0


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "rloo"], "engine trl has the baseline poise only, not 'rloo'"),
        (["--set", "fresh=3"], "engine trl has no setting fresh"),
        (["--set", "responses=1"], "a response without a partner has no baseline"),
        (
            ["--prompts", "5", "--minibatches", "4"],
            "10 responses cannot be split into 4 mini-batches on 1 processes evenly",
        ),
        (["--eval-responses", "1"], "engine trl needs at least 2 responses"),
        (["--policy", "nobody/nothing-of-this-name"], "could not be loaded"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_one_sentence(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["train", "--engine", "trl", "--steps", "2", "--out", str(tmp_path / "run"), *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("poise-lab: ") and message in said


def test_folder_in_use(tmp_path, capsys):
    (tmp_path / "note").write_text("mine")
    assert main(["train", "--engine", "trl", "--steps", "2", "--out", str(tmp_path)]) == 2
    assert "is in use already" in capsys.readouterr().err


def test_resume_of_another_run(two, capsys):
    assert main(["train", "--engine", "trl", *SMALL, "--seed", "1", "--out", str(two.folder), "--resume"]) == 2
    assert "belongs to another run: train.seed is 0 there and 1 here" in capsys.readouterr().err


# --- settings ------------------------------------------------------------------------------------


def test_settings_of_the_laptop_as_trl_s(tmp_path):
    config = pl.TrainConfig()
    args = from_train_config(config, tmp_path, "poise", {"responses": 4, "probe": "paper"})
    assert args.generation_batch_size == config.prompts * 4 and args.steps_per_generation == config.minibatches
    assert (args.epsilon, args.epsilon_high, args.delta) == (config.clip_low, config.clip_high, config.dual_clip)
    assert args.max_steps == config.steps * config.minibatches and args.learning_rate == config.learning_rate
    assert args.poise_probe == "paper" and args.poise_layer == config.layer and args.poise_pool == config.pool


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_ready_configurations_are_read_by_their_readers(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    text = yaml.safe_load(path.read_text())
    if "compute_environment" in text:
        config = load_config_from_file(str(path))
        assert config.num_processes >= 1 and config.distributed_type
        return
    options, args = TrlParser((RunOptions, PoiseConfig)).parse_args_and_config(
        ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu", "True", "--bf16", "False"]
    )
    assert args.max_steps > 0 and args.num_generations == 2
    assert set(text) <= set(PoiseConfig.__dataclass_fields__) | set(RunOptions.__dataclass_fields__)
    if options.policy != "tiny":
        assert text["bf16"] and args.poise_layer in (None, 19)


def test_there_is_a_configuration_for_each_way():
    names = {path.name for path in CONFIGS.glob("*.yaml")}
    assert {"one_gpu.yaml", "fsdp.yaml", "several_nodes.yaml", "qwen3-4b.yaml", "qwen3-4b-vllm-colocate.yaml",
            "qwen3-4b-vllm-server.yaml", "tiny.yaml"} <= names  # fmt: skip
    assert (CONFIGS / "README.md").is_file()
