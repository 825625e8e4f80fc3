"""Commands that are shown: copied into a shell, they name what was meant."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

import harness
from harness.cli import cli as cli_group
from harness.inputs.commands import command, run_words
from tests.helpers.commands import ROOT, Cli, shown

ODD = ("results of Zoë", "it's", "-x", ".", "a;b", "$HOME", "deep/down", "a`b")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("results/mine", ["mine"]),
        ("mine", ["mine", "--results", "."]),
        ("/mine", ["mine", "--results", "/"]),
        ("../mine", ["mine", "--results", ".."]),
        ("/a b/results/mine", ["mine", "--results", "/a b/results"]),
        ("s3://bucket/deep/mine", ["mine", "--results", "s3://bucket/deep"]),
    ],
)
def test_a_run_is_named_with_its_results(location: str, words: list[str]) -> None:
    assert run_words(location) == words


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with findings that name it."""
    task = harness.Task(n_steps=5, batch_size=4, epochs=100, eval_paths=20)
    folder = tmp_path_factory.mktemp("made")
    backends = ["reference", "tests.helpers.faulty:RaisesMidTraining"]
    return Path(
        harness.run(
            task,
            backends=backends,
            seeds=1,
            rounds=1,
            dispatch="inline",
            results=folder,
            run_id="mine",
        ).location
    )


@pytest.mark.parametrize("folder", ODD)
def test_a_copied_command_finds_the_run(
    folder: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / folder / "mine")
    monkeypatch.chdir(tmp_path)
    (finding,) = (f for f in harness.load("mine", folder).findings() if f.rule == "failed")
    line = finding.remedy.removeprefix("Read the whole error: `").removesuffix("`")
    program, flag, module, name, *words = shlex.split(line)
    assert (program, flag, module, name) == ("python", "-m", "harness", "show")
    options = cli_group.commands[name].make_context(name, words).params
    assert options["name"] == "trials"
    found = harness.load(options["run_id"], options["results"])
    assert os.path.samefile(found.location, tmp_path / folder / "mine")


def test_every_command_that_is_shown_works_as_typed(
    cli: Cli, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = "results of Zoë"
    shutil.copytree(made, tmp_path / results / "mine")
    shutil.copytree(made, tmp_path / results / "begun")
    shutil.rmtree(tmp_path / results / "begun" / "records")
    manifest = tmp_path / results / "begun" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"run": "mine"', '"run": "begun"'))
    monkeypatch.chdir(tmp_path)
    at = ("--results", results)
    job = ("--address", "http://127.0.0.1:1", "--working-dir", ROOT)
    told: dict[tuple[object, ...], list[str]] = {
        ("run", "--resume", "mine", *at): ["explain", "show"],
        ("run", "--run-id", "mine", *at): ["run --resume mine"],
        ("submit", *job, *at, "--", "run", "--run-id", "mine"): ["run --resume mine"],
        ("compare", "mine", "begun", *at): ["run --resume begun"],
        ("history", "--results", "nothing of Zoë"): ["run --results"],
    }
    for words, names in told.items():
        done = cli(*words)
        lines = [line.split(" ", 3)[3] for line in shown(done.stdout + done.stderr)]
        for name in names:
            found = {line for line in lines if line.startswith(name)}
            assert found, (words, name, done.stderr)
            for line in found:
                if name in {"run --resume begun", "run --results"}:  # It would take long.
                    options = cli_group.commands["run"].make_context("run", shlex.split(line)[1:])
                    assert options.params["results"] == words[-1]
                else:
                    assert cli(*shlex.split(line)).returncode in {0, 1}, line
    refused = cli("show", f"{results}/mine")
    (named,) = re.findall("without its folder: `(.*)`", refused.stderr)
    assert cli("show", *shlex.split(named)).returncode == 0


def test_a_command_is_called_as_the_program_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/harness", "run"])
    assert command("show", "a b") == "harness show 'a b'"
    monkeypatch.setattr("sys.argv", ["/opt/harness/__main__.py", "run"])
    assert command("show", "a b") == "python -m harness show 'a b'"
