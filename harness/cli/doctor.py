"""The command `doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from harness.cli.options import FORMAT, RESULTS
from harness.cli.output import FAILED, width
from harness.cli.usage import option, subcommand


@subcommand()
@option("--strict", is_flag=True, help="Exit with 1 if there is a warning.")
@option("--address", metavar="ADDRESS", help="Show the nodes of a Ray cluster instead.")
@FORMAT
@RESULTS
def doctor(strict: bool, address: str | None, kind: str, results: str) -> None:
    """Check this machine before a serious run, and say what to change.

    With --address, compare the nodes of a cluster: hardware and installed packages.

    \b
    Examples:
      python -m harness doctor
      python -m harness doctor --strict --format markdown
      python -m harness doctor --address HEAD:6379
    """
    import pandas as pd

    from harness.doctor import examine
    from harness.tables.text import render

    if address is not None:
        _compare_nodes(address, strict, kind)
        return
    checks = examine(results)
    frame = pd.DataFrame(map(asdict, checks))
    if kind == "table":
        # Advice is a sentence, so it goes below.
        click.echo(render(frame.drop(columns="advice"), kind, width()), nl=False)
        for check in checks:
            if check.advice:
                click.echo(f"{check.check}: {check.advice}")
    else:
        click.echo(render(frame, kind), nl=False)
    sys.exit(FAILED if strict and any(r.status == "warn" for r in checks) else 0)


def _compare_nodes(address: str, strict: bool, kind: str) -> None:
    from contextlib import closing

    from harness.dispatch.dispatcher import cluster
    from harness.doctor import side_by_side, unlike_nodes
    from harness.tables.text import render

    with closing(cluster(address)) as nodes:
        described = nodes.describe()
    click.echo(render(side_by_side(described), kind, width()), nl=False)
    unlike = unlike_nodes(described)
    for sentence in unlike:
        click.echo(sentence, err=kind != "table")
    sys.exit(FAILED if strict and unlike else 0)
