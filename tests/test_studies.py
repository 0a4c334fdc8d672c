"""The one door: what is missing of a study's records is said and made, and nothing that is there is touched."""

from __future__ import annotations

import json
import re
import shutil
import types

import pytest
from support import tiny_policy

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.files import check_writable
from poise_lab.sampler import step_seed
from poise_lab.show.samples import recorded_pairs, samples_of
from poise_lab.studies import arena, catalogue, pairs, smollm2, trained
from poise_lab.studies.common import held_out_of

SMALL = "--steps 1 --prompts 4 --minibatches 2 --eval-prompts 4 --eval-responses 2 --max-new-tokens 8"


def test_nothing_is_missing_of_what_is_recorded():
    for name, study in catalogue.STUDIES.items():
        assert study.missing(pl.data_dir() / study.folder) == {}, name


def test_the_studies_are_listed(capsys):
    assert main(["study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(catalogue.STUDIES)
    for study in catalogue.STUDIES.values():
        for number in re.findall(r"notebook (\d\d)", study.what):
            assert list((pl.data_dir().parent / "notebooks").glob(f"{number}_*.ipynb"))


def test_what_is_missing_and_what_it_takes_is_said_first(tmp_path, monkeypatch, capsys):
    """Runs are estimated by those that differ in the seed; a model that must be fetched is named with its size."""
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "cache"))
    made = []
    monkeypatch.setattr(catalogue.trained, "record", lambda runs, out, at_once, like: made.append(out))
    monkeypatch.setattr(catalogue, "fetch", lambda name, log: made.append(name))
    study = catalogue.STUDIES["smollm2"]
    shutil.copytree(pl.data_dir() / study.folder, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "grpo-3")
    assert main(["study", "smollm2", "--out", str(tmp_path / "runs")]) == 0
    _, said, *tables = capsys.readouterr().out.splitlines()
    assert not any("grpo x8" in line for line in tables)  # of a method that is not whole there is no row
    assert any(line.startswith("| rloo x2 | 5 |") for line in tables)
    recorded = [
        pl.read_run(folder).metrics[-1]["seconds"] / 60 for folder in (pl.data_dir() / study.folder).glob("grpo-*")
    ]
    assert said.startswith(f"missing in {tmp_path / 'runs'}: grpo-3; about {sum(recorded) / 5:.0f} minutes of one core")
    size = sum(path.stat().st_size for path in (pl.data_dir() / study.folder).rglob("*") if path.is_file())
    assert "smollm2-135m is fetched first (93 MB to download" in said
    assert said.endswith(f"all records take {size / 1e6:.1f} MB")
    assert made == ["smollm2-135m", tmp_path / "runs"]


def test_times_that_were_not_recorded_are_not_invented(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue.tracking, "recorded", lambda folder: [{"looks": []}] * 5)
    left = catalogue.STUDIES["tracking"].missing(tmp_path)
    assert len(left) == 5
    assert "no time is recorded for 5 of 5" in catalogue.will_take(catalogue.STUDIES["tracking"], tmp_path, left)
    assert "minutes" not in catalogue.will_take(catalogue.STUDIES["tracking"], tmp_path, left)


@pytest.mark.parametrize("name", sorted(catalogue.STUDIES))
def test_everything_is_missing_in_an_empty_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_LAB_CACHE", str(tmp_path / "cache"))
    study = catalogue.STUDIES[name]
    left = study.missing(tmp_path / "none")
    files = [path for path in (pl.data_dir() / study.folder).rglob("*") if path.suffix in (".json", ".jsonl")]
    assert left and not (tmp_path / "none").exists()
    if name in ("runs", "smollm2", "engines"):
        assert len(left) == len({path.parent for path in files})
        for run, minutes in left.items():  # as the recorded seeds of the same kind took, in the mean
            like = (pl.data_dir() / study.folder).glob(f"{run.rpartition('-')[0]}-*/metrics.jsonl")
            took = [json.loads(path.read_text().splitlines()[-1])["seconds"] for path in like]
            assert len(took) == 5 and minutes == pytest.approx(sum(took) / 5 / 60)
    assert f"missing in {tmp_path}" in catalogue.will_take(study, tmp_path, left)


