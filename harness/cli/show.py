"""The commands `show` and `list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli import completion
from harness.cli.options import FORMAT, RESULTS
from harness.cli.output import open_run, width
from harness.cli.usage import Choice, option, subcommand
from harness.errors import InvalidInput, middle_cut, one_line

if TYPE_CHECKING:
    import pandas as pd

    from harness.runs.results import Run
    from harness.store.run_folder import RunFolder

_LONGEST = 500
"""Characters of what is said of a run in a list."""


@subcommand()
@click.argument("run_id", metavar="RUN", shell_complete=completion.runs)
@option(
    "--table",
    "name",
    type=Choice(
        [
            "summary",
            "comparisons",
            "break-even",
            "scaling",
            "reach",
            "lags",
            "steps",
            "curves",
            "trials",
            "attempts",
            "chunks",
            "profile",
        ]
    ),
    default="summary",
    help="Which of the tables; docs/results.md says what is in them.",
)
@FORMAT
@RESULTS
def show(run_id: str, name: str, kind: str, results: str) -> None:
    """Print the tables of a run.

    \b
    Examples:
      python -m harness show demo
      python -m harness show demo --table steps
      python -m harness show demo --table comparisons
      python -m harness show sweep --table scaling
      python -m harness show demo --table curves --format csv > curves.csv
    """
    run = open_run(run_id, results)
    if name == "scaling" and not run.swept:
        raise InvalidInput(f"`--table scaling`: run `{run_id}` is no sweep (`run --sweep`).")
    if name == "reach" and run.reach().empty:
        raise InvalidInput(
            f"`--table reach`: run `{run_id}` is no sweep over `lag` in which a memory is known."
        )
    if name == "lags" and run.lags.empty:
        raise InvalidInput(f"`--table lags`: run `{run_id}` does not tell what was learned.")
    if name == "profile" and run.profile.empty:
        raise InvalidInput(f"`--table profile`: run `{run_id}` has none (`run --profile`).")
    click.echo(table_of(run, name, kind), nl=False)


@subcommand("list")
@RESULTS
def list_(results: str) -> None:
    """List backends, presets, task fields and runs."""
    from harness.backend import registry
    from harness.backend.command import Command
    from harness.store.results_folder import run_folders
    from harness.task.task import PRESETS, Task

    click.echo("Backends")
    for name, point in registry.installed().items():
        origin = f" ({point.dist.name} {point.dist.version})" if point.dist else ""
        click.echo(f"  {name:<14} {point.value}{origin}")
    for name, found in registry.commands().items():
        place = f" (in {found.folder})" if isinstance(found, Command) else ""
        click.echo(f"  {name:<14} {found}{place}")
    click.echo("\nPresets")
    for name, fields in PRESETS.items():
        changed = ", ".join(f"{k}={v}" for k, v in fields.items()) or "the defaults below"
        click.echo(f"  {name:<14} {changed}")
    click.echo("\nTask fields (--set)")
    for name, field in Task.model_fields.items():
        click.echo(f"  {name:<14} {field.default!s:<8} {field.description}")
    runs = [_describe_run(folder) for folder in run_folders(results)]
    click.echo(f"\nRuns in {results}")
    for described in runs:
        click.echo(f"  {described}")


def table_of(run: Run, name: str, kind: str, some: bool = False) -> str:
    """Return a table of a run as text; `some`: only some of the time steps."""
    from harness.runs.precision import conclusion
    from harness.tables.reach import render_reach
    from harness.tables.text import (
        render,
        render_break_even,
        render_comparisons,
        render_scaling,
        render_summary,
    )
    from harness.tables.waterfall import render_profile

    columns = width()
    if name == "summary":
        end = conclusion(run.manifest.plan, run.comparisons())
        sentences = [*run.sentences(), *filter(None, [end]), *run.caveats]
        return render_summary(run.summary(), kind, columns, sentences, run.swept, run.words)
    if name == "comparisons":
        return render_comparisons(run.comparisons(), kind, columns, run.swept)
    if name == "break-even":
        return render_break_even(run.break_even(), kind, columns, run.swept)
    if name == "scaling":
        return render_scaling(run.growth(), run.crossovers(), kind, columns)
    if name == "reach":
        return render_reach(run.reach(), kind, columns, run.swept)
    if name == "trials":
        return render(run.trials, kind, columns, "Trials")
    if name == "attempts":
        title = "Every attempt at every trial, also those lost with their node"
        return render(run.attempts_table(), kind, columns, title)
    if name == "chunks":
        return render(run.chunks, kind, columns, "Timed calls of the training")
    if name == "profile":
        return render_profile(run.profile, kind, columns, run.swept)
    title, table = _over_seeds(run, name, kind, some)
    return render(table, kind, columns, title, keys=len(run.swept) + 1)


def _over_seeds(run: Run, name: str, kind: str, some: bool) -> tuple[str, pd.DataFrame]:
    """Return the title and a table of means over seeds: `curves`, `lags` or `steps`."""
    from harness.tables import side_by_side

    if name == "curves":
        ok = run.trials.loc[run.trials["status"] == "ok", ["trial", "seed"]]
        one_kind = run.trials["node_kind"].nunique() <= 1
        curves = side_by_side.curves_by_arm(run.curves.merge(ok), one_kind, run.swept)
        return "Convergence over seeds that ended ok: mean loss and MSE, median s", curves
    if name == "lags":
        title = "Coefficient of x_(t-k)^2 in the target, and in the predictions, mean over seeds"
        return title, side_by_side.lags_by_arm(run.lags, run.swept)
    steps = side_by_side.steps_by_arm(run.steps, run.swept)
    if kind in {"table", "markdown"}:
        steps = side_by_side.without_twins(steps)
    if some:
        steps = side_by_side.spread_out(steps)
    return "Mean squared error per time step, mean over seeds", steps


def _describe_run(folder: RunFolder) -> str:
    try:
        plan = folder.manifest().plan
        finished = folder.count_records(plan)
    except InvalidInput as error:
        return f"{folder.name:<32} {middle_cut(one_line(str(error)), _LONGEST)}"
    arms = middle_cut(", ".join(map(str, plan.arms)), _LONGEST)
    return f"{folder.name:<32} {finished}/{plan.size} trials  {arms}"
