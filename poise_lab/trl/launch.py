"""Runs of `poise_lab.trl` on reasoning-gym tasks, with the run folder that `poise-lab compare` and `report` read.

    poise-lab train --engine trl --out runs/trl-0                                      # one process
    accelerate launch --multi_gpu --num_processes 2 -m poise_lab.cli train --engine trl --out runs/trl-0
    accelerate launch --config_file data/launch/fsdp.yaml -m poise_lab.trl --config data/launch/qwen3-4b.yaml

The first two take the flags of `poise-lab train`; the last takes every field of `PoiseConfig`, from the command
line or from a YAML file. Problems and held-out problems are those of the laptop's Trainer with the same seed.
Accuracy is measured by TRL's own evaluation, so it works where the policy's weights are spread over processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import TrlParser

from ..errors import PoiseLabError, disk_is_full, exit_status
from ..files import json_line, only_writer, provenance, read_json, write_json, write_text
from ..loading import read_tokenizer
from ..policies import Policy, load_policy
from ..process import without_bars
from ..runs import RunRecord, claim_folder, free_folder, read_metrics, resumed_config
from ..sampler import Sampler, held_out_problems
from ..sources import BUNDLED, SOURCES
from ..tasks import TINY_TASKS, Problem, Task, TaskMixture, load_task
from ..templates import undated
from ..trainer import TrainConfig
from .config import PoiseConfig, from_train_config
from .processes import ProcessLostError, one_sentence_if_a_process_is_lost, refused_by_all, whole_checkpoints
from .trainer import PoiseTrainer


@dataclasses.dataclass
class RunOptions:
    """What a run needs besides PoiseConfig."""

    policy: str = dataclasses.field(
        default="thinker", metadata={"help": "thinker, a fetched model, a folder or a hub id."}
    )
    task: str = dataclasses.field(default=TINY_TASKS, metadata={"help": "A reasoning-gym task, or several as a+b."})
    eval_prompts: int = dataclasses.field(default=192, metadata={"help": "Held-out problems, never trained on."})
    resume: bool = dataclasses.field(default=False, metadata={"help": "Go on with the run in output_dir."})


class Recorder(TrainerCallback):
    """Writes the metrics that the trainer logs to metrics.jsonl, by the names that the laptop's Trainer uses."""

    TRAINING = {
        "reward": "reward", "loss": "loss", "grad_norm": "gradient_norm",
        "completions/mean_length": "response_length", "clip_ratio/region_mean": "clip_fraction",
    }  # fmt: skip
    EVALUATION = {
        "eval_reward": "accuracy",
        # each prediction against the rewards of the other responses, which it has not read
        "eval_poise/probe_r_partner": "probe_r_fresh",
        "eval_poise/probe_mae_partner": "probe_mae_fresh",
    }

    def __init__(self, folder: Path, updates: float, rows: int):
        """updates: optimizer steps per batch of responses. rows: responses in such a batch."""
        self.folder, self.updates, self.rows = folder, updates, rows

    def on_train_begin(self, args, state, control, **_):
        done = batch_of(state.global_step, self.updates)
        # before the first step, the evaluation of step 0 is made again
        self.metrics = [m for m in read_metrics(self.folder) if done and m["step"] <= done]
        # the last that was counted: a checkpoint may be made between two logs
        self.batch = max((m["step"] for m in self.metrics if "reward" in m), default=0)
        last = self.metrics[-1] if self.metrics else {"tokens": 0, "responses": 0, "seconds": 0.0}
        self.totals = {name: last[name] for name in ("tokens", "responses", "seconds")}
        self.since = time.perf_counter()
        if state.is_world_process_zero:
            self.write()

    def on_log(self, args, state, control, logs=None, **_):
        evaluation = "eval_reward" in logs
        if not state.is_world_process_zero or not (evaluation or "reward" in logs):
            return
        step = batch_of(state.global_step, self.updates)
        names = self.EVALUATION if evaluation else self.TRAINING
        found = {names.get(k, k.removeprefix("poise/")): v for k, v in logs.items() if k in names or k[:6] == "poise/"}
        if not evaluation:  # its numbers are means over the batches since the last one
            batches, self.batch = step - self.batch, step
            self.totals["responses"] += batches * self.rows
            self.totals["tokens"] += round(found["response_length"] * batches * self.rows)
            errors = round(found.pop("verifier_errors", 0) * max(1, batches))
            found |= {"verifier_errors": errors} if errors else {}  # as on the laptop
        now = time.perf_counter()
        self.totals["seconds"] += now - self.since
        self.since = now
        again = bool(self.metrics) and self.metrics[-1]["step"] == step  # an evaluation, or a later update on the batch
        metrics = self.metrics.pop() if again else {"step": step}
        metrics |= {k: v for k, v in found.items() if v is not None and math.isfinite(v)}
        self.metrics.append(metrics | self.totals)
        self.write(whole=again)

    def write(self, whole: bool = True) -> None:
        """Write all lines, or add the last: before any checkpoint of the step, so that a resume finds it."""
        path = self.folder / "metrics.jsonl"
        if whole:
            return write_text(path, "".join(map(json_line, self.metrics)))
        with open(path, "a", encoding="utf-8") as f:
            f.write(json_line(self.metrics[-1]))


