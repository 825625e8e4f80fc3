"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli import completion
from harness.cli.options import RESULTS
from harness.cli.output import drawing, open_run
from harness.cli.usage import option, subcommand
from harness.errors import InvalidInput

if TYPE_CHECKING:
    from harness.runs.results import Run


@subcommand()
@click.argument("run_id", metavar="RUN", shell_complete=completion.runs)
@RESULTS
@option(
    "--to",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write into this folder instead of that of the run.",
)
@option("--plots/--no-plots", default=True, help="Every chart also as SVG and PNG.")
@option("--open", "show", is_flag=True, help="Open the page in a browser.")
def report(run_id: str, results: str, to: Path | None, plots: bool, show: bool) -> None:
    """Write the report of a run: one HTML file, and its charts as SVG and PNG.

    It says first in words what the run shows, then in tables and charts. The file needs no network
    and no other file, so it can be sent to anybody. The run may still be going on.

    \b
    Examples:
      python -m harness report demo
      python -m harness report demo --open
      python -m harness report demo --to paper --results s3://bucket/results
    """
    from harness.charts import vega

    vega.prepare()  # While the rest is imported.
    if to is not None and to.suffix == ".html":
        raise InvalidInput(f"`--to {to}`: name a folder; the page in it is report.html.")
    where = write_report(open_run(run_id, results), to, plots)
    if show:
        click.launch(where)


def write_report(run: Run, to: Path | None = None, plots: bool = True) -> str:
    """Write the report of a run, print and return where it is. Raises `HarnessError`."""
    with drawing():
        from harness.report import run_page

    where = run_page.write(run, to, plots)
    click.echo(f"Report: {where}")
    return where
