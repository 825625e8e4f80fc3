"""The command `parity`."""

from __future__ import annotations

import sys
from typing import Any

import click

from harness.cli.options import (
    BACKENDS,
    DEVICES,
    FORMAT,
    SITE,
    SWEEP,
    TASK,
    VECTORIZE,
    read_request,
)
from harness.cli.output import FAILED, width


@click.command()
@TASK
@BACKENDS
@DEVICES
@SWEEP
@VECTORIZE
@SITE
@FORMAT
@click.pass_context
def parity(context: click.Context, /, kind: str, **_options: Any) -> None:
    """Check backends against the float64 reference: outputs, gradients, 20 Adam steps.

    \b
    Examples:
      python -m harness parity --backends torch,jax
      python -m harness parity --backends mypackage.mymodule:MyBackend --set hidden=64
      python -m harness parity --backends torch,jax --sweep cell=rnn,gru,lstm
    """
    import pandas as pd

    from harness.runs.start import certify
    from harness.tables.text import render
    from harness.task.task import Task

    request = read_request(context)
    certificates = certify(request.task or Task(), request.settings, request.site)
    rows = [
        {"backend": c.backend, "device": c.device, **check.model_dump(), "passed": check.passed}
        for c in certificates
        for check in c.checks
    ]
    columns = ["backend", "device", "quantity", "dtype", "element", "error", "tolerance", "passed"]
    columns[3:3] = [name for name in ("network", "at_once") if len({r[name] for r in rows}) > 1]
    click.echo(render(pd.DataFrame(rows, columns=columns), kind, width()), nl=False)
    for certificate in certificates:
        if not certificate.passed:
            click.echo(
                f"{certificate.backend} on {certificate.device}: {certificate.reason}", err=True
            )
    sys.exit(0 if all(c.passed for c in certificates) else FAILED)
