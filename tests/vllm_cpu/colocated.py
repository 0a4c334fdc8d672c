"""`python -m poise_lab.trl` with vLLM in the same process, on the CPU; writes down what each batch was made of.

    python tests/vllm_cpu/colocated.py OUT DTYPE --use_vllm True --vllm_mode colocate --output_dir RUN ...

DTYPE is that of vLLM's weights; "auto", which is what TRL asks for, is bfloat16 for a policy in float32. OUT/<step>.safetensors,
step being the optimizer steps before the batch, holds its tokens, their log-probabilities by vLLM and by the policy, the
ratio that corrects for the difference, features, rewards, advantages, losses, and the policy's weights. "--no-shim" as the last
argument leaves TRL to hand the weights over by itself.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from trl.generation import vllm_generation
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from poise_lab.trl import launch
from poise_lab.trl.trainer import PoiseTrainer

# --- the shim --------------------------------------------------------------------------------------------------

plain_sync = vllm_generation.VLLMGeneration.sync_weights


def sync_weights(self) -> None:
    """TRL hands weights to `load_weights`, which on a CPU finds none to write to: they were dropped once they were packed.

    vLLM's own way of reloading makes them anew, and packs a layer when all of it has come. A head that is tied to the
    embedding gets none of its own, and is packed here.
    """
    runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
    initialize_layerwise_reload(runner.model)
    plain_sync(self)
    finalize_layerwise_reload(runner.model, runner.model_config)
    head = runner.model.lm_head
    head.quant_method.process_weights_after_loading(head)


# --- what is written down --------------------------------------------------------------------------------------

OF_A_BATCH = (
    "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "old_per_token_logps",
    "sampling_per_token_logps", "importance_sampling_ratio",
)  # fmt: skip


class Recorded(PoiseTrainer):
    out: Path

    def _gathered(self, *args):
        self.rollouts, self.internals = super()._gathered(*args)
        return self.rollouts, self.internals

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.batch = {name: output[name] for name in OF_A_BATCH}
        self.batch |= {"features": self.internals.features(), "rewards": self.rollouts.rewards}
        self.batch |= {f"policy/{name}": weight for name, weight in self._bare().named_parameters()}
        self.batch = {name: tensor.detach().clone().contiguous() for name, tensor in self.batch.items()}
        return output

    def _compute_loss(self, model, inputs):
        doubled = {**inputs, "importance_sampling_ratio": 2 * inputs["importance_sampling_ratio"]}
        losses = [super(Recorded, self)._compute_loss(model, each) for each in (doubled, inputs)]
        self.batch["losses"] = torch.stack(losses).detach()
        save_file(self.batch, self.out / f"{self.state.global_step}.safetensors")
        return losses[1]


def main(out: Path, dtype: str, argv: list[str]) -> int:
    out.mkdir(exist_ok=True)
    Recorded.out, launch.PoiseTrainer = out, Recorded
    if argv[-1] == "--no-shim":
        argv.pop()
    else:
        vllm_generation.VLLMGeneration.sync_weights = sync_weights
    # compiling takes a minute
    vllm_generation.LLM = functools.partial(vllm_generation.LLM, dtype=dtype, enforce_eager=True)
    return launch.main(argv)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
