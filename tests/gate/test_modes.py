"""The gate on real repositories, with changes planted in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import ROOT, TINY, in_this_process
from tests.helpers.processes import MARK, wait_for, workers

# The NumPy backend starts fast, and its errors show after 60 steps: parity trains for 20.
BACKEND = """
from harness.measure.clock import now
from backends.reference import ReferenceBackend

SLOWDOWN, LEARNING_RATE, FAULT = 0.0, 1.0, ""


class Mine(ReferenceBackend):
    def train(self, state, x_ETB, y_ETB):
        if FAULT and state.step > 60:
            exec(FAULT)
        start = now()
        if state.step > 60:
            y_ETB = y_ETB * LEARNING_RATE
        result = super().train(state, x_ETB, y_ETB)
        end = now() + SLOWDOWN * (now() - start)
        while now() < end:
            pass
        return result
"""


class Project:
    """A user's git repository with a backend in it, and the gate run there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--initial-branch", "main")
        self.write("mine.py", BACKEND)
        self.commit("before")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.auto=0"]
        command = ["git", *who, *arguments]
        return subprocess.run(
            command, cwd=self.path, check=True, capture_output=True, text=True
        ).stdout

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def plant(self, old: str, new: str, name: str = "mine.py") -> None:
        text = (self.path / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def commit(self, message: str) -> None:
        self.git("add", ".")
        self.git("commit", "--message", message)

    def gate(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        backend = [] if "--backends" in arguments else ["--backends", "mine:Mine"]
        command = [sys.executable, "-m", "harness", "gate", *map(str, arguments)]
        return subprocess.run(
            [*command, *backend, "--devices", "cpu"],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=170,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        )

    def refused(self, *arguments: object) -> str:
        """Call the gate in this process; return the sentence with which it refuses."""
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(self.path))
            backend = [] if "--backends" in arguments else ["--backends", "mine:Mine"]
            patch.chdir(self.path)
            done = in_this_process("gate", *arguments, *backend, "--devices", "cpu")
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        return done.stderr

    def verdict(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        """Run the gate; return its exit code, and its judgements by metric."""
        file = self.path.parent / "verdict.json"
        done = self.gate(*TINY, *arguments, "--json", file)
        assert file.exists(), done.stderr
        judgements = json.loads(file.read_text())["findings"]
        return done.returncode, {judgement["metric"]: judgement for judgement in judgements}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    path = tmp_path / "project"
    path.mkdir()
    return Project(path)


# So tiny a training is noisier than a real one.
LENIENT = ("--max-slowdown", "60%", "--budget", "100s")


def test_the_same_code_passes(project: Project) -> None:
    done = project.gate("--against", "main", *TINY, *LENIENT)
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


def test_the_index_of_a_hook_is_left_alone(project: Project) -> None:
    """Git tells its hooks of the index in the environment, and other commands obey that."""
    project.write("staged.txt", "of value")
    project.git("add", "staged.txt")
    before = project.git("status", "--porcelain")
    project.gate(
        *("--against", "HEAD", "--budget", "1ms", *TINY),
        GIT_DIR=str(project.path / ".git"),
        GIT_INDEX_FILE=str(project.path / ".git" / "index"),
    )
    assert project.git("status", "--porcelain") == before == "A  staged.txt\n"


def test_an_environment_inside_the_repository_is_no_part_of_it(project: Project) -> None:
    """Installed packages lie under the root then, and are the same for both versions."""
    environment = project.path / ".venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", environment],
        check=True,
    )
    packages = next(environment.glob("lib/python*/site-packages"))
    for package in ("harness", "backends"):
        shutil.copytree(ROOT / package, packages / package)
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "others.pth").write_text(here)
    project.write(".gitignore", ".venv")
    done = subprocess.run(
        [
            *(str(environment / "bin" / "python"), "-m", "harness", "gate", "--against", "HEAD"),
            *("--backends", "mine:Mine", "--devices", "cpu", *TINY, *LENIENT),
        ],
        cwd=project.path,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The harness is the same in both versions" in done.stdout
    assert "The code of mine:Mine" not in done.stdout


def test_a_module_that_the_reference_would_borrow_is_refused(project: Project) -> None:
    """A helper that only the working tree's folder has on the path."""
    helpers = project.path / "src"
    helpers.mkdir()
    (helpers / "helper.py").write_text("FACTOR = 1.0")
    finder = project.path.parent / "elsewhere"
    finder.mkdir()
    (finder / "mine_finder.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        file = {str(helpers / 'helper.py')!r}\n"
        "        if name == 'helper':\n"
        "            return importlib.util.spec_from_file_location(name, file)\n"
        "sys.meta_path.append(Finder())\n"
    )
    project.plant("SLOWDOWN, L", "import mine_finder, helper\nSLOWDOWN, L")
    project.commit("with a helper")
    done = project.gate("--against", "HEAD", *TINY, PYTHONPATH=str(finder))
    assert done.returncode == 2
    assert "would use" in done.stderr
    assert "helper.py` of the working tree" in done.stderr


def test_a_wrong_gradient_is_found_before_anything_is_timed(project: Project) -> None:
    project.plant(
        "if state.step > 60:", "if True:\n            y_ETB = y_ETB + 1e-3\n        if 0:"
    )
    code, found = project.verdict("--against", "HEAD")
    assert code == 1
    assert list(found) == ["parity"]


def test_a_version_that_crashes_is_a_regression(project: Project) -> None:
    project.plant('1.0, ""', '1.0, "import os; os._exit(3)"')
    code, found = project.verdict("--against", "HEAD", *LENIENT)
    assert code == 1
    assert "ended by itself with exit code 3" in found["training"]["reason"]
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
    assert {judgement["reason"] for judgement in found.values()} == {""}


@pytest.fixture
def vendored(project: Project) -> Project:
    """A repository that holds the harness itself, as the project's own does."""
    for package in ("harness", "backends"):
        shutil.copytree(
            ROOT / package, project.path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    project.commit("with the harness")
    return project


def test_a_change_of_the_harness_itself_is_found(vendored: Project) -> None:
    """A default that teaches more slowly: parity has a rate of its own, so only training shows."""
    vendored.plant("Field(1e-3, gt=0", "Field(3e-2, gt=0", "harness/task/task.py")
    vendored.commit("learns fast")
    vendored.plant("Field(3e-2, gt=0", "Field(1e-5, gt=0", "harness/task/task.py")
    code, found = vendored.verdict("--against", "HEAD", *LENIENT)
    assert code == 1
    assert found["final_mse"]["outcome"] == "regression"


def test_a_reference_may_be_older(vendored: Project) -> None:
    """The worker of each version has its own layout; the older one lacks a field of the task."""
    harness = vendored.path / "harness"
    here, there = "from harness.measure import stepwise", "from harness import turns as stepwise"
    task = (harness / "task" / "task.py").read_text()
    older = [line for line in task.splitlines(keepends=True) if "gradient" not in line]
    (harness / "task" / "task.py").write_text("".join(older))
    (harness / "measure" / "stepwise.py").rename(harness / "turns.py")
    vendored.plant(here, there, "harness/worker.py")
    vendored.commit("another layout")
    (harness / "task" / "task.py").write_text(task)
    (harness / "turns.py").rename(harness / "measure" / "stepwise.py")
    vendored.plant(there, here, "harness/worker.py")
    code, found = vendored.verdict("--against", "HEAD", *LENIENT)
    assert code == 0
    assert found["accuracy"]["outcome"] == "pass"


def test_a_task_with_less_to_do_by_default_is_no_speed_up(vendored: Project) -> None:
    vendored.plant("Field(32, ge=1", "Field(16, ge=1", "harness/task/task.py")
    size = [*TINY]
    del size[size.index("batch_size=4") - 1 : size.index("batch_size=4") + 1]
    done = vendored.gate("--against", "HEAD", *size)
    assert done.returncode == 2
    assert "`batch_size` (32 there, 16 here)" in done.stderr


def test_a_reference_without_the_gate_is_refused(vendored: Project) -> None:
    worker = vendored.path / "harness" / "worker.py"
    today = worker.read_text()
    worker.write_text(today.replace('"turns"', '"unheard of"'))
    vendored.commit("before the gate")
    worker.write_text(today)
    done = vendored.gate("--against", "HEAD", *TINY)
    assert done.returncode == 2
    assert "is from before the gate" in done.stderr


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("mian", "unknown git reference `mian` (did you mean `main`?)"),
        ("--help", "unknown git reference `--help`"),
        ("HEAD~5", "unknown git reference `HEAD~5`"),
    ],
)
def test_a_reference_that_is_none(project: Project, reference: str, sentence: str) -> None:
    assert sentence in project.refused(f"--against={reference}", *TINY)


