"""Numbers as people read them."""

from __future__ import annotations

import pytest

from harness.tables.numbers import bound, percent, percentage, ratio


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percentage(999.0), "+99,900"),
        (percentage(0.049), "+4.9"),
        (percentage(12.345, "-"), "1,230"),
        (percent(0.02), "2 %"),
        (percent(0.999), "99.9 %"),
        (percent(1.0), "100 %"),
        (percent(12.345), "1,230 %"),
        (ratio(12.34), "12.3"),
        (ratio(100_000.0), "100,000"),
        (bound(-137.4), "-137"),
        (bound(1.94), "1.9"),
        (bound(0.0123), "0.012"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(text: str, expected: str) -> None:
    assert text == expected
