"""Texts of a stranger's run: none controls a terminal, breaks a table or becomes a formula."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.tables.csv import to_csv
from harness.tables.text import render
from tests.helpers.commands import ROOT, Cli

EVIL = "=1|`<b>[x](http://y)\x1b]0;owned\x07\u202e\u200b\x9b\x7f\r\n\tend"
FORMATS = ("table", "csv", "markdown", "json")


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every text is evil that may be one, and the same again a day later."""
    folder = tmp_path_factory.mktemp("results")
    for name, day in (("mine", 1), ("again", 2)):
        run = folder / name
        shutil.copytree(ROOT / "results" / "example", run)
        for table in (*run.glob("*.csv"), *run.glob("*.parquet")):
            table.unlink()
        manifest = json.loads((run / "manifest.json").read_text())
        evil = {"node": EVIL, "versions": {EVIL: EVIL}, "fault": EVIL, "error": EVIL}
        change(
            run / "manifest.json",
            started_utc=f"2026-01-0{day}T00:00:00+00:00",
            finished_utc=EVIL,
            environment={EVIL: EVIL},
            parity=[certificate | evil for certificate in manifest["parity"]],
        )
        for number, path in enumerate(sorted((run / "records").iterdir())):
            record = json.loads(path.read_text())
            environment = record["environment"] | {EVIL: EVIL, "cpu": EVIL}
            wall_s = record["wall_s"] + day
            change(path, node=EVIL, started_utc=EVIL, wall_s=wall_s, environment=environment)
            if number < 2:
                change(path, status="failed", error=EVIL, details=EVIL, step_mse=[])
        (run / "records" / "no\x1b]0;record.json").write_text(json.dumps({EVIL: EVIL}))
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text(json.dumps({"schema_version": EVIL}))
    (folder / "od\x1bd").mkdir()
    return folder


def check(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_command_prints_them_raw(cli: Cli, results: Path, kind: str) -> None:
    at, shown = ("--results", results, "--format", kind), ("trials", "attempts")
    tables = ("summary", "comparisons", "chunks", *shown)
    commands: list[tuple[object, ...]] = [("show", "mine", "--table", t, *at) for t in tables]
    commands += [("history", *at), ("compare", "mine", "again", *at)]
    commands += [("explain", "mine", "--results", results), ("list", "--results", results)]
    for command in commands:
        done = cli(*command)
        assert done.returncode in {0, 1}, done.stderr
        check(done.stdout.replace("\t", "") if kind == "csv" else done.stdout)
        check(done.stderr)
        if set(shown) & set(command):
            assert "x1b]0;owned" in done.stdout


@pytest.mark.slow
def test_no_page_holds_them_raw(cli: Cli, results: Path) -> None:
    page = results.parent / "page.html"
    for words in (("report", "mine", "--no-plots"), ("history", "--html", page)):
        done = cli(*words, "--results", results)
        assert done.returncode == 0, done.stderr
    for path in (page, results / "mine" / "report.html"):
        html = path.read_text()
        assert "owned" in html
        assert not {"\x1b", "\x07", "\u202e", "\u200b", "\x9b", "\x7f"} & set(html)
        assert "<b>[x]" not in html


def test_a_table_stays_a_table() -> None:
    frame = pd.DataFrame({"error": [EVIL, "x" * 10**6], "n": [1, 2]})
    table, markdown = (render(frame, kind, 2000) for kind in ("table", "markdown"))
    assert len(table.split()) == 8
    assert len(table) < 5000
    assert [line.count("|") for line in markdown.splitlines()] == [3] * 4
    assert not [mark for mark in ("<b>", "](", "`") if mark in markdown]


def test_no_text_is_a_formula() -> None:
    harmless = ["-5", "+1.5 %", "a=b", "seed0-jax-cpu", ""]
    formulas = ["=1+1", "@SUM(A1)", "-2+3+cmd|' /C calc'!A0", "+A1", "\t=1"]
    frame = pd.DataFrame({"error": [*harmless, *formulas], "n": -1.0}).astype({"error": "string"})
    rows = list(csv.DictReader(io.StringIO(to_csv(frame))))
    assert [row["error"] for row in rows] == harmless + [f"'{text}" for text in formulas]
    assert {row["n"] for row in rows} == {"-1.0"}
    assert frame["error"].tolist() == harmless + formulas