def test_a_backend_that_cannot_be_imported(project: Project) -> None:
    (project.path / "package").mkdir()
    project.write("package/__init__.py", "1 / 0")
    project.write("package/module.py", BACKEND)
    done = project.gate("--against", "HEAD", "--backends", "package.module:Mine", *TINY)
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr


def test_outside_a_repository(project: Project) -> None:
    shutil.rmtree(project.path / ".git")
    assert "not a git repository" in project.refused("--against", "main", *TINY)


@pytest.fixture(scope="module")
def with_baseline(tmp_path_factory: pytest.TempPathFactory) -> Project:
    path = tmp_path_factory.mktemp("gate") / "project"
    path.mkdir()
    project = Project(path)
    done = project.gate("--write-baseline", "baseline.json", *TINY)
    assert done.returncode == 0, done.stderr
    return project


def doctored(project: Project, **changes: object) -> Path:
    """Return a copy of the baseline with some fields changed."""
    content = json.loads((project.path / "baseline.json").read_text()) | changes
    path = project.path / "doctored.json"
    path.write_text(json.dumps(content))
    return path


def test_a_baseline_holds_ratios_and_errors(with_baseline: Project) -> None:
    content = json.loads((with_baseline.path / "baseline.json").read_text())
    (arm,) = content["arms"]
    assert len(arm["log_ratios"]) == len(arm["step_mse"]) == 12
    # It is the yardstick itself, so it takes as long.
    assert all(abs(ratio) < 0.7 for ratio in arm["log_ratios"])


