"""What the predictions of a trained network are made of, and how much of the past they prove.

Measurements only: `harness.tables.memory` says what follows from them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from harness.inputs.bounded_json import Several

MOST_LAGS = 64
"""The longest lag at which every window is looked at, and the coefficient at every lag."""
NEAR = 2.0
"""So many standard deviations from 0 is x_t at the steps that count for a proof of memory."""
GROUPS = 50
"""The held-out paths are put into so many groups, for the standard errors of coefficients."""

Natural = Annotated[int, Field(ge=0, le=10**9)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Numbers = Annotated[Several[_Number], Field(max_length=2 * MOST_LAGS + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The last evaluation, on the held-out paths. Numbers stand in the order of what they tell of.

    Empty are the windows of a task without a lag term, and the coefficients where the paths cannot
    tell them apart, or the lag is above `MOST_LAGS`.
    """

    windows: Annotated[Several[Natural], Field(max_length=MOST_LAGS)] = ()
    """How many past values the best predictor of each window sees, in ascending order."""
    gaps: _Numbers = ()
    """The MSE minus that of each window's best predictor, at the steps with a usual x_t of the same
    paths, and against the target of the training."""
    gap_errors: _Numbers = ()
    """The standard error of each gap, over paths."""
    gap_skews: _Numbers = ()
    """The skewness of each gap, over paths."""
    paths: Natural = 0
    """How many paths there were."""
    coefficients: _Numbers = ()
    """That of x_{t-k}^2 in the predictions at k = 0, 1, ..., by least squares with a constant for
    each time step."""
    coefficient_errors: _Numbers = ()
    """Their standard errors, by a jackknife over groups of paths."""
    groups: Natural = 0
    """How many groups there were."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        parts = (self.gaps, self.gap_errors, self.gap_skews)
        if {len(part) for part in parts} != {len(self.windows)}:
            raise ValueError("not each window has a gap, its error and its skewness")
        if len(self.coefficients) != len(self.coefficient_errors):
            raise ValueError("not each coefficient has an error")
        if (self.windows and self.paths < 2) or (self.coefficients and self.groups < 2):
            raise ValueError("a single path has no errors")
        if any(later <= past for past, later in pairwise(self.windows)):
            raise ValueError("the windows are not in order")
        if any(error < 0 for error in (*self.gap_errors, *self.coefficient_errors)):
            raise ValueError("an error is below 0")
        return self
