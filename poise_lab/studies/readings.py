"""Real language models on reasoning-gym tasks: where V(x) spreads, and what a probe would read there.

    poise-lab study real

For each task: problems, responses, rewards, and the internals of some responses at several layers and pooling
windows, kept in the cache in pieces. Interrupted, the same call goes on with the piece that is missing. What is
computed from them is in `tables.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from ..errors import PoiseLabError
from ..files import provenance, read_json, write_arrays, write_json
from ..generate import sample_rollouts
from ..internals import read_internals
from ..policies import Policy
from ..rollouts import leave_one_out_mean
from ..sources import BUNDLED, SOURCES, cache_dir
from ..stats import value_spread
from ..tasks import load_task
from .common import piece, settings_features

SHOTS = 4
PROMPTS, RESPONSES, READ = 400, 8, 4  # per task; internals of the first READ responses are kept
PIECE = 50  # prompts that are sampled, read and written at a time
POOLS, POOL = (1, 5, 10, 15), 10
SEED = 0


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task with its settings. kind: what sort of thinking it asks for. tokens: most tokens of a response."""

    task: str
    kind: str
    settings: dict
    tokens: int = 12


# What was looked at; all of it is recorded by `search`, whether a model can do it or not.
CANDIDATES = (
    Setting("chain_sum", "arithmetic", dict(min_terms=2, max_terms=3, min_digits=1, max_digits=2)),
    Setting("chain_sum", "arithmetic", dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2)),
    Setting("products", "arithmetic", dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2)),
    Setting("basic_arithmetic", "arithmetic", dict(min_terms=2, max_terms=3, min_digits=1, max_digits=1)),
    Setting("simple_equations", "algebra", dict(min_terms=2, max_terms=2, min_value=1, max_value=9, operators_weights=[1.0, 0.0, 0.0])),
    Setting("gcd", "number theory", dict(min_value=1, max_value=40)),
    Setting("lcm", "number theory", dict(min_value=1, max_value=40)),
    Setting("number_sequence", "induction", dict(min_terms=4, max_terms=6, min_value=-20, max_value=20)),
    Setting("letter_counting", "counting", dict(min_words=2, max_words=5)),
    Setting("count_bits", "counting", dict(min_n=1, max_n=1000)),
    Setting("leg_counting", "counting", dict(min_animals=1, max_animals=2, min_instances=1, max_instances=4)),
    Setting("word_sorting", "sorting", dict(min_words=2, max_words=2)),
    Setting("number_filtering", "sorting", dict(min_numbers=2, max_numbers=3, max_decimals=0), 24),
    Setting("spell_backward", "text", dict(min_word_len=3, max_word_len=4)),
    Setting("sentence_reordering", "text", dict(min_words_in_sentence=3, max_words_in_sentence=4)),
    Setting("caesar_cipher", "text", dict(min_words=1, max_words=2, min_rotation=1, max_rotation=2)),
    Setting("syllogism", "logic", dict()),
    Setting("aiw", "logic", dict()),
    Setting("family_relationships", "logic", dict()),
    Setting("calendar_arithmetic", "dates", dict(tasks=["weekday_of_date"])),
    Setting("letter_counting", "counting", dict(min_words=2, max_words=3)),
)  # fmt: skip


# What is recorded in full: tasks of four kinds on which V(x) spreads for both models.
TASKS = tuple(CANDIDATES[i] for i in (1, 20, 5, 16))


def folder_name(policy: str) -> str:
    """What the folder of a policy's records is called: by its whole name or, of a folder, by its whole path."""
    folder = policy not in BUNDLED and policy not in SOURCES and Path(policy).is_dir()
    return re.sub(r"[/\\:]+", "--", str(Path(policy).resolve() if folder else policy)).strip("-")


def folder_of(policy: Policy) -> Path:
    """Where the readings of a policy are kept, in the cache."""
    return cache_dir() / "readings" / folder_name(policy.name)


def search(policy: Policy, prompts: int = 40, log: Callable[[str], None] = print) -> list[dict]:
    """Each candidate on a few problems of its own: mean and spread of V(x), share of finished responses."""
    rows = []
    for i, one in enumerate(CANDIDATES):
        rows.append(piece(folder_of(policy) / f"search-{i:02d}.json", lambda one=one: _look(policy, one, prompts)))
        log(f"{policy.name}: {one.task:22} mean {rows[-1]['mean']:.3f}, sd of V(x) {rows[-1]['spread']:.3f}")
    return rows


def _look(policy: Policy, one: Setting, prompts: int) -> dict:
    problems = load_task(one.task, **one.settings).sample(prompts, seed=1000)
    rollouts = sample_rollouts(policy, problems, RESPONSES, seed=1000, max_new_tokens=one.tokens)
    return {
        "task": one.task, "kind": one.kind, "settings": one.settings, "prompts": prompts, "responses": RESPONSES,
        "mean": round(float(rollouts.rewards.mean()), 4), "spread": round(value_spread(rollouts.rewards), 4),
        "finished": round(float(rollouts.finished.float().mean()), 4),
    }  # fmt: skip


def layers_of(policy: Policy) -> list[int]:
    """Every third layer, and the last."""
    return sorted({*range(0, len(policy.layers), 3), len(policy.layers) - 1})


