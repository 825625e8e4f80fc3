"""What the shell offers at a TAB: in a real bash, and in zsh and fish where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest

from harness.backend.registry import installed
from harness.cli import cli
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from tests.helpers.commands import ROOT

BIN = Path(sys.executable).parent
# What bash would do at a TAB: the words as it breaks them, the last one being typed.
IN_BASH = """
eval "$SCRIPT"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_harness_completion harness "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results` and, in `elsewhere`, a run of another name."""
    from harness import Task
    from harness.trial.arms import Arm
    from harness.trial.plan import Plan

    folder = tmp_path_factory.mktemp("completion")
    arms = (Arm(backend="reference", device="cpu"),)
    for results, name in (("results", "mine"), ("results", "my-2nd.run_x"), ("else where", "far")):
        plan = Plan(run=name, task=Task(), arms=arms, seeds=(0,))
        with RunWriter.create(
            folder / results, Manifest(started_utc="-", plan=plan, environment={})
        ):
            pass
    # None of these is a run's name, whatever is in it; none may be cut up, expanded or run.
    for odd in ("my run", "my*", "my$(touch broken)", "my\nline", "my;x", "my`id`", "my'q", 'my"q'):
        shutil.copytree(folder / "results" / "mine", folder / "results" / odd)
    return folder


