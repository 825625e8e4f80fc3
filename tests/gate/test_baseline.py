"""The gate against a stored baseline."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from tests.helpers.commands import TINY
from tests.helpers.project import BACKEND, Project


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
    moved.write_bytes(codecs.BOM_UTF8 + moved.read_bytes())
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
