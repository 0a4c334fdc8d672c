"""Settings from a file, a run repeated from its own config.json, and where else its metrics go."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import sys
import types
import warnings
from pathlib import Path

import pytest

import poise_lab as pl
from poise_lab.cli import _parser, main
from poise_lab.flags import Parser, add_speech_flags, named_values, read_config, with_config
from poise_lab.logs import Log

SMALL = "--prompts 4 --minibatches 2 --eval-prompts 4 --eval-responses 2 --max-new-tokens 12 --eval-every 1".split()
ROWS = [
    {"q": f"{a}+{b}=", "answer": a + b, "split": "test" if b == 9 else "train"} for a in range(9) for b in range(1, 10)
]


def train(out, *flags) -> int:
    return main(["train", "--quiet", "--out", str(out), *map(str, flags)])


def figures(run) -> list[dict]:
    """The metrics without what a clock or a meter says."""
    return [{k: v for k, v in m.items() if "second" not in k and "memory" not in k} for m in pl.read_run(run).metrics]


def test_a_runs_own_config_repeats_it(tmp_path, capfd):
    """Bit for bit, with all that it was told: task from a file, a split, a column, the probe, how the policy is spoken to."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    told = ["--task", questions, "--task-set", "verify=number", "--task-set", "question=q", "--task-set", "split=train",
            "--set", "probe=paper", "--set", "warmup=1", "--system", "add:", "--seed", 3, "--steps", 3, *SMALL]  # fmt: skip
    assert train(tmp_path / "a", *told) == 0
    assert capfd.readouterr().err == ""  # no bar
    assert train(tmp_path / "b", "--config", tmp_path / "a" / "config.json") == 0
    assert pl.read_run(tmp_path / "b").config == pl.read_run(tmp_path / "a").config
    assert figures(tmp_path / "b") == figures(tmp_path / "a")
    questions.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:-9]))
    assert train(tmp_path / "c", "--config", tmp_path / "a" / "config.json") == 2
    assert "has other questions or answers than it had" in capfd.readouterr().err


def paid_by_length(response, record) -> float:
    return len(response) % 2


def config_of_run(path, task) -> Path:
    """As a run writes it, as far as its questions go."""
    made = {"versions": {}, "policy": "thinker", "task": task.name, "task_settings": task.settings}
    path.write_text(json.dumps({**made, **({"task_file": task.file} if task.file else {})}))
    return path


def test_a_run_whose_questions_came_from_python_asks_for_a_file(tmp_path, capfd):
    questions, scored = tmp_path / "q.jsonl", ["--task-set", "verify=rewards.py:score"]
    questions.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    by_list = config_of_run(tmp_path / "list.json", pl.load_task(ROWS, question="q", verify="number"))
    by_function = config_of_run(tmp_path / "function.json", pl.load_task(ROWS, question="q", verify=paid_by_length))
    from_file = config_of_run(tmp_path / "file.json", pl.load_task(questions, question="q", verify=paid_by_length))
    from_python = (
        "the run's questions came from Python, not from a file; give --task FILE, with --task-set for its settings"
    )
    for config, flags, says in (
        (by_list, [], f"{from_python}\n"),
        (by_list, scored, from_python),
        (by_function, [], f"{from_python} and --task-set verify=FILE.py:NAME for paid_by_length\n"),
        (
            from_file,
            [],
            "the run's verifier 'paid_by_length' came from Python, not from a file; give --task-set verify=",
        ),
        (from_file, ["--task", questions], "the run's verifier 'paid_by_length' came from Python"),
    ):
        assert train(tmp_path / "r", "--config", config, *flags) == 2
        err = capfd.readouterr().err
        assert err.startswith(f"poise-lab: {config}: {says}") and err.count("\n") == 1, err
    for config, flags in ((by_list, ["--task", str(questions)]), (from_file, scored)):
        argv, parser = ["train", "--out", "x", "--config", str(config), *flags], _parser()
        read = with_config(parser, argv, parser.parse_args(argv))
        assert read.task == str(questions)
    assert named_values("--task-set", read.task_settings)["verify"] == "rewards.py:score"


def test_flags_win_over_the_file_and_what_belongs_to_another_is_left_out(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        'task = "chain_sum"\nsteps = 1\n[task_settings]\nmax_terms = 3\n[baseline]\nname = "poise"\nresponses = 4\nwarmup = 9\n'
        "[train]\nprompts = 4\nminibatches = 1\neval_prompts = 2\neval_responses = 1\nmax_new_tokens = 8\n"
    )
    assert train(tmp_path / "a", "--config", config, "--set", "responses=3", "--prompts", 2) == 0
    made = pl.read_run(tmp_path / "a").config
    assert made["baseline"]["responses"] == 3 and made["baseline"]["warmup"] == 9
    assert made["train"]["prompts"] == 2 and made["train"]["eval_prompts"] == 2 and made["train"]["steps"] == 1
    assert made["task_settings"]["max_terms"] == 3
    assert train(tmp_path / "b", "--config", config, "--baseline", "rloo", "--task", "gcd") == 0
    made = pl.read_run(tmp_path / "b").config
    assert (
        made["baseline"] == {"name": "rloo", "responses": 2} and made["task"] == "gcd" and made["task_settings"] == {}
    )


