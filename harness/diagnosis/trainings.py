"""The trainings of one backend at one point of a sweep, as the rules read them.

Shape suffixes: S seeds, K evaluations, T time steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.diagnosis.curve import Curve
from harness.diagnosis.lag_terms import Coefficient, LagTerms
from harness.diagnosis.observed import FOURTH_MOMENT, Observed, Steps
from harness.tables.pairs import ARM
from harness.task.task import Task
from harness.task.yardsticks import yardsticks
from harness.trial.sweep import SweepPoint


def trainings(
    task: Task,
    seeds: Sequence[int],
    curve: Curve,
    step_mse_ST: Array,
    moved_S: Array | None = None,
    not_ok: int = 0,
    lag_terms: Sequence[LagTerms | None] = (),
    memory_S: Array | None = None,
) -> Observed:
    """Return trainings of a task as the rules read them."""
    exact = yardsticks(task)
    noise_T = np.full(task.n_steps, np.sqrt(FOURTH_MOMENT / task.eval_paths))
    followed_ST = step_mse_ST
    if task.train_sign < 0:
        # Of the other target, no error was measured; without a lag term, as at t = 1, it is this.
        followed_ST = np.where(exact.wrong_sign > 0, np.nan, step_mse_ST)
    return Observed(
        task=task,
        seeds=tuple(seeds),
        step_mse_ST=step_mse_ST,
        paths_T=np.full(task.n_steps, float(task.eval_paths)),
        steps=Steps(followed_ST, noise_T),
        exact=exact,
        curve=curve,
        moved_S=moved_S,
        not_ok=not_ok,
        lag_terms=tuple(lag_terms),
        memory_S=memory_S,
    )


def by_arm(
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    steps: pd.DataFrame,
    points: Sequence[SweepPoint],
    lags: pd.DataFrame | None = None,
) -> Iterator[tuple[SweepPoint, str, Observed]]:
    """Yield the trainings of each backend ("torch on cpu") at each point of a sweep.

    The tables are those of `harness.tables.from_records`. Where no trial ended ok, there are none.
    """
    keys = [*points[0].values, *ARM]
    ok = trials[trials["status"] == "ok"]
    asked = trials.groupby(keys, sort=False).size().to_dict()
    curves_of, steps_of, lags_of = (
        {}
        if table is None
        else dict(iter(table.merge(ok[["trial", "seed"]]).groupby(keys, sort=False)))
        for table in (curves, steps, lags)
    )
    for key, mine in ok.groupby(keys, sort=False):
        if key not in curves_of or key not in steps_of:
            continue
        *values, backend, device = key
        point = point_at(points, values)
        not_ok = int(asked[key]) - len(mine)
        found = _from_tables(point.task, mine, curves_of[key], steps_of[key], not_ok)
        if found is not None:
            terms = _lag_terms(point.task, lags_of[key], found.seeds) if key in lags_of else ()
            yield point, f"{backend} on {device}", replace(found, lag_terms=terms)


def point_at(points: Sequence[SweepPoint], values: Sequence[object]) -> SweepPoint:
    """Return the point of a sweep with these values."""
    return next(point for point in points if list(point.values.values()) == list(values))


def _from_tables(
    task: Task, trials: pd.DataFrame, curves: pd.DataFrame, steps: pd.DataFrame, not_ok: int
) -> Observed | None:
    """Turn the rows of some trials into arrays; None if the trials have not as many rows each."""
    curves = curves.sort_values(["seed", "epoch"], kind="stable")
    steps = steps.sort_values(["seed", "t"], kind="stable")
    trials = trials.sort_values("seed", kind="stable")
    seeds = trials["seed"]
    even = curves.groupby("seed").size().nunique() == 1
    if not even or len(steps) != len(seeds) * task.n_steps:
        return None
    epochs_SK, train_s_SK, loss_SK, mse_SK = (
        curves[name].to_numpy(dtype=float).reshape(len(seeds), -1)
        for name in ("epoch", "train_s", "train_loss", "eval_mse")
    )
    alike = trials["node_kind"].nunique() == 1 and not trials["contended"].any()
    seconds_SK = train_s_SK * trials["at_once"].to_numpy()[:, None] if alike else None
    moved_S = trials["initial_state_moved"].to_numpy(dtype=float)
    memory_S = np.full(len(seeds), np.nan)
    if "memory" in trials:
        memory_S = trials["memory"].to_numpy(dtype=float, na_value=np.nan)
    return trainings(
        task,
        [int(seed) for seed in seeds],
        Curve(epochs_SK[0], seconds_SK, loss_SK, mse_SK),
        steps["mse"].to_numpy(dtype=float).reshape(len(seeds), -1),
        moved_S=None if np.isnan(moved_S).any() else moved_S,
        not_ok=not_ok,
        memory_S=None if np.isnan(memory_S).any() else memory_S,
    )


def _lag_terms(task: Task, lags: pd.DataFrame, seeds: Sequence[int]) -> tuple[LagTerms | None, ...]:
    """Return the coefficients of each seed; None if they do not reach the lag."""
    lags = lags.sort_values(["seed", "k"], kind="stable")
    terms_of: dict[int, list[Coefficient]] = {}
    for seed, *numbers in zip(
        *(lags[name].tolist() for name in ("seed", "coefficient", "low", "high")), strict=True
    ):
        terms_of.setdefault(seed, []).append(Coefficient(*numbers))
    known = {seed: LagTerms(terms, task) for seed, terms in terms_of.items() if terms[task.lag :]}
    return tuple(known.get(seed) for seed in seeds)
