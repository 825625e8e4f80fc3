"""The gate's judgements, and the rule by which it decides.

A judgement compares one thing in two versions, in one metric. Positive is worse in every metric:
0.05 is 5 % more time, or 5 % more error.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.stats.estimates import CONFIDENCE, Estimate
from harness.stats.median import Median
from harness.tables.numbers import percentage

Outcome: TypeAlias = Literal["regression", "inconclusive", "pass"]
Text: TypeAlias = Annotated[
    str, AfterValidator(lambda text: text.encode(errors="backslashreplace").decode())
]
"""Text that every format can hold: a path whose bytes are not UTF-8 shows them as `\\udcff`."""
WORST_FIRST: tuple[Outcome, ...] = get_args(Outcome)


class Judgement(BaseModel):
    """One comparison; `change`, `low`, `high` and `p` are None where nothing was measured."""

    model_config = ConfigDict(frozen=True)

    subject: Text
    """What was compared: `jax on cpu`, or the name of a benchmark."""
    metric: Text
    """`train time`, `final_mse`, `parity`, ..."""
    outcome: Outcome
    change: float | None = None
    """Relative: 0.05 is 5 % worse."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `change`."""
    p: float | None = None
    """One-sided p-value of the claim that it got worse at all."""
    n: int = 0
    """The number of independent values (pairs of processes, seeds)."""
    tolerance: float | None = None
    """The `change` that must be found."""
    reason: Text = ""
    """A sentence where the figures alone do not say why."""

    @classmethod
    def of_logarithm(
        cls,
        subject: str,
        metric: str,
        outcome: Outcome,
        change: Estimate | Median,
        tolerance: float,
        reason: str = "",
        looks: int = 1,
    ) -> Self:
        """Return the judgement on an estimated change of a logarithm.

        If this is one of several `looks` at growing data, the interval is wider, so that the
        intervals of all looks hold together in 95 % of all cases (Bonferroni).
        """
        low, high = map(_relative, change.interval(1 - (1 - CONFIDENCE) / looks))
        known = math.isfinite(low)
        return cls(
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

    def shown(self, sign: Literal["+", "-"] = "+") -> str:
        """Return the change and its interval; with the sign "+", increases have a sign, too."""
        if self.change is None:
            return "-"
        change = f"{percentage(self.change, sign)} %"
        if self.low is None or self.high is None:
            return f"{change} [unknown]"
        return f"{change} [{percentage(self.low, sign)}, {percentage(self.high, sign)}]"


class Verdict(BaseModel):
    """All judgements of a gate."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    compared: Text
    """Both versions, for a heading: `working tree against main (3f2a1c9)`."""
    judgements: tuple[Judgement, ...] = Field(alias="findings")
    notes: tuple[Text, ...] = ()
    """What the reader should know to trust the judgements."""
    seconds: float
    """How long the gate took."""

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of any judgement; inconclusive if there is none."""
        outcomes = [judgement.outcome for judgement in self.judgements]
        return min(outcomes, key=WORST_FIRST.index, default="inconclusive")


def decide(
    change: Estimate | Median, limit: float, false_alarm: float, miss: float, p: float | None = None
) -> Outcome:
    """Decide on an estimated change; `limit` is on the same scale (a logarithm, for a logarithm).

    - pass: a test shows that the change is below `limit`. If it is exactly `limit`, the test errs
      in at most a share `miss` of all cases.
    - regression: a test shows that the change is above zero. If it is zero, the test errs in at
      most a share `false_alarm` of all cases. `p` replaces its p-value: corrected, where several
      comparisons share one `false_alarm`.
    - inconclusive: neither. If both are shown, it passes.
    """
    if change.p_below(limit) < miss:
        return "pass"
    worse = change.p_above(0) if p is None else p
    return "regression" if worse < false_alarm else "inconclusive"


def _relative(log_ratio: float) -> float:
    # A float holds no ratio much larger than 10^300.
    return math.expm1(min(log_ratio, 690.0))
