"""The settings of POISE on TRL: the paper's, its official release's, and those of `poise-lab train`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from ..baselines.poise import Poise
from ..config import TrainConfig
from ..errors import PoiseLabError, unknown_name
from ..probe import PROBE_PRESETS, ValueProbe
from .needed import check_trl

check_trl()

from trl import GRPOConfig  # noqa: E402
from trl.import_utils import is_vllm_available  # noqa: E402

EVALUATED_TOGETHER = 64  # held-out prompts in one batch of an evaluation
# arXiv 2605.07579, Table 5
COMMON = dict(max_completion_length=8192, learning_rate=1e-6, lr_scheduler_type="constant")
PRESETS = {
    # Sec. 3.1, Table 5; it starts from a given probe, here from one step of RLOO
    "paper": dict(COMMON, poise_probe="paper", poise_warmup=1),
    # official release, Qwen3-4B: 16 steps of RLOO, then a probe on the last 4096 rows
    "release": dict(COMMON, poise_probe="release", poise_warmup=16),
}


@dataclasses.dataclass
class PoiseConfig(GRPOConfig):
    """GRPOConfig with POISE's settings. The defaults of TRL's own fields that differ are POISE's (method, Table 5).

    Raises PoiseLabError for what POISE cannot work with, TRL's errors for the rest.
    """

    num_generations: int = dataclasses.field(default=2, metadata={"help": "Responses per prompt, at least 2."})
    scale_rewards: str = dataclasses.field(default="none", metadata={"help": "Always none: advantages keep the scale."})
    loss_type: str = dataclasses.field(default="dapo", metadata={"help": "dapo is the mean over tokens."})
    epsilon: float = dataclasses.field(default=0.2, metadata={"help": "Lower clip of the probability ratio."})
    epsilon_high: float | None = dataclasses.field(default=0.28, metadata={"help": "Upper clip."})
    delta: float | None = dataclasses.field(default=10.0, metadata={"help": "Dual clip."})
    disable_dropout: bool = dataclasses.field(default=True, metadata={"help": "Else two readings of a token differ."})
    poise_probe: str = dataclasses.field(default="release", metadata={"help": "Probe preset: paper or release."})
    poise_layer: int | None = dataclasses.field(
        default=None, metadata={"help": "Decoder layer, 0-based; by default 19 of 36, scaled to the policy's depth."}
    )
    poise_pool: int = dataclasses.field(default=10, metadata={"help": "Tokens averaged at the end of each span."})
    poise_buffer_rows: int = dataclasses.field(
        default=4096, metadata={"help": "Responses that the probe is fitted on."}
    )
    poise_warmup: int = dataclasses.field(default=4, metadata={"help": "Batches that use RLOO before the first fit."})
    poise_per_task: bool = dataclasses.field(
        default=False, metadata={"help": "A probe for each value of the dataset's column 'task'."}
    )

    poise_tags: list[str] | None = dataclasses.field(
        default=None, metadata={"help": "Start and end tag of the reasoning; by default what the tokenizer shows."}
    )

    @classmethod
    def preset(cls, name: str, output_dir: str, **changes) -> PoiseConfig:
        """The settings of the "paper" or of its official "release"; changes override them.

        Batch sizes are yours to choose, since they depend on the GPUs: both sample 256 to 1024 prompts x 2 responses
        at a time (generation_batch_size) and take several optimizer steps on them.
        """
        if name not in PRESETS:
            raise unknown_name("preset", name, PRESETS)
        return cls(output_dir=output_dir, **{**PRESETS[name], **changes})

    def __post_init__(self):
        if self.num_generations < 2:
            raise PoiseLabError(
                f"num_generations={self.num_generations}: a response without a partner has no baseline; use 2 or more"
            )
        if self.scale_rewards not in ("none", False) or self.multi_objective_aggregation != "sum_then_normalize":
            raise PoiseLabError(
                "POISE's advantages are rewards minus values: leave scale_rewards at 'none' and "
                "multi_objective_aggregation at 'sum_then_normalize'"
            )
        if self.mask_truncated_completions:
            raise PoiseLabError(
                "mask_truncated_completions=True hides responses from the probe; leave it False, or give truncated "
                "responses reward 0"
            )
        if self.poise_probe not in PROBE_PRESETS:
            raise unknown_name("probe preset", self.poise_probe, PROBE_PRESETS)
        if self.poise_pool < 1:
            raise PoiseLabError(f"poise_pool={self.poise_pool}; average at least 1 token")
        if self.use_vllm and not is_vllm_available():
            raise PoiseLabError(
                'use_vllm=True, but vLLM is not installed; pip install "trl[vllm]", or sample with transformers '
                "(use_vllm=False)"
            )
        self.baseline()  # refuses what it cannot work with
        try:
            super().__post_init__()
        except ValueError as e:
            for words, sentence in self._odd_batches().items():
                if words in str(e):
                    raise PoiseLabError(sentence) from None
            raise

    def _odd_batches(self) -> dict[str, str]:
        """Words of TRL's errors about batch sizes -> the sentence that stands for them."""
        processes = int(os.environ.get("WORLD_SIZE", 1))
        together, evaluated = (
            n * processes for n in (self.per_device_train_batch_size, self.per_device_eval_batch_size)
        )
        each = self.num_generations_eval or self.num_generations
        return {
            "divisible by num_generations": f"a batch of {self.generation_batch_size} responses "
            "(per_device_train_batch_size x processes x steps_per_generation) leaves a response without its partner; "
            f"make it a multiple of num_generations={self.num_generations}",
            "divisible by the global batch size": f"generation_batch_size={self.generation_batch_size} cannot be split "
            f"into parts of {together} (per_device_train_batch_size={self.per_device_train_batch_size} x {processes} "
            "processes); make it a multiple",
            "divisible by the number of generations used for evaluation": f"{evaluated} responses evaluated together "
            f"(per_device_eval_batch_size={self.per_device_eval_batch_size} x {processes} processes) leave a response "
            f"without its partner; make them a multiple of the {each} responses per prompt",
            "can not be both configured": "generation_batch_size and steps_per_generation say the same thing; give one",
            "auto_find_batch_size": "auto_find_batch_size=True would tear responses from their partners; leave it "
            "False, and choose a smaller per_device_train_batch_size",
        }

    def baseline(self) -> Poise:
        """The baseline that these settings describe."""
        return Poise(
            self.num_generations, self.poise_probe, self.poise_buffer_rows, self.poise_warmup, self.poise_per_task
        )


