"""Checkpoints: folders of named tensors, the last two of a run, and an optimizer's state as such.

A folder step-000010 holds one .safetensors file for each part (model, optimizer, baseline), and state.json. It is written
beside its place and then renamed, so none is ever half there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .errors import PoiseLabError
from .files import read_json, write_json

Tensors = dict[str, torch.Tensor]


def named_moments(optimizer: torch.optim.Optimizer, names: Iterable[str]) -> Tensors:
    """The state of an optimizer, as "NAME/MOMENT". names: of its parameters, in the order in which it was given them."""
    names = list(names)
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{moment}": value for i, entry in state.items() for moment, value in entry.items()}


def load_named_moments(optimizer: torch.optim.Optimizer, names: Iterable[str], moments: Tensors) -> None:
    """Give an optimizer the state that `named_moments` made of it. Raises KeyError for a name that is none of `names`."""
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        state.setdefault(index[name], {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def copy_weights(parameters: Tensors, weights: Tensors) -> None:
    """Write saved weights into parameters. Raises KeyError unless both have the same names."""
    if other := sorted(parameters.keys() ^ weights.keys()):
        raise KeyError(f"{other[0]} is not in both")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def digest(tensors: Tensors) -> str:
    """SHA-256 of tensors, their names and their order."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def numbered(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder by a name whose pattern has one group, its number; in the order of the numbers."""
    named = [(re.fullmatch(pattern, path.name), path) for path in folder.glob("*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return numbered(folder, r"step-(\d{6,})")


def reached(folder: Path, steps: int) -> Path | None:
    """The newest whole checkpoint that a record of so many steps reaches; None where there is none, or that of the
    start alone and a record without a line.

    Raises PoiseLabError where the record reaches none.
    """
    found = saved(folder)
    within = [checkpoint for checkpoint in found if step_of(checkpoint) <= steps]
    if found and step_of(found[-1]) and not within:
        raise PoiseLabError(
            f"{folder.parent / 'metrics.jsonl'} ends before the checkpoint {found[0]}, so the run cannot go on from there; "
            "put the file back, or start a new run"
        )
    return within[-1] if within else None


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was made."""
    return int(checkpoint.name.removeprefix("step-"))


def save(folder: Path, step: int, parts: dict[str, Tensors]) -> None:
    """Write the checkpoint of a step, and remove all but the last two. Raises PoiseLabError for what is no tensor."""
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor):
                raise PoiseLabError(
                    f"the {part} gives a {type(tensor).__name__} to save as {name!r}; it must be a tensor"
                )
    whole = folder / f"step-{step:06d}"
    partial = whole.with_name(whole.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for part, tensors in parts.items():
            contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, partial / f"{part}.safetensors")
        write_json(partial / "state.json", {"step": step})
    except BaseException:  # a full disk gets back what it had
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(whole, ignore_errors=True)
    os.replace(partial, whole)
    for old in saved(folder)[:-2]:
        shutil.rmtree(old)


def load(checkpoint: Path, into: dict) -> None:
    """Hand each part of a checkpoint to the function that `into` names for it.

    Raises PoiseLabError if a file is damaged or does not fit.
    """
    try:
        if read_json(checkpoint / "state.json")["step"] != step_of(checkpoint):
            raise ValueError("its state.json names another step")
        parts = {part: load_file(checkpoint / f"{part}.safetensors") for part in into}
    except Exception as e:  # safetensors and JSON have many kinds
        raise PoiseLabError(
            f"checkpoint {checkpoint} is damaged ({e}); delete that folder to resume from the one before it"
        ) from e
    for part, tensors in parts.items():
        try:
            into[part](tensors)
        except Exception as e:  # as many, and an own baseline's
            raise PoiseLabError(
                f"checkpoint {checkpoint} does not fit: its {part} cannot be read ({type(e).__name__}: {e}); resume with "
                "the policy and the code that the run was begun with"
            ) from e
