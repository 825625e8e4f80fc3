"""The log of a job comes from elsewhere."""

from __future__ import annotations

import pytest

from harness.cli.submit import show_log


def test_a_log_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_log("\x1b[36m(pid=7)\x1b[0m ended\n\tat 5 s\n\x1b]0;mine\x07\u202e")
    assert capsys.readouterr().out == "(pid=7) ended\n\tat 5 s\n\\x1b]0;mine\\x07\\u202e"
