"""Commands that are shown: copied into a shell, they name what was meant."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

import harness
from harness.cli import cli
from harness.inputs.commands import command, run_words

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
    options = cli.commands[name].make_context(name, words).params
    assert options["name"] == "trials"
    found = harness.load(options["run_id"], options["results"])
    assert os.path.samefile(found.location, tmp_path / folder / "mine")


def test_a_command_is_called_as_the_program_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/harness", "run"])
    assert command("show", "a b") == "harness show 'a b'"
    monkeypatch.setattr("sys.argv", ["/opt/harness/__main__.py", "run"])
    assert command("show", "a b") == "python -m harness show 'a b'"
