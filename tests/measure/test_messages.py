from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.measure import messages, stepwise


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "the process sent ``, which is no message"),
        (b"Segmentation\x1b[2J", r"the process sent `Segmentation\x1b[2J`, which is no message"),
        (b"\xff\xfe", "which is no message"),
        (b"[" * 5000, "which is no message"),
        (b'["turn"]', "which is no message"),
        (b'["turn", null]', "the process sent a `turn` that cannot be read: Input should be"),
        (b'["turn", {"wall_s": -1, "losses": [1]}]', "wall_s: Input should be greater than 0"),
        (b'["turn", {"wall_s": NaN, "losses": [1]}]', "wall_s: Input should be"),
        (b'["fields", {"import_s": "soon"}]', "import_s: Input should be a valid number"),
        (b'["failed", "no"]', "a `failed` that cannot be read"),
        (b'["check", {"quantity": "luck"}]', "quantity: Input should be"),
    ],
)
def test_what_is_no_message_is_a_failure_with_a_reason(line: bytes, said: str) -> None:
    kind, (reason, details) = messages.read(line)
    assert kind == "failed"
    assert said in reason
    assert details == ""


def test_all_answers_of_a_training_are_known() -> None:
    said = set(re.findall(r'emit\("(\w+)"', Path(stepwise.__file__).read_text()))
    assert {"turn", "energy", "profiled"} <= said
    assert [kind for kind in said if messages.read(f'["{kind}", 1]'.encode())[0] == "unknown"] == []


def test_a_message_of_a_later_version_is_passed_over() -> None:
    assert messages.read(b'["heat", 80]')[0] == "unknown"
    # The driver says these itself.
    assert messages.read(b'["exit", ["", ""]]')[0] == "unknown"
    kind, value = messages.read(b'["turn", {"wall_s": 1, "losses": [NaN], "later": 1}]')
    assert kind == "turn"
    assert value.keys() == {"wall_s", "losses"}
