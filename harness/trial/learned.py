"""What the predictions of a trained network are made of, and how much of the past they prove.

Measurements only: `harness.tables.memory` says what follows from them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from harness.inputs.bounded_json import Several

MOST_LAGS = 64
"""The longest lag at which every window is looked at, and the coefficient at every lag."""
GROUPS = 50
"""The held-out paths are put into so many groups, for the standard errors of coefficients."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Numbers = Annotated[Several[_Number], Field(max_length=2 * MOST_LAGS + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The last evaluation, on the held-out paths. Numbers stand in the order of what they tell of.

    Empty are the windows of a task without a lag term, and the coefficients where the paths cannot
    tell them apart, or the lag is above `MOST_LAGS`.
    """

    windows: Annotated[Several[int], Field(max_length=MOST_LAGS)] = ()
    """How many past values the best predictor of each window sees, in ascending order."""
    gaps: _Numbers = ()
    """The MSE minus that of each window's best predictor, on the same paths."""
    gap_errors: _Numbers = ()
    """The standard error of each gap, over paths."""
    paths: int = 0
    """How many paths there were."""
    coefficients: _Numbers = ()
    """That of x_{t-k}^2 in the predictions at k = 0, 1, ..., by least squares with a constant for
    each time step."""
    coefficient_errors: _Numbers = ()
    """Their standard errors, by a jackknife over groups of paths."""
    groups: int = 0
    """How many groups there were."""
