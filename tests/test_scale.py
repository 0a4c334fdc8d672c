"""Leaving the laptop: the extra and its absence, and the arithmetic of a step. Needs no TRL."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import poise_lab as pl
from poise_lab import scale
from poise_lab.cli import main
from poise_lab.records import read_json

WITHOUT = """
import importlib.metadata, sys
found = importlib.metadata.version
def version(name):
    if name in ("trl", "accelerate"):
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
sys.modules["trl"] = sys.modules["accelerate"] = sys.modules["datasets"] = None
"""


def without_trl(code: str) -> subprocess.CompletedProcess:
    """Run code where TRL and accelerate are not installed, whatever is."""
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, timeout=300)


def test_the_package_needs_no_trl():
    done = without_trl("import poise_lab, poise_lab.cli, poise_lab.scale; print(len(poise_lab.BASELINES))")
    assert done.returncode == 0 and int(done.stdout) > 10, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from poise_lab.cli import main; sys.exit(main(['train', '--engine', 'trl', '--out', 'runs/none']))",
        "import runpy; runpy.run_module('poise_lab.trl', run_name='__main__')",
    ],
)
def test_missing_extra_is_one_sentence(code):
    done = without_trl(code)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "RuntimeWarning" not in line and line.strip()]
    assert len(said) == 1 and said[0].startswith("poise-lab: trl is not installed"), done.stderr
    assert 'pip install "poise-lab[scale]"' in said[0]


def test_import_without_the_extra_says_so():
    done = without_trl("import poise_lab.trl")
    assert (
        'PoiseLabError: trl is not installed; the engine trl needs the extra: pip install "poise-lab[scale]"'
        in done.stderr
    )


@pytest.mark.parametrize("version", ["1.15.3", "2.0.0"])
def test_unsupported_version(monkeypatch, version, tmp_path, capsys):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(pl.PoiseLabError, match=f"TRL {version} is not supported; install one from 1.16 to below 2"):
        scale.check_trl()
    assert main(["train", "--engine", "trl", "--out", str(tmp_path / "run")]) == 2
    assert f"poise-lab: TRL {version} is not supported" in capsys.readouterr().err


def test_supported_versions(monkeypatch):
    for version in ("1.16.0", "1.20.1"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        scale.check_trl()


def test_arithmetic_of_a_step():
    """One case by hand: Qwen3-4B on 8 GPUs."""
    a = scale.Assumptions()
    cost = scale.step_cost(scale.Size("x", 4e9, 2560), 8, a)
    tokens = 1024 * 4096 / 8
    assert cost["step_seconds"] == pytest.approx(tokens * 4e9 * (2 / 98.9e12 + 10 / 395.6e12))
    features = 2 * 2560 + 3
    assert cost["gather_seconds"] == pytest.approx(1024 * features * 4 * (7 / 8 + 1) / 25e9)
    assert cost["capture_seconds"] == pytest.approx(128 * (2 * 10 * 2560 * 2 / 3.35e12 + 4096 / a.scan_tokens))
    parts = [cost[f"{part}_seconds"] for part in ("capture", "gather", "predict", "exposed")]
    assert cost["added_seconds"] == pytest.approx(sum(parts))
    assert cost["policy_bytes"] == pytest.approx(8e9)


def test_how_the_costs_grow():
    small, large = scale.SIZES[0], scale.SIZES[-1]
    for n in (1, 8):
        assert scale.step_cost(small, 8 * n)["step_seconds"] == pytest.approx(
            scale.step_cost(small, n)["step_seconds"] / 8
        )
        assert scale.step_cost(small, 8 * n)["fit_seconds"] == scale.step_cost(small, n)["fit_seconds"]
    ratio = scale.step_cost(large, 8)["fit_seconds"] / scale.step_cost(small, 8)["fit_seconds"]
    assert ratio == pytest.approx(large.width / small.width, rel=0.01)
    more = scale.Assumptions(rows=4096)
    assert scale.step_cost(large, 8, more)["gather_seconds"] == pytest.approx(
        4 * scale.step_cost(large, 8)["gather_seconds"]
    )
    slow = scale.Assumptions(cpu_flops=1e9)  # a fit longer than the update is waited for
    cost = scale.step_cost(small, 64, slow)
    assert cost["exposed_seconds"] > 0 and cost["added_seconds"] > cost["exposed_seconds"]


def test_poise_adds_less_than_a_hundredth_of_a_step():
    """On paper, in every row of the table."""
    for row in scale.cost_table():
        assert float(row["added to the step"].split()[0]) < 1, row


def test_speeds_of_the_cpu_are_those_measured():
    recorded = read_json(pl.data_dir() / "scale" / "cpu.json")
    a = scale.Assumptions()
    for size in scale.SIZES:
        for name in ("cpu_flops", "cpu_bytes", "hash_bytes"):
            assert getattr(a, name) == pytest.approx(recorded[size.name][name], rel=0.3), (size.name, name)
        assert scale.fit_flops(2 * size.width + 3, a) / recorded[size.name]["cpu_flops"] == pytest.approx(
            recorded[size.name]["fit_seconds"]
        )
    assert a.scan_tokens == pytest.approx(recorded["scan_tokens"], rel=0.3)
    assert recorded["threads"] == 1


def test_digest_of_a_buffer():
    buffers = [pl.RecentBuffer(8) for _ in range(3)]
    for buffer, last in zip(buffers, (1.0, 1.0, 0.5), strict=True):
        buffer.add([[[0.1, 0.2, 0.3, 0.4, 0.5]] * 2], [[0.0, last]])
    assert buffers[0].digest() == buffers[1].digest() != buffers[2].digest()
