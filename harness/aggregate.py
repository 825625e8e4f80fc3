"""What is drawn: the tables of a run, aggregated over its seeds until a chart can hold them.

Errors are averaged as geometric means, as in the summary, since they are drawn on a log scale. A
band reaches over all seeds, or if they are many over the central 90 % of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.summary import KIND

_ALL_SEEDS = 20
"""Up to so many seeds a band reaches over all of them."""
_CENTRAL = 0.9
PHASES = {
    "import_s": "import",
    "setup_s": "set-up",
    "first_call_s": "first call (compile)",
    "train_at_once_s": "training",
    "eval_s": "evaluation",
}
REST = "everything else"


def with_series(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with a column `series`: whose they are, as a legend names it.

    That is the backend, with its device where there are several, and the same for kinds of nodes,
    which are never averaged over.
    """
    name = trials["backend"].astype(str)
    if trials["device"].nunique() > 1:
        name = name + " on " + trials["device"].astype(str)
    if trials[KIND].nunique() > 1:
        name = name + ", " + trials[KIND].astype(str)
    return trials.assign(series=name)


def series_order(trials: pd.DataFrame) -> list[str]:
    """Return the series of which a trial ended ok, the fastest (median) first."""
    ok = trials[trials["status"] == "ok"]
    speed = ok.groupby("series", sort=False)["epochs_per_s"].median()
    return [str(name) for name in speed.sort_values(ascending=False, kind="stable").index]


def band_words(seeds: int) -> str:
    """Say how far the band of so many seeds reaches."""
    return "all seeds" if seeds <= _ALL_SEEDS else f"the central {_CENTRAL:.0%} of the seeds"


def convergence(curves: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and evaluation, over the seeds that ended ok.

    `train_s` is the median; `train_loss` and `eval_mse` are geometric means, the latter with the
    band `low` to `high` of its `seeds`.
    """
    both = _of_ok(curves, trials)
    keys = ["series", "epoch"]
    loss = _spread(both, keys, "train_loss")["train_loss"]
    time = both.groupby(keys, sort=False)["train_s"].median()
    return _spread(both, keys, "eval_mse").join([time, loss]).reset_index()


def per_step(steps: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and time step: the error `mse`, with the band of its `seeds`."""
    return _spread(_of_ok(steps, trials), ["series", "t"], "mse").reset_index()


def time_parts(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and phase of a trial: the median `seconds` over its trials.

    A phase that none of them had (import in a process that is warm) has no row. What is left of the
    wall time is `REST`: starting the process, making the data, writing the record.
    """
    ok = trials[trials["status"] == "ok"]
    if ok.empty:
        return pd.DataFrame(columns=["series", "phase", "seconds"])
    known = ok[list(PHASES)].astype("float64")
    parts = known.rename(columns=PHASES).assign(
        **{REST: (ok["wall_s"] - known.sum(axis=1)).clip(lower=0)}
    )
    medians = parts.groupby(ok["series"], sort=False).median()
    long = medians.reset_index().melt("series", var_name="phase", value_name="seconds")
    return long.dropna(ignore_index=True)


def by_field(trials: pd.DataFrame, field: str, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row per series and value of a swept field, at each choice of the others.

    `others` names that choice; `epoch_s` is the median time of an epoch and `final_mse` the
    geometric mean of the error, each with its band over the `seeds`.
    """
    ok = trials[trials["status"] == "ok"]
    rest = [name for name in swept if name != field]
    others = pd.Series("", index=ok.index)
    for name in rest:
        others = others + ("" if name == rest[0] else ", ") + f"{name}=" + ok[name].astype(str)
    ok = ok.assign(others=others, epoch_s=1 / ok["epochs_per_s"])
    keys = ["series", "others", field]
    time = _spread(ok, keys, "epoch_s").rename(columns={"low": "epoch_low", "high": "epoch_high"})
    time["epoch_s"] = ok.groupby(keys, sort=False)["epoch_s"].median()
    return time.join(_spread(ok, keys, "final_mse").drop(columns="seeds")).reset_index()


def _of_ok(table: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    ok = trials.loc[trials["status"] == "ok", ["trial", "seed", "series"]]
    return table.merge(ok, on=["trial", "seed"])


def _spread(table: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    """Return the geometric mean of a column in each group, its band and how many it is of."""
    # Zero has no logarithm: an error that small is as good as the smallest number.
    positive = table[name].clip(lower=np.finfo(float).tiny)
    columns = [table[key] for key in keys]
    values = positive.groupby(columns, sort=False)
    centre = np.exp(np.log(positive).groupby(columns, sort=False).mean())
    seeds, tail = values.count(), (1 - _CENTRAL) / 2
    low, high = values.min(), values.max()
    if (seeds > _ALL_SEEDS).any():
        low = low.where(seeds <= _ALL_SEEDS, values.quantile(tail))
        high = high.where(seeds <= _ALL_SEEDS, values.quantile(1 - tail))
    return pd.DataFrame({name: centre, "low": low, "high": high, "seeds": seeds})
