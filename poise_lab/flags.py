"""What the command line is made of: a parser that answers in one sentence, and flags that are read off TrainConfig."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import json
import re
import textwrap
import tomllib
import warnings
from pathlib import Path

from .config import TrainConfig
from .errors import PoiseLabError, unknown_name
from .policies import SPOKEN
from .probe import ValueProbe
from .runs import FOUND, SETTINGS
from .tasks import TINY_TASKS, load_task
from .tasks.answers import VERIFIERS
from .templates import TEMPLATE_FILES

ENGINES = ("lab", "trl")
# LaTeX's commands that begin with an n
LATEX = "abla|atural|e|earrow|eg|eq|ewline|exists|i|leq|geq|mid|ot|otin|parallel|prec|sim|subseteq|succ|u"
WORDS = {"true": "True", "false": "False", "null": "None"}  # as JSON and TOML write them


class Parser(argparse.ArgumentParser):
    """Says what was wrong in one sentence, without the usage lines; --help has them."""

    def error(self, message):
        self.exit(2, f"poise-lab: {message} (see {self.prog} --help)\n")

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown and not unknown[0].startswith("-"):
            found.parser.error(f"unexpected argument {unknown[0]}")
        if unknown:
            found.parser.error(f"unknown flag {unknown[0]}{did_you_mean(unknown[0], found.parser)}")
        return found


class Command(Parser):
    """The parser of one command: what it works on may stand on both sides of a flag, as in `compare RUN --json RUN`."""

    mixing = False

    def parse_known_args(self, args=None, namespace=None):
        if self.mixing:  # argparse's own passes
            return super().parse_known_args(args, namespace)
        self.mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixing = False


def did_you_mean(flag: str, parser: argparse.ArgumentParser) -> str:
    """The flag that is meant by initials (--lr) or by a slip of the hand (--leaning-rate), if there is one."""
    name = flag.split("=")[0]
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    initials = {"".join(word[0] for word in option[2:].split("-")): option for option in options}
    close = difflib.get_close_matches(name, options, 1)
    meant = initials.get(name.lstrip("-")) or (close[0] if close else "")
    return f"; did you mean {meant}?" if meant else ""


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of TrainConfig; its docstring is the help."""
    docs = field_docs(TrainConfig)
    group = parser.add_argument_group("settings of the run")
    for field in dataclasses.fields(TrainConfig):
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help=f"{docs[field.name]} (default: {field.default})".replace("%", "%%"),
        )


def add_task_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", default=None,
        help="a reasoning-gym task, several as a+b, or a file of questions (default: the bundled three)",
    )  # fmt: skip
    parser.add_argument(
        "--task-set", action="append", default=[], metavar="NAME=VALUE", dest="task_settings",
        help="a setting of the task, such as max_terms=3 or, of a file, verify=number; repeatable",
    )  # fmt: skip


def add_speech_flags(parser: argparse.ArgumentParser) -> None:
    """How a policy is spoken to; `spoken` reads them."""
    group = parser.add_argument_group("how the policy is spoken to (default: as it was saved)")
    group.add_argument("--wording", help="how a problem is put: compact, question, line (see load_policy)")
    group.add_argument("--shots", type=int, help="solved problems in front of each problem")
    group.add_argument("--system", action=Lines, help="the system message")
    group.add_argument(
        "--template",
        action=Lines,
        help="a chat template of your own: a file, .jinja or .txt, or a text such as 'User: {question}\\nAssistant:'",
    )
    group.add_argument(
        "--template-set", action="append", default=[], metavar="NAME=VALUE", dest="template_args",
        help="what the chat template is told besides, such as enable_thinking=False; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--tags", nargs=2, metavar=("START", "END"),
        help="what the reasoning stands between, such as '[THINK]' '[/THINK]' (default: what the tokenizer shows)",
    )  # fmt: skip


def spoken(args: argparse.Namespace) -> dict:
    """The arguments of `load_policy` that the flags give; None for what is left to it."""
    told = {name: getattr(args, name) for name in SPOKEN}
    return {**told, "template_args": named_values("--template-set", args.template_args) or None}


