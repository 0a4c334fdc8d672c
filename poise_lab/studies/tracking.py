"""Does a value probe keep up with its policy? (arXiv 2605.07579, Figures 4, 5, 9 and 10)

    poise-lab study tracking

While POISE trains the bundled policy, several value models watch the same rollouts: the probe refitted on buffers of
several lengths, a probe that is never refitted, and a critic that is trained online. Every `EVERY` steps each is
held against V(x) of held-out prompts, from fresh responses. One file per seed; interrupted, the same call goes on
with the seed that is missing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..baselines.critic import Critic
from ..baselines.poise import Poise
from ..files import provenance, read_json, write_arrays, write_json
from ..generate import sample_rollouts
from ..internals import read_internals
from ..policies import Policy, load_policy
from ..probe import RecentBuffer, ValueProbe
from ..rollouts import leave_one_out_mean
from ..sampler import step_seed
from ..sources import data_dir
from ..stats import agreement, mean_interval, variance_reduction
from ..tasks import TINY_TASKS, load_task
from ..trainer import TrainConfig, Trainer
from .tables import row_arrays

SEEDS, STEPS, EVERY = 5, 200, 10
BUFFERS = (192, 768, 4096, 38400)  # rows: one step, four steps, the default, all that 200 steps give
FROZEN_PROMPTS = 2048  # x 2 responses of the starting policy
KEPT = (0, 100, 200)  # steps at which rows are kept, for transfer between checkpoints
PROMPTS, RESPONSES, READ = 400, 8, 2  # of these rows: problems (the same ones for every policy), responses, those read


class Watched(Poise):
    """POISE, with value models beside it that see the same rollouts and change nothing.

    rows: lengths of the buffers. Their probes are fitted when they are asked for.
    """

    def __init__(self, rows: Sequence[int] = BUFFERS):
        super().__init__()
        self.rows, self.critic = tuple(rows), Critic(2)

    def start(self, policy):
        self.watching = {rows: RecentBuffer(rows) for rows in self.rows}
        self.critic.start(policy)

    def update(self, rollouts, internals):
        super().update(rollouts, internals)
        for buffer in self.watching.values():
            buffer.add(internals.features(), rollouts.partner_rewards())
        self.critic.update(rollouts, internals)

    def refitted(self) -> dict[str, ValueProbe]:
        """The probe fitted on the most recent rows, by the number of rows asked for; empty before the first step."""
        return {
            f"refitted, {rows} rows": ValueProbe.preset("release").fit(*buffer.data())
            for rows, buffer in self.watching.items()
            if buffer.rows
        }

    def settings(self):
        return {**super().settings(), "rows": list(self.rows)}


def start_probe(trainer: Trainer) -> ValueProbe:
    """A probe fitted on the policy as it is, which stays as it is; on none of the held-out problems.

    (In the recorded runs these were not left out: 0 to 9 of the 192 are among the FROZEN_PROMPTS.)
    """
    policy, config = trainer.policy, trainer.config
    seed = step_seed(config.seed, 0, "frozen")
    problems = trainer.task.sample(FROZEN_PROMPTS, seed=seed, exclude=trainer.held_out)
    rollouts = sample_rollouts(policy, problems, 2, seed=seed)
    internals = read_internals(policy, rollouts, config.layer, config.pool)
    return ValueProbe.preset("release").fit(internals, rollouts.partner_rewards())


def look(trainer: Trainer, step: int, frozen: ValueProbe) -> dict:
    """Each value model against V(x) of the held-out prompts.

    Two responses are read, for the probes and the variance; V(x) is the mean reward of the fresh others.
    """
    config, policy = trainer.config, trainer.policy
    rollouts = sample_rollouts(
        policy, trainer.held_out, config.eval_responses + 2, seed=step_seed(config.seed, step, "tracking")
    )
    read, fresh = rollouts.select(responses=[0, 1]), rollouts.select(responses=slice(2, None))
    value = fresh.rewards.mean(1, keepdim=True).expand(-1, 2)
    internals = read_internals(policy, read, config.layer, config.pool)
    models = {"frozen at step 0": frozen, **trainer.baseline.refitted()}
    values = {name: probe.predict(internals) for name, probe in models.items()}
    values["critic, online"] = trainer.baseline.critic.values(read, internals)
    rows = {}
    for name, predicted in values.items():
        advantages = read.rewards - leave_one_out_mean(predicted)
        score = agreement(predicted, value) | {"variance_reduction": variance_reduction(advantages, read.rewards)}
        rows[name] = {key: round(float(x), 4) for key, x in score.items()}
    return {"step": step, "accuracy": round(fresh.rewards.mean().item(), 4), "models": rows}


def rows_file(folder: Path, seed: int, step: int) -> Path:
    """Where the rows of a checkpoint are; at step 0 all seeds have the same policy."""
    return folder / "rows" / (f"seed-{seed}-step-{step}.safetensors" if step else "step-0.safetensors")


def keep_rows(policy: Policy, path: Path) -> None:
    """Rows of the bundled tasks, read at layer 2 over 4 tokens, of the same problems for every policy, for `transfer`."""
    rollouts = sample_rollouts(policy, load_task(TINY_TASKS).sample(PROMPTS, seed=0), RESPONSES, seed=0)
    internals = read_internals(policy, rollouts.select(responses=slice(0, READ)), layer=2, pool=4)
    write_arrays(
        path,
        row_arrays(
            torch.stack([internals.prompt, internals.reasoning], 2).numpy(),
            internals.entropy.numpy(),
            rollouts.lengths[:, :READ].numpy(),
            rollouts.rewards.numpy(),
        ),
    )


def track(seed: int, out: Path, config: TrainConfig, every: int = EVERY, kept: Sequence[int] = KEPT) -> dict:
    """One training run with everything that watches it."""
    policy, task, looks = load_policy("thinker"), load_task(TINY_TASKS), []
    run = out / f"seed-{seed}.partial"
    shutil.rmtree(run, ignore_errors=True)

    def on_step(metrics):
        step = metrics["step"]
        if step % every == 0:
            looks.append(look(trainer, step, frozen))
        if step in kept:
            keep_rows(policy, rows_file(out, seed, step))

    trainer = Trainer(policy, task, Watched(), config, out=run, on_step=on_step, progress=False)
    frozen = start_probe(trainer)
    trainer.run()
    settings = read_json(run / "config.json")
    shutil.rmtree(run)
    return {"config": settings, "looks": looks}


def missing(out: Path) -> dict[str, float]:
    """The seeds that are not in the folder, with the minutes that the recorded ones took, where they tell."""
    took = [one["minutes"] for one in recorded(data_dir() / "tracking") if "minutes" in one]
    minutes = float(np.mean(took)) if took else float("nan")
    return {f"seed-{seed}.json": minutes for seed in range(SEEDS) if not (out / f"seed-{seed}.json").is_file()}


def record(out: str | Path, seeds: int = SEEDS, steps: int = STEPS, log: Callable[[str], None] = print) -> None:
    """Make the seeds that are missing under `out`."""
    out = Path(out)
    for seed in range(seeds):
        path = out / f"seed-{seed}.json"
        if path.is_file():
            continue
        # the trainer's own evaluation only at both ends: the looks are closer
        config = TrainConfig(steps=steps, seed=seed, eval_every=steps, checkpoint_every=steps)
        start = time.perf_counter()
        made = track(seed, out, config)
        minutes = round((time.perf_counter() - start) / 60, 1)
        write_json(
            path, {"command": "poise-lab study tracking", "minutes": minutes, "provenance": provenance(), **made}
        )
        log(f"seed {seed}: " + ", ".join(f"{k} {v['r']:.2f}" for k, v in made["looks"][-1]["models"].items()))


def recorded(folder: str | Path) -> list[dict]:
    """The seeds that are recorded."""
    return [read_json(path) for path in sorted(Path(folder).glob("seed-*.json"))]


def curves(seeds: Sequence[dict], measure: str = "r") -> tuple[list[int], dict[str, np.ndarray]]:
    """Steps, and for each value model the mean, low and high over seeds: (steps, 3), NaN before its first fit."""
    steps = [one["step"] for one in seeds[0]["looks"]]
    names = list(seeds[0]["looks"][-1]["models"])
    nan = float("nan")

    def at(i: int, name: str) -> tuple[float, float, float]:
        found = [seed["looks"][i]["models"].get(name, {}).get(measure, nan) for seed in seeds]
        return mean_interval(found) if np.isfinite(found).all() else (nan, nan, nan)

    return steps, {name: np.array([at(i, name) for i in range(len(steps))]) for name in names}


def differences(seeds: Sequence[dict], a: str, b: str, measure: str = "r", looks: int = 1) -> dict[int, tuple]:
    """Step to (mean, low, high) over seeds of a minus b, paired by seed, each mean over so many looks that end there."""
    found = {}
    for last in range(looks, len(seeds[0]["looks"]), looks):  # the first look is before the first fit
        part = range(last - looks + 1, last + 1)
        each = [
            np.mean([one["looks"][i]["models"][a][measure] - one["looks"][i]["models"][b][measure] for i in part])
            for one in seeds
        ]
        found[seeds[0]["looks"][last]["step"]] = mean_interval(each)
    return found


def behind_from(seeds: Sequence[dict], a: str, b: str, measure: str = "r") -> int | None:
    """The first step from which on a is worse than b at every look, the paired interval apart from 0; None if none."""
    found, sign = None, 1 if measure == "mae" else -1
    for step, (_, low, high) in differences(seeds, a, b, measure).items():
        worse = min(sign * low, sign * high) > 0
        found = (found or step) if worse else None
    return found
