"""What a folder holds is what is loaded, or it is refused with a sentence: weights, tokenizer, settings, code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import EOS, plain_logits, tiny_policy
from test_vocabularies import spoken_to, vocabulary
from test_zoo import MLA, zoo_policy
from tokenizers import Tokenizer

import poise_lab as pl
from poise_lab import loading


@pytest.fixture
def folder(tmp_path):
    tiny_policy("llama").save(tmp_path)
    return tmp_path


def edit(file, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(folder) -> str:
    with pytest.raises(pl.PoiseLabError) as e:
        pl.load_policy(folder)
    assert "\n" not in str(e.value)
    return str(e.value)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_the_library_empties_is_read_again(tmp_path, dtype):
    """The embedding of the padding token, which Youtu's class fills with zeros after the weights have been read."""
    policy = zoo_policy("youtu", MLA, dtype)
    policy.save(tmp_path)
    assert policy.model.get_input_embeddings().weight[0].abs().max() > 0.1
    again = pl.load_policy(tmp_path, dtype=dtype)
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name


def test_what_cannot_be_read_again_is_refused(folder, monkeypatch):
    monkeypatch.setattr(loading, "_same", lambda mine, held: mine.dim() > 1)
    assert "weights are changed while transformers loads them, such as 'model" in refusal(folder)


def test_weights_that_are_no_numbers_are_named_so(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][2] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said = "1 weights are not finite (NaN) in its files, such as 'model.norm.weight'; take files from before the loss"
    assert said in refusal(folder)


def test_experts_that_are_put_together_are_compared_too(tmp_path):
    policy = zoo_policy("mixtral", dict(num_local_experts=4, num_experts_per_tok=2))
    policy.save(tmp_path)
    model = pl.load_policy(tmp_path).model
    held = load_file(tmp_path / "model.safetensors")
    assert any("experts.3." in key for key in held) and not any("experts.3." in key for key in model.state_dict())
    compared = {key: loading._same(mine, tensor) for key, mine, tensor in loading._both(tmp_path, model)}
    assert set(compared) == set(held) and all(compared.values())


