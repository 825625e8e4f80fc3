"""Numbers, shares and durations as people write them: `1e2`, `2%`, `0.02`, `90s`, `1h30m`."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from functools import reduce

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(rf"[-+]?{_DECIMAL}(?:[eE][-+]?[0-9]+)?")
_PART = re.compile(rf"({_DECIMAL})\s*(ms|min|[smh])\s*")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?")
_LONGEST = 100  # A search takes time in proportion to the square of the length.
_LARGEST = 2**53
"""Below it, every integer is a float."""


def number(text: str) -> float:
    """Return a decimal number; `1e2` and `0100` are 100.

    Raises `ValueError` for what is none or not finite, and says what other programs read there.
    """
    stripped = text.strip()
    if stripped.lower().strip("+-.") in {"inf", "infinity", "nan"}:
        raise ValueError("should be a finite number")
    if not _NUMBER.fullmatch(stripped):
        raise ValueError(f"should be a valid number{_elsewhere(stripped)}")
    if not math.isfinite(value := float(stripped)):
        raise ValueError("should be a finite number")
    return value


def integer(text: str) -> int:
    """Return a number without a fraction; `1e2` and `100.0` are 100. Raises `ValueError`."""
    try:
        value = number(text)
    except ValueError as error:
        raise ValueError(str(error).replace("valid number", "valid integer")) from None
    if not value.is_integer():
        raise ValueError("should be a valid integer, without a fraction")
    if abs(value) >= _LARGEST:
        raise ValueError("is too large")
    return int(value)


def _elsewhere(text: str) -> str:
    """Say which number Python or YAML 1.1 reads in a text that is none here; else nothing."""
    value: float | None = None
    # Documents are printed with a minus sign of their own.
    for read in (lambda t: int(t, 0), float, _in_sixties) if len(text) <= _LONGEST else ():
        with suppress(ValueError):
            value = read(text.replace("\N{MINUS SIGN}", "-"))
            break
    if value is None:
        return ""
    return f"; some programs read {value:.15g} here: write plain digits"


def _in_sixties(text: str) -> float:
    if not _SEXAGESIMAL.fullmatch(text):
        raise ValueError(text)
    sign = -1 if text.startswith("-") else 1
    parts = map(float, text.strip("+-").split(":"))
    return sign * reduce(lambda total, part: 60 * total + part, parts)


def fraction(text: str) -> float:
    """Return a share as a fraction: `2%` and `0.02` are 0.02.

    Raises `ValueError` for what is no number, is negative, or could mean either: a bare `2` might
    be 2 % or 200 %.
    """
    number = text.strip()
    percent = number.endswith("%")
    value = _finite(number.removesuffix("%"))
    if value is not None and value < 0:
        raise ValueError("should not be negative; write a share as `2%` or `0.02`")
    if value is None:
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
        return number(text)
    except ValueError:
        return None
