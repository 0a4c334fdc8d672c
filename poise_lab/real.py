"""The paper's probe tables on real language models at laptop scale: `poise-lab probes`.

One recording per model and task: prompts, two responses each whose internal states are read, eight more whose
mean reward is the measured V(x). Every table is then arithmetic on recordings: fit on some prompts, score on the
others, over several splits. Recordings are finished one by one; started again, the command goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .errors import PoiseLabError
from .internals import read_internals
from .policies import Policy, load_policy
from .probe import ENTROPIES, ValueProbe, agreement, settings_features
from .records import mean_interval, provenance, read_json, write_json
from .rollouts import Rollouts, sample_rollouts
from .tasks import load_task

MODELS = ("smollm2-135m", "gemma3-270m")
TASKS = {  # sums, products, number theory, counting letters, logic: as easy as reasoning-gym makes them
    "chain_sum": dict(min_terms=2, max_terms=3, min_digits=1, max_digits=1),
    "products": dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2),
    "gcd": dict(min_value=2, max_value=30),
    "letter_counting": dict(min_words=2, max_words=6),
    "syllogism": {},
}
PROMPTS, READ, FRESH, SHOTS, NEW_TOKENS = 240, 2, 8, 4, 8
TEMPERATURE = 0.5  # at 1 these models are wrong nearly everywhere
POOLS, SPLITS, HELD_OUT = (1, 4, 16), 5, 0.25


@dataclasses.dataclass
class Recording:
    """What is kept of one model on one task. P prompts, 2 responses read, F = 2 D + 3 features.

    features: (P, 2, F) by (layer, pool). lengths: (P, 2) tokens. controls: (P, 2, K), see `settings_features`.
    value: (P,) mean reward of the eight other responses. rewards: (P, 2) of those that were read.
    questions: P texts, the same for every model, so that recordings of two models can be paired.
    """

    features: dict[tuple[int, int], np.ndarray]
    lengths: np.ndarray
    controls: np.ndarray
    value: np.ndarray
    rewards: np.ndarray
    questions: list[str]

    @property
    def layers(self) -> list[int]:
        return sorted({layer for layer, _ in self.features})

    @property
    def middle(self) -> int:
        """The layer that tables about something else read: about a third of the way up."""
        return self.layers[len(self.layers) // 3]


def read_layers(policy: Policy) -> list[int]:
    """Every third decoder layer, and the last."""
    count = len(policy.layers)
    return sorted({*range(0, count, 3), count - 1})


def rollouts_of(policy: Policy, task: str, prompts: int = PROMPTS, responses: int = READ + FRESH) -> tuple:
    """A policy shown four solved problems of a task, and its rollouts on other problems of it."""
    drawn = load_task(task, **TASKS.get(task, {}))
    shown = policy.with_examples(drawn, SHOTS)
    problems = drawn.sample(prompts, seed=1, exclude=shown.examples)
    return shown, sample_rollouts(
        shown, problems, responses, seed=0, max_new_tokens=NEW_TOKENS, temperature=TEMPERATURE
    )


def measured_value(rollouts: Rollouts) -> np.ndarray:
    """(P,) mean reward of the responses that are not read. Raises PoiseLabError if it is the same for all prompts."""
    value = rollouts.rewards[:, READ:].mean(1).numpy()
    if np.ptp(value) == 0:
        raise PoiseLabError(
            f"task {rollouts.problems[0].task!r}: every prompt has mean reward {value[0]:g}, so there is nothing "
            "to predict; choose easier or harder settings"
        )
    return value


def record_task(model: str, task: str, prompts: int = PROMPTS) -> Recording:
    """Sample and read one model on one task, in bfloat16."""
    policy, rollouts = rollouts_of(load_policy(model, dtype=torch.bfloat16), task, prompts)
    value = measured_value(rollouts)
    read = rollouts.select(responses=slice(READ))
    layers = read_layers(policy)
    states = read_internals(policy, read, layers, POOLS)
    features = {
        (layer, pool): one.features().numpy()
        for (layer, pool), one in states.items()
        if pool == POOLS[1] or layer == layers[len(layers) // 3]
    }
    return Recording(
        features, read.lengths.numpy(), settings_features(read), value, read.rewards.numpy(),
        [problem.question for problem in rollouts.problems],
    )  # fmt: skip


def save_recording(recording: Recording, path: Path, layers: Sequence[int] | None = None) -> None:
    """Write a recording, states in float16, atomically; `layers` keeps some of them."""
    arrays = {
        f"features/{layer}/{pool}": x.astype(np.float16)
        for (layer, pool), x in recording.features.items()
        if layers is None or (layer in layers and pool == POOLS[1])
    }
    arrays |= {name: getattr(recording, name) for name in ("lengths", "controls", "value", "rewards")}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(arrays, partial, metadata={"questions": json.dumps(recording.questions)})
    partial.replace(path)


def load_recording(path: Path) -> Recording:
    """Read a recording. Raises PoiseLabError if it is not there."""
    if not path.is_file():
        raise PoiseLabError(f"no recording {path}; make it with `poise-lab probes`")
    from safetensors import safe_open

    arrays = load_file(path)
    with safe_open(path, "numpy") as file:
        questions = json.loads(file.metadata()["questions"])
    features = {}
    for name in [name for name in arrays if name.startswith("features/")]:
        _, layer, pool = name.split("/")
        features[int(layer), int(pool)] = arrays.pop(name).astype(np.float32)
    return Recording(features=features, questions=questions, **arrays)


# --- scores over splits ----------------------------------------------------------------------------

Estimator = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # rows, targets, held-out rows -> predictions


def splits(prompts: int, count: int = SPLITS) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fitted on, held out) prompt numbers of each split; the same for every estimator, so scores are paired."""
    orders = [np.random.default_rng(seed).permutation(prompts) for seed in range(count)]
    cut = round(prompts * (1 - HELD_OUT))
    return [(order[:cut], order[cut:]) for order in orders]


