"""Findings as text: for a terminal, and in Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.diagnosis.types import Finding

WIDTH = 100
"""The most columns of a line."""
NOTHING = "Nothing is known to be wrong, and nothing was shown to be learned."


def paragraphs(finding: Finding, evidence: bool = True, width: int = WIDTH) -> str:
    """Return a finding as paragraphs: what it is about, what is wrong, the evidence, what to do."""
    parts = [f"{finding.severity.upper()} {finding.rule}: {_about(finding)}"]
    parts.append(wrapped(finding.headline, width=width))
    if evidence:
        parts.append(wrapped(finding.evidence, width=width))
    if finding.remedy:
        parts.append(wrapped(finding.remedy, "  Next: ", width))
    return "\n".join(parts) + "\n"


def wrapped(text: str, first: str = "  ", width: int = WIDTH) -> str:
    """Return text in lines that are indented."""
    # A command is never broken up, so that it can be copied.
    whole = re.sub("`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), text)
    filled = textwrap.fill(
        whole,
        min(width, WIDTH),
        initial_indent=first,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace("\0", " ")


def markdown(finding: Finding) -> str:
    """Return a finding in Markdown."""
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