def batch_of(step: int, updates: float) -> int:
    """Batches sampled by an optimizer step; in the middle of the steps on a batch, it counts."""
    return math.ceil(step / updates - 1e-9)


def batches_of(args: PoiseConfig) -> tuple[int, float]:
    """How often responses are sampled in a run, and the optimizer steps on each batch of them."""
    updates = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps
    if args.max_steps < 1:
        raise PoiseLabError("how long? Give max_steps, the optimizer steps of the run")
    return math.ceil(args.max_steps / updates), updates


def run(
    options: RunOptions,
    args: PoiseConfig,
    train: dict | None = None,
    spoken: dict | None = None,
    task_settings: dict | None = None,
) -> RunRecord:
    """Train on reasoning-gym tasks. Called on every process; the record is read on each.

    train: further settings to keep in config.json. spoken: how the policy is spoken to, as `load_policy` takes it;
        None is left to the policy. task_settings: as `load_task` takes them.

    Raises PoiseLabError for a run folder in use, nothing to resume, or a policy that cannot be loaded; before the first
    step it leaves the folder free.
    """
    folder = Path(args.output_dir)
    batches, updates = batches_of(args)
    per_batch = args.generation_batch_size // args.num_generations
    train = train or {"learning_rate": args.learning_rate}
    train = {**train, "steps": batches, "prompts": per_batch, "seed": args.seed}
    # a folder that says how its policy is spoken to is spoken to like that, as on the laptop
    spoken = {name: value for name, value in (spoken or {}).items() if value is not None and name != "tags"}
    ours = spoken or options.policy in (*BUNDLED, *SOURCES) or (Path(options.policy) / "poise_lab.json").is_file()
    policy = load_policy(options.policy, tags=args.poise_tags, **spoken) if ours else None
    settings = {
        "engine": "trl", "policy": options.policy, "task": options.task, "task_settings": task_settings or {},
        **{name: getattr(policy, name) for name in spoken}, "tags": args.poise_tags, "train": train,
        "baseline": {**args.baseline().settings(), "layer": args.poise_layer, "pool": args.poise_pool},
    }  # fmt: skip
    first = args.process_index == 0
    with contextlib.ExitStack() as held:
        if options.resume and first:  # one writer, before anything is read of what the run goes on with
            held.enter_context(only_writer(folder))
            config = resumed_config(folder, settings)
        checkpoint = reached_checkpoint(folder, updates) if options.resume else None
        args.eval_on_start = args.eval_strategy != "no" and checkpoint is None
        task = load_task(options.task, **(task_settings or {}))
        trainer = trainer_of(
            options, args, policy, task, Recorder(folder, updates, args.generation_batch_size), batches
        )
        with refused_by_all():
            if options.resume and first:
                write_json(folder / "config.json", config)
            elif first:
                claim_folder(folder, settings, made_by(args))
                held.enter_context(only_writer(folder))
                held.enter_context(freed_without_a_step(folder, trainer))
        with one_sentence_if_a_process_is_lost(folder, args.world_size):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.accelerator.wait_for_everyone()
        return RunRecord(folder, read_json(folder / "config.json"), read_metrics(folder))


