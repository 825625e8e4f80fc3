"""What code may do to the world outside of a folder, seen by Python's audit events."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link"}
_STARTS = {"subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.system"}
_CONNECTS = {"socket.connect", "socket.getaddrinfo"}
# They take long to import, and what they do is no reading.
_HEAVY = {"ray", "torch", "jax", "mlflow"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Strayed(BaseException):
    """A file was changed outside of the folder, a program started or a connection made."""


class Began(BaseException):
    """A command was about to start its work: it had accepted its words."""


class _Bounds:
    """They hold while `watched` does; an audit hook cannot be removed."""

    inside: tuple[str, ...] = ()
    thread = 0
    starts = False
    programs: tuple[str, ...] = ()

    def look(self, event: str, values: tuple[Any, ...]) -> None:
        # Libraries have threads of their own, which outlive what started them.
        is_here = threading.get_ident() == self.thread
        if not self.inside or not (is_here or event in _STARTS):
            return
        if event in _CHANGES or (event == "open" and values[2] & _WRITES):
            if isinstance(values[0], str | bytes):
                self._check(os.path.abspath(os.fsdecode(values[0])))
        elif event in _CONNECTS or (event == "import" and values[0] in _HEAVY):
            self._stop(f"{event} {values[0]}")
        elif event in _STARTS and (event == "os.fork" or values[1][0] not in self.programs):
            self._stop(f"{event} {values[:2]}")

    def _check(self, path: str) -> None:
        if not path.startswith(self.inside) and "/__pycache__/" not in path:
            raise Strayed(f"writes {path}")

    def _stop(self, what: str) -> None:
        raise Began(what) if self.starts else Strayed(what)


_BOUNDS = _Bounds()
sys.addaudithook(_BOUNDS.look)


@contextmanager
def watched(folder: Path, starts: bool, programs: tuple[str, ...]) -> Iterator[None]:
    """Raise `Strayed` at what leaves the folder; `Began` if code that `starts` work does so.

    The `programs` may be started.
    """
    _BOUNDS.inside, _BOUNDS.starts = (f"{folder}/", "/dev/"), starts
    _BOUNDS.programs, _BOUNDS.thread = programs, threading.get_ident()
    try:
        yield
    finally:
        _BOUNDS.inside = ()
