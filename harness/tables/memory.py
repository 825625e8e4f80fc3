"""How far back a trained network provably remembers, and what it learned, lag by lag."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from harness.backend.protocol import Array
from harness.stats.estimates import CONFIDENCE
from harness.tables.columns import columns
from harness.tables.points import with_point
from harness.task.task import Task
from harness.trial.learned import Learned
from harness.trial.record import Record

LAGS = columns("trial backend device seed k true coefficient low high")
MISTAKES = 0.001
"""How often a trial may be said to remember longer than it does, at most."""


def memory(learned: Learned | None) -> int | None:
    """Return how many steps back a network provably uses its inputs; None if that is unknown.

    It is the largest d such that the error is below that of the best predictor that sees only
    x_t ... x_{t-d+1}: such an error needs x_{t-d} or something before it. Both errors are taken on
    the same paths, so the luck of the paths is in neither. From the shortest window on, each is
    tested at the whole level `MISTAKES`, up to the first that is not beaten. That is a closed test:
    its chance to say too much is no larger for many windows (Maurer, Hothorn and Lehmacher 1995).
    """
    if learned is None or not learned.windows:
        return None
    d = 0
    for past, gap, error in zip(learned.windows, learned.gaps, learned.gap_errors, strict=True):
        if not gap < 0 or (error and stdtr(learned.paths - 1, gap / error) > MISTAKES):
            break
        d = past + 1
    return d


def lags_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per seed and k: the coefficient of x_{t-k}^2 in its held-out predictions.

    `true` is that of the target. `low` to `high` is the 95 % interval, by paths.
    """
    parts = [part for record in records for part in record.by_seed()]
    learned = [part.learned or Learned() for part in parts]
    counts = [len(one.coefficients) for one in learned]
    value, half = (
        np.array([number for row in rows for number in row], dtype=float)
        for rows in ([one.coefficients for one in learned], [_halves(one) for one in learned])
    )
    weights = [true(part.task, count) for part, count in zip(parts, counts, strict=True)]
    keys = {
        name: np.repeat([getattr(part, name) for part in parts], counts)
        for name in ("trial", "backend", "device", "seed")
    }
    numbers = {
        "k": [k for count in counts for k in range(count)],
        "true": [weight for row in weights for weight in row],
        "coefficient": value,
        "low": value - half,
        "high": value + half,
    }
    table = pd.DataFrame(keys | numbers, columns=list(LAGS)).astype(LAGS)
    return with_point(table, parts, swept, counts)


def _halves(learned: Learned) -> Array:
    """Return the half-widths of the intervals, by Student's t over groups."""
    if not learned.coefficients:
        return np.empty(0)
    t = float(stdtrit(learned.groups - 1, (1 + CONFIDENCE) / 2))
    return t * np.array(learned.coefficient_errors)


def true(task: Task, count: int) -> list[float]:
    """Return the coefficients of x_{t-k}^2 in the target, k = 0 ... count - 1."""
    weights = {0: 1.0, task.lag: task.lag_weight}
    return [weights.get(k, 0.0) for k in range(count)]
