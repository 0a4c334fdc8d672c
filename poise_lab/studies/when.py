"""Which baseline leaves the least noise in the gradient, and when: `poise-lab study when`.

For each setting, a frozen policy on a task: problems, responses, the scores of all responses, and the advantages of every
baseline, which has learned from other problems before; in some settings the scores as Adam scales them, too. A setting is
made piece by piece (safetensors); interrupted, the same call goes on with the piece that is missing. All figures are
computed from the pieces (`noises.Measured`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ..baselines import make_baseline
from ..baselines.base import Baseline, mean_of_all_others, surprise
from ..errors import PoiseLabError
from ..files import provenance, write_arrays, write_json
from ..generate import sample_rollouts
from ..internals import read_internals
from ..policies import Policy, load_policy
from ..runs import format_table
from ..stats import interval
from ..tasks import TINY_TASKS, Problem, load_task
from ..variance import Scores, adam_scale, group_advantages, read_scores
from .noises import BY_TOKEN, LEARNED, Measured, more_or_less, no_interval

PROMPTS, PIECE = 400, 50  # problems of a setting, and of a piece
RESPONSES, FRESH = 4, 16  # to each: scored, and for V(x)
LEARN, LEARN_PROMPTS = 6, 96  # batches that the baselines learn from before, and their problems, two responses to each
ADAM_UNIT = 1e4  # of scores as Adam scales them, whose squares half precision would not hold
WIDTH = 16  # numbers kept of a score for products across prompts, see `read_scores`
PAIRS = (  # baselines whose noise is compared
    ("V(x) x1", "none x1"), ("constant x1", "none x1"), ("prefix_weighted x1", "none x1"), ("prefix_weighted x1", "constant x1"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """A frozen policy on a task. tokens: most of a response. by_token: baselines that give an advantage to each token.

    adam: whether the scores are measured as Adam scales them, too. embeddings: whether their gradient counts; that of a
    large vocabulary is most of the work.
    """

    policy: str
    task: str
    settings: dict = dataclasses.field(default_factory=dict)
    shots: int = 0
    wording: str | None = None
    tokens: int = 64
    layer: int = 2
    by_token: tuple[str, ...] = ("prefix", "prefix_weighted")
    adam: bool = True
    embeddings: bool = True

    def problems(self) -> tuple[list[Problem], list[list[Problem]]]:
        """PROMPTS problems, and LEARN batches of others to learn from before."""
        task = load_task(self.task, **self.settings)
        measured = task.sample(PROMPTS, seed=0)
        return measured, [task.sample(LEARN_PROMPTS, seed=1000 + batch, exclude=measured) for batch in range(LEARN)]


_SHOTS = dict(shots=4, wording="line", tokens=8, by_token=("prefix_weighted",), adam=False)
SETTINGS = {
    "thinker-sums": Setting("thinker", "chain_sum", dict(min_terms=3, max_terms=4)),
    "thinker-mixture": Setting("thinker", TINY_TASKS, by_token=BY_TOKEN),
    "thinker-digits": Setting("thinker", "chain_sum", dict(max_terms=3, max_digits=1)),
    "thinker-spelling": Setting("thinker", "spell_backward", dict(max_word_len=4)),
    "smollm2-digits": Setting("smollm2-135m", "chain_sum", dict(max_terms=3, max_digits=1), layer=15, **_SHOTS),
    "gemma3-digits": Setting(
        "gemma3-270m", "chain_sum", dict(max_terms=3, max_digits=1), layer=9, embeddings=False, **_SHOTS
    ),
}


# --- made ------------------------------------------------------------------------------------------


def missing(out: Path) -> dict[str, float]:
    """The settings that lack a piece; what one takes depends on the policy."""
    return {name: float("nan") for name in SETTINGS if any(not path.is_file() for path, _, _ in _asked(out, name))}


def pieces(out: Path, name: str, kind: str = "piece") -> list[Path]:
    """The files of a setting that are there, of the scores or ("adam") of the scores as Adam scales them."""
    return sorted((out / name).glob(f"{kind}-*.safetensors"))


def _asked(out: Path, name: str) -> list[tuple[Path, int, bool]]:
    """The files of a setting, in the order in which they are made: where each begins, and whether it is Adam's."""
    return [
        (out / name / f"{'adam' if adam else 'piece'}-{start:04d}.safetensors", start, adam)
        for adam in ((False, True) if SETTINGS[name].adam else (False,))
        for start in range(0, PROMPTS, PIECE)
    ]


