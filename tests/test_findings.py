"""Every interval of notebooks/FINDINGS.md is recomputed from the records; the page is written for people."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import poise_lab as pl
from poise_lab import stats
from poise_lab.files import read_json
from poise_lab.show.words import span
from poise_lab.stats import holm, p_value, surviving
from poise_lab.stats import interval as interval_of
from poise_lab.studies import (
    arena,
    common,
    long,
    noises,
    paper,
    smollm2,
    tables,
    thinking,
    tracking,
    trained,
    transfer,
    when,
)
from poise_lab.studies.critics import CRITIC_EPOCHS, CRITIC_RATES

PAGE = Path(__file__).parent.parent / "notebooks" / "FINDINGS.md"
DATA = pl.data_dir()
LONG = ("sampled accuracy", "probe r", "entropy", "pass@16")
MORE_WHEN_SAMPLED = (  # the first two survive the count of all pairs
    ("oracle x1", "batch_mean x1"), ("score_weighted x2", "grpo x8"),
    ("poise x2", "grpo x8"), ("none x1", "batch_mean x1"), ("none x1", "poise x2"),
)  # fmt: skip


def section(number: int) -> str:
    """One finding, in one line."""
    text = PAGE.read_text(encoding="utf-8")
    return " ".join(re.split(r"^## ", text, flags=re.M)[number].split())


def shown(interval) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)


def difference(a: list[float], b: list[float]) -> str:
    return shown(pl.mean_interval(np.subtract(a, b)))


def corrected_leads(ends: dict) -> dict[tuple[str, str], float]:
    """By pair of methods: p, corrected for all pairs, of its lead when sampled minus its lead when decoded greedily."""
    leads = {a: np.subtract(each["sampled accuracy"], each["greedy accuracy"]) for a, each in ends.items()}
    alone = {(a, b): p_value(found[1], len(arena.SEEDS)) for (a, b), found in arena.judged(leads).items() if a < b}
    return dict(zip(alone, holm(list(alone.values())), strict=True))


def longer(one: noises.Measured) -> dict[str, tuple[float, float, float]]:
    """Squared score of responses that were not to be expected, over that of others of their kind, with its interval."""
    squares = one.by_value()
    return {
        "right, hard": interval_of(squares["right, hard"] / squares["right, easy"]),
        "wrong, easy": interval_of(squares["wrong, easy"] / squares["wrong, hard"]),
    }


def of_runs(folder: str, name: str) -> list[pl.RunRecord]:
    return [pl.read_run(DATA / folder / f"{name}-{seed}") for seed in trained.SEEDS]


def mean_between(seed: dict, model: str, measure: str, steps: tuple[int, int]) -> float:
    """Mean of a measure of a value model over the looks between two steps."""
    looks = [look for look in seed["looks"] if steps[0] <= look["step"] <= steps[1]]
    return float(np.mean([look["models"][model][measure] for look in looks]))


def numbers() -> dict[str, tuple[int, str]]:
    """What the page quotes: name to its finding, and the number as it stands there."""
    found = {}
    for name in ("poise", "random_rewards", "sharpen"):
        runs = of_runs("runs", name)
        for metric in ("greedy_accuracy", "pass_at_16"):
            found[f"{name} {metric}"] = 1, shown(pl.mean_interval(thinking.gains(runs, metric)))
    del found["random_rewards pass_at_16"]
    ablation = read_json(DATA / "paper_results.json")["v3"]["table3_ablation"]
    full, same, prompt = (ablation[name] for name in ("POISE", "same-rollout probe", "prompt-only probe"))
    found["ablation"] = 2, f"at {same} points, a probe of the prompt alone at {prompt},"
    found["ablation, whole"] = 2, f"POISE with two at {full} (seven"
    poise, rloo = of_runs("runs", "poise"), of_runs("runs", "rloo")
    found["proxy on thinker"] = (
        3,
        difference(*([run.mean("variance_reduction") for run in runs] for runs in (poise, rloo))),
    )
    found["lift on thinker"] = 3, difference(*([run.lift() for run in runs] for runs in (poise, rloo)))
    poise, rloo = of_runs("runs-smollm2", "poise"), of_runs("runs-smollm2", "rloo")
    after = poise[0].config["train"]["steps"] - poise[0].config["baseline"]["warmup"]
    both = ([run.mean(name, last=after) for run in poise] for name in ("variance_reduction", "variance_reduction_rloo"))
    found["proxy on SmolLM2"] = 3, difference(*both)
    found["lift on SmolLM2"] = 3, difference(*([run.lift() for run in runs] for runs in (poise, rloo)))
    ends = arena.compared(DATA / "arena")
    for a, b in MORE_WHEN_SAMPLED:
        sampled, greedy = (np.subtract(ends[a][way], ends[b][way]) for way in ("sampled accuracy", "greedy accuracy"))
        found[f"sampled minus greedy, {a} minus {b}"] = 4, difference(sampled, greedy)
    kept = {row["decoded"]: row["survive Holm's correction"] for row in arena.counts(DATA / "arena")}
    pairs = arena.counts(DATA / "arena")[0]["pairs"]
    found["how many survive"] = 4, "Of {} pairs {} survive Holm's correction when sampled, {} at temperature 0.5, {} when decoded greedily and {} in pass@16".format(
        pairs, *(kept[way] for way in arena.WAYS)
    )  # fmt: skip
    leads = corrected_leads(ends)
    found["leads, corrected"] = 4, "Corrected for all {} such differences, the first two of these three have p = {:.2f} and {:.2f}".format(
        len(leads), *(leads[tuple(sorted(pair))] for pair in MORE_WHEN_SAMPLED[2:4])
    )  # fmt: skip
    for way in ("sampled accuracy", "greedy accuracy"):
        one, two, read = (np.array(ends[label][way]) for label in ("none x1", "none x2", "poise x2"))
        found[f"{way}, two losses"] = 10, difference(two - one, read - two)
    of_critics = {}
    for model, tasks in tables.recorded(DATA / "real").items():
        for measure in ("variance_reduction", "r"):
            compared = paper.compared(list(tasks.values()), "critic", "probe", "critic", measure)
            found[f"{model} {measure}"] = 5, shown(compared[1])
            of_critics[model, measure] = p_value(compared[1], common.SPLITS)
    found["critics, corrected"] = (
        5,
        f"Corrected for these four, the first has p = {min(holm(list(of_critics.values()))):.2f}",
    )
    seeds, frozen, refitted = tracking.recorded(DATA / "tracking"), "frozen at step 0", "refitted, 4096 rows"
    for measure in ("mae", "r"):
        found[f"frozen {measure}"] = 6, shown(tracking.differences(seeds, frozen, refitted, measure, looks=5)[200])
    reduction = [mean_between(seed, frozen, "variance_reduction", (160, 200)) for seed in seeds]
    found["frozen variance_reduction"] = 6, shown(pl.mean_interval(reduction))
    for name, other, last in (
        ("all rows", "refitted, 38400 rows", 200),
        ("critic at first", "critic, online", 50),
        ("critic at last", "critic, online", 200),
    ):
        found[name] = 6, shown(tracking.differences(seeds, other, refitted, looks=5)[last])
    behind = {tracking.behind_from(seeds, frozen, refitted, m) for m in ("r", "mae", "variance_reduction")}
    found["behind from"] = 6, f"From step {behind.pop()} on"
    assert not behind  # the same for all
    for group in transfer.recorded(DATA / "transfer"):
        if group["name"] in ("step 0 to 100", "step 100 to 200"):
            same = [value["noise_free"][0] for value in group["same_value"].values()]
            found[f"same value, {group['name']}"] = 6, shown(pl.mean_interval(same))
            found[f"probe, {group['name']}"] = 6, shown(pl.mean_interval(transfer.over_pairs(group, "as it is", 0)))
    families = transfer.by_kind(transfer.recorded(DATA / "transfer"))["family"]
    for mode in ("affine map", "own states", "refitted"):
        found[f"transfer {mode}"] = 7, "{:.3f} [{:.3f}, {:.3f}]".format(*transfer.over_groups(families, mode)[1][-1])
    needed = {task: transfer.labels_needed(groups) for task, groups in transfer.by_task(families).items()}
    found["labels"] = (
        7,
        (
            f"from {needed['chain_sum']} labelled prompts on sums, from {needed['letter_counting']} in counting letters, from "
            f"{needed['syllogism']} on syllogisms"
        ),
    )
    assert needed["gcd"] is None
    ends = {engine: [run.series("accuracy")[1][-1] for run in of_runs("engines", engine)] for engine in ("trl", "lab")}
    found["engines"] = 8, difference(ends["trl"], ends["lab"])
    settings = when.read(DATA / "when")
    for name, one in settings.items():
        for label, other in (("V(x) x1", "none x1"), ("prefix_weighted x1", "none x1")):
            found[f"{label} {name}"] = 9, "{:.2f} [{:.2f}, {:.2f}]".format(*one.against(label, other))
        if name == "gemma3-digits":
            _, low, high = interval_of(one.sums["V(x) x1"])
            found["V(x), Gemma, by itself"] = 9, f"a plain 95 % interval, [{low:.2f}, {high:.2f}], leaves out 1"
        if "adam" in one.kinds:
            for label in ("V(x) x1", "prefix_weighted x1"):
                found[f"{label} {name}, Adam"] = (
                    9,
                    "{:.2f} [{:.2f}, {:.2f}]".format(*interval_of(one.noise("adam")[label])),
                )
    for name, one in settings.items():
        for what, ratio in longer(one).items():
            found[f"{what} {name}"] = 9, "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)
    for a, b in (
        ("poise x2", "none x1"),
        ("poise x2", "none x2"),
        ("none x2", "none x1"),
        ("poise x2", "rloo x2"),
        ("poise x2", "prefix_weighted x1"),
        ("prefix_weighted x1", "none x1"),
        ("poise x2", "grpo x8"),
        ("batch_mean x1", "none x1"),
        ("constant x2", "constant x1"),
        ("poise x2", "constant x2"),
        ("critic x1", "none x1"),
        ("critic x1", "poise x2"),
        ("ppo x1", "none x1"),
        ("poise x2", "ppo x1"),
        ("poise x2", "dapo x8"),
        ("poise x2", "remax x1"),
        ("poise x2", "rloo x8"),
        ("oracle x1", "none x1"),
        ("oracle x1", "poise x2"),
    ):
        for way in ("sampled accuracy", "greedy accuracy", "pass@16")[: 3 if (a, b) == ("poise x2", "none x1") else 2]:
            found[f"{way}, {a} minus {b}"] = 10, shown(arena.verdicts(DATA / "arena", way)[a, b][1])
    real = {row["difference"]: row for row in smollm2.asked(DATA / "runs-smollm2")}
    asked = ["poise x2 minus none x1", "poise x2 minus constant x1", "poise x2 minus ppo x1"]
    for pair in (*asked, "prefix x1 minus none x1", "ppo x1 minus none x1"):
        found |= {f"SmolLM2, {pair}, {look}": (10, str(real[pair][look])) for look in smollm2.LOOKS}
    aims = "constant x1 minus batch_mean x1"
    found |= {f"SmolLM2, {aims}, {look}": (12, str(real[aims][look])) for look in smollm2.LOOKS}
    ends = [
        [run.series("greedy_accuracy")[1][-1] for run in of_runs("runs-smollm2", name)]
        for name in ("constant", "batch_mean")
    ]
    found["SmolLM2, greedy, " + aims] = 12, difference(*ends)
    kept = [(pair, look) for pair, row in real.items() for look in smollm2.LOOKS if row[look].kept]
    assert kept == [(aims, "after 30 steps")]  # as findings 10 and 12 say
    before = settings["thinker-mixture"]
    noise = arena.noise(before)
    for label in ("poise x2", "none x2"):
        found[f"noise of {label}"] = 10, "{:.2f} [{:.2f}, {:.2f}]".format(*interval_of(noise[label]))
    for row in arena.contrast(DATA / "arena", "two responses"):
        if row["two responses"] == "mean":
            for way in ("sampled accuracy", "greedy accuracy"):
                found[f"{way}, two responses"] = 10, shown(row[way][:3])
    for a, b in [*arena.CONTRASTS["another aim"], ("score_weighted x2", "constant x2")]:
        found[f"noise of {a} over {b}"] = 12, "{:.2f} [{:.2f}, {:.2f}]".format(*interval_of(noise[a] / noise[b]))
    for way in ("sampled accuracy", "greedy accuracy"):
        for row in arena.contrast(DATA / "arena", "another aim"):
            found[f"{way}, {row['another aim']}"] = 12, str(row[way])
        for other in ("constant x2", "none x1"):
            gap = arena.verdicts(DATA / "arena", way)["score_weighted x2", other][1]
            found[f"{way}, score_weighted minus {other}"] = 12, shown(gap)
    for (pair, way, when_), gap in long.differences(DATA / "long").items():
        found[f"long, {pair}, {way}, {when_}"] = 11, shown(gap) + (" *" if gap.kept else " |")
    on = {(row["method"], row["step"]): row for row in long.rows(DATA / "long")}
    for step, way in ((300, "sampled accuracy"), *((k, c) for k in (100, 600) for c in LONG)):
        found[f"long, {way} at {step}"] = 11, span(*on["poise x2", step][way], 3)
    for row in long.left(DATA / "long", ["chain_sum num_digits", "word_sorting num_words"]):
        found[f"long, wrong, {row['problems']}"] = 11, span(*row["poise x2"], 3)
    for row in long.gained(DATA / "long", long.LATE):
        (_, label), *ways = row.items()
        for way, gap in ways[: 2 if label == "poise x2" else 1] + ways[2:] * (label == "rloo x2"):
            found[f"long, late, {label}, {way}"] = 11, str(gap)
    for row in long.gained(DATA / "long", long.SHORT):
        found[f"long, gained, {row['steps 100 to 600']}, pass@16"] = 11, str(row["pass@16"])
    change = [
        long.at_step(r, "probe r", 600) - long.at_step(r, "probe r", 100)
        for r in long.recorded(DATA / "long")["poise x2"]
    ]
    found["long, change of the probe's r"] = 11, f"a change of {shown(pl.mean_interval(change))}"
    of = arena.ends(DATA / "arena")
    for a, b in arena.CONTRASTS["another aim"]:
        sampled, greedy = (np.subtract(of[a][way], of[b][way]) for way in ("sampled accuracy", "greedy accuracy"))
        found[f"sampled minus greedy, {a} minus {b}"] = 12, difference(sampled, greedy)
    top = [one.top_share("none x1") for one in settings.values()]
    found["top"] = 9, f"carries {min(top):.2f} to {max(top):.2f} of the noise"
    return found


@pytest.fixture(scope="module")
def recomputed():
    return numbers()


def test_every_number_of_the_page_is_recomputed(recomputed):
    """Each stands in its finding; and there is no interval on the page that is none of them."""
    for name, (number, text) in recomputed.items():
        assert text in section(number), f"finding {number}, {name}: {text}"
    intervals = set(re.findall(r"[+-]?\d+\.\d{2,3} \[[^]]*\]", " ".join(PAGE.read_text(encoding="utf-8").split())))
    assert intervals == {
        text.rstrip(" *|") for _, text in recomputed.values() if re.match(r"[+-]?\d+\.\d+ \[", text)
    } | {recomputed["long, change of the probe's r"][1].removeprefix("a change of ")}


def test_each_finding_says_what_would_refute_it():
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[1:-1]
    for part in parts:
        assert [line for line in ("**Claim.**", "**Measure.**", "**What would refute it.**") if line not in part] == []
    assert [part.split(".")[0] for part in parts] == [str(n) for n in range(1, len(parts) + 1)]


def test_what_the_page_says_in_words(recomputed):
    """Signs and verdicts behind its claims."""

    def interval(name):
        return [float(x) for x in re.findall(r"[+-]?\d\.\d{3}", recomputed[name][1])]

    def off_zero(name):
        _, low, high = interval(name)
        return low > 0 or high < 0

    assert interval("poise pass_at_16")[1] > 0 > interval("sharpen pass_at_16")[2]
    assert interval("sharpen greedy_accuracy")[2] < interval("poise greedy_accuracy")[0] / 2
    assert interval("proxy on thinker")[1] > 0 and interval("lift on thinker")[1] > 0
    assert interval("proxy on SmolLM2")[2] < 0 < interval("lift on SmolLM2")[0] and not off_zero("lift on SmolLM2")
    more = [off_zero(f"sampled minus greedy, {a} minus {b}") for a, b in MORE_WHEN_SAMPLED]
    assert more == [True, True, True, True, False]
    entropy = {label: np.mean(each["entropy"]) for label, each in arena.compared(DATA / "arena").items()}
    assert min(entropy["grpo x8"], entropy["batch_mean x1"]) > max(entropy["poise x2"], entropy["none x1"])
    rate = {label: arena.best_rate(arena.scores(DATA / "arena", label)) for label in entropy}
    assert [rate[label] / rate["none x1"] for label in ("grpo x8", "batch_mean x1", "poise x2")] == [0.5, 0.5, 1]
    counted = {way: (pairs, kept) for way, pairs, _, kept in (row.values() for row in arena.counts(DATA / "arena"))}
    assert {pairs for pairs, _ in counted.values()} == {253} and max(kept for _, kept in counted.values()) == 9
    assert counted["pass@16"] == (253, 0) and "at most nine pairs of 253 are told apart" in section(4)
    assert interval("gemma3-270m variance_reduction")[1] > 0
    assert not any(map(off_zero, ("gemma3-270m r", "smollm2-135m r", "smollm2-135m variance_reduction")))
    assert interval("frozen mae")[1] > 0 > max(interval(f"frozen {m}")[2] for m in ("r", "variance_reduction"))
    assert interval("critic at first")[1] > 0 > max(interval(name)[2] for name in ("all rows", "critic at last"))
    for name in ("same value", "probe"):
        assert interval(f"{name}, step 0 to 100")[2] < interval(f"{name}, step 100 to 200")[1]
    mapped, own, refitted = (interval(f"transfer {mode}") for mode in ("affine map", "own states", "refitted"))
    assert own[1] < mapped[0] < own[2] and mapped[2] < refitted[1]
    assert not off_zero("engines") and 0.03 < interval("engines")[2] < 0.04  # the bound that is claimed
    critics = [one["critic"] for tasks in tables.recorded(DATA / "real").values() for one in tasks.values()]
    assert any(CRITIC_EPOCHS in critic["epochs"] for critic in critics) and len(CRITIC_RATES) == 2
    fitted, _ = common.splits(400)[0]
    assert [len(fitted), *map(len, common.splits(len(fitted))[0])] == [320, 256, 64]
    said = {way: arena.verdicts(DATA / "arena", way) for way in arena.WAYS}
    for way in arena.WAYS:
        own = {pair: p_value(found[1], 5) for pair, found in said[way].items() if pair[0] == "poise x2"}
        assert len(own) == 22 and "Of POISE's own 22 pairs" in section(10)
        assert (("poise x2", "none x1") in surviving(own)) == (way != "pass@16")
    assert (
        said["sampled accuracy"]["oracle x1", "none x1"][0]
        == said["greedy accuracy"]["oracle x1", "none x1"][0]
        == "worse"
    )
    for way in ("sampled accuracy", "greedy accuracy"):
        assert said[way]["ppo x1", "none x1"][::2] == ("worse", False)
        assert said[way]["poise x2", "ppo x1"][0] == said[way]["poise x2", "dapo x8"][0] == "inconclusive"
        assert said[way]["poise x2", "remax x1"][::2] == ("better", False)
    assert all(said[way]["poise x2", "none x2"][0] == "inconclusive" for way in arena.WAYS)
    for way in ("sampled accuracy", "greedy accuracy"):
        assert said[way]["none x2", "none x1"][0] == "worse" and not said[way]["none x2", "none x1"][2]
        assert not said[way]["poise x2", "rloo x2"][2]
        assert (
            said[way]["poise x2", "prefix_weighted x1"][0] == "worse"
            and not said[way]["poise x2", "prefix_weighted x1"][2]
        )
        assert said[way]["prefix_weighted x1", "none x1"][0] == "inconclusive"
    assert said["sampled accuracy"]["poise x2", "rloo x2"][0] == "better"
    assert said["sampled accuracy"]["critic x1", "none x1"][0] == "worse"
    assert not said["sampled accuracy"]["critic x1", "none x1"][2]
    assert said["greedy accuracy"]["critic x1", "none x1"][0] == "inconclusive"
    assert all(said[way]["critic x1", "poise x2"][0] == "inconclusive" for way in arena.WAYS)
    for pair in (("poise x2", "grpo x8"), ("poise x2", "batch_mean x1")):
        assert said["greedy accuracy"][pair][0] == "inconclusive" and not said["sampled accuracy"][pair][2]
    assert said["sampled accuracy"]["poise x2", "grpo x8"][0] == "better"
    assert said["sampled accuracy"]["poise x2", "constant x2"][::2] == ("worse", False)
    assert said["greedy accuracy"]["poise x2", "constant x2"][0] == "inconclusive"
    assert not any(off_zero(f"{way}, two losses") for way in ("sampled accuracy", "greedy accuracy"))
    for way in ("sampled accuracy", "greedy accuracy"):
        assert said[way]["batch_mean x1", "none x1"][::2] == ("worse", False)
    assert [said[way]["constant x2", "constant x1"][::2] for way in ("sampled accuracy", "greedy accuracy")] == [
        ("worse", False)
    ] * 2
    for label in arena.ends(DATA / "arena"):
        searched = arena.scores(DATA / "arena", label)
        assert min(searched) < arena.best_rate(searched) < max(searched) and len(searched) >= 4
    settings = when.read(DATA / "when").values()
    value, prefix = (
        [noises.more_or_less(one.against(label, "none x1")) for one in settings]
        for label in ("V(x) x1", "prefix_weighted x1")
    )
    assert (value.count("more"), value.count("less"), len(value)) == (3, 0, 6)
    assert (prefix.count("less"), prefix.count("more")) == (3, 0)
    louder = {one.name.partition("-")[0] for one, word in zip(settings, value, strict=True) if word == "more"}
    assert louder == {"thinker", "smollm2"}
    scaled = [one.noise("adam", ("V(x) x1", "prefix_weighted x1")) for one in settings if "adam" in one.kinds]
    assert len(scaled) == 4 and all(interval_of(noise["V(x) x1"])[2] > 1 for noise in scaled)
    assert [interval_of(noise["prefix_weighted x1"])[2] < 1 for noise in scaled] == [False, False, True, True]
    right, wrong = ([longer(one)[what] for one in settings] for what in ("right, hard", "wrong, easy"))
    assert all(low > 1 for _, low, _ in right) and all(ratio > 1 for ratio, *_ in wrong)
    assert [low > 1 for _, low, _ in wrong].count(True) == 4
    leads = corrected_leads(arena.compared(DATA / "arena"))
    below = [leads[tuple(sorted(pair))] < 0.05 for pair in MORE_WHEN_SAMPLED]
    assert below == [True, True, False, False, False] and sum(p < 0.05 for p in leads.values()) == 2


def test_the_table_of_methods_says_what_is_off_zero_and_what_survives():
    said = {way: arena.verdicts(DATA / "arena", way) for way in arena.WAYS}

    def label(text):
        name = text.replace("`", "").lower()
        return name if " " in name else {"poise": "poise x2"}[name]

    rows, survive = 0, []
    page = PAGE.read_text(encoding="utf-8")
    for line in page[page.index("## 10.") : page.index("## 11.")].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if " minus " not in cells[0] or not line.startswith("| ") or cells[0].startswith("the third"):
            continue
        a, b = map(label, cells[0].split(" minus "))
        off = [way for way in ("sampled", "greedy") if said[f"{way} accuracy"][a, b][0] != "inconclusive"]
        assert cells[3] == {0: "neither", 1: off[0] if off else "", 2: "both"}[len(off)], line
        assert cells[1:3] == [shown(said[f"{way} accuracy"][a, b][1]) for way in ("sampled", "greedy")], line
        rows, survive = rows + 1, [*survive, *((a, b, way) for way in arena.WAYS if said[way][a, b][2])]
    assert rows == 19
    assert survive == [("oracle x1", "none x1", "at temperature 0.5")]


def test_what_the_page_says_of_the_other_aim():
    ends, said = arena.ends(DATA / "arena"), {way: arena.verdicts(DATA / "arena", way) for way in arena.WAYS}
    rows = {row.pop("another aim"): row for row in arena.contrast(DATA / "arena", "another aim")}
    mean = rows.pop("mean")
    stars = {way: [row[way].kept for row in rows.values()] for way in arena.WAYS}
    assert stars["sampled accuracy"] == [True] * 4 and stars["greedy accuracy"] == [False, False, True, True]
    assert all(stats.in_words(row["pass@16"]) == "inconclusive" for row in (*rows.values(), mean))
    noise, pairs = arena.noise(when.read(DATA / "when")["thinker-mixture"]), arena.CONTRASTS["another aim"]
    for a, b in pairs:
        assert min(np.subtract(ends[a]["sampled accuracy"], ends[b]["sampled accuracy"])) > 0, (a, b)
        assert interval_of(noise[a] / noise[b])[2] < 1
    moved = [np.mean(ends[a]["greedy accuracy"]) - np.mean(ends[b]["greedy accuracy"]) for a, b in pairs[:2]]
    leads = [np.mean(ends[a]["sampled accuracy"]) - np.mean(ends[b]["sampled accuracy"]) for a, b in pairs[:2]]
    assert all(
        greedy <= sampled / 2 + 0.001 for greedy, sampled in zip(moved, leads, strict=True)
    )  # half and more is gone
    among_all = [(pair, way) for pair in pairs for way in arena.WAYS if said[way][pair][2]]
    assert among_all == [(("prefix_weighted x1", "prefix x1"), "sampled accuracy")]
    for way in ("sampled accuracy", "greedy accuracy"):
        assert {said[way]["score_weighted x2", other][0] for other in ("constant x2", "none x1")} == {"inconclusive"}
    rates = {label: arena.best_rate(arena.scores(DATA / "arena", label)) for pair in pairs for label in pair}
    assert [rates[a] / rates[b] for a, b in pairs] == [2, 2, 1, 1]


def test_what_the_page_says_of_long_runs():
    found = long.differences(DATA / "long")
    assert len(found) == 36 and not any(gap.kept for gap in found.values())
    word = {key: stats.in_words(gap) for key, gap in found.items()}
    for way in long.COMPARED:
        steps = ("step 100", "step 600")
        assert [word["poise x2 minus none x1", way, step] for step in steps] == ["worse", "inconclusive"]
        assert word["poise x2 minus rloo x2", way, "step 600"] == "better"
        for other in ("poise x2", "none x1"):
            assert word[f"score_weighted x2 minus {other}", way, "step 600"] == "inconclusive"
    assert word["poise x2 minus none x1", "sampled accuracy", "change"] == "better"
    aimed = [word["score_weighted x2 minus poise x2", "sampled accuracy", when] for when in ("step 100", "change")]
    assert aimed == ["better", "inconclusive"]
    first = {key: p_value(gap[:3], len(arena.SEEDS)) for key, gap in found.items() if "score_weighted" not in key[0]}
    assert len(first) == 18 and surviving(first) == {("poise x2 minus none x1", "sampled accuracy", "step 100")}
    falls = {row["steps 100 to 600"]: stats.in_words(row["pass@16"]) for row in long.gained(DATA / "long", long.SHORT)}
    undecided = dict.fromkeys(("poise x2", "score_weighted x2"), "inconclusive")
    assert falls == {"rloo x2": "worse", "none x1": "worse"} | undecided
    group = long.recorded(DATA / "long")["poise x2"]
    for column, fell in (("probe r", False), ("pass@16", False), ("entropy", True)):
        change = [long.at_step(run, column, 600) - long.at_step(run, column, 100) for run in group]
        assert (stats.in_words(stats.mean_interval(change)) == "worse") == fell


def test_what_the_page_says_of_the_last_third_of_the_long_runs():
    (first, *_), *_ = rows = [list(row.items()) for row in long.gained(DATA / "long", long.LATE)]
    assert first[0] == f"steps {long.LATE} to {long.STEPS}" == "steps 400 to 600"
    said = {row[0][1]: dict(row[1:]) for row in rows}
    for label, group in long.recorded(DATA / "long").items():
        for way, found in said[label].items():
            gap = stats.mean_interval([long.at_step(r, way, 600) - long.at_step(r, way, 400) for r in group])
            assert found[:3] == gap and not found.kept
            off = stats.in_words(gap) != "inconclusive"
            decided = (("rloo x2", "pass@16"), ("score_weighted x2", "sampled accuracy"))
            assert off == ((label, way) in decided), (label, way)


def test_how_much_dapo_sampled():
    runs = arena.runs(DATA / "arena", "dapo x8")
    each = np.mean([run.metrics[-1]["responses"] / run.metrics[-1]["step"] for run in runs])
    assert f"{each:.0f} a step" in section(10) and 1.1 < each / arena.BUDGET < 1.15 and "an eighth more" in section(10)