def test_how_a_policy_is_spoken_to_belongs_to_it(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('policy = "smollm2-135m"\nsystem = "Be brief."\n')
    for flags, system in (([], "Be brief."), (["--policy", "thinker"], None)):
        argv, parser = ["train", "--out", "x", "--config", str(config), *flags], _parser()
        assert with_config(parser, argv, parser.parse_args(argv)).system == system


def test_the_guides_file_is_read(tmp_path):
    guide = (Path(__file__).parent.parent / "notebooks" / "GUIDE.md").read_text(encoding="utf-8")
    (tmp_path / "run.toml").write_text(guide.partition("```toml\n")[2].partition("```")[0])
    assert read_config(tmp_path / "run.toml") == {
        "policy": "thinker", "task": "questions.jsonl", "task_settings": [("verify", "number")], "baseline": "poise",
        "settings": [("responses", 2), ("warmup", 1)], "steps": 4, "template_args": [],
    }  # fmt: skip


def test_a_run_on_trl_can_be_repeated_too():
    values = read_config(pl.data_dir() / "engines" / "trl-0" / "config.json")
    assert values["engine"] == "trl" and values["baseline"] == "poise"
    assert not {"layer", "pool"} & dict(values["settings"]).keys()  # of TRL's trainer, no settings of the baseline


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("a.json", '{"stpes": 3}', "unknown setting in .*a.json 'stpes'; known: .*steps"),
        ("a.toml", "steps = ", "a.toml is no TOML"),
        ("a.json", "{", "a.json is no JSON"),
        ("a.json", "[1]", "must hold the settings of a run by name"),
        ("a.json", '{"baseline": {"responses": 2}}', "does not name its baseline"),
        ("a.json", '{"train": {"steps": 0}}', "steps=0; it must be a whole number, at least 1"),
        ("a.json", '{"train": 3}', "must hold the settings of a run by name"),
        ("a.json", '{"versions": {}, "policy": "thinker", "steps": 0}', "steps=0"),
        ("a.json", '{"engine": "TRL"}', "unknown engine 'TRL'; known: lab, trl"),
        ("a.json", '{"baseline": 3}', "does not name its baseline"),
        ("a.json", '{"baseline": {"name": "poise", "probe": {"rigde": 1}}}', "no such probe: .*rigde"),
        ("a.json", '{"task_settings": [1]}', "task_settings must be settings by name"),
        ("a.json", '{"train": {"train": 3}}', "unknown setting in .*a.json 'train'"),
        ("a.toml", "policy = 5", "policy=5 is no name"),
        ("a.toml", 'baseline = {name = ["poise"]}', "does not name its baseline"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, capfd, name, text, says):
    (tmp_path / name).write_text(text)
    assert train(tmp_path / "r", "--config", tmp_path / name) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and re.search(says, err), err
    assert train(tmp_path / "r", "--config", tmp_path / "none.json") == 2
    assert "none.json cannot be read" in capfd.readouterr().err and not (tmp_path / "r").exists()


def test_compare_in_json(tmp_path, capfd):
    assert train(tmp_path / "a", "--baseline", "rloo", "--steps", 1, *SMALL) == 0
    capfd.readouterr()
    assert main(["compare", "--json", str(tmp_path / "a")]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert row["run"] == "rloo x2" and row["seeds"] == 1 and row["probe r"] == [None] * 3
    accuracy = pl.read_run(tmp_path / "a").series("accuracy")[1]
    assert row["accuracy at start"] == [accuracy[0], None, None] and row["lift"][0] == accuracy[1] - accuracy[0]


def test_a_missing_library_is_one_sentence_at_once(tmp_path, capfd, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else found(name, *a))
    monkeypatch.setattr(pl, "load_policy", lambda *a, **k: pytest.fail("too late"))
    assert train(tmp_path / "r", "--log", "wandb") == 2
    assert capfd.readouterr().err == "poise-lab: the log 'wandb' needs the library of that name: pip install wandb\n"


@pytest.mark.parametrize(
    ("name", "mode", "resume"), [("trackio", None, "allow"), ("wandb", None, None), ("wandb", "online", "allow")]
)
def test_a_tracker_gets_settings_and_every_step(tmp_path, monkeypatch, name, mode, resume):
    """With a stand-in that has the three calls of both libraries."""
    told = []
    stand_in = types.ModuleType(name)
    stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
    stand_in.init = lambda **how: told.append(("init", how))
    stand_in.log = lambda figures, step: told.append((step, figures))
    stand_in.finish = lambda: told.append("end")
    monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    assert train(tmp_path / "r", "--log", name, "--steps", 2, *SMALL) == 0
    (_, how), *steps, end = told
    assert how["name"] == "r" and how["config"] == pl.read_run(tmp_path / "r").config and end == "end"
    assert [step for step, _ in steps] == [0, 1, 2]
    assert [{"step": step, **values} for step, values in steps] == pl.read_run(tmp_path / "r").metrics
    assert how.get("mode") == (mode or {"wandb": "offline"}.get(name)) and os.environ.get("WANDB_MODE") == mode
    assert how.get("resume") == resume  # wandb would warn offline, where it cannot


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log("tensorboard", tmp_path)
    for step, reward in enumerate((0.25, 0.5)):
        log({"step": step, "reward": reward})
    log.close()
    events = EventAccumulator(str(tmp_path / "logs")).Reload().Scalars("reward")
    assert [(event.step, event.value) for event in events] == [(0, 0.25), (1, 0.5)]


def test_words_of_flags():
    """JSON's words are Python's values, and what a policy reads has lines; a file's name is left alone."""
    told = named_values(
        "--set", ["think=false", "per_task=true", "x=null", r"prompt={question}\nIn \boxed{}.", r"verify=a\new.py:f"]
    )
    assert told == {
        "think": False,
        "per_task": True,
        "x": None,
        "prompt": "{question}\nIn \\boxed{}.",
        "verify": r"a\new.py:f",
    }
    parser = Parser()
    add_speech_flags(parser)
    found = parser.parse_args(["--template", r"User: {question}\nAssistant:", "--system", r"Be brief.\nBe right."])
    assert (found.template, found.system) == ("User: {question}\nAssistant:", "Be brief.\nBe right.")
    assert parser.parse_args(["--template", r"a\new.txt"]).template == r"a\new.txt"
    assert named_values("--task-set", [r"prompt=Is $a \neq b$?\n\nAnswer\nyes or no."]) == {
        "prompt": "Is $a \\neq b$?\n\nAnswer\nyes or no."
    }


def test_sample_shows_the_problems_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text("".join(json.dumps(row | {"split": "all"}) + "\n" for row in ROWS), encoding="utf-8")
    flags = ["--task", "q.jsonl", "--task-set", "question=q", "--task-set", r"prompt={q} \nIn words:"]
    assert train("runs/own", *flags, "--baseline", "none", "--steps", 1, *SMALL) == 0
    capsys.readouterr()
    shown = ["--problems", "1", "--responses", "1", "--max-new-tokens", "4"]
    assert main(["sample", "runs/own", *shown]) == 0
    assert re.search(r"prompt    '\d\+\d= \\nIn words:'", capsys.readouterr().out)
    assert main(["sample", "runs/own", "--task", "chain_sum", *shown]) == 0
    assert "In words" not in capsys.readouterr().out
    task = pl.load_task(ROWS, question="q")
    config = pl.TrainConfig(steps=1, prompts=4, eval_prompts=4, eval_responses=2, max_new_tokens=12)
    pl.Trainer(pl.load_policy("thinker"), task, pl.make_baseline("none"), config, out="runs/here", progress=False).run()
    with pytest.warns(UserWarning, match="the task of runs/here came from Python"):
        assert main(["sample", "runs/here", *shown]) == 0
    with open("q.jsonl", "a", encoding="utf-8") as f:  # a look takes what is there now
        f.write(json.dumps({"q": "9+9=", "answer": 18}) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["sample", "runs/own", *shown]) == 0
    Path("q.jsonl").rename("moved.jsonl")
    with pytest.warns(
        UserWarning, match="the task of runs/own cannot be had from here: there is no file q.jsonl; these are"
    ):
        assert main(["sample", "runs/own", *shown]) == 0


def test_a_run_folder_that_is_not_there(tmp_path, monkeypatch, capsys):
    """No network is asked for a name in a folder that is here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "poise-0").mkdir(parents=True)
    (tmp_path / "mine" / "poise-0" / "config.json").write_text("{}")
    assert main(["sample", "mine/poise-O"]) == 2
    assert capsys.readouterr().err == "poise-lab: there is no folder mine/poise-O; did you mean mine/poise-0?\n"
    assert main(["sample", "runs/nothing"]) == 2
    assert capsys.readouterr().err == "poise-lab: there is no folder runs/nothing\n"


def test_a_stopped_run_whose_beginning_is_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pl.load_policy("thinker").save("my-policy")
    assert train("r", "--policy", "my-policy", "--baseline", "none", "--steps", 1, *SMALL) == 0
    shutil.rmtree("r/policy")
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "r"), str(tmp_path / "out")]) == 2
    assert (
        "r began from the policy 'my-policy', which is not found from here; go to where it was begun"
        in capsys.readouterr().err
    )
