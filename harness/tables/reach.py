"""How many seeds remember as far as the lag, in a sweep over it: "how far back does it go?"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from harness.stats.estimates import CONFIDENCE
from harness.tables.columns import columns
from harness.tables.memory import lower_median
from harness.tables.pairs import ARM
from harness.tables.points import at_point, points
from harness.tables.text import render, render_sentences

TITLE = "How far back does it remember? Seeds that provably remember so many steps"
REACH = columns("backend device lag seeds reached share low high memory", memory="int64")


def reach(trials: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return how many seeds remember as far as the lag, a row per backend and point of the sweep.

    Only for a sweep over `lag`. `seeds` ended ok or diverged; of those that diverged, nothing is
    shown, like of those whose error is too large. `memory` is their median (the lower one of two);
    `low` to `high` is the exact 95 % interval of the `share`. Points at which no memory is known,
    as without a lag term, have no row.
    """
    others = [name for name in swept if name != "lag"]
    rows: list[dict[str, Any]] = []
    ended = trials[trials["status"].isin(("ok", "diverged"))]
    for point, here in points(ended, others) if "lag" in swept else ():
        for (*arm, _), mine in here.groupby([*ARM, "lag"], sort=True):
            if mine["memory"].isna().all():
                continue
            lag = int(mine["lag"].iloc[0])
            steps = mine["memory"].fillna(0).astype("int64")
            reached = int((steps >= lag).sum())
            share = binomtest(reached, len(mine)).proportion_ci(CONFIDENCE)
            rows.append(
                point
                | dict(zip([*ARM, "lag"], [*arm, lag], strict=True))
                | {"seeds": len(mine), "reached": reached, "share": reached / len(mine)}
                | {"low": share.low, "high": share.high, "memory": lower_median(steps)}
            )
    return pd.DataFrame(rows, columns=[*others, *REACH]).astype(REACH)


def reach_words(reached: pd.DataFrame, swept: Sequence[str]) -> Iterator[str]:
    """Yield for each backend at each other point of the sweep how far it remembers."""
    others = [name for name in swept if name != "lag"]
    for point, here in points(reached, others):
        for arm, mine in here.groupby(ARM, sort=False):
            far = mine[(mine["share"] > 0.5).astype(int).cummin() > 0]
            yield f"{' on '.join(map(str, arm))}{at_point(point)} {_how_far(mine, len(far))}"


def _how_far(at_lags: pd.DataFrame, far: int) -> str:
    """Say how far a network remembers, if most seeds reach the first so many lags."""
    parts = []
    if far:
        parts.append(f"remembers {_steps(at_lags.iloc[far - 1])}")
    if far < len(at_lags):
        row = at_lags.iloc[far]
        less = f"; the median there is {row['memory']:.0f}" * bool(0 < row["memory"] < row["lag"])
        parts.append(f"is not shown to remember {_steps(row)}{less}")
    return ", and ".join(parts)


def _steps(row: pd.Series[Any]) -> str:
    """Return a number of steps, and which seeds remember as many."""
    lag, interval = int(row["lag"]), f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
    seeds = f"{row['reached']} of {row['seeds']} seeds do, {interval}"
    return f"{lag} step{'s' * (lag > 1)} ({seeds})"


def render_reach(reached: pd.DataFrame, kind: str, width: int, swept: Sequence[str]) -> str:
    """Return the table as text: for people a column per lag, and sentences."""
    if kind in {"csv", "json"}:
        return render(reached, kind)
    table = render(by_lag(reached, swept), kind, width, TITLE, keys=len(swept) + 1)
    return table + render_sentences(reach_words(reached, swept), kind)


def by_lag(reached: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row per backend and other point of the sweep, and a column per lag: `7/8`."""
    keys = [*(name for name in swept if name != "lag"), *ARM]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _, one in reached.iterrows():
        row = rows.setdefault(tuple(one[keys]), {key: one[key] for key in keys})
        row[f"lag {one['lag']}"] = f"{one['reached']}/{one['seeds']}"
    lags = [f"lag {lag}" for lag in sorted(reached["lag"].unique())]
    return pd.DataFrame(rows.values(), columns=[*keys, *lags])
