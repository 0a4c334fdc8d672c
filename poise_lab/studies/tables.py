"""The paper's analysis tables from readings of real models. `paper.py` puts them beside the paper's numbers.

Every probe is fitted on four fifths of the prompts and scored on the last fifth, five times, so that each prompt is
held out once. Fitted and scored against the mean reward of the *other* responses to the prompt, never the own.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..files import provenance, read_json, write_arrays, write_json
from ..policies import load_policy
from ..probe import ENTROPIES, ValueProbe
from ..sources import data_dir
from ..stats import agreement, pair_reduction, value_spread
from .common import piece, splits
from .critics import CRITIC_RATES, critic_row
from .readings import POOL, SHOTS, TASKS, Readings, folder_name, folder_of, read_task, search

RIDGES = (0.01, 1.0, 10.0, 100.0, 1000.0, 10000.0)
MLPS = {"MLP 1x512": (512,), "MLP 3x512": (512,) * 3, "MLP 5x512": (512,) * 5, "MLP 3x1024": (1024,) * 3}
TRAIN_PROMPTS = (20, 40, 80, 160, 320)


class Plain(RegressorMixin, BaseEstimator):
    """Standardised columns and a ridge of strength 1, for inputs that are few: clipped to [0, 1] as the probe is."""

    def fit(self, X, y):
        self.model_ = make_pipeline(StandardScaler(), Ridge(1.0)).fit(X, y)
        return self

    def predict(self, X):
        return self.model_.predict(X).clip(0, 1)


class Reduced(RegressorMixin, BaseEstimator):
    """Another regressor on what the release's probe regresses on: principal components, 32 of the prompt state and 64
    of the reasoning state, and the entropies."""

    def __init__(self, regressor, pca_prompt=32, pca_reasoning=64):
        self.regressor, self.pca_prompt, self.pca_reasoning = regressor, pca_prompt, pca_reasoning

    def fit(self, X, y):
        width = (X.shape[1] - ENTROPIES) // 2
        columns = ColumnTransformer([
            ("prompt", PCA(self.pca_prompt, random_state=42), slice(0, width)),
            ("reasoning", PCA(self.pca_reasoning, random_state=42), slice(width, 2 * width)),
            ("entropy", "passthrough", slice(2 * width, None)),
        ])  # fmt: skip
        self.model_ = make_pipeline(columns, StandardScaler(), clone(self.regressor))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs on purpose; the paper gives no number
            self.model_.fit(np.asarray(X, dtype=np.float32), np.asarray(y, dtype=np.float32))
        return self

    def predict(self, X):
        return self.model_.predict(np.asarray(X, dtype=np.float32)).clip(0, 1)


def measures_of(estimator, X: np.ndarray, readings: Readings, *, train: int | None = None, rows: int | None = None,
                shuffle: bool = False) -> dict[str, list[float]]:  # fmt: skip
    """MAE, r and variance reduction of an estimator on each split's held-out prompts.

    X: (P, R, F). train: prompts to fit on, by default all that are not held out. rows: responses of each to fit on.
    shuffle: fit on the targets of other prompts, which should leave nothing to find.
    """
    y, found = readings.targets(), {"mae": [], "r": [], "variance_reduction": []}
    for i, (fit, held_out) in enumerate(splits(len(y))):
        some = np.random.default_rng(i).permutation(fit)[:train]
        targets = y[np.random.default_rng(i).permutation(some)] if shuffle else y[some]
        columns = slice(0, rows)
        model = clone(estimator)
        model.fit(X[some][:, columns].reshape(-1, X.shape[2]), targets[:, columns].reshape(-1))
        predicted = model.predict(X[held_out].reshape(-1, X.shape[2])).reshape(len(held_out), -1)
        for name, value in agreement(predicted, y[held_out]).items():
            if name in found:
                found[name].append(value)
        found["variance_reduction"].append(pair_reduction(predicted, readings.rewards[held_out]))
    return {name: [round(float(v), 5) for v in values] for name, values in found.items()}


def regressors() -> dict[str, BaseEstimator]:
    """Table 12: the release's probe, and networks on the same columns."""
    mlp = dict(early_stopping=True, max_iter=15, n_iter_no_change=5, random_state=42)
    networks = {name: Reduced(MLPRegressor(hidden_layer_sizes=hidden, **mlp)) for name, hidden in MLPS.items()}
    return {"Linear ridge": ValueProbe.preset("release"), **networks}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: what is fitted, on which features (P, R, F); the others as `measures_of` takes them."""

    estimator: BaseEstimator
    features: np.ndarray
    train: int | None = None
    rows: int | None = None
    shuffle: bool = False

    def measures(self, readings: Readings) -> dict[str, list[float]]:
        """Each measure's values, one per split."""
        chosen = dict(train=self.train, rows=self.rows, shuffle=self.shuffle)
        return measures_of(self.estimator, self.features, readings, **chosen)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a table by name; called, it gives the measures of each."""

    readings: Readings
    rows: dict[str, Row]

    def __call__(self) -> dict[str, dict[str, list[float]]]:
        return {name: row.measures(self.readings) for name, row in self.rows.items()}


def tables_of(readings: Readings) -> dict[str, Rows]:
    """Every table of one model on one task, to be made by a call."""
    release, X = ValueProbe.preset("release"), readings.features()
    length = readings.lengths[..., None].astype(float)
    tables = {
        "presets": {
            "paper": Row(ValueProbe.preset("paper"), X), "release": Row(release, X),
            "no PCA, ridge 1000": Row(ValueProbe(ridge=1000.0), X),
        },
        "inputs": {
            "only prompt hidden states": Row(clone(release).set_params(inputs=("prompt",)), X),
            "only reasoning hidden states": Row(clone(release).set_params(inputs=("reasoning",)), X),
            "only mean entropy": Row(clone(release).set_params(inputs=("entropy",)), X),
            "only response length": Row(Plain(), length),
            "full estimator": Row(release, X),
        },
        "controls": {
            "task settings and prompt length": Row(Plain(), readings.settings[..., :-1]),
            "the same and response length": Row(Plain(), readings.settings),
            "shuffled targets": Row(release, X, shuffle=True),
        },
        "layers": {str(layer): Row(release, readings.features(layer)) for layer in readings.layers},
        "pools": {str(pool): Row(release, readings.features(pool=pool)) for pool in readings.config["pools"]},
        "architectures": {name: Row(estimator, X) for name, estimator in regressors().items()},
        "rows": {
            f"{prompts} x {rows}": Row(release, X, train=prompts, rows=rows)
            for prompts in TRAIN_PROMPTS for rows in (1, 2, 4)
        },
        "ridge": {
            **{f"{ridge:g}": Row(ValueProbe(ridge=ridge), X) for ridge in RIDGES},
            **{f"{ridge:g}, PCA 32 and 64": Row(clone(release).set_params(ridge=ridge), X) for ridge in RIDGES},
        },
    }  # fmt: skip
    return {name: Rows(readings, rows) for name, rows in tables.items()}


def missing(models: Sequence[str], out: Path) -> dict[str, float]:
    """The tables that are not in the folder; no time was recorded."""
    left = []
    for model in map(folder_name, models):
        if not (out / f"search-{model}.json").is_file():
            left.append(f"search-{model}.json")
        for one in TASKS:
            path = out / model / f"{one.task}.json"
            if not path.is_file() or "critic" not in read_json(path):
                left.append(f"{model}/{path.name}")
    return dict.fromkeys(left, float("nan"))


def record(name: str, out: str | Path, log: Callable[[str], None] = print) -> None:
    """Make all that is missing of a model's tables, and write them under `out`; interrupted, the same call goes on."""
    out = Path(out)
    policy = load_policy(name, shots=SHOTS, dtype=torch.bfloat16)
    model = folder_name(policy.name)
    about = {"command": f"poise-lab study real --policy {name}", "provenance": provenance()}
    searched = out / f"search-{model}.json"
    if not searched.is_file():
        found = search(policy, log=log)
        write_json(searched, {**about, "policy": policy.name, "shots": SHOTS, "seed": 1000, "rows": found})
    for one in TASKS:
        path, folder = out / model / f"{one.task}.json", folder_of(policy) / one.task
        if path.is_file():
            continue
        readings = read_task(policy, one, log=log)
        tables = {}
        for table, make in tables_of(readings).items():
            tables[table] = piece(folder / f"table-{table}.json", make)
            log(f"{policy.name}: {one.task}, table {table}")
        write_rows(readings, out / "rows" / model / f"{one.task}.safetensors")
        spread = value_spread(torch.from_numpy(readings.rewards))
        values = dict(
            mean=float(readings.rewards.mean()), spread=spread, ceiling=readings.ceiling(), layer=readings.layer
        )
        write_json(path, {**about, "config": readings.config, **values, "tables": tables})
    rates: Sequence[float] = CRITIC_RATES
    for one in TASKS:
        path, folder = out / model / f"{one.task}.json", folder_of(policy) / one.task
        found = read_json(path)
        if "critic" not in found:
            rewards = recorded_rows(out, model, one.task)["rewards"].astype(np.float32)
            row, found["critic"] = critic_row(name, one, rewards, rates, folder, log)
            found["tables"]["critic"] = {"probe": found["tables"]["presets"]["release"], "critic": row}
            write_json(path, found)
        rates = [found["critic"]["learning_rate"]]


