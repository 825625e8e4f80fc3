"""The command `explain`."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import RESULTS, TASK, build_task
from harness.cli.output import open_run, width
from harness.errors import InvalidInput

if TYPE_CHECKING:
    from harness.diagnosis.types import Finding

_MOST_COLUMNS = 100


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=completion.runs)
@click.option(
    "--predictions",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your own predictions: a CSV file with columns path, t, x, prediction.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    help="How to print it.",
)
@RESULTS
@TASK
def explain(
    run_id: str | None, predictions: Path | None, kind: str, results: str, **task: Any
) -> None:
    """Say in plain words what a run shows: what is wrong, how that is known, what to do.

    With --predictions, say it of predictions that any other program made; --preset, --config and
    --set then name the task. The exit code is 0 whatever is found: this is a diagnosis, not a gate.
    docs/diagnosis.md has the rules and how often they are wrong.

    \b
    Examples:
      python -m harness explain demo
      python -m harness explain demo --format markdown
      python -m harness explain --predictions mine.csv --set lag_weight=0.5
    """
    if (run_id is None) == (predictions is None):
        raise InvalidInput("`explain`: name a run, or a file by `--predictions`; one of them.")
    nothing = "Nothing is known to be wrong, and nothing was shown to be learned."
    if predictions is not None:
        from harness.diagnosis.predictions import explain, observe_predictions, per_step
        from harness.diagnosis.predictions_file import read

        expected, given = build_task(**task), read(predictions)
        found = explain(given, expected)
        nothing += f" {per_step(observe_predictions(given, expected))}"
    elif any(task.values()):
        raise InvalidInput(
            "`--preset`, `--config`, `--set`: a run has its task already; use them only with "
            "`--predictions`."
        )
    else:
        run = open_run(str(run_id), results)
        found = run.findings()
        nothing = nothing if run.records else "No trial has ended yet."
    if kind == "json":
        click.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        show = _markdown if kind == "markdown" else paragraphs
        click.echo("\n".join(map(show, found)) or f"{_indented(nothing, '')}\n", nl=False)


def paragraphs(finding: Finding, evidence: bool = True) -> str:
    """Return a finding as paragraphs: what it is about, what is wrong, the evidence, what to do."""
    parts = [f"{finding.severity.upper()} {finding.rule}: {_about(finding)}"]
    parts.append(_indented(finding.headline))
    if evidence:
        parts.append(_indented(finding.evidence))
    if finding.remedy:
        parts.append(_indented(finding.remedy, "  Next: "))
    return "\n".join(parts) + "\n"


def _indented(text: str, first: str = "  ") -> str:
    # A command is never broken up, so that it can be copied.
    return textwrap.fill(
        text,
        min(width(), _MOST_COLUMNS),
        initial_indent=first,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _markdown(finding: Finding) -> str:
    parts = [
        f"### {finding.severity.capitalize()}: {_escaped(finding.headline)}",
        f"*{_escaped(_about(finding))}* (`{finding.rule}`)",
        _escaped(finding.evidence),
    ]
    parts += [f"**Next:** {_escaped(finding.remedy)}"] if finding.remedy else []
    return "\n\n".join(parts) + "\n"


def _about(finding: Finding) -> str:
    where = f" ({finding.where})" if finding.where else ""
    return ", ".join(finding.subjects) + where


def _escaped(text: str) -> str:
    """Return text with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
