"""The command `track`."""

from __future__ import annotations

from functools import partial

import click

from harness.cli import completion
from harness.cli.options import RESULTS
from harness.cli.output import open_run
from harness.cli.usage import option, subcommand


@subcommand()
@click.argument("run_id", metavar="RUN", shell_complete=completion.runs)
@option(
    "--to",
    "target",
    metavar="mlflow:URI[#NAME]",
    required=True,
    help="The tracking server, and the experiment there (default: harness).",
)
@RESULTS
def track(run_id: str, target: str, results: str) -> None:
    """Log a run to an MLflow tracking server, as `run --track` does when a run ends.

    A run that was logged before is updated, not logged twice. Needs the package
    `mlflow-skinny` or `mlflow`.

    \b
    Examples:
      python -m harness track demo --to mlflow:http://localhost:5000
      python -m harness track demo --to mlflow:http://localhost:5000#cells
    """
    from harness.report.mlflow import log

    run = open_run(run_id, results)
    click.echo(f"Logged: {log(run, target, partial(click.echo, err=True))}")
