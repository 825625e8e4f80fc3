"""Shares and durations as people write them: `2%`, `0.02`, `90s`, `3m`, `1h30m`."""

from __future__ import annotations

import math
import re

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|min|[smh])\s*")
_LONGEST = 100  # A search takes time in proportion to the square of the length.


def fraction(text: str) -> float:
    """Return a share as a fraction: `2%` and `0.02` are 0.02.

    Raises `ValueError` for what is no number, is negative, or could mean either: a bare `2` might
    be 2 % or 200 %.
    """
    number = text.strip()
    percent = number.endswith("%")
    value = _finite(number.removesuffix("%"))
    if value is None or value < 0:
        raise ValueError("write a share as `2%` or `0.02`")
    if not percent and value >= 1:
        raise ValueError(f"write it with a percent sign: `{value:g}%` or `{100 * value:g}%`")
    return value / 100 if percent else value


def seconds(text: str) -> float:
    """Return a duration in seconds: `90`, `90s`, `1.5m` and `1m30s` are 90.

    Units: ms, s, m or min, h. Raises `ValueError` for anything else, negative ones included.
    """
    value = _finite(text)
    if value is None:
        value = _in_units(text.strip())
    if value is None or value < 0:
        raise ValueError("write a duration as `90s`, `3m` or `1h30m`")
    return value


def _in_units(text: str) -> float | None:
    parts = _PART.findall(text) if len(text) <= _LONGEST else []
    if not parts or _PART.sub("", text):
        return None
    total = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return total if math.isfinite(total) else None


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
