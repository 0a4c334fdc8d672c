"""The command line: bad input is one sentence on stderr and exit status 2, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError
from support import ToyTask, tiny_policy
from transformers import AutoModelForCausalLM

import poise_lab as pl
from poise_lab import checkpoints, cli, trainer
from poise_lab.cli import main
from poise_lab.flags import field_docs, named_values
from poise_lab.runs import compare, format_table
from poise_lab.studies import bench

SMALL = dict(
    prompts=6, minibatches=2, max_new_tokens=6, layer=1, pool=2, eval_every=1, eval_prompts=5,
    eval_responses=3, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three small finished runs: POISE with two seeds, RLOO with one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("poise", 0), ("poise", 1), ("rloo", 0)):
        settings = dict(warmup=1) if name == "poise" else {}
        baseline = pl.make_baseline(name, **settings)
        config = pl.TrainConfig(**SMALL, steps=3, seed=seed)
        out = folder / f"{name}-{seed}"
        pl.Trainer(tiny_policy(), ToyTask(), baseline, config, out=out, progress=False).run()
    return folder


@pytest.fixture
def random_policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "random"
    tiny_policy().save(folder)
    return folder


# --- bad input -----------------------------------------------------------------------------------


def contents(folder: Path) -> dict:
    return {f: f.read_bytes() if f.is_file() else None for f in sorted(folder.rglob("*"))}


def refused(capfd, folder: Path, *argv) -> str:
    """Run a command that must be refused; returns its message. Nothing below the folder may change."""
    before = contents(folder)
    capfd.readouterr()
    assert main([str(a) for a in argv]) == 2
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("poise-lab: ") and "Traceback" not in err, err
    assert out == ""
    assert contents(folder) == before
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "nosuch"], "unknown task 'nosuch'; known: .*chain_sum"),
        (["--task", "chain_sum+nosuch"], "unknown task 'nosuch'; known: .*chain_sum"),
        (["--policy", "nosuch"], "unknown policy 'nosuch'; known: thinker"),
        (["--policy", "/no/such/folder"], "unknown policy"),
        (["--baseline", "nosuch"], "unknown baseline 'nosuch'; known: .*poise, .*rloo"),
        (["--set", "responses=1"], "needs at least 2 responses per prompt, got responses=1"),
        (["--set", "colour=red"], "unknown setting of baseline 'poise' 'colour'"),
        (["--set", "responses=two"], "responses='two'; it must be a whole number"),
        (["--set", "buffer_rows=0"], "buffer_rows=0; it must be a whole number, at least 1"),
        (["--set", "probe=mine"], "unknown probe preset 'mine'; known: paper, release"),
        (["--set", "responses"], "--set 'responses': write NAME=VALUE"),
        (["--task", "chain_sum", "--task-set", "max_terms"], "--task-set 'max_terms': write NAME=VALUE"),
        (["--task", "chain_sum", "--task-set", "colour=3"], "unknown setting of task 'chain_sum' 'colour'; known"),
        (["--task-set", "max_terms=3"], "a mixture of tasks takes no settings"),
        (["--wording", "latin"], "unknown wording 'latin'; known: compact, line, question"),
        (["--shots", "-1"], "shots=-1; show 0 or more"),
        (["--prompts", "0"], "prompts=0; it must be a whole number, at least 1"),
        (["--eval-prompts", "0"], "eval_prompts=0; it must be a whole number, at least 1"),
        (["--steps", "0"], "steps=0"),
        (["--aggregation", "sum"], "unknown aggregation 'sum'"),
        (["--learning-rate", "nan"], "learning_rate=nan; it must be a number above 0"),
        (["--max-grad-norm", "0"], "max_grad_norm=0.0; it must be a number above 0"),
        (["--clip-low", "1.5"], "clip_low=1.5; it must be a number above 0 and below 1"),
        (["--layer", "-1"], "layer=-1; it must be a whole number, at least 0"),
        (["--max-new-tokens", "999"], "longer than the context of 256 tokens"),
        (["--layer", "9"], "has layers 0 to 3"),
        (["--resume"], "nothing to resume"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_settings_of_train(capfd, tmp_path, flags, message):
    assert re.search(message, refused(capfd, tmp_path, "train", "--out", tmp_path / "r", *flags))


@pytest.mark.parametrize("value", ["{[]: 1}", "{x}", "(" * 300, "02"])
def test_what_is_no_value_of_python_is_a_text(value):
    assert named_values("--task-set", [f"prompt={value}"]) == {"prompt": value}


def test_policy_folders(capfd, tmp_path, random_policy):
    out = tmp_path / "r"
    message = refused(capfd, tmp_path, "train", "--out", out, "--policy", tmp_path)
    assert "holds no model: config.json is missing" in message
    weights = random_policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "could not be loaded" in refused(capfd, tmp_path, "train", "--out", out, "--policy", random_policy)
    weights.unlink()
    assert "no .safetensors" in refused(capfd, tmp_path, "train", "--out", out, "--policy", random_policy)


def test_policy_without_an_end_token(capfd, tmp_path, random_policy):
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        config = json.loads((random_policy / name).read_text())
        for key in ("eos_token_id", "eos_token"):
            config.pop(key, None)
        (random_policy / name).write_text(json.dumps(config))
    message = refused(capfd, tmp_path, "train", "--out", tmp_path / "r", "--policy", random_policy)
    assert "has no end-of-sequence token" in message


def test_policy_without_a_pad_token_trains(capfd, tmp_path, random_policy):
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        config = json.loads((random_policy / name).read_text())
        config.pop("pad_token", None)
        config.pop("pad_token_id", None)
        (random_policy / name).write_text(json.dumps(config))
    assert pl.load_policy(random_policy).tokenizer.pad_token is None
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 1}.items()]
    assert main(["train", "--out", str(tmp_path / "r"), "--policy", str(random_policy), *flags]) == 0
    assert pl.read_run(tmp_path / "r").finished
    assert capfd.readouterr().out.startswith("held-out accuracy 0.000 -> 0.000")


def test_run_folders(capfd, tmp_path, runs):
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    for out, message in (
        (tmp_path / "file" / "run", "cannot be written"),
        (tmp_path / "file", "is in use already"),
        (tmp_path / "used", "is in use already"),
    ):
        assert message in refused(capfd, tmp_path, "train", "--out", out)
    other = refused(capfd, runs, "train", "--out", runs / "poise-0", "--resume", "--task", "gcd", "--policy", "thinker")
    assert "belongs to another run: " in other
    assert "is in use already" in refused(capfd, runs, "train", "--out", runs / "poise-0")


def test_truncated_checkpoint(capfd, tmp_path, random_policy):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 1}.items()]
    command = ["train", "--out", tmp_path / "r", "--policy", random_policy, *flags]
    assert main(list(map(str, command))) == 0
    weights = tmp_path / "r" / "checkpoints" / "step-000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    message = refused(capfd, tmp_path, *command, "--resume")
    assert "checkpoint " in message and "step-000001 is damaged" in message


def test_compare_and_report_of_what_is_no_run(capfd, tmp_path, runs):
    assert "is no run folder" in refused(capfd, tmp_path, "compare", runs / "poise-0", tmp_path)
    assert "is no run folder" in refused(capfd, tmp_path, "report", tmp_path / "none", "-o", tmp_path / "x.html")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_bytes((runs / "poise-0" / "config.json").read_bytes())
    assert "has no finished step yet" in refused(capfd, tmp_path, "compare", tmp_path / "new")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"train": ')
    assert "is no run folder" in refused(capfd, tmp_path, "compare", tmp_path / "broken")
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "x.html", tmp_path / "new"):
        assert "cannot be written" in refused(capfd, tmp_path, "report", runs / "poise-0", "-o", target)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["compare"], "required: RUN"),
        (["train", "--lr", "1e-3", "--out", "r"], "unknown flag --lr; did you mean --learning-rate?"),
        (["train", "--eval-prompt=3", "--stesp", "3", "--out", "r"], "unknown flag --stesp; did you mean --steps?"),
        (["report", "r", "-o", "x", "--colour=red"], "unknown flag --colour=red (see poise-lab report --help)"),
        (["train", "--steps", "many", "--out", "r"], "argument --steps: invalid int value: 'many'"),
        (["train"], "required: --out"),
        (["train", "--out", "r", "poise"], "unexpected argument poise (see poise-lab train --help)"),
        (["export", "r", "out", "more"], "unexpected argument more (see poise-lab export --help)"),
        (["compare", "r", "--jsn", "r"], "unknown flag --jsn; did you mean --json?"),
        ([], "required: COMMAND"),
        (["nosuch"], "invalid choice: 'nosuch'"),
    ],
)
def test_bad_flags_get_one_sentence(capfd, command, message):
    with pytest.raises(SystemExit) as stopped:
        main(command)
    err = capfd.readouterr().err
    assert stopped.value.code == 2 and message in err
    assert err.startswith("poise-lab: ") and err.count("\n") == 1


def test_pretrain_and_bench(capfd, tmp_path):
    (tmp_path / "used").write_text("")
    assert "is in use already" in refused(capfd, tmp_path, "pretrain", "--out", tmp_path)
    assert "steps=0" in refused(capfd, tmp_path, "pretrain", "--out", tmp_path / "p", "--steps", "0")
    message = refused(capfd, tmp_path, "pretrain", "--out", tmp_path / "used" / "p")  # at once, not after half an hour
    assert "cannot be written: Not a directory" in message
    assert "unknown part of the benchmark 'nosuch'" in refused(capfd, tmp_path, "bench", "nosuch")


def test_the_help_of_bench_names_its_parts(capsys, monkeypatch):
    monkeypatch.setitem(bench.PARTS, "another", list)
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    said = capsys.readouterr().out
    assert "rollouts" in said and "another" in said


def test_version_and_module(capfd):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capfd.readouterr().out == f"poise-lab {pl.__version__}\n"
    command = [sys.executable, "-m", "poise_lab", "train", "--stepps", "3", "--out", "r"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "poise-lab: unknown flag --stepps; did you mean --steps?" in result.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_runs_are_read(capfd, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capfd, tmp_path, "report", tmp_path / "none", "-o", tmp_path / "file" / "x")


def test_as_a_process(tmp_path):
    """Exit status, stderr and the console script, as a shell sees them."""
    script = Path(sys.executable).parent / "poise-lab"
    command = [str(script), "train", "--task", "nosuch", "--out", str(tmp_path / "r")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.startswith("poise-lab: unknown task 'nosuch'") and result.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_warning_is_one_line(tmp_path, random_policy):
    saved = json.loads((random_policy / "poise_lab.json").read_text())
    (random_policy / "poise_lab.json").write_text(json.dumps({**saved, "wording": "question"}))
    script = Path(sys.executable).parent / "poise-lab"
    command = [str(script), "train", "--policy", str(random_policy), "--out", str(tmp_path / "r")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    warning, error = [line for line in result.stderr.splitlines() if line.startswith("poise-lab: ")]
    assert f"policy '{random_policy}' has no chat template" in warning and "longer than the context" in error
    assert "UserWarning" not in result.stderr and "warnings.warn" not in result.stderr


def test_what_other_libraries_will_drop_is_not_shown(monkeypatch, recwarn):
    def warn(args):
        warnings.warn("this name will be removed in v6", FutureWarning, stacklevel=1)
        warnings.warn("this is for the user", UserWarning, stacklevel=1)

    monkeypatch.setattr(cli, "_parser", lambda: SimpleNamespace(parse_args=lambda argv: SimpleNamespace(run=warn)))
    assert main([]) == 0
    assert [str(w.message) for w in recwarn] == ["this is for the user"]


@pytest.mark.parametrize("reward", [0.0, 0.1, 0.5, 1.0])
def test_every_reward_equal(capfd, tmp_path, random_policy, monkeypatch, reward):
    """A sentence instead of steps that teach nothing; what was done is kept and can be gone on with."""
    monkeypatch.setattr(pl.Problem, "reward", lambda self, text: reward)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 6}.items()]
    command = ["train", "--task", "chain_sum", "--policy", str(random_policy), "--out", str(tmp_path / "r"), *flags]
    assert main(command) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert f"poise-lab: every response to task 'chain_sum' has the reward {reward:g}" in last and "in 3 steps" in last
    advice = (
        "choose easier or harder settings"
        if reward in (0, 1)
        else "; give a reward that is higher for better responses"
    )
    assert advice in last and ("what counts is" in last) == (reward == 0)
    assert [m["step"] for m in pl.read_run(tmp_path / "r").metrics] == [0, 1, 2, 3]
    assert main([*command, "--resume"]) == 0
    assert pl.read_run(tmp_path / "r").finished


def test_a_reward_that_was_different_once_is_something_to_learn_from(capfd, tmp_path, random_policy, monkeypatch):
    texts = []
    monkeypatch.setattr(pl.Problem, "reward", lambda self, text: float(texts.append(text) or len(texts) == 51))
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 4}.items()]
    command = ["train", "--task", "chain_sum", "--policy", str(random_policy), "--out", str(tmp_path / "r"), *flags]
    assert main(command) == 0 and len(texts) > 51


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["disk", "quota", "safetensors"])
@pytest.mark.parametrize("name", ["write_json", "save_file"])
def test_full_disk(capfd, tmp_path, random_policy, monkeypatch, error, name):
    def full(*args, **kwargs):
        raise error

    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 2}.items()]
    command = ["train", "--policy", str(random_policy), "--out", str(tmp_path / "r"), *flags]
    claim = trainer.claim_folder
    monkeypatch.setattr(
        trainer, "claim_folder", lambda *args: (claim(*args), monkeypatch.setattr(checkpoints, name, full))
    )
    assert main(command) == 2
    message = "poise-lab: the disk is full; make room and run the same command again with --resume"
    assert capfd.readouterr().err.splitlines()[-1] == message
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pl, "load_policy", broken)
    with pytest.raises(OSError, match="Input/output error"):
        main(["train", "--out", str(tmp_path / "r")])


@pytest.mark.parametrize("place", ["shared/policy", None])
def test_what_may_not_be_read_is_one_sentence(capfd, monkeypatch, tmp_path, place):
    def locked(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", place)

    monkeypatch.setattr(pl, "load_policy", locked)
    assert main(["train", "--out", str(tmp_path / "r")]) == 2
    said = f"poise-lab: {place or 'a file'} cannot be read or written: Permission denied; see whose it is\n"
    assert capfd.readouterr().err == said


def test_interrupt_outside_of_the_loop(capfd, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pl, "load_policy", interrupted)
    assert main(["train", "--out", str(tmp_path / "r")]) == 130
    assert capfd.readouterr().err == "poise-lab: interrupted\n"


def test_a_run_goes_on_as_it_was_begun_without_saying_its_settings_again(capfd, tmp_path, random_policy):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 1, "seed": 3}.items()]
    out = ["--out", str(tmp_path / "r")]
    assert main(["train", "--policy", str(random_policy), "--baseline", "rloo", *flags, *out]) == 0
    config = (tmp_path / "r" / "config.json").read_bytes()
    assert main(["train", *out, "--resume"]) == 0  # nothing is left to do
    assert (tmp_path / "r" / "config.json").read_bytes() == config and (tmp_path / "r" / "policy").is_dir()
    assert main(["train", *out, "--resume", "--steps", "2"]) == 0
    assert pl.read_run(tmp_path / "r").metrics[-1]["step"] == 2
    assert main(["train", *out, "--resume", "--seed", "4"]) == 2
    assert "belongs to another run: train.seed is 3 there and 4 here" in capfd.readouterr().err


def test_a_report_takes_the_place_of_no_other_file(capfd, tmp_path, runs):
    config = runs / "poise-0" / "config.json"
    before = config.read_bytes()
    assert "is there already and no report" in refused(capfd, runs, "report", runs / "poise-0", "-o", config)
    assert config.read_bytes() == before


# --- flags ---------------------------------------------------------------------------------------


def test_flags_are_the_fields_of_train_config():
    parser = cli._parser()
    args = vars(parser.parse_args(["train", "--out", "r"]))
    for field in dataclasses.fields(pl.TrainConfig):
        assert args[field.name] == field.default
        flag = "--" + field.name.replace("_", "-")
        other = "sequence_mean" if field.name == "aggregation" else field.default + 1
        parsed = vars(parser.parse_args(["train", "--out", "r", flag, str(other)]))
        assert parsed[field.name] == other and type(parsed[field.name]) is type(field.default)
        assert {k for k in args if args[k] != parsed[k]} == {field.name}
    flags = set(args) - {f.name for f in dataclasses.fields(pl.TrainConfig)}
    assert flags == {
        "policy", "task", "task_settings", "wording", "shots", "tags", "system", "template", "template_args",
        "baseline", "settings", "engine", "out", "resume", "config", "log", "quiet", "run", "parser",
    }  # fmt: skip


def test_every_field_is_documented(capsys):
    docs = field_docs(pl.TrainConfig)
    assert set(docs) == {f.name for f in dataclasses.fields(pl.TrainConfig)}
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(pl.TrainConfig):
        assert docs[field.name].endswith(".") and docs[field.name].split()[0] in text
        assert f"(default: {field.default})" in text


def test_flags_reach_the_run(tmp_path, random_policy, capfd):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 2, "seed": 5, "kl": 0.5}.items()]
    more = [
        "--set",
        "responses=3",
        "--set",
        "probe=paper",
        "--set",
        "per_task=True",
        "--task",
        "gcd+chain_sum",
    ]
    command = ["train", "--out", str(tmp_path / "r"), "--policy", str(random_policy), *flags, *more]
    assert main(command) == 0
    run = pl.read_run(tmp_path / "r")
    assert run.config["train"] == dataclasses.asdict(pl.TrainConfig(**SMALL, steps=2, seed=5, kl=0.5))
    assert run.config["task"] == "gcd+chain_sum"
    baseline = run.config["baseline"]
    assert (baseline["responses"], baseline["per_task"], baseline["probe"]["ridge"]) == (3, True, 0.01)
    assert str(run.folder) in capfd.readouterr().out


def test_task_settings_and_wording_reach_the_run(tmp_path, random_policy, capfd):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "steps": 1}.items()]
    more = ["--task", "chain_sum", "--task-set", "max_terms=2", "--wording", "line", "--shots", "1"]
    assert main(["train", "--out", str(tmp_path / "r"), "--policy", str(random_policy), *flags, *more]) == 0
    config = pl.read_run(tmp_path / "r").config
    assert (config["task_settings"]["max_terms"], config["wording"], config["shots"]) == (2, "line", 1)
    changed = [
        "train",
        "--out",
        str(tmp_path / "r"),
        "--policy",
        str(random_policy),
        *flags,
        *more[:-1],
        "2",
        "--resume",
    ]
    assert main(changed) == 2
    assert "shots is 1 there and 2 here" in capfd.readouterr().err


# --- compare -------------------------------------------------------------------------------------


def test_compare_prints_the_table(capfd, runs):
    folders = sorted(runs.iterdir())
    assert main(["compare", *map(str, folders)]) == 0
    out = capfd.readouterr().out
    assert out.strip() == format_table(compare([pl.read_run(f) for f in folders]))
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in out.strip().splitlines()]
    assert lines[0][:2] == ["run", "seeds"] and [row[:2] for row in lines[2:]] == [
        ["poise x2", "2"],
        ["rloo x2", "1"],
    ]
    assert lines[3][lines[0].index("probe r")] == "-"


def test_runs_may_stand_on_both_sides_of_a_flag(capfd, tmp_path, runs):
    one, other = runs / "poise-0", runs / "rloo-0"
    assert main(["compare", str(one), "--json", str(other)]) == 0
    assert [row["run"] for row in json.loads(capfd.readouterr().out)] == ["poise x2", "rloo x2"]
    assert main(["report", str(one), "-o", str(tmp_path / "x.html"), str(other)]) == 0
    assert "rloo x2" in (tmp_path / "x.html").read_text()
    assert main(["report", "-o", str(tmp_path / "y.html"), str(one), str(other)]) == 0


def test_compare_by_hand(tmp_path):
    """Means and t intervals of two made-up runs: lifts 0.1 and 0.3, t(0.975, 1) = 12.706."""
    for seed, lift in ((0, 0.1), (1, 0.3)):
        folder = tmp_path / f"poise-{seed}"
        folder.mkdir()
        config = {"baseline": {"name": "poise", "responses": 2}, "train": {"seed": seed, "steps": 1}}
        (folder / "config.json").write_text(json.dumps(config))
        metrics = [
            {"step": 0, "accuracy": 0.5, "tokens": 0, "seconds": 1.0},
            {"step": 1, "accuracy": 0.5 + lift, "tokens": 100, "seconds": 61.0, "variance_reduction": 0.25},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics) + '{"step": 2, "cut')
    (row,) = compare([pl.read_run(f) for f in sorted(tmp_path.iterdir())])
    assert row["run"] == "poise x2" and row["seeds"] == 2
    assert row["lift"] == pytest.approx((0.2, 0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)
    assert row["accuracy at end"][0] == pytest.approx(0.7)
    assert row["1 - Var(A)/Var(R)"] == pytest.approx((0.25, 0.25, 0.25))
    assert row["minutes"][0] == pytest.approx(61 / 60)
    assert "0.200 [-1.071, 1.471]" in format_table([row])


def test_mean_interval():
    assert pl.mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    mean, low, high = pl.mean_interval([0.5])
    assert mean == 0.5 and low != low and high != high


# --- report --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Every address that a browser would ask for, the plotly figures, and the text."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.tags, self.text, self.scripts = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "srcset", "data", "poster", "action", "background") and value:
                self.addresses.append((tag, value))

    def handle_data(self, data):
        (self.scripts if self.tags[-1:] == ["script"] else self.text).append(data)


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", *map(str, sorted(runs.iterdir())), "-o", str(path)]) == 0
    return path, path.read_text(encoding="utf-8")


def test_report_is_one_file_that_asks_for_nothing(page):
    path, html = page
    assert [f.name for f in path.parent.iterdir()] == ["report.html"]
    parsed = Page(html)
    assert {tag for tag, _ in parsed.addresses} == {"a"}
    assert all(address[0] == "#" and f"id='{address[1:]}'" in html for _, address in parsed.addresses)  # the contents
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(parsed.tags)
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.S))
    assert "@import" not in style and "url(" not in style
    ours = [s for s in parsed.scripts if len(s) < 1_000_000]  # all but plotly.js itself
    assert len(parsed.scripts) - len(ours) == 1, "plotly.js must be inside, once"
    text = "".join(ours)
    assert "fetch(" not in text and "XMLHttpRequest" not in text and "import(" not in text
    assert not re.search(r"https?://(?!plot\.ly\b)", text)  # plotly.py's own default of a link that is never drawn
    assert '"showSendToCloud": true' not in text


def test_report_shows_every_metric_with_axes_and_legends(page):
    _, html = page
    titles = re.findall(r"aria-label='Figure: ([^.']*)\.", html)
    for word in (
        "accuracy",
        "reward",
        "Variance",
        "probe",
        "entropy",
        "Gradient",
        "tokens",
        "memory",
        "time",
    ):
        assert any(word in title for title in titles), word
    assert len(re.findall("<figure data-figure", html)) == len(titles) == html.count("<figcaption>")
    boxes = re.findall(r"name='setting' value='(\d)' checked>.*?</svg>(.*?)</label>", html)
    assert sorted(boxes) == [("0", boxes[0][1]), ("1", boxes[1][1])] and {b for _, b in boxes} == {
        "poise x2",
        "rloo x2",
    }
    assert '"text":"step"' in html and "1 - Var(A)" in html.replace("\\u002f", "/")
    assert "name='viewport'" in html and "@media print" in html


def test_report_holds_the_table_and_what_made_the_runs(page, runs):
    text = " ".join(Page(page[1]).text)
    for f in runs.iterdir():
        assert f.name in text
    row = compare([pl.read_run(runs / "rloo-0")])[0]
    assert f"{row['lift'][0]:.3f}" in text and "learning_rate: 0.01" in text and "versions.torch:" in text


def test_report_escapes_names(tmp_path, runs):
    odd = tmp_path / "a<b>&c"
    odd.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (odd / name).write_bytes((runs / "poise-0" / name).read_bytes())
    assert main(["report", str(odd), "-o", str(tmp_path / "x.html")]) == 0
    html = (tmp_path / "x.html").read_text()
    assert "a<b>" not in html and "a&lt;b&gt;&amp;c" in html


def test_report_shows_what_the_policy_wrote_at_both_ends(tmp_path, runs):
    run = tmp_path / "poise-0"
    shutil.copytree(runs / "poise-0", run)

    def line(step, text, reward):
        sample = dict(task="sums", prompt="1+1=", greedy="<think>so</think>2", greedy_reward=1.0, sampled=[text, "<b>three"],
                      rewards=[reward, 0.0], value=0.625)  # fmt: skip
        return json.dumps({"step": step, "samples": [sample]}) + "\n"

    (run / "samples.jsonl").write_text(
        line(0, "first words", 0.0) + line(5, "in between", 0.0) + line(9, "last words", 1.0)
    )
    assert main(["report", str(run), "-o", str(tmp_path / "x.html")]) == 0
    html = (tmp_path / "x.html").read_text(encoding="utf-8")
    text = "".join(Page(html).text)
    assert "step 0" in text and "step 9" in text and "step 5" not in text
    assert "sums: 1+1= (rewarded 1 and 0 and 0, then 1 and 1 and 0)" in text and "value read from it 0.62" in text
    assert "first words" in text and "last words" in text and "in between" not in text
    assert "<b>three" not in html and "&lt;b&gt;three" in html and text.count("Response 1, greedy") == 2


def test_report_of_a_run_without_a_probe_or_of_step_0_only(tmp_path, runs):
    assert main(["report", str(runs / "rloo-0"), "-o", str(tmp_path / "x.html")]) == 0
    assert "Value probe against V(x)" not in (tmp_path / "x.html").read_text()
    short = tmp_path / "short"
    short.mkdir()
    (short / "config.json").write_bytes((runs / "poise-0" / "config.json").read_bytes())
    first = (runs / "poise-0" / "metrics.jsonl").read_text().splitlines()[0]
    (short / "metrics.jsonl").write_text(first + "\n")
    assert main(["report", str(short), str(runs / "poise-1"), "-o", str(tmp_path / "y.html")]) == 0


# --- the policy of a run ---------------------------------------------------------------------------


def test_the_policy_of_a_run_is_loaded_sampled_and_exported(tmp_path, random_policy, capfd):
    """A run folder is a policy: its weights as training left them, and the wording and shots that it was trained with."""
    policy, out = pl.load_policy(random_policy, wording="line", tags=("", "####")), tmp_path / "run"
    config = pl.TrainConfig(**SMALL, steps=2, weight_decay=0.0)
    pl.Trainer(policy, ToyTask(), pl.make_baseline("none"), config, out=out, progress=False).run()
    final = AutoModelForCausalLM.from_pretrained(out / "policy").state_dict()  # by transformers alone
    shutil.copytree(out, tmp_path / "unfinished", ignore=shutil.ignore_patterns("policy"))
    before = pl.load_policy(random_policy).model.state_dict()
    for folder in (out, tmp_path / "unfinished"):  # whose last checkpoint is taken
        trained = pl.load_policy(folder)
        assert (trained.name, trained.wording, list(trained.tags)) == (str(folder), "line", ["", "####"])
        for name, weights in trained.model.state_dict().items():
            assert weights.equal(policy.model.state_dict()[name]) and not weights.equal(before[name]), name
            assert weights.equal(final[name])

    assert main(["export", str(out), str(tmp_path / "exported")]) == 0
    exported = pl.load_policy(tmp_path / "exported")
    assert (exported.wording, list(exported.tags)) == ("line", ["", "####"])
    assert all(w.equal(policy.model.state_dict()[name]) for name, w in exported.model.state_dict().items())
    capfd.readouterr()
    texts = []
    for where in (out, tmp_path / "exported"):
        assert main(["sample", str(where), "--prompt", "3+4=", "--max-new-tokens", "5"]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1] and texts[0].startswith("prompt") and texts[0].count("response") == 2


def test_what_is_no_policy_of_a_run(capfd, tmp_path, runs, random_policy):
    """A policy in memory has no name that a file bears, so a run has it when it has finished; a model is no run."""
    assert main(["export", str(runs / "rloo-0"), str(tmp_path / "of-memory")]) == 0
    shutil.copytree(runs / "rloo-0", tmp_path / "unfinished", ignore=shutil.ignore_patterns("policy"))
    capfd.readouterr()
    assert "unknown policy" in refused(capfd, tmp_path, "export", tmp_path / "unfinished", tmp_path / "new")
    assert "metrics.jsonl is missing" in refused(capfd, tmp_path, "export", random_policy, tmp_path / "new")
    assert "in use already" in refused(capfd, random_policy, "export", runs / "rloo-0", random_policy)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert "holds no checkpoint" in refused(capfd, tmp_path, "sample", tmp_path / "run")


def test_tags_are_a_setting_of_a_run(tmp_path, capsys):
    """Where the reasoning ends is in config.json: a resume with others is refused, and compare tells runs apart by it."""
    small = "--steps 1 --prompts 4 --minibatches 1 --eval-prompts 2 --eval-responses 1 --max-new-tokens 8".split()
    out = {name: str(tmp_path / name) for name in ("shown", "given")}
    assert main(["train", *small, "--out", out["shown"]]) == 0
    assert main(["train", *small, "--out", out["given"], "--tags", "", "####"]) == 0
    assert pl.read_run(out["shown"]).config["tags"] == ["<think>", "</think>"]
    assert pl.read_run(out["given"]).config["tags"] == ["", "####"]
    capsys.readouterr()
    other = ["--tags", "<think>", "</think>"]
    assert main(["train", *small, "--out", out["given"], "--resume", *other]) == 2
    assert "tags is ['', '####'] there and ['<think>', '</think>'] here" in capsys.readouterr().err
    assert main(["compare", *out.values()]) == 0
    table = capsys.readouterr().out
    assert "tags ['', '####']" in table and "tags ['<think>', '</think>']" in table
    config = Path(out["shown"], "config.json")
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "tags"}))
    assert main(["train", *small, "--out", out["shown"], "--resume"]) == 0  # begun before there was such a setting
