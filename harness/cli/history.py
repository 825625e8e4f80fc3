"""The command `history`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from harness.cli import completion
from harness.cli.options import FORMAT, RESULTS, split
from harness.cli.output import drawing, warn, width
from harness.cli.usage import option, subcommand
from harness.errors import InvalidInput


@subcommand()
@RESULTS
@FORMAT
@option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a page with charts: one file that needs no network.",
)
@option(
    "--backends",
    metavar="A,B,...",
    shell_complete=completion.backends,
    help="Show these only.",
)
@option(
    "--relative-to",
    metavar="NAME",
    shell_complete=completion.backends,
    help="Form ratios of times with this backend; by default, with the one in most runs.",
)
def history(
    results: str, kind: str, html: Path | None, backends: str | None, relative_to: str | None
) -> None:
    """Show how fast and how accurate each backend was over all runs, and where that changed.

    A change point is named with the commit at which it appears. Runs are compared only where task,
    kind of machine, device and way of measuring are the same. CSV has a row per run and series,
    JSON the change points, the newest rows and all rows.

    \b
    Examples:
      python -m harness history
      python -m harness history --html history.html --results s3://bucket/results
      python -m harness history --relative-to torch --backends jax,jax-tuned
      python -m harness history --format csv > history.csv
    """
    # `Path.is_dir` raises for a name that is too long.
    if html is not None and not os.path.isdir(folder := html.absolute().parent):
        raise InvalidInput(f"`--html {html}`: there is no folder `{folder}`.")
    from harness.history.history import History
    from harness.history.wording import rendered

    if html is not None:
        with drawing():
            from harness.charts import vega
            from harness.history.page import build
        from harness.store.files import write_whole

        vega.prepare()
    shown = History(results, split(backends or ""), relative_to)
    warn(shown.warnings)
    try:
        if html is not None:
            write_whole(html, build(shown).html().encode())
            click.echo(f"Page: {html}", err=True)
    finally:
        click.echo(rendered(shown, kind, width()), nl=False)
