"""A terminal for programs under test: a pseudo-terminal, and what would be seen on it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import Self

from benchmarks.helpers.commands import ROOT

_TOKEN = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|[\r\n]|[^\x00-\x1f]+")


class Screen:
    """Understands what the live view may send, and nothing else: a test for that as well."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        """All that can be seen, and above it what has scrolled off."""
        self.cursor = True
        self.hidden = 0
        """How often the cursor was hidden."""
        self.styles: set[str] = set()
        """The parameters of every sequence that sets a style."""
        self._row = self._column = 0

    @property
    def shown(self) -> str:
        """What is to be seen."""
        return "\n".join(self.lines[-self.rows :])

    def feed(self, text: str) -> None:
        """Take what a program writes."""
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                # A sequence may have come in two parts.
                assert re.fullmatch(r"\x1b(\[\??[\d;]*)?", text[at:]), ascii(text[at : at + 20])
                break
            at = token.end()
            self._take(token)
        self._rest = text[at:]

    def resize(self, columns: int, rows: int) -> None:
        """Change the size. Rows that have become too long are broken, as most terminals do."""
        below = len(self.lines) - self._row
        self.lines = [
            line[start : start + columns]
            for line in map(str.rstrip, self.lines)
            for start in range(0, len(line) or 1, columns)
        ]
        self.columns, self.rows = columns, rows
        self._row = len(self.lines) - below
        self._column = min(self._column, len(self.lines[self._row]))

    def rest(self) -> str:
        """Return the beginning of a sequence of which the end has not come."""
        return self._rest

    def _take(self, token: re.Match[str]) -> None:
        private, number, final = token[1], token[2], token[3]
        match token[0], private, final:
            case "\r", _, _:
                self._column = 0
            case "\n", _, _:
                self._down()
            case _, "", "A":
                top = max(0, len(self.lines) - self.rows)
                self._row = max(top, self._row - int(number or 1))
            case _, "", "K":
                assert number == "2"
                self.lines[self._row] = ""
            case "\x1b[2J", _, _:
                self.lines[-self.rows :] = [""] * min(self.rows, len(self.lines))
            case "\x1b[H", _, _:
                self._row, self._column = max(0, len(self.lines) - self.rows), 0
            case _, "", "m":
                self.styles.add(number)
            case _, "?", "l" | "h":
                assert number == "25"
                self.cursor = final == "h"
                self.hidden += final == "l"
            case written, None, None:
                for character in written:
                    self._write(character)
            case unknown, _, _:
                raise AssertionError(ascii(unknown))

    def _write(self, character: str) -> None:
        if self._column == self.columns:
            self._column = 0
            self._down()
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")


class Terminal:
    """A program on a terminal of its own; killed if it is still there at the end."""

    def __init__(
        self, command: Sequence[str], columns: int = 80, rows: int = 24, **environment: str
    ) -> None:
        self.screen = Screen(columns, rows)
        self.output = ""
        self._pending = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._master, terminal = pty.openpty()
        _set_size(terminal, columns, rows)
        meddling = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
        inherited = {name: value for name, value in os.environ.items() if name not in meddling}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            # So that Ctrl-C reaches it.
            preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            env=inherited | {"TERM": "xterm-256color"} | environment,
        )
        os.close(terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def until(self, there: Callable[[str], bool], timeout_s: float = 100) -> str:
        """Wait until what is shown is what is waited for, and return it."""
        deadline = time.monotonic() + timeout_s
        while not there(self.screen.shown):
            assert time.monotonic() < deadline, self.screen.shown
            assert self._read(), f"it has ended:\n{self.screen.shown}"
        return self.screen.shown

    def end(self) -> int:
        """Wait until the program ends, and return its exit code."""
        while self._read():
            pass
        return self.process.wait(30)

    def press(self, keys: str) -> None:
        """Type something, when nothing is being written: the echo would end up inside of it."""
        while select.select([self._master], [], [], 0.1)[0] and self._read():
            pass
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal larger or smaller."""
        self.screen.resize(columns, rows)
        _set_size(self._master, columns, rows)

    def _read(self) -> bool:
        """Take what has been written; return whether the program may write more."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            received = os.read(self._master, 65536)
        except OSError:  # Nobody has the other end any more.
            return False
        text = self._decoder.decode(received)
        self.output += text
        self.screen.feed(self._pending + text)
        self._pending = self.screen.rest()
        return bool(received)


def _set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
