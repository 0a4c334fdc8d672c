"""The recorded tables of real models beside the paper's numbers, with what the order of their rows says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from ..files import read_json
from ..show import plots
from ..sources import data_dir
from ..stats import mean_interval, pair_reduction, verdict
from .common import splits

QWEN, R1 = "Qwen3-4B", "R1-1.5B"
DEPTH = {QWEN: 36, R1: 28}  # layers

# Our tables and the paper's: its model to the key in paper_results.json. Names of rows are the same in both.
PAPER = {
    "inputs": {QWEN: "table3_inputs_qwen3_4b"},
    "layers": {QWEN: "table8_layers_qwen3_4b", R1: "table9_layers_r1_1_5b"},
    "pools": {QWEN: "table10_pooling_qwen3_4b", R1: "table11_pooling_r1_1_5b_layer1"},
    "architectures": {QWEN: "table12_probe_architectures"},
    "critic": {QWEN: "figure1"},
}

MEASURES = {"r": "r", "MAE": "mae", "1 - Var(A)/Var(R)": "variance_reduction"}
NO_INTERVAL = (float("nan"),) * 3
CONTROLS = ("shuffled targets", "task settings and prompt length", "RLOO on the same pairs")


def rloo_row(rewards: np.ndarray, read: int) -> dict[str, list[float]]:
    """The variance reduction of each split's held-out prompts where the baseline is the partner's own reward.

    rewards: (P, M), of which the first `read` are paired as `pair_reduction` does.
    """
    rewards = rewards.astype(float)
    return {
        "variance_reduction": [
            pair_reduction(rewards[held_out, :read], rewards[held_out]) for _, held_out in splits(len(rewards))
        ]
    }


def over_tasks(tasks: Sequence[dict], table: str, row: str, measure: str = "r") -> list[float]:
    """A measure of each split, mean over the tasks that have the row."""
    return np.mean([task["tables"][table][row][measure] for task in tasks], 0).tolist()


def compared(
    tasks: Sequence[dict], table: str, a: str, b: str, measure: str = "r"
) -> tuple[str, tuple[float, float, float]]:
    """Is row a better than row b, split by split, in the mean over tasks? As `stats.verdict`; of errors the lower is better."""
    x, y = (over_tasks(tasks, table, row, measure) for row in (a, b))
    word, gap = verdict(x, y)
    return (verdict(y, x)[0] if measure == "mae" else word), gap


def order_verdicts(ours: dict[str, Sequence[float]], paper: dict[str, float]) -> dict[str, tuple[int, int, int]]:
    """For each row that both have: on how many other rows (same side as in the paper, other side, open).

    ours: row to its values over splits; a pair is open where the 95 % interval of the paired difference holds 0.
    paper: row to one value; equal values are open too.
    """
    names = [name for name in ours if name in paper]
    verdicts = {}
    for a in names:
        counts = [0, 0, 0]
        for b in names:
            if a == b:
                continue
            _, low, high = mean_interval(np.subtract(ours[a], ours[b]))
            theirs = paper[a] - paper[b]
            counts[2 if low <= 0 <= high or theirs == 0 else 0 if (low > 0) == (theirs > 0) else 1] += 1
        verdicts[a] = tuple(counts)
    return verdicts


def papers(table: str, names: Sequence[str], depth: int = 0, model: str = QWEN) -> dict[str, dict[str, float]]:
    """The paper's numbers, {"mae", "r"}, for those of our rows that it has too; a layer's at the same relative depth."""
    if model not in PAPER.get(table, {}):
        return {}
    theirs = read_json(data_dir() / "paper_results.json")["v2"][PAPER[table][model]]
    theirs = {name: value for name, value in theirs.items() if isinstance(value, dict)}
    if table != "layers":
        return {name: theirs[name] for name in names if name in theirs}
    return {name: theirs[same_depth(int(name), depth, theirs, DEPTH[model])] for name in names}


def same_depth(layer: int, depth: int, theirs: Iterable[str], their_depth: int) -> str:
    """Of the layers that the paper read, by name, the one at the relative depth nearest to ours: its middle counts."""

    def apart(name: str) -> float:
        return abs((int(name) + 0.5) / their_depth - (layer + 0.5) / depth)

    return min(theirs, key=apart)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column that the paper's numbers give: what stands in it by row, and what in the rows that the paper does not have."""

    label: str
    cells: dict[str, object]
    empty: object


