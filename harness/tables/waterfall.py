"""The table `profile` for people: what an epoch's time is made of, a column for each backend."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.tables.pairs import ARM
from harness.tables.profile import PARTS
from harness.tables.text import render

_LEAST, _CALLS = 0.005, 5
_FIRST, _ALWAYS = ("epoch", "limit", "floor"), ("epoch", "limit", "floor", "rest")


def side_by_side(
    profile: pd.DataFrame, swept: Sequence[str] = ()
) -> list[tuple[str, pd.DataFrame]]:
    """Return titles and tables for people: parts, counts and calls, a column per backend.

    Parts that are nothing everywhere are left out, and all but the `_CALLS` most expensive calls.
    """
    times = profile[profile["kind"].isin(["time", "part"])]
    times = times[(times["share"] > _LEAST) | times["name"].isin(_ALWAYS)]
    counts = profile[profile["kind"] == "count"]
    calls = profile[(profile["kind"] == "call") & profile["where"].notna()]
    calls = calls.groupby([*swept, *ARM], sort=False).head(_CALLS)
    heading = {"count": "calls", "seconds": "us", "share": "%", "where": "called by"}
    listed = calls.assign(seconds=1e6 * calls["seconds"], share=100 * calls["share"])
    listed = listed[[*swept, *ARM, "name", *heading]].rename(columns=heading)
    return [
        ("Time of an epoch in us, and its share in %", _wide(times, swept)),
        ("Counts, in an epoch", _wide(counts, swept)),
        ("The most expensive calls, in an epoch", listed.reset_index(drop=True)),
    ]


def _wide(rows: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row per name; for each backend (and point) its count, or its time and share."""
    keys = [*swept, *ARM]
    names = [name for name in (*_FIRST, *PARTS) if name in set(rows["name"])]
    names += [name for name in dict.fromkeys(rows["name"]) if name not in names]
    table = pd.DataFrame({"part" if "limit" in names else "count": names})
    one_device = rows["device"].nunique() <= 1
    for key, mine in rows.groupby(keys, sort=False):
        *values, backend, device = key
        heading = " ".join(map(str, [backend, *([] if one_device else [device]), *values]))
        shown = mine.groupby("name")[["count", "seconds", "share"]].first().reindex(names)
        if shown["count"].notna().any():
            table[heading] = shown["count"].to_numpy()
        else:
            table[heading] = 1e6 * shown["seconds"].to_numpy()
            table[f"{heading} %"] = 100 * shown["share"].to_numpy()
    return table


def render_profile(profile: pd.DataFrame, kind: str, width: int, swept: Sequence[str] = ()) -> str:
    """Return the table as text in one of `harness.tables.text.FORMATS`.

    CSV and JSON have every row; for people, what matters stands side by side.
    """
    if kind in {"csv", "json"}:
        return render(profile, kind, width)
    tables = [
        render(table, kind, width, title, keys=1 if number < 2 else len(swept) + 3)
        for number, (title, table) in enumerate(side_by_side(profile, swept))
        if len(table)
    ]
    return "\n".join(tables)
