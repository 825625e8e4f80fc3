"""Trials of a backend that share a process: the same numbers, and failures stay apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.helpers.clusters import LocalCluster, local_cluster
from harness import Run
from harness.trial.record import Record
from tests.helpers.commands import TINY, Cli

DIES, RAISES, HANGS = (f"tests.helpers.faulty:Second{name}" for name in ("Dies", "Raises", "Hangs"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(a={"cpus": 1}) as cluster:
        yield cluster


def run_of(cli: Cli, results: Path, name: str, *given: object, code: int = 0) -> Run:
    done = cli("run", *TINY, "--results", results, "--run-id", name, *given)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return Run(name, results)


def numbers(run: Run) -> dict[str, object]:
    """Return all that a trial computed, by its name; none of it is rounded."""
    return {
        r.trial: ([(p.epoch, p.train_loss, p.eval_mse) for p in r.points], r.step_mse)
        for r in run.records
    }


def in_order(run: Run, backend: str) -> list[Record]:
    """Return the records of a backend in the order in which they were measured."""
    return sorted((r for r in run.records if r.backend == backend), key=lambda r: r.started_utc)


@pytest.mark.parametrize(
    "backends",
    [("reference",), pytest.param(("torch", "jax", "reference"), marks=pytest.mark.slow)],
    ids=",".join,
)
def test_a_shared_process_gets_the_same_numbers(
    tmp_path: Path, cli: Cli, backends: tuple[str, ...]
) -> None:
    given = ("--backends", ",".join(backends), "--dispatch", "inline", "--seeds", 3)
    alone = run_of(cli, tmp_path, "alone", *given)
    shared = run_of(cli, tmp_path, "shared", *given, "--isolation", "backend")
    assert numbers(shared) == numbers(alone)
    assert {r.trials_before for r in alone.records} == {0}
    for backend in backends:
        assert [r.trials_before for r in in_order(shared, backend)] == [0, 1, 2]
    assert {r.isolation for r in shared.records} == {"backend"}


@pytest.mark.slow
def test_a_shared_process_gets_the_same_numbers_on_a_cluster(
    cluster: LocalCluster, tmp_path: Path, cli: Cli
) -> None:
    given = ("--backends", "torch,reference", "--seeds", 3)
    alone = run_of(cli, tmp_path, "alone", *given, "--dispatch", "inline")
    where = ("--address", cluster.address, "--isolation", "backend")
    for name, how in (("exclusive", ()), ("packed", ("--packed",))):
        shared = run_of(cli, tmp_path, name, *given, *where, *how)
        assert numbers(shared) == numbers(alone)
        for backend in ("torch", "reference"):
            assert [r.trials_before for r in in_order(shared, backend)] == [0, 1, 2]


@pytest.mark.parametrize("dispatch", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_failing_trial_does_not_affect_others_of_its_process(
    tmp_path: Path, cli: Cli, request: pytest.FixtureRequest, dispatch: str
) -> None:
    where: tuple[object, ...] = ("--dispatch", "inline")
    if dispatch == "ray":
        where = ("--address", request.getfixturevalue("cluster").address)
    backends = ("--backends", f"{DIES},{RAISES},{HANGS}")
    given = (*backends, "--seeds", 3, "--timeout", 15, "--isolation", "backend")
    run = run_of(cli, tmp_path, "x", *given, *where, code=1)
    assert len(run.records) == 9
    for backend, status in ((DIES, "failed"), (RAISES, "failed"), (HANGS, "timeout")):
        records = in_order(run, backend)
        assert [r.status for r in records] == ["ok", status, "ok"]
        # After a failure, the next trial gets a new process.
        assert [r.trials_before for r in records] == [0, 1, 0]
