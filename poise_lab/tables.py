"""The paper's analysis tables from readings of real models. `paper.py` puts them beside the paper's numbers.

Every probe is fitted on four fifths of the prompts and scored on the last fifth, five times, so that each prompt is
held out once. Fitted and scored against the mean reward of the *other* responses to the prompt, never the own.
"""

from __future__ import annotations

import copy
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

from .baselines import variance_reduction
from .critic import Critic
from .policies import Policy, data_dir, load_policy
from .probe import ENTROPIES, ValueProbe, agreement
from .real import POOL, READ, SEED, SHOTS, TASKS, Readings, Setting, folder_of, piece, read_task, search, value_spread
from .records import provenance, read_json, write_arrays, write_json
from .rollouts import build_rollouts, leave_one_out_mean
from .tasks import Problem, load_task

SPLITS = 5
RIDGES = (0.01, 1.0, 10.0, 100.0, 1000.0, 10000.0)
MLPS = {"MLP 1x512": (512,), "MLP 3x512": (512,) * 3, "MLP 5x512": (512,) * 5, "MLP 3x1024": (1024,) * 3}
TRAIN_PROMPTS = (20, 40, 80, 160, 320)
CRITIC_RATES = (3e-5, 1e-4)  # validation prompts of the first task choose one for each model
CRITIC_EPOCHS, CRITIC_MINIBATCH = 4, 16  # the epochs are the most; validation prompts choose how many count


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


