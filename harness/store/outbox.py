"""The folder of a run in a store that may stop answering, for the one who writes to it.

What is written is first kept in a folder of this machine, the outbox, and leaves it when it is
delivered. So an outage costs nothing that was measured, nor stops the measuring.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import StoreError
from harness.measure.clock import now
from harness.store.files import Folder, Hold, LocalFolder, Note, reason
from harness.store.manifest import MANIFEST, RECORDS

# Which manifests the store may hold that the one in the outbox is to replace.
_LINEAGE = "lineage.json"


@dataclass(frozen=True)
class Patience:
    """How often a store that does not answer is asked again, in seconds."""

    pause_s: float = 1.0
    """After the first time; doubled every time."""
    share: float = 0.1
    """Of the time of a run, at most so much is spent in waiting for an answer."""
    longest_s: float = 300.0
    at_end_s: float = 60.0
    """When all is measured, it is tried for so long."""


def outbox_of(run: Folder) -> LocalFolder:
    """Return the folder on this machine in which files for a run wait; it need not exist."""
    store, _, name = run.location.rpartition("/")
    digest = hashlib.sha256(store.encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return LocalFolder(Path(cache) / "harness" / "outbox" / digest / name)


def waits_here(run: Folder) -> bool:
    """Whether files for a run wait on this machine."""
    outbox = outbox_of(run)
    return bool(outbox.names(RECORDS, ".json") or outbox.names("", MANIFEST))


class Outbox:
    """Reads and writes the manifest and the records of a run that is held."""

    may_stop_answering = True

    def __init__(
        self, store: Folder, hold: Hold, note: Note, patience: Patience | None = None
    ) -> None:
        """Use a run's folder in the store. Raises `OSError` if there can be no outbox."""
        self._store, self._hold, self._note = store, hold, note
        self._patience = patience or Patience()
        self._here = outbox_of(store)
        _make_private(Path(self._here.location) / RECORDS)
        # What the run consists of: what the store has, and what it has still to get.
        self._known: dict[str, bytes] = {}
        self._waiting: set[str] = set()
        self._lineage: list[str] = []
        self._away = False
        self.full = False
        """The last file could be kept neither there nor here."""
        self._pause_s, self._next_try = 0.0, 0.0

    @property
    def location(self) -> str:
        """The URL of the run."""
        return self._store.location

    def file(self, name: str) -> str:
        """Return the URL of a file."""
        return self._store.file(name)

    def load(self) -> None:
        """Deliver what waits from an earlier go at the run, and read what the store has.

        Raises `OSError` if the store does not answer.
        """
        self._bring_up_manifest()
        for name in self._here.names(RECORDS, ".json"):
            self._deliver(name, self._here.read(name))
            self._here.delete(name)
        wanted = [MANIFEST, *self._store.names(RECORDS, ".json")]
        for name, content in self._store.read_many(wanted):
            if isinstance(content, bytes):  # Otherwise it has just gone.
                self._known[name] = content
        self._lineage = [_digest(self.read(MANIFEST))]

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the files of a folder, delivered or not."""
        under = [name for name in self._known if name.startswith(f"{folder}/")]
        return sorted(name for name in under if name.endswith(suffix))

    def read(self, name: str) -> bytes:
        """Return what is in a file, delivered or not."""
        try:
            return self._known[name]
        except KeyError:
            raise FileNotFoundError(self.file(name)) from None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield what is in each file."""
        for name in names:
            yield name, self.read(name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, now or when the store answers again.

        Raises `StoreError` if another process took the run over, or if it can be kept neither
        there nor here.
        """
        self._known[name] = content
        self._waiting.add(name)
        if name == MANIFEST:
            self._lineage.append(_digest(content))
        kept = self._keep(name)
        if now() >= self._next_try:
            self._try_to_deliver()
        self.full = bool(kept) and name in self._waiting
        if self.full:
            raise StoreError(f"`{self.file(name)}` cannot be written, nor kept here: {kept}")

    def write_derived(self, name: str, content: bytes) -> None:
        """Write a file that can be rebuilt: there or nowhere."""
        if self._waiting:
            raise OSError("the store does not answer")
        self._hold.confirm()
        self._store.write(name, content)

    def rename(self, old: str, new: str) -> None:
        """Rename a file in the store."""
        self._store.rename(old, new)
        del self._known[old]

    def remove(self) -> None:
        """Remove the run from the store, and what waits for it."""
        self._store.remove()
        self._here.remove()

    def hurry(self) -> None:
        """Try once when it is to be settled, not for a while."""
        self._patience = replace(self._patience, at_end_s=0.0)

    def settle(self) -> None:
        """Deliver what waits, and try for a while to. Raises `StoreError` if the run was lost."""
        deadline = now() + self._patience.at_end_s
        self._pause_s = 0.0
        while self._waiting and not self._try_to_deliver() and now() < deadline:
            time.sleep(min(self._pause_s, self._patience.at_end_s / 10))

    def unsettled(self) -> str:
        """Say what waits and what to do about it; an empty text if nothing waits."""
        records = sum(name != MANIFEST for name in self._waiting)
        if not self._waiting:
            return ""
        run = self.location.rpartition("/")[2]
        return (
            f"{records} records are not in `{self.location}`: they wait in "
            f"`{self._here.file(RECORDS)}`; when it answers, `--resume {run}` delivers them"
        )

    def close(self) -> None:
        """Leave the outbox, which goes if nothing is in it."""
        if not self._waiting:
            with suppress(OSError):
                self._here.remove()

    def _try_to_deliver(self) -> bool:
        """Deliver all that waits; say whether the store has answered."""
        began, waited = now(), len(self._waiting)
        try:
            if self._hold.confirm():
                self._note(f"`{self.location}` was emptied: everything is delivered again.")
                self._all_waits()
            for name in sorted(self._waiting, key=lambda name: (name != MANIFEST, name)):
                self._deliver(name, self._known[name])
                self._waiting.discard(name)
                self._drop(name)
        except OSError as error:
            self._back_off(error, now() - began)
            return False
        self._lineage = self._lineage[-1:]
        if self._away:
            self._note(f"`{self.location}` answers again: all that waited ({waited}) is delivered.")
            self._drop(MANIFEST)
        self._away, self._pause_s, self._next_try = False, 0.0, 0.0
        return True

    def _back_off(self, error: OSError, spent_s: float) -> None:
        if not self._away:
            self._note(
                f"`{self.location}` does not answer ({reason(error)}): the run goes on; what it "
                f"measures waits in `{self._here.location}`."
            )
        if isinstance(error, FileNotFoundError):  # Not even the bucket: what it had is lost.
            self._all_waits()
        self._away = True
        self._keep(MANIFEST)  # With it, the run can be begun again in a store that lost it.
        patience = self._patience
        pause_s = max(2 * self._pause_s, patience.pause_s, spent_s / patience.share)
        self._pause_s = min(pause_s, patience.longest_s)
        self._next_try = now() + self._pause_s

    def _deliver(self, name: str, content: bytes) -> None:
        if name == MANIFEST:
            self._store.write(name, content)
            return
        try:
            self._store.create(name, content)  # Records are never changed.
        except FileExistsError:
            there = self._store.read(name)
            if there != content:
                self._note(f"`{self.file(name)}` is there already: another one's is dropped.")
                self._known[name] = there

    def _all_waits(self) -> None:
        for name in self._known.keys() - self._waiting:
            self._keep(name)
        self._waiting |= self._known.keys()

    def _keep(self, name: str) -> str:
        """Write a file to the outbox; say why it cannot be, if so."""
        try:
            self._here.write(name, self._known[name])
            if name == MANIFEST:
                self._here.write(_LINEAGE, json.dumps(self._lineage).encode())
        except OSError as error:
            return reason(error)
        return ""

    def _drop(self, name: str) -> None:
        with suppress(OSError):  # Delivered twice is no harm.
            self._here.delete(name)

    def _bring_up_manifest(self) -> None:
        """Write the manifest that waits, unless somebody changed the one in the store."""
        try:
            waiting = self._here.read(MANIFEST)
            lineage = json.loads(self._here.read(_LINEAGE))
        except (FileNotFoundError, ValueError):
            return
        try:
            there = self._store.read(MANIFEST)
        except FileNotFoundError:
            self._note(f"`{self.location}` was emptied: what waited here is delivered again.")
            self._store.write(MANIFEST, waiting)
        else:
            if there != waiting and _digest(there) in lineage:
                self._store.write(MANIFEST, waiting)
        self._here.delete(MANIFEST)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_private(folder: Path) -> None:
    """Make a folder and its parents, those of the harness for this user alone."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
