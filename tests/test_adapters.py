"""What a user does to a model before it is trained: an adapter in its layers (peft), gradient checkpointing."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from support import tiny_policy
from test_trainer import assert_same_run, trainer

import poise_lab as pl
from poise_lab.internals import forward_rows
from poise_lab.runs import keep_policy
from poise_lab.variance import read_scores

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # transformers' older names


def adapted(way: str, family: str = "qwen3", seed: int = 1, targets="all-linear", **changes) -> pl.Policy:
    """A tiny policy with an adapter that is not 0; `way` says who has put it in, and when."""
    policy = tiny_policy(family)
    model = policy.model
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, lora_dropout=0.5, **changes)
    torch.manual_seed(seed)
    if way.startswith("get_peft_model"):
        wrapped = get_peft_model(model, config)
    else:
        wrapped = model
        model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # large enough that log-probabilities without it are others
            torch.nn.init.normal_(parameter, std=0.2)
    return policy if way.endswith("afterwards") else pl.Policy(wrapped, policy.tokenizer, "adapted", "compact")


WAYS = ["get_peft_model", "add_adapter", "get_peft_model afterwards", "add_adapter afterwards"]


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3"])
@pytest.mark.parametrize("way", WAYS)
def test_an_adapter_is_sampled_scored_and_read(way, family, toys):
    policy = adapted(way, family)
    rollouts = pl.sample_rollouts(policy, toys, 2, max_new_tokens=8)
    read = pl.read_internals(policy, rollouts, 1, 1)
    assert (read.logprobs - rollouts.logprobs).abs().max() <= 1e-4
    prompt = torch.tensor([rollouts.prompt_ids[0]])
    states = policy.model(input_ids=prompt, output_hidden_states=True).hidden_states[2]
    assert torch.allclose(read.prompt[0, 0], states[0, -1], atol=1e-4)
    without = pl.read_internals(tiny_policy(family), rollouts, 1, 1)
    assert (read.logprobs - without.logprobs).abs().max() > 0.1 and not torch.allclose(read.prompt, without.prompt)


@pytest.mark.parametrize("way", WAYS[:2])
def test_only_the_adapter_moves_and_a_run_goes_on_bit_for_bit(way, tmp_path):
    policy = adapted(way)
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    whole = trainer(tmp_path / "whole", policy=policy)
    assert whole.trained and all("lora_" in name for name in whole.trained)
    whole.run()
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(whole.trained)
    trainer(tmp_path / "parts", policy=adapted(way), steps=2).run()
    again = adapted(way, seed=2)  # the adapter of a new process begins with other numbers
    trainer(tmp_path / "parts", policy=again, resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert all(torch.equal(p, again.model.state_dict()[name]) for name, p in policy.model.state_dict().items())


def lora(seed: int, alpha: int) -> pl.Policy:
    policy = tiny_policy()
    torch.manual_seed(seed)  # of one half of the adapter; the other begins at 0
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"])
    return pl.Policy(get_peft_model(policy.model, config), policy.tokenizer, policy.name, "compact")


def test_a_run_goes_on_with_an_adapter_of_its_settings(tmp_path):
    """Whatever it begins with: what it starts from computes the same, so a KL penalty's reference is the same, too."""
    for seed in (0, 1):
        trainer(tmp_path / f"r{seed}", policy=lora(seed, 8), steps=2, kl=0.5, seed=seed).run()
    with pytest.raises(pl.PoiseLabError, match="adapters.default.lora_alpha is 8 there and 64 here"):
        trainer(tmp_path / "r0", policy=lora(0, 64), kl=0.5, seed=0, resume=True)
    trainer(tmp_path / "r0", policy=lora(5, 8), kl=0.5, seed=0, resume=True).run()
    kept = json.loads((tmp_path / "r0" / "config.json").read_text())["adapters"]["default"]
    assert kept["r"] == 2 and not {"peft_version", "base_model_name_or_path"} & kept.keys()
    trainer(tmp_path / "r1", policy=lora(1, 8), kl=0.5, seed=1, resume=True).run()
    assert [row["seeds"] for row in pl.compare([pl.read_run(tmp_path / f"r{seed}") for seed in (0, 1)])] == [2]


