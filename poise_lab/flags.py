"""What the command line is made of: a parser that answers in one sentence, and flags that are read off TrainConfig."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import textwrap

from .config import TrainConfig
from .errors import PoiseLabError


class Parser(argparse.ArgumentParser):
    """Says what was wrong in one sentence, without the usage lines; --help has them."""

    def error(self, message):
        self.exit(2, f"poise-lab: {message} (see {self.prog} --help)\n")

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            found.parser.error(f"unknown flag {unknown[0]}{did_you_mean(unknown[0], found.parser)}")
        return found


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


def field_docs(cls) -> dict[str, str]:
    """The string below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    docs = {}
    for field, doc in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            docs[field.target.id] = ast.literal_eval(doc.value)
    return docs


def named_values(flag: str, pairs: list[str]) -> dict:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise PoiseLabError(f"{flag} {pair!r}: write NAME=VALUE")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value
    return settings
