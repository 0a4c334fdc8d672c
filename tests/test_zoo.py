"""Architectures of transformers with random weights: every way through a model gives the numbers of its own plain pass.

For each either all is right (sampled and scored log-probabilities, entropies, layer states, gradients, with and without
padding, with a beginning in common, with windows shorter than the prompts), or the model is refused with a sentence.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from support import EOS, PAD, ToyProblem, assert_close, response
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

import poise_lab as pl
from poise_lab.engine import decoder_layers, trunk_of
from poise_lab.internals import batches_by_length, forward_rows
from poise_lab.models.pretrain import character_tokenizer
from poise_lab.variance import adam_scale, read_scores
from poise_lab.variance.scores import _modules_tell
from poise_lab.ways import Comparison

SHARED = dict(
    vocab_size=101, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128, bos_token_id=1, eos_token_id=EOS, pad_token_id=PAD,
)  # fmt: skip
OLD = dict(n_embd=16, n_layer=3, n_head=4, n_positions=128)  # the names of GPT-2's time
MOE = dict(
    num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1,
    topk_group=1, n_shared_experts=1, first_k_dense_replace=1,
)  # fmt: skip
MLA = dict(
    kv_lora_rank=8, q_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, num_key_value_heads=4, head_dim=4
)  # fmt: skip
LINEAR = dict(
    linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
)  # fmt: skip
SEQ2SEQ = dict(
    d_model=16, encoder_layers=2, decoder_layers=3, decoder_attention_heads=4, encoder_attention_heads=4, decoder_ffn_dim=32,
    encoder_ffn_dim=32,
)  # fmt: skip
MAMBA = dict(mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_expand=2, mamba_chunk_size=8)
WINDOW = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
NARROW = dict(sliding_window=8)

RIGHT = {  # name: what its config needs; a last part that names no type tells two of one apart
    "afmoe": MOE, "apertus": {}, "arcee": {}, "bamba": dict(**MAMBA, attn_layer_indices=[1]),
    "bart": dict(**SEQ2SEQ, is_decoder=True), "bert": dict(is_decoder=True), "biogpt": {}, "bloom": {},
    "codegen": dict(**OLD, rotary_dim=4), "cohere": dict(logit_scale=0.1), "cohere2": dict(**WINDOW, logit_scale=0.1),
    "ctrl": dict(**OLD, dff=32), "deepseek_v2": MOE | MLA, "deepseek_v3": MOE | MLA,
    "deepseek_v32": dict(**MOE | MLA, index_n_heads=2, index_head_dim=8, index_topk=80), "diffllama": {}, "doge": {},
    "dots1": MOE, "ernie4_5": {}, "ernie4_5_moe": MOE, "exaone4": WINDOW, "falcon": dict(head_dim=None),
    "falcon_alibi": dict(head_dim=None, alibi=True), "falcon_h1": dict(**MAMBA, mamba_d_ssm=32), "flex_olmo": MOE,
    "gemma": {}, "gemma2": dict(**WINDOW, final_logit_softcapping=3.0), "gemma3_text": WINDOW,
    "gemma4_text": dict(
        vocab_size_per_layer_input=101, hidden_size_per_layer_input=8, global_head_dim=16, sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    "glm": {}, "glm4": {}, "glm4_moe": MOE, "gpt2": OLD, "gpt_bigcode": OLD,
    "gpt_neo": dict(num_layers=3, attention_types=[[["global", "local", "global"], 1]], window_size=8),
    "gpt_neox": dict(head_dim=4), "gpt_oss": dict(**MOE, **NARROW), "gptj": dict(**OLD, rotary_dim=4),
    "granite": dict(logits_scaling=4.0), "granitemoe": dict(**MOE, logits_scaling=4.0),
    "granitemoehybrid": dict(**MOE, **MAMBA, layer_types=["mamba", "attention", "mamba"], shared_intermediate_size=16),
    "helium": dict(num_key_value_heads=4, head_dim=4), "hunyuan_v1_dense": {}, "hyperclovax": dict(logits_scaling=4.0),
    "jamba": dict(**MOE, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, use_mamba_kernels=False),
    "kimi_linear": dict(
        **MOE | MLA | dict(q_lora_rank=None), linear_head_dim=8, linear_num_heads=2,
        layer_types=["linear_attention", "full_attention", "linear_attention"], mlp_layer_types=["dense", "sparse", "sparse"],
    ),
    "lfm2": dict(layer_types=["conv", "full_attention", "conv"]), "llama": {},
    "llama4_text": dict(
        **MOE, intermediate_size_mlp=32, attention_chunk_size=8,
        layer_types=["chunked_attention", "full_attention", "chunked_attention"],
    ),
    "minicpm3": dict(**MLA, dim_model_base=8),
    "minimax": dict(**MOE, layer_types=["linear_attention", "full_attention", "linear_attention"], block_size=8),
    "mistral": NARROW, "mixtral": dict(**MOE, **NARROW),
    "modernbert-decoder": dict(head_dim=4, cls_token_id=1, sep_token_id=1, local_attention=16, global_attn_every_n_layers=2),
    "moshi": dict(**NARROW, ffn_dim=32),  # it has a window in its config, and none in its pass
    "mpt": dict(d_model=16, n_heads=4, n_layers=3, max_seq_len=128), "nanochat": {}, "nemotron": {}, "olmo": {},
    "olmo2": {}, "olmo3": WINDOW, "olmoe": dict(**MOE, head_dim=4), "openai-gpt": OLD,
    "opt": dict(ffn_dim=32, word_embed_proj_dim=16), "opt_projected": dict(ffn_dim=32, word_embed_proj_dim=8),
    "phi": {}, "phi3": NARROW, "phimoe": MOE, "qwen2": {}, "qwen2_moe": dict(**MOE, shared_expert_intermediate_size=16),
    "qwen3": {}, "qwen3_5_text": LINEAR, "qwen3_moe": MOE, "qwen3_next": MOE | LINEAR,
    "qwen4_exp_text": MOE | LINEAR | dict(  # states are several streams side by side
        shared_expert_intermediate_size=16, indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=80,
        indexer_compress_ratio=4,
    ),
    "recurrent_gemma": dict(attention_window_size=8, lru_width=16, block_types=["recurrent", "attention"]),
    "roberta": dict(is_decoder=True), "seed_oss": {}, "smollm3": {}, "stablelm": {}, "starcoder2": NARROW, "xglm": dict(d_model=16, ffn_dim=32, num_layers=3, attention_heads=4), "xlstm": dict(num_heads=2, num_blocks=3), "youtu": MLA,
}  # fmt: skip
# of these, scores are read by a backward pass for each response
ROW_BY_ROW = set(
    "afmoe apertus bamba bart bert biogpt ctrl deepseek_v2 deepseek_v3 deepseek_v32 diffllama doge dots1 ernie4_5_moe falcon_h1 "
    "flex_olmo glm4_moe gpt_oss granitemoe granitemoehybrid jamba kimi_linear lfm2 llama4_text minimax mixtral olmoe opt "
    "opt_projected phimoe qwen2_moe qwen3_5_text qwen3_moe qwen3_next qwen4_exp_text recurrent_gemma roberta xlstm".split()
)
REFUSED = {
    "mamba": (dict(state_size=8), "'mamba' .*states of the decoder layers"),
    "mamba2": (dict(num_heads=4, head_dim=8, state_size=8, n_groups=1, chunk_size=8), "'mamba2' .*states of the decoder"),
    "rwkv": (dict(attention_hidden_size=16, context_length=128), "'rwkv' .*states of the decoder layers"),
    "gemma3n_text": (
        dict(
            num_hidden_layers=4, num_kv_shared_layers=2, layer_types=["sliding_attention", "full_attention"] * 2,
            hidden_size_per_layer_input=8, vocab_size_per_layer_input=101, laurel_rank=4, activation_sparsity_pattern=None,
        ),
        "'gemma3n_text' .*states of the decoder layers",
    ),
    "bert": ({}, "'bert' .*what comes later"),
    "xlnet": (dict(d_model=16, n_layer=3, n_head=4, d_inner=32, max_position_embeddings=None), "'xlnet' .*what comes later"),
    "cpmant": (dict(dim_head=8, num_attention_heads=4, dim_ff=32), "'cpmant' .*what comes later"),
}  # fmt: skip


def zoo_policy(name: str, changes: dict, dtype=torch.float32, seed: int = 0) -> pl.Policy:
    """A random policy of a few thousand parameters, whose distributions are far from uniform."""
    kind = name.removesuffix("_alibi").removesuffix("_projected")
    settings = {key: value for key, value in (SHARED | changes).items() if value is not None}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).to(dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.eos_token_id = [EOS, 20, 40, 60, 80]
    return pl.Policy(model, character_tokenizer(), f"random-{name}", "compact")


def problems_of(beginning: int, lengths) -> list[ToyProblem]:
    start = "".join(chr(97 + 7 * i % 26) for i in range(beginning))
    return [ToyProblem(start + "".join(chr(65 + (5 * i + n) % 26) for i in range(n))) for n in lengths]


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


PROMPTS = {
    "padded": problems_of(0, (3, 12, 7)),
    "of one length": problems_of(0, (11, 11)),
    "one beginning": problems_of(40, (2, 9)),
}


def assert_right(policy: pl.Policy, problems) -> None:
    model, layer, pool = policy.model, 1, 3
    rollouts = pl.sample_rollouts(policy, problems, 2, seed=1, max_new_tokens=10, keep=(layer, pool))
    read = pl.read_internals(policy, rollouts, layer, pool)
    assert_close(rollouts.internals, read)
    loss, n = 0.0, rollouts.responses
    weights = torch.randn(rollouts.response_ids.shape, generator=torch.Generator().manual_seed(0))
    for i, prompt in enumerate(rollouts.prompt_ids):
        for j in range(n):
            tokens, at = response(rollouts, i, j), len(prompt)
            out = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False, output_hidden_states=True)
            logprobs = out.logits[0, at - 1 : -1].float().log_softmax(-1)
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            logprobs = logprobs[range(len(tokens)), tokens]
            loss = loss + (weights[i, j, : len(tokens)] * logprobs).sum()
            states = out.hidden_states[layer + 1][0].detach()
            kept = slice(0, len(tokens))
            assert (rollouts.logprobs[i, j, kept] - logprobs).abs().max() <= 1e-4
            assert (read.token_entropy[i, j, kept] - entropy).abs().max() <= 1e-4
            scale = states.abs().max()
            assert (read.prompt[i, j] - states[at - pool : at].mean(0)).abs().max() <= 1e-4 * scale
            end = at + int(rollouts.reasoning_lengths[i, j])
            last = states[max(at, end - pool) : end].mean(0)
            assert (read.reasoning[i, j] - last).abs().max() <= 1e-4 * scale
    expected = gradients(model, loss)
    found = gradients(
        model, (forward_rows(policy, rollouts, torch.arange(n * len(problems)))[0] * weights.flatten(0, 1)).sum()
    )
    assert_near(found, expected)


def assert_near(found: dict, expected: dict) -> None:
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found.get(name, torch.zeros(())), gradient, rtol=1e-3, atol=1e-4 * largest), name


@pytest.mark.parametrize("name", RIGHT)
def test_right_in_every_way(name):
    policy = zoo_policy(name, RIGHT[name])
    for problems in PROMPTS.values():
        assert_right(policy, problems)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # transformers' older names
@pytest.mark.parametrize("name", RIGHT)
def test_gradient_checkpointing_leaves_the_gradients_and_keeps_less(name):
    policy = zoo_policy(name, RIGHT[name])
    if not policy.model.supports_gradient_checkpointing:
        pytest.skip("transformers has none for it")
    rollouts = pl.sample_rollouts(policy, PROMPTS["one beginning"], 2, seed=1, max_new_tokens=10)
    passes, found, layer = [], [], policy.layers[1]
    for enabled in (False, True):
        if enabled:
            policy.model.gradient_checkpointing_enable()
        with count_passes(next(m for m in layer.modules() if m is not layer and not list(m.children()))) as counted:
            logprobs, _ = forward_rows(policy, rollouts, torch.arange(4))
            found.append(gradients(policy.model, logprobs.sum()))
        passes.append(len(counted))
    assert passes[1] == 2 * passes[0] > 0
    assert_near(found[1], found[0])
    assert not any(module.training for module in policy.model.modules())


@contextlib.contextmanager
def count_passes(module):
    counted = []
    handle = module.register_forward_pre_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["qwen3_5_text", "qwen3_next", "bamba", "lfm2"])
def test_states_that_round_differently_step_by_step(name, seed):
    """A recurrence token by token and in chunks: in long responses, one token in a hundred is ten times as far off."""
    policy = zoo_policy(name, RIGHT[name], seed=seed)
    rollouts = pl.sample_rollouts(policy, problems_of(20, (2, 9, 14)), 4, seed=seed, max_new_tokens=60)
    assert (pl.read_internals(policy, rollouts, 1, 3).logprobs - rollouts.logprobs).abs().max() <= 1e-4
    assert policy.ways.sampling == ("rows" if name in ("bamba", "lfm2") else "whole")


@pytest.mark.parametrize(
    "name, window",
    [
        ("gpt_neo", "window_size"),
        ("gemma3_text", "sliding_window"),
        ("mistral", "sliding_window"),
        ("llama4_text", "attention_chunk_size"),
        ("modernbert-decoder", "local_attention"),
    ],
)
def test_windows_that_the_comparison_does_not_reach(name, window):
    """Longer than its probes, shorter than the prompts: padding behind the beginning would count as part of a window."""
    policy = zoo_policy(name, RIGHT[name] | {window: 52 if window != "local_attention" else 2 * 52})  # to both sides
    assert policy.ways.sampling == "shared"
    assert_right(policy, problems_of(50, (2, 14)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name, cap",
    [("gemma2", "final_logit_softcapping"), ("recurrent_gemma", "logits_soft_cap"), ("xlstm", "output_logit_soft_cap")],
)
def test_a_cap_that_the_first_logits_do_not_reach(name, cap, dtype):
    """Training may: so heads are compared over larger states than those of the model at hand."""
    policy = zoo_policy(name, RIGHT[name] | {cap: 200.0}, dtype)
    assert not policy.ways.plain_head
    assert zoo_policy("llama", {}, dtype).ways.plain_head


def test_half_precision_is_compared_in_proportion_to_the_logits():
    """A beginning in common and windows of 8, whose logits are small: what is off is off by less than 0.5."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        ways = zoo_policy("cohere2", RIGHT["cohere2"], dtype).ways
        assert (ways.sampling, ways.packs) == ("rows", False), dtype


