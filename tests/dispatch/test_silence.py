"""A cluster that is silent, in part or whole, and one that asks for a token: each has its sentence.

What is silent takes connections and never answers: so does a host that has lost its power or cable.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.helpers.clusters import HEAD, IMPATIENT, check_whole, local_cluster, trial_on
from benchmarks.helpers.head import TOKEN, Head
from harness import Run
from tests.dispatch.test_cluster import SLOW, ends, start
from tests.helpers.commands import TINY_RUN, Cli
from tests.helpers.processes import wait_for

pytestmark = pytest.mark.slow

RUN = (*TINY_RUN, "--backends", "reference", "--seeds", 1, "--no-report")


@pytest.fixture
def silence() -> Iterator[str]:
    """The address of something that never answers."""
    with socket.create_server(("", 0)) as server:  # Ray asks by the address of the host.
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Head]:
    """A head that asks for a token."""
    with Head() as head:
        yield head


@pytest.mark.parametrize("words", [("doctor",), RUN])
def test_a_head_that_is_silent_from_the_start_is_not_waited_for(
    silence: str, tmp_path: Path, program: Cli, words: tuple[object, ...]
) -> None:
    done = program(*words, "--address", silence, "--results", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "no head of a cluster answered for 20 s" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_job_server_that_is_silent_is_not_waited_for(
    silence: str, tmp_path: Path, program: Cli
) -> None:
    where = ("--address", f"http://{silence}", "--results", tmp_path)
    done = program("submit", *where, "--", *TINY_RUN, "--backends", "reference")
    assert done.returncode == 2, done.stderr
    assert "has not answered for 20 s: is the head of the cluster alive?" in done.stderr


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("gcs_server", "the head of the Ray cluster does not answer any more"),
        ("", "the head of the Ray cluster does not answer any more"),
        ("raylet", "the head has given that node up"),
    ],
)
def test_a_head_that_falls_silent_ends_the_run_and_loses_nothing(
    tmp_path: Path, program: Cli, which: str, sentence: str
) -> None:
    with local_cluster(IMPATIENT, a={"cpus": 1}) as cluster:
        driver = start(cluster, tmp_path, "--backends", f"reference,{SLOW}", "--seeds", 3)
        records = tmp_path / "x" / "records"
        wait_for(lambda: len(list(records.glob("*.json"))) >= 2)
        silenced = cluster.silence(HEAD, which)
        code, errors = ends(driver)
        before = {path: path.read_bytes() for path in records.glob("*.json")}
        finished = sum(json.loads(content)["status"] == "ok" for content in before.values())
        cluster.wake(silenced)
    assert code == 74, errors
    assert sentence in errors
    assert f"{finished} of 6 trials are finished and kept" in errors
    assert "harness run --resume x" in errors
    done = program("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    assert done.returncode == 0, done.stderr
    check_whole(Run("x", tmp_path))
    assert {path: path.read_bytes() for path in before} == before


def test_a_node_that_comes_back_after_its_death_harms_nothing(tmp_path: Path) -> None:
    with local_cluster(IMPATIENT, a={"cpus": 1}, doomed={"cpus": 1}) as cluster:
        driver = start(cluster, tmp_path, "--backends", f"reference,{SLOW}", "--seeds", 3)
        wait_for(lambda: trial_on(cluster.raylet("doomed"), SLOW))
        silenced = cluster.silence("doomed")
        records = tmp_path / "x" / "records"
        wait_for(lambda: any(b'"lost"' in path.read_bytes() for path in records.glob("*.json")))
        cluster.wake(silenced)
        code, errors = ends(driver)
    assert code == 0, errors
    run = Run("x", tmp_path)
    check_whole(run)
    assert (run.trials["status"] == "ok").all()
    assert "doomed was lost with block" in errors
    assert len({(r.trial, r.attempt) for r in run.attempts}) == len(run.attempts)


def test_a_token_that_nobody_asks_for_is_not_sent(tmp_path: Path, program: Cli) -> None:
    given = {"RAY_AUTH_TOKEN": TOKEN}
    with local_cluster(IMPATIENT, a={"cpus": 1}) as cluster:
        where = ("--address", cluster.address, "--results", tmp_path)
        done = program(*RUN, *where, RAY_AUTH_MODE="", **given)
        demanding = program(*RUN, *where, RAY_AUTH_MODE="token", **given)
    assert done.returncode == 0, done.stderr
    assert demanding.returncode == 2
    assert "asks for no token, and RAY_AUTH_MODE=token demands one" in demanding.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"HOME": "/"}, "asks for a token, and there is none here: the head has it in"),
        ({"RAY_AUTH_TOKEN": "x" * 32}, "asks for a token, and the token here is not its own"),
        ({"RAY_AUTH_TOKEN": "a\nb"}, "RAY_AUTH_TOKEN has no token for Ray: it is not one word"),
        ({"RAY_AUTH_TOKEN_PATH": "/no/where"}, "`/no/where` has no token for Ray: No such file"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled keeps it from being sent"),
        ({}, ""),
    ],
)
def test_a_token_that_is_asked_for(
    guarded: Head, program: Cli, variables: dict[str, str], sentence: str
) -> None:
    variables = {"HOME": str(guarded.home), "RAY_AUTH_MODE": ""} | variables
    done = program("doctor", "--address", guarded.address, **variables)
    if not sentence:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor_names_a_node_that_does_not_answer(program: Cli) -> None:
    patient = {"health_check_timeout_ms": 120_000}
    with local_cluster(patient, a={"cpus": 1}) as cluster:
        silenced = cluster.silence("a")
        done = program("doctor", "--address", cluster.address, "--strict")
        cluster.wake(silenced)
    assert done.returncode == 1, done.stderr
    assert "node a cannot be used: it has not answered for 60 s" in done.stdout
