"""Predictions that functions of the inputs make, and files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.diagnosis.predictions_file import Predictions

Function = Callable[[Array, Array], Array]
W = 0.1


def right(x: Array, before: Array) -> Array:
    """Return the target."""
    target: Array = x**2 + W * before**2
    return target


def predictions(
    function: Function,
    paths: int = 50,
    steps: int = 40,
    rho: float = 0.1,
    seed: int = 0,
    lag: int = 1,
) -> Predictions:
    """Return what a function of x_t and x_{t-lag} predicts."""
    rng = np.random.default_rng(seed)
    x = np.zeros((steps + 1, paths))
    for t in range(1, steps + 1):
        x[t] = rho * x[t - 1] + rng.standard_normal(paths)
    lagged = np.zeros_like(x)
    lagged[lag:] = x[:-lag]
    now, before = x[1:].T.ravel(), x[:-1].T.ravel()
    return Predictions(
        np.repeat(np.arange(paths), steps),
        np.tile(np.arange(1, steps + 1), paths),
        now,
        before,
        function(now, lagged[1:].T.ravel()),
        starts_at_zero=True,
    )


def write(file: Path, given: Predictions, zero: bool = True) -> Path:
    rows = pd.DataFrame(
        {"path": given.path_R, "t": given.t_R, "x": given.x_R, "prediction": given.prediction_R}
    )
    if zero:
        start = pd.DataFrame({"path": range(given.paths), "t": 0, "x": 0.0})
        rows = pd.concat([start, rows])
    rows.sample(frac=1, random_state=0).to_csv(file, index=False)
    return file
