"""PoiseTrainer in one process: its arguments, what it refuses and in which words, its checkpoints, an evaluation."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl import GRPOConfig

import poise_lab as pl
from poise_lab.errors import NotFiniteError
from poise_lab.trl import PoiseConfig, PoiseTrainer
from poise_lab.trl import config as settings_of_trl
from poise_lab.trl import trainer as module

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import tiny_policy  # noqa: E402

PLAIN = dict(
    report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, max_completion_length=12,
    logging_steps=1, learning_rate=1e-3, poise_pool=2, poise_warmup=1, save_strategy="no", lr_scheduler_type="constant",
)  # fmt: skip


def even(completions, **_):
    return [float(bool(c) and ord(c[0]) % 2 == 0) for c in completions]


def make(out, policy=None, rewards=even, rows=None, eval_rows=None, config=PoiseConfig, **settings) -> PoiseTrainer:
    policy = policy or tiny_policy()
    args = config(str(out), **{**PLAIN, "per_device_train_batch_size": 8, "max_steps": 3, **settings})
    data = Dataset.from_list(rows or [{"prompt": f"{i}+{i + 3}="} for i in range(12)])
    return PoiseTrainer(
        policy.model, rewards, args, data, eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=policy.tokenizer,
    )  # fmt: skip


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(
    ("name", "probe", "warmup"),
    [("paper", dict(ridge=0.01, pca_prompt=None), 1), ("release", dict(ridge=100.0, pca_prompt=32), 16)],
)
def test_presets(tmp_path, name, probe, warmup):
    config = PoiseConfig.preset(name, str(tmp_path), use_cpu=True, bf16=False)
    assert probe.items() <= config.baseline().template.get_params().items() and config.poise_warmup == warmup
    assert (config.num_generations, config.scale_rewards, config.loss_type) == (2, "none", "dapo")
    assert (config.epsilon, config.epsilon_high, config.delta, config.beta) == (0.2, 0.28, 10.0, 0.0)
    assert (config.max_completion_length, config.learning_rate, config.lr_scheduler_type) == (8192, 1e-6, "constant")
    other = PoiseConfig.preset(name, str(tmp_path), poise_warmup=3, max_completion_length=64, use_cpu=True, bf16=False)
    assert (other.poise_warmup, other.max_completion_length) == (3, 64)


@pytest.mark.parametrize(("depth", "layer"), [(36, 19), (12, 6), (5, 3), (4, 2), (3, 2), (1, 0)])
def test_default_layer_is_that_of_the_release(tmp_path, depth, layer):
    assert make(tmp_path, tiny_policy(layers=depth)).poise_layer == layer


@pytest.mark.parametrize(("steps_per_generation", "passes"), [(1, 3), (2, 0)])
def test_reads_states_whether_or_not_trl_takes_the_pass(tmp_path, steps_per_generation, passes):
    """Where a batch is one optimizer step TRL skips the pass: then it is our own, and the numbers are there all the same."""
    trainer = make(
        tmp_path, steps_per_generation=steps_per_generation, per_device_train_batch_size=8 // steps_per_generation,
        max_steps=3 * steps_per_generation,
    )  # fmt: skip
    trainer.train()
    assert logged(trainer, "poise/fitted") == [0.0, 1.0, 1.0]
    assert logged(trainer, "poise/buffer_rows") == [0.0, 8.0, 16.0]
    assert len(logged(trainer, "poise/seconds_pass")) == passes


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_families(tmp_path, family):
    trainer = make(tmp_path, tiny_policy(family), max_steps=2)
    trainer.train()
    assert logged(trainer, "poise/fitted") == [0.0, 1.0]


def evaluated(tmp_path, responses):
    """A trainer that has evaluated once, after its last step, on eight prompts."""
    trainer = make(
        tmp_path, eval_rows=[{"prompt": f"{i}-{i + 1}="} for i in range(8)], num_generations_eval=responses,
        per_device_eval_batch_size=8 * responses, eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer.train()
    return trainer


def test_an_evaluation_measures_and_teaches_nothing(tmp_path):
    trainer = evaluated(tmp_path, 4)
    (r,) = logged(trainer, "eval_poise/probe_r_partner")
    assert -1 <= r <= 1 and trainer.poise.steps == 3 and trainer.poise.buffers["all"].rows == 24


def test_an_evaluation_on_single_responses(tmp_path):
    trainer = evaluated(tmp_path, 1)
    assert len(logged(trainer, "eval_reward")) == 1 and not logged(trainer, "eval_poise/fitted")


def test_logged_advantages_are_the_ones_used(tmp_path):
    trainer = make(tmp_path, max_steps=2, steps_per_generation=1)
    used = []
    plain = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: used.append(plain(inputs)) or used[-1]
    trainer.train()
    assert list(trainer._logs["advantages"]) == pytest.approx(used[-1]["advantages"].tolist())


def test_predicts_once_per_batch(tmp_path, monkeypatch):
    predicted, plain = [], pl.ValueProbe.predict
    monkeypatch.setattr(pl.ValueProbe, "predict", lambda probe, X: predicted.append(probe) or plain(probe, X))
    make(tmp_path, max_steps=3).train()
    assert len(predicted) == 2  # of three batches the first has no probe


def test_checkpoint_holds_safetensors_and_json(tmp_path):
    trainer = make(tmp_path, save_strategy="steps", save_steps=3)
    trainer.train()
    state = load_file(tmp_path / "checkpoint-3" / "poise.safetensors")
    assert torch.equal(state["buffer/all/features"], trainer.poise.state_dict()["buffer/all/features"])
    settings = json.loads((tmp_path / "checkpoint-3" / "poise.json").read_text())
    assert settings["name"] == "poise" and settings["pool"] == 2
    again = make(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.poise.steps == 3 and torch.equal(
        torch.from_numpy(again.poise.probes["all"].coef_), torch.from_numpy(trainer.poise.probes["all"].coef_)
    )


def test_reward_functions_that_leave_rows_to_each_other(tmp_path):
    def short(completions, **_):
        return [float(len(c) > 3) if i % 4 < 2 else None for i, c in enumerate(completions)]

    def other(completions, **_):
        return [None if i % 4 < 2 else float(len(c) > 3) for i, c in enumerate(completions)]

    trainer = make(tmp_path, rewards=[short, other], max_steps=2)
    trainer.train()
    alone = make(
        tmp_path / "alone", rewards=lambda completions, **_: [float(len(c) > 3) for c in completions], max_steps=2
    )
    alone.train()
    assert logged(trainer, "reward") == logged(alone, "reward")
    targets = [t.poise.buffers["all"].data()[1].tolist() for t in (trainer, alone)]
    assert targets[0] == targets[1] and len(set(targets[0])) == 2


# --- what it refuses, in one sentence each -------------------------------------------------------


def refused(message: str, call, *args, **kwargs):
    with pytest.raises(pl.PoiseLabError) as e:
        call(*args, **kwargs)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_generations=1), "a response without a partner has no baseline; use 2 or more"),
        (dict(per_device_train_batch_size=3), "a batch of 3 responses"),
        (
            dict(per_device_train_batch_size=8, generation_batch_size=20),
            "generation_batch_size=20 cannot be split into parts of 8 (per_device_train_batch_size=8 x 1 processes)",
        ),
        (dict(generation_batch_size=16, steps_per_generation=2), "say the same thing; give one"),
        (
            dict(eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=6, num_generations_eval=4),
            "6 responses evaluated together (per_device_eval_batch_size=6 x 1 processes) leave a response without",
        ),
        (dict(auto_find_batch_size=True), "would tear responses from their partners"),
        (dict(scale_rewards="group"), "leave scale_rewards at 'none'"),
        (dict(multi_objective_aggregation="normalize_then_sum"), "leave scale_rewards at 'none'"),
        (dict(mask_truncated_completions=True), "hides responses from the probe"),
        (dict(poise_probe="papre"), "unknown probe preset 'papre'; known: paper, release"),
        (dict(poise_pool=0), "average at least 1 token"),
        (dict(poise_warmup=0), "warmup=0"),
        (dict(poise_buffer_rows=0), "buffer_rows=0"),
    ],
)
def test_settings_that_it_refuses(tmp_path, settings, message):
    refused(message, PoiseConfig, str(tmp_path), **{**PLAIN, **settings})


def test_unknown_preset(tmp_path):
    refused("unknown preset 'x'; known: paper, release", PoiseConfig.preset, "x", str(tmp_path))


def test_vllm_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_of_trl, "is_vllm_available", lambda: False)
    refused("use_vllm=True, but vLLM is not installed", PoiseConfig, str(tmp_path), **PLAIN, use_vllm=True)


def test_plain_config(tmp_path):
    with pytest.raises(pl.PoiseLabError, match="args is a GRPOConfig; PoiseTrainer takes a PoiseConfig"):
        PoiseTrainer(tiny_policy().model, even, GRPOConfig(str(tmp_path), use_cpu=True, bf16=False))


def test_layer_that_is_not_there(tmp_path):
    refused("poise_layer=3, but the policy has layers 0 to 2", make, tmp_path, poise_layer=3)


def test_layers_that_are_not_found(tmp_path):
    policy = tiny_policy()
    policy.model.model.blocks = policy.model.model.layers[:2]
    del policy.model.model.layers
    refused("has no list of decoder layers that can be found", make, tmp_path, policy)


@pytest.mark.parametrize(("family", "dropout"), [("gpt2", {}), ("llama", dict(attention_dropout=0.5))])
def test_nothing_is_dropped_at_random(tmp_path, family, dropout):
    """GPT-2 comes with a dropout of 0.1, which would move the ratio from 1 in the first update."""
    policy = tiny_policy(family, **dropout)
    ids = torch.arange(40)[None]

    def readings():
        policy.model.train()
        return policy.model(input_ids=ids).logits, policy.model(input_ids=ids).logits

    assert not torch.equal(*readings())
    make(tmp_path, policy)
    assert torch.equal(*readings())


def test_rewards_outside_0_to_1(tmp_path):
    for value in (2.0, -1.0, None):
        trainer = make(tmp_path, rewards=lambda completions, value=value, **_: [value] * len(completions))
        refused("rewards must lie in [0, 1], without NaN", trainer.train)


@pytest.mark.parametrize("given", [dict(tools=[even]), dict(environment_factory=dict)], ids=lambda d: next(iter(d)))
def test_tools_and_environments(tmp_path, given):
    args = PoiseConfig(str(tmp_path), **PLAIN)
    refused(f"{next(iter(given))}: a probe cannot tell", PoiseTrainer, tiny_policy().model, even, args, **given)


def test_masked_tokens_of_an_own_rollout(tmp_path):
    def rollout(prompts, trainer):
        n = len(prompts)
        return {
            "prompt_ids": [[5]] * n,
            "completion_ids": [[6, 7]] * n,
            "logprobs": [[0.0] * 2] * n,
            "env_mask": [[1, 0]] * n,
        }

    policy = tiny_policy()
    args = PoiseConfig(str(tmp_path), **{**PLAIN, "max_steps": 1})
    data = Dataset.from_list([{"prompt": f"{i}+1="} for i in range(8)])
    trainer = PoiseTrainer(policy.model, even, args, data, processing_class=policy.tokenizer, rollout_func=rollout)
    refused("env_mask: a probe cannot tell masked tokens", trainer.train)


def test_images(tmp_path, monkeypatch):
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1="}], "image": "x.png"} for i in range(8)]
    refused("leave the column of images out", make(tmp_path, rows=rows, remove_unused_columns=False).train)
    plain = module.GRPOTrainer.__init__

    def of_images(trainer, *args, **kwargs):  # as for a processor instead of a tokenizer
        plain(trainer, *args, **kwargs)
        trainer._is_vlm = True

    monkeypatch.setattr(module.GRPOTrainer, "__init__", functools.wraps(plain)(of_images))
    refused("reads text models; pass a tokenizer", make, tmp_path)


def test_adapter_with_a_penalty(tmp_path):
    policy = pl.load_policy("thinker")
    policy.model.peft_config, policy.model.get_base_model = {}, lambda: policy.model
    refused("set beta=0", make, tmp_path, policy, beta=0.1)
    assert make(tmp_path, policy, beta=0.0).poise_layer == 2


def test_several_gpus_for_one_process(tmp_path):
    args = PoiseConfig(str(tmp_path), **PLAIN)
    args._n_gpu = 4
    data = Dataset.from_list([{"prompt": "1+1="}] * 8)
    policy = tiny_policy()
    refused("one process sees 4 GPUs; start one for each with `accelerate launch`", PoiseTrainer, policy.model, even, args,
            data, processing_class=policy.tokenizer)  # fmt: skip


def test_states_that_are_not_finite(tmp_path):
    """The error comes with the batch, before its advantages are used, and says what it is."""
    trainer = make(tmp_path)

    def spoil(*_):
        trainer._read[3, 5] = torch.nan

    plain = trainer._gathered
    trainer._gathered = lambda *args: spoil() or plain(*args)
    with pytest.raises(NotFiniteError, match="features contain NaN or infinity"):
        trainer.train()
    assert trainer.state.global_step == 0 and trainer.poise.steps == 0


def test_column_of_tasks(tmp_path):
    trainer = make(tmp_path, poise_per_task=True)
    refused("needs a column 'task' in the dataset", trainer.train)


def test_checkpoint_without_our_state(tmp_path):
    make(tmp_path, save_strategy="steps", save_steps=3).train()
    (tmp_path / "checkpoint-3" / "poise.safetensors").unlink()
    refused("has no readable state of POISE", make(tmp_path, max_steps=4).train, str(tmp_path / "checkpoint-3"))


def test_checkpoint_of_other_settings(tmp_path):
    make(tmp_path, save_strategy="steps", save_steps=3).train()
    other = make(tmp_path, max_steps=4, poise_layer=1)
    refused("was made with other settings: layer is 2 there and 1 here", other.train, str(tmp_path / "checkpoint-3"))


def test_processes_whose_rows_differ(tmp_path):
    trainer = make(tmp_path)
    trainer.train()
    trainer._check_same_rows()
    trainer.accelerator.gather = lambda digest: torch.cat([digest, digest + 1])
    refused("have fitted their probes to different rows", trainer._check_same_rows)
