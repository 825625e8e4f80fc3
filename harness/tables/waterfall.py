"""The table `profile` for people: what an epoch's time is made of, a column for each backend."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.errors import middle_cut
from harness.tables.pairs import ARM
from harness.tables.profile import PARTS
from harness.tables.text import render

_LEAST, _CALLS, _LONGEST = 0.005, 5, 26
_COUNTS = (
    *("operators", "kernels", "programs", "multiply_adds", "bytes", "float64", "copied_bytes"),
    *("allocations", "allocated_bytes", "page_faults", "compilations", "collections"),
    "predictions",
)
_HIDDEN = r"_s$|:|^(?:switches|working_operators|opcodes)$"
"""What is counted for the rules only."""
_TOTALS = {
    "epoch": "all parts",
    "timed": "in the timed turns",
    "limit": "arithmetic limit",
    "floor": "the floor",
}


def side_by_side(
    profile: pd.DataFrame, swept: Sequence[str] = ()
) -> list[tuple[str, pd.DataFrame]]:
    """Return titles and tables for people: parts, counts and calls, a column per backend.

    What is nothing everywhere is left out, and all but the `_CALLS` most expensive calls.
    """
    parts = profile[(profile["kind"] == "part") & (profile["share"] > _LEAST)]
    times = profile[(profile["kind"] == "time") & profile["name"].isin(list(_TOTALS))]
    counts = profile[(profile["kind"] == "count") & (profile["count"] > 0)]
    counts = counts[~counts["name"].str.contains(_HIDDEN)]
    named = [*_COUNTS, *sorted({*counts["name"]} - {*_COUNTS})]
    calls = profile[profile["kind"] == "call"].groupby([*swept, *ARM], sort=False).head(_CALLS)
    one_device = profile["device"].nunique() <= 1
    listed = pd.DataFrame(
        {name: calls[name] for name in (*swept, "backend", *([] if one_device else ["device"]))}
        | {
            "call": calls["name"].map(lambda name: middle_cut(name, _LONGEST)),
            "in": calls["where"].fillna("").map(lambda name: middle_cut(name, _LONGEST)),
            "times": calls["count"],
            "us": 1e6 * calls["seconds"],
            "%": 100 * calls["share"],
        }
    )
    return [
        (
            "Where the time of an epoch goes: us, and the share in %",
            pd.concat(
                [
                    _wide(parts, "part", PARTS, swept, one_device),
                    _wide(times, "part", list(_TOTALS), swept, one_device),
                ],
                ignore_index=True,
            ).replace({"part": _TOTALS}),
        ),
        ("Counts, in an epoch", _wide(counts, "count", named, swept, one_device)),
        ("The most expensive calls, in an epoch", listed.reset_index(drop=True)),
    ]


def _wide(
    rows: pd.DataFrame, first: str, names: Sequence[str], swept: Sequence[str], one_device: bool
) -> pd.DataFrame:
    """Return a row per name; for each backend (and point) its count, or its time and share."""
    names = [name for name in names if name in set(rows["name"])]
    table = pd.DataFrame({first: names})
    for key, mine in rows.groupby([*swept, *ARM], sort=False):
        *values, backend, device = key
        heading = " ".join(map(str, [backend, *([] if one_device else [device]), *values]))
        shown = mine.groupby("name")[["count", "seconds", "share"]].first().reindex(names)
        if first == "count":
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
        render(table, kind, width, title)
        for title, table in side_by_side(profile, swept)
        if len(table)
    ]
    return "\n".join(tables)
