"""What predictions of any framework show, compared with the task, by the rules for runs.

The inputs are known here, so more can be said than by the yardsticks: what multiple of each term
the predictions contain, and which target they are nearest to. Shape suffixes: R rows, one for each
time step t >= 1 of each path; P paths, T time steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from harness.backend.protocol import Array
from harness.diagnosis.beginning import settle
from harness.diagnosis.observed import FOURTH_MOMENT, Observed, Steps
from harness.diagnosis.outputs import CLUSTERS, Outputs
from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.rules import observe
from harness.diagnosis.types import SEVERITIES, Finding, Findings
from harness.diagnosis.wording import ranges
from harness.tables.numbers import short
from harness.task.task import Task
from harness.task.yardsticks import Yardsticks, yardsticks

_SHOWN = 3
"""So many steps at the beginning, in the middle and at the end are shown."""


def explain(predictions: Predictions, task: Task) -> Findings:
    """Return what the predictions show, faults first.

    Of the task, rho, lag_weight, lag and what describes the network count. The first finding tells
    the error per time step. Raises `InvalidInput` if the paths are shorter than the lag.
    """
    observed = observe_predictions(predictions, task)
    found = [
        Finding(*rule, evidence.text, evidence.remedy, ("your predictions",), "")
        for rule, evidence in observe(observed)
    ]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    if found:
        found[0] = replace(found[0], evidence=f"{found[0].evidence} {per_step(observed)}")
    return Findings(found)


def observe_predictions(predictions: Predictions, task: Task) -> Observed:
    """Return predictions as the rules read them."""
    predictions = settle(predictions, task.lag_weight, task.lag)
    # Nothing is trained here: one epoch fits any number of steps.
    steps = predictions.further + int(predictions.t_R.max())
    task = task.changed(n_steps=steps, train_sign=1, gradient="exact", epochs=1)
    outputs = Outputs(predictions, task)
    t_R = predictions.t_R - 1
    paths_T = np.bincount(t_R).astype(float)
    squares_R = (predictions.prediction_R - predictions.target_R(task.lag_weight)) ** 2
    return Observed(
        task=task.changed(rho=outputs.rho),
        seeds=(),
        step_mse_ST=(np.bincount(t_R, squares_R) / paths_T)[None],
        paths_T=paths_T,
        steps=_steps(predictions, -task.lag_weight if outputs.wrong_sign else task.lag_weight),
        exact=_exact(outputs),
        outputs=outputs,
        lag_terms=(outputs.lag_terms,),
    )


def _exact(outputs: Outputs) -> Yardsticks:
    """Return the yardsticks of the inputs as they are."""
    variance = outputs.process.variance if outputs.other_noise else 1.0
    predictions = outputs.predictions
    start = float(np.mean(predictions.back_R(1 + predictions.further)[predictions.t_R == 1] ** 2))
    # Of few paths it is badly known; in the long run the variance is that of later steps.
    start = min(start / variance, 1 / (1 - outputs.rho**2)) if variance else 0.0
    exact = yardsticks(outputs.task.changed(rho=outputs.rho), start)
    # All yardsticks are proportional to the square of a variance.
    scored = slice(predictions.further, None)
    return Yardsticks(**{name: variance**2 * value[scored] for name, value in vars(exact).items()})


def _steps(predictions: Predictions, weight: float) -> Steps:
    """Return the errors per step against a target, over the same paths at every step."""
    squares_PT = _block(predictions, (predictions.prediction_R - predictions.target_R(weight)) ** 2)
    mse_T, paths = squares_PT.mean(axis=0), len(squares_PT)
    noise_T = np.full(len(mse_T), np.sqrt(FOURTH_MOMENT / paths))
    if paths >= CLUSTERS:
        spread_T = squares_PT.std(axis=0, ddof=1) / np.sqrt(paths)
        noise_T = np.divide(spread_T, mse_T, out=np.zeros_like(mse_T), where=mse_T > 0)
    return Steps(mse_T[None], noise_T)


def _block(predictions: Predictions, values_R: Array) -> Array:
    """Return the values of the largest block of paths and steps without gaps [P, T]."""
    lengths = np.bincount(predictions.path_R)
    ends = np.unique(lengths)
    length = ends[np.argmax([end * np.sum(lengths >= end) for end in ends])]
    inside = (lengths[predictions.path_R] >= length) & (predictions.t_R <= length)
    # Rows are in the order of paths, and of steps on each.
    block_PT: Array = values_R[inside].reshape(-1, length)
    return block_PT


def per_step(observed: Observed) -> str:
    """Return what is taken for granted, and the error at some steps, beside a yardstick."""
    name = "without_lag" if observed.has_lag else "variance"
    what = observed.yardstick if observed.has_lag else "the variance of the target"
    level_T = getattr(observed.exact, name)
    parts = [
        f"t = {ranges(range(first + 1, last + 1))}: "
        f"{short(observed.step_mse_ST[0, first:last].mean())} "
        f"({short(level_T[first:last].mean())})"
        for first, last in _parts(len(level_T))
    ]
    notes = observed.outputs.notes if observed.outputs else ()
    return " ".join([*notes, f"The error per step, and {what} there: {'; '.join(parts)}."])


def _parts(steps: int) -> Iterator[tuple[int, int]]:
    """Yield from which step to which: the first one by one, some in the middle, the last."""
    yield from ((t, t + 1) for t in range(min(_SHOWN, steps)))
    if steps >= 3 * _SHOWN:
        middle = (steps - _SHOWN) // 2
        yield middle, middle + _SHOWN
        yield steps - _SHOWN, steps
    elif steps > _SHOWN:
        yield _SHOWN, steps
