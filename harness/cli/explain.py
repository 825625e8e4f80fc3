"""The command `explain`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import RESULTS, TASK, build_task
from harness.cli.output import open_run, width
from harness.cli.usage import Choice, option, subcommand
from harness.diagnosis import text
from harness.errors import InvalidInput
from harness.inputs.commands import command

if TYPE_CHECKING:
    from harness.runs.results import Run

_TABLES = {".csv", ".tsv", ".txt", ".dat"}


@subcommand()
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=completion.runs)
@option(
    "--predictions",
    metavar="FILE",
    type=click.Path(),
    help="Your own predictions: a CSV file with columns path, t, x, prediction; - reads stdin.",
)
@option(
    "--format",
    "kind",
    type=Choice(["text", "markdown", "json"]),
    default="text",
    help="How to print it.",
)
@RESULTS
@TASK
def explain(
    run_id: str | None, predictions: str | None, kind: str, results: str, **task: Any
) -> None:
    """Say in plain words what a run shows: what is wrong, how that is known, what to do.

    With --predictions, say it of predictions that any other program made; --preset, --config and
    --set then name the task. The exit code is 0 whatever is found: this is a diagnosis, not a gate.
    docs/diagnosis.md has the rules and how often they are wrong.

    \b
    Examples:
      python -m harness explain demo
      python -m harness explain demo --format markdown
      python -m harness explain --predictions mine.csv --set lag_weight=0.5 --set lag=4
    """
    if (run_id is None) == (predictions is None):
        raise InvalidInput("`explain`: name a run, or a file by `--predictions`; one of them.")
    nothing = text.NOTHING
    if predictions is not None:
        from harness.diagnosis.predictions import explain, observe_predictions, per_step
        from harness.diagnosis.predictions_file import read

        if "://" in predictions:
            raise InvalidInput(f"`--predictions`: `{predictions}` is no file; download it first.")
        expected, given = build_task(**task), read(Path(predictions))
        found = explain(given, expected)
        nothing += f" {per_step(observe_predictions(given, expected))}"
    elif any(task.values()):
        raise InvalidInput(
            "`--preset`, `--config`, `--set`: a run has its task already; use them only with "
            "`--predictions`."
        )
    else:
        run = _run(str(run_id), results)
        found = run.findings()
        nothing = nothing if run.ended else "No trial has ended yet."
    if kind == "json":
        click.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        columns = width()
        parts = (
            text.markdown(finding)
            if kind == "markdown"
            else text.paragraphs(finding, width=columns)
            for finding in found
        )
        click.echo("\n".join(parts) or f"{text.wrapped(nothing, '', columns)}\n", nl=False)


def _run(name: str, results: str) -> Run:
    """Open a run. Raises `InvalidInput`, which says where a file goes, if that is a file."""
    try:
        return open_run(name, results)
    except InvalidInput:
        file = Path(name)
        # `Path.is_file` raises for a name that is too long.
        if not os.path.isfile(file) and file.suffix.lower() not in _TABLES:
            raise
        raise InvalidInput(
            f"`{name}` is no run, but a file: for predictions, run "
            f"`{command('explain', '--predictions', name)}`."
        ) from None
