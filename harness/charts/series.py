"""What is drawn: the tables of a run, averaged over its seeds.

Errors are geometric means, as in the summary, since they are drawn on a log scale. A band reaches
over all seeds, or over the central 90 % of them if they are many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.tables.pairs import ARM, KIND
from harness.tables.points import points

_ALL_SEEDS = 20
"""A band reaches over all seeds if there are no more than this."""
_CENTRAL = 0.9
_LEAST_SHARE = 0.005
"""Of the time of an epoch: a smaller part is not drawn."""
_OF_EPOCH = ["epoch", "limit", "floor"]
_WATERFALL = ["series", "part", "seconds", "begin", "end", *_OF_EPOCH]
PHASES = {
    "import_s": "import",
    "setup_s": "set-up",
    "first_call_s": "first call",
    "train_at_once_s": "training",
    "eval_s": "evaluation",
}
REST = "everything else"


def with_series(trials: pd.DataFrame, by_kind: bool = False) -> pd.DataFrame:
    """Return the trials with a column `series`, the name in a legend.

    That is the backend; its device, if there are several; and how many seeds it trained at once.
    Times are never averaged over kinds of nodes: with `by_kind` the kind belongs to the name.
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
    """Return the trials that ended ok, of those seeds that every series has.

    Otherwise a series that lost its worst seeds would look better than the others. If the series
    share no seed, as on several kinds of nodes, each has its own.
    """
    ok = trials[trials["status"] == "ok"]
    series = ok.groupby("seed")["series"].transform("nunique")
    shared = ok[series == ok["series"].nunique()]
    return ok if shared.empty else shared


def seeds_words(trials: pd.DataFrame) -> str:
    """Say which seeds are averaged, and how far the band reaches; "" if there is only one seed."""
    drawn = shared_seeds(trials)
    seeds, asked = drawn["seed"].nunique(), trials["seed"].nunique()
    if seeds < 2 and seeds == asked:
        return ""
    if (drawn.groupby("series")["seed"].nunique() < seeds).any():
        return "Each over the seeds of its own: they share none."
    band = "all of them" if seeds <= _ALL_SEEDS else f"the central {_CENTRAL:.0%} of them"
    words = f"Over {seeds} seed{'s' * (seeds > 1)}" + f"; the band: {band}" * (seeds > 1) + "."
    if seeds < asked:
        words += f" {asked - seeds} of {asked} seeds are left out: not every backend has a result."
    return words