def test_no_row_is_longer_than_what_an_index_picks():
    """Of two tokens that the index likes as well, rounding picks one: the same row is read in two ways."""
    for name, changes, limit in (
        ("doge", dict(keep_window_size=45), 45),
        ("deepseek_v32", dict(index_topk=45), 45),
        ("minimax_m3_vl_text", dict(**MOE, index_topk_blocks=3, index_block_size=15, num_mtp_modules=0), 45),
    ):
        policy = zoo_policy(name, RIGHT.get(name, {}) | changes)
        assert policy.context == limit
        assert_right(policy, problems_of(0, (3, 33)))
        with pytest.raises(pl.PoiseLabError, match="is longer than the context of 45"):
            pl.sample_rollouts(policy, PROMPTS["one beginning"])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_sentence(name):
    changes, words = REFUSED[name]
    policy = zoo_policy(name, changes)
    with pytest.raises(pl.PoiseLabError, match=words):
        pl.sample_rollouts(policy, PROMPTS["padded"])


@pytest.mark.parametrize("name", ["opt_projected", "qwen4_exp_text", "llama"])
def test_a_critic_reads_states_of_any_width(name):
    policy, critic = zoo_policy(name, RIGHT[name]), pl.make_baseline("critic")
    critic.start(policy)
    rollouts = pl.sample_rollouts(policy, PROMPTS["padded"], 1, max_new_tokens=5)
    assert critic.values(rollouts, None).tolist() == [[0.5]] * 3
    critic.update(rollouts, None)
    assert (critic.values(rollouts, None) != 0.5).all()


