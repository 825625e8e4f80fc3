"""The command `profile`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import BACKENDS, DEVICES, FORMAT, RESULTS, TASK, read_request, site
from harness.cli.output import FAILED, UNWRITTEN, width
from harness.cli.show import table_of
from harness.cli.usage import option, subcommand
from harness.diagnosis.text import paragraphs
from harness.errors import printable
from harness.inputs.commands import as_read, command

if TYPE_CHECKING:
    from harness.runs.request import RunRequest


@subcommand()
@TASK
@BACKENDS
@DEVICES
@option("--threads", metavar="N", default="1", help="Threads of each backend.")
@site(dispatch="inline")
@RESULTS
@option("--run-id", metavar="ID", help="Name of the run that is kept.")
@FORMAT
@option("-q", "--quiet", is_flag=True, help="Print only what went wrong, and the results.")
@click.pass_context
def profile(context: click.Context, /, kind: str, quiet: bool, **_options: Any) -> None:
    """Say where the time of an epoch goes in each backend, and why one is slower than another.

    A short training is timed and then looked at by profilers: it is a run with one seed and few
    epochs, for times and not for accuracy. docs/profile.md explains the parts and the findings.

    \b
    Examples:
      python -m harness profile --backends torch,jax
      python -m harness profile --backends torch --set hidden=256 --set batch_size=512
      python -m harness profile --backends mypackage.mymodule:MyBackend
    """
    from rich.console import Console

    from harness.runs.dashboard import reporter
    from harness.runs.start import start

    request = _short(read_request(context))
    with reporter(Console(stderr=True), quiet) as shown:
        measured = start(request, shown)
    if not measured.profile.empty:
        click.echo(table_of(measured, "profile", kind), nl=False)
    if kind in {"table", "markdown"}:
        for finding in measured.findings_on_time():
            click.echo(f"\n{paragraphs(finding, width=width())}", nl=False)
        report = command("report", *measured.words)
        click.echo(f"\nKept: {as_read(measured.location)}. As a page: {report}")
    for failure in measured.failures:
        click.echo(f"failed: {failure}", err=True)
    for sentence in measured.unwritten:
        click.echo(f"error: {printable(sentence)}", err=True)
    sys.exit(FAILED if measured.failures else UNWRITTEN if measured.unwritten else 0)


def _short(request: RunRequest) -> RunRequest:
    """Return a request for as little as it takes: one seed, and few calls, but each as long."""
    from harness.runs.profiled import short

    return short(request)
