"""Whether paths whose x_0 is not in the file begin with x_0 = 0, as those of the task do.

Paths that were cut out of longer ones do not. With an x_0 of 0 in its place the coefficient of the
lag term comes out too small, so the first step is used only if the data agree with x_0 = 0. Of
paths that do not begin with x_0 = 0, only the steps are used whose x_{t-L} is in the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.diagnosis.outputs import Terms, coefficients
from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.types import Which
from harness.diagnosis.wording import past
from harness.errors import InvalidInput

Verdict: TypeAlias = Literal["zero", "other", "unknown"]

_SURE = 4.0
"""Two samples differ if their ranks are more than this many standard deviations apart."""
_NEARER = 0.25
"""If x_0 = 0 does not explain everything, it has to explain all but this share."""
_NEAR_ZERO = 0.02
"""A coefficient of the lag term below this is none."""
_LEFT_OUT = "So the first row of each such path is an input only, and counts as t = 0 here."


def settle(predictions: Predictions, weight: float, lag: int = 1) -> Predictions:
    """Return predictions in which every x_{t-L} is known, or may be taken as 0, with a note on it.

    `weight` is that of the lag term in the target, `lag` its L. Raises `InvalidInput` if paths are
    shorter than that.
    """
    predictions = _with_x_0(replace(predictions, lag=lag), weight)
    steps = int(predictions.t_R.max())
    if steps < lag:
        raise InvalidInput(
            f"`lag` = {lag}: the longest path has {steps} step{'s' * (steps > 1)} after x_0, so no "
            f"step has {past(lag)}; give longer paths, or name the lag that is meant."
        )
    if predictions.begins or lag == 1:
        return predictions
    return _noted(
        _after(predictions, lag - 1),
        f"What was before x_0 is not in the file, so {past(lag)} is unknown in the next "
        f"{lag - 1} rows of each path: they are inputs only, too, and the last one counts as "
        "t = 0 here.",
    )


def _with_x_0(predictions: Predictions, weight: float) -> Predictions:
    """Return predictions in which x_0 is known, or may be taken as 0, with a note on it."""
    if predictions.assumed_R is None:
        return predictions
    if predictions.assumed_R.all():
        return _noted(predictions, "x_0 is not in the file; it is taken to be 0.")
    first = _rows(predictions, predictions.assumed_R)
    later = _rows(predictions, ~predictions.assumed_R)
    known = _after(later, predictions.lag - 1)
    terms = coefficients(known) if len(known.x_R) else None
    inputs = _by_inputs(first, later)
    outputs = _by_outputs(first, known, terms) if terms else "unknown"
    if "other" not in (inputs, outputs):
        if "zero" in (inputs, outputs):
            return _noted(
                predictions, "x_0 is not in the file; it is taken to be 0, and the data agree."
            )
        if not weight and terms and terms.before.near(0, _NEAR_ZERO):
            return _noted(
                predictions,
                "x_0 is not in the file; it is taken to be 0. Without a lag term it does not "
                "matter.",
            )
        why = "x_0 is not in the file, and the data do not tell whether it is 0."
    elif inputs == "other":
        why = "x_0 is not in the file, and it is not 0: x is as large at t = 1 as it is later."
    else:
        why = (
            "x_0 is not in the file, and it is not 0 to the network: its outputs at t = 1 depend "
            "on something before that. Either the paths are cut out of longer ones, or the hidden "
            "state does not start anew with each path."
        )
    return _noted(replace(later, begins=False), f"{why} {_LEFT_OUT}")


def _noted(predictions: Predictions, note: str) -> Predictions:
    return replace(predictions, assumed_R=None, notes=(*predictions.notes, note))


def _rows(predictions: Predictions, rows: Which) -> Predictions:
    """Return some of the rows; paths are numbered anew, and steps where the first is not there."""
    _, first, path_R = np.unique(predictions.path_R[rows], return_index=True, return_inverse=True)
    t_R = predictions.t_R[rows]
    return replace(
        predictions,
        path_R=path_R.astype(np.int64),
        t_R=t_R - t_R[first][path_R] + 1,
        x_R=predictions.x_R[rows],
        before_R=predictions.before_R[rows],
        prediction_R=predictions.prediction_R[rows],
        assumed_R=None,
    )


def _after(predictions: Predictions, steps: int) -> Predictions:
    """Return the rows after so many steps of each path, which are inputs only."""
    if not steps:
        return predictions
    rows = predictions.t_R > steps
    first = predictions.t_R == steps + 1
    further = [predictions.back_R(back)[first] for back in range(2, steps + 2)]
    return replace(_rows(predictions, rows), further_HP=np.array(further))


def _by_inputs(first: Predictions, known: Predictions) -> Verdict:
    """Compare x_1 with the noise of later steps, which it is if x_0 = 0, and with later x."""
    weight = np.sum(known.before_R**2)
    rho = np.sum(known.x_R * known.before_R) / weight if weight else 0.0
    return _nearer(
        np.abs(first.x_R),
        if_zero=np.abs(known.x_R - rho * known.before_R),
        if_other=np.abs(known.x_R),
    )


def _by_outputs(first: Predictions, known: Predictions, terms: Terms) -> Verdict:
    """Compare how far outputs scatter about a function of x_t at t = 1 and at later steps.

    If a network starts each path in the same state, its output at t = 1 is a function of x_1. If it
    has seen an x_0, it scatters as the outputs at later steps do about a function of x_t.
    """
    return _nearer(
        _scatter(first, terms.now.value),
        if_zero=_scatter(known, terms.now.value, terms.before.value),
        if_other=_scatter(known, terms.now.value),
    )


def _scatter(predictions: Predictions, now: float, before: float = 0.0) -> Array:
    """Return how far outputs without some terms are from a line between neighbours in x.

    Each three neighbours at a time step give one, on the scale of the standard deviation (Gasser,
    Sroka and Jennen-Steinmetz 1986).
    """
    order = np.lexsort((predictions.x_R, predictions.t_R))
    x_R, t_R = predictions.x_R[order], predictions.t_R[order]
    rest_R = predictions.prediction_R[order] - now * x_R**2
    rest_R -= before * predictions.lagged_R[order] ** 2
    number_R = np.arange(len(t_R)) - np.searchsorted(t_R, t_R)
    a = np.flatnonzero((number_R[:-2] % 3 == 0) & (t_R[:-2] == t_R[2:]))
    width = x_R[a + 2] - x_R[a]
    share = np.divide(x_R[a + 1] - x_R[a], width, out=np.full(len(a), 0.5), where=width > 0)
    off = rest_R[a + 1] - (1 - share) * rest_R[a] - share * rest_R[a + 2]
    scatter: Array = np.abs(off) / np.sqrt(1 + share**2 + (1 - share) ** 2)
    return scatter


def _nearer(sample: Array, *, if_zero: Array, if_other: Array) -> Verdict:
    """Return which of two samples a third one is like; the first is the smaller of the two."""
    if not len(sample) or not len(if_zero):
        return "unknown"
    above, below = _above(sample, if_zero) > _SURE, _above(sample, if_other) < -_SURE
    if above and below:
        middle, zero, other = (float(np.median(each)) for each in (sample, if_zero, if_other))
        return "zero" if middle - zero < _NEARER * (other - zero) else "other"
    return "other" if above else "zero" if below else "unknown"


def _above(sample: Array, pool: Array) -> float:
    """Return by how many standard deviations a sample ranks above another (Mann, Whitney 1947)."""
    ordered, n, m = np.sort(pool), len(sample), len(pool)
    wins = sum(np.searchsorted(ordered, sample, side).sum() for side in ("left", "right")) / 2
    return float((wins - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))
