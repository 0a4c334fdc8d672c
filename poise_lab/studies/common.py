"""What several studies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..config import TrainConfig
from ..errors import PoiseLabError
from ..files import read_json, write_json, write_text
from ..rollouts import Rollouts
from ..runs import read_run
from ..sampler import held_out_problems
from ..stats import gaps
from ..tasks import Problem, load_task

SPLITS = 5


def settings_features(rollouts: Rollouts) -> np.ndarray:
    """What is known of each rollout without the policy's states: (P, M, K), for a control regression.

    Per task, in alphabetical order: whether the prompt is of it, its difficulty settings, the prompt's
    length and the response's length in tokens; 0 in the columns of other tasks. The columns follow the
    tasks and settings that occur, so rollouts to fit on and to test on must be of the same ones.
    """
    names = {}
    for problem in rollouts.problems:
        names.setdefault(problem.task, set()).update(problem.difficulty)
    columns = [(t, what) for t in sorted(names) for what in (None, *sorted(names[t]), "prompt", "response")]
    at = {column: k for k, column in enumerate(columns)}
    features = np.zeros((len(rollouts), rollouts.responses, len(columns)))
    for i, problem in enumerate(rollouts.problems):
        known_before = {None: 1.0, **problem.difficulty, "prompt": len(rollouts.prompt_ids[i])}
        for what, value in known_before.items():
            features[i, :, at[problem.task, what]] = value
        features[i, :, at[problem.task, "response"]] = rollouts.lengths[i].numpy()
    return features


def piece(path: Path, make: Callable[[], object]):
    """What stands in a JSON file, made and written first if there is none."""
    if not path.is_file():
        write_json(path, make())
    return read_json(path)


def held_out_of(run: Path) -> tuple[dict, TrainConfig, list[Problem]]:
    """What config.json of a run folder says, its settings of training, and the problems that the run is evaluated on."""
    made = read_run(run).config
    config, task = TrainConfig(**made["train"]), load_task(made["task"], **made["task_settings"])
    return made, config, held_out_problems(task, config.eval_prompts, config.seed)


def refresh(page: Path, mark: str, text: str) -> None:
    """Put a table between a page's two marks of this name. Raises PoiseLabError unless it has both, each once, in order."""
    start, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    old = page.read_text(encoding="utf-8")
    before, _, rest = old.partition(start)
    if (old.count(start), old.count(end), rest.count(end)) != (1, 1, 1):
        raise PoiseLabError(
            f"{page.name} must hold the lines {start.strip()} and {end} once each, in this order; the table goes between them"
        )
    new = f"{before}{start}{text}\n{end}{rest.partition(end)[2]}"
    if new != old:
        write_text(page, new)


def differences(
    of: Mapping[str, Mapping[str, Sequence[float]]],
    pairs: Sequence[tuple[str, str]],
    ways: Sequence[str],
    what: str = "difference",
) -> list[dict]:
    """A row for each pair of methods: by each way of measuring the first minus the second, a `Gap`.

    of: of each method and way one number per seed, (S,). The difference is taken seed by seed; it is kept if it survives
    Holm's correction for these pairs, each way by itself. what: heads the column of the pairs.
    """
    found = {way: gaps({(a, b): np.subtract(of[a][way], of[b][way]) for a, b in pairs}) for way in ways}
    return [{what: f"{a} minus {b}"} | {way: found[way][a, b] for way in ways} for a, b in pairs]


def splits(prompts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """SPLITS pairs of prompts to fit on and prompts to hold out; each prompt is held out once."""
    parts = np.array_split(np.random.default_rng(0).permutation(prompts), SPLITS)
    return [(np.sort(np.concatenate(parts[:i] + parts[i + 1 :])), np.sort(parts[i])) for i in range(SPLITS)]
