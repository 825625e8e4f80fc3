"""What a diagnosis consists of: rules, the evidence that one applies, and findings made of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.diagnosis import text

Which: TypeAlias = npt.NDArray[np.bool_]
"""For which seeds, evaluations or time steps something holds."""
Severity: TypeAlias = Literal["fault", "warning", "info", "good"]
SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "info", "good")
"""The worst first: findings come in this order."""
Id: TypeAlias = Literal[
    "wrong-sign",
    "broken-gradient",
    "first-steps",
    "few-steps",
    "memoryless",
    "stuck-seed",
    "worse-than-constant",
    "got-worse",
    "error-grows",
    "diverged",
    "backends-disagree",
    "failed",
    "not-converged",
    "break-even",
    "learned",
    "imprecise",
    "path-loop",
    "repeated-call",
    "double-precision",
    "recompiles",
    "garbage",
    "allocation",
    "threads-fight",
    "sleeps",
    "copies",
    "predicts",
    "evaluation",
    "arithmetic-bound",
    "call-bound",
    "python-bound",
    "memory-bound",
    "slow-kernels",
    "slower-because",
    "wrong-lag",
    "other-lag",
    "other-present",
    "other-constant",
    "other-inputs",
    "no-input",
    "unsure",
]
"""The names of all rules, as docs/diagnosis.md has them; the last six are on predictions only."""


class Rule(NamedTuple):
    """Something that can be wrong, or right."""

    id: Id
    severity: Severity
    headline: str
    """One plain sentence."""


class Evidence(NamedTuple):
    """How it is known that a rule applies, and what to do next."""

    text: str
    """Sentences with the numbers."""
    remedy: str = ""
    brief: str = ""
    """The text in a few words."""
    weight: float = 0.0
    """If a rule applies to several backends, the text of the heaviest is shown."""


@dataclass(frozen=True)
class Finding:
    """A statement of the diagnosis about a run, or about predictions."""

    rule: Id
    severity: Severity
    headline: str
    """One plain sentence."""
    evidence: str
    """Sentences with the numbers."""
    remedy: str
    """What to do next; "" if nothing."""
    subjects: tuple[str, ...]
    """What it is about: "jax on cpu", ..."""
    where: str
    """At which points of a sweep; "" without one."""

    def __str__(self) -> str:
        return text.paragraphs(self)


def by_severity(finding: Finding) -> int:
    """Return the place of a finding among others: the worst first."""
    return SEVERITIES.index(finding.severity)


class Findings(list[Finding]):
    """The findings on a run or on predictions; they print as `explain` prints them."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or text.NOTHING

    def _repr_markdown_(self) -> str:
        return "\n".join(map(text.markdown, self)) or text.NOTHING