def test_a_run_is_made_once_and_put_in_its_place(tmp_path, monkeypatch):
    """Only what is missing; without its checkpoints; and never moved into a folder that is there."""
    runs = {f"rloo-{seed}": f"--baseline rloo --seed {seed} {SMALL}" for seed in (0, 1)}
    (tmp_path / "rloo-0").mkdir()
    (tmp_path / "rloo-0" / "metrics.jsonl").write_text("recorded")
    trained.record(runs, tmp_path)
    assert [path.name for path in (tmp_path / "rloo-0").iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "rloo-0" / "metrics.jsonl").read_text() == "recorded"
    run = pl.read_run(tmp_path / "rloo-1")
    assert run.finished and run.config["threads"] == 1 and run.seed == 1
    assert {path.name for path in tmp_path.rglob("*")} == {
        "rloo-0",
        "rloo-1",
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
    }
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(trained.subprocess, "run", lambda *args, **options: pytest.fail("made again"))
    trained.record(runs, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_never_moves_into_a_folder_that_is_there(tmp_path):
    for name in ("a.partial", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(name)
    with pytest.raises(pl.PoiseLabError, match="is there already"):
        trained.put_in_place(tmp_path / "a")
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == "a" and (tmp_path / "a.partial").is_dir()


def test_a_run_is_in_its_place_when_its_weights_are_gone(tmp_path, monkeypatch):
    """Killed while they are removed, it is missing; the next call neither trains nor reads it again, and removes the rest."""
    partial = shutil.copytree(pl.data_dir() / "runs" / "rloo-0", tmp_path / "a.partial")
    for name in ("checkpoints", "policy"):
        (partial / name).mkdir()
    finished, left, remove = [], [1], shutil.rmtree

    def killed(path):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(trained.subprocess, "run", lambda *args, **options: pytest.fail("trained again"))
    monkeypatch.setattr(trained.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        trained.train(tmp_path / "a", "", finished.append)
    assert list(trained.missing(["a"], tmp_path, tmp_path)) == ["a"] and trained.share_done(tmp_path / "a") == 1
    left[0] = 9
    trained.record({"a": ""}, tmp_path, finish=finished.append)
    assert finished == [partial] and [path.name for path in tmp_path.iterdir()] == ["a"]
    assert {path.name for path in (tmp_path / "a").iterdir()} <= set(trained.KEPT)


@pytest.mark.parametrize(
    ("flags", "again"), [("", False), ("--steps 100", False), ("--baseline rloo --steps 200", True)]
)
def test_a_run_of_fewer_steps_than_asked_for_goes_on(tmp_path, monkeypatch, flags, again):
    """The recorded run has the 100 steps that are made by default."""
    shutil.copytree(pl.data_dir() / "runs" / "rloo-0", tmp_path / "a.partial")
    commands = []
    done = types.SimpleNamespace(returncode=0)
    monkeypatch.setattr(trained.subprocess, "run", lambda command, **_: commands.append(command) or done)
    trained.train(tmp_path / "a", flags)
    assert bool(commands) == again and all(command[-1] == "--resume" for command in commands)


def test_a_run_that_had_finished_is_only_moved(tmp_path, monkeypatch):
    """Killed between its last step and its move: the checkpoints may be gone, and nothing is trained again."""
    shutil.copytree(pl.data_dir() / "runs" / "rloo-0", tmp_path / "rloo-0.partial")
    monkeypatch.setattr(trained.subprocess, "run", lambda *args, **options: pytest.fail("trained again"))
    trained.record({"rloo-0": ""}, tmp_path)
    assert pl.read_run(tmp_path / "rloo-0").finished and not (tmp_path / "rloo-0.partial").exists()


@pytest.mark.parametrize(("status", "error"), [(2, pl.PoiseLabError), (130, KeyboardInterrupt)])
def test_a_run_that_stops_stops_the_study(tmp_path, monkeypatch, status, error):
    commands = []

    def stopped(command, **options):
        commands.append(command)
        return types.SimpleNamespace(returncode=status)

    monkeypatch.setattr(trained.subprocess, "run", stopped)
    with pytest.raises(error):
        trained.record({f"a-{seed}": "--seed 0" for seed in range(40)}, tmp_path, at_once=1)
    assert len(commands) == 1 and commands[0][1:5] == ["-m", "poise_lab", "train", "--seed"]
    assert list(tmp_path.iterdir()) == []


def test_as_many_runs_at_once_as_cores_and_memory_hold(monkeypatch):
    """By hand: SmolLM2's recorded runs peak at some GB, so memory is the limit; the bundled policy's leave it to the cores."""
    recorded = pl.data_dir() / "runs-smollm2"
    peak = max(pl.read_run(folder).metrics[-1]["peak_memory_mb"] for folder in recorded.glob("poise-*"))
    assert peak > 2000
    monkeypatch.setattr(trained.threads, "usable", lambda: 8)
    for free, expected in ((3.5 * peak, 3), (0.5 * peak, 1), (100 * peak, 8)):
        monkeypatch.setattr(
            trained.psutil, "virtual_memory", lambda free=free: types.SimpleNamespace(available=free * 2**20)
        )
        assert trained.most_at_once(["poise-7"], recorded) == expected
    monkeypatch.setattr(trained.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=4000 * 2**20))
    assert trained.most_at_once(["nothing-like-it-0"], recorded) == 2  # nothing is known of it


def test_how_far_runs_are_is_read_from_their_folders(tmp_path):
    assert trained.share_done(tmp_path / "a") == 0
    shutil.copytree(pl.data_dir() / "runs" / "rloo-0", tmp_path / "a.partial")
    lines = (tmp_path / "a.partial" / "metrics.jsonl").read_text().splitlines(keepends=True)
    for kept, share in ((0, 0.0), (26, 0.25), (len(lines), 1.0)):  # the first line is step 0, of 100
        (tmp_path / "a.partial" / "metrics.jsonl").write_text("".join(lines[:kept]))
        assert trained.share_done(tmp_path / "a") == share
    (tmp_path / "a.partial").rename(tmp_path / "a")
    assert trained.share_done(tmp_path / "a") == 1


def test_flags_of_the_recorded_runs_are_those_that_made_them():
    """Each run's config follows from the flags in the table, but for what a machine decides."""
    from poise_lab.cli import _parser
    from poise_lab.flags import named_values

    recorded = {"runs": trained.RUNS, "runs-smollm2": smollm2.RUNS, "engines": trained.ENGINES, "pairs": pairs.RUNS}
    for folder, runs in recorded.items():
        for name, flags in runs.items():
            args = _parser().parse_args(["train", *flags.split(), "--out", "x"])
            config = pl.read_run(pl.data_dir() / folder / name).config
            assert config["baseline"]["name"] == args.baseline and config["policy"] == args.policy
            assert all(config["train"][key] == getattr(args, key) for key in config["train"])
            for key, value in named_values("--set", args.settings).items():
                assert config["baseline"][key] == value
            for key, value in named_values("--task-set", args.task_settings).items():
                assert config["task_settings"][key] == value
            assert (config.get("engine") or "lab") == args.engine


def test_pairs_are_read_before_and_after_training(tmp_path, monkeypatch, bundled):
    for name, count in (("FITTED", 12), ("ASKED", 6), ("SHOWN", 3)):
        monkeypatch.setattr(pairs, name, count)
    config = pl.TrainConfig(steps=1, prompts=24, eval_prompts=20, eval_responses=2, learning_rate=1e-3)
    policy, task = pl.load_policy("thinker"), pl.load_task(pl.TINY_TASKS)
    pl.Trainer(policy, task, pl.make_baseline("none"), config, out=tmp_path / "run", progress=False).run()
    pairs.read(tmp_path / "run")
    before, after = (view := recorded_pairs(tmp_path / "run" / "pairs.json")).readings.values()
    assert list(view.readings) == ["before training", "after 1 steps"] and len(before) == len(after) == 3
    problems = task.sample(20, step_seed(config.seed, 0, "held-out"))[12:18]
    sampled = pl.sample_rollouts(bundled, problems, 2, seed=config.seed, max_new_tokens=config.max_new_tokens)
    for shown in before:
        written = ["".join(response.pieces) for response in shown.responses]
        ids = [sampled.response_ids[shown.index, j, : sampled.lengths[shown.index, j]] for j in (0, 1)]
        assert written == [bundled.tokenizer.decode(one) for one in ids]
        assert set(shown.responses[0].measures) == {"entropy", "log p", "value", "pull"} and shown.source == "value"
    measured = [[one.measures for shown in reading for one in shown.responses] for reading in (before, after)]
    assert measured[0] != measured[1], "the update changed nothing"


def test_held_out_problems_of_a_run_are_those_of_its_task_s_settings(tmp_path, monkeypatch):
    task = pl.load_task("chain_sum", min_terms=4, max_terms=4)
    config = pl.TrainConfig(seed=3, eval_prompts=5, layer=1)
    trainer = pl.Trainer(tiny_policy(), task, pl.make_baseline("rloo"), config, out=tmp_path / "r", progress=False)
    monkeypatch.setattr(arena, "load_policy", lambda run: None)
    _, problems, config = arena.finished(tmp_path / "r")
    assert [p.question for p in problems] == [p.question for p in trainer.held_out]
    assert all(p.question.count("+") + p.question.count("-") >= 3 for p in problems) and config.eval_responses == 16


def test_held_out_problems_of_a_recorded_run_are_those_that_it_was_evaluated_on():
    run = pl.data_dir() / "runs" / "poise-3"
    problems, kept = held_out_of(run)[2], samples_of(pl.read_run(run))[0]
    assert [problem.compact for problem in problems[: len(kept)]] == [sample["prompt"] for sample in kept]


def test_bad_names_and_places(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["nosuch"], "unknown study 'nosuch'; known: arena, cost, engines"),
        (["runs", "--policy", "thinker"], "study 'runs' takes no policy"),
        (["runs", "--out", str(tmp_path / "file")], "cannot be written: Not a directory"),
        (["runs", "--out", str(tmp_path / "file" / "below")], "cannot be written: Not a directory"),
    ):
        assert main(["study", *arguments]) == 2
        out, err = capsys.readouterr()
        assert message in err and err.count("\n") == 1 and out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_a_file_goes_is_tried_before(tmp_path):
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "new" / "deep" / "x.html", "report", file=True)
    check_writable(tmp_path / "there", "folder")
    with pytest.raises(pl.PoiseLabError, match="report .*there cannot be written: Is a directory"):
        check_writable(tmp_path / "there", "report", file=True)
    with pytest.raises(pl.PoiseLabError, match="cannot be written"):
        check_writable("/proc/nothing/x", "folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_tables_of_the_results_are_those_of_their_studies(tmp_path):
    """`poise-lab study` puts them there; with the recorded data it changes nothing."""
    text = (pl.data_dir().parent / "notebooks" / "RESULTS.md").read_text(encoding="utf-8")
    quoting = {name: study for name, study in catalogue.STUDIES.items() if study.mark}
    assert {study.mark for study in quoting.values()} == set(re.findall(r"<!-- (\w+) -->", text))
    for study in quoting.values():
        (tmp_path / "RESULTS.md").write_text(text, encoding="utf-8")
        catalogue.refresh(tmp_path / "RESULTS.md", study.mark, study.says(pl.data_dir() / study.folder))
        assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "text", ["a\nb\n", "a\n<!-- x -->\nold\n", "a\n<!-- /x -->\n<!-- x -->\nb\n", "<!-- x -->\n<!-- /x -->\n" * 2]
)
def test_a_page_without_both_marks_is_left_as_it_is(tmp_path, text):
    page = tmp_path / "RESULTS.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(pl.PoiseLabError, match="RESULTS.md must hold the lines <!-- x --> and <!-- /x --> once each"):
        catalogue.refresh(page, "x", "new")
    assert page.read_text(encoding="utf-8") == text
    page.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n", encoding="utf-8")
    catalogue.refresh(page, "x", "new")
    assert page.read_text(encoding="utf-8") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"