def split_scores(
    X: np.ndarray, value: np.ndarray, estimator: Estimator, rows: int | None = None, shuffled: bool = False
) -> dict:
    """r and MAE on held-out prompts, each (mean, low, high) over splits (t intervals).

    X: (P, M, F). value: (P,), the target of a prompt's every row. rows: fit on so many prompts only.
    shuffled: fit on targets of other prompts, which leaves nothing to learn.
    """
    found: dict[str, list[float]] = {"r": [], "mae": []}
    m = X.shape[1]
    for seed, (fit, test) in enumerate(splits(len(X))):
        fit = fit[:rows]
        target = np.random.default_rng(seed).permutation(value[fit]) if shuffled else value[fit]
        predicted = estimator(X[fit].reshape(len(fit) * m, -1), target.repeat(m), X[test].reshape(len(test) * m, -1))
        score = agreement(np.clip(predicted, 0, 1), value[test].repeat(m))
        for name in found:
            found[name].append(score[name])
    return {name: list(mean_interval(numbers)) for name, numbers in found.items()}


def by_probe(**settings) -> Estimator:
    """The value probe with given settings."""
    return lambda X, y, new: ValueProbe(**settings).fit(X, y).predict(new)


def by_ridge(strength: float = 1.0) -> Estimator:
    """Standardised ridge on whatever columns there are: for controls."""
    return lambda X, y, new: make_pipeline(StandardScaler(), Ridge(strength)).fit(X, y).predict(new)


def by_mlp(depth: int, width: int) -> Estimator:
    """A multilayer perceptron on standardised inputs, stopped early on a tenth of its rows."""

    def fit(X, y, new):
        net = MLPRegressor(hidden_layer_sizes=(width,) * depth, early_stopping=True, random_state=0, max_iter=100)
        return make_pipeline(StandardScaler(), net).fit(X, y).predict(new)

    return fit


RELEASE = dict(ridge=100.0, pca_prompt=32, pca_reasoning=64)
RIDGES, ROWS = (0.01, 1.0, 100.0, 1000.0, 10000.0), (22, 45, 90, 180)