@pytest.mark.parametrize("name", RIGHT)
def test_scores_are_those_of_a_backward_pass(name):
    policy = zoo_policy(name, RIGHT[name])
    rollouts = pl.sample_rollouts(policy, problems_of(4, (2, 9)), 2, seed=0, max_new_tokens=5)
    scores = read_scores(policy, rollouts)
    trained = [q for q in policy.model.parameters() if q.requires_grad]
    assert _modules_tell(policy, rollouts, trained) == (name not in ROW_BY_ROW)
    logprobs = [forward_rows(policy, rollouts, torch.tensor([row]))[0].sum() for row in range(4)]
    found = [torch.autograd.grad(x, trained, allow_unused=True, materialize_grads=True) for x in logprobs]
    vectors = torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in found])
    for k, within in enumerate(scores.within):
        own = vectors[2 * k : 2 * k + 2]
        products = own @ own.T
        torch.testing.assert_close(within.float(), products, rtol=1e-3, atol=1e-4 * products.max().item())


@pytest.mark.parametrize("name", ["bert", "ctrl"])
def test_scores_of_a_model_whose_modules_do_not_tell_where_the_shortest_responses_have_no_weight(name):
    policy = zoo_policy(name, RIGHT[name])
    rollouts = pl.sample_rollouts(policy, problems_of(0, (3, 12)), 2, seed=0, max_new_tokens=6)
    weights = torch.ones(rollouts.response_ids.shape)
    of_all = read_scores(policy, rollouts, weights).within
    weights[0] = 0  # the shorter prompt
    assert torch.allclose(read_scores(policy, rollouts, weights).within[1], of_all[1], rtol=1e-4)


