"""The command line: `poise-lab train, compare, report, study, sample, export, fetch, check, pretrain, bench`.

Bad input ends with one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import warnings
from pathlib import Path

from .errors import PoiseLabError, exit_status
from .flags import (
    ENGINES,
    Command,
    Parser,
    add_config_flags,
    add_speech_flags,
    add_task_flags,
    named_values,
    spoken,
    task_of,
    with_config,
)


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    formatwarning, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return exit_status(lambda: _run(parser, argv, args), resumes=hasattr(args, "resume"))
    finally:
        warnings.formatwarning = formatwarning


def _run(parser: argparse.ArgumentParser, argv: list[str] | None, args: argparse.Namespace) -> int | None:
    with warnings.catch_warnings():
        # names that other libraries will drop are nothing that who runs a command can act on
        warnings.simplefilter("ignore", FutureWarning)
        if getattr(args, "resume", False) and not args.config and (args.out / "config.json").is_file():
            args.config = args.out / "config.json"  # what no flag says is as it was
        if getattr(args, "config", None):
            args = with_config(parser, argv, args)
        return args.run(args)


def _one_line(message, *where, **more) -> str:
    """A warning without the line of code that it came from."""
    return f"poise-lab: {' '.join(str(message).split())}\n"


def _parser() -> argparse.ArgumentParser:
    from . import __version__
    from .baselines import BASELINES
    from .logs import LOGS
    from .sources import BUNDLED, SOURCES
    from .studies.bench import PARTS

    known = ", ".join([*BUNDLED, *SOURCES])
    parser = Parser(prog="poise-lab", description="RL with value estimates from the actor's own states")
    parser.add_argument("--version", action="version", version=f"poise-lab {__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Command)

    def command(name, run, help):
        added = commands.add_parser(name, help=help)
        added.set_defaults(run=run, parser=added)
        return added

    train = command("train", _train, "train a policy with a baseline; writes a run folder")
    train.add_argument(
        "--policy", default="thinker", help=f"{known}, a folder, a run's folder, or a hub id (default: thinker)"
    )
    add_task_flags(train)
    add_speech_flags(train)
    train.add_argument("--baseline", default="poise", help=f"{', '.join(BASELINES)} (default: poise)")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="a setting of the baseline, such as responses=4 or per_task=True; repeatable",
    )  # fmt: skip
    train.add_argument(
        "--engine", default="lab", choices=ENGINES,
        help="lab: this package's own Trainer. trl: TRL and accelerate, for many processes (extra: scale)",
    )  # fmt: skip
    train.add_argument("--out", required=True, type=Path, help="run folder")
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in --out; what no flag says is as it was"
    )
    train.add_argument(
        "--config", type=Path, metavar="FILE",
        help="settings, JSON or TOML, laid out as config.json of a run, which repeats the run; flags win over it",
    )  # fmt: skip
    train.add_argument("--log", choices=LOGS, help="show the metrics in a tracker too, on this machine")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    add_config_flags(train)

    compare = command("compare", _compare, "table of runs, with intervals over seeds")
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    compare.add_argument(
        "--json", action="store_true", help="numbers in full, as [mean, low, high]; null where there is none"
    )

    report = command("report", _report, "one offline HTML file with the figures of runs")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    report.add_argument("-o", "--output", required=True, type=Path)

    study = command("study", _study, "make what is missing of a study's records; without a name, lists the studies")
    study.add_argument("name", nargs="?", metavar="NAME")
    study.add_argument("--out", type=Path, help="folder (default: that of the recorded data in a checkout)")
    study.add_argument("--policy", help="for the study real: one policy, by name, folder or hub id, instead of the two")

    sample = command("sample", _sample, "prompts, as the policy gets them, and its responses")
    sample.add_argument("policy", metavar="POLICY", help="thinker, a run folder, or whatever --policy of train takes")
    sample.add_argument("--prompt", help="a question of your own instead of a task's problems")
    add_task_flags(sample)
    add_speech_flags(sample)
    sample.add_argument("--problems", type=int, default=3, help="of the task (default: 3)")
    sample.add_argument("--responses", type=int, default=2, help="to each (default: 2)")
    sample.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    sample.add_argument("--max-new-tokens", type=int, default=64, help="longest response (default: 64)")
    sample.add_argument("--seed", type=int, default=0)

    export = command("export", _export, "write the policy of a run in transformers' format")
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("out", type=Path, metavar="DIR", help="folder to write, not in use yet")

    fetch = command("fetch", _fetch, "fetch a real language model into the cache, once")
    fetch.add_argument("name", help=", ".join(SOURCES))

    check = command("check", _check, "whether a model is sampled, scored and read as it computes by itself")
    check.add_argument("name", metavar="MODEL", help=f"{known}, a folder, or a hub id")

    pretrain = command("pretrain", _pretrain, "make the bundled policy from scratch: the skill, then the habit")
    pretrain.add_argument("--out", required=True, type=Path, help="folder to write, not in use yet")
    pretrain.add_argument("--steps", type=int, default=5000, help="of the first stage, the longest")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--width", type=int, default=128, help="of the hidden states; a multiple of 64")

    bench = command("bench", _bench, "speed of the library's parts, against references")
    bench.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    return parser


def _train(args) -> int:
    from . import TINY_TASKS, TrainConfig, Trainer, load_policy, load_task, make_baseline
    from .logs import Log, check_log

    if args.log:
        check_log(args.log)
    config = TrainConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig)})
    settings, task_settings = named_values("--set", args.settings), named_values("--task-set", args.task_settings)
    if args.engine == "trl":
        return _train_on_trl(args, config, settings, task_settings)
    baseline = make_baseline(args.baseline, **settings)
    task = load_task(args.task or TINY_TASKS, **task_settings)
    policy = load_policy(args.policy, **spoken(args))
    log = args.log and Log(args.log, args.out)
    trainer = Trainer(
        policy, task, baseline, config, out=args.out, resume=args.resume, on_step=log, progress=not args.quiet
    )
    try:
        run = trainer.run()
    finally:
        if log:
            log.close()
    if not run.finished:
        print("to go on: the same command with --resume")
        return 130
    print(
        f"held-out accuracy {run.series('accuracy')[1][0]:.3f} -> {run.series('accuracy')[1][-1]:.3f}; run folder {run.folder}"
    )
    return 0


def _train_on_trl(args, config, settings: dict, task_settings: dict) -> int:
    from . import TINY_TASKS
    from .trl.needed import check_trl

    check_trl()
    from .trl.launch import train

    run = train(
        config, policy=args.policy, task=args.task or TINY_TASKS, out=args.out, resume=args.resume,
        baseline=args.baseline, settings=settings, spoken=spoken(args), task_settings=task_settings, log=args.log,
        quiet=args.quiet,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)) == 0:
        accuracy = run.series("accuracy")[1]
        print(f"held-out accuracy {accuracy[0]:.3f} -> {accuracy[-1]:.3f}; run folder {run.folder}")
    return 0


def _compare(args) -> int:
    from .runs import compare, format_table, read_run, to_json

    rows = compare([read_run(folder) for folder in args.runs])
    print(to_json(rows) if args.json else format_table(rows))
    return 0


def _report(args) -> int:
    from .files import check_writable
    from .runs import read_run
    from .show.report import write_report

    check_writable(args.output, "report", file=True)
    if args.output.exists() and args.output.suffix.lower() not in (".html", ".htm"):
        raise PoiseLabError(f"{args.output} is there already and no report; give a name that ends with .html")
    write_report([read_run(folder) for folder in args.runs], args.output)
    print(f"report written to {args.output}")
    return 0


def _sample(args) -> int:
    from . import TINY_TASKS, load_policy, load_task, sample_rollouts

    policy = load_policy(args.policy, **spoken(args))
    if args.prompt is None:
        told = named_values("--task-set", args.task_settings)
        task = load_task(args.task or TINY_TASKS, **told) if args.task or told else task_of(args.policy)
        problems = task.sample(args.problems, args.seed)
    else:
        problems = load_task([{"question": args.prompt, "answer": "none is known"}]).sample(1, args.seed)
    rollouts = sample_rollouts(
        policy, problems, args.responses, seed=args.seed,
        temperature=args.temperature, max_new_tokens=args.max_new_tokens,
    )  # fmt: skip
    for i, problem in enumerate(problems):
        print(f"prompt    {policy.tokenizer.decode(policy.prompt_ids(problem))!r}")  # special tokens are seen
        for text, reward, ended in zip(rollouts.texts[i], rollouts.rewards[i], rollouts.finished[i], strict=True):
            what = f"reward {reward:.2g}" if args.prompt is None else "response"
            print(f"{what}  {text!r}{'' if ended else '  (cut off: --max-new-tokens)'}")
    return 0


def _export(args) -> int:
    from . import load_policy

    _check_new_folder(args.out)
    if not (args.folder / "metrics.jsonl").is_file():
        raise PoiseLabError(f"{args.folder} is no run folder: metrics.jsonl is missing")
    load_policy(args.folder).save(args.out)
    print(f"policy written to {args.out}; transformers and `--policy {args.out}` read it")
    return 0


def _check_new_folder(folder: Path) -> None:
    """Raises PoiseLabError unless a folder is new or empty, and can be written."""
    from .files import check_writable

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PoiseLabError(f"folder {folder} is in use already; choose another")
    check_writable(folder, "folder")


def _fetch(args) -> int:
    from .models.fetch import fetch

    fetch(args.name)
    return 0


def _check(args) -> int:
    from .policies import check_policy, load_policy
    from .runs import format_table

    policy = load_policy(args.name)
    rows = [
        {"against the model's own plain pass": row.what, "off by": f"{row.difference:.1e}", "at most": f"{row.bound:.0e}",
         "": "fits" if row.fits else "not taken"}
        for row in check_policy(policy)
    ]  # fmt: skip
    print(format_table(rows))
    return 0


def _study(args) -> int:
    from .studies.catalogue import STUDIES, run

    if args.name is None:
        for name, study in STUDIES.items():
            print(f"{name:9} {study.what}")
    else:
        run(args.name, args.out, args.policy)
    return 0


def _pretrain(args) -> int:
    from .models.thinker import make_thinker

    if args.steps < 1:
        raise PoiseLabError(f"steps={args.steps}; it must be at least 1")
    if args.width < 64 or args.width % 64:
        raise PoiseLabError(f"width={args.width}; it must be a multiple of 64")
    _check_new_folder(args.out)
    card = make_thinker(args.out, steps=args.steps, seed=args.seed, width=args.width)
    for task, row in card["performance"].items():
        print(task, {k: v for k, v in row.items() if not isinstance(v, dict)})
    return 0


def _bench(args) -> int:
    from .studies.bench import run_bench

    run_bench(args.part)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
