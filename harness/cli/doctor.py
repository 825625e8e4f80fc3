"""The command `doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from harness.cli.options import FORMAT, RESULTS
from harness.cli.output import FAILED, errors, width


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 if there is anything to warn of.")
@FORMAT
@RESULTS
def doctor(strict: bool, kind: str, results: str) -> None:
    """Check this machine before a serious run, and say what to change.

    \b
    Examples:
      python -m harness doctor
      python -m harness doctor --strict --format markdown
    """
    import pandas as pd

    from harness.doctor import examine
    from harness.render import render

    with errors():
        readings = examine(results)
    frame = pd.DataFrame(map(asdict, readings))
    if kind == "table":
        # Advice is a sentence, so it goes below.
        click.echo(render(frame.drop(columns="advice"), kind, width()), nl=False)
        for reading in readings:
            if reading.advice:
                click.echo(f"{reading.check}: {reading.advice}")
    else:
        click.echo(render(frame, kind), nl=False)
    sys.exit(FAILED if strict and any(r.status == "warn" for r in readings) else 0)
