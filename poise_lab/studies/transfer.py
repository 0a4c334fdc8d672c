"""Does a value probe fitted on one setting serve another?

    poise-lab study transfer

A setting is a policy and a task: rows of internal states with the rewards of their prompts. A probe fitted on the
source is used on the target as it is (where the shapes allow), after an affine map learned without labels, and beside
a probe fitted on labels of the target. Everything is scored on prompts that nothing was fitted on.

V(x) belongs to a policy: a probe that reads the source's value perfectly is wrong where the two policies succeed on
different problems. So where both settings have the same problems there is a control, the source's probe on the source's
own states of the held-out problems: no map can be expected to do better. What it lacks is missing in V(x), not in the map.

Left out on purpose: maps that are not affine, and maps learned from rewards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from ..files import provenance, read_json, write_json
from ..models.thinker import make_thinker
from ..policies import load_policy
from ..probe import ValueProbe
from ..rollouts import leave_one_out_mean
from ..show import plots
from ..sources import cache_dir, data_dir
from ..stats import agreement, bootstrap_interval, mean_interval, pair_reduction, value_covariance, value_spread
from .common import piece, splits
from .tracking import SEEDS, keep_rows, rows_file

NUMBERS = (10, 20, 40, 80, 160, 320)  # prompts
MODES = {  # and how figures name them
    "as it is": "as it is", "restandardised": "after new means and scales", "affine map": "after an affine map",
    "refitted": "refitted on labels", "own states": "the source's own states",
}  # fmt: skip
MEASURES = {
    "r": "Pearson r", "mae": "mean absolute error", "variance_reduction": "1 - Var(A)/Var(R)",
    "r_source": "r with the source's V(x)",
}  # fmt: skip
CHECKPOINTS = ((0, 100), (100, 200), (0, 200), (200, 0))  # steps: probe fitted at, used at
BUNDLED = {"thinker": "bundled", "thinker-seed1": "other seed", "thinker-narrow": "half the width"}
PRETRAINED = {"thinker-seed1": dict(steps=2000, seed=1), "thinker-narrow": dict(steps=2000, width=64)}  # into the cache


@dataclasses.dataclass
class Rows:
    """P prompts, R responses that were read, M rewards. features: (P, R, F). rewards: (P, M)."""

    features: np.ndarray
    rewards: np.ndarray

    @classmethod
    def read(cls, path: str | Path) -> Rows:
        """From a file of `tables.row_arrays`, with the states in their own units."""
        arrays = load_file(path)
        states = {
            part: arrays[part].astype(np.float64) * arrays[part + "_scale"] + arrays[part + "_mean"]
            for part in ("prompt", "reasoning")
        }
        reasoning = states["reasoning"]
        prompt = np.broadcast_to(states["prompt"][:, None], reasoning.shape)
        features = np.concatenate([prompt, reasoning, arrays["entropy"]], -1)
        return cls(features, arrays["rewards"].astype(np.float64))

    def targets(self) -> np.ndarray:
        """(P, R) mean reward of the other responses to the prompt."""
        return leave_one_out_mean(torch.from_numpy(self.rewards))[:, : self.features.shape[1]].numpy()


def fitted(X: np.ndarray, y: np.ndarray) -> ValueProbe:
    """The release's probe on rows (..., F) with targets of any range: the fit commutes with an affine map of them."""
    low, high = float(y.min()), float(y.max())
    scale = high - low or 1.0
    probe = ValueProbe.preset("release").fit(X, ((y - low) / scale).clip(0, 1))
    return probe.set_fitted(probe.coef_ * scale, probe.intercept_ * scale + low)


def through_map(source: ValueProbe, paired: np.ndarray, features: np.ndarray) -> ValueProbe:
    """A probe for the target's states: an affine map of them to the source's states, then the source's probe.

    paired: (N, R, F) the source's states on n prompts; features: (N, R, F') the target's on the same prompts. No
    reward is read. The map is the least-squares one on the release's columns of the target. The probe is linear and so is
    least squares in what it predicts, so mapping all F columns and then probing equals predicting the probe's output.
    """
    return fitted(features, paired @ source.coef_ + source.intercept_)