def test_weights_that_no_text_reaches_keep_what_adam_makes_of_the_others():
    policy = zoo_policy("bart", RIGHT["bart"])
    rollouts = pl.sample_rollouts(policy, problems_of(0, (3, 12)), 2, seed=0, max_new_tokens=6)
    scale = adam_scale(policy, rollouts, rollouts.rewards - 0.5, batches=2)
    assert set(scale) == {name for name, _ in policy.model.named_parameters()}
    assert read_scores(policy, rollouts, scale=scale).within.isfinite().all()


def test_positions_that_begin_behind_the_padding_token_leave_fewer():
    policy = zoo_policy("roberta", RIGHT["roberta"] | dict(pad_token_id=1))
    assert policy.context == 126
    rollouts = pl.sample_rollouts(policy, problems_of(0, (119,)), 2, seed=0, max_new_tokens=6)  # 120 tokens of prompt
    assert pl.read_internals(policy, rollouts, 1, 2).logprobs.isfinite().all()
    with pytest.raises(pl.PoiseLabError, match="longer than the context of 126"):
        pl.sample_rollouts(policy, problems_of(0, (121,)), max_new_tokens=6)


def test_only_what_goes_through_a_carried_state_is_held_to_the_tight_bound(monkeypatch):
    """A pass that rounds otherwise is off once; a state hands on what is off from step to step."""
    monkeypatch.setattr(Comparison, "causal", lambda self: 2 * self.tight)
    monkeypatch.setattr(Comparison, "stepped", lambda self: 0.0)
    monkeypatch.setattr(Comparison, "sampled", lambda self, way: 2 * self.tight)
    assert zoo_policy("qwen3_5_text", RIGHT["qwen3_5_text"]).ways.sampling == "whole"
    with pytest.raises(pl.PoiseLabError, match="what comes later"):
        _ = zoo_policy("llama", RIGHT["llama"]).ways