def write_rows(readings: Readings, path: Path) -> None:
    """Small copies of the rows of the first two responses to each problem: see `row_arrays`."""
    states = readings.states[readings.layer, POOL][:, :2]
    entropy, lengths = readings.entropy[:, :2], readings.lengths[:, :2]
    write_arrays(path, row_arrays(states, entropy, lengths, readings.rewards))


def row_arrays(states: np.ndarray, entropy: np.ndarray, lengths: np.ndarray, rewards: np.ndarray) -> dict:
    """Rows in float16: prompt states (P, D) and reasoning states (P, R, D), each standardised by its columns' mean and
    scale, which stand beside them; entropies and lengths as they are; all rewards.

    states: (P, R, 2, D), prompt state and reasoning state. rewards: (P, M), 0 or 1.
    """
    arrays = {"entropy": entropy, "lengths": lengths, "rewards": rewards.astype(np.uint8)}
    for part, x in (("prompt", states[:, 0, 0]), ("reasoning", states[:, :, 1])):
        flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
        mean, scale = flat.mean(0), flat.std(0).clip(1e-12)
        arrays[part] = ((x - mean) / scale).astype(np.float16)
        arrays[part + "_mean"], arrays[part + "_scale"] = mean.astype(np.float32), scale.astype(np.float32)
    return arrays


def recorded(folder: str | Path | None = None) -> dict[str, dict[str, dict]]:
    """What is recorded: policy to task to its file, read."""
    folder = Path(folder or data_dir() / "real")
    found: dict[str, dict[str, dict]] = {}
    for path in sorted(folder.glob("*/*.json")):
        found.setdefault(path.parent.name, {})[path.stem] = read_json(path)
    return found


def recorded_rows(folder: str | Path, policy: str, task: str) -> dict[str, np.ndarray]:
    """The arrays that `write_rows` wrote."""
    return load_file(Path(folder) / "rows" / policy / f"{task}.safetensors")