def test_only_whole_methods_of_smollm2_are_compared(tmp_path):
    """What is asked of a pair waits for every seed of both; the differences are seed by seed, at two looks."""
    for seed in trained.SEEDS:
        for name, behind in (
            ("none", (0.01 * (seed + 1), 0.0)),
            ("poise", (0.0, 0.01 * (seed + 1))),
            ("rloo", (0.1, 0.1)),
        ):
            if (name, seed) != ("rloo", 3):
                folder = tmp_path / f"{name}-{seed}"
                shutil.copytree(pl.data_dir() / "runs-smollm2" / f"grpo-{seed}", folder)
                lines = [
                    json.dumps({"step": step, "tokens": step, "seconds": step, "accuracy": 0.4 + seed / 10 - less})
                    for step, less in ((0, 0.2), (10, behind[0]), (20, 0.3), (30, behind[1]))
                ]
                (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert list(smollm2.recorded(tmp_path)) == ["poise x2", "none x1"]
    (row,) = smollm2.asked(tmp_path)
    half = 2.776445 * 0.0158114 / 5**0.5  # t of four degrees of freedom times the standard error of 0.01 to 0.05
    assert row["difference"] == "poise x2 minus none x1"
    assert row["after 10 steps"] == pytest.approx((0.03, 0.03 - half, 0.03 + half, True), abs=1e-5)
    assert row["after 30 steps"] == pytest.approx((-0.03, -0.03 - half, -0.03 + half, True), abs=1e-5)
