"""A lease: the right to write to a folder behind a URL, where no system has locks.

The lease is a file that its holder rewrites every few seconds. Another process takes it over after
it has watched for a while that the file does not change. So no clocks of two machines are compared.
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
from typing import TYPE_CHECKING

from harness.errors import StoreError, printable
from harness.inputs.bounded import MOST_BYTES
from harness.measure.clock import now
from harness.store.files import Notify, being_written
from harness.store.manifest import MANIFEST

if TYPE_CHECKING:
    from harness.store.remote import RemoteFolder

LOCK = ".lock"
_LARGEST = 2**16


@dataclass(frozen=True)
class Timing:
    """Timeouts and intervals of a store behind a network, in seconds."""

    answer_s: float = 10.0
    """Timeout of a request; large files get more."""
    renew_s: float = 10.0
    """Between two renewals of a lease."""
    watch_s: float = 30.0
    """A holder that does not renew its lease for so long has lost it."""
    settle_s: float = 3.0
    """Wait after taking over: longer than a rival takes from its last look to its own claim."""


class Lease:
    """A lease on a folder, renewed by a thread until it is released or lost."""

    def __init__(self, folder: RemoteFolder, timing: Timing) -> None:
        """Prepare a lease, which nobody holds yet."""
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
            # A client that repeats a request finds the file that its first request wrote.
            if not self._is_mine(self._read()):
                raise
        self._start()

    def take(self, notify: Notify) -> None:
        """Become the holder, also after one that died. Raises `InvalidInput` if it lives."""
        try:
            self.claim()
        except FileExistsError:
            self._take_over(notify)

    def confirm(self) -> bool:
        """Check that this process still holds it.

        Returns whether the store lost all files, and it is now held anew. Raises `StoreError` if
        another process took over, `OSError` if the store does not answer.
        """
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
        """Remove the file, so that the next process need not watch it."""
        self._ended.set()
        with self._busy, suppress(OSError):
            if self._is_mine(self._read()):
                self._folder.delete(LOCK)

    def _start(self) -> None:
        self._renewed = now()
        threading.Thread(target=self._keep, name="harness-lease", daemon=True).start()

    def _keep(self) -> None:
        while not self._ended.wait(self._timing.renew_s):
            # `confirm` tries again, and raises if the store does not answer.
            with self._busy, suppress(OSError):
                if not self._lost and not self._ended.is_set():
                    self._renew()

    def _renew(self) -> None:
        found = self._read()
        self._count += 1
        if self._is_mine(found):
            self._folder.write(LOCK, self._content())
        elif found is None and self._read(MANIFEST) is None:
            # The store has lost all its files, and nobody has taken over: begin again.
            self._folder.create(LOCK, self._content())
            self._anew = True
        else:
            self._lost = True
        self._renewed = now()

    def _take_over(self, notify: Notify) -> None:
        seen = self._read()
        notify(
            f"`{self._folder.location}` is held by {_holder(seen)}; watching for "
            f"{self._timing.watch_s:g} s whether that still lives"
        )
        deadline = now() + self._timing.watch_s
        while now() < deadline:
            time.sleep(min(self._timing.renew_s / 4, self._timing.watch_s / 10))
            found = self._read()
            if found is None:  # Its holder has released it.
                return self.take(notify)
            if found != seen:
                raise being_written(self._folder.name)
        self._folder.write(LOCK, self._content())
        time.sleep(self._timing.settle_s)
        if not self._is_mine(self._read()):
            raise being_written(self._folder.name)
        return self._start()

    def _read(self, name: str = LOCK) -> bytes | None:
        try:
            return self._folder.read(name, _LARGEST if name == LOCK else MOST_BYTES)
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
        return f"process {int(holder['pid'])} on `{printable(str(holder['host'])[:100])}`"
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return "another process"
