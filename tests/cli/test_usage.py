"""What is given twice, unknown commands and options, and sentences in the words of options."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from harness.cli import cli as program
from harness.cli.usage import Command, Option
from tests.helpers.commands import Cli

LONG = "a" * 300
"""Longer than the name of a file may be."""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "run --results a --results=b",
            "`--results` is given twice: `--results a` and",
        ),
        ("run --vectorize --vectorize 4", "twice: `--vectorize` and `--vectorize 4`"),
        ("run --report --no-report", "twice: `--report` and `--no-report`"),
        ("gate --baseline a --baseline b", "twice: `--baseline a` and `--baseline b`"),
        ("list --results a --results b --results a", "twice: `--results b` and `--results a`"),
        ("submit --address http://x:1 -- run --seeds 1 --seeds 2", "`--seeds 1` and `--seeds 2`"),
        ("run --set epochs=1 --set epochs=2", "`--set epochs=2`: `--set epochs=1` is there, too"),
        ("run --sweep hidden=1 --sweep hidden=2", "`--sweep hidden=1` is there, too"),
        (
            "run --preset posted --set preset=no-lag",
            "by `--preset` and `no-lag` by `--set`",
        ),
        (
            "run torch jax",
            "takes no `torch jax` there; backends are named by `--backends torch,jax`",
        ),
        ("show a b", "`show` takes no `b` there.\n"),
        ("run --sweep hidden=10,10", "`--sweep` hidden: `10` is there twice"),
        ("gate --against x --max-slowdown=-5%", "`--max-slowdown -5%`: should not be negative"),
        ("--nope", "\nerror: "),
        ("show", "\nerror: Missing argument"),
        ("rnu", "unknown command `rnu` (did you mean `run`?)"),
        ("run --bakends torch", "`run` has no option `--bakends` (did you mean `--backends`?)"),
        ("run --against x", "`run` has no option `--against`; it is an option of `gate`"),
        ("run --n-steps 5", "no option `--n-steps`; it is a field of the task: `--set n_steps="),
        ("gate --lr 1", "no option `--lr`; it is a field of the task: `--set learning_rate="),
        ("show a --epochs 1", "`show` has no option `--epochs`.\n"),
        ("run --sweep seeds=1,2", "`--sweep`: unknown name `seeds`: it belongs to the run"),
        ("run --preset=", "`--preset` is empty: give a value, or leave it out"),
        ("run --run-id=", "`--run-id` is empty: give a value, or leave it out"),
        ("--seeds 3 run", "has no option `--seeds`; it is an option of `run`"),
        ("show x --table sumary", "'profile' (did you mean `summary`?)"),
        ("gate --against HEAD --budget 0", "`--budget 0`: should be greater than 0"),
        (
            "submit --address http://x:1 -- run --precision 200%",
            "`--precision 200%`: should be",
        ),
        (f"explain {LONG}", f"run id `{LONG}`: use letters"),
        (f"history --html {LONG}/history.html", "there is no folder"),
        (f"run --backends {LONG}:Backend", "there is no module"),
        (f"parity --gradient {LONG}", f"`{LONG}`"),
    ],
)
def test_usage_is_refused_in_its_own_words(cli: Cli, words: str, sentence: str) -> None:
    done = cli(*words.split())
    assert done.returncode == 2
    assert sentence in done.stderr


def test_the_same_twice_is_harmless(cli: Cli) -> None:
    twice = ("--set", "rho=7", "--set", "rho = 7", "--seeds", 2, "--seeds", 2, "-q", "--quiet")
    done = cli("run", *twice)
    assert done.returncode == 2
    assert done.stderr == "error: `rho` = '7': should be less than 1.\n"


def test_every_command_and_option_is_of_these_kinds() -> None:
    for command in program.commands.values():
        assert isinstance(command, Command)
        for parameter in command.params:
            assert isinstance(parameter, Option | click.Argument)


def test_a_preset_of_the_file_and_another_are_refused(tmp_path: Path, cli: Cli) -> None:
    config = tmp_path / "task.yaml"
    config.write_text("preset: posted\nrho: 7\n")
    refused = cli("run", "--config", config, "--preset", "no-lag").stderr
    assert f"twice: `no-lag` by `--preset` and `posted` by `--config {config}`" in refused
    assert "twice" not in cli("run", "--config", config, "--preset", "posted").stderr
