"""Reading a file whose size somebody else decided."""

from __future__ import annotations

import os
from pathlib import Path

MOST_BYTES = 2**26
"""Of a file, unless its reader says otherwise: 64 MiB."""
SETTINGS_BYTES = 2**20
"""Of a file that a person writes."""
DATA_BYTES = 2**28
"""Of a file of numbers that another program wrote."""
_STEP = 2**20


class TooLarge(OSError):
    """A file holds more than may be read."""

    def __init__(self, most: int) -> None:
        super().__init__(f"it holds more than {most:,} bytes, which is the most that is read")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file that the user named, which may be a pipe. Raises `TooLarge` and other `OSError`.

    A link is followed: it is the user's own word.
    """
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        return read_open(number, most)
    finally:
        os.close(number)


def read_open(number: int, most: int = MOST_BYTES) -> bytes:
    """Read an open file to its end. Raises `TooLarge` before much more is in memory."""
    size = os.fstat(number).st_size
    if size > most:
        raise TooLarge(most)
    parts, total = [], 0
    while part := os.read(number, size + 1 if size else _STEP):
        parts.append(part)
        total += len(part)
        if total > most:
            raise TooLarge(most)
    return parts[0] if len(parts) == 1 else b"".join(parts)