def made_by(args: PoiseConfig) -> dict:
    """What config.json says of how a run was begun."""
    made = {"processes": args.world_size, "device": args.device.type, **provenance()}
    made["versions"] |= {name: importlib.metadata.version(name) for name in ("trl", "accelerate")}
    return made


@contextlib.contextmanager
def freed_without_a_step(folder: Path, trainer: PoiseTrainer) -> Iterator[None]:
    """Within the context, an error before the first step leaves the run folder free, as `poise_lab.Trainer` does.

    Where a process is lost, the sentence says to go on with --resume; a full disk is made room on, and the same.
    """
    try:
        yield
    except BaseException as e:  # Ctrl-C among them
        if trainer.state.global_step == 0 and not isinstance(e, ProcessLostError) and not disk_is_full(e):
            free_folder(folder)
        raise


def trainer_of(
    options: RunOptions,
    args: PoiseConfig,
    policy: Policy | None,
    task: Task | TaskMixture,
    recorder: Recorder,
    batches: int,
) -> PoiseTrainer:
    """A trainer for so many batches of a task's problems, which are those of the seed. Writes nothing.

    policy: None is one that transformers loads. Raises PoiseLabError for what TRL refuses.
    """
    if policy:
        policy.model.generation_config.eos_token_id = policy.eos_token_ids  # after examples a newline is one
        args.poise_tags = list(policy.tags)
    tokenizer = policy.tokenizer if policy else read_tokenizer(options.policy, options.policy)
    per_batch = args.generation_batch_size // args.num_generations
    held_out = held_out_problems(task, options.eval_prompts, args.seed)
    sampler, problems = Sampler(None, task, per_batch, seed=args.seed, exclude=held_out), []
    for step in range(1, batches + 1):
        sampler.begin(step)
        problems += sampler.problems()
    every = problems + held_out

    def right(completion_ids, index, **_):  # from the tokens: TRL's text is without tags that are special tokens
        reader = policy or trainer._policy()
        asked = [reader.prompt_ids(every[i]) for i in index]
        texts = [reader.text_of(text) for text in reader.decode(completion_ids)]
        graded = [reader.graded(text, prompt) for text, prompt in zip(texts, asked, strict=True)]
        before = task.verifier_errors
        rewards = [every[i].reward(text) for i, text in zip(index, graded, strict=True)]
        trainer.note_sum("verifier_errors", task.verifier_errors - before)
        return rewards

    def rows(part: list[Problem], first: int) -> Dataset:
        asked = [prompt_of(problem, policy, tokenizer) for problem in part]
        return Dataset.from_list([{"prompt": p, "index": first + i, "task": part[i].task} for i, p in enumerate(asked)])

    args.shuffle_dataset = False  # the problems of a step are those of the seed
    try:
        trainer = PoiseTrainer(
            policy.model if policy else options.policy, right, args, rows(problems, 0),
            eval_dataset=rows(held_out, len(problems)) if args.eval_strategy != "no" else None,
            processing_class=tokenizer, callbacks=[recorder],
        )  # fmt: skip
    except (ValueError, OSError) as e:  # TRL's own refusals
        raise one_line(e) from e
    if args.disable_tqdm:  # transformers would print every log instead
        trainer.remove_callback(PrinterCallback)
    template = policy.chat_template if policy else tokenizer.chat_template and tokenizer.get_chat_template()
    if template:  # of the prompts; the tokenizer that is saved keeps its own
        trainer.chat_template = undated(template)
        trainer.chat_template_kwargs |= policy.template_args if policy else {}
    return trainer


