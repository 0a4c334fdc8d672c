"""What `poise_lab.trl` assumes of TRL's internals, one test each. A failure says which assumption broke and where to look.

A plain GRPOTrainer runs a step with spies on it, so these fail for TRL's sake and not for ours.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections import deque
from types import SimpleNamespace

import pytest
import torch
import trl
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import poise_lab as pl

ROWS, CHUNK, RESPONSES = 8, 4, 2


def assumed(holds: bool, what: str, where: str) -> None:
    assert holds, (
        f"TRL {importlib.metadata.version('trl')} breaks an assumption of poise_lab/trl/trainer.py: {what}. "
        f"Look at {where} in trl/trainer, then at the method of PoiseTrainer that wraps it; trl==1.16.0 holds it."
    )


class Spied(GRPOTrainer):
    """Keeps what the wrapped methods are given and return. Whatever is missing at the end is an assumption that broke."""

    def __init__(self, *args, **kwargs):
        self.passes, self.layer_calls, self.rewards, self.outputs, self.inputs = [], [], [], [], []
        self.losses, self.loaded, self.eval_passes = [], [], []
        super().__init__(*args, **kwargs)

    def _compute_loss(self, model, inputs):
        if model.training:
            self.losses.append(inputs)
        return super()._compute_loss(model, inputs)

    def _load_optimizer_and_scheduler(self, checkpoint):
        self.loaded.append(checkpoint)
        return super()._load_optimizer_and_scheduler(checkpoint)

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        counted = []
        handle = self.model.model.layers[1].register_forward_hook(lambda m, a, out: counted.append(out))
        result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        handle.remove()
        kept = self.passes if self.model.training else self.eval_passes
        kept.append((model is self.model, torch.is_grad_enabled(), args, kwargs, result))
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


def trained(out, resume: str | None = None, steps: int = 2) -> Spied:
    """A trainer that has taken two optimizer steps on one batch, evaluated once, and saved a checkpoint."""
    policy = pl.load_policy("thinker")
    config = GRPOConfig(
        str(out), num_generations=RESPONSES, per_device_train_batch_size=CHUNK, steps_per_generation=2, max_steps=steps,
        learning_rate=1e-4, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, save_steps=2,
        max_completion_length=40, disable_tqdm=True, logging_steps=1, shuffle_dataset=False, eval_strategy="steps",
        eval_steps=2, per_device_eval_batch_size=ROWS, reward_weights=[0.75, 0.25],
    )  # fmt: skip
    problems = pl.load_task(pl.TINY_TASKS).sample(ROWS // RESPONSES, seed=0)
    data = Dataset.from_list([{"prompt": p.compact, "index": i} for i, p in enumerate(problems)])

    def right(completions, index, **_):
        return [problems[i].reward(c) for i, c in zip(index, completions, strict=True)]

    def short(completions, index, **_):
        return [None if i == 0 else float(len(c) < 20) for i, c in zip(index, completions, strict=True)]

    trainer = Spied(policy.model, [right, short], config, data, eval_dataset=data, processing_class=policy.tokenizer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def spied(tmp_path_factory):
    out = tmp_path_factory.mktemp("spied")
    try:
        trainer = trained(out)
    except Exception as e:
        assumed(
            False,
            f"a GRPOTrainer with these methods wrapped trains and evaluates ({type(e).__name__}: {e})",
            "GRPOTrainer",
        )
    where = "GRPOTrainer._prepare_inputs and _generate_and_score_completions"
    assumed(len(trainer.outputs) == 2, "a batch is scored by one call of _generate_and_score_completions", where)
    assumed(len(trainer.passes) > 0, "where a batch is several optimizer steps, the sampled tokens are scored by "
            "_get_per_token_logps_and_entropies before the update", where)  # fmt: skip
    assumed(len(trainer.rewards) == 2, "the rewards come from _calculate_rewards", where)
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
        rewards.shape == (ROWS, 2),
        "_calculate_rewards gives (rows of all processes, functions)",
        "GRPOTrainer._calculate_rewards",
    )
    assumed(spied[0].reward_weights.shape == (2,), "reward_weights holds a weight per function", "GRPOTrainer.__init__")


def test_reward_is_the_weighted_sum(spied):
    """Ours leaves out the functions that gave none, and so does the reward that TRL logs."""
    trainer = spied[0]
    ours = (trainer.rewards[0] * trainer.reward_weights.to(trainer.rewards[0].device)).nansum(1)
    logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assumed(len(logged) > 0 and trainer.rewards[0].isnan().any().item() and abs(logged[0] - ours.mean().item()) < 1e-5,
            "a reward is the sum over reward functions with their weights, without those that gave None",
            "GRPOTrainer._generate_and_score_completions")  # fmt: skip


def test_rows_and_advantages_are_shuffled_together(spied):
    """Between scoring and loss TRL shuffles a batch: every row must keep the advantage that it was given."""
    scored, used = spied[0].outputs[0], spied[0].losses
    where = "GRPOTrainer._prepare_inputs and shuffle_sequence_dict"
    needed = {"advantages", "completion_ids", "completion_mask", "prompt_ids", "old_per_token_logps"}
    assumed(all(needed <= set(part) for part in [scored, *used]), f"a batch has {sorted(needed)}", where)
    assumed(sum(len(part["advantages"]) for part in used) == ROWS, "each row of a batch is used once", where)

    def rows(part):
        n = part["completion_mask"].sum(1).tolist()
        return [
            (tuple(ids[:k].tolist()), tuple(prompt.tolist()), round(a.item(), 6), tuple(old[:k].tolist()))
            for ids, k, prompt, a, old in zip(
                part["completion_ids"],
                n,
                part["prompt_ids"],
                part["advantages"],
                part["old_per_token_logps"],
                strict=True,
            )
        ]

    assumed(
        sorted(rows(scored)) == sorted(row for part in used for row in rows(part)),
        "rows, their advantages and their old log-probabilities are shuffled together",
        where,
    )


def test_an_evaluation_makes_the_pass_too(spied):
    """Where training makes it: so an evaluation reads states at no cost. (Where it makes none, ours is made.)"""
    passes = [p for p in spied[0].eval_passes if len(p[2][1]) == ROWS]
    assumed(len(passes) > 0 and passes[0][0] and not passes[0][1],
            "an evaluation scores its responses by the same pass, of self.model and without gradients",
            "_generate_and_score_completions")  # fmt: skip


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
    trainer.model.train()
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


def test_resume_loads_our_state(spied, tmp_path):
    out = spied[1]
    checkpoint = str(out / "checkpoint-2")
    again = trained(tmp_path, checkpoint, 3)
    assumed(again.loaded == [checkpoint] and len(again.losses) == 1,
            "a run that is resumed calls _load_optimizer_and_scheduler(checkpoint) once, before its first step",
            "Trainer._inner_training_loop in transformers/trainer.py")  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(per_device_train_batch_size=3), "divisible by num_generations"),
        (dict(per_device_train_batch_size=8, generation_batch_size=20), "divisible by the global batch size"),
        (dict(generation_batch_size=16, steps_per_generation=2), "can not be both configured"),
        (
            dict(eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=3),
            "divisible by the number of generations used for evaluation",
        ),
        (dict(auto_find_batch_size=True), "auto_find_batch_size"),
    ],
)
def test_odd_batches_are_refused_by_name(tmp_path, settings, words):
    with pytest.raises(ValueError) as e:
        GRPOConfig(str(tmp_path), num_generations=2, use_cpu=True, bf16=False, **settings)
    assumed(words in " ".join(str(e.value).split()), f"GRPOConfig refuses such batches with the words {words!r}",
            "GRPOConfig.__post_init__")  # fmt: skip


def test_arguments_that_are_refused():
    names = inspect.signature(GRPOTrainer.__init__).parameters
    assumed(
        {"tools", "environment_factory"} <= set(names),
        "GRPOTrainer takes tools and environment_factory",
        "GRPOTrainer.__init__",
    )
    source = inspect.getsource(GRPOTrainer)
    assumed('output["tool_mask"]' in source and '"env_mask"' in source, "masked tokens of a rollout come as output['tool_mask']",
            "GRPOTrainer._generate and _generate_and_score_completions")  # fmt: skip
    assumed(
        "DataParallel" in source,
        "several GPUs for one process are refused with the word DataParallel",
        "GRPOTrainer.__init__",
    )


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
    with pytest.raises(AssertionError, match=r"TRL .* breaks an assumption of poise_lab/trl/trainer.py: x\. Look at y"):
        assumed(False, "x", "y")
    assert trl.GRPOTrainer is GRPOTrainer


def test_a_release_without_a_wrapped_method_breaks_by_name(tmp_path_factory, monkeypatch):
    """Not with a KeyError or the like: the fixture itself says what was assumed."""
    monkeypatch.delattr(GRPOTrainer, "_calculate_rewards")
    with pytest.raises(
        AssertionError, match=r"breaks an assumption .* trains and evaluates \(AttributeError: .*_calculate_rewards"
    ):
        spied.__wrapped__(tmp_path_factory)


@pytest.mark.parametrize(
    ("lost", "check"),
    [
        ("advantages", test_batch_of_rows_and_its_padding),
        ("prompt_mask", test_batch_of_rows_and_its_padding),
        ("old_per_token_logps", test_rows_and_advantages_are_shuffled_together),
    ],
)
def test_a_key_that_is_gone_breaks_by_name(spied, lost, check):
    without = [{k: v for k, v in output.items() if k != lost} for output in spied[0].outputs]
    other = SimpleNamespace(outputs=without, losses=spied[0].losses, passes=spied[0].passes)
    with pytest.raises(AssertionError, match="breaks an assumption"):
        check((other, spied[1]))
