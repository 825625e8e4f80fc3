"""The gate on real repositories, with changes planted in them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.helpers.commands import TINY
from tests.helpers.processes import MARK, wait_for, workers
from tests.helpers.project import BACKEND, LENIENT, Project


def test_the_same_code_passes(project: Project) -> None:
    done = project.in_a_process("--against", "main", *TINY, *LENIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout
    assert "identical to the bit" in done.stdout
    assert "holds exactly what the reference does" in done.stdout
    assert project.git("status", "--porcelain") == ""


def test_a_slowdown_in_the_working_tree_is_found(project: Project) -> None:
    project.plant("SLOWDOWN, LEARNING_RATE, FAULT = 0.0", "SLOWDOWN, LEARNING_RATE, FAULT = 1.0")
    summary = project.path.parent / "summary.md"
    comment, report = project.path.parent / "comment.md", project.path.parent / "report.xml"
    done = project.gate(
        *("--against", "HEAD", "--markdown", comment, "--junit", report, *TINY),
        GITHUB_STEP_SUMMARY=str(summary),
    )
    assert done.returncode == 1
    change = re.search(r"train time +\+(\d+)\.\d % \[.*REGRESSION", done.stdout)
    assert change is not None, done.stdout
    assert int(change[1]) > 25  # It is 100 %, give or take what a busy machine adds.
    assert ", with changes) against HEAD (" in done.stdout
    assert summary.read_text() == comment.read_text()
    assert "REGRESSION" in comment.read_text()
    assert "<failure" in report.read_text()


def test_a_gate_that_is_interrupted_leaves_nothing_behind(project: Project) -> None:
    command = [sys.executable, "-m", "harness", "gate", "--against", "HEAD", *TINY]
    arguments = ["--backends", "mine:Mine", "--devices", "cpu", "--max-slowdown", "0.1%"]
    with subprocess.Popen(
        [*command, *arguments],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: str(project.path)},
    ) as running:
        assert running.stderr is not None
        while "1 pair" not in running.stderr.readline():
            pass
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=120)
    assert running.returncode == 130
    # One that was being started when the signal came finds its lifeline cut, and ends by itself.
    wait_for(lambda: not workers(project.path))


@pytest.mark.slow
def test_a_committed_slowdown_is_found_and_one_that_was_removed_is_none(project: Project) -> None:
    project.plant("SLOWDOWN, LEARNING_RATE, FAULT = 0.0", "SLOWDOWN, LEARNING_RATE, FAULT = 1.0")
    project.commit("slower")
    assert project.verdict("--against", "HEAD~1")[0] == 1
    project.plant("FAULT = 1.0", "FAULT = 0.0")
    code, found = project.verdict("--against", "HEAD")
    assert code == 0
    assert found["train time"]["change"] < -0.3


@pytest.mark.slow
def test_a_worse_training_is_found_that_parity_cannot_see(project: Project) -> None:
    project.plant("= 0.0, 1.0", "= 0.0, 5.0")
    code, found = project.verdict("--against", "HEAD", *LENIENT)
    assert code == 1
    assert found["final_mse"]["outcome"] == "regression"
    assert found["final_mse"]["change"] > 0.1


@pytest.mark.slow
def test_a_training_that_goes_wrong_late_is_found(project: Project) -> None:
    """Later than turns are taken: every version is trained to the end once."""
    project.plant("if state.step > 60:", "if state.step > 2500:")
    project.commit("late")
    project.plant("= 0.0, 1.0", "= 0.0, 500.0")
    code, found = project.verdict("--against", "HEAD", *LENIENT, "--set", "epochs=3000")
    assert code == 1
    assert found["final_mse"]["outcome"] == "regression"


def test_what_befalls_both_versions_is_nobodys_fault(project: Project) -> None:
    project.plant('1.0, ""', '1.0, "raise RuntimeError(1 / 3)"')
    project.commit("broken")
    project.write("notes.txt", "a change of nothing")
    code, found = project.verdict("--against", "HEAD", *LENIENT)
    assert code == 3
    assert "RuntimeError" in found["training"]["reason"]


def test_a_backend_that_is_new_is_no_verdict(project: Project) -> None:
    project.write("new.py", BACKEND)
    code, found = project.verdict("--against", "HEAD", *LENIENT, "--backends", "new:Mine")
    assert code == 3
    assert "there is no module `new`" in found["training"]["reason"]


def test_a_wrong_gradient_is_found_before_anything_is_timed(project: Project) -> None:
    project.plant(
        "if state.step > 60:", "if True:\n            y_ETB = y_ETB + 1e-3\n        if 0:"
    )
    code, found = project.verdict("--against", "HEAD")
    assert code == 1
    assert list(found) == ["parity"]


def test_a_version_that_crashes_is_a_regression(project: Project) -> None:
    project.plant('1.0, ""', '1.0, "import os; os.write(2, bytes([111, 255, 27])); os._exit(3)"')
    code, found = project.verdict("--against", "HEAD", *LENIENT)
    assert code == 1
    reason = found["training"]["reason"]
    assert "ended by itself with exit code 3" in reason
    assert "; its output ends with: o\ufffd\\x1b" in reason
    assert "working tree" in found["training"]["reason"]


def test_a_reference_that_crashes_is_no_verdict(project: Project) -> None:
    project.plant('1.0, ""', '1.0, "raise RuntimeError(1 / 3)"')
    project.commit("broken")
    project.plant("raise", "pass  # raise")
    code, found = project.verdict("--against", "HEAD", *LENIENT)
    assert code == 3
    assert "RuntimeError" in found["training"]["reason"]
    assert "HEAD" in found["training"]["reason"]


def test_a_budget_that_is_spent_is_no_verdict(project: Project) -> None:
    code, found = project.verdict("--against", "HEAD", "--budget", "1ms")
    assert code == 3
    assert {judgement["outcome"] for judgement in found.values()} == {"inconclusive"}
    assert found["train time"]["reason"].startswith(
        "only 0 of at least 4 pairs fitted into the budget: measure longer (`--budget "
    )


def test_a_backend_that_cannot_be_imported(project: Project) -> None:
    (project.path / "package").mkdir()
    project.write("package/__init__.py", "1 / 0")
    project.write("package/module.py", BACKEND)
    done = project.gate("--against", "HEAD", "--backends", "package.module:Mine", *TINY)
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
