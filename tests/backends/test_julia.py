"""The backends `julia` and `flux`: workers in Julia, tried with a real one where it can be had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness import Model, Run, Unavailable
from harness.backend import registry
from tests.helpers.commands import ROOT, Cli
from tests.helpers.julia import NoJulia, folder_of_julia
from tests.helpers.processes import MARK, inline, start, wait_for, workers


@pytest.mark.parametrize(("name", "needed"), [("julia", "julialang.org"), ("flux", "README.md")])
def test_without_julia_a_sentence_says_what_to_install(
    name: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=rf"`julia` cannot be started.*{needed}"):
        registry.load(name)


def test_the_package_contains_the_workers(tmp_path: Path) -> None:
    build = f"egg_info --egg-base {tmp_path} build_py --build-lib {tmp_path}"
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()", *build.split()]
    subprocess.run(setup, cwd=ROOT, capture_output=True, check=True)
    for name in ("julia", "flux"):
        sources = {path.name for path in (ROOT / "backends" / name).iterdir() if path.is_file()}
        assert sources == {path.name for path in (tmp_path / "backends" / name).iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    unpacked = tmp_path_factory.mktemp("julia")
    try:
        yield folder_of_julia(unpacked)
    except NoJulia as problem:
        pytest.skip(str(problem))
    finally:
        shutil.rmtree(unpacked)


@pytest.fixture
def julia(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a real Julia on the PATH, one without packages."""
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JULIA_DEPOT_PATH", str(tmp_path / "depot"))


@pytest.mark.slow
@pytest.mark.usefixtures("julia")
class TestInJulia:
    @pytest.mark.parametrize(
        ("gradient", "activation"), [("exact", "relu"), ("stateful-broadcast", "tanh")]
    )
    def test_parity(self, gradient: str, activation: str, cli: Cli) -> None:
        task = ("--set", f"gradient={gradient}", "--set", f"activation={activation}")
        done = cli("parity", "--backends", "julia", *task, "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(json.loads(done.stdout)) == 8

    def test_a_run_beside_others_ends_where_they_end(self, cli: Cli, tmp_path: Path) -> None:
        task = ("--preset", "posted", "--set", "epochs=200", "--set", "curve_points=4")
        given = ("--backends", "julia,torch,jax", "--seeds", 1, *task)
        done = cli("run", *given, *inline(tmp_path))
        assert done.returncode == 0, done.stderr
        mine, *others = sorted(Run("x", tmp_path).records, key=lambda r: r.backend != "julia")
        for other in others:
            for point, expected in zip(mine.points, other.points, strict=True):
                assert point.eval_mse == pytest.approx(expected.eval_mse, rel=1e-3)
        assert (mine.import_s or 0) > 0.1  # Julia itself starts in a quarter of a second.
        assert (mine.first_call_s or 0) > 1  # It compiles.
        assert mine.environment["worker:source"].endswith("julia/worker.jl")
        assert mine.environment["version:julia"]

    def test_a_killed_run_leaves_nothing_behind_and_resumes(self, cli: Cli, tmp_path: Path) -> None:
        driver = start(tmp_path, *inline(tmp_path)[:2], "--seeds", 1, backend="julia")
        (trial,) = wait_for(lambda: workers(tmp_path, seed=0))
        wait_for(lambda: julias(tmp_path, trial.pid))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        wait_for(lambda: not julias(tmp_path) and not workers(tmp_path))
        done = cli("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
        assert done.returncode == 0, done.stderr
        (record,) = Run("x", tmp_path).records
        assert record.status == "ok"

    def test_what_it_cannot_train_is_said(self) -> None:
        worker = registry.load("julia")
        with pytest.raises(Unavailable, match="`cell` = gru; it does with rnn"):
            worker(Model(cell="gru"), "cpu")
        with pytest.raises(Unavailable, match="`device` = gpu; it does with cpu"):
            worker(Model(), "gpu")

    def test_without_flux_a_sentence_says_how_to_install_it(self) -> None:
        with pytest.raises(Unavailable, match=r"Flux cannot be loaded.*Pkg.instantiate"):
            registry.load("flux")


def julias(results: Path, parent: int | None = None) -> list[psutil.Process]:
    """Return the processes of the worker with this mark, or those that one process started."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(MARK) == str(results)
            if mine and any(word.endswith("worker.jl") for word in process.cmdline()):
                found += [process] if parent in (None, process.ppid()) else []
        except psutil.Error:
            continue
    return found
