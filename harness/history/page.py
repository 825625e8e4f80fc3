"""The history as a page: the steps in words, the newest figures, a chart over time of each measure.

However many runs there are, the page has a point for each in its charts, drawn on a canvas, and
tables of the levels between steps and of the newest runs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import altair as alt
import numpy as np
import pandas as pd

from harness.charts.draw import MUTED
from harness.charts.page import Block, Figure, Items, Page, Section, Table, Text
from harness.history.history import Group, History, Measure, Series, short
from harness.stats.changepoints import levels
from harness.tables.numbers import change

_NEWEST = 50
"""Rows of the table of runs; all are in `history --format csv`."""
_MOST_GROUPS = 20
"""So many groups have charts: nobody looks at more."""
_ONE_SCALE = 3.0
"""Series that differ by more than this factor have charts of their own: steps are small."""
_HEIGHT = 280
_TITLES: Mapping[Measure, str] = {
    "ratio": "Training time relative to {}",
    "epoch_s": "Training time of an epoch in seconds",
    "final_mse": "Mean squared error after training, over seeds {}",
}


def build(history: History) -> Page:
    """Return the page of a history."""
    table = history.table
    dates = sorted(table["started_utc"].str[:10])
    sections = [
        Section("Steps", [Items(history.conclusion), *_steps_table(history)]),
        Section(
            "Now", [Table("The newest run of each series", history.newest()), *_legend(history)]
        ),
    ]
    groups = list(history.references)
    # One run is no history: it is in the tables.
    several = [group for group in groups if any(len(s.rows) > 1 for s in _of(history, group))]
    largest = sorted(several, key=lambda group: -len(_of(history, group)))[:_MOST_GROUPS]
    for number, group in enumerate(group for group in groups if group in largest):
        sections.append(Section(_heading(group), list(_figures(history, group, number))))
    if left := len(groups) - len(largest):
        told = f"{left} group{'s' * (left > 1)} with one run, or fewer than others: see the tables."
        sections.append(Section("Without charts", [Text(told)]))
    newest = table.sort_values("started_utc", kind="stable").tail(_NEWEST).iloc[::-1]
    caption = f"The newest {len(newest)} of {len(table)} rows; all: history --format csv"
    sections.append(Section("Newest runs", [Table(caption, _for_people(newest))], folded=True))
    if history.warnings:
        sections.append(Section("Left out", [Items(history.warnings[:100])], folded=True))
    sections.append(Section("How to read it", [Items(_HOW)], folded=True))
    return Page(
        f"History of {history.location}",
        f"{history.runs} runs, {dates[0]} to {dates[-1]}; {len(history.series)} series in "
        f"{len(groups)} {'groups' if len(groups) > 1 else 'group'}",
        sections,
    )


_HOW = (
    "A group holds what may be compared: one task, one kind of machine (processor, cores, memory, "
    "GPU, threads), one device, as many seeds at once, processes shared alike.",
    "A point is a run, a thin line its 95 % interval (that of an error, over seeds which are the "
    "same in all runs, is in the tooltip only); a thick line is the level between steps; "
    "a dashed line is a step, with the commit of the first run after it.",
    "A commit with + had uncommitted changes.",
    "A step is stated if the order of the runs would show one as clear by chance in at most 5 % of "
    "such histories, all series together.",
    "Hold Shift and turn the wheel to zoom in time, drag to move, double-click to go back.",
)


def _of(history: History, group: Group) -> list[Series]:
    return [series for series in history.series if series.group == group]


def _heading(group: Group) -> str:
    more = [f"isolation {group.isolation}"] * (group.isolation != "process")
    more += [f"{group.at_once} seeds at once"] * (group.at_once > 1)
    return ", ".join([f"{group.what} on {group.device}: {group.node_kind}", *more])


def _legend(history: History) -> Iterator[Block]:
    legend = history.legend()
    if legend:
        yield Items(legend)


def _steps_table(history: History) -> Iterator[Block]:
    columns = {
        "what": history.steps["measure"],
        "backend": history.steps["backend"],
        "device": history.steps["device"],
        "run": history.steps["run"],
        "date": history.steps["started_utc"].str[:10],
        "commit": history.steps["commit"].map(short, na_action="ignore"),
        "before": history.steps["last_commit"].map(short, na_action="ignore"),
        "times": history.steps["change"],
        "from": history.steps["low"],
        "to": history.steps["high"],
        "p": history.steps["p"],
        "also changed": history.steps["also_changed"],
    }
    if len(history.steps):
        yield Table("All steps, the newest first", pd.DataFrame(columns))


def _for_people(rows: pd.DataFrame) -> pd.DataFrame:
    shown = ["run", "started_utc", "backend", "device", "task", "node_kind", "commit"]
    shown += ["seeds", "trials", "epoch_s", "ratio", "ratio_low", "ratio_high"]
    shown += ["final_mse", "final_mse_low", "final_mse_high", "mse_seeds"]
    shown = [
        name for name in shown if name not in ("task", "node_kind") or rows[name].nunique() > 1
    ]
    return rows.assign(commit=rows["commit"].map(short, na_action="ignore"))[shown]


def _figures(history: History, group: Group, number: int) -> Iterator[Block]:
    reference = history.references[group]
    if reference:
        yield Text(f"Ratios are to {reference}, measured in the same blocks of the same run.")
    for measure in _TITLES:
        there = [series for series in _of(history, group) if series.measure == measure]
        order = sorted({series.backend for series in _of(history, group)})
        for part, together in enumerate(_comparable(there)):
            title = _TITLES[measure].format(together[0].seeds or reference)
            if len(together) < len(there) or len(order) == 1:
                title += f": {', '.join(series.backend for series in together)}"
            yield Figure(
                name=f"group-{number}-{measure.replace('_', '-')}-{part}",
                title=title,
                chart=_chart(together, measure, order),
                words="; ".join(map(_said, together)) + ".",
                table=pd.concat(map(_segments, together), ignore_index=True),
            )


def _comparable(series: Sequence[Series]) -> Iterator[list[Series]]:
    """Part the series so that those together are over the same seeds, and not too far apart."""
    for seeds in dict.fromkeys(one.seeds for one in series):
        yield from _on_one_scale([one for one in series if one.seeds == seeds])


def _on_one_scale(series: Sequence[Series]) -> list[list[Series]]:
    """Part the series so that those on one scale are not too far apart."""
    parts: list[list[Series]] = []
    for one in sorted(series, key=lambda one: float(np.median(one.values))):
        low = float(np.median(parts[-1][0].values)) if parts else -np.inf
        if parts and np.median(one.values) - low < np.log(_ONE_SCALE):
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


def _said(series: Series) -> str:
    values = series.rows[series.measure]
    steps = f"{len(series.steps)} step{'s' * (len(series.steps) != 1)}"
    if not series.tested:
        steps = "too few runs for a step"
    return (
        f"{series.backend}: {values.iloc[0]:.3g} in the first of {len(values)} runs, "
        f"{values.iloc[-1]:.3g} in the last, {steps}"
    )


def _segments(series: Series) -> pd.DataFrame:
    """Return a row per level of a series."""
    rows, mean = series.rows, np.exp(levels(series.values, series.steps))
    starts = [0, *(step.at for step in series.steps)]
    ends = [*(start - 1 for start in starts[1:]), len(rows) - 1]
    return pd.DataFrame(
        {
            "backend": series.backend,
            "from run": rows["run"].iloc[starts].to_numpy(),
            "from": rows["started_utc"].iloc[starts].str[:16].to_numpy(),
            "commit": rows["commit"].iloc[starts].map(short, na_action="ignore").to_numpy(),
            "to run": rows["run"].iloc[ends].to_numpy(),
            "to": rows["started_utc"].iloc[ends].str[:16].to_numpy(),
            "runs": np.array(ends) - np.array(starts) + 1,
            "level": mean[starts],
        }
    )


def _chart(series: Sequence[Series], measure: Measure, order: Sequence[str]) -> alt.LayerChart:
    """Draw points with intervals, the levels between steps, and the steps with their commits."""
    points = [row for one in series for row in _points(one)]
    lines = [row for one in series for row in _level_lines(one)]
    marks = [row for one in series for row in _marks(one)]
    x = alt.X("t:T", title=None).scale(type="utc")
    title = "ratio" if measure == "ratio" else "seconds" if measure == "epoch_s" else "MSE"
    # As wide as the points: an interval may go beyond.
    scale = alt.Scale(type="log", nice=False, domain=_domain([row["v"] for row in points]))
    y = alt.Y("v:Q", title=f"{title} (log scale)", scale=scale).axis(tickCount=6, format=".3~g")
    color = alt.Color("s:N", sort=list(order), title=None).scale(domain=list(order))
    names = sorted({one.backend for one in series})
    color = color.legend(orient="bottom", values=names) if len(order) > 1 else color.legend(None)
    shape = alt.Shape("s:N", sort=list(order), title=None).scale(domain=list(order))
    zoom = alt.selection_interval(
        bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]", name="zoom"
    )
    size = 36 if len(points) < 500 else 10
    drawn = alt.Chart(alt.InlineData(values=points)).encode(x=x, color=color)
    layers = []
    if measure != "final_mse":
        faint = min(0.4, 60 / len(points))
        interval = drawn.mark_rule(strokeWidth=1, opacity=faint, clip=True)
        layers.append(interval.encode(y=alt.Y("l:Q", scale=scale), y2="h:Q"))
    layers += [
        drawn.mark_point(filled=True, size=size, opacity=0.8, clip=True)
        .encode(
            y=y,
            shape=shape,
            tooltip=[
                alt.Tooltip("r:N", title="run"),
                alt.Tooltip("t:N", title="began (UTC)"),
                alt.Tooltip("c:N", title="commit"),
                alt.Tooltip("s:N", title="backend"),
                alt.Tooltip("v:Q", title=title, format=".4g"),
                alt.Tooltip("l:Q", title="from (95 %)", format=".4g"),
                alt.Tooltip("h:Q", title="to (95 %)", format=".4g"),
            ],
        )
        .add_params(zoom),
        alt.Chart(alt.InlineData(values=lines))
        .mark_line(strokeWidth=3, clip=True)
        .encode(x=x, y=y, color=color, detail="n:N"),
    ]
    if marks:
        steps = alt.Chart(alt.InlineData(values=marks)).encode(x=x)
        tooltip = [alt.Tooltip("w:N", title="step")]
        layers.append(
            steps.mark_rule(strokeDash=[5, 4], strokeWidth=1.5, color=MUTED, clip=True).encode(
                tooltip=tooltip
            )
        )
        layers.append(
            steps.mark_text(align="left", dx=4, dy=8, baseline="top", clip=True).encode(
                text="c:N", y=alt.value(0), tooltip=tooltip
            )
        )
    chart = alt.layer(*layers).properties(height=_HEIGHT, usermeta={"renderer": "canvas"})
    return cast("alt.LayerChart", chart)


def _domain(values: Sequence[float]) -> list[float]:
    """Return the ends of a scale that has the values inside."""
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.12, 1.01)
    return [_brief(low / margin), _brief(high * margin)]


def _points(series: Series) -> Iterator[dict[str, Any]]:
    measure, rows = series.measure, series.rows
    names = ["run", "started_utc", "commit", measure, f"{measure}_low", f"{measure}_high"]
    for run, began, commit, value, low, high in rows[names].itertuples(index=False, name=None):
        yield {
            "t": began[:19],
            "s": series.backend,
            "r": run,
            "c": short(commit) or "unknown",
            "v": _brief(value),
            "l": None if np.isnan(low) else _brief(low),
            "h": None if np.isnan(high) else _brief(high),
        }


def _level_lines(series: Series) -> Iterator[dict[str, Any]]:
    mean = np.exp(levels(series.values, series.steps))
    starts = [0, *(step.at for step in series.steps), len(mean)]
    for number, (start, end) in enumerate(pairwise(starts)):
        for at in (start, end - 1):
            moment = series.rows["started_utc"].iloc[at][:19]
            name = f"{series.backend} {number}"
            yield {"t": moment, "s": series.backend, "n": name, "v": _brief(mean[at])}


def _marks(series: Series) -> Iterator[dict[str, Any]]:
    for step in series.steps:
        row = series.rows.iloc[step.at]
        changed = change(np.exp(step.change.value))
        yield {
            "t": row["started_utc"][:19],
            "c": short(row["commit"]) or row["run"],
            "w": f"{series.backend}: {changed} at {short(row['commit'])} ({row['run']})",
        }


def _brief(value: float) -> float:
    """Return four digits: more cannot be seen, and thousands of points make a large page."""
    return float(f"{value:.4g}")
