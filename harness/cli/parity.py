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
    build_site,
    task_and_settings,
)
from harness.cli.output import FAILED, errors, width


@click.command()
@TASK
@BACKENDS
@DEVICES
@SWEEP
@VECTORIZE
@SITE
@FORMAT
def parity(kind: str, **options: Any) -> None:
    """Hold backends against the float64 reference: outputs, gradients, 20 Adam steps.

    \b
    Examples:
      python -m harness parity --backends torch,jax
      python -m harness parity --backends mypackage.mymodule:MyBackend --set hidden=64
      python -m harness parity --backends torch,jax --sweep cell=rnn,gru,lstm
    """
    import pandas as pd

    from harness.runs import session
    from harness.tables.text import render

    with errors():
        task, settings = task_and_settings(options)
        certificates = session.certify(task, settings, build_site(options))
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
