"""The command `explain`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import RESULTS, TASK, build_task
from harness.cli.output import open_run, width
from harness.errors import InvalidInput

if TYPE_CHECKING:
    from harness.diagnosis.statements import Finding

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
    show_default=True,
    help="How to print it.",
)
@RESULTS
@TASK
def explain(
    run_id: str | None, predictions: Path | None, kind: str, results: str, **task: Any
) -> None:
    """Say in plain words what a run shows: what is wrong, how that is known, what to do.

    Or what predictions show that were made elsewhere, in whatever framework (--predictions); then
    --preset, --config and --set say what they should have been. Ends with 0 whatever is found: it
    is a diagnosis, not a gate. docs/diagnosis.md has the rules and how often they err.

    \b
    Examples:
      python -m harness explain demo
      python -m harness explain demo --format markdown
      python -m harness explain --predictions mine.csv --set lag_weight=0.5
    """
    if (run_id is None) == (predictions is None):
        raise InvalidInput("`explain`: name a run, or a file by `--predictions`; one of them.")
    if predictions is not None:
        from harness.diagnosis.predictions import explain as explain_predictions
        from harness.diagnosis.predictions_file import read

        found, nothing = explain_predictions(read(predictions), build_task(**task)), _NOTHING
    else:
        if any(task.values()):
            raise InvalidInput(
                "`--preset`, `--config`, `--set`: a run knows its task; they go with "
                "`--predictions`."
            )
        found, nothing = _of_run(str(run_id), results)
    click.echo(_render(found, kind, nothing), nl=False)


_NOTHING = "Nothing is known to be wrong, and nothing was shown to be learned."


def _of_run(run_id: str, results: str) -> tuple[list[Finding], str]:
    """Return the findings of a run, and what to say if there are none."""
    run = open_run(run_id, results)
    return run.findings(), _NOTHING if run.records else "No trial has ended yet."


def _render(found: Sequence[Finding], kind: str, nothing: str) -> str:
    if kind == "json":
        return json.dumps([asdict(finding) for finding in found], indent=1) + "\n"
    if not found:
        return f"{nothing}\n"
    return "\n".join(map(_markdown if kind == "markdown" else _text, found))


def _text(finding: Finding) -> str:
    """Return a finding as paragraphs: who and where, what, how that is known, what to do."""
    return _paragraphs(finding, finding.headline, finding.evidence)


def briefly(finding: Finding) -> str:
    """Return a finding without how it is known."""
    return _paragraphs(finding, finding.headline)


def _paragraphs(finding: Finding, *texts: str) -> str:
    title = f"{finding.severity.upper()} {finding.rule}: {_whose(finding)}"
    parts = [title, *map(_indented, texts)]
    parts += [_indented(finding.remedy, "  Next: ")] if finding.remedy else []
    return "\n".join(parts) + "\n"


def _indented(text: str, first: str = "  ") -> str:
    # A command is never broken: it is there to be copied.
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
        f"### {finding.severity.capitalize()}: {_plain(finding.headline)}",
        f"*{_plain(_whose(finding))}* (`{finding.rule}`)",
        _plain(finding.evidence),
    ]
    parts += [f"**Next:** {_plain(finding.remedy)}"] if finding.remedy else []
    return "\n\n".join(parts) + "\n"


def _whose(finding: Finding) -> str:
    where = f" ({finding.where})" if finding.where else ""
    return ", ".join(finding.subjects) + where


def _plain(text: str) -> str:
    """Return text with everything escaped that Markdown would read."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
