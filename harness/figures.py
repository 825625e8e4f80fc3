"""The figures of a run: each chart with what it shows in words, and its data as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from harness import aggregate, charts
from harness.metrics import METRICS
from harness.page import Figure
from harness.plan import Point
from harness.protocol import Array
from harness.task import Task
from harness.yardstick import yardsticks

Against: TypeAlias = Literal["epoch", "train_s"]
_TITLES: dict[Against, tuple[str, str]] = {
    "epoch": ("epochs", "Error against epochs"),
    "train_s": ("seconds", "Error against seconds of training"),
}
AGAINST = tuple(_TITLES)
_SWEPT = {"epoch_s": ("time", "Time of an epoch"), "final_mse": ("error", "Error")}
_MOST_RATIOS = 40


def convergence(
    curves: pd.DataFrame, trials: pd.DataFrame, point: Point, against: Against = "epoch"
) -> Figure:
    """Draw how the error falls, over the `trials` at a point of a sweep; some ended ok.

    `trials` is a table with `aggregate.with_series`.
    """
    table, order = aggregate.convergence(curves, trials), aggregate.series_order(trials)
    means = {name: float(np.mean(level)) for name, level in _yardsticks(point.task).items()}
    ends = table.groupby("series", sort=False)["eval_mse"]
    begins, finals = ends.first(), ends.last()
    said = "; ".join(f"{name}: {begins[name]:.2g} to {finals[name]:.2g}" for name in order)
    levels = ", ".join(f"{charts.YARDSTICKS[n]} {v:.3g}" for n, v in means.items() if v > 0)
    stem, title = _TITLES[against]
    return Figure(
        f"convergence-{stem}{_slug(point)}",
        title + _where(point),
        charts.curves(table, means, order, against),
        f"Error at the first and the last evaluation: {said}. Dashed: {levels}.{_band(table)}",
        table,
    )


def steps(table: pd.DataFrame, trials: pd.DataFrame, point: Point) -> Figure:
    """Draw the error of each time step, against the yardsticks; otherwise as `convergence`."""
    per_step, order = aggregate.per_step(table, trials), aggregate.series_order(trials)
    exact = _yardsticks(point.task)
    first = per_step[per_step["t"] == 1].set_index("series")["mse"]
    later = per_step[per_step["t"] > 1].groupby("series", sort=False)["mse"].median()
    said = "; ".join(
        f"{name}: {first[name]:.2g} at t = 1"
        + (f", {later[name]:.2g} (median) at t ≥ 2" if name in later else "")
        for name in order
    )
    levels = ", ".join(
        f"{charts.YARDSTICKS[name]} {level[-1]:.3g}" for name, level in exact.items() if level[-1]
    )
    wide = per_step.pivot(index="t", columns="series", values="mse")[order].reset_index()
    return Figure(
        f"steps{_slug(point)}",
        "Error at each time step" + _where(point),
        charts.steps(per_step, exact, order),
        f"{said}. Dashed, at the last step: {levels}.{_band(per_step)}",
        wide.assign(**exact),
    )


def times(trials: pd.DataFrame) -> Figure | None:
    """Draw where the time of a trial went; None if no trial ended ok."""
    parts, order = aggregate.time_parts(trials), aggregate.series_order(trials)
    if parts.empty:
        return None
    longest = parts.loc[parts.groupby("series", sort=False)["seconds"].idxmax()]
    said = "; ".join(
        f"{row['series']}: most of it {row['phase']}, {row['seconds']:.2g} s"
        for _, row in longest.iterrows()
    )
    wide = parts.pivot(index="series", columns="phase", values="seconds")
    phases = [name for name in (*aggregate.PHASES.values(), aggregate.REST) if name in wide]
    return Figure(
        "time",
        "Where the time of a trial went",
        charts.time_parts(parts, order),
        f"{said}.",
        wide.loc[order, phases].reset_index(),
    )


def ratios(comparisons: pd.DataFrame, swept: Sequence[str] = ()) -> Figure | None:
    """Draw the ratios to the fastest as a forest plot; None if there is nothing to compare."""
    known = comparisons[(comparisons["kind"] == "ratio") & comparisons["value"].notna()]
    if known.empty:
        return None
    shown = known.head(_MOST_RATIOS)
    labels = [_label(row, shown, swept) for _, row in shown.iterrows()]
    columns = ["value", "low", "high", "n", "p_holm", "words"]
    table = shown[columns].reset_index(drop=True)
    table.insert(0, "label", labels)
    some = "" if len(shown) == len(known) else f" Drawn are {len(shown)} of {len(known)}."
    return Figure(
        "ratios",
        "Ratios to the fastest",
        charts.ratios(table),
        "Right of 1 is slower, or less accurate; an interval that holds 1 shows no difference."
        + some,
        table,
    )


def over_sweep(trials: pd.DataFrame, swept: Sequence[str]) -> list[Figure]:
    """Draw time and error against each swept field that takes several values."""
    ok, order = trials[trials["status"] == "ok"], aggregate.series_order(trials)
    return [
        _against(ok, field, measure, swept, order)
        for field in swept
        if ok[field].nunique() > 1
        for measure in _SWEPT
    ]


def _against(
    ok: pd.DataFrame, field: str, measure: str, swept: Sequence[str], order: Sequence[str]
) -> Figure:
    table = aggregate.by_field(ok, field, swept)
    span = table.groupby("series", sort=False)[measure].agg(["min", "max"])
    said = "; ".join(
        f"{name}: {span['min'][name]:.2g} to {span['max'][name]:.2g}" for name in order
    )
    stem, title = _SWEPT[measure]
    return Figure(
        f"sweep-{stem}-{field.replace('_', '-')}",
        f"{title} against {field}",
        charts.by_field(table, field, measure, order),
        f"Smallest and largest over all points: {said}.",
        table,
    )


def _label(row: pd.Series, among: pd.DataFrame, swept: Sequence[str]) -> str:
    """Say what a ratio is of: `train time: torch / jax (hidden=64)`."""
    devices = row["device"] != row["against_device"]
    mine = row["backend"] + f" on {row['device']}" * devices
    other = row["against_backend"] + f" on {row['against_device']}" * devices
    kinds = among.loc[among["metric"] == row["metric"], "node_kind"].dropna()
    place = [f"{name}={row[name]}" for name in swept]
    place += [str(row["node_kind"])] * (kinds.nunique() > 1)
    where = f" ({', '.join(place)})" if place else ""
    return f"{METRICS[row['metric']].title}: {mine} / {other}{where}"


def _slug(point: Point) -> str:
    """Return what a point of a sweep adds to the name of a file."""
    text = "".join(c if c.isalnum() or c in ".=" else "-" for c in str(point).replace(", ", "-"))
    return f"-{text}" if text else ""


def _where(point: Point) -> str:
    return f" at {point}" if point.values else ""


def _band(table: pd.DataFrame) -> str:
    if table.empty or table["seeds"].max() < 2:
        return ""
    return f" The band: {aggregate.band_words(int(table['seeds'].max()))}."


def _yardsticks(task: Task) -> dict[str, Array]:
    return asdict(yardsticks(task))