def paper_columns(tasks: Sequence[dict], fewer: Sequence[dict], table: str) -> list[Column]:
    """The paper's numbers for the rows of a table, then on how many other rows the order agrees with the paper's.

    fewer: the tasks of one more order by r; the same ones for none.
    """
    names, numbers, orders = list(tasks[0]["tables"][table]), [], []

    def add_number(label: str, theirs: dict[str, float]) -> None:
        numbers.append(Column(label, {name: (value, *NO_INTERVAL[1:]) for name, value in theirs.items()}, NO_INTERVAL))

    def add_order(label: str, some: Sequence[dict], measure: str, theirs: dict[str, float]) -> None:
        ours = {name: over_tasks(some, table, name, measure) for name in names}
        orders.append(Column(label, {k: order_cell(v) for k, v in order_verdicts(ours, theirs).items()}, "-"))

    for model in PAPER.get(table, {}):
        theirs = papers(table, names, tasks[0]["config"]["depth"], model)
        r, mae = ({name: value[measure] for name, value in theirs.items()} for measure in ("r", "mae"))
        add_number(f"{model}'s r", r)
        add_order(f"order by r, {model}", tasks, "r", r)
        if model == QWEN:
            add_number(f"{model}'s MAE", mae)
            add_order("order by MAE", tasks, "mae", mae)
            if len(fewer) < len(tasks):
                add_order("order by r without", fewer, "r", r)
    return [*numbers, *orders]


def beside_paper(tasks: Sequence[dict], table: str, without: Sequence[str] = ()) -> list[dict]:
    """Rows of a table, mean over tasks, with the paper's and what the order of rows says; controls first.

    without: tasks that are left out of one more column of r, and of an order by it.
    """
    tasks = [task for task in tasks if table in task["tables"]]
    fewer = [task for task in tasks if task["config"]["task"] not in without]
    columns, rows = paper_columns(tasks, fewer, table), []
    for at, names in (("controls", CONTROLS), (table, list(tasks[0]["tables"][table]))):
        for name in names:
            if not all(name in task["tables"][at] for task in tasks):
                continue
            has = tasks[0]["tables"][at][name]
            row = {"row": f"({name})" if at == "controls" else name}
            for label, measure in MEASURES.items():
                row[label] = mean_interval(over_tasks(tasks, at, name, measure)) if measure in has else NO_INTERVAL
            if len(fewer) < len(tasks):
                row["r without"] = mean_interval(over_tasks(fewer, at, name)) if "r" in has else NO_INTERVAL
            row |= {c.label: c.empty if at == "controls" else c.cells.get(name, c.empty) for c in columns}
            rows.append(row)
    return rows


def order_cell(verdict: tuple[int, int, int]) -> str:
    """A verdict of `order_verdicts` in words."""
    return "{} agree, {} against, {} open".format(*verdict)


def table_figure(models: dict[str, Sequence[dict]], table: str, title: str, x: str, **layout):
    """The r of a table of several models as points with 95 % intervals over splits, the paper's numbers as open diamonds.

    models: name to the files of its tasks, over which the mean is taken.
    """
    values, marked = {}, {}
    for model, tasks in models.items():
        tasks = [task for task in tasks if table in task["tables"]]
        if tasks:
            names = list(tasks[0]["tables"][table])
            values[model] = {name: mean_interval(over_tasks(tasks, table, name)) for name in names}
            if table != "layers":  # theirs are of another model's depth
                marked |= {name: value["r"] for name, value in papers(table, names).items() if "r" in value}
    return plots.side_by_side(values, marked, title, x, "Pearson r (with the mean of other rewards)", **layout)


def depth_figure(models: dict[str, Sequence[dict]], title: str):
    """r over the relative depth of the layer, mean over tasks with 95 % bands, the paper's models beside ours."""
    fig = plots.figure(title, "depth of the layer (0 first, 1 last)", "Pearson r (with the mean of other rewards)")
    for (model, tasks), style in zip(models.items(), plots.line_styles(len(models)), strict=True):
        names = list(tasks[0]["tables"]["layers"])
        mean, low, high = np.array([mean_interval(over_tasks(tasks, "layers", name)) for name in names]).T
        depth = [round(int(name) / (tasks[0]["config"]["depth"] - 1), 3) for name in names]
        plots.add_line(fig, depth, mean, model, low=low, high=high, **style)
    for model, dash in ((QWEN, "dot"), (R1, "dash")):
        theirs = read_json(data_dir() / "paper_results.json")["v2"][PAPER["layers"][model]]
        depth = [round(int(name) / (DEPTH[model] - 1), 3) for name in theirs]
        r = [value["r"] for value in theirs.values()]
        plots.add_line(fig, depth, r, f"{model} (paper)", plots.COLORS[7], dash=dash)
    return fig
