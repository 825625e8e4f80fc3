"""What never answers is waited for so long and no longer."""

from __future__ import annotations

import threading

import pytest

from harness.dispatch.timeout import within


def test_an_answer_or_an_error_is_passed_on() -> None:
    assert within(60, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_silence_ends_with_an_error() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, never.wait)
    never.set()