@cache
def source(shell: str) -> str:
    """Return the script that a shell is given."""
    done = subprocess.run(
        [BIN / "harness"],
        capture_output=True,
        text=True,
        env=os.environ | {"_HARNESS_COMPLETE": f"{shell}_source"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def offered(folder: Path, *words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "--norc", "-c", IN_BASH, "bash", "harness", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "SCRIPT": source("bash")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["sh"], ["show"]),
        (["run", "--back"], ["--backends"]),
        (["run", "--backends", "torch-"], ["torch-compile", "torch-tuned"]),
        (["run", "--backends", "floor,jax-t"], ["floor,jax-tuned"]),
        (["run", "--backends", "floor,floor"], []),
        (["run", "--backends", "tests.helpers.many", ":", "M"], []),
        (["run", "--devices", ""], ["auto", "cpu", "gpu"]),
        (["run", "--devices", "cpu,"], ["cpu,gpu"]),
        (["run", "--preset", "p"], ["posted", "posted-sign-mended", "posted-gradient-mended"]),
        (["run", "--dispatch", ""], ["ray", "inline"]),
        (["run", "--set", "ce"], ["cell="]),
        # Bash makes three words of `cell=g`, and of `cell=` two.
        (["run", "--set", "cell", "="], ["rnn", "gru", "lstm"]),
        (["run", "--set", "cell", "=", "g"], ["gru"]),
        (["run", "--set", "train_sign", "=", "-"], ["-1"]),
        (["run", "--set", "cell", "=", "gru", "--set", "opt"], ["optimiser="]),
        (["run", "--set", "epochs", "="], []),
        (["run", "--set", "no_such_field", "=", "1"], []),
        # Where `=` breaks no words.
        (["run", "--set", "cell=g"], ["cell=gru"]),
        (["run", "--sweep", "cell", "=", "rnn,"], ["rnn,gru", "rnn,lstm"]),
        (["show", "my"], ["my-2nd.run_x"]),
        (["show", "--results", "'else where'", ""], ["far"]),
        (["show", "--results", "=", "'else where'", ""], ["far"]),
        (["show", "--results", "none", ""], []),
        (["show", "--results", "s3", ":", "//bucket/x", ""], []),
        (["show", "mine", "--format", "=", "m"], ["markdown"]),
        (["show", "mine", "--format", "j"], ["json"]),
        (["show", "mine", "--table", "st"], ["steps"]),
        (["compare", "mine", "min"], ["mine"]),
        (["run", "--resume", "min"], ["mine"]),
        (["gate", "--backends", "torch,jax-s"], ["torch,jax-step"]),
        (["show", "'open quote"], []),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_bash_offers(folder: Path, words: list[str], offers: list[str]) -> None:
    assert offered(folder, *words) == offers


def test_every_command_and_every_installed_backend_is_offered() -> None:
    assert offered(ROOT, "") == sorted(cli.commands)
    assert offered(ROOT, "run", "--backends", "") == list(installed())


def test_names_of_folders_are_data(folder: Path) -> None:
    assert offered(folder, "show", "") == ["mine", "my-2nd.run_x"]
    assert not list(folder.rglob("broken"))


def commands(group: click.Group) -> list[click.Command]:
    found: list[click.Command] = []
    for command in group.commands.values():
        found += commands(command) if isinstance(command, click.Group) else [command]
    return found


@pytest.mark.parametrize("command", commands(cli), ids=lambda command: str(command.name))
def test_what_has_names_to_offer_offers_them(
    command: click.Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    context = click.Context(command)
    for parameter in command.params:
        shown = parameter.metavar or ""
        offers = [item.value for item in parameter.shell_complete(context, "")]
        if shown.strip("[]").startswith("RUN"):
            assert "mine" in offers, f"{command.name} {shown}: give it `completion.runs`"
        elif "--backends" in parameter.opts:
            assert "jax" in offers, f"{command.name} --backends: give it `completion.backends`"
        elif shown.startswith("KEY="):
            assert "epochs=" in offers, f"{command.name} {shown}: give it `completion.setting`"


def test_a_tab_loads_nothing_slow(folder: Path) -> None:
    code = (
        "import os, sys; from harness.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in 'numpy pandas ray torch jax rich fsspec scipy altair'.split()"
        " if m in sys.modules])"
    )
    for words in ("harness show m", "harness run --set c", "harness run --backends t"):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.argv = ['harness']\n{code}"],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "_HARNESS_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
        )
        *offers, loaded = done.stdout.splitlines()
        assert offers, done.stderr
        assert loaded == "[]"


@pytest.mark.parametrize(
    ("shell", "word"),
    [("bash", "complete -o nosort"), ("zsh", "compdef"), ("fish", "complete --no-files")],
)
def test_each_shell_gets_its_script(shell: str, word: str) -> None:
    script = source(shell)
    assert word in script
    assert "%(" not in script
    if interpreter := shutil.which(shell):
        options = {"bash": ["-n"], "zsh": ["-f", "-n"], "fish": ["--no-execute"]}[shell]
        check = subprocess.run([interpreter, *options], input=script, text=True)
        assert check.returncode == 0


ZSH = """
autoload -Uz compinit && compinit -u -D
eval "$(_HARNESS_COMPLETE=zsh_source harness)"
compadd() { print -l -- ${(P)@[-1]} }
_describe() { print -l -- ${(P)3} }
for line; do words=(harness ${=line}) CURRENT=$#words; _harness_completion; done
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_offers(folder: Path) -> None:
    offers = {
        "show mi": "mine",
        "run --set cell=g": "cell=gru",
        "run --backends floor,jax-t": "floor,jax-tuned",
        "run --set ce": "cell=:rnn, gru or lstm: the recurrent cell",
    }
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH, "zsh", *offers],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.stdout.splitlines() == list(offers.values()), done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("show mi", ["mine"]),
        ("run --set cell=g", ["cell=gru"]),
        ("run --backends floor,jax-t", ["floor,jax-tuned"]),
        ("run --set ce", ["cell=\trnn, gru or lstm: the recurrent cell"]),
    ],
)
def test_fish_offers(folder: Path, line: str, offers: list[str]) -> None:
    script = f"_HARNESS_COMPLETE=fish_source harness | source; complete -C 'harness {line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.stdout.splitlines() == offers, done.stderr


@pytest.mark.parametrize("name", ["harness", "python -m harness"])
def test_help_shows_the_name_it_was_called_by(name: str) -> None:
    program = [BIN / "harness"] if name == "harness" else [sys.executable, "-m", "harness"]
    done = subprocess.run([*program, "show", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith(f"Usage: {name} show [OPTIONS] RUN\n"), done.stderr