def tables(recording: Recording) -> dict[str, dict]:
    """All tables of one model on one task: table -> row -> {"r": [value, low, high], "mae": ...}."""
    value, middle, pool = recording.value, recording.middle, POOLS[1]
    X = recording.features[middle, pool]
    width = (X.shape[2] - ENTROPIES) // 2
    score = lambda x, estimator, **options: split_scores(x, value, estimator, **options)  # noqa: E731
    release, paper = by_probe(**RELEASE), by_probe(ridge=0.01)
    wide = by_probe(ridge=1000.0)
    length = recording.lengths[..., None].astype(float)
    return {
        "presets": {
            "paper (ridge 0.01)": score(X, paper),
            "release (PCA, ridge 100)": score(X, release),
            "no PCA, ridge 1000": score(X, wide),
            "control: settings and lengths": score(recording.controls, by_ridge()),
            "control: mean of all prompts": score(length, lambda X, y, new: np.full(len(new), y.mean())),
            "control: shuffled targets": score(X, release, shuffled=True),
        },
        "inputs": {
            "only prompt hidden states": score(X, by_probe(**RELEASE, inputs=("prompt",))),
            "only reasoning hidden states": score(X, by_probe(**RELEASE, inputs=("reasoning",))),
            "only mean entropy": score(X, by_probe(**RELEASE, inputs=("entropy",))),
            "only response length": score(length, by_ridge()),
            "full estimator": score(X, release),
        },
        "layers": {str(layer): score(recording.features[layer, pool], release) for layer in recording.layers},
        "pools": {str(n): score(recording.features[middle, n], release) for n in POOLS},
        "ridge": {f"{ridge:g}": score(X, by_probe(ridge=ridge)) for ridge in RIDGES},
        "rows": {str(n * X.shape[1]): score(X, release, rows=n) for n in ROWS if n <= len(X) * (1 - HELD_OUT)},
        "architectures": {
            "Linear ridge": score(X, wide),
            **{f"MLP {d}x{w}": score(X, by_mlp(d, w)) for d, w in ((1, 512), (3, 512), (3, 1024))},
        },
        "data": {
            "prompts": len(value), "features": X.shape[2], "width": width, "layer": middle,
            "accuracy": float(value.mean()), "value_std": float(value.std()),
        },
    }  # fmt: skip


def record(model: str, out: Path, cache: Path) -> dict:
    """Make what is missing of a model's recordings (in `cache`) and tables (in `out`), and return the tables."""
    for task in TASKS:
        whole, table = cache / model / f"{task}.safetensors", out / model / f"{task}.json"
        if table.is_file():
            continue
        if not whole.is_file():
            save_recording(record_task(model, task), whole)
        recording = load_recording(whole)
        made = {"command": f"poise-lab probes {model} --out {out}", "model": model, "task": task, "settings": TASKS[task],
                "shots": SHOTS, "temperature": TEMPERATURE, "prompts": PROMPTS, "read": READ, "fresh": FRESH, "splits": SPLITS, **provenance()}  # fmt: skip
        save_recording(recording, out / model / f"{task}.safetensors", layers=[recording.middle])
        write_json(table, {**made, "tables": tables(recording)})
        print(f"{model} {task}: tables in {table}", flush=True)
    return {task: read_json(out / model / f"{task}.json")["tables"] for task in TASKS}


def recorded(model: str, folder: Path) -> dict[str, dict]:
    """The recorded tables of a model by task, for the tasks that have been recorded."""
    return {
        task: read_json(folder / model / f"{task}.json")["tables"]
        for task in TASKS
        if (folder / model / f"{task}.json").is_file()
    }


def beside_paper(rows: dict[str, dict], paper: dict[str, dict]) -> list[dict]:
    """Rows that the paper has too, with both ranks by r: does the *ordering* agree where the numbers cannot?

    Returns a dict per row: name, r and mae (value, low, high), the paper's, rank and the paper's (1 is best),
    and whether they are the same.
    """
    common = [name for name in rows if name in paper]
    ranks = [sorted(common, key=lambda name: -r(name)) for r in (lambda n: rows[n]["r"][0], lambda n: paper[n]["r"])]
    return [
        {
            "name": name, "r": rows[name]["r"], "mae": rows[name]["mae"], "paper r": paper[name]["r"],
            "paper mae": paper[name]["mae"], "rank": ranks[0].index(name) + 1, "paper rank": ranks[1].index(name) + 1,
            "agrees": ranks[0].index(name) == ranks[1].index(name),
        }
        for name in common
    ]  # fmt: skip
