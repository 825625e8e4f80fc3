"""Whatever is wrong with one run is one line or one warning: the others are there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import ROOT, Cli

Change = Callable[[dict[str, Any]], object]
EXAMPLE = ROOT / "results" / "example"


def planned(**changes: object) -> Change:
    return lambda manifest: manifest["plan"].update(changes)


MANIFESTS: dict[str, Change] = {
    "sweep": planned(sweep={name: list(range(1, 2001)) for name in ("hidden", "layers", "epochs")}),
    "seeds": planned(seeds=list(range(600_000))),
    "twice": planned(seeds=[1, 1]),
    "backend": planned(arms=[{"backend": "x" * 10**6, "device": "cpu"}]),
    "escape": planned(arms=[{"backend": "\x1b]0;x", "device": "cpu"}]),
    "run": planned(run="r" * 10**6),
    "field": planned(sweep={"x" * 10**6: [1]}),
    "value": planned(sweep={"cell": ["x" * 10**6]}),
    "records": planned(at_once=90_000, seeds=list(range(90_000)), rounds=10**6),
    "names": lambda manifest: manifest["plan"]["task"].update({f"x{n}": n for n in range(30_000)}),
    "environment": lambda m: m["environment"].update({f"x{n}": n for n in range(30_000)}),
    "date": lambda manifest: manifest.update(started_utc="x" * 10**6),
    "parity": lambda manifest: manifest.update(parity=[{}] * 30_000),
}
TEXTS = {
    "deep": "[" * 200_000,
    "objects": "[" + "{}," * 3 * 10**5 + "{}]",
    "digits": '{"schema_version": ' + "1" * 10**6 + "}",
    "empty": "",
    "null": "null",
}
NUMBERS: list[dict[str, object]] = [
    {"attempt": 10**30},
    {"attempt": -5},
    {"go": -5},
    {"block": 10**12},
    {"seed": -1},
    {"run": "x" * 10**6},
    {"trial": "\x1b]0;x"},
    {"node": "x" * 10**6},
    {"environment": {f"x{n}": n for n in range(30_000)}},
    {"unknown": [[]] * 30_000},
    {"wall_s": -1},
    {"points": [{"epoch": 1, "train_s": 1, "train_loss": 1, "eval_mse": 1}] * 2},
    {"task": {"hidden": 10**4000}},
    {"chunks": [{"wall_s": 1, "cpu_s": 1, "involuntary_switches": 0, "round": 10**6}]},
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "good")
    text = (EXAMPLE / "manifest.json").read_text()
    for name, change in MANIFESTS.items():
        manifest = json.loads(text)
        change(manifest)
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    for name, text in TEXTS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    return tmp_path


def test_a_bad_manifest_is_a_line_of_the_list_and_a_warning(cli: Cli, results: Path) -> None:
    bad = {*MANIFESTS, *TEXTS, "folder"}
    listed = cli("list", "--results", results)
    assert listed.returncode == 0
    runs = listed.stdout.partition("Runs in ")[2].splitlines()[1:]
    assert {line.split()[0] for line in runs} == {*bad, "good"}
    assert sum("cannot be read" in line for line in runs) == len(runs) - 1 == len(bad)
    assert max(map(len, runs)) < 700
    shown = cli("history", "--results", results)
    assert shown.returncode == 0, shown.stderr
    assert "good" in shown.stdout
    assert len(shown.stderr.splitlines()) == len(bad)
    assert max(map(len, shown.stderr.splitlines())) < 1000


def test_a_bad_record_is_a_warning_and_the_others_count(cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "good")
    records = tmp_path / "good" / "records"
    text = (records / "seed0-jax-cpu.json").read_text()
    for number, changes in enumerate(NUMBERS, 2):
        dumped = json.dumps(json.loads(text) | {"attempt": number} | changes)
        (records / f"seed0-jax-cpu~{number}.json").write_text(dumped)
    for name, content in TEXTS.items():
        (records / f"{name}.json").write_text(content)
    done = cli("show", "good", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    warnings = done.stderr.splitlines()
    assert len(warnings) == len(NUMBERS) + len(TEXTS)
    assert all("is left out: it is" in line or "is left out: run" in line for line in warnings)
    assert max(map(len, warnings)) < 1000
    assert done.stdout == cli("show", "example", "--results", EXAMPLE.parent).stdout
    assert "10/10 trials" in cli("list", "--results", tmp_path).stdout


def test_times_that_cannot_be_end_no_command(cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "odd")
    for path in (tmp_path / "odd" / "records").iterdir():
        record = json.loads(path.read_text())
        for chunk in record["chunks"]:
            chunk |= {"waited_s": 1e17, "cpu_s": -1e18}
        if record["seed"] == 1:
            record["chunks"] = [chunk | {"wall_s": 0} for chunk in record["chunks"]]
        path.write_text(json.dumps(record))
    for command in (("show", "odd"), ("show", "odd", "--table", "trials"), ("history",)):
        assert cli(*command, "--results", tmp_path).returncode == 0
