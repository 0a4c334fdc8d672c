"""What is said of POISE, against the runs recorded under data/runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

import poise_lab as pl
from poise_lab import stats
from poise_lab.files import read_json
from poise_lab.runs import by_label
from poise_lab.studies import arena, long, smollm2, thinking

ROOT = Path(__file__).parent.parent
FOLDER = pl.data_dir() / "runs"


def recorded(name: str) -> list[pl.RunRecord]:
    return [pl.read_run(f) for f in sorted(FOLDER.glob(f"{name}-*")) if re.fullmatch(rf"{name}-\d+", f.name)]


@pytest.fixture(scope="module")
def poise():
    return recorded("poise")


def test_at_least_three_seeds_that_finished(poise):
    assert len({run.seed for run in poise}) == len(poise) >= 3
    for run in poise + recorded("rloo"):
        assert run.finished, f"{run.folder} has not finished"
        assert [m["step"] for m in run.metrics] == list(range(run.config["train"]["steps"] + 1))
        assert run.folder.name == f"{run.config['baseline']['name']}-{run.seed}"


def test_made_with_the_settings_of_today(poise):
    """A recorded run is what `poise-lab train` does with its defaults: `make run` gives the same."""
    for run in poise + recorded("rloo"):
        expected = {**dataclasses.asdict(pl.TrainConfig()), "seed": run.seed}
        assert run.config["train"] == expected
        assert run.config["policy"] == "thinker" and run.config["task"] == pl.TINY_TASKS
        baseline = pl.make_baseline(run.config["baseline"]["name"], responses=2).settings()
        baseline = {k: {**v, "inputs": list(v["inputs"])} if k == "probe" else v for k, v in baseline.items()}
        assert run.config["baseline"] == baseline


def test_both_baselines_started_from_the_same_policy_and_problems(poise):
    for run in recorded("rloo"):
        (same,) = (p for p in poise if p.seed == run.seed)
        assert run.metrics[0]["accuracy"] == same.metrics[0]["accuracy"]


def test_lift_of_held_out_accuracy(poise):
    lifts = [run.lift() for run in poise]
    assert all(lift >= 0.15 for lift in lifts)
    mean, low, high = pl.mean_interval(lifts)
    assert low > 0.15, f"lift {mean:.3f} [{low:.3f}, {high:.3f}]"


def test_variance_reduction_is_above_that_of_rloo(poise):
    """On the same rewards, over all steps past the warm-up."""
    differences = []
    for run in poise:
        past = [m for m in run.metrics if m["step"] > run.config["baseline"]["warmup"] and "variance_reduction" in m]
        assert len(past) > 80
        differences.append(sum(m["variance_reduction"] - m["variance_reduction_rloo"] for m in past) / len(past))
    mean, low, _ = pl.mean_interval(differences)
    assert mean >= 0.15 and low > 0.15


def test_variance_reduction_is_above_that_of_the_rloo_runs(poise):
    gain = [run.mean("variance_reduction") for run in poise]
    rloo = [run.mean("variance_reduction") for run in recorded("rloo")]
    assert len(rloo) >= 3
    assert min(gain) > max(rloo) + 0.15


def test_probe_reads_the_value(poise):
    """Pearson r on held-out prompts against V(x) from 16 fresh responses."""
    assert all(run.config["train"]["eval_responses"] == 16 for run in poise)
    means = [run.mean("probe_r_fresh") for run in poise]
    assert all(len(run.series("probe_r_fresh")[1]) >= 10 for run in poise)
    mean, low, _ = pl.mean_interval(means)
    assert mean >= 0.75 and low > 0.75
    assert all(run.mean("probe_mae_fresh") < 0.2 for run in poise)


def test_warm_up_is_rloo(poise):
    for run in poise:
        for m in run.metrics[1 : 1 + run.config["baseline"]["warmup"]]:
            assert m["variance_reduction"] == m["variance_reduction_rloo"] and "probe_r_partner" not in m


def test_runs_hold_no_checkpoints_and_no_paths_of_a_machine(poise):
    for run in poise + recorded("rloo"):
        assert {f.name for f in run.folder.iterdir()} <= {"config.json", "metrics.jsonl", "samples.jsonl"}
        assert not re.search(r"/(?:home|root|work|tmp)/", (run.folder / "config.json").read_text())


def test_what_the_results_say_in_words_of_poise_and_rloo(poise):
    """Paired by seed: both lifts off zero, as they stand there."""
    text = one_line((ROOT / "notebooks" / "RESULTS.md").read_text())
    quoted = []
    for metric in ("accuracy", "greedy_accuracy"):
        ours, theirs = (thinking.gains(runs, metric) for runs in (poise, recorded("rloo")))
        mean, low, high = pl.mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
        assert low > 0
        quoted.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    assert f"by {quoted[0]} when sampled and {quoted[1]} decoded greedily" in text


# --- the arena -----------------------------------------------------------------------------------

ARENA = pl.data_dir() / "arena"


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def arena_runs():
    return {label: arena.runs(ARENA, label) for label in arena.METHODS if arena.whole(ARENA, label)}


def test_arena_was_made_with_the_recipe_of_today(arena_runs):
    assert len(arena_runs) >= 9
    for label, group in arena_runs.items():
        name, responses, prompts = arena.METHODS[label]
        rate = arena.best_rate(arena.scores(ARENA, label))
        settings = pl.make_baseline(name, responses=responses).settings()
        for seed, run in zip(arena.SEEDS, group, strict=True):
            config = pl.TrainConfig(steps=100, prompts=prompts, seed=seed, learning_rate=rate, eval_every=20, eval_responses=8)  # fmt: skip
            assert run.finished and run.config["train"] == dataclasses.asdict(config)
            assert run.config["policy"] == "thinker" and run.config["task"] == pl.TINY_TASKS and run.label == label
            same = {k for k in settings if k != "probe"}
            assert {k: run.config["baseline"][k] for k in same} == {k: settings[k] for k in same}
            assert [metrics["step"] for metrics in run.metrics] == [0, 20, 40, 60, 80, 100]
            assert run.config["threads"] == 1 and run.config["versions"] and run.config["date"]


def test_arena_methods_sampled_the_same(arena_runs):
    """All but DAPO exactly; DAPO all that it kept and some that it dropped."""
    for label, group in arena_runs.items():
        for run in group:
            spent = run.metrics[-1]["responses"]
            assert spent >= 100 * 128 if label == "dapo x8" else spent == 100 * arena.BUDGET, run.folder


def test_arena_seeds_are_paired_and_every_method_learned(arena_runs):
    for same in zip(*arena_runs.values(), strict=True):
        assert len({round(run.metrics[0]["accuracy"], 6) for run in same}) == 1
    for label, group in arena_runs.items():
        _, low, _ = pl.mean_interval([run.lift() for run in group])
        assert low > 0 or label.startswith("sharpen"), label


def test_what_the_front_page_says_of_methods_is_what_the_arena_says():
    ways = ("sampled accuracy", "greedy accuracy")
    both = sampled, greedy = [arena.verdicts(ARENA, way) for way in ways]
    rloo, eight, single, pairs = (("poise x2", other) for other in ("rloo x2", "grpo x8", "none x1", "none x2"))
    seeds = len(arena.SEEDS)
    own = [stats.surviving({k: stats.p_value(x[1], seeds) for k, x in of.items() if k[0] == "poise x2"}) for of in both]
    cost = [row for row in arena.contrast(ARENA, "two responses") if row["two responses"] == "mean"][0]
    aimed = [found["score_weighted x2", "poise x2"] for found in both]
    six_hundred = {key[:2]: gap for key, gap in long.differences(pl.data_dir() / "long").items() if "600" in key[2]}
    late = [six_hundred["poise x2 minus none x1", way] for way in ways]
    aimed_late = [six_hundred["score_weighted x2 minus poise x2", way] for way in ways]
    named = {rloo, eight, single, pairs, *(("poise x2", other) for other in ("score_weighted x2", "ppo x1", "dapo x8"))}
    said = {
        "With the same pairs POISE is ahead of RLOO in sampled accuracy, and in greedy accuracy these seeds do not decide": (
            sampled[rloo][0] == "better" and greedy[rloo][0] == "inconclusive"
        ),
        "It is ahead of GRPO with groups of eight in sampled accuracy, but not in greedy accuracy, and cannot be told from PPO "
        "and from DAPO (which sampled an eighth more)": (
            sampled[eight][0] == "better" and greedy[eight][0] != "better"
        ) and all(way["poise x2", other][0] == "inconclusive" for way in both for other in ("ppo x1", "dapo x8")),
        "Nothing here shows that POISE makes a better policy than training without a baseline. On the same pairs the two cannot "
        "be told apart; with one response to each of twice as many prompts it is training without a baseline that is ahead": all(
            way[pairs][0] == "inconclusive" and way[single][0] == "worse" for way in both
        ),
        "after 600 steps that is not seen any more": all(gap.low < 0 < gap.high for gap in aimed_late),
        "a lead no longer seen after 600 steps": long.STEPS == 600 and all(gap.low < 0 < gap.high for gap in late),
        "Two responses to a prompt instead of one cost about three points, in the mean over four baselines": all(
            -0.035 < cost[way].mean < -0.025 and cost[way].high < 0 for way in ways
        ) and len(arena.CONTRASTS["two responses"]) == 4,
        "POISE's own probe makes a policy that is better by about three points": all(
            word == "better" and 0.025 < gap[0] < 0.035 for word, gap, _ in aimed
        ),
        "Corrected for the 22 comparisons that POISE is part of, one of these differences remains, in sampled and in greedy "
        "accuracy: that POISE is behind training without a baseline with one response to a prompt": all(
            kept & named == {single} for kept in own
        ) and sum(k[0] == "poise x2" for k in sampled) == 22,
        "Corrected for all 253 pairs of methods, none remains": len(sampled) == 2 * 253 and not any(
            of[pair][2] for of in both for pair in named
        ),
    }  # fmt: skip
    front = one_line((ROOT / "README.md").read_text())
    for sentence, true in said.items():
        assert sentence in front, sentence
        assert true, sentence


@pytest.fixture(scope="module")
def notebook_08():
    """(prose in one line, stored tables in plain text) of the notebook."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_baselines_compared.ipynb", as_version=4)
    prose = one_line(" ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return prose, [o.data["text/plain"] for o in outputs if "poise-table" in o.get("data", {}).get("text/html", "")]


def shown(interval, sign: str = "") -> str:
    return "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(*interval, s=sign)


def test_notebook_08_stores_the_numbers_of_the_recorded_runs(notebook_08):
    _, tables = notebook_08
    ends, found = arena.ends(ARENA), {way: arena.verdicts(ARENA, way) for way in arena.WAYS}

    def table(head):
        (text,) = (text for text in tables if text.startswith(head))
        return {" ".join(line.split()[:2]): line for line in text.split("\n")[1:]}

    final, minus = table("method              sampled"), table("POISE minus")
    assert set(final) == set(ends) and set(minus) == set(ends) - {"poise x2", arena.CONTROL}
    for label, line in final.items():
        assert all(shown(pl.mean_interval(ends[label][way])) in line for way in arena.WAYS), line
    for label, line in minus.items():
        assert all(shown(found[way]["poise x2", label][1], "+") in line for way in arena.WAYS), line
    counts = [list(map(str, row.values())) for row in arena.counts(ARENA)]
    assert [line.split()[-3:] for line in table("decoded").values()] == [row[1:] for row in counts]


def test_what_notebook_08_says_in_words_of_the_recorded_runs(notebook_08):
    prose, _ = notebook_08
    found = {way: arena.verdicts(ARENA, way) for way in arena.WAYS}
    words = {(way.split()[0], pair): word for way, of in found.items() for pair, (word, *_) in of.items()}
    poise = lambda way, other: words[way, ("poise x2", other)]  # noqa: E731
    counted = [list(row.values())[1:] for row in arena.counts(ARENA)]
    three = ("none x1", "constant x1", "prefix_weighted x1")
    ends, with_pairs = (
        arena.compared(ARENA),
        ("poise", "fused", "score_weighted", "constant", "critic", "batch_mean", "rloo"),
    )
    pairs, poise_reads = (
        np.subtract(ends[a]["sampled accuracy"], ends[b]["sampled accuracy"])
        for a, b in (("none x2", "none x1"), ("poise x2", "none x2"))
    )
    losses = pl.mean_interval(pairs - poise_reads)
    searched = {
        f"{name} x{n}": arena.scores(ARENA, f"{name} x{n}") for name in ("constant", "batch_mean") for n in (1, 2)
    }
    (cost,) = (row for row in arena.contrast(ARENA, "two responses") if row["two responses"] == "mean")
    gaps = {way: [-found[way]["poise x2", b][1][0] for b in three] for way in ("sampled accuracy", "greedy accuracy")}
    said = {
        "are ahead of POISE, by four to five points when sampled and by three to five when decoded greedily": all(
            poise(way, b) == "worse" for way in ("sampled", "greedy") for b in three
        ) and all(0.035 < x < 0.055 for x in gaps["sampled accuracy"]) and all(0.025 < x < 0.055 for x in gaps["greedy accuracy"]),
        "The oracle, which subtracts $V(x)$ itself, is ahead by one to two": all(
            poise(way.split()[0], "oracle x1") == "worse" and 0.01 < -found[way]["poise x2", "oracle x1"][1][0] < 0.02
            for way in arena.WAYS[:3]
        ),
        "`batch_mean`, `critic` and `prefix`, with one response as well, cannot be told from POISE": all(
            poise(way.split()[0], f"{name} x1") == "inconclusive"
            for way in arena.WAYS for name in ("batch_mean", "critic", "prefix")
        ),
        "of POISE's own verdicts none does": not any(x[2] for of in found.values() for k, x in of.items() if "poise x2" in k),
        "`score_weighted`, POISE with another aim for the same probe, is ahead by three points, sampled and greedily": all(
            poise(way, "score_weighted x2") == "worse"
            and 0.025 < -found[f"{way} accuracy"]["poise x2", "score_weighted x2"][1][0] < 0.035
            for way in ("sampled", "greedy")
        ),
        "From RLOO with groups of eight it cannot be told": all(
            poise(way.split()[0], "rloo x8") == "inconclusive" for way in arena.WAYS
        ),
        "It is ahead of SPO and of `batch_mean` with the same pairs when sampled, too, and of OPO by one to five points": (
            poise("sampled", "spo x1") == poise("sampled", "batch_mean x2") == "better"
        ) and all(
            poise(way.split()[0], "opo x8") == "better" and 0.005 < found[way]["poise x2", "opo x8"][1][0] < 0.055
            for way in arena.WAYS[:3]
        ),
        "everything that aims at a value is behind `none` when sampled, pair by pair: the oracle, `critic`": all(
            words["sampled", (f"{name} x1", "none x1")] == "worse"
            for name in ("oracle", "critic", "ppo", "prefix", "batch_mean", "spo")
        ),
        "Only `constant` and `prefix_weighted` cannot be told from `none`": all(
            words[way.split()[0], (f"{name} x1", "none x1")] == "inconclusive"
            for way in arena.WAYS for name in ("constant", "prefix_weighted")
        ),
        "when sampled nothing is shown but that `batch_mean` is behind. Greedily, `score_weighted` is ahead": [
            [name for name in with_pairs if words[way, (f"{name} x2", "none x2")] != "inconclusive"]
            for way in ("sampled", "greedy")
        ] == [["batch_mean"], ["score_weighted"]],
        "behind by three points when sampled, nearly as far as `critic`": (
            -0.035 < found["sampled accuracy"]["oracle x1", "none x1"][1][0] < -0.025
            and words["sampled", ("oracle x1", "critic x1")] == "inconclusive"
        ),
        "in the mean over the four it is about three points, sampled and decoded greedily alike; taken alone, `batch_mean` is "
        "not shown to lose when sampled, nor `critic` greedily": all(
            -0.035 < cost[way].mean < -0.025 for way in ("sampled accuracy", "greedy accuracy")
        ) and stats.in_words(cost["pass@16"]) == words["sampled", ("batch_mean x2", "batch_mean x1")] == words[
            "greedy", ("critic x2", "critic x1")
        ] == "inconclusive",
        "SPO is among the surest and among the least accurate": (
            sorted(ends, key=lambda label: np.mean(ends[label]["entropy"])).index("spo x1") < 3
            and sorted(ends, key=lambda label: np.mean(ends[label]["sampled accuracy"])).index("spo x1") < 4
        ),
        "training without a baseline cannot be told from POISE, in any way of decoding": all(
            poise(way.split()[0], "none x2") == "inconclusive" for way in arena.WAYS
        ),
        "With the same pairs `constant` is ahead of POISE when sampled, by two points; in the other ways of decoding "
        "nothing is decided": [poise(way.split()[0], "constant x2") for way in arena.WAYS] == ["worse", *["inconclusive"] * 3],
        "POISE is ahead of RLOO with the same pairs when sampled; decoded greedily, the interval just holds zero": (
            poise("sampled", "rloo x2") == "better" and poise("greedy", "rloo x2") == "inconclusive"
        ),
        "It is ahead of GRPO with groups of eight when sampled, and cannot be told from it when decoded greedily": (
            poise("sampled", "grpo x8") == "better" and poise("greedy", "grpo x8") == "inconclusive"
        ),
        "It cannot be told from PPO, whose critic is a second network, nor from DAPO, in any way of decoding": all(
            poise(way.split()[0], b) == "inconclusive" for way in arena.WAYS for b in ("ppo x1", "dapo x8")
        ),
        "It is ahead of ReMax, by about ten points": all(
            poise(way, "remax x1") == "better" and 0.08 < found[way + " accuracy"]["poise x2", "remax x1"][1][0] < 0.12
            for way in ("sampled", "greedy")
        ),
        "the intervals leave room for POISE to be ahead by one to three points": all(
            0.01 < found[way]["poise x2", label][1][2] < 0.035
            for way in ("sampled accuracy", "greedy accuracy") for label in ("dapo x8", "ppo x1")
        ) and poise("greedy", "ppo x1") == poise("greedy", "dapo x8") == "inconclusive",
        "Nor can it be told from `fused`, from `critic` with pairs, and from Dr. GRPO in any of the three accuracies": all(
            poise(way.split()[0], other) == "inconclusive"
            for way in arena.WAYS[:3] for other in ("fused x2", "critic x2", "dr_grpo x8")
        ),
        f"the difference of the two, {shown(losses, '+')} when sampled, holds zero": losses[1] < 0 < losses[2],
        "(In the search `constant` is ahead of it at each rate that both tried.)": all(
            score > searched[f"batch_mean x{n}"][rate] for n in (1, 2) for rate, score in searched[f"constant x{n}"].items()
        ),
        "The oracle is three points ahead of `batch_mean` when sampled, and not seen to be ahead greedily; of the six "
        "points by which `score_weighted` is ahead of GRPO less than half is left": (
            0.025 < found["sampled accuracy"]["oracle x1", "batch_mean x1"][1][0] < 0.035
            and words["greedy", ("oracle x1", "batch_mean x1")] == "inconclusive"
            and 0.055 < found["sampled accuracy"]["score_weighted x2", "grpo x8"][1][0] < 0.065
            and found["greedy accuracy"]["score_weighted x2", "grpo x8"][1][0] < 0.03
        ),
        "POISE is ahead of `batch_mean` with the same pairs by three points": (
            0.025 < found["sampled accuracy"]["poise x2", "batch_mean x2"][1][0] < 0.035
        ),
        "Most of the pairs that lie off zero by themselves do not survive": all(
            kept < alone / 2 for _, alone, kept in counted
        ),
        "Fewer survive when the policies decode greedily, and fewest in pass@16": (
            counted[0][2] > counted[2][2] and counted[3][2] == min(kept for *_, kept in counted)
        ),
    }  # fmt: skip
    for sentence, true in said.items():
        assert sentence in prose.replace("*", ""), sentence
        assert true, sentence


def test_settings_of_the_paper_and_of_its_release_are_those_of_the_presets():
    """The table of notebook 07 and the library say the same of the probe and of the clips."""
    paper = read_json(pl.data_dir() / "paper_results.json")
    told = {"paper": paper["v2"]["table5_settings"], "release": paper["release"]["settings"]}
    for name, settings in told.items():
        probe = pl.ValueProbe.preset(name)
        pca = f"PCA {probe.pca_prompt} and {probe.pca_reasoning}" if probe.pca_prompt else "no PCA"
        assert settings["probe"] == f"{pca}, ridge {probe.ridge:g}"
    ours = pl.TrainConfig()
    assert told["release"]["clip down, up, dual"] == f"{ours.clip_low}, {ours.clip_high}, {ours.dual_clip:g}"
    assert told["release"]["mean of the loss"] == ours.aggregation


def test_the_papers_third_version_agrees_with_itself():
    """The overall scores are the means of the 17 benchmarks; each version names its source."""
    paper = read_json(pl.data_dir() / "paper_results.json")
    assert "2605.07579v2" in paper["v2"]["source"] and "2605.07579v3" in paper["v3"]["source"]
    for model, overall in paper["v3"]["table1_overall"].items():
        rows = paper["v3"]["table1"][model]
        for method, score in overall.items():
            scores = rows[method.split(" ")[0]]
            assert len(scores) == len(paper["v3"]["table1"]["benchmarks"]) == 17
            assert round(sum(scores) / 17, 2) == pytest.approx(score, abs=0.01), (model, method)


# --- the engines ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engines():
    """(engine, seed) -> run."""
    runs = {run.name: run for run in map(pl.read_run, (pl.data_dir() / "engines").iterdir())}
    return {(name.split("-")[0], run.seed): run for name, run in runs.items()}


def test_engines_were_given_the_same(engines):
    assert set(engines) == {(engine, seed) for engine in ("lab", "trl") for seed in range(5)}
    for (engine, seed), run in engines.items():
        expected = dataclasses.asdict(pl.TrainConfig(steps=40, eval_every=20, seed=seed))
        assert run.finished and run.config["train"] == expected and run.config["policy"] == "thinker"
        assert run.label == ("poise x2" if engine == "lab" else "poise x2 on trl")
        assert run.config["threads"] == 1 and run.config["date"]
        assert ("trl" in run.config["versions"]) == (engine == "trl")
        assert {f.name for f in run.folder.iterdir()} == {"config.json", "metrics.jsonl"}
        assert not re.search(r"/(?:home|root|work|tmp)/", (run.folder / "config.json").read_text())


def test_both_engines_reach_the_same_accuracy_within_its_interval(engines):
    """Five seeds, paired: zero lies inside, and what is left outside bounds the difference, as the results say."""
    ends = {k: run.series("accuracy")[1][-1] for k, run in engines.items()}
    mean, low, high = pl.mean_interval([ends["trl", seed] - ends["lab", seed] for seed in range(5)])
    found = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert low < 0 < high, found
    assert found in " ".join((ROOT / "notebooks" / "RESULTS.md").read_text().split())
    assert all(run.lift() > 0.1 for run in engines.values())


def test_entropy_is_measured_alike_on_both_engines(engines):
    """In the first step both sample from the same policy: a mean over responses of the mean over their tokens."""
    for seed in range(5):
        lab, trl = (engines[engine, seed].metrics[1]["entropy"] for engine in ("lab", "trl"))
        assert trl == pytest.approx(lab, rel=0.15)  # a mean over all tokens would be a third lower


def test_warm_up_and_probe_of_both_engines(engines):
    for run in engines.values():
        warmup = run.config["baseline"]["warmup"]
        past = [m for m in run.metrics[1:] if m["step"] > warmup]
        assert all("probe_r_partner" in m for m in past) and len(past) == 36
        for m in run.metrics[1 : 1 + warmup]:
            assert m["variance_reduction"] == m["variance_reduction_rloo"]
        assert run.mean("variance_reduction") > run.mean("variance_reduction_rloo") + 0.15
        assert run.series("probe_r_fresh")[1][-1] > 0.7


# --- a real model --------------------------------------------------------------------------------


# what a run of today says besides; the older ones had the defaults, and float32
LATER = ("tags", "system", "template", "template_args", "dtype", "adapters")


@pytest.fixture(scope="module")
def of_smollm2():
    """Runs by label, in order of their seeds."""
    folder = pl.data_dir() / "runs-smollm2"
    return by_label([pl.read_run(f) for f in sorted(folder.iterdir()) if not f.name.endswith(".partial")])


def test_runs_of_the_real_model_differ_in_the_baseline_alone(of_smollm2):
    assert set(of_smollm2) == set(smollm2.METHODS)
    seeds = [[run.seed for run in group] for group in of_smollm2.values()]
    assert all(each == list(range(5)) for each in seeds)
    for runs in zip(*of_smollm2.values(), strict=True):
        assert len({round(run.metrics[0]["accuracy"], 6) for run in runs}) == 1  # same weights, same held-out problems
        configs = []
        for run in runs:
            assert run.finished and [m["step"] for m in run.metrics] == list(range(31))
            assert all(m["responses"] == 96 * m["step"] for m in run.metrics)
            configs.append({k: v for k, v in run.config.items() if k not in ("baseline", "date", "commit", *LATER)})
            assert configs[-1]["train"].pop("prompts") * run.config["baseline"]["responses"] == 96
        assert all(config == configs[0] for config in configs)
        assert (configs[0]["policy"], configs[0]["wording"], configs[0]["shots"]) == ("smollm2-135m", "line", 4)


def test_the_real_model_learned_in_every_run(of_smollm2):
    assert all(run.lift() > 0.1 for group in of_smollm2.values() for run in group)
    assert all(run.mean("probe_r_fresh") > 0.7 for run in of_smollm2["poise x2"])


def test_the_results_quote_the_runs_of_the_real_model(of_smollm2):
    text = (ROOT / "notebooks" / "RESULTS.md").read_text()
    (quoted,) = re.findall(r"<!-- smollm2 -->\n(.*?)<!-- /smollm2 -->", text, re.S)
    assert quoted.strip() == smollm2.says(pl.data_dir() / "runs-smollm2")
    rows = {
        row["difference"]: {look: row[look] for look in smollm2.LOOKS}
        for row in smollm2.asked(pl.data_dir() / "runs-smollm2")
    }
    said = {pair: [(stats.in_words(gap), gap.kept) for gap in row.values()] for pair, row in rows.items()}
    undecided = ("inconclusive", False)
    assert said == {
        "poise x2 minus rloo x2": [("better", False), undecided],
        "poise x2 minus grpo x8": [("better", False), ("better", False)],
        "rloo x2 minus grpo x8": [undecided, undecided],
        "poise x2 minus none x1": [undecided, undecided],
        "poise x2 minus constant x1": [("worse", False), ("worse", False)],
        "constant x1 minus none x1": [undecided, undecided],
        "constant x1 minus batch_mean x1": [("better", False), ("better", True)],
        "prefix x1 minus none x1": [undecided, undecided],
        "ppo x1 minus none x1": [undecided, undecided],
        "poise x2 minus ppo x1": [undecided, undecided],
    }
    room = [-gap.low for gap in rows["poise x2 minus none x1"].values()]
    assert 0.075 < room[0] < 0.085 and 0.035 < room[1] < 0.04  # eight points, almost four
    ends = {label: np.mean([run.series("accuracy")[1][-1] for run in runs]) for label, runs in of_smollm2.items()}
    assert sorted(ends, key=ends.get)[-2:] == ["prefix x1", "constant x1"]
    assert sorted(ends, key=ends.get)[-5:-2] == ["poise x2", "ppo x1", "none x1"]
    assert round(ends["ppo x1"], 2) == round(ends["none x1"], 2)  # equal by the means
