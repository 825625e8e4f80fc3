"""Runs on a cluster of several nodes, real raylets on this machine, and their failures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.helpers.clusters import (
    IMPATIENT,
    LocalCluster,
    check_whole,
    local_cluster,
    trial_on,
    trials_on,
)
from harness import Run
from tests.helpers.commands import ROOT, TINY_RUN, Cli, command, overriding, shown, typed
from tests.helpers.processes import wait_for

SLOW, ANY, SLOW_ANY = (
    f"tests.helpers.faulty:{name}" for name in ("Slow", "AnyDevice", "SlowAnyDevice")
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(IMPATIENT, a={"cpus": 2}, g={"cpus": 1, "gpus": 2}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[LocalCluster]:
    """The smallest cluster, for tests that measure nothing."""
    with local_cluster(a={"cpus": 2}) as cluster:
        yield cluster


def start(cluster: LocalCluster, results: Path, *given: object) -> subprocess.Popen[str]:
    """Start a run under the id `x`."""
    where = ("--address", cluster.address, "--results", results, "--run-id", "x")
    return subprocess.Popen(
        command(*overriding(*TINY_RUN, *where, *given)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def ends(driver: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = driver.communicate(timeout=150)
    assert "Traceback" not in errors
    assert "Raylet is terminated" not in output  # Ray prints the end of its log, twice.
    return driver.returncode, errors


@pytest.mark.slow
def test_blocks_stay_on_one_node_and_gpu_trials_see_one_gpu(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    given = ("--backends", f"{ANY},{SLOW_ANY}", "--devices", "cpu,gpu", "--seeds", 4)
    code, errors = ends(start(cluster, tmp_path, *given))
    assert code == 0, errors
    run = Run("x", tmp_path)
    check_whole(run)
    assert set(run.trials["node"]) == {"a", "g"}
    on_gpu = [record for record in run.records if record.device == "gpu"]
    assert {record.node for record in on_gpu} == {"g"}
    assert {record.environment["env:CUDA_VISIBLE_DEVICES"] for record in on_gpu} <= {"0", "1"}
    assert {
        r.environment["env:CUDA_VISIBLE_DEVICES"] for r in run.records if r.device == "cpu"
    } == {""}
    # Every backend is compared with the reference on every node that it may be timed on.
    certified = {(c.backend, c.device, c.node) for c in run.manifest.parity if c.passed}
    nodes = {"cpu": "ag", "gpu": "g"}
    assert certified == {(b, d, n) for b in (ANY, SLOW_ANY) for d in nodes for n in nodes[d]}
    assert not run.trials["contended"].any()


@pytest.mark.slow
def test_packed_fills_the_cores_of_every_node(cluster: LocalCluster, tmp_path: Path) -> None:
    driver = start(cluster, tmp_path, "--backends", SLOW, "--packed", "--seeds", 6)
    a, g = cluster.raylet("a"), cluster.raylet("g")

    def full() -> bool:
        return (len(trials_on(a)), len(trials_on(g))) == (2, 1)

    wait_for(full)
    code, errors = ends(driver)
    assert code == 0, errors
    run = Run("x", tmp_path)
    check_whole(run)
    assert run.trials["contended"].all()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["node", "raylet", "worker", "silent node"])
def test_a_block_that_is_lost_is_repeated_whole_elsewhere(
    cluster: LocalCluster, tmp_path: Path, how: str
) -> None:
    cluster.add("doomed")
    # Long enough that the trial has not ended when its Ray worker finds its raylet gone.
    long = ("--set", "epochs=200", "--set", "curve_points=50")
    given = ("--backends", f"reference,{SLOW}", "--seeds", 3, *long)
    driver = start(cluster, tmp_path, *given)
    raylet = cluster.raylet("doomed")
    trial = wait_for(lambda: trial_on(raylet, SLOW))
    if how == "worker":
        trial.parent().kill()
    elif how == "raylet":
        raylet.kill()
    elif how == "silent node":
        cluster.silence("doomed")
    else:
        cluster.remove("doomed")
    code, errors = ends(driver)
    if how != "node":
        cluster.remove("doomed")
    assert code == 0, errors
    run = Run("x", tmp_path)
    check_whole(run)
    assert (run.trials["status"] == "ok").all()
    # All trials of a block are alive together, and lost together.
    lost = [record for record in run.attempts if record.status == "lost"]
    if how == "raylet":
        # Its Ray workers may finish their trials first: then nothing is lost.
        assert len({record.block for record in lost}) <= 1
        return
    (block,) = {record.block for record in lost}
    assert {record.node for record in lost} == {"doomed"}
    assert SLOW in {record.backend for record in lost}
    repeated = run.trials[run.trials["block"] == block]
    assert "doomed" not in set(repeated["node"]), errors
    told = run.trials.set_index("trial")["lost"]
    assert {told[record.trial] for record in lost} == {"attempt 1 on doomed"}
    # Trials of the block that had ended on it are kept, and do not count.
    before = [r for r in run.attempts if r.block == block and r.node == "doomed"]
    assert len(run.attempts) == len(run.trials) + len(before)
    assert f"doomed was lost with block {block}" in errors


@pytest.mark.slow
def test_a_node_that_joins_late_is_certified_and_used(
    cluster: LocalCluster, tmp_path: Path, cli: Cli
) -> None:
    driver = start(cluster, tmp_path, "--backends", f"reference,{SLOW}", "--seeds", 8)
    wait_for(lambda: list((tmp_path / "x" / "records").glob("*.json")))
    cluster.add("late")
    code, errors = ends(driver)
    cluster.remove("late")
    assert code == 0, errors
    run = Run("x", tmp_path)
    check_whole(run)
    assert "late" in set(run.trials["node"])
    assert {c.backend for c in run.manifest.parity if c.node == "late"} == {"reference", SLOW}
    assert "node late has joined" in errors
    shown = cli("show", "x", "--results", tmp_path, "--table", "trials", "--format", "csv")
    assert ",late," in shown.stdout


@pytest.mark.slow
def test_a_killed_driver_is_resumed_by_other_nodes(
    cluster: LocalCluster, tmp_path: Path, cli: Cli
) -> None:
    given = ("--backends", f"reference,{SLOW}", "--seeds", 4)
    driver = start(cluster, tmp_path, *given)
    records = tmp_path / "x" / "records"
    wait_for(lambda: len(list(records.glob("*.json"))) >= 3)
    driver.kill()
    driver.communicate()
    before = {path: path.read_bytes() for path in records.glob("*.json")}
    where = ("--results", tmp_path, "--dispatch", "inline")
    done = cli("run", "--resume", "x", *where)
    assert done.returncode == 0, done.stderr
    run = Run("x", tmp_path)
    check_whole(run)
    assert (run.trials["status"] == "ok").all()
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_two_drivers_share_a_cluster_and_a_results_folder(
    cluster: LocalCluster, tmp_path: Path, cli: Cli
) -> None:
    given = ("--backends", f"reference,{SLOW}", "--seeds", 2)
    first = start(cluster, tmp_path, *given)
    wait_for((tmp_path / "x" / "manifest.json").exists)
    where = ("--address", cluster.address, "--results", tmp_path)
    same = cli(*TINY_RUN, *where, *given, "--run-id", "x")
    assert same.returncode == 2
    assert "exists already" in same.stderr
    resumed = cli("run", "--resume", "x", *where)
    assert resumed.returncode == 2
    assert "is being written by another process" in resumed.stderr
    second = cli(*TINY_RUN, *where, *given, "--run-id", "y")
    assert second.returncode == 0, second.stderr
    assert ends(first)[0] == 0
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    for name in ("x", "y"):
        run = Run(name, tmp_path)
        check_whole(run)
        assert (run.trials["status"] == "ok").all()
        for block in {record.block for record in run.records}:
            mine = [record for record in run.records if record.block == block]
            starts = [datetime.fromisoformat(record.started_utc) for record in mine]
            ends_of = [s + timedelta(seconds=r.wall_s) for s, r in zip(starts, mine, strict=True)]
            spans.setdefault(mine[0].node, []).append((min(starts), max(ends_of)))
    # Neither has timed a block beside one of the other; times are in whole seconds.
    for node in spans.values():
        node.sort()
        for (_, ended), (began, _) in pairwise(node):
            assert began > ended - timedelta(seconds=1)


def test_doctor_shows_the_nodes_side_by_side(two_nodes: LocalCluster, cli: Cli) -> None:
    done = cli("doctor", "--address", two_nodes.address, "--format", "csv")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert set(head.split(",")) == {"what", "a", "head"}
    (torch,) = [row.split(",") for row in rows if row.startswith("version:torch")]
    assert torch[1] == torch[2] != ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--threads", 64), "no node of the cluster has 64 cores."),
        (
            ("--runtime-env", "{env}"),
            "unknown field `env_var` (did you mean `env_vars`?)",
        ),
        (("--wait-nodes", "soon"), "`--wait-nodes soon`"),
        (("--max-retries", -1), "`--max-retries -1`"),
        (("--dispatch", "inline"), "`--address` and `--runtime-env` are for Ray"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    two_nodes: LocalCluster, tmp_path: Path, cli: Cli, given: tuple[object, ...], sentence: str
) -> None:
    env = tmp_path / "env.yaml"
    env.write_text("env_var: {A: b}\n")
    given = tuple(str(word).format(env=env) for word in given)
    where = ("--address", two_nodes.address, "--results", tmp_path / "r", "--wait-nodes", "0s")
    done = cli(*TINY_RUN, "--backends", "reference", *where, *given)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "r").glob("*"))


@pytest.mark.slow
def test_a_runtime_environment_reaches_the_trials(cluster: LocalCluster, tmp_path: Path) -> None:
    env = tmp_path / "env.yaml"
    env.write_text("env_vars: {XLA_HINT: hello}\n")
    given = ("--backends", "reference", "--seeds", 1, "--runtime-env", env)
    code, errors = ends(start(cluster, tmp_path, *given))
    assert code == 0, errors
    assert Run("x", tmp_path).records[0].environment["env:XLA_HINT"] == "hello"


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.6, 0.9])
def test_a_run_that_is_stopped_while_it_joins_says_so(
    two_nodes: LocalCluster, tmp_path: Path, after_s: float
) -> None:
    driver = start(two_nodes, tmp_path, "--backends", "reference")
    wait_for((tmp_path / "x" / "manifest.json").exists)  # It joins the cluster next.
    time.sleep(after_s)
    driver.terminate()
    code, errors = ends(driver)
    assert code == 130
    assert errors.splitlines()[-1] == "error: interrupted"


@pytest.mark.slow
def test_a_lost_head_ends_the_run_with_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    with local_cluster(a={"cpus": 1}) as own:
        driver = start(own, tmp_path, "--backends", f"reference,{SLOW}", "--seeds", 3)
        records = tmp_path / "x" / "records"
        wait_for(lambda: len(list(records.glob("*.json"))) >= 2)
        own.kill_head()
        code, errors = ends(driver)
    assert code == 74
    assert "the head of the Ray cluster does not answer any more" in errors
    (resume,) = shown(errors)
    finished = len(list(records.glob("*.json")))
    assert len(Run("x", tmp_path).records) == finished
    done = typed(resume)
    assert done.returncode == 0, done.stderr
    check_whole(Run("x", tmp_path))


@pytest.mark.slow
def test_a_run_completes_while_others_fill_the_object_stores(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    hog = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.helpers.hog", cluster.address, "3600"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert hog.stdout is not None
        assert hog.stdout.readline().startswith("full")
        # So many points that a record is too large for Ray to send it without its object store.
        long = ("--set", "epochs=2000", "--set", "curve_points=2000")
        given = ("--backends", "reference", "--seeds", 2, *long)
        code, errors = ends(start(cluster, tmp_path, *given))
    finally:
        hog.kill()
        hog.communicate()
    assert code == 0, errors
    run = Run("x", tmp_path)
    check_whole(run)
    assert (run.trials["status"] == "ok").all()
    # Too much to travel without an object store: each point and each chunk is some 100 bytes.
    assert all(len(r.points) + len(r.chunks) >= 2000 for r in run.records)
