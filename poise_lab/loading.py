"""A model and its tokenizer from a folder or the hub, as their files have them.

transformers fills some weights anew while it loads (in some models the row of the padding token), and builds some
tokenizers from their vocabulary and the habits of a class alone. So what it has read is held against the files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .errors import PoiseLabError
from .files import read_json
from .process import without_bars

# What tokenizers differ in: blanks, line ends, digits, signs, letters of several bytes, and what stands beside tags
TEXTS = ("Hello, World", " two  blanks and\n\nlines\n", "123456 + 7,50 = ?", "It's 日本 é🙂", "so.</think>\n\n12")


def read_model(name: str, source: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model, on the CPU, and its tokenizer. No code that comes with them is run, nor asked for.

    Raises PoiseLabError where they cannot be loaded, or the weights do not fit the config (`check_weights`).
    """
    with _in_a_sentence(name):
        kind = type(AutoConfig.from_pretrained(source, trust_remote_code=False))
        sees = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING
        model, info = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
        if not any(_file(source, weights) for weights in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
            raise PoiseLabError("its weights are safetensors in another branch of the hub only; save that as a folder")
        tokenizer = _tokenizer(source)
        generation = _file(source, "generation_config.json")
        if generation:
            read_json(generation)  # which transformers passes over where it cannot be read
    check_weights(name, source, model, info)
    return model, tokenizer


def read_tokenizer(name: str, source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a hub id, as its file has it. Raises PoiseLabError where there is none."""
    with _in_a_sentence(name):
        return _tokenizer(source)


@contextlib.contextmanager
def _in_a_sentence(name: str):
    """Within the context, whatever is raised becomes one sentence, and nothing shows a bar."""
    try:
        with without_bars():
            yield
    except Exception as e:  # transformers raises many kinds
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise PoiseLabError(f"policy {name!r} could not be loaded: {reason}") from e


def _file(source: str | Path, name: str) -> Path | None:
    """A file of a folder, or of a hub id that has been loaded; None if there is none of that name."""
    found = cached_file(source, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)
    return found and Path(found)


def _tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer by its class; or by its file alone, where the class reads a text in another way than the file says."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    file = _file(source, "tokenizer.json")
    if file is None:
        return tokenizer
    held = Tokenizer.from_file(str(file))
    held.no_padding()
    held.no_truncation()
    added = [token.content for token in held.get_added_tokens_decoder().values()][:20]
    for text in (*TEXTS, *(f"a {token} b{token}c" for token in added)):
        if tokenizer.encode(text, add_special_tokens=False) != held.encode(text, add_special_tokens=False).ids:
            return PreTrainedTokenizerFast.from_pretrained(source)
    return tokenizer


def check_weights(name: str, source: str | Path, model: PreTrainedModel, info: dict) -> None:
    """See to it that a model has the weights of its files; what a library has changed in them is read again.

    Raises PoiseLabError if weights were not in the files, and so are random, or in another shape, or more layers than
    the model has, or as whole numbers, whose scales are not known, or in a code that transformers does not know, or
    NaN, or if they cannot be read again.
    """
    code = getattr(model.config, "quantization_config", None)
    # transformers warns in a log, and takes them for plain numbers
    if code and not getattr(model, "hf_quantizer", None):
        method = code.get("quant_method") if isinstance(code, dict) else getattr(code, "quant_method", None)
        raise PoiseLabError(
            f"policy {name!r}: its weights are quantised by {method!r}, which transformers does not know"
        )
    missing, shapes = sorted(info["missing_keys"]), sorted(key[0] for key in info["mismatched_keys"])
    trunk = f"{model.base_model_prefix}."
    foreign = sorted(key for key in info["unexpected_keys"] if key.startswith(trunk))  # another head is nothing to it
    refused = {
        "are missing from its files": missing,
        "have another shape in its files": shapes,
        "are in its files, but not in a model of its config": foreign,
    }
    if not any(refused.values()) and not getattr(model, "hf_quantizer", None):
        whole, no_numbers, changed = [], [], False
        for key, mine, held in _both(source, model):
            if mine.is_floating_point() and not held.is_floating_point():
                whole.append(key)
            elif not _same(mine, held):
                if held.to(mine.dtype).isnan().any():  # never the same as itself
                    no_numbers.append(key)
                mine.copy_(held)
                changed = True
        if no_numbers:
            raise PoiseLabError(
                f"policy {name!r}: {len(no_numbers)} weights are not finite (NaN) in its files, such as {no_numbers[0]!r}; "
                "take files from before the loss became NaN, or fetch them again"
            )
        refused["are whole numbers in its files, without their scales"] = whole
        refused["are changed while transformers loads them"] = [
            key for key, mine, held in (_both(source, model) if changed else ()) if not _same(mine, held)
        ]
    for what, keys in refused.items():
        if keys:
            raise PoiseLabError(
                f"policy {name!r} does not fit its config: {len(keys)} weights {what}, such as {keys[0]!r}"
            )


def _same(mine: torch.Tensor, held: torch.Tensor) -> bool:
    return torch.equal(mine, held.to(mine.dtype))


def _both(source: str | Path, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each weight as the model has it and as the files do, by its name in the files, where both have it."""
    index = None if _file(source, SAFE_WEIGHTS_NAME) else _file(source, SAFE_WEIGHTS_INDEX_NAME)
    names = sorted(set(read_json(index)["weight_map"].values())) if index else [SAFE_WEIGHTS_NAME]
    state = revert_weight_conversion(model, model.state_dict())
    for name in names:
        with safe_open(_file(source, name), "pt") as file:
            for key in file.keys():
                if key in state and file.get_slice(key).get_shape() == list(state[key].shape):
                    yield key, state[key], file.get_tensor(key)


@contextlib.contextmanager
def ending_at(model: PreTrainedModel, ends: Sequence[int]) -> Iterator[PreTrainedModel]:
    """The model, for as long as it is saved, with a generation config by which it writes as it did here.

    ends: the tokens that end a response. Kept are tokens and, where it says do_sample, temperature, top_p and top_k.
    """
    given = model.generation_config
    kept = ["bos_token_id", "pad_token_id"] + ["do_sample", "temperature", "top_p", "top_k"] * bool(given.do_sample)
    own = {name: value for name in kept if (value := getattr(given, name, None)) is not None}
    model.generation_config = GenerationConfig(**own, eos_token_id=list(ends))
    try:
        yield model
    finally:
        model.generation_config = given
