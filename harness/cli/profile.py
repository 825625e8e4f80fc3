"""The command `profile`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import BACKENDS, DEVICES, FORMAT, RESULTS, TASK, read_request, site
from harness.cli.output import FAILED, UNWRITTEN, width
from harness.cli.show import table_of
from harness.cli.usage import option, subcommand
from harness.diagnosis.text import paragraphs
from harness.errors import InvalidInput, printable
from harness.inputs.commands import as_read, command

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from harness.runs.request import RunRequest


@subcommand()
@TASK
@BACKENDS
@DEVICES
@option("--threads", metavar="N", default="1", help="Threads of each backend.")
@option(
    "--what-if",
    metavar="[CHANGES]",
    is_flag=False,
    flag_value="all",
    shell_complete=completion.changes,
    help="Also try what would help: batch, seeds, variant, threads; without names, what applies.",
)
@site(dispatch="inline")
@RESULTS
@option("--run-id", metavar="ID", help="Name of the run that is kept.")
@FORMAT
@option("-q", "--quiet", is_flag=True, help="Print only what went wrong, and the results.")
@click.pass_context
def profile(
    context: click.Context, /, kind: str, quiet: bool, what_if: str | None, **_options: Any
) -> None:
    """Say where the time of an epoch goes in each backend, and why one is slower than another.

    A short training is timed and then looked at by profilers: it is a run with one seed and few
    epochs, for times and not for accuracy. docs/profile.md explains the parts and the findings.
    With `--what-if`, the formats csv and json print the factors in place of the profile.

    \b
    Examples:
      python -m harness profile --backends torch,jax
      python -m harness profile --backends torch --set hidden=256 --set batch_size=512
      python -m harness profile --backends jax --what-if batch,seeds
      python -m harness profile --backends mypackage.mymodule:MyBackend
    """
    from rich.console import Console

    from harness.runs.dashboard import reporter
    from harness.runs.start import start
    from harness.tables.text import render, render_sentences

    request = read_request(context)
    tried = None if what_if is None else _tried(request, what_if)
    with reporter(Console(stderr=True), quiet) as shown:
        measured = start(_short(request), shown)
        helps = tried(measured.manifest.plan.arms, shown.note) if tried else None
    if helps is not None and kind in {"csv", "json"}:
        click.echo(render(helps, kind), nl=False)
    elif not measured.profile.empty:
        click.echo(table_of(measured, "profile", kind), nl=False)
    if kind in {"table", "markdown"}:
        for finding in measured.findings_on_time():
            click.echo(f"\n{paragraphs(finding, width=width())}", nl=False)
        if helps is not None:
            click.echo(f"\nWhat would help\n{render_sentences(helps['words'], kind)}", nl=False)
        report = command("report", *measured.words)
        click.echo(f"\nKept: {as_read(measured.location)}. As a page: {report}")
    failures = measured.failures + measured.unprofiled
    for failure in failures:
        click.echo(f"failed: {failure}", err=True)
    for sentence in measured.unwritten:
        click.echo(f"error: {printable(sentence)}", err=True)
    sys.exit(FAILED if failures else UNWRITTEN if measured.unwritten else 0)


def _tried(request: RunRequest, names: str) -> Callable[..., pd.DataFrame]:
    """Return a function of arms and a place for notes that tries the changes with these names.

    Raises `InvalidInput` if there is no change of a name, or if they would be tried elsewhere.
    """
    from functools import partial

    from harness.runs import what_if
    from harness.task.task import Task

    if request.site.dispatch == "ray":
        raise InvalidInput("`--what-if` measures on this machine: leave `--dispatch ray` out.")
    return partial(
        what_if.of_arms,
        request.task or Task(),
        threads=request.settings.threads,
        changes=what_if.chosen(names),
    )


def _short(request: RunRequest) -> RunRequest:
    """Return a request for as little as it takes: one seed, and few calls, but each as long."""
    from harness.runs.profiled import short

    return short(request)
