"""The gate's verdict as text: for a terminal, as JSON, as JUnit XML and as Markdown.

Names and reasons come from elsewhere (backends, benchmarks, exceptions). In every format they stay
text, whatever they contain.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import pandas as pd

from harness.errors import InvalidInput
from harness.gate.verdict import WORST_FIRST, Judgement, Outcome, Verdict
from harness.store.files import write_whole
from harness.tables.numbers import percent, percentage
from harness.tables.text import render

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "regression": 1, "inconclusive": 3}
"""2 is bad usage or input, as everywhere."""
SCHEMA_VERSION = 1
"""Version of the JSON."""
MARKER = "<!-- harness-gate -->"
"""The first line of the Markdown, not shown: a workflow finds its earlier comment by it."""

_MORE = "measure longer (`--budget`) or on a quieter machine, or allow more"
_COLUMNS = ["subject", "metric", "change [95 %]", "allowed", "n", "verdict"]
# A comment on GitHub holds 65,536 characters.
_MARKDOWN_ROWS = 100


def terminal(verdict: Verdict, width: int = 80) -> str:
    """Return the judgements as a table, then reasons and notes, then the outcome in a sentence."""
    judgements = _worst_first(verdict)
    table = pd.DataFrame(_rows(judgements), columns=_COLUMNS, dtype="object")
    drawn = render(table, "table", width, _clean(verdict.compared)) if judgements else ""
    # The reason that the closing sentence gives is not repeated.
    given = _foremost(verdict)
    others = [j for j in judgements if given is None or j.reason != given.reason]
    lines = [*_reasons(others), *_notes(verdict), sentence(verdict)]
    return drawn + "".join(f"{line}\n" for line in lines)


def as_json(verdict: Verdict) -> str:
    """Return `schema_version`, `outcome` and the fields of the verdict as JSON."""
    content = json.loads(verdict.model_dump_json(by_alias=True))
    head = {"schema_version": SCHEMA_VERSION, "outcome": verdict.outcome}
    return json.dumps(head | content, indent=1, allow_nan=False) + "\n"


def junit(verdict: Verdict) -> str:
    """Return JUnit XML, a test case per judgement.

    A regression is a failure. What is inconclusive is an error, JUnit's word for a test that could
    not be decided, because the job exits with 3 then: several systems show no reason for a test
    that is `skipped`.
    """
    outcomes = [judgement.outcome for judgement in verdict.judgements]
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
    for judgement in verdict.judgements:
        subject, metric = _clean(judgement.subject), _clean(judgement.metric)
        case = ET.SubElement(suite, "testcase", classname=subject, name=f"{subject}: {metric}")
        if judgement.outcome != "pass":
            kind = "failure" if judgement.outcome == "regression" else "error"
            message = _explain(judgement)
            problem = ET.SubElement(case, kind, type=judgement.outcome, message=message)
            problem.text = judgement.model_dump_json(indent=1)
    ET.SubElement(suite, "system-out").text = terminal(verdict)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(verdict: Verdict) -> str:
    """Return the body of a comment on GitHub: outcome, sentence, table, and details folded away."""
    judgements = _worst_first(verdict)
    shown = judgements[:_MARKDOWN_ROWS]
    rows = [[_literal(cell) for cell in cells] for cells in _rows(shown)]
    table = [f"| {' | '.join(cells)} |" for cells in [_COLUMNS, ["---"] * len(_COLUMNS), *rows]]
    if len(judgements) > len(shown):
        table += ["", f"and {len(judgements) - len(shown)} more."]
    details = [*_reasons(shown), *_notes(verdict), f"The gate took {verdict.seconds:.0f} s."]
    lines = [
        MARKER,
        f"### Benchmark gate: {verdict.outcome}",
        "",
        _literal(sentence(verdict)),
        "",
        *table,
        "",
        f"<details><summary>{_literal(_clean(verdict.compared))}</summary>",
        "",
        *(f"- {_literal(line)}" for line in details),
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


FORMATS: Mapping[str, Callable[[Verdict], str]] = {
    "json": as_json,
    "junit": junit,
    "markdown": markdown,
}


def sentence(verdict: Verdict) -> str:
    """Return the outcome in a sentence, about the worst judgement if there are several."""
    number = len(verdict.judgements)
    if verdict.outcome == "pass":
        return f"PASS: nothing got worse by more than is allowed ({_count(number, 'comparison')})."
    first = _foremost(verdict)
    if first is None:
        return "INCONCLUSIVE: nothing was compared."
    others = sum(judgement.outcome == first.outcome for judgement in verdict.judgements) - 1
    more = f" {_count(others, 'more comparison')} like it." if others else ""
    return f"{verdict.outcome.upper()}: {_explain(first)}{more}"


def check_writable(paths: Iterable[Path | None]) -> None:
    """Raise `InvalidInput` for paths that `write` could not write; for use before measuring."""
    given = [path for path in paths if path is not None]
    problems = [problem for path in given if (problem := _unwritable(path))]
    real = [str(_real(path)) for path in given]
    twice = sorted({path for path in real if real.count(path) > 1})
    problems += [f"`{path}` is named for two outputs." for path in twice]
    if problems:
        raise InvalidInput(*problems)


def write(verdict: Verdict, outputs: Mapping[str, Path | None]) -> None:
    """Write the files asked for, by the names of `FORMATS`, each whole or not at all.

    On GitHub Actions, also add the Markdown to the summary of the job. Raises `StoreError`.
    """
    for name, path in outputs.items():
        if path is not None:
            write_whole(_real(path), FORMATS[name](verdict).encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        # The outcome does not depend on the summary.
        with suppress(OSError), Path(summary).open("a", encoding="utf-8") as file:
            file.write(markdown(verdict))


def _worst_first(verdict: Verdict) -> list[Judgement]:
    return sorted(verdict.judgements, key=lambda j: WORST_FIRST.index(j.outcome))


def _foremost(verdict: Verdict) -> Judgement | None:
    """Return the judgement for the sentence: one that is not measured, or the largest change."""
    alike = [judgement for judgement in verdict.judgements if judgement.outcome == verdict.outcome]
    if verdict.outcome == "pass" or not alike:
        return None
    return max(alike, key=lambda j: math.inf if j.change is None else j.change)


def _rows(judgements: Sequence[Judgement]) -> list[list[str]]:
    """Return a row of cells per judgement, without the file name if all tests are in one file."""
    subjects = [_clean(judgement.subject) for judgement in judgements]
    files = {"".join(subject.rpartition("::")[:2]) for subject in subjects}
    cut = len(files.pop()) if len(files) == 1 else 0
    return [
        [
            subject[cut:],
            _clean(judgement.metric),
            _change(judgement, "+"),
            "-" if judgement.tolerance is None else percent(judgement.tolerance),
            f"{judgement.n or '-'}",
            judgement.outcome.upper() if judgement.outcome == "regression" else judgement.outcome,
        ]
        for subject, judgement in zip(subjects, judgements, strict=True)
    ]


def _change(judgement: Judgement, sign: Literal["+", "-"]) -> str:
    """Return the change and its interval; with the sign "+", increases have a sign, too."""
    if judgement.change is None:
        return "-"
    change = f"{percentage(judgement.change, sign)} %"
    if judgement.low is None or judgement.high is None:
        return f"{change} [unknown]"
    return f"{change} [{percentage(judgement.low, sign)}, {percentage(judgement.high, sign)}]"


def _explain(judgement: Judgement) -> str:
    """Return a sentence: the change, and why that is not a pass."""
    subject, metric, reason = map(_clean, (judgement.subject, judgement.metric, judgement.reason))
    what, why = f"{metric} of {subject}", reason or _MORE
    if judgement.change is None or judgement.tolerance is None:
        return f"{what}: {why}".rstrip(".") + "."
    allowed = percent(judgement.tolerance)
    if judgement.outcome == "inconclusive":
        change = _change(judgement, "+")
        return (
            f"{what} changed by {change}, which is neither shown to be within the {allowed} "
            f"allowed nor to be worse; {why}".rstrip(".")
            + "."
        )
    worse = "slower" if metric.endswith("time") else "higher"
    change = _change(judgement, "-").replace(" %", f" % {worse}")
    what = subject if worse == "slower" else what
    if judgement.change <= judgement.tolerance:
        # It is worse, and may be worse by more than is allowed.
        return f"{what} is {change}, which is not shown to be within the {allowed} allowed."
    return f"{what} is {change}; at most {allowed} is allowed."


def _reasons(judgements: Sequence[Judgement]) -> list[str]:
    return [_clean(f"{j.subject}, {j.metric}: {j.reason}") for j in judgements if j.reason]


def _notes(verdict: Verdict) -> list[str]:
    return [_clean(f"note: {note}") for note in verdict.notes]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _clean(text: str) -> str:
    """Return the text on one line, without control characters (XML forbids most of them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _literal(text: str) -> str:
    """Return text that Markdown and HTML show unchanged; an `@name` in it notifies nobody."""
    escaped = escape(text).replace("@", "@\N{ZERO WIDTH SPACE}")
    return "".join(f"&#{ord(c)};" if c in "|\\`*_~[]!" else c for c in escaped)


def _real(path: Path) -> Path:
    # Follow links: to write a file whole would otherwise replace the link.
    return Path(os.path.realpath(path))


def _unwritable(path: Path) -> str:
    """Return why a file cannot be written there; an empty string if it can."""
    real = _real(path)
    try:
        if real.exists() and not real.is_file():
            return f"`{path}` cannot be written: it is not a file."
        with tempfile.TemporaryFile(dir=real.parent):
            return ""
    except OSError as error:
        return f"`{path}` cannot be written: {error.strerror}."