def restandardised(source: ValueProbe, before: np.ndarray, after: np.ndarray) -> ValueProbe:
    """The source's probe behind an affine map of each column, which gives the target's rows the source's mean and scale.

    before: (..., F) rows of the source; after: (..., F) rows of the target. They need not be of the same prompts.
    """
    x, z = before.reshape(-1, before.shape[-1]), after.reshape(-1, after.shape[-1])
    constant = z.std(0) < 1e-9
    scale = np.where(constant, 0.0, x.std(0) / np.where(constant, 1.0, z.std(0)))
    coef = source.coef_ * scale
    intercept = source.intercept_ + source.coef_ @ x.mean(0) - coef @ z.mean(0)
    return ValueProbe.preset("release").set_fitted(coef, float(intercept))


def transfer(source: Rows, target: Rows, *, paired: bool, numbers: Sequence[int] = NUMBERS) -> dict:
    """Measures of every way to get a probe for the target: mode to n to measure to one value per split.

    paired: prompt i of the source is prompt i of the target. Then a map between their states can be learned, and all
    is scored against the source's value too, as "r_source".
    "as it is" and "own states" read nothing of the target; their n is 0. Modes that the shapes rule out are absent.
    """
    y, found = target.targets(), {}
    same_shape = source.features.shape[-1] == target.features.shape[-1]

    def score(mode: str, n: int, probe: ValueProbe, held_out: np.ndarray, read: Rows = target) -> None:
        predicted = probe.predict(read.features[held_out])
        measured = agreement(predicted, y[held_out])
        measured["variance_reduction"] = pair_reduction(predicted, target.rewards[held_out])
        if paired:
            measured["r_source"] = agreement(predicted, source.targets()[held_out])["r"]
        for measure in MEASURES:
            if measure in measured:
                place = found.setdefault(mode, {}).setdefault(str(n), {}).setdefault(measure, [])
                place.append(round(float(measured[measure]), 4))

    for i, (fit, held_out) in enumerate(splits(len(y))):
        probe = fitted(source.features[fit], source.targets()[fit])
        order = np.random.default_rng(i).permutation(fit)
        if same_shape:
            score("as it is", 0, probe, held_out)
        for n in numbers:
            some = order[:n]
            if same_shape:
                moved = restandardised(probe, source.features[fit], target.features[some])
                score("restandardised", n, moved, held_out)
            if paired:
                mapped = through_map(probe, source.features[some], target.features[some])
                score("affine map", n, mapped, held_out)
            score("refitted", n, fitted(target.features[some], y[some]), held_out)
        if paired:
            score("own states", 0, probe, held_out, read=source)
    return found


def same_value(source: Rows, target: Rows) -> dict[str, list[float]]:
    """r between the V(x) of two settings with the same problems, and its interval over problems: [r, low, high].

    Both divide `value_covariance`, for every policy was sampled with the same seed. "noise_free" by the spreads of V(x)
    itself: the r of the two V(x), which by chance may pass 1. "r" by the spreads of the mean rewards: the r that these
    would have if nothing random were shared, which their noise pulls towards 0. 0.0 where either has no spread.
    """

    def over(spread: Callable[[torch.Tensor], float]) -> Callable[[np.ndarray, np.ndarray], float]:
        def r(*rewards: np.ndarray) -> float:
            a, b = map(torch.from_numpy, rewards)
            spreads = spread(a) * spread(b)
            return value_covariance(a, b) / spreads if spreads > 1e-12 else 0.0

        return r

    statistics = {"r": over(lambda rewards: float(rewards.mean(1).std())), "noise_free": over(value_spread)}
    return {
        name: [round(x, 4) for x in bootstrap_interval(statistic, source.rewards, target.rewards)]
        for name, statistic in statistics.items()
    }


