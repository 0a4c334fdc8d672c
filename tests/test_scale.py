"""Leaving the laptop: the extra and its absence, and the arithmetic of a step. Needs no TRL."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import statistics
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from sklearn.decomposition import PCA

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.files import read_json
from poise_lab.studies import cost as scale
from poise_lab.trl import needed

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
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT + code]  # other packages' warnings are not what is asked
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_package_needs_no_trl():
    done = without_trl("import poise_lab, poise_lab.cli, poise_lab.studies.cost; print(len(poise_lab.BASELINES))")
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
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(said) == 1 and said[0].startswith("poise-lab: trl is not installed"), done.stderr
    assert 'pip install "poise-lab[scale]"' in said[0]


def test_import_without_the_extra_says_so():
    done = without_trl("from poise_lab.trl import PoiseTrainer")
    assert (
        'PoiseLabError: trl is not installed; the engine trl needs the extra: pip install "poise-lab[scale]"'
        in done.stderr
    )


@pytest.mark.parametrize("version", ["1.15.3", "2.0.0"])
def test_unsupported_version(monkeypatch, version, tmp_path, capsys):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(pl.PoiseLabError, match=f"TRL {version} is not supported; install one from 1.16 to below 2"):
        needed.check_trl()
    assert main(["train", "--engine", "trl", "--out", str(tmp_path / "run")]) == 2
    assert f"poise-lab: TRL {version} is not supported" in capsys.readouterr().err


def test_supported_versions(monkeypatch):
    for version in ("1.16.0", "1.20.1"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        needed.check_trl()


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
    ratio = (
        scale.step_cost(large, 8, None, "paper")["fit_seconds"]
        / scale.step_cost(small, 8, None, "paper")["fit_seconds"]
    )
    assert ratio > large.width / small.width
    # next to nothing of the capture grows with the model: it is the search for the end of reasoning
    assert scale.step_cost(large, 8)["capture_seconds"] == pytest.approx(
        scale.step_cost(small, 8)["capture_seconds"], rel=1e-3
    )
    longer = scale.Assumptions(tokens=8192)
    assert scale.step_cost(large, 8, longer)["capture_seconds"] == pytest.approx(
        2 * scale.step_cost(large, 8)["capture_seconds"], rel=1e-3
    )


def test_a_fit_may_last_until_its_values_are_needed():
    """It starts when the advantages are known: update, sampling and the pass of the next batch go by before it is waited for."""
    small = scale.SIZES[0]
    for speed, exposed in ((4e9, True), (12e9, False)):
        cost = scale.step_cost(small, 64, scale.Assumptions(release_flops=speed))
        update = 8 * small.parameters * 1024 * 4096 / 64 / scale.Assumptions().training_flops
        assert cost["fit_seconds"] > update
        assert cost["exposed_seconds"] == pytest.approx(cost["fit_seconds"] - cost["step_seconds"] if exposed else 0)
        assert cost["added_seconds"] >= cost["exposed_seconds"]


def test_a_pass_of_our_own_is_an_eighth_of_a_step():
    for size in scale.SIZES:
        assert scale.step_cost(size, 8)["own_pass_share"] == pytest.approx(0.125)


@pytest.mark.parametrize("name", [None, *(size.name for size in scale.SIZES)])
@pytest.mark.parametrize("preset", scale.PROBE_PRESETS)
def test_poise_adds_less_than_a_hundredth_of_a_step(name, preset):
    """On paper, up to 64 GPUs: with the speeds that are assumed, and with those measured at each width.

    Also where a fit takes twice as long as the median, as the first one may.
    """
    a = scale.Assumptions()
    if name:
        recorded = read_json(pl.data_dir() / "scale" / "cpu.json")
        speeds = {k: v for k, v in recorded[name].items() if k in vars(a)} | {"scan_tokens": recorded["scan_tokens"]}
        assert len(speeds) == 5
        a = dataclasses.replace(a, **speeds)
    for size in scale.SIZES:
        if name in (None, size.name):
            slow = dataclasses.replace(a, release_flops=a.release_flops / 2, paper_flops=a.paper_flops / 2)
            for gpus in (1, 8, 64):
                for speeds in (a, slow):
                    assert scale.step_cost(size, gpus, speeds, preset)["added_share"] < 0.01, (size.name, gpus)


def test_table_says_the_same():
    rows = scale.cost_table()
    assert len(rows) == 9
    for row in rows:
        assert all(float(share) < 1 for share in row["added to the step, %"].split(" / ")), row
        assert (row["fit 80 GB"] == "no") == (float(row["weights and AdamW per GPU, GB"]) > 80)
    assert [(row["policy"], row["GPUs"]) for row in rows if row["fit 80 GB"] == "no"] == [("Qwen3-8B", 1)]


def test_speeds_of_the_cpu_are_the_slowest_measured():
    recorded = read_json(pl.data_dir() / "scale" / "cpu.json")
    a = scale.Assumptions()
    for name in ("release_flops", "paper_flops", "cpu_bytes", "hash_bytes"):
        slowest = min(recorded[size.name][name] for size in scale.SIZES)
        assert 0.85 * slowest < getattr(a, name) <= slowest, name
    assert 0.85 * recorded["scan_tokens"] < a.scan_tokens <= recorded["scan_tokens"]
    for size in scale.SIZES:
        for preset in scale.PROBE_PRESETS:
            flops = scale.fit_flops(2 * size.width + 3, a, preset) / recorded[size.name][f"{preset}_flops"]
            assert flops == pytest.approx(recorded[size.name][f"{preset}_seconds"])
    assert recorded["threads"] == 1


@pytest.mark.parametrize("preset", scale.PROBE_PRESETS)
def test_memory_of_a_fit(preset):
    """What the arithmetic says is what numpy asks for, at a smaller size."""
    a, features = scale.Assumptions(buffer_rows=1024), 2 * 600 + 3
    buffer = pl.RecentBuffer(a.buffer_rows)
    generator = np.random.default_rng(0)
    buffer.add(generator.normal(size=(512, 2, features)), generator.integers(0, 2, (512, 2)))
    tracemalloc.start()
    pl.ValueProbe.preset(preset).fit(*buffer.data())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < scale.fit_bytes(features, a, preset) < 1.5 * peak


@pytest.mark.parametrize("components", (32, 64))
def test_iterations_of_the_pca_are_those_counted(monkeypatch, components):
    """scikit-learn takes 7, not 4, where components are few; each is two products with all rows."""
    from sklearn.utils import extmath

    seen, plain = [], extmath._randomized_range_finder
    monkeypatch.setattr(
        extmath, "_randomized_range_finder", lambda *args, **k: seen.append(k["n_iter"]) or plain(*args, **k)
    )
    X = np.random.default_rng(0).normal(size=(1100, 1024)).astype(np.float32)
    PCA(components, random_state=42).fit(X)
    assert seen == [7]


def test_digest_of_a_buffer():
    buffers = [pl.RecentBuffer(8) for _ in range(3)]
    for buffer, last in zip(buffers, (1.0, 1.0, 0.5), strict=True):
        buffer.add([[[0.1, 0.2, 0.3, 0.4, 0.5]] * 2], [[0.0, last]])
    assert buffers[0].digest() == buffers[1].digest() != buffers[2].digest()


def test_what_notebook_11_says_of_the_gpu():
    """The parts of POISE in the recorded run: milliseconds, no waiting, below a hundredth of a step."""
    run = pl.read_run(pl.data_dir() / "scale" / "h200")
    assert run.config["device"] == "cuda" and run.config["policy"] == "smollm2-135m"
    fitted = [(a, b) for a, b in zip(run.metrics, run.metrics[1:], strict=False) if b.get("fitted")]
    assert len(fitted) == 2
    for before, now in fitted:
        parts = [now[f"seconds_{part}"] for part in ("gather", "probe", "wait")]
        assert sum(parts) < 0.01 < 0.01 * (now["seconds"] - before["seconds"]) and parts[-1] < 1e-3
        assert 0.005 < sum(parts) / 0.5 < 0.015  # "about one per cent" of half a second
    a = dataclasses.replace(scale.Assumptions(), buffer_rows=3072)
    paper = scale.step_cost(scale.Size("SmolLM2-135M", 135e6, 576), 1, a)
    assert 0.25 < paper["fit_seconds"] < 0.4
    assert 5 < statistics.mean(now["seconds_gather"] for _, now in fitted) / paper["gather_seconds"] < 15