def field_docs(cls) -> dict[str, str]:
    """The string below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    docs = {}
    for field, doc in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            docs[field.target.id] = ast.literal_eval(doc.value)
    return docs


def _parsed(path: Path) -> dict:
    """The settings in a file as it has them. Raises PoiseLabError for one that cannot be read, or holds none."""
    try:
        text = path.read_text(encoding="utf-8")
        config = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as e:
        raise PoiseLabError(f"{path} cannot be read: {e.strerror}") from None
    except ValueError as e:
        raise PoiseLabError(f"{path} is no {'TOML' if path.suffix == '.toml' else 'JSON'}: {e}") from None
    if not isinstance(config, dict) or not isinstance(config.get("train", {}), dict):
        raise PoiseLabError(f"{path} must hold the settings of a run by name")
    return config


def read_config(path: Path) -> dict:
    """The settings of a run from a file, JSON or TOML, by the names that its flags have in `argparse`.

    The file is laid out as config.json of a run folder, any part of it may be left out, and the fields of TrainConfig
    may stand at the top. So a run's own config.json repeats the run; what else it says (date, versions) is passed over.

    Raises PoiseLabError for a file that cannot be read, or a name that is no setting.
    """
    config = _parsed(path)
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    of_run = "versions" in config  # made by a run
    known = [name for name in (*SETTINGS, *fields) if name not in ("train", *FOUND)]
    values = {name: value for name, value in config.items() if name in (*known, "train") or not of_run}
    values |= values.pop("train", {})
    if of_run:  # the file of the questions; TRL's own settings of the probe are those of the run
        values["task"] = config.get("task_file") or config.get("task")
        values = {name: value for name, value in values.items() if name in known and value is not None}
    for name in values:
        if name not in known:
            raise unknown_name(f"setting in {path}", name, known)
    if values.get("engine", "lab") not in ENGINES:
        raise unknown_name("engine", values["engine"], ENGINES)
    for name in ("task_settings", "template_args"):
        if not isinstance(values.get(name, {}), dict):
            raise PoiseLabError(f"{path}: {name} must be settings by name")
    baseline = values.pop("baseline", None)
    if baseline is not None:
        baseline = {"name": baseline} if isinstance(baseline, str) else baseline
        if not isinstance(baseline, dict) or not isinstance(baseline.get("name"), str):
            raise PoiseLabError(f"{path} does not name its baseline: name")
        baseline = dict(baseline)
        if isinstance(baseline.get("probe"), dict):
            try:
                baseline["probe"] = ValueProbe(**baseline["probe"])
            except TypeError as e:
                raise PoiseLabError(f"{path}: no such probe: {e}") from None
        if values.get("engine") == "trl":
            baseline = {name: value for name, value in baseline.items() if name not in ("layer", "pool")}
        values["baseline"] = baseline.pop("name")
        values["settings"] = list(baseline.items())
    for name in ("task_settings", "template_args"):
        values[name] = [(key, value) for key, value in values.get(name, {}).items() if key != "records"]
    return values


def task_of(policy: str):
    """The task that a run folder was trained on; the bundled three of any other policy.

    Warns where it cannot be had again, as one that came from Python: then it is the bundled three, too.
    """
    path = Path(policy) / "config.json"
    if not (path.parent / "metrics.jsonl").is_file():
        return load_task(TINY_TASKS)
    config, values = _parsed(path), read_config(path)
    told = dict(values["task_settings"])
    if config.get("task_file") or "sha256" not in told:
        told.pop("sha256", None)  # a look takes what is there now
        try:
            return load_task(str(values["task"]), **told)
        except PoiseLabError as e:
            why = f"cannot be had from here: {e}"
    else:
        why = "came from Python"
    warnings.warn(
        f"the task of {policy} {why}; these are problems of {TINY_TASKS}, and --task names others", stacklevel=2
    )
    return load_task(TINY_TASKS)


def check_questions(path: Path, args: argparse.Namespace) -> None:
    """Refuse to repeat a run whose questions, or whose verifier, came from Python, unless flags name a file instead.

    args: the flags alone.
    """
    config = _parsed(path)
    settings, file = config.get("task_settings"), config.get("task_file")
    if "versions" not in config or not isinstance(settings, dict) or "sha256" not in settings:
        return  # made by no run, or of tasks by name
    function = str(settings.get("verify"))
    function = None if function in VERIFIERS or ".py:" in function else function
    told = named_values("--task-set", args.task_settings)
    if not file and not args.task:
        verify = f" and --task-set verify=FILE.py:NAME for {function}" if function else ""
        raise PoiseLabError(
            f"{path}: the run's questions came from Python, not from a file; give --task FILE, with --task-set for its "
            f"settings{verify}"
        )
    if function and "verify" not in told and args.task in (None, file):
        raise PoiseLabError(
            f"{path}: the run's verifier {function!r} came from Python, not from a file; give --task-set verify=FILE.py:NAME"
        )


def with_config(parser: Parser, argv: list[str] | None, args: argparse.Namespace) -> argparse.Namespace:
    """The flags once more, over the settings in the file --config. Another baseline than in the file has none of its
    settings, and so with another task, and another policy.
    """
    values = read_config(args.config)
    check_questions(args.config, args)
    args.parser.set_defaults(**values)
    both = parser.parse_args(argv)
    for name, own in (("baseline", ["settings"]), ("task", ["task_settings"]), ("policy", SPOKEN)):
        if getattr(both, name) != values.get(name, getattr(both, name)):
            for setting in own:
                setattr(both, setting, getattr(args, setting))
    return both


def named_values(flag: str, pairs: list[str | tuple]) -> dict:
    """NAME=VALUE of a repeated flag, after (name, value) of a file."""
    settings = {}
    for pair in pairs:
        if isinstance(pair, tuple):
            settings |= [pair]
            continue
        name, equals, value = pair.partition("=")
        if not equals:
            raise PoiseLabError(f"{flag} {pair!r}: write NAME=VALUE")
        try:
            settings[name] = ast.literal_eval(WORDS.get(value, value))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it is said to raise
            settings[name] = with_lines(value) if name == "prompt" else value
    return settings


def with_lines(text: str) -> str:
    """A text that a policy reads: in it \\n is a new line, which few shells can write, but for LaTeX's \\neq and the like."""
    return re.sub(rf"\\n(?!(?:{LATEX})(?![a-z]))", "\n", text)


class Lines(argparse.Action):
    """Of a flag with a text that a policy reads, or the name of its file."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values if values.endswith(TEMPLATE_FILES) else with_lines(values))