def _preset_of(probe: ValueProbe) -> str:
    """The name of a probe's preset. Raises PoiseLabError for a probe that is none."""
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in probe.get_params().items()}
    for name in PROBE_PRESETS:
        if ValueProbe.preset(name).get_params() == told:
            return name
    raise PoiseLabError(
        f"engine trl takes a probe by the name of its preset, {' or '.join(PROBE_PRESETS)}, not {probe!r}"
    )


def from_train_config(config: TrainConfig, out: Path, baseline: str, settings: dict) -> PoiseConfig:
    """The settings of `poise-lab train` as TRL's: the same batches, mini-batches, clips and optimizer.

    Raises PoiseLabError for another baseline, and for mini-batches that the processes cannot share.
    """
    if baseline != "poise":
        raise PoiseLabError(f"engine trl has the baseline poise only, not {baseline!r}; TRL's own trainers have others")
    names = {"responses": "num_generations", "probe": "poise_probe", "buffer_rows": "poise_buffer_rows"}
    names |= {name: f"poise_{name}" for name in ("warmup", "per_task")}
    if unknown := set(settings) - set(names):
        raise PoiseLabError(f"engine trl has no setting {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    chosen = {names[k]: v for k, v in settings.items()}
    if isinstance(chosen.get("poise_probe"), ValueProbe):  # from a run's config.json
        chosen["poise_probe"] = _preset_of(chosen["poise_probe"])
    processes = int(os.environ.get("WORLD_SIZE", 1))
    rows, responses = config.prompts * chosen.get("num_generations", 2), config.eval_responses
    if rows % (config.minibatches * processes):
        raise PoiseLabError(
            f"{rows} responses cannot be split into {config.minibatches} mini-batches on {processes} processes evenly; "
            "choose another number of prompts"
        )
    together = [
        n * responses // processes
        for n in range(min(EVALUATED_TOGETHER, config.eval_prompts), 0, -1)
        if config.eval_prompts % n == 0 and n * responses % processes == 0
    ]
    if responses < 2 or not together:
        raise PoiseLabError(
            f"eval_prompts={config.eval_prompts} and eval_responses={responses}: engine trl needs at least 2 responses "
            f"and prompts x responses to be a multiple of the {processes} processes"
        )
    m = config.minibatches
    return PoiseConfig(
        str(out), per_device_train_batch_size=rows // m // processes, steps_per_generation=m,
        per_device_eval_batch_size=together[0], num_generations_eval=responses, eval_strategy="steps",
        gradient_accumulation_steps=1, max_steps=config.steps * m, eval_steps=config.eval_every * m, logging_steps=m,
        save_steps=config.checkpoint_every * m, save_total_limit=2, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, lr_scheduler_type="constant", max_grad_norm=config.max_grad_norm,
        epsilon=config.clip_low, epsilon_high=config.clip_high, delta=config.dual_clip, beta=config.kl,
        loss_type={"token_mean": "dapo", "sequence_mean": "grpo"}[config.aggregation], seed=config.seed,
        max_completion_length=config.max_new_tokens, temperature=config.temperature, poise_layer=config.layer,
        poise_pool=config.pool, report_to="none", bf16=False, gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(), **chosen,
    )  # fmt: skip
