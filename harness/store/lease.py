"""The right to write to a folder that no system can lock: a file that its holder keeps renewing.

Whoever wants to take it over watches for a while whether it is renewed; so nobody's clock is
compared with anybody else's.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

from harness.errors import StoreError
from harness.measure.clock import now
from harness.store.files import Folder, Note, being_written

LOCK = ".lock"


@dataclass(frozen=True)
class Timing:
    """How long to wait for what of a place that may stop answering, in seconds."""

    answer_s: float = 10.0
    """For an answer, of which the size of a file may make more."""
    renew_s: float = 10.0
    """Between two renewals of a lease."""
    watch_s: float = 30.0
    """A holder who does not renew his lease for so long has lost it."""
    settle_s: float = 3.0
    """Longer than it takes a rival from his last look to his own claim."""


class Lease:
    """A lease on a folder, renewed by a thread until it is released or lost."""

    def __init__(self, folder: Folder, timing: Timing) -> None:
        """Prepare a lease; nobody holds it yet."""
        self._folder = folder
        self._timing = timing
        self._owner = uuid.uuid4().hex
        self._count = 0
        self._renewed = now()
        self._lost = self._anew = False
        self._busy = threading.Lock()
        self._ended = threading.Event()

    def claim(self) -> None:
        """Become the first holder. Raises `FileExistsError` if there is one."""
        try:
            self._folder.create(LOCK, self._content())
        except FileExistsError:
            # A request that seemed lost and was repeated finds what it wrote itself.
            if not self._is_mine(self._read()):
                raise
        self._start()

    def take(self, note: Note) -> None:
        """Become the holder, also after one who died. Raises `InvalidInput` if one lives."""
        try:
            self.claim()
        except FileExistsError:
            self._take_over(note)

    def confirm(self) -> bool:
        """Make sure that it is held still; see `harness.store.files.Hold`."""
        with self._busy:
            if not self._lost and now() - self._renewed > 1.5 * self._timing.renew_s:
                self._renew()
            if self._lost:
                raise StoreError(
                    f"`{self._folder.location}` was taken over by another process, or was removed: "
                    f"this one stops"
                )
            anew, self._anew = self._anew, False
        return anew

    def release(self) -> None:
        """Give it up, so that the next one need not wait."""
        self._ended.set()
        with self._busy, suppress(OSError):
            if self._is_mine(self._read()):
                self._folder.delete(LOCK)

    def _start(self) -> None:
        self._renewed = now()
        threading.Thread(target=self._keep, name="harness-lease", daemon=True).start()

    def _keep(self) -> None:
        while not self._ended.wait(self._timing.renew_s):
            with self._busy, suppress(OSError):  # Of a store that does not answer, others tell.
                if not self._lost and not self._ended.is_set():
                    self._renew()

    def _renew(self) -> None:
        found = self._read()
        self._count += 1
        if found is None and not self._exists():
            # The store has lost all it had, and nobody took this over: begin again.
            self._folder.create(LOCK, self._content())
            self._anew = True
        elif self._is_mine(found):
            self._folder.write(LOCK, self._content())
        else:
            self._lost = True
        self._renewed = now()

    def _take_over(self, note: Note) -> None:
        seen = self._read()
        note(
            f"`{self._folder.location}` is held by {_holder(seen)}; watching for "
            f"{self._timing.watch_s:g} s whether that still lives"
        )
        deadline = now() + self._timing.watch_s
        while now() < deadline:
            time.sleep(min(self._timing.renew_s / 4, self._timing.watch_s / 10))
            found = self._read()
            if found is None:  # Its holder has gone, and properly.
                return self.take(note)
            if found != seen:
                raise being_written(self._name())
        self._folder.write(LOCK, self._content())
        time.sleep(self._timing.settle_s)
        if not self._is_mine(self._read()):
            raise being_written(self._name())
        return self._start()

    def _name(self) -> str:
        return self._folder.location.rpartition("/")[2]

    def _exists(self) -> bool:
        try:
            self._folder.read("manifest.json")
        except FileNotFoundError:
            return False
        return True

    def _read(self) -> bytes | None:
        try:
            return self._folder.read(LOCK)
        except FileNotFoundError:
            return None

    def _is_mine(self, content: bytes | None) -> bool:
        return content is not None and self._owner.encode() in content

    def _content(self) -> bytes:
        content = {
            "owner": self._owner,
            "count": self._count,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        return json.dumps(content).encode()


def _holder(content: bytes | None) -> str:
    try:
        holder = json.loads(content or b"")
        return f"process {int(holder['pid'])} on `{str(holder['host'])[:100]}`"
    except (ValueError, TypeError, KeyError):
        return "another process"
