"""What docs/security.md says that each command reads and writes is so."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest

from benchmarks.helpers.bounds import watched
from harness.cli import cli as group
from harness.cli import completion
from harness.store.run_writer import RunWriter
from tests.helpers.commands import ROOT, Cli
from tests.helpers.records import MANIFEST, timed

PAGE = (ROOT / "docs" / "security.md").read_text()
(SECTION,) = re.findall(r"^## What each command.*?(?=^## )", PAGE, re.M | re.S)
ROWS = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", SECTION, re.M)]
WRITES = {name: row[2] for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}


def test_every_command_has_a_row() -> None:
    assert set(WRITES) == set(group.commands)
    assert "completion" in SECTION


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two runs in a home where every file is seen."""
    for name in ("a", "b"):
        plan = MANIFEST.plan.model_copy(update={"run": name})
        manifest = MANIFEST.model_copy(update={"plan": plan, "started_utc": "2026-01-01"})
        with RunWriter.create(tmp_path / "results", manifest) as writer:
            for seed in (0, 1):
                one = timed("a:B", seed, 2.0 + ord(name) + seed)
                trial = f"seed{seed}-a.B-cpu"
                writer.add(one.model_copy(update={"run": name, "trial": trial}))
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "TMPDIR"))
    (tmp_path / "mine.csv").write_text("t,x,prediction\n0,0,0\n1,0.5,0.2\n2,1,1\n")
    return tmp_path


def seen(home: Path) -> dict[str, tuple[int, int]]:
    paths = [path for path in home.rglob("*") if path.is_file()]
    found = {str(p.relative_to(home)): p.stat() for p in paths}
    return {name: (status.st_mtime_ns, status.st_size) for name, status in found.items()}


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (("list",), ()),
        (("show", "a"), ()),
        (("show", "a", "--table", "curves", "--format", "csv"), ()),
        (("explain", "a"), ()),
        (("explain", "--predictions", "mine.csv"), ()),
        (("compare", "a", "b"), ()),
        (("history",), ()),
        (("history", "--html", "history.html"), ("history.html",)),
        (("report", "a", "--no-plots"), ("results/a/report.html",)),
        (("report", "a", "--no-plots", "--to", "paper"), ("paper/report.html",)),
        pytest.param(
            *(("report", "a"), ("results/a/report.html", "results/a/plots/")),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: "-".join(value) if value and not value[0].endswith("/") else None,
)
def test_a_command_writes_what_its_row_says(
    cli: Cli, home: Path, words: tuple[str, ...], written: tuple[str, ...]
) -> None:
    before = seen(home)
    os.chdir(home)  # `cli` goes back.
    if written:  # A second process draws.
        done = cli(*words)
    else:
        with watched(home, starts=False, programs=()):
            done = cli(*words)
    assert done.returncode == 0, done.stderr
    changed = {name for name, facts in seen(home).items() if before.get(name) != facts}
    assert {place for place in written if any(n.startswith(place) for n in changed)} == set(written)
    assert [name for name in changed if not name.startswith(written)] == []
    assert (WRITES[words[0]] == "nothing") <= (written == ())


def test_completion_reads_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    before = seen(home)
    with watched(home, starts=False, programs=()):
        context = click.Context(click.Command("show"))
        offered = completion.runs(context, click.Argument(["run_id"]), "")
    assert [item.value for item in offered] == ["a", "b"]
    assert seen(home) == before
