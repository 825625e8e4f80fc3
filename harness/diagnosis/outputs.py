"""What predictions show whose inputs are known: the terms that they contain, and their inputs.

Shape suffix: R rows, one for each time step t >= 1 of each path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.backend.protocol import Array
from harness.diagnosis import wording
from harness.diagnosis.lag_terms import NEAR, Coefficient, LagTerms
from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.types import Which
from harness.stats import regression
from harness.task.task import Task

CLUSTERS = 20
"""From this many paths on, each counts as one independent value; of fewer, each row does."""
FEW_ROWS = 20
_SURE = 4.0
"""Two values differ if they are more than this many standard errors apart."""
_NEAR_ZERO = 0.02
"""Without a lag term, a coefficient below this is none."""
_LONGEST = 64
"""The longest lag at which every step back is looked at."""
_GROUPS = 50
"""Then, rows are put into so many groups, as one can be left out after the other."""
_MOST_VALUES = 2**24
"""The most squares of earlier inputs that are held: of more rows, the first paths are taken."""
_SAME = 1e-6
"""Numbers are the same if they differ by less than this share of what they might."""


class Terms(NamedTuple):
    """What multiple of 1, x_t^2 and x_{t-L}^2 predictions contain."""

    constant: Coefficient
    now: Coefficient
    before: Coefficient


class Process(NamedTuple):
    """Inputs as an AR(1) process."""

    rho: float
    rho_error: float
    """Standard error of rho."""
    variance: float
    """Variance of the noise."""


def coefficients(predictions: Predictions) -> Terms | None:
    """Return the terms of the predictions, by least squares; None if rows cannot tell them apart.

    The intervals allow for residuals that go together on one path, and whose size depends on x:
    they are those of a jackknife over paths, with Student's t (Bell and McCaffrey 2002). Of few
    paths, or of paths that overlap, each step counts as independent, once.
    """
    rows = _with_lag(predictions)
    x_R, lagged_R = predictions.x_R[rows], predictions.lagged_R[rows]
    design = np.stack([np.ones_like(x_R), x_R**2, lagged_R**2])
    if min(len(x_R), predictions.steps) <= 2 * len(design):
        return None
    _, group_R = np.unique(_groups(predictions)[rows], return_inverse=True)
    output_R = predictions.prediction_R[rows]
    squares_GPP = _sums(group_R, [[one * other for other in design] for one in design])
    products_GP = _sums(group_R, [[one * output_R] for one in design])[..., 0]
    found = regression.fit(squares_GPP, products_GP)
    if found is None:
        return None
    return Terms(*_with_intervals(found))


def _with_lag(predictions: Predictions) -> Which:
    """Return the rows from t = L on.

    Before, the target has no lag term. A network may count these steps and leave a constant out,
    which would be taken for memory.
    """
    with_lag: Which = predictions.t_R + predictions.further >= predictions.lag
    return with_lag


def _groups(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Return numbers of what counts as independent: paths, or different steps."""
    if predictions.paths >= CLUSTERS and predictions.steps == len(predictions.x_R):
        return predictions.path_R
    return predictions.step_R


def _with_intervals(found: regression.Fit) -> list[Coefficient]:
    ends = zip(
        found.values, found.values - found.halves(), found.values + found.halves(), strict=True
    )
    return [Coefficient(*map(float, each)) for each in ends]


