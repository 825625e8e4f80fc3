"""Standard output and standard error, written as far as that is possible.

No command is interrupted because its output cannot be shown: what it has yet to do is done when a
pipe was closed early (`| head`) or a disk is full, and a character that the encoding lacks is
replaced by one like it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import TextIO

_ALIKE = (
    {"±": "+-", "×": "x", "…": "...", "≤": "<=", "≥": ">=", "†": "*"}  # noqa: RUF001
    | dict.fromkeys("─━═–—−", "-")  # noqa: RUF001
    | dict.fromkeys("│┃║", "|")
    | dict.fromkeys("┌┐└┘├┤┬┴┼", "+")
)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return characters of ASCII for those that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ALIKE.get(character, "?") for character in lacking), error.end


codecs.register_error("harness.alike", _replace)


class Stream(io.TextIOBase):
    """A standard stream that remembers the first error instead of raising it."""

    # It has no `buffer`: click would write UTF-8 into that of an ASCII stream.

    def __init__(self, file: TextIO) -> None:
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="harness.alike")
        self._file = file
        self.error: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the terminal or the pipe."""
        return self._file.encoding

    def fileno(self) -> int:
        """Return the number of the file."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._file.isatty()

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, text: str | bytes) -> int:
        """Write text, or drop it if the stream takes no more."""
        if isinstance(text, bytes):
            # With nothing, click asks whether this takes bytes. It would encode all text itself
            # then. Only the script that completes commands comes as bytes.
            if not text:
                raise TypeError("takes text")
            text = text.decode()
        try:
            return self._file.write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Send the rest to nowhere: what is buffered already, and the output of child processes."""
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)

    @property
    def problem(self) -> str:
        """Why not all could be written; empty also if the reader has gone, who knows that."""
        if self.error is None or self.error.errno == errno.EPIPE:
            return ""
        return self.error.strerror or str(self.error)


def guard() -> Stream:
    """Replace both streams; return standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file would get the number, and what a library prints.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    output = sys.stdout = Stream(sys.stdout or _nowhere())
    sys.stderr = Stream(sys.stderr or _nowhere())
    return output


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
