"""Run by accelerate: PoiseTrainer on rollouts that are given to it, scenario after scenario.

    accelerate launch --cpu --num_processes 2 tests/scale/forced.py SCENARIOS.json OUT

Each scenario says its batch and which rollouts; process 0 writes the advantages of every batch and the probe's
state to OUT/<name>.json and OUT/<name>.safetensors. Where a process is to lose a number of its buffer ("spoiled"), every
process writes to OUT/<name>-<rank>.txt how it ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import save_file

import poise_lab as pl
from poise_lab.trl import PoiseConfig, PoiseTrainer


class Recorded(PoiseTrainer):
    """Keeps the advantages that the loss is given, of all processes, and all metrics.

    spoiled: batches after which process 1 loses a number of its buffer.
    """

    spoiled = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept, self.features, self.logged = [], [], []

    def _learn(self, *args):
        if self._poise.steps == self.spoiled and self.accelerator.process_index == 1:
            self._poise.buffers["all"]._groups[0][0][0, 0] += 1  # the first number of the oldest row
        super()._learn(*args)

    def _gathered(self, *args):
        rollouts, internals = super()._gathered(*args)
        self.features.append(internals.features())
        return rollouts, internals

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.kept.append(self.accelerator.gather(output["advantages"]).tolist())
        return output

    def log(self, logs, *args, **kwargs):
        super().log(logs, *args, **kwargs)
        self.logged.append(dict(logs))


def make(scenario: dict, out: Path, steps: int | None = None) -> Recorded:
    """A trainer whose responses are those of the scenario: texts and token ids per prompt."""
    policy = pl.load_policy("thinker", dtype=getattr(torch, scenario.get("dtype", "float32")))
    table = {row["prompt"]: row for row in scenario["rollouts"]}
    m = scenario["responses"]

    def rollout(prompts, trainer):
        first = trainer.accelerator.process_index * len(prompts)
        rows = [(table[prompt], (first + i) % m) for i, prompt in enumerate(prompts)]
        return {
            "prompt_ids": [row["prompt_ids"] for row, _ in rows],
            "completion_ids": [row["response_ids"][j] for row, j in rows],
            "logprobs": [[0.0] * len(row["response_ids"][j]) for row, j in rows],
            "forced_reward": [row["rewards"][j] for row, j in rows],
        }

    each = scenario["rows_each"]  # of a chunk of the log-prob pass
    settings = dict(
        num_generations=m, per_device_train_batch_size=each, generation_batch_size=scenario["rows"],
        max_steps=(steps or scenario["steps"]) * (scenario["rows"] // each // PartialState().num_processes),
        learning_rate=scenario.get("learning_rate", 0.0), lr_scheduler_type="constant", report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, shuffle_dataset=False, disable_tqdm=True,
        logging_steps=1, save_strategy="steps", save_steps=10**6, poise_warmup=2,
        pad_to_multiple_of=scenario.get("pad"), poise_layer=2, poise_pool=4, poise_buffer_rows=scenario.get("buffer_rows", 4096), seed=3,
        remove_unused_columns=False, poise_per_task=scenario.get("per_task", False),
    )  # fmt: skip
    if "stop_after" in scenario:
        settings["save_steps"] = scenario["stop_after"] * (settings["max_steps"] // (steps or scenario["steps"]))
    data = [{"prompt": row["prompt"], "task": row["task"]} for row in scenario["rollouts"]]
    return Recorded(
        policy.model, lambda forced_reward, **_: forced_reward, PoiseConfig(str(out / scenario["name"]), **settings),
        Dataset.from_list(data), processing_class=policy.tokenizer, rollout_func=rollout,
    )  # fmt: skip


def main(scenarios: Path, out: Path) -> None:
    for scenario in json.loads(scenarios.read_text()):
        first, checkpoint = [], None
        if "stop_after" in scenario:
            before = make(scenario, out, scenario["stop_after"])
            before.train()
            first = before.kept
            checkpoint = str(out / scenario["name"] / f"checkpoint-{before.state.global_step}")
        trainer = make(scenario, out)
        if "spoiled" in scenario:
            trainer.spoiled = scenario["spoiled"]
            try:
                trainer.train()
                said = "nothing"
            except pl.PoiseLabError as e:
                said = str(e)
            rank = trainer.accelerator.process_index
            (out / f"{scenario['name']}-{rank}.txt").write_text(f"{len(trainer.kept)} batches, then: {said}")
            continue
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.accelerator.is_main_process:
            result = {"advantages": first + trainer.kept, "logged": trainer.logged, "steps": trainer.poise.steps}
            result["processes"] = trainer.accelerator.num_processes
            (out / f"{scenario['name']}.json").write_text(json.dumps(result))
            state = {k: v.contiguous() for k, v in trainer.poise.state_dict().items()}
            weights = {k: v.detach().clone().contiguous() for k, v in trainer._bare().named_parameters()}
            tensors = {**state, **{f"policy/{k}": v for k, v in weights.items()}}
            tensors |= {f"features/{i}": f for i, f in enumerate(trainer.features)}
            save_file(tensors, out / f"{scenario['name']}.safetensors")


if __name__ == "__main__":
    PartialState(cpu=True)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
