"""Charts in Vega-Lite, by Altair: the same in a page, in a notebook, as PNG and as SVG.

A chart has series but no colours: those come from `LIGHT` or `DARK`, so that one specification
reads on either background. Series differ in colour (Okabe and Ito's, which colour-blind readers can
tell apart), in dashes and in the shape of points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import altair as alt
import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.charts.series import PHASES, REST
from harness.tables.numbers import number
from harness.tables.profile import Part

Chart: TypeAlias = alt.Chart | alt.LayerChart
ScaleType: TypeAlias = Literal["log", "linear"]

YARDSTICKS = {
    "variance": "best constant (variance)",
    "memoryless": "best without memory",
    "without_lag": "best without the lag",
    "wrong_sign": "wrong sign, learned perfectly",
}
"""What a reader calls the yardsticks; the formulas are in `harness.task.yardsticks`."""

MUTED = "#808080"
"""For lines that are no series; has a contrast of 3:1 and more on both backgrounds."""
PRINT_WIDTH = 560
"""Width in pixels of a chart that is a file or in a notebook."""
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 2]]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
_HEIGHT = 300
_ROW = 42
"""Height of a row with its name above it."""
_BAR = 13
_PART, _BESIDE, _SEEN = 20, 0.25, 0.99
"""Height of a row of a waterfall; the width that the text beside its longest bar may need; up to
where a line is not the end of that bar."""
_GROUPS: Mapping[Part, str] = {
    "arithmetic": "arithmetic",
    "memory": "memory",
    "system": "memory",
    "copies": "memory",
    "calls": "calls",
    "python": "Python",
    "collection": "Python",
    "optimiser": "more",
    "prediction": "more",
    "compilation": "more",
    "waiting": "rest",
    "rest": "rest",
}
"""Parts of a colour."""


def _theme(
    background: str, ink: str, faint: str, series: Sequence[str], phases: Sequence[str]
) -> dict[str, Any]:
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12}
    axis = {"gridColor": faint, "domainColor": ink, "tickColor": ink, "titleFontSize": 12}
    # The larger part of the grid of a log scale says nothing.
    axis |= {"gridOpacity": 0.7, "titleFontWeight": "normal"}
    axis |= {"labelOverlap": "greedy", "labelSeparation": 6}
    return {
        "background": background,
        "font": "system-ui, sans-serif",
        "axis": text | axis,
        "legend": text | {"labelLimit": 280},
        "range": {"category": list(series), "ordinal": list(phases)},
        "mark": {"color": series[0]},
        "text": {"fill": ink, "fontSize": 11},
        "view": {"stroke": None},
    }


LIGHT = _theme(
    "#ffffff",
    "#1b1b1b",
    "#dddddd",
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#946200", "#3C8DC0", "#5B3FA0", "#1b1b1b"],
    ["#0d2f5c", "#2c5f8a", "#3f8f8c", "#67b26f", "#c4c94a", "#bdbdbd"],
)
DARK = _theme(
    "#16181d",
    "#e8e8e8",
    "#3a3f47",
    ["#56B4E9", "#E69F00", "#2FC6A0", "#E59ACB", "#F0E442", "#8FB4FF", "#B79BFF", "#e8e8e8"],
    ["#4c7ebf", "#5aa0c8", "#5fbfae", "#8fd08f", "#e6df6a", "#9a9a9a"],
)


def curves(
    convergence: pd.DataFrame,
    yardsticks: Mapping[str, float],
    order: Sequence[str],
    against: str = "epoch",
) -> alt.LayerChart:
    """Draw the error against `epoch` or `train_s`, from `series.convergence`.

    `yardsticks` are means over t = 1..T; those that are zero, without a lag, are left out.
    """
    title = {"epoch": "epoch", "train_s": "training time of a seed in seconds, median"}[against]
    x = alt.X(against, type="quantitative", title=title).scale(zero=True, nice=False)
    x = x.axis(tickCount=5)
    y = _log_scale("eval_mse", "mean squared error, held-out paths")
    tooltip = [
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("epoch:Q", title="epoch"),
        _number("train_s", "training time, s"),
        _number("eval_mse", "MSE, geometric mean"),
        *_band_tooltip(),
        _number("train_loss", "training loss"),
    ]
    levels = [
        {"yardstick": YARDSTICKS[name], against: end, "level": level}
        for name, level in yardsticks.items()
        for end in (0.0, float(convergence[against].max()))
        if level > 0
    ]
    return _with_yardsticks(series_lines(convergence, x, y, tooltip, order), levels, against)


def steps(
    per_step: pd.DataFrame, yardsticks: Mapping[str, Array], order: Sequence[str]
) -> alt.LayerChart:
    """Draw the error of each time step, from `series.per_step`.

    `yardsticks` are arrays [T]; where one is zero, as without a lag before t = 1, it is not drawn.
    """
    x = alt.X("t:Q", title="time step t").scale(nice=False, domainMin=0)
    y = _log_scale("mse", "mean squared error at t")
    tooltip = [
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("t:Q", title="t"),
        _number("mse", "MSE, geometric mean"),
        *_band_tooltip(),
    ]
    levels = [
        {"yardstick": YARDSTICKS[name], "t": t, "level": float(level)}
        for name, values in yardsticks.items()
        for t, level in enumerate(values, start=1)
        if level > 0
    ]
    return _with_yardsticks(series_lines(per_step, x, y, tooltip, order), levels, "t")


def lags(per_lag: pd.DataFrame, true: Mapping[int, float], order: Sequence[str]) -> alt.LayerChart:
    """Draw the coefficient of x_{t-k}^2 at each k, from `series.per_lag`; `true`: of the target."""
    x = alt.X("k:Q", title="k: steps back").scale(nice=False, padding=14).axis(tickMinStep=1)
    y = alt.Y("coefficient:Q", title="coefficient of the square of x, k steps back")
    tooltip = [
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("k:Q", title="k"),
        _number("coefficient", "coefficient, mean"),
        *_band_tooltip(),
    ]
    target = alt.InlineData(values=[{"k": k, "coefficient": c} for k, c in true.items()])
    wanted = alt.Chart(target).mark_point(shape="circle", size=220, color=MUTED, strokeWidth=1.5)
    told = [_number("k", "k"), _number("coefficient", "in the target")]
    lines = series_lines(per_lag, x, y, tooltip, order, scale="linear")
    return _layered(_HEIGHT, wanted.encode(x=x, y=y, tooltip=told), *lines)


def time_parts(parts: pd.DataFrame, order: Sequence[str]) -> alt.LayerChart:
    """Draw where the time of a trial went, from `series.time_parts`."""
    phases = [name for name in (*PHASES.values(), REST) if name in set(parts["phase"])]
    rank = {name: number for number, name in enumerate(phases)}
    base = alt.Chart(parts.assign(rank=parts["phase"].map(rank))).encode(
        y=alt.Y("series:N", sort=list(order)).axis(None)
    )
    bars = base.mark_bar(stroke=MUTED, strokeWidth=0.5, size=_BAR).encode(
        x=alt.X("seconds:Q", title="seconds of a trial, that of median length", stack="zero"),
        color=alt.Color("phase:O", sort=phases, title=None).legend(orient="bottom", columns=3),
        order="rank:Q",
        tooltip=["series:N", "phase:N", alt.Tooltip("seconds:Q", format=".3g")],
    )
    return _layered(_ROW * len(order), bars, _row_names(base, "series"))


def waterfall(parts: pd.DataFrame, order: Sequence[str]) -> alt.LayerChart:
    """Draw what the time of an epoch is made of, from `series.waterfall`.

    The bars of a series are shares of its own epoch: in seconds, those of a fast one could not be
    seen beside one that is a hundred times slower. Dashed: the floor.
    """
    heads = parts.drop_duplicates("series").assign(
        part="", text=lambda t: t["series"] + ": " + t["epoch"].map(_microseconds) + " an epoch"
    )
    both = pd.concat([heads, parts.assign(text=parts["seconds"].map(_microseconds))])
    rows = pd.concat([both[both["series"] == name] for name in order])
    rows = rows.assign(row=range(len(rows)), group=rows["part"].map(_GROUPS))
    rows["last"] = rows.groupby("series")["row"].transform("max")
    rows["following"] = np.minimum(rows["row"] + 1, rows["last"])
    rows["floor"] /= rows["epoch"]
    names = f"{json.dumps(list(rows['part']))}[datum.value]"
    base = alt.Chart(rows).encode(
        y=alt.Y("row:O", title=None).axis(labelExpr=names, ticks=False, domain=False)
    )
    dashed = (rows["floor"] < _SEEN).any()
    title = "share of an epoch" + "; dashed: the floor" * bool(dashed)
    x = alt.X("begin:Q", title=title)
    x = x.scale(domain=[0, max(1, parts["end"].max()) + _BESIDE], nice=False)
    x = x.axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    color = alt.Color("group:O", legend=None).scale(domain=list(dict.fromkeys(_GROUPS.values())))
    tooltip = ["series:N", "part:N", _number("seconds", "seconds of an epoch")]
    below_head = base.transform_filter("datum.part")
    layers = [
        base.transform_filter(f"datum.part == 'arithmetic' && datum.floor < {_SEEN}")
        .mark_rule(color=MUTED, strokeDash=[4, 3])
        .encode(x="floor:Q", y2="last:O"),
        below_head.mark_rule(color=MUTED).encode(x="end:Q", y2="following:O"),
        below_head.mark_bar(size=_BAR).encode(x=x, x2="end:Q", color=color, tooltip=tooltip),
        below_head.mark_text(align="left", dx=4).encode(x="end:Q", text="text:N"),
        base.transform_filter("!datum.part")
        .mark_text(align="left", fontWeight="bold")
        .encode(x=alt.value(0), text="text:N"),
    ]
    return _layered(_PART * len(rows), *layers)


def _microseconds(seconds: float) -> str:
    return f"{number(1e6 * seconds)} us"


def totals(table: pd.DataFrame, run: int, order: Sequence[str]) -> alt.LayerChart:
    """Draw the total time against epochs, from `series.total_times`; mark those of the `run`."""
    x = alt.X("epochs:Q", title="number of epochs (log scale)").axis(tickCount=6)
    x = x.scale(type="log", nice=False)
    y = _log_scale("seconds", "seconds from the first import on, mean")
    y = y.scale(type="log", nice=False)
    tooltip = [
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("epochs:Q", title="epochs", format=".4~r"),
        _number("seconds", "seconds"),
        *_band_tooltip(),
    ]
    here = alt.Chart(alt.InlineData(values=[{"epochs": run, "what": "this run"}]))
    rule = here.mark_rule(color=MUTED, strokeDash=[3, 3], strokeWidth=1.5).encode(x="epochs:Q")
    name = here.mark_text(align="right", dx=-5).encode(x="epochs:Q", y=alt.value(8), text="what:N")
    return _layered(_HEIGHT, rule, name, *series_lines(table, x, y, tooltip, order))


def ratios(comparisons: pd.DataFrame) -> alt.LayerChart:
    """Draw ratios with their intervals as a forest plot.

    From a table with `label`, `value`, `low`, `high`, `shown` and `words`, a row for each ratio.
    """
    labels = [str(label) for label in comparisons["label"]]
    base = alt.Chart(comparisons).encode(
        y=alt.Y("label:N", title=None, sort=labels).axis(None),
        tooltip=[
            alt.Tooltip("label:N", title="what"),
            _number("value", "ratio"),
            _number("low", "from (95 %)"),
            _number("high", "to (95 %)"),
            alt.Tooltip("words:N", title="in words"),
        ],
    )
    x = alt.X("value:Q", title="ratio, with its 95 % interval (log scale)").scale(type="log")
    one = alt.Chart(alt.InlineData(values=[{"one": 1}]))
    layers = [
        one.mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x="one:Q"),
        base.mark_rule(strokeWidth=2, color=MUTED).encode(x="low:Q", x2="high:Q"),
    ]
    # Vega warns of a layer without rows.
    if comparisons["shown"].any():
        layers.append(_points(base, "datum.shown", filled=True).encode(x=x))
    if not comparisons["shown"].all():
        layers.append(_points(base, "!datum.shown").encode(x=x))
    return _layered(_ROW * len(comparisons), *layers, _row_names(base, "label"))


def _points(rows: alt.Chart, condition: str, *, filled: bool = False) -> alt.Chart:
    return cast("alt.Chart", rows.transform_filter(condition).mark_point(size=70, filled=filled))


def _row_names(rows: alt.Chart, name: str) -> alt.Chart:
    """Name each row above it: beside it, long names would leave no room on a phone."""
    names: alt.Chart = rows.mark_text(align="left", baseline="bottom", dy=-_BAR * 2 / 3)
    return names.encode(x=alt.value(0), text=alt.Text(name, aggregate="min", type="nominal"))


def by_field(table: pd.DataFrame, field: str, measure: str, order: Sequence[str]) -> alt.LayerChart:
    """Draw `epoch_s` or `final_mse` against a swept field, from `series.by_field`."""
    title, low, high = {
        "epoch_s": ("seconds of an epoch, median", "epoch_low", "epoch_high"),
        "final_mse": ("mean squared error after training, geometric mean", "low", "high"),
    }[measure]
    numeric = pd.api.types.is_numeric_dtype(table[field])
    if numeric:
        # A log scale has no place for zero or less.
        scale = alt.Scale(type="log" if (table[field] > 0).all() else "linear", nice=False)
        x = alt.X(f"{field}:Q", title=field, scale=scale)
    else:
        x = alt.X(f"{field}:N", title=field, sort=None)
    tooltip = [
        alt.Tooltip("series:N"),
        alt.Tooltip(field),
        *([alt.Tooltip("others:N", title="with")] if table["others"].any() else []),
        _number(measure, title),
        _number(low, "seeds from"),
        _number(high, "to"),
        alt.Tooltip("seeds:Q"),
    ]
    y = _log_scale(measure, title)
    lines = series_lines(table, x, y, tooltip, order, band=(low, high), detail="others:N")
    last = table[field].max() if numeric else table[field].iloc[-1]
    names = alt.Chart(table[table[field] == last]).mark_text(align="right", dy=-9)
    return _layered(_HEIGHT, *lines, names.encode(x=x, y=y, text="others:N"))


def series_lines(
    table: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    tooltip: list[alt.Tooltip],
    order: Sequence[str],
    band: tuple[str, str] = ("low", "high"),
    detail: str = "",
    scale: ScaleType = "log",
) -> list[alt.Chart]:
    """Draw a line per series with the band of its seeds; a click in the legend picks series out."""
    names = list(order)
    picked = alt.selection_point(fields=["series"], bind="legend", toggle="true")
    # The symbols of the legend would take the opacity of the band.
    legend = alt.Legend(
        orient="bottom", columns=2, symbolSize=90, symbolOpacity=1, symbolStrokeWidth=0
    )
    dashes = [_DASHES[n % len(_DASHES)] for n in range(len(names))]
    shapes = [_SHAPES[n % len(_SHAPES)] for n in range(len(names))]
    color = alt.Color("series:N", sort=names, title=None).scale(domain=names).legend(legend)
    dash = alt.StrokeDash("series:N", sort=names, title=None).scale(domain=names, range=dashes)
    shape = alt.Shape("series:N", sort=names, title=None).scale(domain=names, range=shapes)
    base = alt.Chart(table).encode(x=x, color=color, **({"detail": detail} if detail else {}))
    faded = alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.08))
    layers: list[alt.Chart] = []
    if (table["seeds"] > 1).any():
        low, high = band
        y_low, opacity = alt.Y(f"{low}:Q").scale(type=scale), alt.when(picked).then(alt.value(0.18))
        area = base.mark_area(line=False).encode(y=y_low, y2=f"{high}:Q")
        layers.append(area.encode(opacity=opacity.otherwise(alt.value(0))))
    layers.append(base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash, opacity=faded))
    dots = base.mark_point(filled=True, size=30).encode(y=y, shape=shape, opacity=faded)
    layers.append(dots.encode(tooltip=tooltip).add_params(picked))
    return layers


def _with_yardsticks(
    series: Sequence[alt.Chart], levels: list[dict[str, Any]], x: str
) -> alt.LayerChart:
    """Add lines that are no series, each with its name above its right end."""
    last = max(row[x] for row in levels)
    ends = [row for row in levels if row[x] == last]
    lines = alt.Chart(alt.InlineData(values=levels)).mark_line(
        color=MUTED, strokeDash=[3, 3], strokeWidth=1.5
    )
    names = alt.Chart(alt.InlineData(values=ends)).mark_text(align="right", dy=-13)
    tooltip = ["yardstick:N", _number("level", "MSE")]
    return _layered(
        _HEIGHT,
        lines.encode(x=f"{x}:Q", y="level:Q", detail="yardstick:N", tooltip=tooltip),
        names.encode(x=f"{x}:Q", y="level:Q", text="yardstick:N"),
        *series,
    )


def _layered(height: float, *layers: alt.Chart) -> alt.LayerChart:
    """Draw charts over each other, the first at the back."""
    return cast("alt.LayerChart", alt.layer(*layers).properties(height=height))


def _log_scale(name: str, title: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title=title).scale(type="log").axis(tickCount=6, format=".2~g")


def _number(name: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(f"{name}:Q", title=title, format=".3g")


def _band_tooltip() -> list[alt.Tooltip]:
    seeds = alt.Tooltip("seeds:Q", title="seeds")
    return [_number("low", "seeds from"), _number("high", "to"), seeds]