@pytest.mark.slow
def test_against_a_baseline(with_baseline: Project) -> None:
    done = with_baseline.gate("--baseline", "baseline.json", "--max-slowdown", "80%")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ms an epoch in the baseline" in done.stdout
    with_baseline.plant("= 0.0, 1.0", "= 2.0, 5.0")
    code, found = with_baseline.verdict("--baseline", "baseline.json")
    with_baseline.git("checkout", "mine.py")
    assert code == 1
    assert found["train time"]["outcome"] == "regression"


def test_a_baseline_from_another_machine_allows_more(with_baseline: Project) -> None:
    content = json.loads((with_baseline.path / "baseline.json").read_text())
    moved = doctored(with_baseline, fingerprint=content["fingerprint"] | {"cpu": "Z80"})
    done = with_baseline.gate("--baseline", moved, "--budget", "1ms")
    assert done.returncode == 3
    assert "cpu: Z80 there" in done.stdout
    assert "10 % against" in done.stdout
    assert "ms an epoch" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema_version": 99}, "newer version of the harness"),
        ({"arms": []}, "arms: Tuple should have at least 1 item"),
        ({"task": {"rho": 7}}, "`rho` = 7"),
        ({"arms": None}, "cannot be read as a baseline"),
        ({"task": {"n_steps": 6}}, "not those of its task's time steps"),
        ({"arms": [{"epochs_per_turn": [0, 0]}]}, "cannot be read as a baseline"),
        ({"yardstick_version": {"code": "other"}}, "is not what it was"),
        ({"yardstick": "process:x"}, "is 'process:x', and yours is 'reference'"),
    ],
)
def test_a_baseline_that_is_none(
    with_baseline: Project, changes: dict[str, object], sentence: str
) -> None:
    assert sentence in with_baseline.refused("--baseline", doctored(with_baseline, **changes))


def test_a_baseline_does_not_choose_what_is_imported(with_baseline: Project) -> None:
    with_baseline.write("evil.py", "import pathlib\npathlib.Path('ran').touch()\n" + BACKEND)
    for name in ("evil:Mine", "flux", "evil\x1b[2J"):
        sentence = with_baseline.refused("--baseline", doctored(with_baseline, yardstick=name))
        assert f"is {name!r}, and yours is 'reference'" in sentence
    assert not (with_baseline.path / "ran").exists()


def test_nothing_measured_within_the_budget_of_a_baseline(with_baseline: Project) -> None:
    done = with_baseline.gate("--baseline", "baseline.json", "--budget", "1ms")
    assert done.returncode == 3
    assert "The budget of 0.001 s is spent." in done.stdout


def test_a_baseline_of_something_else(with_baseline: Project) -> None:
    refused = with_baseline.refused
    assert "No such file" in refused("--baseline", "nowhere.json")
    assert "another task" in refused("--baseline", "baseline.json", "--preset", "posted")
    backend = refused("--baseline", "baseline.json", "--backends", "reference")
    assert "does not hold `reference on cpu`" in backend
    with_baseline.write("broken.json", "{")
    assert "cannot be read as a baseline" in refused("--baseline", "broken.json")
