"""The gate's verdict as text: for a terminal, as JSON, as JUnit XML and as Markdown.

Names and reasons come from elsewhere (backends, benchmarks, exceptions). In every format they stay
text, whatever they contain.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd

from harness.errors import InvalidInput, brief, middle_cut
from harness.gate.verdict import WORST_FIRST, Judgement, Outcome, Verdict
from harness.store.files import open_stream, write_whole
from harness.tables.numbers import percent, ratio
from harness.tables.text import render

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "regression": 1, "inconclusive": 3}
"""2 is bad usage or input, as everywhere."""
SCHEMA_VERSION = 1
"""Version of the JSON."""
MARKER = "<!-- harness-gate -->"
"""The first line of the Markdown, not shown: a workflow finds its earlier comment by it."""

_MORE = "measure longer (`--budget`) or on a quieter machine, or allow more"
# From here on, a change is said as a factor: 10 times as slow.
_MANY_TIMES = 9.0
_COLUMNS = ["subject", "metric", "change [95 %]", "allowed", "n", "verdict"]
# The most useful first. What waits for another metric to be decided comes last.
_ORDER = (
    "training",
    "same training",
    "train time",
    "time",
    "final_mse",
    "mse per step",
    "lag_skill",
    "time in rare calls",
    "accuracy",
)
# A comment on GitHub holds 65,536 characters. No way to count them gives more than UTF-8 has bytes.
_LONGEST_COMMENT = 65_000
# In a comment that would be longer: the longest name, and the longest sentence.
_LONGEST_NAME, _LONGEST_SENTENCE = 200, 1000
_LITERAL = str.maketrans(
    {c: escape(c) for c in "&<>"}
    | {c: f"&#{ord(c)};" for c in "\"'|\\`*_~[]!$"}
    | {c: f"{c}\N{ZERO WIDTH SPACE}" for c in "@#"}
)


def terminal(verdict: Verdict, width: int = 80) -> str:
    """Return the judgements as a table, then reasons and notes, then the outcome in a sentence.

    Names that are longer than a line are cut in the middle.
    """
    longest = max(width, 80)
    rows = _rows(_worst_first(verdict), longest)
    verdict = _cut(verdict, longest)
    table = pd.DataFrame(rows, columns=_COLUMNS, dtype="object")
    drawn = render(table, "table", width, _clean(verdict.compared)) if rows else ""
    # The reason that the closing sentence gives is not repeated.
    given = _foremost(verdict)
    others = [j for j in _worst_first(verdict) if given is None or j.reason != given.reason]
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
            # ASCII: XML forbids some characters that JSON leaves as they are.
            problem.text = json.dumps(judgement.model_dump(), indent=1)
    ET.SubElement(suite, "system-out").text = terminal(verdict)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(verdict: Verdict, whole: str = "") -> str:
    """Return the body of a comment on GitHub: outcome, sentence, table, and details folded away.

    If a comment cannot hold it all, long names are cut in the middle, and the table has as many
    rows as fit; `whole` is the name of a file with all of it.
    """
    text = _markdown(verdict)()
    if _fits(text):
        return text
    cut = _markdown(verdict, _LONGEST_NAME, f" The whole table is in `{whole}`." if whole else "")
    numbers = range(len(verdict.judgements))
    return cut(bisect_left(numbers, True, key=lambda shown: not _fits(cut(shown + 1))))


def _markdown(verdict: Verdict, longest: int | None = None, where: str = "") -> Callable[..., str]:
    """Return what returns the body with the first rows, or all; names are cut to `longest`.

    `where` says where the rows are that are left out.
    """
    rows = [[_literal(cell) for cell in row] for row in _rows(_worst_first(verdict), longest)]
    verdict = verdict if longest is None else _cut(verdict, longest)
    reasons = [[f"- {_literal(r)}" for r in _reasons([j])] for j in _worst_first(verdict)]
    head = [MARKER, f"### Benchmark gate: {verdict.outcome}", "", _literal(sentence(verdict)), ""]
    folded = ["", f"<details><summary>{_literal(_clean(verdict.compared))}</summary>", ""]
    notes = [*_notes(verdict), f"The gate took {verdict.seconds:.0f} s."]
    tail = [*(f"- {_literal(note)}" for note in notes), "", "</details>", ""]

    def body(shown: int | None = None) -> str:
        table = [_COLUMNS, ["---"] * len(_COLUMNS), *rows[:shown]]
        lines = [*head, *(f"| {' | '.join(cells)} |" for cells in table)]
        if shown is not None:
            lines += ["", _literal(f"and {len(rows) - shown} more.{where}")]
        return "\n".join([*lines, *folded, *chain(*reasons[:shown]), *tail])

    return body


def _fits(text: str) -> bool:
    return len(text.encode()) <= _LONGEST_COMMENT


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


def check_writable(outputs: Iterable[Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """Raise `InvalidInput` for paths that `write` could not write; for use before measuring.

    `inputs` are files that must stay.
    """
    given = [path for path in outputs if path is not None]
    problems = [problem for path in given if (problem := _unwritable(path))]
    real = [str(_real(path)) for path in given]
    twice = sorted({path for path in real if real.count(path) > 1})
    problems += [f"`{path}` is named for two outputs." for path in twice]
    kept = {str(_real(path)) for path in inputs if path is not None}
    problems += [f"`{path}` is read: write to another file." for path in sorted(kept & set(real))]
    if problems:
        raise InvalidInput(*problems)


def write(verdict: Verdict, outputs: Mapping[str, Path | None]) -> str:
    """Write the files asked for, by the names of `FORMATS`, each whole or not at all.

    Markdown that is too long for a comment is cut; all of it is written to a file beside it. On
    GitHub Actions, also add the Markdown to the summary of the job; returns a sentence if only that
    cannot be written, because the outcome does not depend on it. Raises `StoreError`.
    """
    for name, path in outputs.items():
        if path is not None and name != "markdown":
            write_whole(path, FORMATS[name](verdict).encode())
    comment = outputs.get("markdown")
    whole = comment and whole_table(comment)
    text = markdown(verdict, whole.name if whole else "")
    if comment:
        write_whole(comment, text.encode())
        if whole and not _fits(everything := _markdown(verdict)()):
            write_whole(whole, everything.encode())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    try:
        if summary:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        return f"the summary of the job, `{summary}`, cannot be written: {brief(error)}."
    return ""


def whole_table(comment: Path) -> Path | None:
    """Return the file beside a comment that holds what the comment cannot: `gate.whole.md`.

    None beside a stream.
    """
    if open_stream(comment) is not None:
        return None
    return comment.with_name(f"{comment.stem}.whole{comment.suffix}")


def _worst_first(verdict: Verdict) -> list[Judgement]:
    """Return the judgements, the worst first; of inconclusive ones, the most useful first."""

    def place(judgement: Judgement) -> tuple[int, int, float]:
        outcome = WORST_FIRST.index(judgement.outcome)
        if judgement.outcome != "inconclusive":
            return outcome, 0, 0.0
        known = judgement.metric in _ORDER
        return outcome, _ORDER.index(judgement.metric) if known else 0, -_size(judgement)

    return sorted(verdict.judgements, key=place)


def _foremost(verdict: Verdict) -> Judgement | None:
    """Return the judgement for the sentence: the first row, or the largest regression."""
    outcome = verdict.outcome
    worst = [j for j in _worst_first(verdict) if j.outcome == outcome]
    if outcome == "pass" or not worst:
        return None
    return max(worst, key=_size) if outcome == "regression" else worst[0]


def _size(judgement: Judgement) -> float:
    """Return the change; what could not be measured is worse than any."""
    return math.inf if judgement.change is None else judgement.change


def _cut(verdict: Verdict, longest: int) -> Verdict:
    """Return the verdict with long names and sentences cut in the middle."""
    judgements = [
        j.model_copy(
            update={
                "subject": middle_cut(_clean(j.subject), longest),
                "metric": middle_cut(_clean(j.metric), longest),
                "reason": middle_cut(_clean(j.reason), _LONGEST_SENTENCE),
            }
        )
        for j in verdict.judgements
    ]
    return verdict.model_copy(
        update={
            "judgements": tuple(judgements),
            "notes": tuple(middle_cut(_clean(n), _LONGEST_SENTENCE) for n in verdict.notes),
            "compared": middle_cut(_clean(verdict.compared), _LONGEST_SENTENCE),
        }
    )


def _rows(judgements: Sequence[Judgement], longest: int | None = None) -> list[list[str]]:
    """Return a row of cells per judgement, without the file name if all tests are in one file.

    Names longer than `longest` are cut in the middle.
    """
    longest = sys.maxsize if longest is None else longest
    subjects = [_clean(judgement.subject) for judgement in judgements]
    # Parameters in brackets may hold anything.
    files = {"".join(subject.partition("[")[0].rpartition("::")[:2]) for subject in subjects}
    cut = len(files.pop()) if len(files) == 1 else 0
    return [
        [
            middle_cut(subject[cut:], longest),
            middle_cut(_clean(judgement.metric), longest),
            judgement.shown(),
            "-" if judgement.tolerance is None else percent(judgement.tolerance),
            f"{judgement.n or '-'}",
            judgement.outcome.upper() if judgement.outcome == "regression" else judgement.outcome,
        ]
        for subject, judgement in zip(subjects, judgements, strict=True)
    ]


def _explain(judgement: Judgement) -> str:
    """Return a sentence: the change, and why that is not a pass."""
    subject, metric, reason = map(_clean, (judgement.subject, judgement.metric, judgement.reason))
    what, why = f"{metric} of {subject}", reason or _MORE
    if judgement.change is None or judgement.tolerance is None:
        return f"{what}: {why}".rstrip(".") + "."
    allowed = percent(judgement.tolerance)
    if judgement.outcome == "inconclusive":
        change = judgement.shown()
        return (
            f"{what} changed by {change}, which is neither shown to be within the {allowed} "
            f"allowed nor to be worse; {why}".rstrip(".")
            + "."
        )
    slower = metric.endswith("time")
    what = subject if slower else what
    change = judgement.shown("-").replace(" %", " % slower" if slower else " % higher")
    if judgement.change >= _MANY_TIMES:
        low, high = judgement.low, judgement.high
        known = "unknown" if low is None or high is None else f"{ratio(1 + low)}, {ratio(1 + high)}"
        change = f"{ratio(1 + judgement.change)} times as {'slow' if slower else 'high'} [{known}]"
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
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _literal(text: str) -> str:
    """Return text that Markdown and HTML show unchanged; an `@name` or `#12` links to nothing."""
    return text.translate(_LITERAL)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _is_open(number: int) -> bool:
    with suppress(OSError):
        return bool(fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR))
    return False


def _unwritable(path: Path) -> str:
    """Return why a file cannot be written there; an empty string if it can."""
    if (number := open_stream(path)) is not None:
        return "" if _is_open(number) else f"`{path}` cannot be written: it is not open."
    real = _real(path)
    try:
        if real.is_dir():
            return f"`{path}` cannot be written: it is not a file."
        if real.exists() and not real.is_file():  # A device or a pipe.
            return "" if os.access(real, os.W_OK) else f"`{path}` may not be written."
        with tempfile.TemporaryFile(dir=real.parent):
            return ""
    except OSError as error:
        return f"`{path}` cannot be written: {error.strerror}."
