"""The table `break_even`: from how many epochs on a backend is ahead, its start-up included.

The total time of a training is `start_s + epochs * epoch_s`. Of two backends, one may start sooner
and the other train faster; the lead passes at

    epochs = (start_s - against_start_s) / (against_epoch_s - epoch_s)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isinf
from typing import Any

import pandas as pd

from harness.stats.crossing import Crossing, crossing
from harness.tables import numbers
from harness.tables.columns import columns
from harness.tables.pairs import ARM, KIND, ArmKey, by_speed, names, of_arm
from harness.tables.points import at_point, points

BREAK_EVEN = columns(
    "backend device against_backend against_device node_kind at low high start_s against_start_s "
    "epoch_s against_epoch_s n shown words"
)
_VALUES = ("start_s", "epoch_s")


def break_even(trials: pd.DataFrame, pilot: int = 0, swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row for each backend and device beside the fastest: from when on which is ahead.

    They are paired in blocks on one node, at each point of a sweep over the fields `swept` and on
    each kind of node. Trials with others beside them, or in a process that was warm, do not count;
    nor do pairs that train unlike numbers of seeds at once.

    - `at`: from so many epochs on, `backend` is ahead of `against_backend`. 0: from the first
      epoch on; infinite: never. `backend` is the one that trains faster; if no difference in that
      is shown, the one that starts later.
    - `low` to `high`: the 95 % interval (`harness.stats.crossing`), which explains `pilot` and
      `shown`, too.
    - `start_s`, `epoch_s`, `against_...`: means over the `n` blocks, for all seeds trained at once.
    """
    ok = with_epoch_s(trials)
    rows = [
        point | row
        for point, here in points(ok, swept)
        for kind, alike in here.groupby(KIND, sort=False)
        for row in _against_the_fastest(alike, pilot, _where(point, str(kind), here))
    ]
    return pd.DataFrame(rows, columns=[*swept, *BREAK_EVEN]).astype(BREAK_EVEN)


def with_epoch_s(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with a known total time, with a column: `epoch_s`, of all their seeds."""
    ok = trials[(trials["status"] == "ok") & ~trials["contended"]]
    ok = ok.assign(epoch_s=ok["at_once"] / ok["epochs_per_s"])
    return ok.dropna(subset=list(_VALUES))


def epoch(at: float) -> str:
    """Return the epoch from which on a backend is ahead: `the first`, `120`, or `never`."""
    return "the first" if at < 1 else "never" if isinf(at) else _rounded(at)


def epochs_interval(low: float, high: float) -> str:
    """Return an interval of epochs: ` [the first, 480]`; empty if unknown or without a width."""
    return "" if high < 1 else numbers.interval(low, high, epoch)


def _where(point: dict[str, Any], kind: str, here: pd.DataFrame) -> str:
    return at_point(point) + f" on {kind}" * (here[KIND].nunique() > 1)


def _against_the_fastest(alike: pd.DataFrame, pilot: int, where: str) -> list[dict[str, Any]]:
    fastest, *others = by_speed(alike)
    found = [_row(alike, fastest, other, pilot, where) for other in others]
    return [row for row in found if row]


def _row(
    alike: pd.DataFrame, one: ArmKey, other: ArmKey, pilot: int, where: str
) -> dict[str, Any] | None:
    sides = [of_arm(alike, arm) for arm in (one, other)]
    if sides[0]["at_once"].max() != sides[1]["at_once"].max():
        return None
    keys = ["block", "node"]
    means = [side.groupby(keys, as_index=False)[list(_VALUES)].mean() for side in sides]
    both = means[0].merge(means[1], on=keys, suffixes=("_one", "_other")).sort_values("block")
    if both.empty:
        return None
    # How far `one` is ahead, in seconds: at the start, and more with each epoch.
    offsets, slopes = (
        (both[f"{name}_other"] - both[f"{name}_one"]).to_numpy(dtype=float) for name in _VALUES
    )
    found = crossing(offsets, slopes, int((both["block"] < pilot).sum()))
    sides_of_both = [(one, "one"), (other, "other")][:: 1 if found.rising else -1]
    (arm, mine), (against, theirs) = sides_of_both
    return {
        **dict(zip((*ARM, "against_backend", "against_device"), (*arm, *against), strict=True)),
        "node_kind": alike[KIND].iloc[0],
        "at": found.at,
        "low": found.low,
        "high": found.high,
        **{name: both[f"{name}_{mine}"].mean() for name in _VALUES},
        **{f"against_{name}": both[f"{name}_{theirs}"].mean() for name in _VALUES},
        "n": len(both),
        "shown": found.shown,
        "words": f"start-up included, {_words(found, len(both), *names(arm, against))}{where}",
    }


def _words(found: Crossing, n: int, mine: str, other: str) -> str:
    """State from when on `mine` is ahead of `other`, by `n` blocks."""
    interval = epochs_interval(found.low, found.high)
    if not found.shown:
        since = f"{mine} ahead {_since(found.at)}{interval or numbers.no_interval(n, 'block')}"
        return f"no difference shown between {mine} and {other} ({since})"
    if not isinf(found.high):
        return f"{mine} is ahead of {other} {_since(found.at)}{interval}"
    ahead = f"{other} is ahead of {mine}"
    if isinf(found.at):
        return f"{ahead} at any number of epochs [up to {_rounded(found.low)}, any]"
    return f"{ahead} up to {_rounded(found.at)} epochs [{_rounded(found.low)}, any]"


def _since(at: float) -> str:
    if isinf(at):
        return "never"
    return "from the first epoch on" if at < 1 else f"from {_rounded(at)} epochs on"


def _rounded(epochs: float) -> str:
    """Return a number of epochs to three digits."""
    return "any" if isinf(epochs) else f"{float(f'{ceil(epochs):.3g}'):.0f}"
