"""Runs as users start them: the command line, accelerate, a process that is killed, the configurations under data/launch."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from launching import ROOT, environment, launch
from tokenizers import AddedToken
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging
from trl import TrlParser

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.rollouts import reasoning_ends
from poise_lab.runs import read_metrics
from poise_lab.sampler import step_seed
from poise_lab.tasks import Problem
from poise_lab.trl import PoiseConfig, PoiseTrainer
from poise_lab.trl import config as module
from poise_lab.trl.config import from_train_config
from poise_lab.trl.launch import (
    Recorder,
    RunOptions,
    batches_of,
    run,
    train,
)
from poise_lab.trl.launch import main as launch_main
from poise_lab.trl.processes import (
    ProcessLostError,
    accelerate_command,
    last_checkpoint,
    one_sentence_if_a_process_is_lost,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import tiny_policy  # noqa: E402

SMALL = [
    "--steps", "6", "--prompts", "8", "--minibatches", "2", "--eval-every", "3", "--eval-prompts", "4", "--eval-responses", "4",
    "--checkpoint-every", "1", "--max-new-tokens", "40", "--set", "warmup=2",
]  # fmt: skip
TRAIN = ["-m", "poise_lab.cli", "train", "--engine", "trl", *SMALL, "--out"]
CONFIGS = ROOT / "data" / "launch"
SHORT = dict(
    gradient_accumulation_steps=1, max_completion_length=8, report_to="none", use_cpu=True, bf16=False, logging_steps=1,
    gradient_checkpointing=False, poise_pool=2,
)  # fmt: skip


def timeless(run: pl.RunRecord) -> list[dict]:
    return [{k: v for k, v in m.items() if not k.startswith("seconds")} for m in run.metrics]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run on two processes, started by the configuration for that."""
    out = tmp_path_factory.mktemp("two") / "run"
    done = launch(2, *TRAIN, out, config=CONFIGS / "two_cpu_processes.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "held-out accuracy" in done.stdout and done.stdout.count("held-out accuracy") == 1
    return pl.read_run(out)


def test_run_folder_is_like_any_other(two):
    assert two.finished and two.label == "poise x2 on trl"
    assert (two.config["processes"], two.config["device"]) == (2, "cpu")
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


def test_problems_are_those_of_the_laptop(tmp_path, monkeypatch):
    """Same seed: the same held-out problems, and the same ones at every step."""
    config = pl.TrainConfig(
        steps=3, prompts=4, minibatches=2, seed=1, eval_prompts=4, eval_responses=2, max_new_tokens=4, layer=1, pool=2
    )
    graded = {"trl": [], "laptop": []}
    how = dict(policy="thinker", task=pl.TINY_TASKS, baseline="poise", settings={}, resume=False, quiet=True)
    for engine, asked in graded.items():
        spied = lambda problem, text, asked=asked: asked.append(problem.question) or float(len(text) % 2)  # noqa: E731
        monkeypatch.setattr(Problem, "reward", spied)
        if engine == "trl":
            train(config, out=tmp_path / "trl", **how)
        else:
            policy, task = pl.load_policy("thinker"), pl.load_task(pl.TINY_TASKS)
            baseline, out = pl.make_baseline("poise"), tmp_path / "laptop"
            pl.Trainer(policy, task, baseline, config, out=out, progress=False).run()
    first = [list(dict.fromkeys(asked)) for asked in graded.values()]  # graded at an evaluation again
    one, other = ([set(asked[i : i + 4]) for i in range(0, len(asked), 4)] for asked in first)
    assert one == other and len(one) == 1 + 3


@pytest.mark.parametrize(("processes", "killed"), [(2, 0), (2, 1), (4, 2)])
def test_killed_process_stops_the_rest_and_the_run_resumes(two, tmp_path, processes, killed):
    """One process is killed in the middle; the launcher ends, says why and how to go on; the resumed run is whole."""
    out = tmp_path / "run"
    with open(tmp_path / "log", "w") as log:
        started = subprocess.Popen(
            accelerate_command(processes, *TRAIN, out),
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            end = time.time() + 300
            while last_checkpoint(out) is None and time.time() < end and started.poll() is None:
                time.sleep(0.1)
            workers = [
                p for p in psutil.Process(started.pid).children(recursive=True) if "poise_lab.cli" in p.cmdline()
            ]
            ranks = {int(p.environ()["RANK"]): p for p in workers if "RANK" in p.environ()}
            assert sorted(ranks) == list(range(processes))
            ranks.pop(killed).kill()
            assert started.wait(timeout=90) != 0
            _, alive = psutil.wait_procs(ranks.values(), timeout=30)
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
    again = launch(processes, *TRAIN, out, "--resume")
    assert again.returncode == 0, again.stderr[-3000:]
    run = pl.read_run(out)
    assert run.finished and [m["step"] for m in run.metrics] == list(range(7))
    assert [m["buffer_rows"] for m in run.metrics[1:]] == [16.0 * i for i in range(6)]
    if processes == 2:  # what was sampled again after the checkpoint is what the run that was never stopped had sampled
        assert timeless(run)[1:] == timeless(two)[1:]


BLOCKED = """
import ctypes, sys
from pathlib import Path
from poise_lab.trl.processes import one_sentence_if_a_process_is_lost
lock = ctypes.create_string_buffer(64)
take = ctypes.CDLL(None).pthread_mutex_lock
with one_sentence_if_a_process_is_lost(Path(sys.argv[1]), 2):
    take(lock)
    print("ready", flush=True)
    take(lock)
"""


def test_a_process_blocked_outside_python_says_it_too(tmp_path):
    """As one that waits for a lost process in NCCL does: no handler of Python's runs there, and no call returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, str(tmp_path)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    (line,) = [line for line in said.splitlines() if "poise-lab: " in line]
    assert process.returncode == 143 and "another process of the run was lost" in line and "--resume" in line


def test_the_handler_of_before_is_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with one_sentence_if_a_process_is_lost(tmp_path, 2):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1


def test_module_takes_a_file_and_flags(tmp_path):
    out = tmp_path / "run"
    done = launch(
        1, "-m", "poise_lab.trl", "--config", CONFIGS / "thinker.yaml", "--output_dir", out, "--max_steps", "4", "--eval_prompts", "4",
        "--per_device_eval_batch_size", "16", "--use_cpu", "True",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = pl.read_run(out)
    assert run.finished and len(run.metrics) == 2  # four optimizer steps on each batch: the start and one step


def test_on_the_device_of_this_machine(tmp_path):
    """On a GPU where there is one, and then a policy of 135M parameters too, which is fetched for it; else on the CPU."""
    from poise_lab.models.fetch import fetch

    where, policies, env = "cpu", ["thinker"], environment()
    if torch.cuda.is_available():
        fetch("smollm2-135m")
        where, policies = "cuda", ["thinker", "smollm2-135m"]
        env["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    for policy in policies:
        out = tmp_path / policy
        done = subprocess.run(
            [sys.executable, *TRAIN, out, "--policy", policy], env=env, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stderr[-3000:]
        run = pl.read_run(out)
        assert run.finished and (run.config["device"], run.config["policy"]) == (where, policy)
        assert [m["fitted"] for m in run.metrics[1:]] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


# --- as the laptop does it -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wording", "shots", "told"),
    [
        ("compact", 0, {}),
        ("line", 0, {"system": "add"}),
        ("question", 0, {}),
        ("line", 2, {"system": "add"}),
        ("compact", 1, {}),
        ("compact", 0, {"system": "add", "template": "{system}: {question} "}),
        ("question", 0, {"template": "{{ messages[0].content }}{{ end }}", "template_args": {"end": "!"}}),
    ],
)
@pytest.mark.parametrize("said_by", ["the folder", "flags"])
def test_a_policy_is_asked_as_on_the_laptop(tmp_path, monkeypatch, wording, shots, told, said_by):
    """The same prompts token by token, the same ends, the same part of a response that counts."""
    how = dict(wording=wording, shots=shots, **told)
    policy = pl.load_policy("thinker", **how)
    policy.save(tmp_path / "policy")
    name, spoken = (str(tmp_path / "policy"), None) if said_by == "the folder" else ("thinker", {"tags": None} | how)
    seen, plain = {}, PoiseTrainer._generate_and_score_completions

    def spied(trainer, inputs):
        output = plain(trainer, inputs)
        ids = [row[mask.bool()].tolist() for row, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)]
        seen.update(ids=ids, ends=trainer.eos_token_ids, score=trainer.reward_funcs[0])
        return output

    monkeypatch.setattr(PoiseTrainer, "_generate_and_score_completions", spied)
    args = PoiseConfig(
        str(tmp_path / "run"), per_device_train_batch_size=8, max_steps=1, max_completion_length=8, report_to="none",
        use_cpu=True, bf16=False, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    made = run(RunOptions(name, "chain_sum", 4), args, None, spoken, {"max_terms": 2}).config
    assert made["task_settings"] == {"max_terms": 2}
    assert {option: made.get(option) for option in how} == (how if spoken else dict.fromkeys(how))
    task = pl.load_task("chain_sum", max_terms=2)
    held_out = task.sample(4, step_seed(args.seed, 0, "held-out"))
    problems = task.sample(4, step_seed(args.seed, 1, "problems"), exclude=held_out)
    assert seen["ids"] == [policy.prompt_ids(problem) for problem in problems for _ in range(2)]
    assert sorted(seen["ends"]) == policy.eos_token_ids and (len(seen["ends"]) > 1) == bool(shots)
    right = f"<think></think>{problems[0].answer}\n{problems[0].answer}1"
    ids = [policy.tokenizer.encode(right, add_special_tokens=False)]
    assert (
        seen["score"](completion_ids=ids, index=[0])
        == [problems[0].reward(policy.text_of(right))]
        == [float(bool(shots))]
    )


def test_a_log_of_this_engine_stays_on_this_machine(tmp_path, monkeypatch):
    """transformers begins the log by itself; it is told of the place and the name in the ways that it knows."""
    told, names = {}, ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR")
    told_by = lambda args: {**args.to_dict(), "bars": transformers_logging.is_progress_bar_enabled()}  # noqa: E731
    monkeypatch.setattr("poise_lab.trl.launch.run", lambda options, args, *_: told.update(told_by(args)))
    for name in names:  # which puts them back afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    how = dict(policy="thinker", task="chain_sum", out=tmp_path / "trl-1", resume=False, baseline="poise", settings={})
    train(pl.TrainConfig(), **how)
    assert told["report_to"] in ([], "none", ["none"]) and not any(name in os.environ for name in names)
    train(pl.TrainConfig(), **how, log="wandb")
    assert (told["report_to"], told["project"], told["run_name"]) == (["wandb"], "poise-lab", "trl-1")
    assert [os.environ[name] for name in names] == ["offline", "poise-lab", str(tmp_path / "trl-1")]
    assert told["bars"]
    train(pl.TrainConfig(), **how, quiet=True)  # nor one of saving
    assert told["disable_tqdm"] and not told["bars"] and transformers_logging.is_progress_bar_enabled()


def test_tags_that_are_special_tokens_are_graded(tmp_path, monkeypatch):
    """TRL's own text is without them; reasoning ends at the same token as on the laptop."""
    policy, seen, plain = pl.load_policy("thinker"), {}, PoiseTrainer._generate_and_score_completions
    policy.tokenizer.add_tokens([AddedToken(tag, special=True) for tag in ("[THINK]", "[/THINK]")])
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    pl.Policy(policy.model, policy.tokenizer, "p", "compact", tags=("[THINK]", "[/THINK]")).save(tmp_path / "policy")

    def spied(trainer, inputs):
        seen.update(policy=trainer._policy(), score=trainer.reward_funcs[0])
        return plain(trainer, inputs)

    monkeypatch.setattr(PoiseTrainer, "_generate_and_score_completions", spied)
    args = PoiseConfig(
        str(tmp_path / "run"), per_device_train_batch_size=4, max_steps=1, max_completion_length=8, report_to="none",
        use_cpu=True, bf16=False, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    run(RunOptions(str(tmp_path / "policy"), "chain_sum", 4), args)
    task = pl.load_task("chain_sum")
    held_out = task.sample(4, step_seed(args.seed, 0, "held-out"))
    right = task.sample(2, step_seed(args.seed, 1, "problems"), exclude=held_out)[0].answer
    texts = [f"[THINK]so[/THINK]{right}", f"so[/THINK]{right}", f"[THINK]{right}", right, f"[THINK]{right}[/THINK]0"]
    rows = [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert seen["score"](completion_ids=rows, index=[0] * 5) == [1, 1, 0, 1, 0]
    laptop = pl.load_policy(tmp_path / "policy")
    assert reasoning_ends(seen["policy"], rows) == reasoning_ends(laptop, rows) == [4, 3, -1, -1, 2 + len(right)]


def test_a_template_that_prints_the_date_prints_the_same_on_every_day(tmp_path, monkeypatch):
    policy, seen, plain = pl.load_policy("thinker"), [], PoiseTrainer._generate_and_score_completions
    policy.tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}: {{ messages[0]['content'] }}"
    policy = pl.Policy(policy.model, policy.tokenizer, "dated")
    policy.save(tmp_path / "policy")

    def spied(trainer, inputs):
        output = plain(trainer, inputs)
        masks = output["prompt_mask"].bool()
        seen.extend(row[mask].tolist() for row, mask in zip(output["prompt_ids"], masks, strict=True))
        return output

    monkeypatch.setattr(PoiseTrainer, "_generate_and_score_completions", spied)
    args = PoiseConfig(str(tmp_path / "run"), per_device_train_batch_size=4, max_steps=1, save_steps=1, **SHORT)
    run(RunOptions(str(tmp_path / "policy"), "chain_sum", 4), args)
    task = pl.load_task("chain_sum")
    held_out = task.sample(4, step_seed(args.seed, 0, "held-out"))
    problems = task.sample(2, step_seed(args.seed, 1, "problems"), exclude=held_out)
    assert seen == [policy.prompt_ids(problem) for problem in problems for _ in range(2)]
    assert policy.tokenizer.decode(seen[0]).startswith("2024-07-26: ")
    assert "strftime_now" in AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint-1").chat_template


@pytest.mark.parametrize(("steps_per_generation", "logging_steps"), [(1, 1), (2, 1), (2, 2), (1, 3), (2, 6)])
def test_rows_are_counted_however_often_the_trainer_logs(tmp_path, steps_per_generation, logging_steps):
    policy, rows, updates = tiny_policy(), 8, steps_per_generation
    args = PoiseConfig(
        str(tmp_path), per_device_train_batch_size=rows // updates, steps_per_generation=updates, max_steps=6 * updates,
        logging_steps=logging_steps, gradient_accumulation_steps=1, max_completion_length=6, report_to="none", use_cpu=True,
        bf16=False, save_strategy="no", poise_pool=2, poise_warmup=1,
    )  # fmt: skip
    counted, recorder = [0], Recorder(tmp_path, updates, rows)

    def even(completions, completion_ids, **_):
        counted.append(counted[-1] + sum(map(len, completion_ids)))
        return [float(len(text) % 2 == 0) for text in completions]

    data = Dataset.from_list([{"prompt": f"{i}+{i + 3}="} for i in range(24)])
    PoiseTrainer(policy.model, even, args, data, processing_class=policy.tokenizer, callbacks=[recorder]).train()
    metrics = read_metrics(tmp_path)
    every = max(1, logging_steps // updates)
    assert [m["step"] for m in metrics] == list(range(every, 7, every))
    assert [m["responses"] for m in metrics] == [rows * m["step"] for m in metrics]
    assert [m["tokens"] for m in metrics] == pytest.approx([counted[m["step"]] for m in metrics], abs=1)


# --- a resume repeats no step and loses none ----------------------------------------------------


def short_run(out, resume=False, **changes) -> pl.RunRecord:
    settings = dict(max_steps=4, save_steps=1, save_total_limit=3, eval_strategy="steps", eval_steps=2, seed=3)
    args = PoiseConfig(
        str(out), per_device_train_batch_size=8, per_device_eval_batch_size=8, **SHORT, **{**settings, **changes}
    )
    return run(RunOptions("thinker", "chain_sum", 4, resume), args)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return short_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("lines", [5, 4, 3])
def test_metrics_that_are_shorter_than_the_checkpoint(whole, tmp_path, lines):
    """A power cut keeps a checkpoint and loses the last lines: back to the checkpoint that they reach."""
    out = tmp_path / "run"
    shutil.copytree(whole.folder, out)
    written = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(written) == 5  # step 0 and four more; checkpoints after 2, 3 and 4
    (out / "metrics.jsonl").write_text("".join(written[:lines]))
    again = short_run(out, resume=True)
    assert [m["step"] for m in again.metrics] == [0, 1, 2, 3, 4]
    assert timeless(again) == timeless(whole)


def test_metrics_that_reach_no_checkpoint(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole.folder, out)
    (out / "metrics.jsonl").write_text((whole.folder / "metrics.jsonl").read_text().split("\n")[0] + "\n")
    with pytest.raises(pl.PoiseLabError, match="ends before the checkpoint .*checkpoint-2, so the run cannot go on"):
        short_run(out, resume=True)
    for folder in out.glob("checkpoint-*"):
        shutil.rmtree(folder)
    again = short_run(out, resume=True)  # killed before the first checkpoint: from the start, its evaluation once
    assert timeless(again) == timeless(whole)


@pytest.mark.parametrize(("updates", "logging", "saving", "steps"), [(1, 3, 4, [3, 6]), (2, 1, 3, [1, 2, 3, 4, 5, 6])])
def test_checkpoints_between_two_logs_and_in_the_middle_of_a_batch(tmp_path, updates, logging, saving, steps):
    policy, rows = tiny_policy(), 8
    args = PoiseConfig(
        str(tmp_path), per_device_train_batch_size=rows // updates, steps_per_generation=updates, save_steps=saving,
        max_steps=6 * updates, poise_warmup=1, **SHORT | dict(logging_steps=logging),
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": f"{i}+{i + 3}="} for i in range(24)])
    for checkpoint in (None, str(tmp_path / f"checkpoint-{saving}")):
        recorder = Recorder(tmp_path, updates, rows)
        trainer = PoiseTrainer(
            policy.model, lambda completions, **_: [float(len(text) % 2) for text in completions], args, data,
            processing_class=policy.tokenizer, callbacks=[recorder],
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        metrics = read_metrics(tmp_path)
        assert [m["step"] for m in metrics] == steps
        assert [m["responses"] for m in metrics] == [rows * step for step in steps]


def test_errors_of_the_verifier_are_a_metric(tmp_path):
    """A policy that cannot factorize: most of what it writes makes the verifier raise an error."""
    args = PoiseConfig(
        str(tmp_path / "run"), per_device_train_batch_size=8, steps_per_generation=2, max_steps=4,
        **SHORT | dict(logging_steps=2, max_completion_length=24),
    )  # fmt: skip
    metrics = run(RunOptions("thinker", "prime_factorization", 4), args).metrics
    assert len(metrics) == 2 and all(0 < m["verifier_errors"] <= 16 for m in metrics)
    assert not any("verifier_errors" in m for m in short_run(tmp_path / "sums").metrics)


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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment once, at import
    assert main(["train", "--engine", "trl", "--steps", "2", "--out", str(tmp_path / "run"), *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("poise-lab: ") and message in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config", "none.yaml"], "none.yaml cannot be read: No such file or directory"),
        (["--config", "broken.yaml"], "while parsing a flow sequence"),
        (["--config", "list.yaml"], "must contain a YAML mapping"),
        (["--config", "unknown.yaml"], "unknown setting nonsense; known are the fields of RunOptions and PoiseConfig"),
        (["--nonsense", "3"], "unknown setting nonsense; known are"),
        (["--per_device_train_batch_size", "3"], "a batch of 3 responses"),
        (["--generation_batch_size", "20"], "generation_batch_size=20 cannot be split into parts of 8"),
        (["--max_steps", "1", "--vllm_importance_sampling_clip_min", "9"], "must be less than"),  # TRL's own words
        (["--max_steps", "1", "--sync_ref_model", "True"], "You passed `sync_ref_model=True` while `beta=0.0`"),
        ([], "how long? Give max_steps"),
    ],
)
def test_one_line_for_what_the_module_is_given(tmp_path, capsys, monkeypatch, flags, message):
    for name, text in {"broken": "a: [1\nb: {", "list": "- a", "unknown": "nonsense: 3"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    plain = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "True", "--bf16", "False", "--eval_prompts", "4"]
    assert launch_main([*plain, *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("poise-lab: ") and message in said


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            OSError(errno.ENOSPC, "no space"),
            2,
            "the disk is full; make room and run the same command again with --resume",
        ),
        (
            PermissionError(13, "Permission denied", "a.txt"),
            2,
            "a.txt cannot be read or written: Permission denied; see",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_line_for_what_ends_the_module(tmp_path, capsys, monkeypatch, error, status, message):
    """The same as of `poise-lab`."""

    def failing(options, args):
        raise error

    monkeypatch.setattr("poise_lab.trl.launch.run", failing)
    plain = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "True", "--bf16", "False", "--max_steps", "1"]
    assert launch_main(plain) == status
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"poise-lab: {message}")


def test_several_gpus_for_one_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PoiseConfig, "n_gpu", 4)
    flags = [
        "--output_dir",
        tmp_path / "run",
        "--use_cpu",
        True,
        "--bf16",
        False,
        "--eval_prompts",
        4,
        "--max_steps",
        1,
    ]
    assert launch_main([str(flag) for flag in flags]) == 2
    assert "poise-lab: one process sees 4 GPUs" in capsys.readouterr().err


def test_folder_in_use(tmp_path, capsys):
    (tmp_path / "note").write_text("mine")
    assert main(["train", "--engine", "trl", "--steps", "2", "--out", str(tmp_path)]) == 2
    assert "is in use already" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--task", "chain_sm"], ["--task", "chain_sum", "--task-set", "nonsense=3"]])
def test_what_is_refused_leaves_no_run_folder(tmp_path, capsys, flags):
    out = tmp_path / "run"
    assert main(["train", "--engine", "trl", *SMALL, "--out", str(out), *flags]) == 2
    assert "poise-lab: " in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("error", "step", "stays"),
    [
        (RuntimeError("no"), 0, False),
        (KeyboardInterrupt(), 0, False),
        (RuntimeError("no"), 1, True),
        (ProcessLostError("start the same command again with --resume"), 0, True),
        (OSError(errno.ENOSPC, "no space"), 0, True),
    ],
)
def test_the_folder_is_free_again_unless_a_step_was_finished(tmp_path, monkeypatch, error, step, stays):
    out = tmp_path / "run"

    def failing(self, **_):
        (out / "runs").mkdir()  # of TensorBoard
        self.state.global_step = step
        raise error

    monkeypatch.setattr(PoiseTrainer, "train", failing)
    with pytest.raises(type(error)):
        short_run(out)
    assert (out / "config.json").exists() == stays and out.exists() == stays


def test_two_processes_do_not_write_one_run(whole, tmp_path, monkeypatch):
    """A lock is held while a run is trained, and from before a resume reads anything."""
    out = tmp_path / "run"

    def others(self, **_):
        with pytest.raises(pl.PoiseLabError, match="is being written by another process"):
            short_run(out, resume=True)

    monkeypatch.setattr(PoiseTrainer, "train", others)
    short_run(out)
    shutil.rmtree(out)
    shutil.copytree(whole.folder, out)
    short_run(out, resume=True)


def test_processes_refuse_a_folder_in_the_same_words(tmp_path):
    """None of them advises to go on with --resume in the folder of somebody else."""
    (tmp_path / "note").write_text("mine")
    done = launch(2, *TRAIN, tmp_path)
    said = {line for line in done.stderr.splitlines() if line.startswith("poise-lab: ")}
    assert said == {f"poise-lab: run folder {tmp_path} is in use already; resume it or choose another"}
    assert done.returncode and [path.name for path in tmp_path.iterdir()] == ["note"]


def test_resume_of_another_run(two, capsys):
    assert main(["train", "--engine", "trl", *SMALL, "--seed", "1", "--out", str(two.folder), "--resume"]) == 2
    assert "belongs to another run: train.seed is 0 there and 1 here" in capsys.readouterr().err


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_a_probe_that_a_config_spells_out_is_its_preset(tmp_path, preset):
    spelt = {k: list(v) if isinstance(v, tuple) else v for k, v in pl.ValueProbe.preset(preset).get_params().items()}
    args = from_train_config(pl.TrainConfig(), tmp_path, "poise", {"probe": pl.ValueProbe(**spelt)})
    assert args.poise_probe == preset
    with pytest.raises(pl.PoiseLabError, match="takes a probe by the name of its preset, release or paper"):
        from_train_config(pl.TrainConfig(), tmp_path, "poise", {"probe": pl.ValueProbe(ridge=5.0)})


def test_settings_of_the_laptop_as_trl_s(tmp_path):
    config = pl.TrainConfig()
    args = from_train_config(config, tmp_path, "poise", {"responses": 4, "probe": "paper"})
    assert args.generation_batch_size == config.prompts * 4 and args.steps_per_generation == config.minibatches
    assert (args.epsilon, args.epsilon_high, args.delta) == (config.clip_low, config.clip_high, config.dual_clip)
    assert args.max_steps == config.steps * config.minibatches and args.learning_rate == config.learning_rate
    assert args.poise_probe == "paper" and args.poise_layer == config.layer and args.poise_pool == config.pool


def test_every_setting_of_the_laptop_is_one_of_trl_s(tmp_path):
    """A config in which no field has its default."""
    config = pl.TrainConfig(
        steps=6, prompts=12, seed=5, learning_rate=3e-4, weight_decay=0.03, minibatches=3, clip_low=0.1, clip_high=0.5,
        dual_clip=7.0, aggregation="sequence_mean", kl=0.02, max_grad_norm=0.6, max_new_tokens=33, temperature=0.7,
        layer=1, pool=3, eval_every=2, eval_prompts=6, eval_responses=4, checkpoint_every=5,
    )  # fmt: skip
    given, default = vars(config), vars(pl.TrainConfig())
    assert [name for name in default if given[name] == default[name]] == []
    args = from_train_config(config, tmp_path, "poise", {})
    expected = dict(
        max_steps=18, per_device_train_batch_size=8, steps_per_generation=3, generation_batch_size=24, seed=5,
        learning_rate=3e-4, lr_scheduler_type="constant", weight_decay=0.03, epsilon=0.1, epsilon_high=0.5, delta=7.0,
        loss_type="grpo", beta=0.02, max_grad_norm=0.6, max_completion_length=33, temperature=0.7, poise_layer=1,
        poise_pool=3, eval_steps=6, per_device_eval_batch_size=24, num_generations_eval=4, save_steps=15,
    )  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected
    assert from_train_config(pl.TrainConfig(), tmp_path, "poise", {}).loss_type == "dapo"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_ready_configurations_are_read_by_their_readers(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    text = yaml.safe_load(path.read_text())
    processes = {"qwen3-4b-vllm-server.yaml": 4, "thinker.yaml": 1}.get(path.name, 8)
    monkeypatch.setattr(PoiseConfig, "world_size", processes)
    if "compute_environment" in text:
        config = load_config_from_file(str(path))
        assert config.num_processes >= 1 and config.distributed_type
        assert config.use_cpu == ("cpu" in path.name)
        return
    options, args = TrlParser((RunOptions, PoiseConfig)).parse_args_and_config(
        ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu", "True", "--bf16", "False"]
    )
    assert args.max_steps > 0 and args.num_generations == 2
    assert set(text) <= set(PoiseConfig.__dataclass_fields__) | set(RunOptions.__dataclass_fields__)
    if options.policy != "thinker":
        assert text["bf16"] and args.poise_layer in (None, 19)
        assert (
            args.per_device_train_batch_size * processes * args.gradient_accumulation_steps == 64
        )  # per optimizer step
        assert f"for {processes} GPUs" in path.read_text() and batches_of(args) == (120, 8)


@pytest.mark.parametrize(("name", "gpus"), [("two_cpu_processes.yaml", ["-1,-1", "-1,-1"]), ("one_gpu.yaml", ["0"])])
def test_gpus_that_the_processes_see(tmp_path, name, gpus):
    """-1 is none; a machine may have more than the configuration is for."""
    script = tmp_path / "see.py"
    script.write_text("import os\nopen(f\"{__file__}.{os.getpid()}\", 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])")
    done = launch(len(gpus), script, config=CONFIGS / name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.read_text() for path in tmp_path.glob("see.py.*")] == gpus


def test_there_is_a_configuration_for_each_way():
    names = {path.name for path in CONFIGS.glob("*.yaml")}
    assert {"one_gpu.yaml", "fsdp.yaml", "several_nodes.yaml", "qwen3-4b.yaml", "qwen3-4b-vllm-colocate.yaml",
            "qwen3-4b-vllm-server.yaml", "thinker.yaml"} <= names  # fmt: skip
    assert (CONFIGS / "README.md").is_file()