def every_lag(predictions: Predictions) -> list[Coefficient] | None:
    """Return the coefficients of 1 and of x_{t-k}^2, k = 0 ... 2L, by least squares.

    There are fewer if paths are shorter, but at least L; None if rows cannot tell them apart.
    """
    lag, longest = predictions.lag, int(predictions.t_R.max())
    if lag > min(_LONGEST, longest + predictions.further - 1):
        return None
    most = min(2 * lag, longest + predictions.further - 1)
    if not predictions.begins:
        # Half of the rows at least have to have all of them.
        usual = int(np.quantile(predictions.t_R, 0.5)) + predictions.further
        most = max(lag, min(most, usual))
    rows = predictions.path_R < max(1, _MOST_VALUES // (longest * (most + 2)))
    rows &= _with_lag(predictions)
    if not predictions.begins:
        rows &= predictions.t_R + predictions.further >= most
    if np.count_nonzero(rows) <= 4 * (most + 2):
        return None
    group_R = _groups(predictions)[rows]
    _, group_R = np.unique(group_R, return_inverse=True)
    group_R %= _GROUPS
    design_RP = np.stack(
        [np.ones(np.count_nonzero(rows))]
        + [predictions.back_R(k)[rows] ** 2 for k in range(most + 1)],
        axis=1,
    )
    output_R = predictions.prediction_R[rows]
    parts = [group_R == group for group in range(int(group_R.max()) + 1)]
    found = regression.fit(
        np.array([design_RP[part].T @ design_RP[part] for part in parts]),
        np.array([design_RP[part].T @ output_R[part] for part in parts]),
    )
    return None if found is None else _with_intervals(found)


def _sums(group_R: npt.NDArray[np.int64], values: Sequence[Sequence[Array]]) -> Array:
    """Return the sums over each group of a matrix of values [G, rows, columns]."""
    return np.array([[np.bincount(group_R, each) for each in row] for row in values]).transpose(
        2, 0, 1
    )


def _spread(values_R: Array, group_R: npt.NDArray[np.int64]) -> float:
    """Return how far values are from the mean of their group at most."""
    mean_G = np.bincount(group_R, values_R) / np.maximum(np.bincount(group_R), 1)
    return float(np.abs(values_R - mean_G[group_R]).max())


@dataclass(frozen=True)
class Outputs:
    """Predictions, and the task that they are compared with."""

    predictions: Predictions
    task: Task

    @cached_property
    def terms(self) -> Terms | None:
        """What they contain; None if there is too little to tell."""
        several = self.lag_terms
        if several is None or not several.elsewhere:
            return coefficients(self.predictions)
        # What else is there would be taken for the lag term, as far as both are correlated.
        constant, lag = self._every_lag[0], self.task.lag
        return Terms(constant, several.terms[0], several.terms[lag])

    @cached_property
    def _every_lag(self) -> list[Coefficient]:
        return every_lag(self.predictions) or []

    @cached_property
    def lag_terms(self) -> LagTerms | None:
        """Which steps back they use, by their squares; None if there is too little to tell."""
        if not self._every_lag or not self.w:
            return None
        return LagTerms(self._every_lag[1:], self.task.changed(rho=self.rho))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the paths, in sentences."""
        rows, steps = len(self.predictions.x_R), self.predictions.steps
        if steps == rows:
            return self.predictions.notes
        return (
            *self.predictions.notes,
            f"Paths overlap: {rows:,} rows hold {steps:,} different steps. So for the interval "
            "not each path, but each different step counts as one independent value.",
        )

    @property
    def same_for_any_input(self) -> str:
        """That predictions are the same where inputs are not, in words; "" if they are not."""
        predictions = self.predictions
        words = {
            f"Every prediction is {predictions.prediction_R[0]:.6g}": np.zeros_like(
                predictions.t_R
            ),
            "At each time step the predictions of all paths are the same": predictions.t_R,
        }
        for what, group_R in words.items():
            if len(group_R) - len(np.unique(group_R)) >= FEW_ROWS:
                spread = _spread(predictions.prediction_R, group_R)
                if spread < _SAME * _spread(predictions.x_R**2, group_R):
                    return what
        return ""

    @property
    def lags_alike(self) -> str:
        """The one size that x_{t-L} has in all rows; "" if it has more than one."""
        lagged_R = self.predictions.lagged_R
        size = np.abs(lagged_R).max()
        if size - np.abs(lagged_R).min() > _SAME * size:
            return ""
        return f"{lagged_R[0] + 0:g}" if np.ptp(lagged_R) <= size else f"{size:g} or {-size:g}"

    @property
    def w(self) -> float:
        """The weight of the lag term in the target."""
        return self.task.lag_weight

    @property
    def past(self) -> str:
        """The value that the target remembers: `x_(t-4)`."""
        return wording.past(self.task.lag)

    def target(self, weight: float) -> str:
        """Return the target with a lag term of this weight."""
        return wording.target(weight, self.task.lag)

    @cached_property
    def process(self) -> Process:
        """The process of the inputs, by least squares."""
        x_R, before_R = self.predictions.x_R, self.predictions.before_R
        weight = float(np.sum(before_R**2))
        if not weight or len(x_R) < FEW_ROWS:
            return Process(self.task.rho, np.inf, 1.0)
        rho = float(np.sum(x_R * before_R)) / weight
        variance = float(np.mean((x_R - rho * before_R) ** 2))
        error = float(np.sqrt(variance / weight * len(x_R) / self.predictions.steps))
        return Process(rho, error, variance)

    @property
    def other_rho(self) -> bool:
        """Whether the inputs cannot have the coefficient of the task."""
        return abs(self.process.rho - self.task.rho) > _SURE * self.process.rho_error

    @property
    def rho(self) -> float:
        """The coefficient of the inputs: that of the task, unless they cannot have it."""
        return float(np.clip(self.process.rho, -0.999, 0.999)) if self.other_rho else self.task.rho

    @property
    def other_noise(self) -> bool:
        """Whether the noise of the inputs cannot have the variance 1."""
        off = abs(self.process.variance - 1)
        return bool(off > max(0.05, _SURE * np.sqrt(2 / self.predictions.steps)))

    @property
    def follow_present(self) -> bool:
        """Whether the coefficient of x_t^2 may be about 1."""
        if self.terms is None:
            return True
        return self.terms.now.about_one

    @property
    def near(self) -> float:
        """By how much two coefficients of the lag term may differ and still be the same."""
        return NEAR * abs(self.w) or _NEAR_ZERO

    @property
    def lag(self) -> Coefficient | None:
        """The coefficient of the lag term; None unless it is known well enough to speak of it."""
        if self.terms is None or not self.follow_present or self.lag_unsure:
            return None
        return self.terms.before

    @property
    def lag_unsure(self) -> bool:
        """Whether the interval of the coefficient of the lag term is too wide."""
        if self.terms is None or not self.follow_present:
            return False
        lag = self.terms.before
        return (lag.high - lag.low) / 2 > (abs(self.w) / 2 or _NEAR_ZERO)

    @property
    def use_others(self) -> bool:
        """Whether other steps back are in the predictions as much as a lag term would be."""
        return self.lag_terms is not None and self.lag_terms.use_others

    @property
    def wrong_sign(self) -> bool:
        """Whether the lag term is in the predictions with the other sign."""
        return bool(self.w) and self.lag is not None and self.lag.near(-self.w, self.near)

    @property
    def right_lag(self) -> bool:
        """Whether the lag term is in the predictions as in the target."""
        return bool(self.w) and self.lag is not None and self.lag.near(self.w, self.near)

    @property
    def contained(self) -> str:
        """The lag term and the errors against each target, in words, without a stop."""
        lag = self.terms.before if self.terms else None
        return (
            f"Your predictions contain {lag} times {self.past}^2 (95 % interval, {self.size}); "
            f"the target has {self.w:+g}. {self.errors}"
        )

    @property
    def errors(self) -> str:
        """The errors against each target, in words, without a stop."""
        mse, w = self.predictions.mse, self.w
        if not w:
            return f"The error against x_t^2 is {mse(0):.3g}"
        return (
            f"The error is {mse(w):.3g} against {self.target(w)}, {mse(-w):.3g} against "
            f"{self.target(-w)} and {mse(0):.3g} against x_t^2"
        )

    @property
    def size(self) -> str:
        """How much there is, in words."""
        paths, rows = self.predictions.paths, len(self.predictions.t_R)
        return f"{paths} path{'s' * (paths > 1)}, {rows:,} step{'s' * (rows > 1)}"
