"""One door to what made the recorded data: `poise-lab study NAME`.

A study says what is missing of its records and what that will take, makes it, and shows what the records say. What is
there is never made again: delete it to have it made anew.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import PoiseLabError, unknown_name
from ..files import check_writable
from ..models.fetch import fetch
from ..process import one_thread
from ..runs import compare, format_table
from ..sources import SOURCES, data_dir, fetched
from . import arena, cost, long, pairs, smollm2, sums, tables, thinking, tracking, trained, transfer, when
from .common import refresh

REAL = ("smollm2-135m", "gemma3-270m")


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study is made of; its functions take the folder of its records.

    what: it, in one line. folder: of its records, under the data.
    missing: the records that are not there, each with the minutes that it takes as far as recorded ones tell, or NaN.
    record: makes them. says: what the records say, in Markdown. models: real models that it needs.
    mark: of the place in notebooks/RESULTS.md where what it says stands.
    """

    what: str
    folder: str
    missing: Callable[[Path], dict[str, float]]
    record: Callable[[Path], None]
    says: Callable[[Path], str] | None = None
    models: tuple[str, ...] = ()
    mark: str | None = None


def of_runs(
    what: str,
    folder: str,
    runs: dict[str, str],
    at_once: int | None = None,
    says: Callable[[Path], str] | None = None,
    mark: str | None = None,
    models: tuple[str, ...] = (),
) -> Study:
    """A study whose records are run folders of `poise-lab train`. says: by default the table of the runs."""

    def table(out: Path) -> str:
        return format_table(compare(trained.read(out, runs)))

    return Study(
        what, folder, lambda out: trained.missing(runs, out, data_dir() / folder),
        lambda out: trained.record(runs, out, at_once, like=data_dir() / folder), says or table, models, mark,
    )  # fmt: skip


def real(models: Sequence[str] = REAL) -> Study:
    """The paper's tables, of these models."""

    def record(out: Path) -> None:
        for model in models:
            tables.record(model, out)

    return Study(
        "the paper's tables on real models, four tasks each (notebook 09)", "real",
        functools.partial(tables.missing, models), record, models=tuple(name for name in models if name in SOURCES),
    )  # fmt: skip


STUDIES = {
    "runs": of_runs(
        "the bundled policy learns to think: POISE, RLOO, two controls (notebook 07)", "runs", trained.RUNS,
        says=thinking.tables, mark="runs",
    ),
    "smollm2": of_runs(
        "SmolLM2 itself trained on sums, several baselines (notebook 09)", "runs-smollm2", smollm2.RUNS,
        says=smollm2.says, mark="smollm2", models=("smollm2-135m",),
    ),
    "pairs": Study(
        "pairs of SmolLM2 before and after training, token by token (notebook 09)", "pairs",
        lambda out: trained.missing(pairs.RUNS, out, data_dir() / "runs-smollm2"),
        lambda out: trained.record(pairs.RUNS, out, finish=pairs.read, like=data_dir() / "runs-smollm2"), models=("smollm2-135m",),
    ),
    "arena": Study(
        "baselines compared at equal responses, over seeds (notebook 08)", "arena", arena.missing, arena.record, arena.says,
        mark="arena",
    ),
    "long": Study(
        "some methods of the arena, trained six times as long (notebook 08)", "long", long.missing, long.record, long.says,
        mark="long",
    ),
    "real": real(),
    "sums": Study(
        "the quick probe on SmolLM2, 320 sums x 8 responses (notebook 09)", "real", sums.missing, sums.record, sums.says,
        models=("smollm2-135m",),
    ),
    "tracking": Study(
        "value models that watch training runs (notebook 10)", "tracking", tracking.missing, tracking.record
    ),
    "transfer": Study(
        "probes fitted on one setting, used on another (notebook 10)", "transfer", transfer.missing, transfer.record
    ),
    "engines": of_runs("short runs on both engines (notebook 11; needs the extra scale)", "engines", trained.ENGINES, 1),
    "when": Study(
        "which baseline leaves the least noise in the gradient, and when", "when", when.missing, when.record, when.says,
        models=REAL,
    ),
    "cost": Study(
        "what POISE adds to a step of TRL, on paper (notebook 11)", "scale", cost.missing, cost.record, cost.says
    ),
}  # fmt: skip


def run(name: str, out: Path | None = None, policy: str | None = None, log: Callable[[str], None] = print) -> None:
    """Make what is missing of a study's records, having said what it will take, and show what they say.

    out: by default where the study's records are in a checkout, runs/NAME elsewhere and for a policy of one's own.
    policy: for the study `real`, another than the two that are recorded.

    Raises PoiseLabError for an unknown name, a folder that cannot be written, and what a study raises.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    if policy and name != "real":
        raise PoiseLabError(f"study {name!r} takes no policy; only 'real' does")
    study = real((policy,)) if policy else STUDIES[name]
    home = data_dir() / study.folder
    checkout = (data_dir().parent / "pyproject.toml").is_file()
    if out is None:
        out = Path(os.path.relpath(home)) if checkout and policy in (None, *REAL) else Path("runs") / name
    check_writable(out, "folder")
    with one_thread():
        left = study.missing(out)
        log(f"study {name}: {study.what}")
        log(will_take(study, out, left))
        if left:
            for model in study.models:
                fetch(model, log=log)
            study.record(out)
        if study.says:
            log(study.says(out))
        if checkout and study.mark and out.resolve() == home.resolve():
            refresh(data_dir().parent / "notebooks" / "RESULTS.md", study.mark, study.says(out))


def will_take(study: Study, out: Path, left: dict[str, float]) -> str:
    """What is missing, and what it will take: minutes, downloads, room."""
    if not left:
        return f"nothing is missing in {out}"
    names, minutes = list(left), [m for m in left.values() if not math.isnan(m)]
    said = [f"missing in {out}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"]
    if minutes:
        said.append(f"about {max(1, round(sum(minutes)))} minutes of one core for {len(minutes)} of {len(left)}")
    if len(minutes) < len(left):
        said.append(f"no time is recorded for {len(left) - len(minutes)} of {len(left)}")
    for model in study.models:
        if not fetched(model):
            source = SOURCES[model]
            said.append(
                f"{model} is fetched first ({source.download} MB to download, {source.disk} MB on disk meanwhile)"
            )
    size = sum(path.stat().st_size for path in (data_dir() / study.folder).rglob("*") if path.is_file())
    return "; ".join([*said, f"all records take {size / 1e6:.1f} MB"])
