"""What belongs to either version: the harness, modules, an environment, the index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.gate.checkout import checkout, describe_working_tree
from tests.helpers.commands import ROOT, TINY
from tests.helpers.project import LENIENT, Project


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
    assert "The harness is the same" not in done.stdout
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
    done = project.in_a_process("--against", "HEAD", *TINY, PYTHONPATH=str(finder))
    assert done.returncode == 2
    assert "would use" in done.stderr
    assert "helper.py` of the working tree" in done.stderr


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
    vendored.plant("        32, ge=1", "        16, ge=1", "harness/task/task.py")
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


def test_outputs_are_no_changes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    outputs = [Path("gate.md"), project.path / "out" / "gate [1].json", Path("/elsewhere/gate.xml")]
    (project.path / "out").mkdir()
    for name in ("gate.md", "out/gate [1].json"):
        project.write(name, "")
    for folder in ("results/mine", "__pycache__", "out/__pycache__"):
        (project.path / folder).mkdir(parents=True)
        project.write(f"{folder}/file", "")

    def described() -> tuple[str, bool]:
        with checkout("HEAD", [], outputs) as versions:
            assert describe_working_tree(outputs) == versions.working_name
            return versions.working_name.partition(", ")[2], versions.identical

    assert described() == ("", True)
    project.write("out/other.md", "")
    assert described() == ("with changes)", False)
    (project.path / "out" / "other.md").unlink()
    project.commit("with outputs and results")
    project.write("gate.md", "other")
    assert described() == ("", True)
    project.write("results/mine/file", "other")
    assert described() == ("with changes)", False)


def test_outside_a_repository(project: Project) -> None:
    shutil.rmtree(project.path / ".git")
    assert "not a git repository" in project.refused("--against", "main", *TINY)
