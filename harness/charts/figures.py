"""The figures of a run: each chart with what it shows in words, and its data as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.charts import draw, series
from harness.charts.page import Figure
from harness.tables import memory, numbers
from harness.tables.break_even import with_epoch_s
from harness.tables.metrics import METRICS
from harness.tables.points import points
from harness.task.task import Task
from harness.task.yardsticks import hardly_differ, yardsticks
from harness.trial.sweep import SweepPoint

Against: TypeAlias = Literal["epoch", "train_s"]
_TITLES: dict[Against, tuple[str, str]] = {
    "epoch": ("epochs", "Error against epochs"),
    "train_s": ("seconds", "Error against seconds of training"),
}
AGAINST = tuple(_TITLES)
_SWEPT = {"epoch_s": ("time", "Time of an epoch"), "final_mse": ("error", "Error")}
_STEPS = "Error at each time step"
_TOTALS = 40
"""So many numbers of epochs make a smooth line."""
_MOST_RATIOS, _MOST_TIMES, _MOST_LINES, _MOST_PROFILES = 40, 4, 8, 12
MOST_POINTS = 12
"""So many points of a sweep are drawn each by itself."""


def convergence(
    curves: pd.DataFrame, trials: pd.DataFrame, point: SweepPoint, against: Against = "epoch"
) -> Figure:
    """Draw how the error falls, over the `trials` at a point of a sweep; some ended ok."""
    trials = series.with_series(trials, by_kind=against == "train_s")
    table, order = series.convergence(curves, trials), series.series_order(trials)
    exact = _levels_of(point.task)
    means = {name: float(np.mean(level)) for name, level in exact.items()}
    errors = table.groupby("series", sort=False)["eval_mse"]
    first, last = errors.first(), errors.last()
    words = "; ".join(f"{name}: {first[name]:.2g} to {last[name]:.2g}" for name in order)
    stem, title = _TITLES[against]
    return Figure(
        f"convergence-{stem}{_slug(point)}",
        title + _where(point),
        draw.curves(table, means, order, against),
        f"Error (geometric mean) at the first and the last evaluation: {words}. "
        f"Dashed: {_levels(means)}. {series.seeds_words(trials)}",
        table,
    )


def steps(table: pd.DataFrame, trials: pd.DataFrame, point: SweepPoint) -> Figure:
    """Draw the error of each time step, against the yardsticks; otherwise as `convergence`."""
    trials = series.with_series(trials)
    return _steps(table, trials, series.series_order(trials), point)


def steps_compared(
    table: pd.DataFrame, drawn: Sequence[tuple[SweepPoint, pd.DataFrame]]
) -> Figure | None:
    """Draw the steps at several points of a sweep in one figure; `drawn` are points and trials.

    None if there are too many lines, or if the points have different yardsticks.
    """
    exact = [vars(yardsticks(point.task)) for point, _ in drawn]
    levels = {tuple(level.tobytes() for level in each.values()) for each in exact}
    at_points = [(str(point), series.with_series(trials)) for point, trials in drawn]
    several = len({name for _, trials in at_points for name in trials["series"]}) > 1
    named = [
        trials.assign(series=trials["series"] + f", {where}" if several else where)
        for where, trials in at_points
    ]
    order = [name for trials in named for name in series.series_order(trials)]
    if len(levels) > 1 or not 1 < len(order) <= _MOST_LINES:
        return None
    figure = _steps(table, pd.concat(named), order, drawn[0][0])
    return replace(figure, name="steps", title=f"{_STEPS} over the sweep")


def _steps(
    table: pd.DataFrame, trials: pd.DataFrame, order: Sequence[str], point: SweepPoint
) -> Figure:
    per_step, exact = series.per_step(table, trials), _levels_of(point.task)
    first = per_step[per_step["t"] == 1].set_index("series")["mse"]
    later = per_step[per_step["t"] > 1].groupby("series", sort=False)["mse"].median()
    words = "; ".join(
        f"{name}: {first[name]:.2g} at t = 1"
        + (f", {later[name]:.2g} (median) at t ≥ 2" if name in later else "")
        for name in order
    )
    last = {name: float(level[-1]) for name, level in exact.items()}
    wide = per_step.pivot(index="t", columns="series", values="mse")[list(order)].reset_index()
    return Figure(
        f"steps{_slug(point)}",
        _STEPS + _where(point),
        draw.steps(per_step, exact, order),
        f"Geometric means: {words}. Dashed, at the last step: {_levels(last)}. "
        f"{series.seeds_words(trials)}",
        wide.assign(**exact),
    )


def lags(table: pd.DataFrame, trials: pd.DataFrame, point: SweepPoint) -> Figure | None:
    """Draw what was learned at each lag, beside the target; None if no trial tells of it."""
    trials = series.with_series(trials)
    per_lag, order = series.per_lag(table, trials), series.series_order(trials)
    if per_lag.empty:
        return None
    learned = per_lag.pivot(index="k", columns="series", values="coefficient")
    order = [name for name in order if name in learned]
    lag, true = point.task.lag, memory.true(point.task, len(learned))
    words = []
    for name in order:
        rest = learned[name].drop([0, lag], errors="ignore").abs()
        at_lag = f", {learned[name][lag]:.3g} at k = {lag}" if lag in learned.index else ""
        most = f", a mean of at most {rest.max():.2g} elsewhere" if len(rest) else ""
        words.append(f"{name}: {learned[name][0]:.3g} at k = 0{at_lag}{most}")
    return Figure(
        f"lags{_slug(point)}",
        "What was learned at each lag" + _where(point),
        draw.lags(per_lag, dict(enumerate(true)), order),
        f"Coefficients of the squared inputs in the held-out predictions, means over seeds. "
        f"{'; '.join(words)}. Circles: the target, 1 at k = 0 and {point.task.lag_weight:g} at "
        f"k = {lag}. {series.seeds_words(trials)}",
        learned[order].reset_index().assign(target=true),
    )


def times(trials: pd.DataFrame, swept: Sequence[str] = ()) -> Figure | None:
    """Draw where the time of a trial went, at each point of a sweep.

    None if no trial ended ok, or others ran beside them.
    """
    trials = series.with_series(trials, by_kind=True)
    drawn: list[pd.DataFrame] = []
    order: list[str] = []
    for values, at_point in list(points(trials, swept))[:MOST_POINTS]:
        where = "".join(f", {name}={value}" for name, value in values.items())
        order += [f"{name}{where}" for name in series.series_order(at_point)]
        found = series.time_parts(at_point)
        drawn.append(found.assign(series=found["series"] + where))
    parts = pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame()
    if parts.empty or trials["contended"].any():
        return None
    longest = parts.loc[parts.groupby("series", sort=False)["seconds"].idxmax()]
    words = [
        f"{row['series']}: most of it {row['phase']}, {row['seconds']:.2g} s"
        for _, row in longest.iterrows()
    ]
    if len(words) > _MOST_TIMES:
        words = [*words[:_MOST_TIMES], f"and {len(words) - _MOST_TIMES} more"]
    wide = parts.pivot(index="series", columns="phase", values="seconds")
    phases = [name for name in (*series.PHASES.values(), series.REST) if name in wide]
    return Figure(
        "time",
        "Where the time of a trial went",
        draw.time_parts(parts, order),
        f"{'; '.join(words)}.{_warm(trials)}",
        wide.loc[order, phases].reset_index(),
    )


def profile(table: pd.DataFrame, swept: Sequence[str] = ()) -> Figure | None:
    """Draw what the time of an epoch is made of, from a table `profile`, at each point of a sweep.

    None if no trial has a profile.
    """
    parts = series.waterfall(table, swept)
    if parts.empty:
        return None
    each = parts.drop_duplicates("series").set_index("series").sort_values("epoch", kind="stable")
    drawn = each.head(_MOST_PROFILES)
    parts = parts[parts["series"].isin(drawn.index)]
    largest = parts.loc[parts.groupby("series", sort=False)["seconds"].idxmax()]
    largest = largest.set_index("series").loc[drawn.index]
    words = "; ".join(
        f"{name}: {numbers.number(1e6 * row['epoch'])} us an epoch, most of it {row['part']}"
        + "".join(
            f", {numbers.ratio(row['epoch'] / row[what])} x {called}"
            for what, called in (("floor", "the floor"), ("limit", "the arithmetic limit"))
            if row[what] > 0
        )
        for name, row in largest.iterrows()
    )
    more = f" Drawn are the {len(drawn)} fastest of {len(each)}." * (len(each) > len(drawn))
    return Figure(
        "profile",
        "What the time of an epoch is made of",
        draw.waterfall(parts, list(drawn.index)),
        f"{words}.{more}",
        parts[["series", "part", "seconds", "begin", "end"]],
    )


def totals(trials: pd.DataFrame, found: pd.DataFrame, point: SweepPoint) -> Figure | None:
    """Draw the total time against the number of epochs, over the `trials` at a point of a sweep.

    `found` are the rows of `harness.tables.break_even` there. None if fewer than two series have a
    known time without others beside it, or if they train unlike numbers of seeds at once.
    """
    trials = series.with_series(trials, by_kind=True)
    known = with_epoch_s(trials)
    if known["series"].nunique() < 2 or known["at_once"].nunique() > 1:
        return None
    order, run = series.series_order(known), point.task.epochs
    passed = [at for at in found["at"] if 1 <= at < np.inf]
    last = max(run, *(2 * at for at in passed), 10)
    epochs = {*np.geomspace(1, last, _TOTALS).round(), *passed, float(run)}
    table = series.total_times(known, sorted(epochs))
    return Figure(
        f"total-time{_slug(point)}",
        "Total time against epochs, start-up included" + _where(point),
        draw.totals(table, run, order),
        "".join(f"{words[0].upper()}{words[1:]}. " for words in found["words"])
        + f"Dashed: the {run} epochs of this run. {series.seeds_words(trials)}",
        table,
    )


def ratios(comparisons: pd.DataFrame, swept: Sequence[str] = ()) -> Figure | None:
    """Draw the ratios to the fastest as a forest plot; None if there is nothing to compare."""
    known = comparisons[(comparisons["kind"] == "ratio") & comparisons["value"].notna()]
    if known.empty:
        return None
    drawn = known.head(_MOST_RATIOS)
    columns = ["value", "low", "high", "n", "p_holm", "shown", "words"]
    table = drawn[columns].reset_index(drop=True)
    table.insert(0, "label", [_label(row, drawn, swept) for _, row in drawn.iterrows()])
    words = (
        "Right of 1 is slower, or less accurate. A filled point: a difference is shown, corrected "
        "for all comparisons; a hollow one: none is. The lines are 95 % intervals of one ratio by "
        "itself."
    )
    if len(drawn) < len(known):
        words += f" Drawn are {len(drawn)} of {len(known)}."
    if drawn["low"].isna().any():
        words += " Without a line: one block, or equal ones: no interval."
    return Figure("ratios", "Ratios to the fastest", draw.ratios(table), words, table)


def over_sweep(trials: pd.DataFrame, swept: Sequence[str]) -> list[Figure]:
    """Draw time and error against each swept field that takes several values.

    The time is left out if other trials ran beside them.
    """
    ok = trials[trials["status"] == "ok"]
    contended = bool(trials["contended"].any())
    return [
        _against(series.with_series(trials, by_kind=measure == "epoch_s"), field, measure, swept)
        for field in swept
        if ok[field].nunique() > 1
        for measure in _SWEPT
        if not (contended and measure == "epoch_s")
    ]


def _against(trials: pd.DataFrame, field: str, measure: str, swept: Sequence[str]) -> Figure:
    table, order = series.by_field(trials, field, swept), series.series_order(trials)
    ends = table.groupby("series", sort=False)[measure].agg(["min", "max"])
    words = "; ".join(
        f"{name}: {ends['min'][name]:.2g} to {ends['max'][name]:.2g}" for name in order
    )
    stem, title = _SWEPT[measure]
    return Figure(
        f"sweep-{stem}-{field.replace('_', '-')}",
        f"{title} against {field}",
        draw.by_field(table, field, measure, order),
        f"Smallest and largest over all points: {words}.",
        table,
    )


def _label(row: pd.Series, drawn: pd.DataFrame, swept: Sequence[str]) -> str:
    """Name a ratio: `train time: torch / jax (hidden=64)`."""
    devices = row["device"] != row["against_device"]
    mine = row["backend"] + f" on {row['device']}" * devices
    other = row["against_backend"] + f" on {row['against_device']}" * devices
    kinds = drawn.loc[drawn["metric"] == row["metric"], "node_kind"].dropna()
    place = [f"{name}={row[name]}" for name in swept]
    place += [str(row["node_kind"])] * (kinds.nunique() > 1)
    where = f" ({', '.join(place)})" if place else ""
    return f"{METRICS[row['metric']].label}: {mine} / {other}{where}"


def _levels_of(task: Task) -> dict[str, Array]:
    """Return the yardsticks that are drawn: one line for two that hardly differ."""
    exact = vars(yardsticks(task))
    if hardly_differ(exact["without_lag"], exact["memoryless"]):
        del exact["without_lag"]
    return exact


def _levels(yardsticks: dict[str, float]) -> str:
    return ", ".join(f"{draw.YARDSTICKS[name]} {v:.3g}" for name, v in yardsticks.items() if v)


def _slug(point: SweepPoint) -> str:
    """Return what a point of a sweep adds to the name of a file."""
    text = "".join(c if c.isalnum() or c in ".=" else "-" for c in str(point).replace(", ", "-"))
    return f"-{text}" if text else ""


def _where(point: SweepPoint) -> str:
    return f" at {point}" if point.values else ""


def _warm(trials: pd.DataFrame) -> str:
    """Say how many trials had no import and little to compile, as others ran before them."""
    ok = trials[trials["status"] == "ok"]
    warm = int((ok["trials_before"] > 0).sum())
    return f" {warm} of {len(ok)} trials ran in a process that was warm." if warm else ""
