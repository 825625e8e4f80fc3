"""The points of a sweep: the rows of a table at each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.trial.record import Record


def points(
    table: pd.DataFrame, swept: Sequence[str]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield each point of a sweep and its rows; without swept fields, all rows at once.

    Numbers come in ascending order, names in the order of the table.
    """
    if not swept or table.empty:
        yield {}, table
        return
    groups: dict[tuple[Any, ...], pd.DataFrame] = dict(list(table.groupby(list(swept), sort=False)))
    columns = [list(dict.fromkeys(values)) for values in zip(*groups, strict=True)]
    orders = [v if any(isinstance(name, str) for name in v) else sorted(v) for v in columns]

    def position(point: tuple[Any, ...]) -> list[int]:
        return [order.index(value) for order, value in zip(orders, point, strict=True)]

    for point in sorted(groups, key=position):
        yield dict(zip(swept, point, strict=True)), groups[point].reset_index(drop=True)


def at_point(point: Mapping[str, Any]) -> str:
    """Return a point of a sweep as text: ` at hidden = 64, cell = gru`; "" without swept fields."""
    values = ", ".join(f"{name} = {value}" for name, value in point.items())
    return f" at {values}" if values else ""


def at_each_point(
    table: pd.DataFrame, swept: Sequence[str], build: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Build a table of the rows at each point of a sweep; the swept fields come first."""
    built = []
    for point, rows in points(table, swept):
        part = build(rows)
        for position, (name, value) in enumerate(point.items()):
            part.insert(position, name, value)
        built.append(part)
    return pd.concat(built, ignore_index=True) if built[1:] else built[0]


def with_point(
    table: pd.DataFrame,
    records: Sequence[Record],
    swept: Sequence[str],
    counts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Append a column for each swept field of the task; a record has `counts` rows, or one.

    A measured column with the name of a swept field becomes `..._trained`: `epochs_trained`.
    """
    table = table.rename(columns={name: f"{name}_trained" for name in swept})
    for name in swept:
        values = pd.Series([getattr(record.task, name) for record in records])
        table[name] = values if counts is None else values.repeat(list(counts)).to_numpy()
    return table
