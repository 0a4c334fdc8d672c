"""What is said of POISE, against the runs recorded under data/runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import nbformat
import pytest

import poise_lab as pl
from poise_lab.files import read_json
from poise_lab.runs import by_label, format_table
from poise_lab.studies import arena, showdown, thinking, verdicts

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


# --- the showdown --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def showdown_runs():
    return showdown.recorded(pl.data_dir() / "showdown")


def test_showdown_is_complete_and_made_with_the_recipe_of_today(showdown_runs):
    rates = showdown.chosen_rates(pl.data_dir() / "showdown")
    assert len(showdown_runs) == len(showdown.METHODS) * len(showdown.SEEDS)
    for job, run in zip(showdown.main_jobs(pl.data_dir() / "showdown"), showdown_runs, strict=True):
        config = pl.TrainConfig(
            **showdown.TRAIN, prompts=job.method.prompts, seed=job.seed, learning_rate=rates[job.method.label]
        )
        assert run.finished and run.config["train"] == dataclasses.asdict(config)
        assert run.config["policy"] == "tiny" and run.config["task"] == pl.TINY_TASKS
        settings = pl.make_baseline(job.method.baseline, responses=job.method.responses).settings()
        assert {k: v for k, v in run.config["baseline"].items() if k != "probe"} == {
            k: v for k, v in settings.items() if k != "probe"
        }
        assert run.config["threads"] == 1 and run.config["versions"] and run.config["date"]
    for job in showdown.search_jobs(pl.data_dir() / "showdown"):
        run = pl.read_run(job.folder)
        assert run.finished and run.seed == showdown.SEARCH_SEED
        assert run.config["train"]["learning_rate"] == job.learning_rate


def test_showdown_methods_sampled_the_same(showdown_runs):
    """All but DAPO exactly; DAPO in whole groups, all that it kept and some that it dropped."""
    for label, group in by_label(showdown_runs).items():
        for run in group:
            total = [m["responses"] for m in run.metrics]
            each = {after - before for before, after in zip(total, total[1:], strict=False)}
            if label.startswith("dapo"):
                m, kept = run.config["baseline"]["responses"], run.config["train"]["prompts"]
                assert min(each) >= kept * m and all(n % m == 0 for n in each)
                assert max(each) > kept * m
            else:
                assert each == {showdown.BUDGET}, run.folder


def test_showdown_seeds_are_paired(showdown_runs):
    for seed in showdown.SEEDS:
        assert len({run.metrics[0]["accuracy"] for run in showdown_runs if run.seed == seed}) == 1


def test_every_method_of_the_showdown_learned(showdown_runs):
    for label, group in by_label(showdown_runs).items():
        mean, low, _ = pl.mean_interval([run.lift() for run in group])
        assert low > 0, f"{label}: lift {mean:.3f}"


def test_learned_values_of_the_showdown_have_skill(showdown_runs):
    """Probe and critics against V(x) of held-out prompts, at the end of the run."""
    for label, group in by_label(showdown_runs).items():
        if label.split()[0] in ("poise", "fused", "critic", "ppo"):
            _, low, _ = pl.mean_interval([run.series("probe_r_fresh")[1][-1] for run in group])
            assert low > 0.2, label


def test_the_results_quote_the_showdown(showdown_runs):
    text = (ROOT / "notebooks" / "RESULTS.md").read_text()
    (quoted,) = re.findall(r"<!-- showdown -->\n(.*?)<!-- /showdown -->", text, re.S)
    assert quoted.strip() == verdicts.quote(showdown_runs)


GROUPS_OF_EIGHT = ("rloo x8", "grpo x8", "dr_grpo x8", "opo x8", "dapo x8")


def words(runs, budget: str = "tokens") -> dict[tuple[str, str], str]:
    return {pair: word for pair, (word, _) in verdicts.verdicts(runs, budget).items()}


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_what_the_results_say_in_words_of_the_showdown(showdown_runs):
    """Every sentence on verdicts stands there, and the recorded runs say it."""
    text = (ROOT / "notebooks" / "RESULTS.md").read_text()
    section = one_line(text[text.index("<!-- /showdown -->") : text.index("## Real models")])
    found, labels, kept = words(showdown_runs), list(by_label(showdown_runs)), verdicts.surviving(showdown_runs)
    (_, low, high), _ = verdicts.ratio_to(showdown_runs, "poise x2", "dapo x8", "seconds", 0.72)
    said = {
        "it knows nothing of the prompt, and no method is better": all(
            found[b, "constant x1"] != "better" for b in labels if b != "constant x1"
        ),
        "`score_weighted` is POISE with its probe taught that number; it is ahead of POISE": found[
            "score_weighted x2", "poise x2"
        ] == "better",
        "and `constant`, its control, is ahead of it": found["constant x1", "score_weighted x2"] == "better",
        "At equal tokens POISE is ahead of the methods that need groups of eight.": all(
            found["poise x2", b] == "better" for b in GROUPS_OF_EIGHT
        ),
        "corrected for the 136 pairs by Holm's method 15 remain at equal tokens, of POISE's the one against ReMax": (
            len(kept) == 30 and [b for a, b in kept if a == "poise x2"] == ["remax x1"]
        ),
        "The paper's saving of time over DAPO is not reproduced here.": low < 1 < high,
    }  # fmt: skip
    for sentence, true in said.items():
        assert sentence in section, sentence
        assert true, sentence


def test_what_the_front_page_says_of_methods_is_what_the_arena_says():
    ways = ("sampled accuracy", "greedy accuracy")
    sampled, greedy = (arena.verdicts(pl.data_dir() / "arena", way) for way in ways)
    eight, pairs, single = (("poise x2", other) for other in ("grpo x8", "none x2", "none x1"))
    over_none = [found["poise x2", none][0] for found in (sampled, greedy) for none in ("none x1", "none x2")]
    said = {
        "With the same pairs POISE makes a better policy than RLOO": sampled["poise x2", "rloo x2"][0] == "better",
        "That it makes a better one than no baseline nothing here shows": "better" not in over_none,
        "POISE is ahead of GRPO with groups of eight in sampled accuracy, but not in greedy accuracy": (
            sampled[eight][0] == "better" and greedy[eight][0] != "better"
        ),
        "it cannot be told from training without a baseline on the same pairs": (
            sampled[pairs][0] == greedy[pairs][0] == "inconclusive"
        ),
        "and is behind it where that takes one response to each of twice as many prompts": (
            sampled[single][0] == greedy[single][0] == "worse"
        ),
        "Corrected for the number of pairs, only the last remains": (
            sampled[single][2] and greedy[single][2] and not sampled[eight][2]
        ),
    }
    front = one_line((ROOT / "README.md").read_text())
    for sentence, true in said.items():
        assert sentence in front, sentence
        assert true, sentence


@pytest.fixture(scope="module")
def notebook_08():
    """(prose in one line, stored tables in plain text, what is printed) of the notebook."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_baselines_compared.ipynb", as_version=4)
    prose = one_line(" ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    tables = [o.data["text/plain"] for o in outputs if "poise-table" in o.get("data", {}).get("text/html", "")]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    return prose, tables, printed


def test_notebook_08_stores_the_numbers_of_the_recorded_runs(showdown_runs, notebook_08):
    _, tables, printed = notebook_08

    def shown(interval, digits, sign=""):
        return "{:{s}.{d}f} [{:{s}.{d}f}, {:{s}.{d}f}]".format(*interval, s=sign, d=digits)

    def table(head):
        (found,) = (text for text in tables if text.startswith(head))
        return found.split("\n")[1:]

    for row, line in zip(verdicts.summary(showdown_runs), table("method             learning rate"), strict=True):
        assert line.startswith(row["method"]) and f" {row['learning rate']} " in line, line
        for column, digits in (("accuracy at equal tokens", 3), ("at equal seconds", 3), ("milliseconds per token", 2)):
            assert shown(row[column], digits) in line, line
    for budget in ("tokens", "seconds"):
        found, kept = verdicts.verdicts(showdown_runs, budget), verdicts.surviving(showdown_runs, budget)
        for line in table("POISE minus"):
            pair = "poise x2", " ".join(line.split()[:2])
            word, difference = found[pair]
            said = re.escape(shown(difference, 3, "+")) + f" +{word} +{kept.get(pair, 'inconclusive')}"
            assert re.search(said, line), line
        ratio, seeds = verdicts.ratio_to(showdown_runs, "poise x2", "dapo x8", budget, 0.72)
        assert f"POISE over DAPO in {budget}: ratio {shown(ratio, 2)} over {seeds} seeds" in printed


def test_what_notebook_08_says_in_words_of_the_recorded_runs(showdown_runs, notebook_08):
    prose, *_ = notebook_08
    found, labels = words(showdown_runs), list(by_label(showdown_runs))
    best = ("constant x1", "none x1")
    searched = {job.folder.name: pl.read_run(job.folder).series("accuracy")[1][-1]
                for job in showdown.search_jobs(pl.data_dir() / "showdown")}  # fmt: skip
    ratios = {budget: verdicts.ratio_to(showdown_runs, "poise x2", "dapo x8", budget, 0.72)[0]
              for budget in ("tokens", "seconds")}  # fmt: skip
    hours = read_json(pl.data_dir() / "paper_results.json")["v2"]["wall_clock_hours"].values()
    kept = {budget: verdicts.surviving(showdown_runs, budget) for budget in ("tokens", "seconds")}
    beaten = {b for (a, b), word in kept["tokens"].items() if a == "constant x1" and word == "better"}
    of_poise = {b: word for (a, b), word in kept["tokens"].items() if a == "poise x2"}
    said = {
        "15 of 136 at equal tokens": len(kept["tokens"]) == 30 and len(labels) * (len(labels) - 1) == 2 * 136,
        "88 of the 136 intervals lie off zero": sum(word != "inconclusive" for word in found.values()) == 2 * 88,
        "RLOO with pairs and with eight, PPO, Dr. GRPO, OPO, GRPO, ReMax": beaten
        == {"rloo x2", "rloo x8", "ppo x1", "dr_grpo x8", "opo x8", "grpo x8", "remax x1"},
        "Against `none` there is no verdict, with or without the correction": found["constant x1", "none x1"]
        == "inconclusive",
        "POISE is better than ReMax, and that is all that survives of it": of_poise == {"remax x1": "better"},
        "Pair by pair it is ahead of every method with groups of eight": all(
            found["poise x2", b] == "better" for b in GROUPS_OF_EIGHT
        ),
        "and behind `constant`, `none`, `score_weighted` and the oracle": all(
            found["poise x2", b] == "worse" for b in (*best, "score_weighted x2", "oracle x1")
        ),
        "Between POISE and plain RLOO with the same pairs, a critic, PPO, SPO or the batch mean not even": all(
            found["poise x2", b] == "inconclusive" for b in ("rloo x2", "critic x1", "ppo x1", "spo x1", "batch_mean x1")
        ),
        "In the search above `constant` is ahead of it at each of the three rates, on one seed": all(
            searched[f"constant-x1-{rate:g}"] > searched[f"score_weighted-x2-{rate:g}"]
            for rate in showdown.LEARNING_RATES
        ),
        "The paper's saving of time is not reproduced here.": ratios["seconds"][1] < 1 < ratios["seconds"][2],
        "POISE needs somewhat fewer tokens than DAPO, by less than the paper's ratio": ratios["tokens"][2] < 1
        and all(one["POISE"] / one["DAPO"] < ratios["tokens"][1] for one in hours),
    }  # fmt: skip
    for sentence, true in said.items():
        assert sentence in prose.replace("*", ""), sentence
        assert true, sentence


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


@pytest.fixture(scope="module")
def smollm2():
    """Runs by label, in order of their seeds."""
    folder = pl.data_dir() / "runs-smollm2"
    return by_label([pl.read_run(f) for f in sorted(folder.iterdir()) if not f.name.endswith(".partial")])


def test_runs_of_the_real_model_differ_in_the_baseline_alone(smollm2):
    assert set(smollm2) == {"poise x2", "rloo x2", "grpo x8"}
    seeds = [[run.seed for run in group] for group in smollm2.values()]
    assert seeds[0] == seeds[1] == seeds[2] and len(seeds[0]) == len(set(seeds[0])) >= 3
    for runs in zip(*smollm2.values(), strict=True):
        assert len({run.metrics[0]["accuracy"] for run in runs}) == 1  # same weights, same held-out problems
        configs = []
        for run in runs:
            assert run.finished and [m["step"] for m in run.metrics] == list(range(31))
            assert all(m["responses"] == 96 * m["step"] for m in run.metrics)
            configs.append({k: v for k, v in run.config.items() if k not in ("baseline", "date", "commit")})
            assert configs[-1]["train"].pop("prompts") * run.config["baseline"]["responses"] == 96
        assert configs[0] == configs[1] == configs[2]
        assert (configs[0]["policy"], configs[0]["wording"], configs[0]["shots"]) == ("smollm2-135m", "line", 4)


def test_the_real_model_learned_in_every_run(smollm2):
    assert all(run.lift() > 0.1 for group in smollm2.values() for run in group)
    assert all(run.mean("probe_r_fresh") > 0.7 for run in smollm2["poise x2"])


def test_the_results_quote_the_runs_of_the_real_model(smollm2):
    text = (ROOT / "notebooks" / "RESULTS.md").read_text()
    (quoted,) = re.findall(r"<!-- smollm2 -->\n(.*?)<!-- /smollm2 -->", text, re.S)
    assert quoted.strip() == format_table(pl.compare([run for group in smollm2.values() for run in group]))