def test_a_model_whose_layers_lie_too_deep_is_refused_with_a_sentence():
    class Deep(torch.nn.Module):
        config = zoo_policy("llama", RIGHT["llama"]).model.config

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2))

        @property
        def base_model(self):
            return self

    assert trunk_of(deep := Deep()) is deep and decoder_layers(deep) is None


def test_a_model_that_also_sees_is_read_again_from_its_folder(tmp_path):
    config = AutoConfig.for_model("llava", text_config=dict(model_type="llama", **SHARED), image_token_index=7,
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28,
                           patch_size=14, projection_dim=8))  # fmt: skip
    torch.manual_seed(0)
    policy = pl.Policy(AutoModelForImageTextToText.from_config(config), character_tokenizer(), "llava", "compact")
    policy.save(tmp_path)
    again = pl.load_policy(tmp_path)
    found = [pl.sample_rollouts(p, problems_of(0, (3, 9)), 2, seed=0, max_new_tokens=6) for p in (policy, again)]
    assert torch.equal(found[0].response_ids, found[1].response_ids)


def test_a_critic_has_the_trunk_and_no_head_of_a_model_that_is_its_own_base():
    policy, critic = zoo_policy("llama4_text", RIGHT["llama4_text"]), pl.make_baseline("critic")
    critic.start(policy)
    trunk = {f"trunk.{name}" for name, _ in trunk_of(policy.model).named_parameters()}
    assert policy.model.base_model is policy.model
    assert set(critic.parameters) == trunk | {"head.weight", "head.bias"}


