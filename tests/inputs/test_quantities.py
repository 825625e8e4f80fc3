"""Shares and durations as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inputs.quantities import fraction, integer, number, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5", 5), (" 5 ", 5), ("+5", 5), ("-5", -5), ("0020", 20), ("5.0", 5), ("5.", 5)),
        *(("1e2", 100), ("1E+2", 100), ("100e-2", 1), (".5e1", 5)),
    ],
)
def test_a_number_without_a_fraction(text: str, value: int) -> None:
    assert (number(text), integer(text)) == (value, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0x10", 16), ("-0o17", -15), ("0b11", 3), ("1_000", 1000), ("1:40", 100)),
        *(("-1:40:00", -6000), ("1:40.5", 100.5)),
        *(("\u0663", 3), ("\uff15.5", 5.5), ("\N{MINUS SIGN}5", -5)),
    ],
)
def test_what_is_a_number_elsewhere_is_refused_with_its_value(text: str, value: float) -> None:
    for parse, kind in ((number, "number"), (integer, "integer")):
        with pytest.raises(ValueError, match=rf"should be a valid {kind}; some .* read {value:g} "):
            parse(text)


@pytest.mark.parametrize(
    "text", ["", "+", ".", "e5", "1e", "1,5", "1 000", "1/2", "yes", "2024-01-01", "1:99"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^should be a valid number$"):
        number(text)


@pytest.mark.parametrize("text", ["nan", "-inf", ".inf", "Infinity", "1e400", "9" * 5000])
def test_numbers_are_finite(text: str) -> None:
    for parse in (number, integer):
        with pytest.raises(ValueError, match="should be a finite number"):
            parse(text)


def test_an_integer_has_no_fraction_and_is_exact() -> None:
    with pytest.raises(ValueError, match="without a fraction"):
        integer("5.5")
    with pytest.raises(ValueError, match="is too large"):
        integer("9007199254740993")


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_an_integer_is_read_exactly(value: int) -> None:
    assert integer(str(value)) == integer(f"{value}.000") == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_exactly(value: float) -> None:
    assert number(repr(value)) == value


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


@pytest.mark.parametrize(
    "text", ["", "%", "two", "-1%", "-0.1", "nan", "inf%", "2%%", "True", "1_0%", "\u0663%"]
)
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
    "text",
    ["", "m", "3 days", "-3m", "-1", "nan", "inf", "3m!", "1e999s", "1_0", "9" * 500, "\u0663m"],
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
    for parse in (fraction, seconds, number, integer):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert abs(value) < float("inf")
