"""The curves of some trainings: how the error of each seed fell, and whether it still moves.

Shape suffixes: S seeds, K evaluations. docs/diagnosis.md has the reasons for the thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.backend.protocol import Array
from harness.diagnosis.types import Which

_LEAST_POINTS = 8
"""With fewer evaluations nobody can say whether a curve is flat."""
_FLAT = 1.1
"""A curve is flat if the medians of its last two quarters differ by less than this factor."""
_CREEP, _STEADY = 0.02, 0.8
"""An error falls steadily if it loses 2 % over half a curve, and some at 4 evaluations in 5."""
_RISEN = 3.0
"""A curve has risen if all of its last quarter is above its best before by this factor."""


@dataclass(frozen=True)
class Curve:
    """The evaluations during the trainings of some seeds."""

    epochs_K: Array
    seconds_SK: Array | None
    """Steady training until then, of all seeds that were trained at once; None if times are not
    comparable: on unlike nodes, or with other trials beside them."""
    loss_SK: Array
    mse_SK: Array

    @property
    def long_enough(self) -> bool:
        """Whether there are enough evaluations to say whether the error still moves."""
        return len(self.epochs_K) >= _LEAST_POINTS

    @property
    def _none_S(self) -> Which:
        return np.zeros(len(self.mse_SK), bool)

    def after(self, share: float) -> Which:
        """Return which evaluations come after this share of the training [K]."""
        after: Which = self.epochs_K > share * self.epochs_K[-1]
        return after

    @cached_property
    def flat_S(self) -> Which:
        """Whether the curve of a seed is flat: its last quarter is at the level before it."""
        flat: Which = self.stays_S & (self._last_S <= _FLAT * self._before_S)
        return flat

    @cached_property
    def stays_S(self) -> Which:
        """Whether the error of a seed does not fall any more; it may rise."""
        stays: Which = self._before_S <= _FLAT * self._last_S
        return stays if self.long_enough else self._none_S

    @cached_property
    def _last_S(self) -> Array:
        """The error of a seed over the last quarter of the curve, as a median."""
        last_S: Array = np.median(self.mse_SK[:, self.after(0.75)], axis=1)
        return last_S

    @cached_property
    def _before_S(self) -> Array:
        """The error over the quarter before that; where there is none, of the last one."""
        before_K = self.after(0.5) & ~self.after(0.75)
        if not before_K.any():
            return self._last_S
        before_S: Array = np.median(self.mse_SK[:, before_K], axis=1)
        return before_S

    @cached_property
    def falling_S(self) -> Which:
        """Whether the error of a seed falls at nearly every evaluation, however slowly.

        Over the last half of the curve. This tells a training that has hardly begun from one that
        is at rest or leaps about.
        """
        if not self.long_enough:
            return self._none_S
        late_SK = self.mse_SK[:, self.after(0.5)]
        less_S = late_SK[:, -1] < (1 - _CREEP) * late_SK[:, 0]
        falls: Which = less_S & (np.mean(np.diff(late_SK) < 0, axis=1) >= _STEADY)
        return falls

    @cached_property
    def risen_S(self) -> Which:
        """Whether the last quarter of a seed's curve is far above its best."""
        if not self.long_enough:
            return self._none_S
        last_K = self.after(0.75)
        best_S = self.mse_SK[:, ~last_K].min(axis=1)
        risen: Which = self.mse_SK[:, last_K].min(axis=1) > _RISEN * best_S
        return risen

    def best_later_S(self) -> Array:
        """Return the least error of each seed over the last half of the curve."""
        best_S: Array = self.mse_SK[:, self.after(0.5)].min(axis=1)
        return best_S
