"""The command `parity`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from harness.cli.options import (
    BACKENDS,
    DEVICES,
    FORMAT,
    SITE,
    SWEEP,
    TASK,
    VECTORIZE,
    build_task,
    read_request,
)
from harness.cli.output import FAILED, width
from harness.cli.usage import option, subcommand
from harness.errors import InvalidInput

if TYPE_CHECKING:
    from harness.backend.model import Model
    from harness.trial.events import Certificate


@subcommand()
@TASK
@BACKENDS
@DEVICES
@SWEEP
@VECTORIZE
@SITE
@FORMAT
@option(
    "--gradient",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Check no backend, but a gradient from any program: .npz, or a folder of .npy or .csv.",
)
@click.pass_context
def parity(context: click.Context, /, kind: str, gradient: Path | None, **_options: Any) -> None:
    """Check backends against the float64 reference: outputs, gradients, 20 Adam steps.

    If a check fails, the fault is named, if it is one that people make. With --gradient, the same
    for one gradient that another program wrote (docs/backends.md says how).

    \b
    Examples:
      python -m harness parity --backends torch,jax
      python -m harness parity --backends mypackage.mymodule:MyBackend --set hidden=64
      python -m harness parity --backends torch,jax --sweep cell=rnn,gru,lstm
      python -m harness parity --gradient mine.npz
    """
    if gradient is not None:
        _check_gradient(context, gradient, kind)
    from harness.runs.start import certify
    from harness.task.task import Task

    request = read_request(context)
    certificates = certify(request.task or Task(), request.settings, request.site)
    click.echo(_table(certificates, kind), nl=False)
    for certificate in certificates:
        if not certificate.passed:
            click.echo(
                f"{certificate.backend} on {certificate.device}: {certificate.reason}", err=True
            )
    sys.exit(0 if all(c.passed for c in certificates) else FAILED)


def _table(certificates: Sequence[Certificate], kind: str) -> str:
    """Return every check as a row; for people nothing if there is none."""
    import pandas as pd

    from harness.tables.text import render

    rows = [
        {"backend": c.backend, "device": c.device, **check.model_dump(), "passed": check.passed}
        for c in certificates
        for check in c.checks
    ]
    if not rows and kind not in {"csv", "json"}:
        return ""

    def varying(*names: str) -> list[str]:
        return [name for name in names if len({row[name] for row in rows}) > 1]

    what = ["quantity", *varying("network", "at_once"), "dtype"]
    columns = ["backend", "device", *what, "element", "error", "tolerance", "passed"]
    keys = ["backend", *varying("device"), *what]
    if kind == "table":  # Narrow, so that it stays in one part.
        columns = [*keys, "passed", "element", "error"]
    return render(pd.DataFrame(rows, columns=columns), kind, width(), keys=len(keys))


def _check_gradient(context: click.Context, path: Path, kind: str) -> NoReturn:
    """Compare a file with the reference, print what was found, and exit."""
    import pandas as pd

    from harness.measure.gradient import compare
    from harness.measure.gradient_file import read
    from harness.tables.text import render

    for name in ("backends", "devices", "sweep", "vectorize"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise InvalidInput(f"`--gradient` checks a file and no backend: leave out `--{name}`.")
    preset, config, changes = (context.params[n] for n in ("preset", "config", "changes"))
    task = build_task(preset, config, changes)
    given = frozenset(change.partition("=")[0].strip() for change in changes)
    file = read(path, task.model, given)
    checks, fault = compare(file)
    columns = ["element", "got", "want", "error", "tolerance", "passed"]
    rows = [{**check.model_dump(), "passed": check.passed} for check in checks]
    click.echo(render(pd.DataFrame(rows, columns=columns), kind, width()), nl=False)
    worst = max(checks, key=lambda check: float("inf") if check.error is None else check.error)
    if worst.passed:
        click.echo(f"{path} agrees with the reference to {worst.error:.0e}.", err=True)
        sys.exit(0)
    click.echo(f"{path} ({_describe(file.model)}): {fault}; {worst}", err=True)
    sys.exit(FAILED)


def _describe(model: Model) -> str:
    cell = f"{model.cell} with {model.activation}" if model.cell == "rnn" else model.cell
    layers = f", {model.layers} layers" if model.layers > 1 else ""
    return f"{cell}, {model.hidden} hidden units{layers}, {model.dtype}"
