"""The command `compare`."""

from __future__ import annotations

from collections.abc import Callable

import click

from harness.cli import completion
from harness.cli.options import FORMAT, RESULTS, quantity
from harness.cli.output import open_run, width
from harness.cli.usage import option, subcommand
from harness.errors import InvalidInput
from harness.inputs.quantities import fraction
from harness.tables.metrics import compared_metrics


def _metrics_help() -> str:
    metrics = compared_metrics().values()
    default, others = ([m.name for m in metrics if m.default == wanted] for wanted in (True, False))
    names = ", ".join(default).replace("train_s", "train_s (per epoch)")
    return f"May be repeated. Default: {names}. Others: {', '.join(others)}."


def _margin(option: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        share = quantity(fraction, option)(text)
        if not 0 < share <= 1:
            raise InvalidInput(f"`{option} {text}`: a margin is above 0 and at most 100%.")
        return share

    return convert


@subcommand()
@click.argument("run_a", metavar="RUN_A", shell_complete=completion.runs)
@click.argument("run_b", metavar="RUN_B", shell_complete=completion.runs)
@option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.metrics,
    help=_metrics_help(),
)
@option(
    "--margin",
    metavar="SHARE",
    type=_margin("--margin"),
    default="2%",
    help="Times and memory within this are the same.",
)
@option(
    "--accuracy-margin",
    metavar="SHARE",
    type=_margin("--accuracy-margin"),
    default="10%",
    help="The same for errors; for lag_skill, which is a share itself, 10% is 0.10.",
)
@option(
    "--across",
    metavar="[BACKEND]",
    is_flag=False,
    flag_value="",
    shell_complete=completion.backends,
    help="Compare ratios to a backend that both runs have, also between unlike machines.",
)
@FORMAT
@RESULTS
def compare(
    run_a: str,
    run_b: str,
    metrics: tuple[str, ...],
    margin: float,
    accuracy_margin: float,
    across: str | None,
    kind: str,
    results: str,
) -> None:
    """Say what changed from RUN_A to RUN_B, each with a 95 % interval and a verdict.

    A change is "same" if it is shown to lie within the margin, otherwise named if it is shown to be
    one (both corrected for the number of rows), otherwise "inconclusive". It reports; the exit code
    is 0 whatever it finds.

    \b
    Examples:
      python -m harness compare before after
      python -m harness compare before after --metric wall_s --metric peak_rss_mb
      python -m harness compare laptop server --across torch
    """
    from harness.compare import Margins, compare_runs
    from harness.tables.text import render_changes

    before, after = open_run(run_a, results), open_run(run_b, results)
    margins = Margins(margin, accuracy_margin)
    comparison = compare_runs(before, after, metrics, margins, across)
    title = f"From {run_a} (A) to {run_b} (B), 95 % intervals"
    click.echo(render_changes(comparison.changes, kind, width(), title), nl=False)
    for notice in comparison.notices:
        click.echo(f"note: {notice}", err=True)
