"""Text files in the encodings that editors write."""

from pathlib import Path

import pytest

from harness.inputs.text import read_text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, mark: bytes) -> None:
    file = tmp_path / "any"
    file.write_bytes(mark + "ξ,x\r\n1\n".encode())

    assert read_text(file) == "ξ,x\r\n1\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\nb\ncaf\xe9\n", r"the text is not UTF-8 \(byte 0xe9 in line 3\)"),
        (b"\xef\xbb\xbfcaf\xe9", r"the text is not UTF-8 \(byte 0xe9 in line 1\)"),
        ("a".encode("utf-16"), "the text is UTF-16; save it as UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "any"
    file.write_bytes(content)

    with pytest.raises(ValueError, match=reason):
        read_text(file)
