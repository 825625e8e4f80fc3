"""What the gate finds, and the one rule by which it decides.

A finding compares two versions of one thing in one metric. A change that makes things worse is
positive whatever the metric: 0.05 is 5 % more time, or 5 % more error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.stats.estimates import CONFIDENCE, Estimate

Outcome: TypeAlias = Literal["pass", "regression", "inconclusive"]


class Finding(BaseModel):
    """One comparison; `change`, `low` and `high` are None where nothing was measured."""

    model_config = ConfigDict(frozen=True)

    subject: str
    """What was compared: `jax on cpu`, or the name of a benchmark."""
    metric: str
    """In which respect: `train time`, `final_mse`, `parity`, ..."""
    outcome: Outcome
    change: float | None = None
    """Relative: 0.05 is 5 % worse."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `change`."""
    p: float | None = None
    """One-sided p-value of the claim that it got worse at all."""
    n: int = 0
    """How many independent values (pairs of processes, seeds) that rests on."""
    tolerance: float | None = None
    """The `change` that must be found."""
    reason: str = ""
    """A sentence where the figures alone do not say why."""


class Verdict(BaseModel):
    """Everything a gate found."""

    model_config = ConfigDict(frozen=True)

    compared: str
    """What with what, for a heading: `working tree against main (3f2a1c9)`."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    """What the reader should know to judge the findings."""
    seconds: float
    """How long the gate took."""

    @property
    def outcome(self) -> Outcome:
        """A regression in anything is one; what is not known to pass does not."""
        outcomes = {finding.outcome for finding in self.findings}
        if "regression" in outcomes:
            return "regression"
        return "pass" if outcomes == {"pass"} else "inconclusive"


def decide(
    change: Estimate, limit: float, false_alarm: float, miss: float, p: float | None = None
) -> Outcome:
    """Decide on a change: a pass, a regression, or not known yet.

    It passes if it is shown to be below `limit`, by a test that is wrong at most in a share `miss`
    of the cases in which it is that large. It is a regression if it is shown to be above zero, by
    a test that is wrong at most in a share `false_alarm` of the cases in which nothing changed. A
    small change shown to be both passes. `limit` is on the scale of the estimate: a logarithm's is
    one. Of many comparisons that share one `false_alarm`, `p` is the p-value of the second test,
    corrected for their number.
    """
    if change.p_below(limit) < miss:
        return "pass"
    worse = change.p_above(0) if p is None else p
    return "regression" if worse < false_alarm else "inconclusive"


def finding(
    subject: str,
    metric: str,
    outcome: Outcome,
    change: Estimate,
    tolerance: float,
    reason: str = "",
    looks: int = 1,
) -> Finding:
    """Return the finding that an estimate of a logarithm amounts to.

    If it is one of several `looks` at growing data, the interval is such that those of all looks
    hold together in 95 % of all cases (Bonferroni).
    """
    confidence = 1 - (1 - CONFIDENCE) / looks
    low, high = (_relative(bound) for bound in change.interval(confidence))
    known = math.isfinite(low)
    return Finding(
        subject=subject,
        metric=metric,
        outcome=outcome,
        change=_relative(change.value) if math.isfinite(change.value) else None,
        low=low if known else None,
        high=high if known else None,
        p=change.p_above(0) if known else None,
        n=change.n,
        tolerance=tolerance,
        reason=reason,
    )


def worst(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, regressions first, then what is not known."""
    rank = {"regression": 0, "inconclusive": 1, "pass": 2}
    return sorted(findings, key=lambda f: rank[f.outcome])


def _relative(log_ratio: float) -> float:
    # A ratio of 10^300 is as good as any beyond, which no float holds.
    return math.expm1(min(log_ratio, 690.0))