def main_layer(layers: list[int], depth: int) -> int:
    """The one of `layers` nearest to where the paper reads: layer 19 of 36."""
    return min(layers, key=lambda k: abs(k - depth * 19 / 36))


@dataclasses.dataclass
class Readings:
    """One model on one task. P prompts, M responses each, of which R were read; D width.

    rewards: (P, M). lengths: (P, R) tokens. entropy: (P, R, 3) nats.
    states: (layer, pool) to (P, R, 2, D), prompt state and reasoning state.
    settings: (P, R, K) what is known without the model: see `settings_features`.
    config: what made it.
    """

    rewards: np.ndarray
    lengths: np.ndarray
    entropy: np.ndarray
    states: dict[tuple[int, int], np.ndarray]
    settings: np.ndarray
    config: dict

    @property
    def layers(self) -> list[int]:
        return sorted({layer for layer, _ in self.states})

    @property
    def layer(self) -> int:
        return main_layer(self.layers, self.config["depth"])

    def features(self, layer: int | None = None, pool: int = POOL) -> np.ndarray:
        """(P, R, 2 D + 3), laid out as `Internals.features`."""
        states = self.states[self.layer if layer is None else layer, pool]
        return np.concatenate([states.reshape(*states.shape[:2], -1), self.entropy], -1)

    def targets(self) -> np.ndarray:
        """(P, R): mean reward of the other M - 1 responses to the prompt, never the own."""
        return leave_one_out_mean(torch.from_numpy(self.rewards))[:, : self.lengths.shape[1]].numpy()

    def ceiling(self) -> float:
        """Highest r with these targets, which are means of M - 1 rewards: that of a probe that knows V(x)."""
        signal = value_spread(torch.from_numpy(self.rewards)) ** 2
        noise = float(self.rewards.var(1, ddof=1).mean()) / (self.rewards.shape[1] - 1)
        return float(np.sqrt(signal / (signal + noise))) if signal else 0.0


def read_task(policy: Policy, one: Setting, folder: Path | None = None, prompts: int = PROMPTS,
              log: Callable[[str], None] = print) -> Readings:  # fmt: skip
    """The readings of a task: pieces that are missing in the folder are made, the others are taken as they are.

    folder: by default in the cache, by policy and task.

    Raises PoiseLabError if the folder was made with other settings, or if every reward is equal.
    """
    folder = folder or folder_of(policy) / one.task
    config = {
        "policy": policy.name, "shots": policy.shots, "dtype": str(policy.model.dtype).removeprefix("torch."),
        "task": one.task, "settings": one.settings, "tokens": one.tokens, "prompts": prompts, "responses": RESPONSES,
        "read": READ, "seed": SEED, "depth": len(policy.layers), "layers": layers_of(policy), "pools": list(POOLS),
    }  # fmt: skip
    if (folder / "config.json").is_file():
        made_with = read_json(folder / "config.json")
        if any(made_with.get(key) != value for key, value in config.items()):
            raise PoiseLabError(
                f"folder {folder} holds readings made with other settings; delete it to make them again"
            )
    else:
        write_json(folder / "config.json", {**config, "provenance": provenance()})
    problems = load_task(one.task, **one.settings).sample(prompts, seed=SEED)
    for start in range(0, prompts, PIECE):
        path = folder / f"piece-{start:04d}.safetensors"
        if path.is_file():
            continue
        arrays = _read_piece(policy, problems[start : start + PIECE], one.tokens)
        write_arrays(path, arrays)
        log(f"{policy.name}: {one.task}, {min(start + PIECE, prompts)} of {prompts} problems")
    return read_folder(folder)


def _read_piece(policy: Policy, problems, tokens: int) -> dict[str, np.ndarray]:
    """Arrays of some problems, as they are written."""
    rollouts = sample_rollouts(policy, problems, RESPONSES, seed=SEED, max_new_tokens=tokens)
    read = rollouts.select(responses=slice(0, READ))
    here = main_layer(layers_of(policy), len(policy.layers))
    found = read_internals(policy, read, layers_of(policy), POOLS)
    found = {(k, n): internals for (k, n), internals in found.items() if n == POOL or k == here}
    arrays = {
        "rewards": rollouts.rewards, "lengths": read.lengths, "entropy": found[here, POOL].entropy,
        "settings": torch.from_numpy(settings_features(read)).float(),
        **{f"states/{k}/{n}": torch.stack([x.prompt, x.reasoning], 2) for (k, n), x in found.items()},
    }  # fmt: skip
    return {name: x.numpy() for name, x in arrays.items()}


def read_folder(folder: Path) -> Readings:
    """Readings from the pieces of a folder."""
    pieces = [load_file(path) for path in sorted(folder.glob("piece-*.safetensors"))]
    arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    config = read_json(folder / "config.json")
    if arrays["rewards"].min() == arrays["rewards"].max():
        raise PoiseLabError(
            f"policy {config['policy']!r} gets the reward {arrays['rewards'][0, 0]:g} for every response to task "
            f"{config['task']!r}, so there is no value to predict; choose easier or harder settings"
        )
    states = {tuple(map(int, name.split("/")[1:])): x for name, x in arrays.items() if name.startswith("states/")}
    return Readings(arrays["rewards"], arrays["lengths"], arrays["entropy"], states, arrays["settings"], config)