@dataclasses.dataclass(frozen=True)
class Group:
    """Pairs of one kind. over: what an interval is taken over, "splits" (of the mean over pairs) or "pairs" (seeds)."""

    kind: str
    name: str
    pairs: tuple[tuple[Path, Path], ...]
    paired: bool = True
    over: str = "splits"

    @property
    def file(self) -> str:
        return f"{self.kind} {self.name}".replace(" ", "-") + ".json"


def groups(data: str | Path, rows: Path) -> list[Group]:
    """Every group of which there are rows: other tasks, checkpoints, bundled policies (in the folder `rows`), families.

    The rows of the bundled policies are made when they are missing, and count as there.
    """
    data, found = Path(data), []
    models = {path.name: sorted(path.glob("*.safetensors")) for path in sorted((data / "real" / "rows").glob("*"))}
    for model, tasks in models.items():
        ordered = tuple((a, b) for a in tasks for b in tasks if a != b)
        found.append(Group("another task", model, ordered, paired=False))
    for a, b in CHECKPOINTS:
        files = tuple((rows_file(data / "tracking", s, a), rows_file(data / "tracking", s, b)) for s in range(SEEDS))
        found.append(Group("another checkpoint", f"step {a} to {b}", files, over="pairs"))
    files = {name: rows / f"{name}.safetensors" for name in BUNDLED}
    for name, what in list(BUNDLED.items())[1:]:
        found.append(Group("another policy", what, ((files["thinker"], files[name]), (files[name], files["thinker"]))))
    for source, tasks in models.items():
        for target, others in models.items():
            same = {path.name: path for path in others}
            if source != target:
                shared = tuple((path, same[path.name]) for path in tasks if path.name in same)
                found.append(Group("another family", f"{source} to {target}", shared))
    there = {path for group in found for pair in group.pairs for path in pair if path.is_file()} | set(files.values())
    return [group for group in found if group.pairs and all(there.issuperset(pair) for pair in group.pairs)]


def _policy_folder(name: str) -> Path:
    return cache_dir() / "policies" / name


def missing(out: Path) -> dict[str, float]:
    """What is not there, with the minutes that pretraining took as far as the bundled policy's card tells."""
    card, nan = read_json(data_dir() / "thinker-policy" / "card.json"), float("nan")
    per_step = card["minutes"] / int(card["command"].split("--steps ")[1].split()[0])
    rows = {name: out / "rows" / f"{name}.safetensors" for name in BUNDLED}
    pretrained = {
        f"policy {name}": settings["steps"] * per_step
        for name, settings in PRETRAINED.items()
        if not rows[name].is_file() and not _is_made(name)
    }
    files = [*rows.values(), *(out / group.file for group in groups(data_dir(), out / "rows"))]
    return pretrained | {path.name: nan for path in files if not path.is_file()}


def _is_made(name: str) -> bool:
    return (_policy_folder(name) / "card.json").is_file()


def record(out: str | Path, data: str | Path | None = None, log: Callable[[str], None] = print) -> None:
    """Make what is missing under `out`: rows of the bundled policies, then one file for each group of pairs."""
    out, data = Path(out), Path(data or data_dir())
    for name in BUNDLED:
        path = out / "rows" / f"{name}.safetensors"
        if not path.is_file():
            if name in PRETRAINED and not _is_made(name):
                make_thinker(_policy_folder(name), **PRETRAINED[name])
            keep_rows(load_policy(_policy_folder(name) if name in PRETRAINED else name), path)
    about = {"command": "poise-lab study transfer", "provenance": provenance()}
    for group in groups(data, out / "rows"):

        def make(group=group):
            measured, values = {}, {}
            for a, b in group.pairs:
                label, source, target = f"{_label(a)} to {_label(b)}", Rows.read(a), Rows.read(b)
                measured[label] = transfer(source, target, paired=group.paired)
                if group.paired:
                    values[label] = same_value(source, target)
            made = {**about, "kind": group.kind, "name": group.name, "over": group.over, "pairs": measured}
            return made | ({"same_value": values} if values else {})

        found = piece(out / group.file, make)
        if list(found["pairs"]) != [f"{_label(a)} to {_label(b)}" for a, b in group.pairs]:  # rows have joined
            write_json(out / group.file, make())
        log(f"{group.kind}: {group.name}")


