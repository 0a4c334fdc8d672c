"""The project's own files: what is declared in one place agrees with the others."""

from __future__ import annotations

import os
import pydoc
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import poise_lab as pl
from poise_lab.cli import _parser
from poise_lab.studies.catalogue import STUDIES

ROOT = Path(__file__).parent.parent
README, HOUSE = ROOT / "README.md", ROOT / "poise_lab" / "README.md"
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


def test_tests_are_collected_without_the_extras():
    """As `make test` finds them: only `dev` is installed, whatever else is on the machine of who writes a test."""
    extras = {extra: names for extra, names in PROJECT["optional-dependencies"].items() if extra != "dev"}
    absent = {Requirement(text).name.replace("-", "_") for names in extras.values() for text in names}
    absent -= {"accelerate"}  # peft, which is in `dev`, brings it
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    collect = [sys.executable, "-c", code, "tests", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


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
    compiled = (
        f"pycosat={constraints()['pycosat']}"  # which has no wheel: conda brings it, so that no compiler is needed
    )
    assert set(conda) == {"pip", python, compiled}  # all other requirements come from pyproject, through pip
    lines = list(section["pip"])
    if file.startswith("."):  # the same, with the small build of torch; paths are from where the file lies
        index, torch = lines.pop(0), Requirement(lines.pop(0))
        assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
        assert torch.name == "torch" and torch.specifier.contains(f"{constraints()['torch']}+cpu")
        assert str(torch.specifier).endswith("+cpu")
        lines = [line.replace(" ../", " ").replace(" ..[", " .[") for line in lines]
    assert sorted(lines) == ["-c constraints.txt", "-e .[dev]"]


def test_make_and_readme_install_the_same():
    makefile = (ROOT / "Makefile").read_text()
    readme, guide = (ROOT / "README.md").read_text(), (ROOT / "notebooks" / "GUIDE.md").read_text()
    for text in (makefile, readme, guide):
        assert re.search(r"-c constraints\.txt -e [\"']?\.\[dev\]", text)
    assert PROJECT["requires-python"].removeprefix(">=") in readme


@pytest.mark.parametrize(
    "page",
    ["README.md", *(f"notebooks/{name}.md" for name in ("GUIDE", "INSTRUCTORS", "STUDENTS", "assignments/START"))],
)
def test_where_it_is_said_how_to_install_a_compiler_is_named(page):
    """pycosat, which reasoning-gym needs, is built by pip."""
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert "C compiler" in text
    by_link = page in ("notebooks/GUIDE.md", "notebooks/INSTRUCTORS.md")
    for words in ("[the front page](../README.md",) if by_link else ("pycosat", "build-essential python3-dev", "xcode-select --install", "Build Tools for Visual Studio"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("target", [".venv/.installed", ".venv-scale/.installed", ".venv-vllm/.installed"])
def test_make_refuses_a_python_without_packages_and_begins_anew_with_another(tmp_path, target):
    """What the wrong interpreter has left in the folder is gone, so that the right one is not misled by it."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tests/vllm_cpu/requirements.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    left = tmp_path / target.split("/")[0] / "bin" / "left-behind"
    left.parent.mkdir(parents=True)
    left.touch()
    first = f'case "$1" in -c) exec {sys.executable} -c "import sys; sys.version_info = $VERSION; $2";; esac'
    (tmp_path / "python").write_text(f'#!/bin/sh\n{first}\nshift 2; exec {sys.executable} -m venv --without-pip "$@"\n')
    (tmp_path / "python").chmod(0o755)

    def make(version):
        command = ["make", target, f"PYTHON={tmp_path / 'python'}"]  # ends where pip would begin
        return subprocess.run(command, cwd=tmp_path, env={"PATH": os.environ["PATH"], "VERSION": version}, capture_output=True, text=True)  # fmt: skip

    for version in ("(3, 10, 9)", "(3, 15, 0)"):
        other = make(version)
        assert other.returncode and "is not one of Python 3.11 to 3.14; name another, such as make" in other.stderr
        assert "PYTHON=python3.12" in other.stderr and left.exists()
    assert "No module named pip" in make("(3, 14, 6)").stderr
    assert not left.exists() and (left.parent / "python").exists()


def test_commands_of_the_readme_exist():
    makefile, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    used = set(re.findall(r"\bmake ([a-z-]+)\b *(?:#|`|\n)", readme))
    assert {"run", "test"} <= used
    assert used <= targets
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    assert used <= phony
    guides = "".join(path.read_text() for path in (ROOT / "data" / "README.md", *(ROOT / "notebooks").glob("*.md")))
    commands = next(action.choices for action in _parser()._actions if action.metavar == "COMMAND")
    for command, name in re.findall(r"(?:^|`)poise-lab ([a-z]+)(?: ([a-z0-9]+)\b)?", readme + guides, re.M):
        assert command in commands
        assert command != "study" or name in ("", *STUDIES)
    for command in re.findall(r"`poise-lab ((?:train|pretrain) --[^`]*)`", (ROOT / "data" / "README.md").read_text()):
        _parser().parse_args(command.replace(" ENGINE ", " trl ").replace(" SEED ", " 0 ").split())  # exits if refused
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_baseline_is_explained_to_readers():
    """In the glossary or in the guide, under the name that --baseline takes or under that of the method."""
    glossary, guide = ((ROOT / "notebooks" / f"{name}.md").read_text() for name in ("STUDENTS", "GUIDE"))
    known = "\n".join(re.findall(r"^\| ([^|]+ \| [^|]+) \|", glossary, re.M) + re.findall(r"^- (`.*?):", guide, re.M))
    for name in pl.BASELINES:
        assert re.search(rf"(?<!\w){name}(?!\w)", known, re.I), name


def test_makefile_is_short_and_no_target_makes_data():
    makefile = (ROOT / "Makefile").read_text()
    assert len(makefile.splitlines()) <= 60
    assert not re.search(r"^data/|^\tmv |> data/", makefile, re.M)
    assert "runs" not in re.search(r"^clean: .*$", makefile, re.M)[0].split()  # policies that somebody has trained
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()) == set(
        re.findall(r"^([a-z-]+):", makefile, re.M)
    )


def test_the_tree_is_the_house():
    """Every room is in it, with a line that says what it is for, and all that is in it exists."""
    tree = re.search(r"^poise_lab/\n(.*?)^```", HOUSE.read_text(), re.M | re.S)[1]
    lines = [re.fullmatch(r"  (\S+) +(\S.*)", line) for line in tree.splitlines()]
    rooms = [
        path.name + "/" * path.is_dir()
        for path in (ROOT / "poise_lab").iterdir()
        if path.suffix == ".py" or path.is_dir() and path.name != "__pycache__"
    ]
    assert sorted(line[1] for line in lines) == sorted(rooms)


def test_the_front_page_is_one_page():
    lines = README.read_text().splitlines()
    assert len(lines) < 120 and any(line.startswith("![") for line in lines[:10])


def test_links_between_pages_lead_somewhere():
    guides = *(ROOT / "notebooks").glob("*.md"), *(ROOT / "notebooks" / "assignments").glob("*.md")
    for page in (README, HOUSE, ROOT / "data" / "README.md", *guides):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, part = target.partition("#")
            if not path.startswith("http"):
                assert (page.parent / path).exists(), f"{page.name}: {target}"
                heads = (
                    re.findall(r"^#+ (.*)$", (page.parent / path).read_text() if path else page.read_text(), re.M)
                    if part
                    else []
                )
                assert not part or part in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads], target


def test_what_is_said_of_the_house_exists():
    """Each `file.py`, `function`: the function is defined in that file."""
    named = [re.findall(r"`([\w/]+\.py)`, `([\w.]+)`", " ".join(page.read_text().split())) for page in (HOUSE, README)]
    assert len(named[0]) >= 15 and len(named[1]) >= 7
    for file, name in (*named[0], *named[1]):
        source = (ROOT / "poise_lab" / file).read_text()
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b|^{part}\b.* = ", source, re.M), f"{file}: {name}"


def test_nothing_is_loaded_that_can_run_code():
    """Weights are safetensors, the rest is JSON."""
    forbidden = r"torch\.load\b|torch\.save\b|\bjoblib\b(?! import cpu_count$)|\bpickle\b|trust_remote_code(?!=False\b)|\beval\(|\bexec\(|weights_only"
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.replace(".eval()", "")
            assert not re.search(forbidden, code), f"{path.name}:{number}: {line.strip()}"


def test_data_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (pl.data_dir() / "thinker-policy" / "config.json").is_file()
    force_include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert force_include["wheel"]["force-include"] == {"data": "poise_lab/data"}  # where data_dir looks in a wheel


def test_names_of_the_package_in_notebooks_and_planted_answers_exist():
    files = {kind: list((ROOT / "notebooks").rglob(f"*.{kind}")) for kind in ("ipynb", "py", "md")}
    texts = [path.read_text(encoding="utf-8") for kind in ("py", "md") for path in files[kind]]
    # not their outputs: a record says by which command it was made, as that was called then
    texts += [cell.source for path in files["ipynb"] for cell in nbformat.read(path, as_version=4).cells]
    names = {name for text in texts for name in re.findall(r"\bpoise_lab(?:\.\w+)+", text)}
    names = {name for name in names if not name.endswith((".json", ".py", ".md", ".html"))}
    names = {name for name in names if not name.startswith("poise_lab.trl.")}  # its modules need the extra scale
    assert len(names) > 20
    assert sorted(name for name in names if pydoc.locate(name) is None) == []


def test_a_site_replaces_no_other_folder(tmp_path, monkeypatch):
    """`python -m tools.site .` would empty the checkout."""
    pytest.importorskip("sphinx", reason="the extra site installs it")
    from tools import site

    built = []
    monkeypatch.setattr(site, "write_sources", lambda source: built.append(source) or sys.exit("begun"))
    (tmp_path / "notes.txt").write_text("mine")
    for other in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SystemExit, match="holds other things than a site made by this; name a new or empty folder"):
            site.build(other)
    assert (tmp_path / "notes.txt").read_text() == "mine" and not built
    (tmp_path / "empty").mkdir()
    (tmp_path / "site").mkdir()
    for name in (".buildinfo", "plotly.min.js", "index.html"):
        (tmp_path / "site" / name).touch()
    for place in ("empty", "site", "new"):
        with pytest.raises(SystemExit, match="begun"):
            site.build(tmp_path / place)
    assert len(built) == 3 and not (tmp_path / "site" / "index.html").exists()