@pytest.mark.parametrize("changes", [{}, dict(use_dora=True), dict(modules_to_save=["lm_head"])], ids=str)
@pytest.mark.parametrize("way", WAYS[:2])
def test_a_saved_policy_has_its_adapter(way, changes, toys, tmp_path):
    policy = adapted(way, "llama", **changes)
    rollouts = pl.sample_rollouts(policy, toys, 2, max_new_tokens=8)
    weights = {name: p.clone() for name, p in policy.model.named_parameters()}
    policy.save(tmp_path / "saved")
    assert all(torch.equal(p, weights[name]) for name, p in policy.model.named_parameters()), "saving changes nothing"
    loaded = pl.load_policy(tmp_path / "saved")
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    assert (pl.read_internals(loaded, rollouts).logprobs - rollouts.logprobs).abs().max() <= 1e-4


def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path):
    tied = adapted("add_adapter", targets=["q_proj", "lm_head"])  # its weights are those of the embeddings, too
    switched_off = adapted("add_adapter")
    switched_off.model.disable_adapters()
    for policy in (tied, switched_off):
        with pytest.raises(pl.PoiseLabError, match="adapter cannot be merged .*save it by peft's own"):
            policy.save(tmp_path / "saved")
        with pytest.warns(UserWarning, match="no final policy: .*adapter cannot be merged"):
            keep_policy(tmp_path, policy, finished=True)
        assert not any(tmp_path.iterdir())


def test_an_adapter_of_the_prompt_or_of_single_tokens_is_refused(tmp_path):
    policy = tiny_policy()
    model = get_peft_model(policy.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(pl.PoiseLabError, match="on single tokens .trainable_token_indices. cannot be saved"):
        adapted("get_peft_model", targets=["q_proj"], trainable_token_indices=[5, 6])
    later = adapted("add_adapter afterwards", targets=["q_proj"], trainable_token_indices=[5, 6])
    with pytest.raises(pl.PoiseLabError, match="on single tokens .trainable_token_indices. cannot be saved"):
        later.save(tmp_path / "policy")
    with pytest.raises(pl.PoiseLabError, match="type PROMPT_TUNING, which writes into the prompt; use .* LoRA"):
        pl.Policy(model, policy.tokenizer, "virtual", "compact")


def test_a_folder_of_an_adapter_alone(tmp_path):
    adapted("add_adapter").model.save_pretrained(tmp_path)
    with pytest.raises(pl.PoiseLabError, match="holds an adapter without its model"):
        pl.load_policy(tmp_path)


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy_of", [lambda: tiny_policy("qwen3", attention_dropout=0.5), lambda: adapted("get_peft_model")]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_gradient_checkpointing_in_a_run(when, policy_of, tmp_path):
    passes, gradients = [], []
    for enabled in (False, True):
        policy = policy_of()
        if enabled:
            policy.model.gradient_checkpointing_enable()
        if enabled and when == "before":
            policy = pl.Policy(policy.model, policy.tokenizer, "early", "compact")
        run = trainer(tmp_path / f"{enabled}", policy=policy, baseline="rloo", steps=1, minibatches=1, prompts=16)
        passes.append(0)

        def count(*_):
            passes[-1] += torch.is_grad_enabled()

        policy.layers[1].mlp.register_forward_pre_hook(count)
        step = run.optimizer.step

        def keep(step=step, run=run):  # not the weights: Adam's first step takes the sign of noise, too
            gradients.append({name: p.grad.clone() for name, p in run.trained.items()})
            step()

        run.optimizer.step = keep
        run.run()
    assert passes[1] == 2 * passes[0] > 0, "every pass with gradients is made twice"
    plain, again = gradients
    largest = max(float(g.abs().max()) for g in plain.values())
    assert largest > 0 and all(
        torch.allclose(again[name], g, rtol=1e-4, atol=1e-5 * largest) for name, g in plain.items()
    )


@pytest.mark.parametrize("policy", [tiny_policy("llama"), adapted("get_peft_model", "llama")], ids=["whole", "adapter"])
def test_scores_of_single_responses(policy, toys):
    """Of the weights that are trained, with gradient checkpointing as without."""
    rollouts = pl.sample_rollouts(policy, toys[:2], 3, max_new_tokens=6)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    expected = []
    for i in range(2):
        logprobs = [forward_rows(policy, rollouts, torch.tensor([3 * i + j]))[0].sum() for j in range(3)]
        flat = [torch.cat([g.flatten() for g in torch.autograd.grad(each, trained)]) for each in logprobs]
        expected.append(torch.stack(flat) @ torch.stack(flat).T)
    for _ in range(2):
        found = read_scores(policy, rollouts).within
        assert torch.allclose(found, torch.stack(expected), rtol=1e-3, atol=1e-3 * float(found.max()))
        policy.model.gradient_checkpointing_enable()