def record(out: Path, log: Callable[[str], None] = print) -> None:
    """Make the pieces that are missing, setting by setting."""
    for name, one in SETTINGS.items():
        for path, start, adam in _asked(out, name):
            if not path.is_file():
                sizes = {"prompts": PROMPTS, "responses": RESPONSES, "fresh": FRESH}
                config = {"setting": dataclasses.asdict(one), **sizes}
                if not (about := out / name / "config.json").is_file():
                    write_json(about, {"command": "poise-lab study when", **config, "provenance": provenance()})
                piece = out / name / f"piece-{start:04d}.safetensors"
                write_arrays(path, scaled(name, start, load_file(piece)) if adam else measured(name, start))
                log(f"{name}{', as Adam scales it' if adam else ''}: {start + PIECE} of {PROMPTS} problems")


@functools.lru_cache(maxsize=1)
def _loaded(name: str, shots: int, wording: str | None, embeddings: bool) -> Policy:
    policy = load_policy(name, shots=shots, wording=wording, dtype=torch.float32)
    policy.model.get_input_embeddings().requires_grad_(embeddings)
    return policy


def _sampled(policy: Policy, one: Setting, problems, responses: int, seed: int):
    """Rollouts with their internals."""
    keep = (one.layer, 4)
    rollouts = sample_rollouts(policy, problems, responses, seed=seed, max_new_tokens=one.tokens, keep=keep)
    return rollouts, rollouts.internals or read_internals(policy, rollouts, *keep)


@functools.cache
def _learned(name: str) -> dict[str, Baseline]:
    """The baselines after LEARN batches, each with the policy that it reads."""
    one = SETTINGS[name]
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    baselines = {key: make_baseline(key) for key in (*LEARNED, *one.by_token)}
    for baseline in baselines.values():
        baseline.start(policy)
    for seed, batch in enumerate(one.problems()[1]):
        step = _sampled(policy, one, batch, 2, seed)
        for baseline in baselines.values():
            baseline.update(*step)
    return baselines


def _scores(policy: Policy, rollouts, internals, by_token: dict[str, Baseline], **how) -> dict[str, Scores]:
    """Plain scores (""), and as NAME/ those whose tokens are weighed with a baseline's advantages. how: see `read_scores`."""
    weights = {"": None} | {f"{key}/": each.advantages(rollouts, internals) for key, each in by_token.items()}
    return {key: read_scores(policy, rollouts, weight, width=WIDTH, **how) for key, weight in weights.items()}


def measured(name: str, start: int) -> dict[str, np.ndarray]:
    """The arrays of PIECE problems, M responses to each; `advantages/NAME` (P, M) as each baseline has them.

    rewards, lengths, logprobs: (P, M). fresh: (P, 2) mean reward of the fresh responses, plain and weighted by
    their surprise. within (P, M, M) and kept (P, M, WIDTH): see `Scores`; `NAME/within` and `NAME/kept` those of a token-level
    baseline, whose advantages are in them.
    """
    one, baselines = SETTINGS[name], _learned(name)
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    problems = one.problems()[0][start : start + PIECE]
    rollouts, internals = _sampled(policy, one, problems, RESPONSES, 0)
    fresh, of_fresh = _sampled(policy, one, problems, FRESH, 1)
    weights = surprise(fresh, of_fresh)
    scores = _scores(policy, rollouts, internals, {key: baselines[key] for key in one.by_token})
    found = {
        "rewards": rollouts.rewards, "lengths": rollouts.lengths, "logprobs": (rollouts.logprobs * rollouts.mask).sum(-1),
        "fresh": torch.stack([fresh.rewards.mean(1), (weights * fresh.rewards).sum(1) / weights.sum(1)], 1),
        **{f"{key}within": each.within for key, each in scores.items()},
        **{f"{key}kept": each.kept for key, each in scores.items()},
        **{f"advantages/{key}": group_advantages(baselines[key], rollouts, internals, m) for key, m in LEARNED.items()},
    }  # fmt: skip
    small = {"lengths": torch.int16} | {key: torch.float16 for key in found if key.endswith("kept")}
    return {key: x.detach().to(small.get(key, torch.float32)).numpy() for key, x in found.items()}