def test_whole_numbers_without_scales_are_no_weights(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({k: (v * 10).to(torch.int8) for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert "30 weights are whole numbers in its files, without their scales" in refusal(folder)


def test_weights_in_an_unknown_code_are_no_plain_numbers(folder):
    """Their names and shapes may fit: transformers passes over a code that it does not know, with a line in a log."""
    edit(folder / "config.json", quantization_config={"quant_method": "rot13"})
    assert "its weights are quantised by 'rot13', which transformers does not know" in refusal(folder)


def test_weights_of_another_shape_are_named(folder):
    edit(folder / "config.json", num_key_value_heads=1)
    assert "6 weights have another shape in its files, such as 'model.layers.0.self_attn.k_proj.weight'" in refusal(
        folder
    )


def test_weights_in_several_files(folder):
    policy, weights = pl.load_policy(folder), load_file(folder / "model.safetensors")
    files = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(weights)}
    for file in set(files.values()):
        save_file({key: weights[key] for key in weights if files[key] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / "model.safetensors").unlink()
    again = pl.load_policy(folder)
    assert torch.equal(plain_logits(again, [5, 9]).logits, plain_logits(policy, [5, 9]).logits)
    assert len(list(loading._both(folder, again.model))) == len(weights)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "could not be loaded: No such file or directory" in refusal(folder)


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "there is no .safetensors file in it" in refusal(folder)


def test_weights_that_the_hub_has_converted_in_another_branch(folder, monkeypatch):
    """transformers finds them there, and there are no files that they could be held against."""
    found = loading._file
    monkeypatch.setattr(loading, "_file", lambda source, name: None if "safetensors" in name else found(source, name))
    assert "safetensors in another branch of the hub only" in refusal(folder)


# --- code ----------------------------------------------------------------------------------------


def test_code_of_a_folder_is_neither_run_nor_asked_for(folder, monkeypatch):
    """At a terminal, transformers would ask whether to run it."""
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    (folder / "remote.py").write_text(code)
    edit(
        folder / "config.json",
        model_type="remote",
        auto_map={"AutoConfig": "remote.C", "AutoModelForCausalLM": "remote.M"},
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked"))
    monkeypatch.setattr("transformers.dynamic_module_utils.signal.alarm", lambda *_: pytest.fail("was asked"))
    assert "could not be loaded" in refusal(folder) and not list(folder.rglob("ran"))
    edit(folder / "config.json", model_type="llama")
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="RemoteTokenizer",
        auto_map={"AutoTokenizer": [None, "remote.T"]},
    )
    assert "contains custom code" in refusal(folder) and not list(folder.rglob("ran"))


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["1", 1.0, [[1]], [1, "2"], [True]])
def test_ends_that_are_no_token_ids(folder, ends):
    edit(folder / "generation_config.json", eos_token_id=ends)
    assert "of its generation config are no token ids" in refusal(folder)


@pytest.mark.parametrize("ends", [-1, [-1, 5000], [], None])
def test_ends_that_no_embedding_has_are_left_out(folder, ends):
    edit(folder / "generation_config.json", eos_token_id=ends)
    assert pl.load_policy(folder).eos_token_ids == [EOS]


@pytest.mark.parametrize("file", ["generation_config.json", "poise_lab.json"])
@pytest.mark.parametrize("text", ["{", "", "\x00"])
def test_a_file_that_cannot_be_read(folder, file, text):
    (folder / file).write_text(text)
    assert "line 1 column" in refusal(folder)


@pytest.mark.parametrize(
    "saved, says",
    [
        ([], "cannot be read"),
        ({}, "asks for wording None"),
        ({"shots": "2"}, "shots='2' is no int"),
        ({"template": 5}, "template=5 is no str"),
        ({"template_args": [1]}, "template_args=.* is no dict"),
        ({"tags": [1, 2]}, "what starts and what ends"),
    ],
)
def test_settings_of_another_kind(folder, saved, says):
    wording = {"wording": "compact"} if saved else {}
    (folder / "poise_lab.json").write_text(json.dumps({**saved, **wording} if isinstance(saved, dict) else saved))
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.load_policy(folder)


@pytest.mark.parametrize(
    "changes",
    [
        dict(temperature=0.0, do_sample=True), dict(repetition_penalty=1.5), dict(min_p=0.1), dict(top_k=2), dict(num_beams=4),
        dict(bad_words_ids=[[5]]), dict(suppress_tokens=[5]), dict(begin_suppress_tokens=[5]), dict(forced_bos_token_id=3),
        dict(max_length=3), dict(no_repeat_ngram_size=2), dict(stop_strings=["a"]), dict(sequence_bias=[[[5], -9.0]]),
    ],
)  # fmt: skip
def test_what_generate_would_do_to_the_distribution_is_not_done(folder, changes):
    """The policy is the model's own distribution: what is sampled is what is scored."""
    problems = pl.load_task("chain_sum").sample(3, seed=0)
    before = pl.sample_rollouts(pl.load_policy(folder), problems, 2, seed=0, max_new_tokens=10)
    edit(folder / "generation_config.json", **changes)
    policy = pl.load_policy(folder)
    rollouts = pl.sample_rollouts(policy, problems, 2, seed=0, max_new_tokens=10)
    assert torch.equal(rollouts.response_ids, before.response_ids)
    assert (pl.read_internals(policy, rollouts, 1, 1).logprobs - rollouts.logprobs).abs().max() < 1e-4


# --- the tokenizer -------------------------------------------------------------------------------

CLASSES = [
    "GPT2Tokenizer",
    "Qwen2Tokenizer",
    "GPTNeoXTokenizer",
    "LlamaTokenizer",
    "PreTrainedTokenizerFast",
    "NoSuchTokenizer",
]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name, tags", [("qwen", "special"), ("legacy", "token"), ("metaspace-first", "plain")])
def test_texts_are_read_as_the_tokenizers_file_says(tmp_path, name, kind, tags):
    """Classes of transformers split texts by their own rules, whatever stands in the file."""
    tokenizer = vocabulary(name, tags)
    spoken_to(tokenizer, wording="line").save(tmp_path)
    edit(tmp_path / "tokenizer_config.json", tokenizer_class=kind, chat_template="{{ messages[0].content }}")
    policy, held = pl.load_policy(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (*loading.TEXTS, "a</think> b", "12 +  7\n", "ab <think>\tx"):
        assert (
            policy.tokenizer.encode(text, add_special_tokens=False) == held.encode(text, add_special_tokens=False).ids
        )
        assert loading.read_tokenizer("of the TRL engine", tmp_path).encode(text) == policy.tokenizer.encode(text)
    assert policy.tokenizer.eos_token == tokenizer.eos_token and policy.tokenizer.chat_template
    policy.save(tmp_path / "again")
    assert pl.load_policy(tmp_path / "again").tokenizer.encode("12 +  7\n") == policy.tokenizer.encode("12 +  7\n")