def splits(prompts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """SPLITS pairs of prompts to fit on and prompts to hold out; each prompt is held out once."""
    parts = np.array_split(np.random.default_rng(0).permutation(prompts), SPLITS)
    return [(np.sort(np.concatenate(parts[:i] + parts[i + 1 :])), np.sort(parts[i])) for i in range(SPLITS)]


def evaluate(estimator, X: np.ndarray, readings: Readings, *, train: int | None = None, rows: int | None = None,
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


def pair_reduction(predicted: np.ndarray, rewards: np.ndarray) -> float:
    """1 - Var(A)/Var(R) where each response's baseline is the prediction from its partner's states: pairs (0, 1), (2, 3)..."""
    columns = np.arange(predicted.shape[1] // 2 * 2)
    own = rewards[:, columns]
    return float(variance_reduction(own - predicted[:, columns ^ 1], own))


def regressors() -> dict[str, BaseEstimator]:
    """Table 12: the release's probe, and networks on the same columns."""
    mlp = dict(early_stopping=True, max_iter=15, n_iter_no_change=5, random_state=42)
    networks = {name: Reduced(MLPRegressor(hidden_layer_sizes=hidden, **mlp)) for name, hidden in MLPS.items()}
    return {"Linear ridge": ValueProbe.preset("release"), **networks}


def tables_of(readings: Readings) -> dict[str, Callable[[], dict[str, dict[str, list[float]]]]]:
    """Every table of one model on one task, to be made by a call: row to the measures of each split."""
    release, X = ValueProbe.preset("release"), readings.features()
    length = readings.lengths[..., None].astype(float)

    def row(estimator, features=X, **options):
        return evaluate(estimator, features, readings, **options)

    parts = {
        "only prompt hidden states": ("prompt",), "only reasoning hidden states": ("reasoning",),
        "only mean entropy": ("entropy",),
    }  # fmt: skip
    return {
        "presets": lambda: {
            "paper": row(ValueProbe.preset("paper")), "release": row(release),
            "no PCA, ridge 1000": row(ValueProbe(ridge=1000.0)),
        },
        "inputs": lambda: {
            **{name: row(clone(release).set_params(inputs=inputs)) for name, inputs in parts.items()},
            "only response length": row(Plain(), length), "full estimator": row(release),
        },
        "controls": lambda: {
            "task settings and prompt length": row(Plain(), readings.settings[..., :-1]),
            "the same and response length": row(Plain(), readings.settings),
            "shuffled targets": row(release, shuffle=True),
        },
        "layers": lambda: {str(layer): row(release, readings.features(layer)) for layer in readings.layers},
        "pools": lambda: {str(pool): row(release, readings.features(pool=pool)) for pool in readings.config["pools"]},
        "architectures": lambda: {name: row(estimator) for name, estimator in regressors().items()},
        "rows": lambda: {
            f"{prompts} x {rows}": row(release, train=prompts, rows=rows)
            for prompts in TRAIN_PROMPTS for rows in (1, 2, 4)
        },
        "ridge": lambda: {
            **{f"{ridge:g}": row(ValueProbe(ridge=ridge)) for ridge in RIDGES},
            **{f"{ridge:g}, PCA 32 and 64": row(clone(release).set_params(ridge=ridge)) for ridge in RIDGES},
        },
    }  # fmt: skip


def only_tokens_of(policy: Policy, prompts: Sequence[list[int]]) -> tuple[Policy, list[list[int]]]:
    """A copy of the policy whose embedding has the rows of these prompts' tokens only, and the prompts in its ids.

    A row that no prompt reads has no gradient, and AdamW without weight decay leaves it alone; with a vocabulary of
    262144 tokens it is most of what an optimizer step would go through. The copy is a trunk: it gives no logits.
    """
    tokens, ids = np.unique(np.concatenate(prompts), return_inverse=True)
    policy = copy.deepcopy(policy)
    embedding = policy.model.get_input_embeddings()
    embedding.weight = torch.nn.Parameter(embedding.weight.detach()[torch.from_numpy(tokens)])
    embedding.num_embeddings, embedding.padding_idx = len(tokens), None
    policy.model.set_output_embeddings(torch.nn.Identity())
    return policy, [part.tolist() for part in np.split(ids, np.cumsum([len(prompt) for prompt in prompts])[:-1])]


def critic_epochs(policy: Policy, problems: Sequence[Problem], rewards: np.ndarray, fit: np.ndarray, held_out: np.ndarray,
                  learning_rate: float, epochs: int = CRITIC_EPOCHS) -> tuple[list[float], list[np.ndarray]]:  # fmt: skip
    """A critic fine-tuned from the policy on the mean rewards of the prompts `fit`, of which a fifth are kept for validation.

    policy: in float32, and left as it is. rewards: (P, M). The critic reads the same prompts as the policy.
    Returns, after each epoch, the mean squared error on the validation prompts, and the (H,) values of `held_out`.
    """
    policy, prompts = only_tokens_of(policy, [policy.prompt_ids(problem) for problem in problems])
    one = torch.ones(len(problems), 1, dtype=torch.long)
    rollouts = build_rollouts(
        policy, problems, prompts, torch.zeros_like(one)[..., None], one, torch.zeros(len(one), 1, 1)
    )
    rollouts = dataclasses.replace(rollouts, rewards=torch.from_numpy(rewards.mean(1, keepdims=True)))
    validation, taught = (np.sort(fit[part]) for part in splits(len(fit))[0][::-1])
    critic = Critic(learning_rate=learning_rate, minibatches=-(-len(taught) // CRITIC_MINIBATCH))
    critic.start(policy)
    errors, values = [], []
    # products in bfloat16, weights in float32; without the cache, which would keep the weights of the first step
    with torch.autocast(policy.device.type, dtype=torch.bfloat16, cache_enabled=False):
        for _ in range(epochs):
            critic.update(rollouts.select(taught), None)
            guess = critic.values(rollouts.select(validation), None)[:, 0].float().numpy()
            errors.append(float(((guess - rewards[validation].mean(1)) ** 2).mean()))
            values.append(critic.values(rollouts.select(held_out), None)[:, 0].float().numpy())
    return errors, values


def critic_split(name: str, one: Setting, rewards: np.ndarray, split: int, learning_rate: float) -> dict:
    """The measures of a critic on one split, as those of `evaluate`, and the validation error after each epoch.

    rewards: (P, M), as recorded. The epoch with the least validation error counts. Scored on the responses that the
    probe is scored on; the critic's value is the same for all responses to a prompt.
    """
    fit, held_out = splits(len(rewards))[split]
    problems = load_task(one.task, **one.settings).sample(len(rewards), seed=SEED)
    policy = load_policy(name, shots=SHOTS)  # in float32: in bfloat16 small updates vanish
    errors, values = critic_epochs(policy, problems, rewards, fit, held_out, learning_rate)
    y = leave_one_out_mean(torch.from_numpy(rewards[held_out]))[:, :READ].numpy()
    predicted = np.repeat(values[int(np.argmin(errors))][:, None], y.shape[1], 1)
    found = agreement(predicted, y)
    measures = {
        "mae": found["mae"], "r": found["r"], "variance_reduction": pair_reduction(predicted, rewards[held_out])
    }  # fmt: skip
    measures = {measure: round(float(value), 5) for measure, value in measures.items()}
    return {**measures, "validation_error": [round(error, 6) for error in errors]}


def critic_row(name: str, one: Setting, rewards: np.ndarray, rates: Sequence[float], folder: Path,
               log: Callable[[str], None]) -> tuple[dict, dict]:  # fmt: skip
    """The measures of a critic on every split, and how it was trained; splits that stand in the folder are taken as they are.

    The validation prompts of the first split choose one of the learning rates.
    """

    def part(split: int, rate: float) -> dict:
        path = folder / f"critic-{split}-{rate:g}.json"
        found = piece(path, lambda: critic_split(name, one, rewards, split, rate))
        log(f"{name}: {one.task}, critic, split {split}, learning rate {rate:g}: {found}")
        return found

    first = {rate: part(0, rate) for rate in rates}
    rate = min(first, key=lambda rate: min(first[rate]["validation_error"]))
    parts = [first[rate], *(part(split, rate) for split in range(1, SPLITS))]
    training = {
        "provenance": provenance(), "learning_rate": rate,
        "searched": {f"{rate:g}": min(found["validation_error"]) for rate, found in first.items()},
        "epochs": [int(np.argmin(found["validation_error"])) + 1 for found in parts],
    }  # fmt: skip
    return {measure: [found[measure] for found in parts] for measure in ("mae", "r", "variance_reduction")}, training


def record(name: str, out: str | Path, log: Callable[[str], None] = print) -> None:
    """Make all that is missing of a model's tables, and write them under `out`; interrupted, the same call goes on."""
    out = Path(out)
    policy = load_policy(name, shots=SHOTS, dtype=torch.bfloat16)
    about = {"command": f"poise-lab probes --policy {name} --out {out}", "provenance": provenance()}
    searched = out / f"search-{policy.name}.json"
    if not searched.is_file():
        found = search(policy, log=log)
        write_json(searched, {**about, "policy": policy.name, "shots": SHOTS, "seed": 1000, "rows": found})
    for one in TASKS:
        path, folder = out / policy.name / f"{one.task}.json", folder_of(policy) / one.task
        if path.is_file():
            continue
        readings = read_task(policy, one, log=log)
        tables = {}
        for table, make in tables_of(readings).items():
            tables[table] = piece(folder / f"table-{table}.json", make)
            log(f"{policy.name}: {one.task}, table {table}")
        write_rows(readings, out / "rows" / policy.name / f"{one.task}.safetensors")
        spread = value_spread(torch.from_numpy(readings.rewards))
        values = dict(
            mean=float(readings.rewards.mean()), spread=spread, ceiling=readings.ceiling(), layer=readings.layer
        )
        write_json(path, {**about, "config": readings.config, **values, "tables": tables})
    rates: Sequence[float] = CRITIC_RATES
    for one in TASKS:
        path, folder = out / policy.name / f"{one.task}.json", folder_of(policy) / one.task
        found = read_json(path)
        if "critic" not in found:
            rewards = recorded_rows(out, policy.name, one.task)["rewards"].astype(np.float32)
            row, found["critic"] = critic_row(name, one, rewards, rates, folder, log)
            found["tables"]["critic"] = {"probe": found["tables"]["presets"]["release"], "critic": row}
            write_json(path, found)
        rates = [found["critic"]["learning_rate"]]


def write_rows(readings: Readings, path: Path, responses: int = 2) -> None:
    """Small copies of the rows of the first responses to each problem: see `row_arrays`."""
    states = readings.states[readings.layer, POOL][:, :responses]
    entropy, lengths = readings.entropy[:, :responses], readings.lengths[:, :responses]
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
