"""Runs whose backends are processes of their own: what is recorded, and that nothing stays."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness import Run, Task
from harness.measure import machine
from harness.measure.process import Worker
from harness.measure.stepwise import worker_source
from harness.trial.jobs import TurnsJob
from tests.helpers.commands import ROOT, TINY_FIELDS, TINY_RUN, Cli, overriding
from tests.helpers.processes import MARK, inline, start, wait_for, workers

ODD = f"{sys.executable} {ROOT}/tests/helpers/odd_worker.py"
PARITY = ("big-endian", "transposed")
SLOW = f"process:{ODD} sleeps"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """The command line in the folder of a project that names its backends."""
    faults = "".join(f'{name} = "{ODD} {name}"\n' for name in ("exits", "nan", "version", *PARITY))
    table = f"[tool.harness.backends]\nmine = \"sh -c '{ODD} burns; true'\"\n{faults}"
    (tmp_path / "pyproject.toml").write_text(table)
    monkeypatch.chdir(tmp_path)
    return cli


def test_a_record_sees_through_the_processes(project: Cli, tmp_path: Path) -> None:
    given = ("--backends", "mine,exits,nan", "--seeds", "1")
    done = project(*overriding(*TINY_RUN, "--rounds", 6), *given, *inline(tmp_path))
    assert done.returncode == 1, done.stderr
    records = {record.backend: record for record in Run("x", tmp_path).records}
    mine, exits = records["mine"], records["exits"]
    assert mine.import_s or (mine.setup_s or 0) < 0  # The process starts in the former.
    assert (mine.peak_rss_mb or 0) > 50  # Three processes, two of which have NumPy.
    assert {chunk.round for chunk in mine.chunks} == {1, 2, 3, 4, 5, 6}
    # A grandchild burnt it, in all calls but the first 60 epochs of a training.
    assert max(chunk.cpu_s for chunk in mine.chunks) > 0.02
    assert mine.environment["worker:source"].endswith("odd_worker.py")
    assert mine.environment["env:JULIA_NUM_THREADS"] == "1"
    assert exits.status == "failed"
    assert exits.error is not None
    assert "exit code 3 before it answered `train`; standard error ends with: the last words" in (
        exits.error
    )
    assert records["nan"].status == "diverged"


def test_names_of_a_project_are_listed_and_checked(project: Cli, tmp_path: Path) -> None:
    assert f"  exits          {ODD} exits (in {tmp_path})" in project("list").stdout
    refused = project("parity", "--backends", "version", "--dispatch", "inline")
    assert refused.returncode == 2
    assert (
        "backend `version`: its process speaks version 2 of the protocol, not 1" in refused.stderr
    )


def marked(results: Path, word: str = "") -> list[psutil.Process]:
    """Return the processes with this mark whose first argument has the word."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # It has ended, or is another user's.
            is_it = any(word in argument for argument in process.cmdline()[1:2])
            if is_it and process.environ().get(MARK) == str(results):
                found.append(process)
    return found


def children(results: Path) -> list[psutil.Process]:
    """Return the processes of backends that a run with this mark has started."""
    return marked(results, "odd_worker")


@pytest.mark.parametrize("killed", [pytest.param("driver", marks=pytest.mark.slow), "trial"])
def test_nothing_stays_when_a_run_is_killed(killed: str, cli: Cli, tmp_path: Path) -> None:
    driver = start(tmp_path, "--dispatch", "inline", "--seeds", 1, backend=f"{SLOW},reference")
    trial = wait_for(lambda: taking_turns(tmp_path))
    assert len(children(tmp_path)) == 1
    wait_for(lambda: any("harness.measure.probe" in p.cmdline() for p in marked(tmp_path)))
    (driver if killed == "driver" else trial).send_signal(signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not marked(tmp_path))
    if killed == "driver":
        done = cli("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
        assert done.returncode == 0, done.stderr
    statuses = {record.backend: record.status for record in Run("x", tmp_path).records}
    assert statuses == {SLOW: "ok" if killed == "driver" else "failed", "reference": "ok"}


def taking_turns(results: Path) -> psutil.Process | None:
    """Return the process of the slow backend's trial, once it takes turns with the other's."""
    both = workers(results, seed=0)
    cores = {core for worker in both for core in worker.cpu_affinity()}
    if len(both) < 2 or len(cores) > 1:
        return None
    return next(worker for worker in both if SLOW in " ".join(worker.cmdline()))


@pytest.mark.parametrize("ended", ["by itself", "by the harness", "with the harness"])
def test_a_session_of_its_own_does_not_stay(ended: str, cli: Cli, tmp_path: Path) -> None:
    backend = f"process:setsid sh -c '{ODD} none; sleep 600'"
    if ended == "by the harness":
        with Worker(_turns(backend)) as side:
            assert next(value for kind, value in side.answers() if kind == "ready")
    else:
        driver = start(tmp_path, "--dispatch", "inline", "--seeds", 1, backend=backend)
        if ended == "with the harness":
            wait_for(lambda: children(tmp_path))
            driver.kill()
        driver.communicate()
    wait_for(lambda: not marked(tmp_path), 10)


def test_a_side_of_a_gate_is_pinned_with_its_children(cli: Cli, tmp_path: Path) -> None:
    job = _turns(f"process:sh -c '{ODD} none; true'")
    with Worker(job) as side:
        ready = next(value for kind, value in side.answers() if kind == "ready")
        side.pin(machine.usable_cores()[:1])
        (child,) = children(tmp_path)
        assert child.cpu_affinity() == list(machine.usable_cores()[:1])
    assert ready["sources"][worker_source(job.backend)].endswith("odd_worker.py")
    assert ready["versions"]["odd"] == "1.2"


def _turns(backend: str) -> TurnsJob:
    return TurnsJob(
        task=Task(**TINY_FIELDS),
        backend=backend,
        device="cpu",
        threads=1,
        exclusive=True,
        seed=0,
    )


@pytest.mark.slow
def test_a_timeout_ends_the_process(cli: Cli, tmp_path: Path) -> None:
    given = ("--backends", f"process:{ODD} hangs", "--seeds", 1, "--timeout", 15)
    assert cli(*TINY_RUN, *given, *inline(tmp_path)).returncode == 1
    (record,) = Run("x", tmp_path).records
    assert record.status == "timeout"
    assert not children(tmp_path)