def prompt_of(problem: Problem, policy, tokenizer):
    """The prompt as TRL takes it: text, or a message for a tokenizer with a chat template. Worded as `Policy.prompt_ids`."""
    if policy:
        return policy.messages(problem) if policy.chat_template else policy.plain_text(problem)
    return [{"role": "user", "content": problem.question}] if tokenizer.chat_template else problem.question


def reached_checkpoint(folder: Path, updates: float) -> Path | None:
    """The newest whole checkpoint that the metrics reach, None if there is no checkpoint; updates: as of `Recorder`.

    A kill may keep a checkpoint and lose the last lines of the metrics. Raises PoiseLabError where they reach none.
    """
    measured = max((m["step"] for m in read_metrics(folder)), default=-1)
    whole = whole_checkpoints(folder)
    for checkpoint in reversed(whole):
        history = read_json(checkpoint / "trainer_state.json")["log_history"]
        logged = [log["step"] for log in history if "reward" in log or "eval_reward" in log]
        if batch_of(max(logged, default=-1), updates) <= measured:
            return checkpoint
    if whole:
        raise PoiseLabError(
            f"{folder / 'metrics.jsonl'} ends before the checkpoint {whole[0]}, so the run cannot go on from there; "
            "put the file back, or start a new run"
        )
    return None


def train(
    config: TrainConfig,
    *,
    policy: str,
    task: str,
    out: Path,
    resume: bool,
    baseline: str,
    settings: dict,
    spoken: dict | None = None,
    task_settings: dict | None = None,
    log: str | None = None,
    quiet: bool = False,
) -> RunRecord:
    """`poise-lab train --engine trl`. spoken, task_settings: as of `run`, the tags among spoken."""
    args = from_train_config(config, out, baseline, settings)
    args.poise_tags, args.disable_tqdm = (spoken or {}).get("tags"), quiet or args.disable_tqdm
    if log:  # transformers begins the log by itself, and wandb's settings cannot be given in another way
        args.report_to, args.project, args.run_name = [log], "poise-lab", out.name
        for name, value in (("WANDB_MODE", "offline"), ("WANDB_PROJECT", args.project), ("WANDB_DIR", str(out))):
            os.environ.setdefault(name, value)
    options = RunOptions(policy, task, config.eval_prompts, resume)
    with without_bars() if quiet else contextlib.nullcontext():
        return run(options, args, dataclasses.asdict(config), spoken, task_settings)


def one_line(e: Exception) -> PoiseLabError:
    """An error that another library raises for bad input as ours: its message on one line."""
    return e if isinstance(e, PoiseLabError) else PoiseLabError(" ".join(str(e).split()))


def parse(argv: list[str] | None = None) -> tuple[RunOptions, PoiseConfig]:
    """Settings from flags and --config FILE. Raises PoiseLabError for a file that cannot be read, and for bad settings."""
    parser = TrlParser((RunOptions, PoiseConfig))
    try:
        options, args, *rest = parser.parse_args_and_config(argv, True, separate_remaining_strings=True)
    except OSError as e:
        raise PoiseLabError(f"{e.filename} cannot be read: {e.strerror}") from None
    except (ValueError, yaml.YAMLError) as e:
        raise one_line(e) from e
    if unknown := [word for part in rest for word in part if word.startswith("--")]:
        raise PoiseLabError(
            f"unknown setting {', '.join(word.removeprefix('--') for word in unknown)}; known are the fields of "
            "RunOptions and PoiseConfig"
        )
    return options, args


def main(argv: list[str] | None = None) -> int:
    """`python -m poise_lab.trl`: the fields of RunOptions and PoiseConfig, as flags or from --config FILE."""

    def command() -> None:
        options, args = parse(argv)
        record = run(options, args)
        if args.process_index == 0:
            print(f"run folder {record.folder}, {record.metrics[-1]['step'] if record.metrics else 0} batches")

    return exit_status(command, resumes=True)
