"""How many seeds remember as far as the lag, in a sweep over it: "how far back does it go?"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from harness.stats.estimates import CONFIDENCE
from harness.tables.columns import columns
from harness.tables.pairs import ARM
from harness.tables.points import at_point, points
from harness.tables.text import render, render_sentences

TITLE = "How far back does it remember? Seeds that provably use x_(t-lag)"
REACH = columns("backend device lag seeds reached share low high")


def reach(trials: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return how many seeds remember as far as the lag, a row per backend and point of the sweep.

    Only for a sweep over `lag`. `low` to `high` is the exact 95 % interval of the `share`.
    """
    if "lag" not in swept:
        return pd.DataFrame(columns=list(REACH)).astype(REACH)
    others = [name for name in swept if name != "lag"]
    ok = trials[(trials["status"] == "ok") & trials["memory"].notna()]
    rows: list[dict[str, Any]] = []
    for point, here in points(ok, others):
        for (*arm, lag), mine in here.groupby([*ARM, "lag"], sort=True):
            reached = int((mine["memory"] >= lag).sum())
            share = binomtest(reached, len(mine)).proportion_ci(CONFIDENCE)
            rows.append(
                point
                | dict(zip([*ARM, "lag"], [*arm, lag], strict=True))
                | {"seeds": len(mine), "reached": reached, "share": reached / len(mine)}
                | {"low": share.low, "high": share.high}
            )
    return pd.DataFrame(rows, columns=[*others, *REACH]).astype(REACH)


def reach_words(reached: pd.DataFrame, swept: Sequence[str]) -> Iterator[str]:
    """Yield for each backend at each other point of the sweep how far it remembers."""
    others = [name for name in swept if name != "lag"]
    for point, here in points(reached, others):
        for arm, mine in here.groupby(ARM, sort=False):
            far = mine[(mine["share"] > 0.5).astype(int).cummin() > 0]
            yield f"{' on '.join(map(str, arm))}{at_point(point)} {_how_far(mine, far)}"


def _how_far(all_lags: pd.DataFrame, far: pd.DataFrame) -> str:
    """Say how far a network remembers: `far` are the lags that most seeds reach."""
    words = "remembers nothing"
    if len(far):
        steps = int(far["lag"].iloc[-1])
        words = f"remembers {steps} step{'s' * (steps > 1)}: {_proof(far.iloc[-1])}"
    if len(far) < len(all_lags):
        words += f"{',' if len(far) else ':'} {_proof(all_lags.iloc[len(far)])}"
    return words


def _proof(row: pd.Series[Any]) -> str:
    interval = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
    return f"x_(t-{row['lag']}) is used in {row['reached']} of {row['seeds']} seeds ({interval})"


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
    return pd.DataFrame(rows.values())