def convergence(curves: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and evaluation, over `shared_seeds`.

    `train_s` is the median, per seed; `train_loss` and `eval_mse` are geometric means, the latter
    with the band `low` to `high` of its `seeds`.
    """
    both, keys = _of_shared(curves, trials), ["series", "epoch"]
    loss = _with_band(both, keys, "train_loss")["train_loss"]
    time = both.groupby(keys, sort=False)["train_s"].median()
    return _with_band(both, keys, "eval_mse").join([time, loss]).reset_index()


def per_step(steps: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and time step: the error `mse`, with the band of its `seeds`."""
    return _with_band(_of_shared(steps, trials), ["series", "t"], "mse").reset_index()


def per_lag(lags: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and k: the mean `coefficient`, with the band of its `seeds`."""
    shared = _of_shared(lags, trials)
    return _with_band(shared, ["series", "k"], "coefficient", log=False).reset_index()


def time_parts(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per series and phase: its `seconds` in the trial of median wall time.

    That is one trial, so that the phases add up. If the number of trials is even, it is the faster
    of the two in the middle.
    The rest of the wall time is `REST`: starting the process, making the data, writing the record.
    A phase that the trial did not have (import in a process that is warm) has no row.
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


def waterfall(profile: pd.DataFrame, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per series and part of an epoch's time, from a table `profile`.

    A bar goes from `begin` to `end`, shares of the time of an epoch: each part begins where the one
    before it ends. Parts that do not show are left out. `epoch`, `limit` and `floor` are seconds;
    where there are several trials of a series, the first stands for it.
    """
    several, found = profile["device"].nunique() > 1, []
    for values, at_point in points(profile, swept):
        for (backend, device), mine in at_point.groupby(ARM, sort=False):
            name = f"{backend} on {device}" if several else str(backend)
            name += "".join(f", {field}={value}" for field, value in values.items())
            rows = mine[mine["trial"] == mine["trial"].iloc[0]].set_index("name")
            times = rows.loc[rows["kind"] == "time", "seconds"].reindex(_OF_EPOCH)
            parts = rows.loc[(rows["kind"] == "part") & (rows["seconds"] > 0), ["seconds"]]
            share = parts["seconds"] / times["epoch"]
            end = share.cumsum()
            parts = parts.assign(series=name, **times, end=end, begin=end - share)
            shown = (share >= _LEAST_SHARE) | (parts.index == "arithmetic")
            found.append(parts[shown & np.isfinite(end)].rename_axis("part").reset_index())
    empty = pd.DataFrame(columns=_WATERFALL)
    return pd.concat(found, ignore_index=True)[_WATERFALL] if found else empty


def total_times(trials: pd.DataFrame, epochs: Sequence[float]) -> pd.DataFrame:
    """Return a row per series and number of `epochs`: the total time, start-up included.

    `seconds` is the mean, `low` to `high` its band over the `seeds`. The trials are those of
    `harness.tables.break_even.with_epoch_s`.
    """
    shared, keys = shared_seeds(trials), ["series", "epochs"]
    grid = shared.drop(columns="epochs").merge(pd.DataFrame({"epochs": epochs}), how="cross")
    grid["seconds"] = grid["start_s"] + grid["epochs"] * grid["epoch_s"]
    return _with_band(grid, keys, "seconds", log=False).reset_index()


def by_field(trials: pd.DataFrame, field: str, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row per series and value of a swept field, at each choice of the others.

    `others` names that choice; `epoch_s` is the median time of an epoch and `final_mse` the
    geometric mean of the error, each with its band over the `seeds`: at each point those that all
    series share.
    """
    ok = pd.concat([shared_seeds(at_point) for _, at_point in points(trials, swept)])
    rest = [name for name in swept if name != field]
    rows = ok[rest].astype(str).itertuples(index=False)
    others = [", ".join(map("=".join, zip(rest, row, strict=True))) for row in rows]
    ok = ok.assign(others=others, epoch_s=1 / ok["epochs_per_s"])
    keys = ["series", "others", field]
    time = _with_band(ok, keys, "epoch_s").rename(
        columns={"low": "epoch_low", "high": "epoch_high"}
    )
    time["epoch_s"] = ok.groupby(keys, sort=False)["epoch_s"].median()
    return time.join(_with_band(ok, keys, "final_mse").drop(columns="seeds")).reset_index()


def _of_shared(table: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    return table.merge(shared_seeds(trials)[["trial", "seed", "series"]], on=["trial", "seed"])


def _with_band(table: pd.DataFrame, keys: list[str], name: str, log: bool = True) -> pd.DataFrame:
    """Return the mean of a column in each group, its band and the number of seeds.

    The mean is geometric if `log`.
    """
    columns = [table[key] for key in keys]
    # Zero has no logarithm: an error that small is as good as the smallest number.
    numbers = table[name].clip(lower=np.finfo(float).tiny) if log else table[name]
    values = numbers.groupby(columns, sort=False)
    centre = np.exp(np.log(numbers).groupby(columns, sort=False).mean()) if log else values.mean()
    seeds, tail = values.count(), (1 - _CENTRAL) / 2
    low, high = values.min(), values.max()
    if (seeds > _ALL_SEEDS).any():
        low = low.where(seeds <= _ALL_SEEDS, values.quantile(tail))
        high = high.where(seeds <= _ALL_SEEDS, values.quantile(1 - tail))
    return pd.DataFrame({name: centre, "low": low, "high": high, "seeds": seeds})
