"""Tables as CSV."""

from __future__ import annotations

import re

import pandas as pd

# What a spreadsheet takes for a formula, and runs: not a number with its sign.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.,]+( ?%)?$)")


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV; an apostrophe goes before text that would be a formula elsewhere."""
    safe = table.copy(deep=False)
    for name in table.select_dtypes(["string", "object"]):
        if any(_is_formula(value) for value in table[name].unique()):
            safe[name] = table[name].map(lambda v: f"'{v}" if _is_formula(v) else v)
    return str(safe.to_csv(index=False))


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and _FORMULA.match(value) is not None