def _label(path: Path) -> str:
    """Of a file of rows, unlike those of the files beside it and of the other models."""
    return f"{path.parent.name} {path.stem}" if path.parent.name != "rows" else path.stem


def recorded(folder: str | Path) -> list[dict]:
    """The groups that are recorded, by kind."""
    order = ("another checkpoint", "another policy", "another task", "another family")  # near to far
    return sorted(map(read_json, sorted(Path(folder).glob("*.json"))), key=lambda one: order.index(one["kind"]))


def over_pairs(group: dict, mode: str, n: int, measure: str = "r") -> list[float]:
    """A measure's values to take an interval over: of each pair (seeds), or of each split, means over the rest."""
    values = np.array([found[mode][str(n)][measure] for found in group["pairs"].values()])
    return values.mean(1 if group["over"] == "pairs" else 0).tolist()


def over_groups(groups: Sequence[dict], mode: str, measure: str = "r") -> tuple[list[int], np.ndarray]:
    """n, and (mean, low, high) at each of the mean over several groups: (N, 3). Empty where the shapes rule the mode out."""
    first = next(iter(groups[0]["pairs"].values()))
    numbers = [int(n) for n in first.get(mode, {})]
    values = [np.mean([over_pairs(group, mode, n, measure) for group in groups], 0) for n in numbers]
    return numbers, np.array([mean_interval(x) for x in values]).reshape(-1, 3)


def by_kind(groups: Sequence[dict]) -> dict[str, list[dict]]:
    """Groups to show together: a task's with each other, for whichever model; checkpoints and policies one by one."""
    found: dict[str, list[dict]] = {}
    for group in groups:
        one = group["kind"] in ("another checkpoint", "another policy")
        kind = group["kind"].removeprefix("another ")  # short: the titles of three panels share a line
        found.setdefault(f"{kind}, {group['name']}" if one else kind, []).append(group)
    return found


def by_task(groups: Sequence[dict]) -> dict[str, list[dict]]:
    """Task to groups of one pair each: of policies that both read it, in either direction."""
    found: dict[str, list[dict]] = {}
    for group in groups:
        for label, pair in group["pairs"].items():
            one = {**group, "pairs": {label: pair}, "same_value": {label: group["same_value"][label]}}
            found.setdefault(label.split()[-1], []).append(one)
    return found


def figure(panels: dict[str, Sequence[dict]], measure: str = "r"):
    """Every way to get a probe for the target, over the number of the target's prompts; panels: name to its groups."""
    values = {}
    for name, members in panels.items():
        curves = {label: over_groups(members, mode, measure) for mode, label in MODES.items()}
        values[name] = {label: curve for label, curve in curves.items() if curve[0]}
    title, columns = "A probe of one setting, used on another", 2 if len(values) <= 4 else 3
    names = list(MODES.values())
    return plots.panels(values, title, "prompts of the target", MEASURES[measure], True, columns, names)


def shown_last(fig) -> dict[str, dict[str, float]]:
    """What `figure` shows at the largest number of prompts: panel to line to its value."""
    found: dict[str, dict[str, float]] = {title.text: {} for title in fig.layout.annotations}
    panels = list(found)
    for line in fig.data:
        if line.name:  # bands have none
            found[panels[int(line.xaxis[1:] or 1) - 1]][line.name] = line.y[-1]
    return found


def labels_needed(groups: Sequence[dict]) -> int | None:
    """The fewest labelled prompts of the target whose refitted probe has at least the r of the affine map at its best n."""
    best = over_groups(groups, "affine map", "r")[1][:, 0].max()
    labelled, refitted = over_groups(groups, "refitted", "r")
    return next((n for n, value in zip(labelled, refitted[:, 0], strict=True) if value >= best), None)
