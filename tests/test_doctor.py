"""The machine's check-up: every check is there, whatever the machine; no time matters."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness import doctor
from harness.measure import machine, settings
from tests.helpers.commands import Cli

CHECKS = (
    *("governor", "turbo", "load", "cores", "cpu quota", "variables", "steal", "clock"),
    *("memory", "disk", "A/A ratio", "A/A spread"),
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A self-test of few pairs, not of seconds."""
    monkeypatch.setattr(doctor.self_test, "__defaults__", (3,))


def test_every_check(cli: Cli, short: None, tmp_path: Path) -> None:
    def show(kind: str) -> str:
        done = cli("doctor", "--results", tmp_path / "new" / "results", "--format", kind)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return str(done.stdout)

    rows = json.loads(show("json"))
    assert tuple(row["check"] for row in rows) == CHECKS
    assert {row["status"] for row in rows} <= {"ok", "warn", "unknown"}
    assert all(row["advice"] for row in rows if row["status"] == "warn")
    table = show("table")
    assert all(check in table for check in CHECKS)
    assert not list(tmp_path.iterdir())


def test_strict_makes_a_warning_an_exit_code(cli: Cli, short: None) -> None:
    lenient, strict = (
        cli("doctor", *arguments, OMP_PROC_BIND="true", OMP_NUM_THREADS="7")
        for arguments in ((), ("--strict",))
    )
    assert (lenient.returncode, strict.returncode) == (0, 1)
    assert "variables: they change what is measured: unset OMP_PROC_BIND" in strict.stdout
    assert "OMP_NUM_THREADS=7" in strict.stdout


def test_thread_counts_are_overridden_and_it_says_so(
    cli: Cli, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in settings.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    done = cli("doctor", "--format", "json", OMP_NUM_THREADS="7")
    (check,) = [row for row in json.loads(done.stdout) if row["check"] == "variables"]
    assert (check["status"], check["value"]) == ("ok", "OMP_NUM_THREADS=7")
    assert "no effect" in check["advice"]


def test_results_that_cannot_be_written_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.disk(tmp_path / "file").status == "warn"
    assert "cannot be written" in doctor.disk(tmp_path / "file" / "results").advice
    assert doctor.disk(tmp_path / "new").value.endswith("GB free")


def test_the_self_test_leaves_the_process_where_it_was() -> None:
    before = machine.usable_cores()
    ratio, spread = doctor.self_test(pairs=3)
    assert machine.usable_cores() == before
    assert (ratio.check, spread.check) == CHECKS[-2:]


def test_a_quota_below_the_cores_is_a_warning() -> None:
    quota = machine.cpu_quota()
    limited = quota is not None and quota < len(os.sched_getaffinity(0))
    assert doctor.quota().status == ("warn" if limited else "ok")
