"""Shares and durations as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inputs.quantities import fraction, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2%", 0.02),
        (" 2 % ", 0.02),
        ("0.02", 0.02),
        (".5", 0.5),
        ("150%", 1.5),
        ("0", 0),
        ("1e-3", 0.001),
    ],
)
def test_a_share(text: str, value: float) -> None:
    assert fraction(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "two", "-1%", "-0.1", "nan", "inf%", "2%%", "True"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a share as"):
        fraction(text)


def test_a_bare_number_that_could_be_either_is_refused() -> None:
    with pytest.raises(ValueError, match="`2%` or `200%`"):
        fraction("2")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("90s", 90),
        ("3m", 180),
        ("3 min", 180),
        ("1.5m", 90),
        ("1h30m", 5400),
        ("1h 30m 5s", 5405),
        ("250ms", 0.25),
    ],
)
def test_a_duration(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "m", "3 days", "-3m", "-1", "nan", "inf", "3m!", "1e999s", "٣ weeks", "9" * 500]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a duration as"):
        seconds(text)


@given(st.floats(0, 1, exclude_max=True))
def test_a_percentage_and_its_fraction_are_the_same(share: float) -> None:
    assert fraction(f"{100 * share!r}%") == pytest.approx(share)
    assert fraction(repr(share)) == share


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{hours}h{minutes}m{rest}s") == 3600 * hours + 60 * minutes + rest


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_a_sentence(text: str) -> None:
    for parse in (fraction, seconds):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert 0 <= value < float("inf")
