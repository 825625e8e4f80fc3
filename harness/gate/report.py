"""What the gate says: for a terminal, as JSON, as JUnit XML and as Markdown, and its exit code.

Names and reasons come from elsewhere (backends, benchmarks, exceptions): in every format they stay
text, whatever they contain.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree import ElementTree as ET

import pandas as pd

from harness.errors import InvalidInput
from harness.gate.verdict import Finding, Outcome, Verdict, worst
from harness.store.files import write_whole
from harness.tables.numbers import percent, percentage
from harness.tables.text import render

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "regression": 1, "inconclusive": 3}
"""Of the gate; 2 is bad usage or input, as everywhere."""

SchemaVersion: TypeAlias = Literal[1]
SCHEMA_VERSION: SchemaVersion = 1
"""Of `as_json`."""

MARKER = "<!-- harness-gate -->"
"""The first line of the Markdown, shown nowhere: by it an earlier comment is found again."""

_MORE = "measure longer (`--budget`) or on a quieter machine, or allow more"
# A comment on GitHub holds 65,536 characters.
_MARKDOWN_ROWS = 100


def terminal(verdict: Verdict, width: int = 80) -> str:
    """Return the findings as a table, what there is to know about them, and a closing sentence."""
    findings = worst(verdict.findings)
    rows = _rows(findings)
    table = pd.DataFrame(rows, columns=_COLUMNS, dtype="object")
    drawn = render(table, "table", width, _clean(verdict.compared)) if rows else ""
    told = _foremost(verdict)
    others = [f for f in findings if told is None or f.reason != told.reason]
    notes = "".join(f"{note}\n" for note in (*_reasons(others), *_notes(verdict)))
    return f"{drawn}{notes}{sentence(verdict)}\n"


def as_json(verdict: Verdict) -> str:
    """Return everything as JSON: `schema_version`, `outcome` and the fields of the verdict."""
    content = json.loads(verdict.model_dump_json())
    head = {"schema_version": SCHEMA_VERSION, "outcome": verdict.outcome}
    return json.dumps(head | content, indent=1, allow_nan=False) + "\n"


def junit(verdict: Verdict) -> str:
    """Return JUnit XML, a test case per finding.

    A regression is a failure. What is inconclusive is an error, JUnit's word for a test that could
    not be decided: the job exits with 3, and whoever looks for the reason finds it. As `skipped`
    it would be grey among the green, and several systems show no message of a skipped test.
    """
    outcomes = [finding.outcome for finding in verdict.findings]
    attributes = {
        "name": "harness gate",
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("regression")),
        "errors": str(outcomes.count("inconclusive")),
        "time": f"{verdict.seconds:.3f}",
    }
    root = ET.Element("testsuites", attributes)
    suite = ET.SubElement(root, "testsuite", attributes)
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="compared", value=_clean(verdict.compared))
    for finding in verdict.findings:
        suite.append(_testcase(finding))
    ET.SubElement(suite, "system-out").text = terminal(verdict)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(verdict: Verdict) -> str:
    """Return the body of a comment on GitHub: outcome, sentence, table, and details folded away."""
    findings = worst(verdict.findings)
    shown = findings[:_MARKDOWN_ROWS]
    rows = [[_literal(cell) for cell in cells] for cells in _rows(shown)]
    lines = [
        MARKER,
        f"### Benchmark gate: {verdict.outcome}",
        "",
        _literal(sentence(verdict)),
        "",
        *(f"| {' | '.join(cells)} |" for cells in [_COLUMNS, ["---"] * len(_COLUMNS), *rows]),
    ]
    if len(findings) > len(shown):
        lines += ["", f"and {len(findings) - len(shown)} more."]
    details = [*_reasons(shown), *_notes(verdict), f"The gate took {verdict.seconds:.0f} s."]
    lines += [
        "",
        f"<details><summary>{_literal(_clean(verdict.compared))}</summary>",
        "",
        *(f"- {_literal(line)}" for line in details),
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def sentence(verdict: Verdict) -> str:
    """Return the outcome in a sentence: of several findings, about the worst."""
    number = len(verdict.findings)
    if verdict.outcome == "pass":
        return f"PASS: nothing got worse by more than is allowed ({_count(number, 'comparison')})."
    first = _foremost(verdict)
    if first is None:
        return "INCONCLUSIVE: nothing was compared."
    alike = sum(finding.outcome == first.outcome for finding in verdict.findings)
    others = f" {_count(alike - 1, 'more comparison')} like it." if alike > 1 else ""
    return f"{verdict.outcome.upper()}: {_explain(first)}{others}"


def exit_code(verdict: Verdict) -> int:
    """Return what the command exits with."""
    return EXIT_CODES[verdict.outcome]


def check_writable(paths: Iterable[Path | None]) -> None:
    """Raise `InvalidInput` for paths that `write` could not write; for use before measuring."""
    given = [path for path in paths if path is not None]
    problems = [problem for path in given if (problem := _unwritable(path))]
    real = [str(_real(path)) for path in given]
    twice = sorted({path for path in real if real.count(path) > 1})
    problems += [f"`{path}` is named for two outputs." for path in twice]
    if problems:
        raise InvalidInput(*problems)


def write(
    verdict: Verdict,
    json: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
) -> None:
    """Write the files asked for, each whole or not at all. Raises `StoreError`.

    On GitHub Actions, the Markdown is added to the summary of the job as well.
    """
    texts = {json: as_json, junit: _junit, markdown: _markdown}
    for path, text in texts.items():
        if path is not None:
            write_whole(_real(path), text(verdict).encode())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        # A courtesy: the outcome does not depend on it.
        with suppress(OSError), Path(summary).open("a", encoding="utf-8") as file:
            file.write(_markdown(verdict))


# `write` names its parameters after the formats.
_junit, _markdown = junit, markdown

_COLUMNS = ["subject", "metric", "change [95 %]", "allowed", "n", "verdict"]


def _foremost(verdict: Verdict) -> Finding | None:
    """Return what the sentence is about: where nothing could be measured, or the largest change."""
    alike = [finding for finding in verdict.findings if finding.outcome == verdict.outcome]
    if verdict.outcome == "pass" or not alike:
        return None
    return max(alike, key=lambda f: math.inf if f.change is None else f.change)


def _rows(findings: Sequence[Finding]) -> list[list[str]]:
    """Return a row of cells per finding; the file that all tests are in is left out."""
    subjects = [_clean(finding.subject) for finding in findings]
    files = {"".join(subject.rpartition("::")[:2]) for subject in subjects}
    cut = len(files.pop()) if len(files) == 1 else 0
    return [
        [
            subject[cut:],
            _clean(finding.metric),
            _change(finding, "+"),
            "-" if finding.tolerance is None else percent(finding.tolerance),
            f"{finding.n or '-'}",
            finding.outcome.upper() if finding.outcome == "regression" else finding.outcome,
        ]
        for subject, finding in zip(subjects, findings, strict=True)
    ]


def _change(finding: Finding, sign: Literal["+", "-"]) -> str:
    """Return the change and its interval; `sign`: "+" marks increases, too."""
    if finding.change is None:
        return "-"
    change = f"{percentage(finding.change, sign)} %"
    if finding.low is None or finding.high is None:
        return f"{change} [unknown]"
    return f"{change} [{percentage(finding.low, sign)}, {percentage(finding.high, sign)}]"


def _explain(finding: Finding) -> str:
    """Say what was found and why that is not a pass."""
    subject, metric, reason = map(_clean, (finding.subject, finding.metric, finding.reason))
    if finding.change is None or finding.tolerance is None:
        return f"{metric} of {subject}: {reason or _MORE}".rstrip(".") + "."
    allowed = percent(finding.tolerance)
    if finding.outcome == "inconclusive":
        return (
            f"{metric} of {subject} changed by {_change(finding, '+')}, which is neither shown to "
            f"be within the {allowed} allowed nor to be worse; {reason or _MORE}".rstrip(".")
            + "."
        )
    found = _change(finding, "-").replace(
        " %", " % slower" if metric.endswith("time") else " % higher"
    )
    what = subject if metric.endswith("time") else f"{metric} of {subject}"
    if finding.change <= finding.tolerance:
        # Worse for certain, and perhaps by more than is allowed.
        return f"{what} is {found}, which is not shown to be within the {allowed} allowed."
    return f"{what} is {found}; at most {allowed} is allowed."


def _reasons(findings: Sequence[Finding]) -> list[str]:
    return [
        _clean(f"{finding.subject}, {finding.metric}: {finding.reason}")
        for finding in findings
        if finding.reason
    ]


def _notes(verdict: Verdict) -> list[str]:
    return [_clean(f"note: {note}") for note in verdict.notes]


def _testcase(finding: Finding) -> ET.Element:
    subject, metric = _clean(finding.subject), _clean(finding.metric)
    case = ET.Element("testcase", classname=subject, name=f"{subject}: {metric}")
    if finding.outcome != "pass":
        kind = "failure" if finding.outcome == "regression" else "error"
        problem = ET.SubElement(case, kind, type=finding.outcome, message=_explain(finding))
        problem.text = finding.model_dump_json(indent=1)
    return case


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _clean(text: str) -> str:
    """Return the text on one line, without control characters (XML forbids most of them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _literal(text: str) -> str:
    """Return text that Markdown and HTML show as it is; an `@name` in it calls nobody."""
    escaped = escape(text).replace("@", "@\N{ZERO WIDTH SPACE}")
    return "".join(f"&#{ord(c)};" if c in "|\\`*_~[]!" else c for c in escaped)


def _real(path: Path) -> Path:
    # A link is followed: writing a file whole would otherwise put the file in its place.
    return Path(os.path.realpath(path))


def _unwritable(path: Path) -> str:
    """Say why a file cannot be written there; an empty string if it can."""
    real = _real(path)
    try:
        if real.exists() and not real.is_file():
            return f"`{path}` cannot be written: it is not a file."
        with tempfile.TemporaryFile(dir=real.parent):
            return ""
    except OSError as error:
        return f"`{path}` cannot be written: {error.strerror}."
