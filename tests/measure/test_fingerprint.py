"""Which nodes are of one kind, and what a trial says of the code and the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

import harness
from harness import Task
from harness.measure import machine
from harness.measure.fingerprint import differences, fingerprint
from harness.measure.git import describe_source

TASK = Task(n_steps=5, batch_size=4, epochs=20, curve_points=10, eval_paths=20)
NODE = {
    "node": "a",
    "cpu": "AMD EPYC",
    "cores": "8",
    "cores_used": "7",
    "memory_gb": "33.61",
    "os": "Debian",
    "python": "CPython 3.11.2",
    "env:OMP_NUM_THREADS": "1",
    "version:torch": "2.9",
    "commit:harness": "3f2a",
}


def test_the_node_decides_and_not_what_is_compared() -> None:
    same = NODE | {"node": "b", "version:torch": "2.10", "commit:harness": "4b", "cores_used": "0"}
    same["memory_gb"] = "33.59"
    assert fingerprint(NODE)["cores"] == "1 of 8"
    assert fingerprint(NODE)["threads"] == "1"
    assert differences(fingerprint(NODE), fingerprint(same)) == []


def test_variables_that_change_times_make_another_machine() -> None:
    allocator = NODE | {"env:LD_PRELOAD": "/lib/jemalloc.so", "env:CUDA_VISIBLE_DEVICES": "0"}
    assert differences(fingerprint(NODE), fingerprint(allocator)) == [
        "LD_PRELOAD: none there, /lib/jemalloc.so here"
    ]
    own = NODE | {"setting:XLA_FLAGS": "--set_by_the_backend"}
    assert fingerprint(own) == fingerprint(NODE)


def test_differences_are_told_in_words() -> None:
    other = NODE | {"cpu": "Xeon", "gpu": "NVIDIA H200"}
    assert differences(fingerprint(NODE, threads=1), fingerprint(other, threads=2)) == [
        "cpu: AMD EPYC there, Xeon here",
        "threads: 1 there, 2 here",
        "gpu: none there, NVIDIA H200 here",
    ]


def test_a_record_without_an_environment_has_no_fingerprint() -> None:
    assert fingerprint({}) == {}


def test_a_trial_says_where_and_what_it_measured(tmp_path: Path) -> None:
    run = harness.run(
        TASK, backends=["reference"], seeds=1, rounds=2, dispatch="inline", results=tmp_path
    )
    (record,) = run.records
    environment = record.environment
    assert record.cores is not None
    assert environment["cores_used"] == ",".join(map(str, record.cores))
    assert environment["version:numpy"] == np.__version__
    assert environment["env:OMP_NUM_THREADS"] == "1"
    assert {"cpu", "cores", "memory_gb", "os", "kernel", "python"} <= set(environment)
    pools = {name: value for name, value in environment.items() if name.startswith("pool:")}
    assert all(value.endswith("threads=1") for value in pools.values())
    assert "gpu" not in environment
    assert fingerprint(environment, record.threads) == fingerprint(environment)
    assert run.manifest.environment["cores"] == environment["cores"]


def test_the_commit_is_that_of_the_file(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        options = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        command = ["git", *options, *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    code, ignored = tmp_path / "code.py", tmp_path / "ignored" / "code.py"
    code.write_text("1")
    assert describe_source("backend", str(code)) == {}
    git("init", "--quiet")
    assert describe_source("backend", str(code)) == {}
    git("add", "code.py")
    git("commit", "--quiet", "--message", "one")
    clean = {"commit:backend": git("rev-parse", "HEAD"), "dirty:backend": "no"}
    assert describe_source("backend", str(code)) == clean
    (tmp_path / "notes.txt").write_text("mine")
    assert describe_source("backend", str(code)) == clean
    (tmp_path / "new.py").write_text("1")
    assert describe_source("backend", str(tmp_path / "new.py"))["dirty:backend"] == "yes"
    code.write_text("2")
    assert describe_source("backend", str(code)) == clean | {"dirty:backend": "yes"}
    ignored.parent.mkdir()
    ignored.write_text("1")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    assert describe_source("backend", str(ignored)) == {}
    assert describe_source("backend", None) == {}


def test_a_quota_is_a_number_of_cores_or_none() -> None:
    quota = machine.cpu_quota()
    assert quota is None or quota > 0
