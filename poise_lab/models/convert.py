"""GGUF files of Llama and Gemma 3 models as plain transformers folders: config, tokenizer, safetensors.

Written out here because transformers' own reader needs one more package and cannot save what it
read. A GGUF file differs from the original model in four ways, each undone below: names, quantized
weights, the row order of Llama's query and key, and Gemma's norms, which are stored plus one.
What a GGUF file does not say (Gemma's layer pattern and local rotary base, activations) are the
defaults of transformers' configs, which are those of the original models.
"""

from __future__ import annotations

import errno
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from ..errors import PoiseLabError, disk_is_full
from ..files import provenance, write_json

# 11 bits of mantissa, where the file's own weights have 4 to 8: half the disk of float32
STORED = torch.float16

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # token types of the format
DIGITS = Regex(r"\p{N}")  # SmolLM2 splits numbers into digits before all else

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GEMMA_NAMES = {**NAMES, "ffn_norm": "pre_feedforward_layernorm"}


def convert(path: Path, folder: Path, card: dict) -> None:
    """Write the model in a GGUF file to a folder that `from_pretrained` reads.

    card: written to card.json, with the versions that made the conversion; config.json comes last.

    Raises PoiseLabError if the architecture is neither Llama nor Gemma 3 or tensors are missing,
    OSError if the folder cannot be written.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    arch = fields["general.architecture"]
    if arch not in ("llama", "gemma3"):
        raise PoiseLabError(f"{path.name} holds a model of architecture {arch!r}; known: gemma3, llama")
    ids = {
        f"{name}_token_id": fields.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    names = {tensor.name for tensor in reader.tensors}
    config = _config(arch, fields, ids, tied="output.weight" not in names)
    state = _weights(arch, reader.tensors, config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {k: v.shape for k, v in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    if {k: v.shape for k, v in state.items()} != expected:
        raise PoiseLabError(f"{path.name} has other tensors than a model of architecture {arch!r}")
    config.architectures, config.dtype = [type(model).__name__], STORED
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as e:  # says "No space left on device" in its own words
        raise OSError(errno.ENOSPC if disk_is_full(e) else errno.EIO, str(e)) from None
    _tokenizer(arch, fields).save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)
    write_json(folder / "card.json", {**card, **provenance()})
    config.save_pretrained(folder)


def _config(arch: str, fields: dict, ids: dict, tied: bool) -> PretrainedConfig:
    def get(key, default=None):
        return fields.get(f"{arch}.{key}", default)

    width, heads = get("embedding_length"), get("attention.head_count")
    shared = dict(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=get("attention.head_count_kv", heads),
        head_dim=get("attention.key_length") or get("rope.dimension_count") or width // heads,
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=tied,
        **ids,
    )
    rope = {"rope_type": "default", "rope_theta": get("rope.freq_base", 10000.0)}
    if arch == "llama":
        return LlamaConfig(**shared, rope_parameters=rope)
    local = {"rope_type": "default", "rope_theta": 10000.0}
    return Gemma3TextConfig(
        **shared,
        sliding_window=get("attention.sliding_window"),
        query_pre_attn_scalar=shared["head_dim"],
        rope_parameters={"full_attention": rope, "sliding_attention": local},
    )


def _weights(arch: str, tensors, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Dequantized weights under transformers' names, as STORED."""
    from gguf import dequantize

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {}
    for tensor in tensors:
        if tensor.name == "rope_freqs.weight":  # a table that transformers computes
            continue
        *block, part, kind = tensor.name.split(".")  # blk.3.attn_q.weight, or output_norm.weight
        name = (GEMMA_NAMES if arch == "gemma3" else NAMES).get(part, part)
        prefix = f"model.layers.{block[1]}." if block else ""
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if arch == "gemma3" and part.endswith("norm"):
            values = values - 1
        elif arch == "llama" and part in heads:
            # rotary pairs lie side by side in GGUF, half a head apart in transformers
            values = values.unflatten(0, (heads[part], -1, 2)).transpose(1, 2).flatten(0, 2)
        state[f"{prefix}{name}.{kind}"] = values.to(STORED).contiguous()
    return state


def _tokenizer(arch: str, fields: dict) -> PreTrainedTokenizerFast:
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: i for i, token in enumerate(tokens)}

    def token_at(key: str) -> str | None:
        i = fields.get(f"tokenizer.ggml.{key}_token_id")
        return None if i is None else tokens[i]

    if fields["tokenizer.ggml.model"] == "gpt2":  # byte-level, as SmolLM2
        merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = [pre_tokenizers.Split(DIGITS, "isolated")] if fields["tokenizer.ggml.pre"] == "smollm" else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
    else:  # SentencePiece, as Gemma: characters merged by score, bytes for what is not in the vocabulary
        merges = _merges(tokens, types, fields["tokenizer.ggml.scores"])
        tokenizer = Tokenizer(
            models.BPE(vocabulary, merges, unk_token=token_at("unknown"), fuse_unk=True, byte_fallback=True)
        )
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    added = [(t, k) for t, k in zip(tokens, types, strict=True) if k in (CONTROL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(t, special=k == CONTROL, normalized=False) for t, k in added])
    bos = token_at("bos")
    if fields.get("tokenizer.ggml.add_bos_token") and bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=token_at("eos"),
        pad_token=token_at("padding"),
        unk_token=token_at("unknown"),
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def _merges(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, best score first: SentencePiece's rule as a list of merges."""
    normal = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == NORMAL}
    merges = []
    for token in sorted(normal, key=lambda token: -scores[normal[token]]):
        splits = [(token[:k], token[k:]) for k in range(1, len(token))]
        splits = [(left, right) for left, right in splits if left in normal and right in normal]
        merges += sorted(splits, key=lambda pair: (normal[pair[0]], normal[pair[1]]))
    return merges
