"""What is drawn: the tables of a run, aggregated over its seeds until a chart can hold them.

Errors are averaged as geometric means, as in the summary, since they are drawn on a log scale. A
band reaches over all seeds, or if they are many over the central 90 % of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.tables.pairs import ARM, KIND
from harness.tables.points import points

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


def with_series(trials: pd.DataFrame, by_kind: bool = False) -> pd.DataFrame:
    """Return the trials with a column `series`: whose they are, as a legend names it.

    That is the backend, with its device where there are several, and how many seeds it trained at
    once; for times, which are never averaged over kinds of nodes, also the kind of node
    (`by_kind`).
    """
    name = trials["backend"].astype(str)
    if trials["device"].nunique() > 1:
        name = name + " on " + trials["device"].astype(str)
    most = trials.groupby(ARM)["at_once"].transform("max")
    name = name.where(most == 1, name + " (" + most.astype(str) + " at once)")
    if by_kind and trials[KIND].nunique() > 1:
        name = name + ", " + trials[KIND].astype(str)
    return trials.assign(series=name)


def series_order(trials: pd.DataFrame) -> list[str]:
    """Return the series of which a trial ended ok, the fastest (median) first."""
    ok = trials[trials["status"] == "ok"]
    speed = ok.groupby("series", sort=False)["epochs_per_s"].median()
    return [str(name) for name in speed.sort_values(ascending=False, kind="stable").index]


def shared_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that ended ok with a seed with which every series has one.

    Otherwise a series that lost its worst seeds would look better than the others. If they share
    none, as on several kinds of nodes, each has its own.
    """
    ok = trials[trials["status"] == "ok"]
    held = [set(seeds) for _, seeds in ok.groupby("series")["seed"]]
    common = set.intersection(*held) if held else set()
    return ok[ok["seed"].isin(common)] if common else ok


def seeds_words(trials: pd.DataFrame) -> str:
    """Say over which seeds is averaged and how far the band reaches; "" for one seed of one."""
    drawn = shared_seeds(trials)
    seeds, asked = drawn["seed"].nunique(), trials["seed"].nunique()
    if seeds < 2 and seeds == asked:
        return ""
    if (drawn.groupby("series")["seed"].nunique() < seeds).any():
        return "Each over the seeds of its own: they share none."
    band = "all of them" if seeds <= _ALL_SEEDS else f"the central {_CENTRAL:.0%} of them"
    told = f"Over {seeds} seed{'s' * (seeds > 1)}" + f"; the band: {band}" * (seeds > 1)
    if seeds == asked:
        return f"{told}."
    return f"{told}. {asked - seeds} of {asked} seeds are left out: not every backend has a result."


def convergence(curves: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and evaluation, over `shared_seeds`.

    `train_s` is the median, per seed; `train_loss` and `eval_mse` are geometric means, the latter
    with the band `low` to `high` of its `seeds`.
    """
    both = _of_shared(curves, trials)
    keys = ["series", "epoch"]
    loss = _spread(both, keys, "train_loss")["train_loss"]
    time = both.groupby(keys, sort=False)["train_s"].median()
    return _spread(both, keys, "eval_mse").join([time, loss]).reset_index()


def per_step(steps: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and time step: the error `mse`, with the band of its `seeds`."""
    return _spread(_of_shared(steps, trials), ["series", "t"], "mse").reset_index()


def time_parts(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and phase: the `seconds` of its trial of median wall time.

    That is one trial, so that the phases add up; of an even number, the faster one in the middle.
    What is left of the wall time is `REST`: starting the process, making the data, writing the
    record. A phase that it did not have (import in a process that is warm) has no row.
    """
    ok = trials[trials["status"] == "ok"].drop_duplicates("trial")
    rows = []
    for series, mine in ok.groupby("series", sort=False):
        trial = mine.sort_values("wall_s", kind="stable").iloc[(len(mine) - 1) // 2]
        parts = {phase: float(trial[name]) for name, phase in PHASES.items()}
        known = {phase: seconds for phase, seconds in parts.items() if not np.isnan(seconds)}
        known[REST] = max(0.0, float(trial["wall_s"]) - sum(known.values()))
        rows += [{"series": series, "phase": phase, "seconds": s} for phase, s in known.items()]
    return pd.DataFrame(rows, columns=["series", "phase", "seconds"])


def by_field(trials: pd.DataFrame, field: str, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row per series and value of a swept field, at each choice of the others.

    `others` names that choice; `epoch_s` is the median time of an epoch and `final_mse` the
    geometric mean of the error, each with its band over the `seeds`: at each point those that all
    series share.
    """
    ok = pd.concat([shared_seeds(there) for _, there in points(trials, swept)])
    rest = [name for name in swept if name != field]
    others = pd.Series("", index=ok.index)
    for name in rest:
        others = others + ("" if name == rest[0] else ", ") + f"{name}=" + ok[name].astype(str)
    ok = ok.assign(others=others, epoch_s=1 / ok["epochs_per_s"])
    keys = ["series", "others", field]
    time = _spread(ok, keys, "epoch_s").rename(columns={"low": "epoch_low", "high": "epoch_high"})
    time["epoch_s"] = ok.groupby(keys, sort=False)["epoch_s"].median()
    return time.join(_spread(ok, keys, "final_mse").drop(columns="seeds")).reset_index()


def _of_shared(table: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    return table.merge(shared_seeds(trials)[["trial", "seed", "series"]], on=["trial", "seed"])


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