def test_most_of_the_zoo_is_packed_and_no_state_is():
    for name, packs in (
        ("llama", True),
        ("gpt2", True),
        ("olmoe", True),
        ("bamba", False),
        ("gpt_oss", False),
        ("bloom", False),
    ):
        assert zoo_policy(name, RIGHT[name]).ways.packs == packs, name


def test_the_zoo_is_large():
    assert len(RIGHT) >= 60


def test_a_model_that_rounds_otherwise_beside_other_rows_is_scored_row_by_row(monkeypatch):
    """As qwen3_next does on some processors: a row by itself goes through the model's own plain pass, to the last bit."""
    policy = zoo_policy("qwen3", RIGHT["qwen3"])
    scored = Comparison.scored
    monkeypatch.setattr(
        Comparison, "scored", lambda self, way, head: scored(self, way, head) if way == "alone" else 1.0
    )
    assert policy.ways.scoring == "alone"
    rollouts = pl.sample_rollouts(policy, problems_of(4, (2, 9)), 2, seed=0, max_new_tokens=6)
    rows = torch.arange(rollouts.rewards.numel())
    assert [len(batch) for batch in batches_by_length(policy, rollouts, rows)] == [1] * len(rows)
    logprobs = pl.read_internals(policy, rollouts, 1, 3).logprobs.flatten(0, 1)
    for row in rows.tolist():
        prompt, n = rollouts.prompt_ids[row // 2], int(rollouts.lengths.flatten()[row])
        response = rollouts.response_ids.flatten(0, 1)[row, :n]
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *response.tolist()]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        assert torch.allclose(logprobs[row, :n], expected, atol=1e-6)
