"""What `poise_lab.trl` assumes of TRL's internals, one test each. A failure says which assumption broke and where to look.

A plain GRPOTrainer runs a step with spies on it, so these fail for TRL's sake and not for ours.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections import deque

import pytest
import torch
import trl
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import poise_lab as pl

ROWS, CHUNK, RESPONSES = 8, 4, 2


def assumed(holds: bool, what: str, where: str) -> None:
    assert holds, (
        f"TRL {importlib.metadata.version('trl')} breaks an assumption of poise_lab/trl.py: {what}. "
        f"Look at {where} in trl/trainer, then at the method of PoiseTrainer that wraps it; trl==1.16.0 holds it."
    )


class Spied(GRPOTrainer):
    def __init__(self, *args, **kwargs):
        self.passes, self.layer_calls, self.rewards, self.outputs, self.inputs = [], [], [], [], []
        super().__init__(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        counted = []
        handle = self.model.model.layers[1].register_forward_hook(lambda m, a, out: counted.append(out))
        result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        handle.remove()
        self.passes.append((model is self.model, torch.is_grad_enabled(), args, kwargs, result))
        self.layer_calls.append(counted)
        return result

    def _calculate_rewards(self, *args, **kwargs):
        self.rewards.append(super()._calculate_rewards(*args, **kwargs))
        return self.rewards[-1]

    def _generate_and_score_completions(self, inputs):
        self.inputs.append(inputs)
        self.outputs.append(super()._generate_and_score_completions(inputs))
        self.logged_advantages = self._logs["advantages"]
        return self.outputs[-1]


@pytest.fixture(scope="module")
def spied(tmp_path_factory):
    policy, out = pl.load_policy("tiny"), tmp_path_factory.mktemp("spied")
    config = GRPOConfig(
        str(out), num_generations=RESPONSES, per_device_train_batch_size=CHUNK, steps_per_generation=2, max_steps=2,
        learning_rate=1e-4, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, save_steps=2,
        max_completion_length=40, disable_tqdm=True, logging_steps=1, shuffle_dataset=False,
    )  # fmt: skip
    problems = pl.load_task(pl.TINY_TASKS).sample(ROWS // RESPONSES, seed=0)
    data = Dataset.from_list([{"prompt": p.compact, "index": i} for i, p in enumerate(problems)])

    def right(completions, index, **_):
        return [problems[i].reward(c) for i, c in zip(index, completions, strict=True)]

    trainer = Spied(policy.model, right, config, data, processing_class=policy.tokenizer)
    trainer.train()
    return trainer, out


def test_arguments_of_the_log_prob_pass():
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    expected = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"]
    assumed(
        names[:7] == expected, f"the log-prob pass takes {expected}", "GRPOTrainer._get_per_token_logps_and_entropies"
    )


def test_log_prob_pass_returns_three(spied):
    _, _, args, kwargs, result = spied[0].passes[0]
    where = "GRPOTrainer._get_per_token_logps_and_entropies"
    assumed(isinstance(result, tuple) and len(result) == 3, "the log-prob pass returns a 3-tuple", where)
    ids, mask, keep = args[:3]
    assumed(result[0].shape == (len(ids), keep), "its first is (rows, response tokens)", where)
    with torch.no_grad():
        entropy = spied[0]._get_per_token_logps_and_entropies(spied[0].model, ids, mask, keep, CHUNK, True)[1]
    assumed(entropy.shape == (len(ids), keep), "its second is the entropies when asked for them", where)
    logits = spied[0].model(input_ids=ids, attention_mask=mask).logits[:, -keep - 1 : -1].log_softmax(-1)
    expected = -(logits.exp() * logits).sum(-1)
    valid = mask[:, -keep:].bool()
    assumed(
        bool(torch.allclose(entropy[valid], expected[valid], atol=1e-4)),
        "entropies are in nats, at the token's place",
        where,
    )


def test_policy_is_scored_without_gradients_before_the_update(spied):
    first, grad, *_ = spied[0].passes[0]
    assumed(
        first and not grad,
        "the first pass after sampling is of self.model, under no_grad",
        "_generate_and_score_completions",
    )


def test_layers_are_called_once_per_chunk(spied):
    sizes = [len(out[0] if isinstance(out, tuple) else out) for out in spied[0].layer_calls[0]]
    assumed(sizes == [CHUNK] * (ROWS // CHUNK), "a decoder layer is called once per chunk of rows, in order",
            "_get_per_token_logps_and_entropies and add_fused_lm_head")  # fmt: skip


def test_rewards_are_those_of_all_rows(spied):
    rewards = spied[0].rewards[0]
    assumed(
        rewards.shape == (ROWS, 1),
        "_calculate_rewards gives (rows of all processes, functions)",
        "GRPOTrainer._calculate_rewards",
    )
    assumed(spied[0].reward_weights.shape == (1,), "reward_weights holds a weight per function", "GRPOTrainer.__init__")


def test_siblings_lie_side_by_side(spied):
    index = [row["index"] for row in spied[0].inputs[0]]
    assumed(index == sorted(index) and all(index.count(i) == RESPONSES for i in index),
            "the responses to a prompt are neighbours in a batch", "RepeatSampler and GRPOTrainer._get_train_sampler")  # fmt: skip


def test_batch_of_rows_and_its_padding(spied):
    output, where = spied[0].outputs[0], "GRPOTrainer._generate_and_score_completions"
    needed = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"}
    assumed(needed <= set(output), f"a scored batch has {sorted(needed)}", where)
    assumed(output["advantages"].shape == (ROWS,), "advantages are one per row of this process", where)
    prompt, response = output["prompt_mask"], output["completion_mask"]
    assumed(bool((prompt.diff(dim=1) >= 0).all()), "prompts are padded on the left", where)
    assumed(bool((response.diff(dim=1) <= 0).all()), "responses are padded on the right", where)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    assumed(torch.equal(spied[0].passes[0][2][0], ids), "the pass is given prompt and response side by side", where)


def test_advantages_are_read_from_the_batch(spied):
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assumed('inputs["advantages"]' in source, "the loss takes inputs['advantages']", "GRPOTrainer._compute_loss")


def test_logs_and_metrics(spied):
    trainer = spied[0]
    assumed(isinstance(trainer.logged_advantages, deque) and len(trainer.logged_advantages) == ROWS,
            "_logs['advantages'] is a deque of the batch's advantages", "GRPOTrainer.__init__")  # fmt: skip
    trainer._metrics["train"]["poise/probe"].append(0.5)
    trainer.log({})
    assumed(
        trainer.state.log_history[-1].get("poise/probe") == 0.5,
        "_metrics['train'] is averaged into the log",
        "GRPOTrainer.log",
    )


def test_names_of_the_trainer(spied):
    for name in ("_tokenizer", "_is_vlm", "num_generations", "num_generations_eval", "beta"):
        assumed(hasattr(spied[0], name), f"GRPOTrainer has {name}", "GRPOTrainer.__init__")


def test_checkpoints(spied):
    trainer, out = spied
    for name, arguments in (
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
    ):
        found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
        assumed(
            found == arguments, f"{name} takes {arguments}", f"{name} in grpo_trainer.py and transformers/trainer.py"
        )
    folder = out / "checkpoint-2"
    assumed((folder / "trainer_state.json").is_file(), "a checkpoint is <output_dir>/checkpoint-<step> with a trainer_state.json",
            "_save_checkpoint in transformers/trainer.py")  # fmt: skip


def test_odd_batches_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError) as e:
        GRPOConfig(str(tmp_path), num_generations=2, per_device_train_batch_size=3, use_cpu=True, bf16=False)
    assumed("divisible by num_generations" in str(e.value), "GRPOConfig refuses batches that are no whole groups",
            "GRPOConfig.__post_init__")  # fmt: skip


def test_vllm_is_asked_for_by_name():
    from trl import import_utils

    assumed(
        callable(getattr(import_utils, "is_vllm_available", None)),
        "trl.import_utils has is_vllm_available",
        "trl/import_utils.py",
    )


def test_fields_that_poise_sets_exist():
    fields = GRPOConfig.__dataclass_fields__
    for name in (
        "scale_rewards",
        "loss_type",
        "epsilon_high",
        "delta",
        "multi_objective_aggregation",
        "mask_truncated_completions",
    ):
        assumed(name in fields, f"GRPOConfig has {name}", "GRPOConfig")


def test_the_message_of_a_broken_assumption_says_where_to_look():
    with pytest.raises(AssertionError, match=r"TRL .* breaks an assumption of poise_lab/trl.py: x\. Look at y"):
        assumed(False, "x", "y")
    assert trl.GRPOTrainer is GRPOTrainer