@functools.cache
def _adam(name: str) -> dict[str, torch.Tensor]:
    """Adam's scale in a setting: from the measured problems in mini-batches, with the advantages of `batch_mean`."""
    one = SETTINGS[name]
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    rollouts, _ = _sampled(policy, one, one.problems()[0], RESPONSES, 0)
    return adam_scale(policy, rollouts, rollouts.rewards - mean_of_all_others(rollouts.rewards))


def scaled(name: str, start: int, piece: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The scores of a piece's responses as Adam scales them, in units of ADAM_UNIT: `adam/within`, `adam/kept`, and
    `adam/prefix_weighted/...`, as in `measured`, in half precision.

    Raises PoiseLabError where this machine samples other responses than the piece has.
    """
    one, baselines, scale = SETTINGS[name], _learned(name), _adam(name)
    policy = _loaded(one.policy, one.shots, one.wording, one.embeddings)
    rollouts, internals = _sampled(policy, one, one.problems()[0][start : start + PIECE], RESPONSES, 0)
    if not (torch.equal(rollouts.rewards, piece["rewards"]) and torch.equal(rollouts.lengths, piece["lengths"].long())):
        raise PoiseLabError(
            f"the responses of setting {name} come out otherwise here than where it was recorded; remove its folder, and "
            "it is made anew"
        )
    kept = {key: baselines[key] for key in one.by_token if key == "prefix_weighted"}
    scores = _scores(policy, rollouts, internals, kept, scale=scale)
    found = {f"adam/{key}within": each.within / ADAM_UNIT**2 for key, each in scores.items()}
    found |= {f"adam/{key}kept": each.kept / ADAM_UNIT for key, each in scores.items()}
    return {key: x.detach().to(torch.float16).numpy() for key, x in found.items()}


# --- read ------------------------------------------------------------------------------------------


def read(out: Path) -> dict[str, Measured]:
    """The settings of which there is a piece."""
    found = {}
    for name in SETTINGS:
        if paths := pieces(out, name):
            arrays = {}
            for parts in ([load_file(path) for path in some] for some in (paths, pieces(out, name, "adam")) if some):
                arrays |= {key: torch.cat([part[key] for part in parts]).float() for key in parts[0]}  # half overflows
            found[name] = Measured(name, arrays, FRESH, len(PAIRS) * len(SETTINGS))
    return found


def says(out: Path) -> str:
    """Tables: of each setting's facts, of pairs of baselines with their verdicts, and of every baseline's noise there."""
    found = read(out)
    if not found:
        return format_table([])
    said = [format_table([
        {"setting": name, **one.facts(), "top 1 % of none": no_interval(one.top_share("none x1")),
         "top 1 % of the oracle": no_interval(one.top_share("oracle x1"))} for name, one in found.items()
    ])]  # fmt: skip
    squares = [
        {"squared score": name}
        | {key: interval(drawn) for key, drawn in one.by_value().items()}
        | {f"{what}, quarter {n + 1}": no_interval(mean) for what in ("logprobs", "lengths") for n, (_, mean, _) in enumerate(one.by(what))}
        for name, one in found.items()
    ]  # fmt: skip
    said.append(format_table(squares))
    for label, other in PAIRS:
        ratios = {name: one.against(label, other) for name, one in found.items()}
        rows = [{"setting": name, f"{label} over {other}": r, "noise": more_or_less(r)} for name, r in ratios.items()]
        said.append(format_table(rows))
    for name, one in found.items():
        kinds = {kind: one.sums if kind == "sum" else one.noise(kind) for kind in one.kinds}
        proxies, predicted = one.proxies(), one.predicted()
        rows = [
            {"baseline": label, **{kind: interval(noise[label]) for kind, noise in kinds.items()},
             "formula": no_interval(predicted.get(label)), "1 - Var(A)/Var(R)": no_interval(proxies.get(label))}
            for label in kinds["sum"]
        ]  # fmt: skip
        said.append(f"{name}\n\n{format_table(rows)}")
    return "\n\n".join(said)
