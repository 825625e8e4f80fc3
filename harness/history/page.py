"""The history as a page: the change points in words, the newest values, charts over time.

The charts have a point for each run, drawn on a canvas. The tables have only the levels between
change points and the newest runs, so that the page stays small with thousands of runs.
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
from harness.history import wording
from harness.history.history import History
from harness.history.series import Group, Measure, Series
from harness.history.wording import change_at, short_commit
from harness.stats.changepoints import levels

_NEWEST = 50
"""Rows of the table of runs; all are in `history --format csv`."""
_MOST_GROUPS = 20
"""Most groups that have charts."""
_ONE_SCALE = 3.0
"""Series that differ by more than this factor have charts of their own: changes are small."""
_HEIGHT = 280
_TITLES: Mapping[Measure, str] = {
    "ratio": "Training time relative to {}, geometric mean over blocks",
    "epoch_s": "Training time of an epoch in seconds, geometric mean over blocks",
    "final_mse": "Mean squared error after training, geometric mean over seeds {}",
}
_UNITS: Mapping[Measure, str] = {"ratio": "ratio", "epoch_s": "seconds", "final_mse": "MSE"}
_X = alt.X("t:T", title=None).scale(type="utc")


def build(history: History) -> Page:
    """Return the page of a history."""
    table = history.table
    dates = sorted(table["started_utc"].str[:10])
    sections = [
        Section(
            "Change points", [Items(wording.conclusion(history)), *_change_points_table(history)]
        ),
        Section(
            "Now",
            [
                Table("The newest run of each series", wording.newest(history)),
                Items(wording.legend(history)),
            ],
        ),
    ]
    groups = list(history.references)
    # A single run is in the tables.
    several = [group for group in groups if any(len(s.rows) > 1 for s in _of(history, group))]
    largest = sorted(several, key=lambda group: -len(_of(history, group)))[:_MOST_GROUPS]
    for number, group in enumerate(group for group in groups if group in largest):
        sections.append(Section(_heading(group), list(_figures(history, group, number))))
    if left := len(groups) - len(largest):
        text = f"{left} group{'s' * (left > 1)} with one run, or fewer than others: see the tables."
        sections.append(Section("Without charts", [Text(text)]))
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
    "same in all runs, is in the tooltip only); a thick line is the level between change "
    "points; a dashed line is a change point, with the commit of the first run after it.",
    "A commit with + had uncommitted changes.",
    "A change point is stated if the order of the runs would show one as clear by chance in at "
    "most 5 % of such histories, all series together.",
    "Hold Shift and turn the wheel to zoom in time, drag to move, double-click to go back.",
)


def _of(history: History, group: Group) -> list[Series]:
    return [series for series in history.series if series.group == group]


def _heading(group: Group) -> str:
    conditions = f"{group.task_name} on {group.device}: {group.node_kind}"
    return ", ".join([conditions, *wording.unusual(group)])


def _change_points_table(history: History) -> Iterator[Block]:
    table = history.change_points
    if table.empty:
        return
    shown = table.assign(
        date=table["started_utc"].str[:10],
        commit=_short(table["commit"]),
        before=_short(table["last_commit"]),
    )
    headings = {
        "measure": "what",
        **{name: name for name in ("backend", "device", "run", "date", "commit", "before")},
        "change": "times",
        "low": "from",
        "high": "to",
        "p": "p",
        "also_changed": "also changed",
    }
    yield Table(
        "All change points, the newest first", shown[list(headings)].rename(columns=headings)
    )


def _for_people(rows: pd.DataFrame) -> pd.DataFrame:
    shown = ["run", "started_utc", "backend", "device"]
    shown += [name for name in ("task", "node_kind") if rows[name].nunique() > 1]
    shown += ["commit", "seeds", "trials", "epoch_s", "ratio", "ratio_low", "ratio_high"]
    shown += ["final_mse", "final_mse_low", "final_mse_high", "mse_seeds"]
    return rows.assign(commit=_short(rows["commit"]))[shown]


def _short(commits: pd.Series[str]) -> pd.Series[str]:
    return commits.map(short_commit, na_action="ignore")


def _figures(history: History, group: Group, number: int) -> Iterator[Block]:
    reference = history.references[group]
    if reference:
        yield Text(f"Ratios are to {reference}, measured in the same blocks of the same run.")
    for measure in _TITLES:
        measured = [series for series in _of(history, group) if series.measure == measure]
        order = sorted({series.backend for series in _of(history, group)})
        for part, together in enumerate(_comparable(measured)):
            title = _TITLES[measure].format(together[0].seeds or reference)
            if len(together) < len(measured) or len(order) == 1:
                title += f": {', '.join(series.backend for series in together)}"
            yield Figure(
                name=f"group-{number}-{measure.replace('_', '-')}-{part}",
                title=title,
                chart=_chart(together, measure, order),
                words="; ".join(map(_words, together)) + ".",
                table=pd.concat(map(_segments, together), ignore_index=True),
            )


def _comparable(series: Sequence[Series]) -> Iterator[list[Series]]:
    """Yield the series that share a chart: over the same seeds, and not too far apart."""
    for seeds in dict.fromkeys(one.seeds for one in series):
        yield from _on_one_scale([one for one in series if one.seeds == seeds])


def _on_one_scale(series: Sequence[Series]) -> list[list[Series]]:
    """Return the series in parts, each of which fits on one scale."""
    parts: list[list[Series]] = []
    for one in sorted(series, key=lambda one: float(np.median(one.values))):
        low = float(np.median(parts[-1][0].values)) if parts else -np.inf
        if parts and np.median(one.values) - low < np.log(_ONE_SCALE):
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


def _words(series: Series) -> str:
    values = series.rows[series.measure]
    count = len(series.change_points)
    changes = f"{count} change point{'s' * (count != 1)}"
    if not series.tested:
        changes = "too few runs for a change point"
    return (
        f"{series.backend}: {values.iloc[0]:.3g} in the first of {len(values)} runs, "
        f"{values.iloc[-1]:.3g} in the last, {changes}"
    )


def _segments(series: Series) -> pd.DataFrame:
    """Return a row per level of a series."""
    rows, mean = series.rows, np.exp(levels(series.values, series.change_points))
    starts = [0, *(point.at for point in series.change_points)]
    ends = [*(start - 1 for start in starts[1:]), len(rows) - 1]
    return pd.DataFrame(
        {
            "backend": series.backend,
            "from run": rows["run"].iloc[starts].to_numpy(),
            "from": rows["started_utc"].iloc[starts].str[:16].to_numpy(),
            "commit": _short(rows["commit"].iloc[starts]).to_numpy(),
            "to run": rows["run"].iloc[ends].to_numpy(),
            "to": rows["started_utc"].iloc[ends].str[:16].to_numpy(),
            "runs": np.array(ends) - np.array(starts) + 1,
            "level": mean[starts],
        }
    )


def _chart(series: Sequence[Series], measure: Measure, order: Sequence[str]) -> alt.LayerChart:
    """Draw points with intervals, levels between change points, and change points with commits."""
    points = [row for one in series for row in _points(one)]
    # The scale is as wide as the points: an interval may go beyond.
    scale = alt.Scale(type="log", nice=False, domain=_domain([row["v"] for row in points]))
    y = alt.Y("v:Q", title=f"{_UNITS[measure]} (log scale)", scale=scale)
    y = y.axis(tickCount=6, format=".3~g")
    color = alt.Color("s:N", sort=list(order), title=None).scale(domain=list(order))
    names = sorted({one.backend for one in series})
    color = color.legend(orient="bottom", values=names) if len(order) > 1 else color.legend(None)
    drawn = alt.Chart(alt.InlineData(values=points)).encode(x=_X, color=color)
    layers = []
    if measure != "final_mse":
        faint = min(0.4, 60 / len(points))
        interval = drawn.mark_rule(strokeWidth=1, opacity=faint, clip=True)
        layers.append(interval.encode(y=alt.Y("l:Q", scale=scale), y2="h:Q"))
    zoom = alt.selection_interval(
        bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]", name="zoom"
    )
    layers += [
        drawn.mark_point(filled=True, size=36 if len(points) < 500 else 10, opacity=0.8, clip=True)
        .encode(
            y=y,
            shape=alt.Shape("s:N", sort=list(order), title=None).scale(domain=list(order)),
            tooltip=_tooltip(measure),
        )
        .add_params(zoom),
        alt.Chart(alt.InlineData(values=[row for one in series for row in _level_lines(one)]))
        .mark_line(strokeWidth=3, clip=True)
        .encode(x=_X, y=y, color=color, detail="n:N"),
        *_change_marks([row for one in series for row in _marks(one)]),
    ]
    chart = alt.layer(*layers).properties(height=_HEIGHT, usermeta={"renderer": "canvas"})
    return cast("alt.LayerChart", chart)


def _tooltip(measure: Measure) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("r:N", title="run"),
        alt.Tooltip("t:N", title="began (UTC)"),
        alt.Tooltip("c:N", title="commit"),
        alt.Tooltip("s:N", title="backend"),
        alt.Tooltip("v:Q", title=_UNITS[measure], format=".4g"),
        alt.Tooltip("l:Q", title="from (95 %)", format=".4g"),
        alt.Tooltip("h:Q", title="to (95 %)", format=".4g"),
    ]


def _change_marks(marks: Sequence[Mapping[str, Any]]) -> Iterator[alt.Chart]:
    """Yield the layers with a dashed line and a commit at each change point."""
    if not marks:
        return
    drawn = alt.Chart(alt.InlineData(values=list(marks))).encode(x=_X)
    tooltip = [alt.Tooltip("w:N", title="change point")]
    line = drawn.mark_rule(strokeDash=[5, 4], strokeWidth=1.5, color=MUTED, clip=True)
    yield line.encode(tooltip=tooltip)
    commit = drawn.mark_text(align="left", dx=4, dy=8, baseline="top", clip=True)
    yield commit.encode(text="c:N", y=alt.value(0), tooltip=tooltip)


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
            "c": short_commit(commit) or "unknown",
            "v": _brief(value),
            "l": None if np.isnan(low) else _brief(low),
            "h": None if np.isnan(high) else _brief(high),
        }


def _level_lines(series: Series) -> Iterator[dict[str, Any]]:
    mean = np.exp(levels(series.values, series.change_points))
    starts = [0, *(point.at for point in series.change_points), len(mean)]
    for number, (start, end) in enumerate(pairwise(starts)):
        for at in (start, end - 1):
            moment = series.rows["started_utc"].iloc[at][:19]
            name = f"{series.backend} {number}"
            yield {"t": moment, "s": series.backend, "n": name, "v": _brief(mean[at])}


def _marks(series: Series) -> Iterator[dict[str, Any]]:
    for point in series.change_points:
        change, row = change_at(series, point)
        commit = short_commit(row["commit"])
        yield {
            "t": row["started_utc"][:19],
            "c": commit or row["run"],
            "w": f"{series.backend}: {change} at {commit} ({row['run']})",
        }


def _brief(value: float) -> float:
    """Return four digits: more cannot be seen, and would make a page of many points large."""
    return float(f"{value:.4g}")
