"""The tables `steps`, `curves` and `lags` averaged over seeds, with a column for each backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.tables.from_records import YARDSTICKS
from harness.tables.pairs import ARM
from harness.tables.points import at_each_point
from harness.task.yardsticks import hardly_differ


def steps_by_arm(steps: pd.DataFrame, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per time step: the mean MSE of each backend, and the yardsticks."""
    return at_each_point(
        steps,
        swept,
        lambda rows: (
            _side_by_side(rows, "t", "mse")
            .join(rows.groupby("t")[list(YARDSTICKS)].first())
            .reset_index()
        ),
    )


def without_twins(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the table of steps with one of two yardsticks that hardly differ, as at lag 1."""
    alike = hardly_differ(steps["without_lag"].to_numpy(), steps["memoryless"].to_numpy())
    return steps.drop(columns="without_lag") if alike else steps


def lags_by_arm(lags: pd.DataFrame, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per k: the coefficient of x_{t-k}^2 in the target, and the mean of each arm."""
    return at_each_point(
        lags,
        swept,
        lambda rows: (
            rows.groupby("k")[["true"]]
            .first()
            .join(_side_by_side(rows, "k", "coefficient"))
            .reset_index()
        ),
    )


def spread_out(steps: pd.DataFrame, rows: int = 12) -> pd.DataFrame:
    """Return about so many of the time steps: all of the first ones, ever fewer later."""
    if steps.empty:
        return steps
    last = len(steps)
    chosen = {round(t) for t in np.geomspace(1, last, rows)} | {1, min(2, last), last}
    return steps[steps["t"].isin(chosen)]


def curves_by_arm(
    curves: pd.DataFrame, one_kind: bool = True, swept: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a row per evaluation: mean loss and MSE of each backend, and its median train time.

    The time is left out unless all trials ran on `one_kind` of node.
    """
    columns = {"train_loss": " loss", "eval_mse": " mse"} | ({"train_s": " s"} if one_kind else {})

    def build(rows: pd.DataFrame) -> pd.DataFrame:
        parts = [_side_by_side(rows, "epoch", name, suffix) for name, suffix in columns.items()]
        joined = pd.concat(parts, axis=1)
        by_arm = sorted(map(str, joined.columns), key=lambda name: name.rpartition(" ")[0])
        return joined[by_arm].reset_index()

    return at_each_point(curves, swept, build)


def _side_by_side(table: pd.DataFrame, index: str, values: str, suffix: str = "") -> pd.DataFrame:
    """Average over seeds; a column per backend, with its device where there are several.

    Times are medians, as in the summary, and everything else means.
    """
    groups = table.groupby([index, *ARM])[values]
    means = (groups.median() if values == "train_s" else groups.mean()).unstack(ARM)
    means = means.sort_index().sort_index(axis=1)
    one_device = table["device"].nunique() == 1
    arms = means.columns.to_list()
    means.columns = pd.Index([(arm[0] if one_device else " ".join(arm)) + suffix for arm in arms])
    return means
