"""Numbers as text: how many digits they have, and in which unit they are."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Literal

_READABLE = 1e9
"""Larger numbers have an exponent."""


def number(value: float | None) -> str:
    """Return three significant digits: `0.0123`, `1.23`, `1234`, `5`; `-` if there is none."""
    if value is None or isnan(value):
        return "-"
    if float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short(value: float, missing: str = "-") -> str:
    """Return three significant digits, however large: `0.0123`, `1.23e+03`.

    For text and narrow views; tables show large numbers without an exponent (`number`).
    """
    return missing if isnan(value) else f"{value:.3g}"


def ratio(value: float) -> str:
    """Return a ratio to three digits: `0.98`, `1.02`, `12.3`, `123`, `1,230`."""
    return large(value) if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bound(value: float) -> str:
    """Return an end of an interval: two significant digits, `0.012`, but never less than `123`."""
    return f"{value:.2g}" if abs(value) < 10 else number(value)


def interval(low: float, high: float, text: Callable[[float], str] = number) -> str:
    """Return an interval as it follows a value: ` [0.98, 1.02]`; empty if it is unknown."""
    return "" if isnan(low) else f" [{text(low)}, {text(high)}]"


def no_interval(n: int, what: str) -> str:
    """Say why `n` values, each of a block or a seed, have no interval."""
    equal = f"{n} {what}s are equal" if n > 1 else f"one {what}"
    return f", {equal}: no interval"


def ratio_interval(low: float, high: float, text: Callable[[float], str] = number) -> str:
    """Return the interval of a ratio, or of a value above zero; not if it says nothing."""
    return " [too few]" if too_wide(low, high) else interval(low, high, text)


def too_wide(low: float, high: float) -> bool:
    """Whether an interval of a ratio spans a factor of a hundred or more: two values may do so."""
    return high >= 100 * low


def percent(share: float) -> str:
    """Return a share: `2 %`, `1,230 %`."""
    return f"{100 * share:.3g} %" if share < 1 else f"{large(100 * share)} %"


def large(value: float, sign: Literal["+", "-"] = "-") -> str:
    """Return three significant digits of a number of 100 or more: `123`, `100,000`."""
    if abs(value) >= _READABLE:
        return f"{value:{sign}.3g}"
    return f"{float(f'{value:.3g}'):{sign},.0f}"


def percentage(change: float, sign: Literal["+", "-"] = "+") -> str:
    """Return a change in per cent, without the unit: `+4.9`; `sign="-"` omits the plus."""
    value = 100 * change
    return f"{value:{sign}.1f}" if abs(value) < 1000 else large(value, sign)


def change(value: float) -> str:
    """Return a ratio as a change: `+4.9 %`; beyond a factor of two as a ratio: `3.10x`."""
    return f"{percentage(value - 1)} %" if 0.5 < value < 2 else f"{ratio(value)}x"


def duration(seconds: float) -> str:
    """Return an estimated duration: `12 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def exact_duration(seconds: float) -> str:
    """Return a duration as the command line takes it: `90s`, `10m`, `1h`."""
    for unit, name in ((3600, "h"), (60, "m")):
        if seconds >= unit and not seconds % unit:
            return f"{seconds / unit:g}{name}"
    return f"{seconds:g}s"
