"""Which steps back predictions use, by their squares, and what that says of the lag term.

Shape suffixes: S seeds (predictions are one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

from harness.diagnosis.wording import past
from harness.task.task import Task

Verdict: TypeAlias = Literal["right", "turned", "elsewhere", "spread", "part", "none", "unclear"]
"""What became of the lag term: in the predictions as in the target, or surely with the other sign;
at another step back; spread over several; less of it; not there; something else, or unknown."""

NEAR = 0.25
"""Two coefficients of the lag term are the same if they differ by less than this share of w."""
_PRESENT = 0.1
"""x_t^2 is in the predictions about once if its coefficient is within this of 1."""
_SHOWS, _ADDS = 0.1, 0.05
"""A coefficient counts if it is more than this share of w, and twice its interval's half-width; in
a sum it counts sooner."""
_ROUNDING = 1e-9
"""A coefficient below this comes from rounding."""
_NAMED = 4


class Coefficient(NamedTuple):
    """A coefficient and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (f"{0 if abs(each) < _ROUNDING else each:.3g}" for each in self)
        return f"{value} [{low}, {high}]"

    @property
    def half(self) -> float:
        """Half of the width of the interval."""
        return (self.high - self.low) / 2

    def near(self, value: float, within: float) -> bool:
        """Whether it differs by less than `within` from a value."""
        return abs(self.value - value) < within

    def holds(self, value: float) -> bool:
        """Whether a value is in the interval."""
        return self.low <= value <= self.high

    @property
    def about_one(self) -> bool:
        """Whether it may be 1, as that of x_t^2 should."""
        return self.near(1, _PRESENT) or self.holds(1)


@dataclass(frozen=True)
class LagTerms:
    """The coefficients of x_{t-k}^2 in predictions, by least squares with a constant."""

    terms: Sequence[Coefficient]
    """k = 0, 1, ..., at least up to L."""
    task: Task
    """What they are compared with; its `rho` is that of the inputs."""

    @property
    def elsewhere(self) -> list[int]:
        """The steps back that are in the predictions, but not in the target."""
        return [k for k in self._there(_SHOWS) if k != self.task.lag]

    @property
    def has_lag(self) -> bool:
        """Whether the step back that is in the target is in the predictions, too."""
        return self.task.lag in self._there(_SHOWS)

    def _there(self, share: float) -> list[int]:
        least = share * abs(self.task.lag_weight)
        return [
            k
            for k, term in enumerate(self.terms)
            if k and abs(term.value) > max(least, 2 * term.half)
        ]

    @property
    def use_others(self) -> bool:
        """Whether other steps back are in the predictions as much as a lag term would be."""
        least = NEAR * abs(self.task.lag_weight)
        others = [self.terms[k].value for k in self._there(_ADDS) if k != self.task.lag]
        return bool(others) and max(abs(sum(others)), *map(abs, others)) > least

    @property
    def sum(self) -> float:
        """The sum of the coefficients of all steps back."""
        return sum(term.value for term in self.terms[1:])

    @property
    def mistaken(self) -> int | None:
        """The other step back whose coefficient is that of the lag term, if there is one."""
        w, lag, rho = self.task.lag_weight, self.task.lag, self.task.rho

        def is_it(k: int) -> bool:
            value = self.terms[k].value
            # What is nearer is correlated with what is wanted: so much of it is of use by itself.
            use = w * rho ** (2 * (lag - k)) if k < lag else 0.0
            return abs(value - w) < min(NEAR * abs(w), abs(value - use))

        found = [k for k in self.elsewhere if is_it(k)]
        return found[0] if len(found) == 1 else None

    @cached_property
    def verdict(self) -> Verdict:
        """What became of the lag term."""
        w, lag = self.task.lag_weight, self.terms[self.task.lag]
        near, share = NEAR * abs(w), lag.value / w if w else 0.0
        if not w or not self.terms[0].about_one or lag.half > abs(w) / 2:
            return "unclear"
        if lag.near(w, near):
            return "right"
        largest = max(abs(term.value) for term in self.terms[1:])
        if share + lag.half / abs(w) < -NEAR and largest == abs(lag.value):
            return "turned"
        if lag.near(0, near) and self.mistaken is not None:
            return "elsewhere"
        if abs(self.sum - w) < near and len(self._there(_ADDS)) > 1:
            return "spread"
        if _SHOWS < share < 1 and lag.half < share * abs(w) / 2:
            return "part"
        nothing = lag.holds(0) or abs(share) < _SHOWS / 2
        return "none" if nothing and not self.use_others else "unclear"

    @property
    def named(self) -> list[int]:
        """The steps back to speak of: that of the lag, and the largest of the others."""
        least = _ADDS if self.verdict == "spread" else _SHOWS
        others = [k for k in self._there(least) if k != self.task.lag]
        others.sort(key=lambda k: -abs(self.terms[k].value))
        return sorted([self.task.lag, *others[: _NAMED - 1]])


def contained(those: Sequence[LagTerms]) -> str:
    """Say what the predictions of one seed, or of several, contain of the past."""
    first = those[0]

    def each(k: int) -> str:
        values = [terms.terms[k].value for terms in those]
        low, high = (f"{value + 0.0:.2g}" for value in (min(values), max(values)))
        several = low if low == high else f"{low} to {high}"
        return f"{first.terms[k] if len(those) == 1 else several} times {past(k)}^2"

    *some, last = map(each, first.named)
    return f"{', '.join(some)} and {last}" if some else last
