"""The command `run`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import (
    BACKENDS,
    DEVICES,
    RESULTS,
    SITE,
    SWEEP,
    TASK,
    VECTORIZE,
    read_request,
)
from harness.cli.output import FAILED, UNWRITTEN, beside, errors, width
from harness.cli.report import write_report
from harness.cli.show import table_of
from harness.cli.usage import option, subcommand
from harness.diagnosis.text import paragraphs
from harness.errors import StoreError, printable
from harness.inputs.commands import as_read, command

if TYPE_CHECKING:
    from harness.report.mlflow import Tracker
    from harness.runs.reporter import Reporter
    from harness.runs.results import Run


@subcommand()
@TASK
@BACKENDS
@option(
    "--seeds",
    metavar="N|LIST",
    default="5",
    help="How many seeds (0, 1, ...), or which: 1,5-7 are 1, 5, 6 and 7.",
)
@DEVICES
@option("--threads", metavar="N", default="1", help="Threads of each trial.")
@option(
    "--rounds",
    metavar="N",
    default="20",
    help="Turns in which each trial is timed; more turns, narrower intervals.",
)
@option(
    "--precision",
    metavar="SHARE",
    help="Run until every time ratio is known to within this: 2% or 0.02.",
)
@option(
    "--budget",
    "budget_s",
    metavar="TIME",
    help="With --precision: no longer than this: 90s, 10m, 1h30m.",
)
@SWEEP
@VECTORIZE
@option("--profile", is_flag=True, help="See where the time goes, after the timed turns.")
@option("--packed", is_flag=True, help="Fill the machine with trials; times are contended.")
@option(
    "--max-retries",
    metavar="N",
    default="2",
    help="Repeat a block whose node or Ray worker is lost, up to N times.",
)
@SITE
@RESULTS
@option("--run-id", metavar="ID", help="Name of the new run.")
@option(
    "--resume",
    metavar="RUN",
    shell_complete=completion.runs,
    help="Run only the trials that RUN still lacks.",
)
@option(
    "--track",
    "target",
    metavar="mlflow:URI",
    help="Log the run to this MLflow server when it ends; mlflow:URI#NAME names the experiment.",
)
@option(
    "--report/--no-report",
    "with_report",
    default=True,
    envvar="HARNESS_REPORT",
    help="Write the report (`report RUN`) at the end; HARNESS_REPORT=0 turns it off.",
)
@option("-q", "--quiet", is_flag=True, help="Print only what went wrong, and the results.")
@click.pass_context
def run(context: click.Context, /, **options: Any) -> None:
    """Measure backends on a task: parity first, then every trial on the clock.

    \b
    Examples:
      python -m harness run --backends torch,jax
      python -m harness run --preset posted --set epochs=10000 --seeds 1
      python -m harness run --backends torch,jax --precision 2% --budget 10m
      python -m harness run --backends floor,jax-tuned,torch-tuned --seeds 64 --vectorize
      python -m harness run --sweep hidden=10,64,256 --sweep cell=rnn,gru
      python -m harness run --config task.yaml --dispatch inline --run-id mine
      python -m harness run --backends torch,mypackage.mymodule:MyBackend
      python -m harness run --track mlflow:http://localhost:5000
      python -m harness run --resume mine
    """
    from rich.console import Console

    from harness.runs.dashboard import reporter
    from harness.runs.start import start

    request = read_request(context)
    tracker: Tracker | None = None
    with reporter(Console(stderr=True), options["quiet"]) as shown, ExitStack() as stack:
        listener: Reporter = shown
        if options["target"] is not None:
            from harness.report import mlflow

            tracker = mlflow.Tracker(options["target"])
            listener = stack.enter_context(mlflow.salvaging(tracker, request.site.results, shown))
        measured = start(request, listener)
    _print_run(measured)
    unwritten = list(measured.unwritten)
    if options["with_report"]:
        unwritten += _report(measured)
    for failure in measured.failures:
        click.echo(f"failed: {failure}", err=True)
    for sentence in measured.unprofiled if measured.manifest.plan.profile else ():
        click.echo(f"warning: {printable(sentence)}", err=True)
    for sentence in unwritten:
        click.echo(f"error: {printable(sentence)}", err=True)
    code = FAILED if measured.failures else UNWRITTEN if unwritten else 0
    if tracker is not None:
        with errors(code):
            told = () if options["quiet"] else (partial(click.echo, err=True),)
            click.echo(f"Logged: {tracker.log(measured, *told)}")
    sys.exit(code)


def _report(run: Run) -> list[str]:
    """Write the report of a run; return a sentence if it cannot be written."""
    again = command("report", *run.words)
    with beside(f"the report could not be made (`{again}` tries again)"):
        try:
            write_report(run)
        except StoreError as error:
            return [f"{error} The report is missing or old: `{again}` writes it."]
    return []


def _print_run(run: Run) -> None:
    """Print the tables of a run, with a choice of the time steps, and its findings."""
    tables = ("summary", "scaling") if run.swept else ("summary", "curves", "steps")
    # If every backend failed parity, they would be empty, and the failures follow.
    for name in () if run.failures and not run.records else tables:
        click.echo(table_of(run, name, "table", some=True), nl=False)
    found = run.findings()
    for finding in found:
        click.echo(f"\n{paragraphs(finding, evidence=False, width=width())}", nl=False)
    if not run.reach().empty:
        click.echo("\n" + table_of(run, "reach", "table"), nl=False)
    if found:
        click.echo(f"\nWhy: {command('explain', *run.words)}")
    steps = command("show", *run.words, "--table", "steps")
    click.echo(f"Results: {as_read(run.location)}. All steps: {steps}")
