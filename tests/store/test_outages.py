"""Whole runs whose store is suspended, or killed and started again without its data."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from benchmarks.helpers.s3 import BUCKET, S3Server
from tests.helpers.commands import ROOT, TINY_RUN, command
from tests.helpers.processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
URL = f"s3://{BUCKET}/deep/down"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server(tmp_path).start().make_bucket()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield server
    server.kill()


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*TINY_RUN, "--results", URL, "--dispatch", "inline", *arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def start_slow_run(server: S3Server, seeds: int = 5) -> subprocess.Popen[str]:
    """Start a run of trials of some seconds each, and return when one is delivered."""
    driver = start("--backends", "tests.helpers.faulty:Slow", "--seeds", seeds, "--run-id", "x")
    wait_for(lambda: records(server))
    return driver


def records(server: S3Server) -> Counter[str]:
    """Return how many records there are on the server of each trial."""
    files = server.system().glob(f"{URL}/x/records/*.json")
    return Counter(file.rpartition("/")[2].partition("-")[0] for file in files)


def contents(server: S3Server) -> dict[str, bytes]:
    """Return the records on the server as they are."""
    system = server.system()
    return {file: system.cat_file(file) for file in system.glob(f"{URL}/x/records/*.json")}


def waiting(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("records/*.json"))


EVERY_ONE_ONCE = {f"seed{n}": 1 for n in range(5)}


def test_a_suspended_store_costs_nothing(server: S3Server, tmp_path: Path) -> None:
    driver = start_slow_run(server)
    server.suspend()
    wait_for(lambda: len(waiting(tmp_path)) >= 2)  # It goes on measuring.
    server.wake()
    _, errors = driver.communicate(timeout=170)
    assert driver.returncode == 0, errors
    assert "does not answer" in errors
    assert "answers again" in errors
    assert records(server) == EVERY_ONE_ONCE
    assert waiting(tmp_path) == []


def test_a_store_that_comes_back_empty_is_filled_by_resuming(
    server: S3Server, tmp_path: Path
) -> None:
    driver = start_slow_run(server)
    measured = harness.load("x", URL).records[0]
    server.kill()
    _, errors = driver.communicate(timeout=170)
    assert driver.returncode == 74, errors
    assert "Traceback" not in errors
    assert f"harness run --resume x --results {URL}` writes what is missing" in errors
    before = waiting(tmp_path)
    assert len(before) == 4  # All but the one that the store had.

    server.start()
    resume = ("--resume", "x")
    refused = start(*resume)
    _, errors = refused.communicate(timeout=60)
    assert (refused.returncode, waiting(tmp_path)) == (2, before), errors

    server.make_bucket()
    done = start(*resume)
    _, errors = done.communicate(timeout=100)
    assert done.returncode == 0, errors
    assert "was emptied: what waited here is delivered again" in errors
    assert records(server) == EVERY_ONE_ONCE
    assert waiting(tmp_path) == []
    # What was lost with the store was measured again; what waited was not.
    run = harness.load("x", URL)
    again = next(r for r in run.records if r.trial == measured.trial)
    assert again.started_utc > measured.started_utc
    assert run.manifest.finished_utc


def test_a_killed_driver_is_resumed_and_a_living_one_is_not(server: S3Server) -> None:
    driver = start_slow_run(server, seeds=15)  # More than it measures in the time of a second one.
    second = start("--resume", "x")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "is being written by another process" in errors
    before = contents(server)
    driver.kill()
    driver.communicate()
    third = start("--resume", "x")
    _, errors = third.communicate(timeout=250)
    assert third.returncode == 0, errors
    assert "watching for 30 s whether that still lives" in errors
    assert records(server) == {f"seed{n}": 1 for n in range(15)}
    after = contents(server)
    assert all(after[name] == content for name, content in before.items())
