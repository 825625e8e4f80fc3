"""Runs that older versions wrote, one for each schema: they stay readable.

`data/schema-N` was written by the version whose schema was N, never by today's code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness
from harness import InvalidInput
from harness.cli import cli
from harness.cli.show import show
from harness.compare import compare_runs
from harness.history.history import History
from harness.trial.record import SCHEMA_VERSION

DATA = Path(__file__).parent / "data"
SCHEMAS = range(1, SCHEMA_VERSION + 1)
TABLES = next(param.type.choices for param in show.params if param.name == "name")  # type: ignore[attr-defined]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_its_records_are_read_and_counted(schema: int) -> None:
    files = list((DATA / f"schema-{schema}" / "records").iterdir())
    assert {json.loads(file.read_text())["schema_version"] for file in files} == {schema}
    run = harness.load(f"schema-{schema}", DATA)
    assert run.problems == []
    assert run.failures == []
    assert {record.schema_version for record in run.records} == {schema}
    trials = run.trials
    assert len(trials) == len(files)
    assert set(trials["status"]) == {"ok"}
    assert trials[["train_s", "wall_s", "final_mse", "r2"]].notna().all(axis=None)
    shared = schema in (3, 4, 5)
    assert set(trials["timing"]) == {"shared" if shared else "trials" if schema < 6 else "alone"}
    assert len(run.chunks) == (0 if schema == 1 else 2 * len(files))
    # Before, there was no other; so an older `posted` is not taken for today's.
    gradient = "exact" if schema < 5 else "stateful-broadcast"
    assert {record.task.gradient for record in run.records} == {gradient}
    assert run.swept == {4: ("hidden",), 8: ("lag",)}.get(schema, ())
    # Before, there was no other lag, and nobody looked.
    assert {record.task.lag for record in run.records} == ({2, 3} if schema == 8 else {1})
    assert trials["memory"].notna().all() == (not run.lags.empty) == (schema == 8)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_table_is_shown(schema: int) -> None:
    for table in TABLES:
        if table == "scaling" and schema not in (4, 8):  # The only sweeps.
            continue
        if table == "profile" and schema != 7:  # There was none.
            continue
        if table in ("reach", "lags") and schema != 8:  # Nobody looked.
            continue
        arguments = ["show", f"schema-{schema}", "--results", str(DATA), "--table", table]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        assert "warning" not in done.output


def test_times_of_shared_processes_are_kept_apart(tmp_path: Path) -> None:
    alone = _copy(tmp_path, "alone")
    for file in (alone / "records").iterdir():
        record = json.loads(file.read_text())
        assert record["isolation"] == "backend"
        file.write_text(json.dumps(record | {"isolation": "process", "trials_before": 0}))
    shared = _copy(tmp_path, "schema-5")
    with pytest.raises(InvalidInput, match=r"timing: shared there, trials here"):
        compare_runs(harness.load(shared.name, tmp_path), harness.load(alone.name, tmp_path))
    table = History(tmp_path).table
    assert dict(zip(table["run"], table["timing"], strict=True)) == {
        "schema-5": "shared",
        "alone": "trials",
    }


def test_a_run_of_shared_processes_is_not_continued(tmp_path: Path) -> None:
    run = _copy(tmp_path, "schema-5")
    assert harness.resume("schema-5", dispatch="inline", results=tmp_path).missing == []
    assert '"isolation":"backend"' in (run / "manifest.json").read_text().replace(" ", "")
    next((run / "records").iterdir()).unlink()
    with pytest.raises(InvalidInput, match="timed by an older version"):
        harness.resume("schema-5", dispatch="inline", results=tmp_path)


def _copy(results: Path, name: str) -> Path:
    """Copy the run of schema 5, under another name."""
    made = results / name
    shutil.copytree(DATA / "schema-5", made)
    for file in made.rglob("*.json"):
        file.write_text(file.read_text().replace("schema-5", name))
    return made


def test_a_history_of_all_of_them(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "results")
    done = CliRunner().invoke(cli, ["history", "--results", str(tmp_path / "results")])
    assert done.exit_code == 0, done.output
    assert "warning" not in done.output
    assert all(f"schema-{schema}" in done.output for schema in SCHEMAS)
