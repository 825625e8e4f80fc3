"""The command `track`."""

from __future__ import annotations

import click

from harness.cli import completion
from harness.cli.options import RESULTS
from harness.cli.output import errors


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=completion.runs)
@click.option(
    "--to",
    "target",
    metavar="mlflow:URI[#NAME]",
    required=True,
    help="The tracking server, and the experiment there (default: harness).",
)
@RESULTS
def track(run_id: str, target: str, results: str) -> None:
    """Log a run that is there to an MLflow tracking server.

    As `run --track` does when a run ends. A run that was logged before is brought up to date, not
    logged twice. Needs the package `mlflow-skinny` or `mlflow`.

    \b
    Examples:
      python -m harness track demo --to mlflow:http://localhost:5000
      python -m harness track demo --to mlflow:http://localhost:5000#cells
    """
    from harness.report.mlflow import log
    from harness.runs.results import Run

    with errors():
        run = Run(run_id, results)
        where = log(run, target)
    for problem in run.problems:
        click.echo(f"warning: {problem}", err=True)
    click.echo(f"Logged: {where}")
