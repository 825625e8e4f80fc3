"""Text files that other programs wrote."""

from __future__ import annotations

import codecs
from pathlib import Path

from harness.inputs.bounded import MOST_BYTES, read_bytes

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""How files of gzip, bzip2, xz, zstd and zip begin."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Return the text of a UTF-8 file without its byte order mark; line ends stay as they are.

    Raises `OSError`, or `ValueError` with the reason if the file is not UTF-8.
    """
    return decoded(read_bytes(path, most))


def decoded(content: bytes) -> str:
    """Return the text of UTF-8. Raises `ValueError` as `read_text` does."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith(_UTF_16):
            raise ValueError("the text is UTF-16; save it as UTF-8") from None
        if content.startswith(_COMPRESSED):
            raise ValueError("the file is compressed; unpack it first") from None
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ValueError(f"the text is not UTF-8 (byte 0x{byte:02x} in line {line})") from None
