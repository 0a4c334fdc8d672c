"""The project's own files: what is declared in one place agrees with the others."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import poise_lab as pl

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = sorted((ROOT / "poise_lab").rglob("*.py"))


def constraints() -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt pins exact versions only"
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_dependency_is_pinned_within_its_bounds():
    pins = constraints()
    for text in (
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"] + PROJECT["optional-dependencies"]["scale"]
    ):
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is not {requirement.specifier}"


def test_extras_and_script():
    assert {"dev", "course", "scale"} <= set(PROJECT["optional-dependencies"])
    assert PROJECT["scripts"] == {"poise-lab": "poise_lab.cli:main"}
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["version"] == pl.__version__


@pytest.mark.parametrize("file", ["environment.yml", ".binder/environment.yml"])
def test_conda_environment_installs_what_pyproject_says(file):
    environment = yaml.safe_load((ROOT / file).read_text())
    assert set(environment) <= {"name", "channels", "dependencies", "prefix", "variables"}
    assert environment["name"] == PROJECT["name"]
    assert all(isinstance(channel, str) for channel in environment["channels"])
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (section,) = (d for d in environment["dependencies"] if not isinstance(d, str))
    assert "pip" in conda and set(section) == {"pip"}
    (python,) = (d for d in conda if d.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1] + ".0")
    assert set(conda) == {"pip", python}  # all requirements come from pyproject, through pip
    lines = list(section["pip"])
    if file.startswith("."):  # the same, with the small build of torch; paths are from where the file lies
        index, torch = lines.pop(0), Requirement(lines.pop(0))
        assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
        assert torch.name == "torch" and torch.specifier.contains(f"{constraints()['torch']}+cpu")
        assert str(torch.specifier).endswith("+cpu")
        lines = [line.replace(" ../", " ").replace(" ..[", " .[") for line in lines]
    assert sorted(lines) == ["-c constraints.txt", "-e .[dev]"]


def test_make_and_readme_install_the_same():
    makefile, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    for text in (makefile, readme):
        assert re.search(r"-c constraints\.txt -e [\"']?\.\[dev\]", text)
    assert PROJECT["requires-python"].removeprefix(">=") in readme


def test_commands_of_the_readme_exist():
    makefile, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    used = set(re.findall(r"\bmake ([a-z-]+)\b *(?:#|`|\n)", readme))
    assert {"run", "test"} <= used
    assert used <= targets
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    assert used <= phony
    help_text = (ROOT / "poise_lab" / "cli.py").read_text()
    for command in set(re.findall(r"^poise-lab ([a-z]+)|`poise-lab ([a-z]+)", readme, re.M)):
        assert f'add_parser("{"".join(command)}"' in help_text
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_nothing_is_loaded_that_can_run_code():
    """Weights are safetensors, the rest is JSON."""
    forbidden = r"torch\.load\b|torch\.save\b|\bjoblib\b|\bpickle\b|trust_remote_code|\beval\(|\bexec\(|weights_only"
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.replace(".eval()", "")
            assert not re.search(forbidden, code), f"{path.name}:{number}: {line.strip()}"


def test_data_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (pl.data_dir() / "tiny-policy" / "config.json").is_file()
    force_include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert force_include["wheel"]["force-include"] == {"data": "poise_lab/data"}  # where data_dir looks in a wheel
