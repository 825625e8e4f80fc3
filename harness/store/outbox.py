"""The folder of a run in a store that may stop answering, for the process that writes it.

Every file is first written to a folder of this machine, the outbox, and leaves it when it is
delivered. So an outage neither loses a measurement nor stops the measuring.
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

from harness.errors import StoreError, brief
from harness.measure.clock import now
from harness.store.files import Entry, Files, Kind, LocalFolder, Notify
from harness.store.manifest import MANIFEST, RECORDS
from harness.store.remote import Folder, Hold, RemoteFolder

_LINEAGE = "lineage.json"


@dataclass(frozen=True)
class Retries:
    """When a store that does not answer is tried again, in seconds."""

    pause_s: float = 1.0
    """After the first failure; doubled after each further one."""
    share: float = 0.1
    """The largest share of a run's time that goes into waiting for an answer."""
    longest_s: float = 300.0
    """The longest pause."""
    at_end_s: float = 60.0
    """How long to go on trying when all is measured."""


def outbox_of(run: Folder) -> LocalFolder:
    """Return the folder on this machine for files that wait for a run; it need not exist."""
    store = run.location.rpartition("/")[0]
    digest = hashlib.sha256(store.encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return LocalFolder(Path(cache) / "harness" / "outbox" / digest / run.name)


def waits_here(run: Folder) -> bool:
    """Whether files for a run wait on this machine."""
    outbox = outbox_of(run)
    return bool(outbox.names(RECORDS, ".json") or outbox.names("", MANIFEST))


class Outbox(Files):
    """The manifest and the records of a run that this process holds.

    What it reads is in memory: the files that the store has, and those that wait to be delivered.
    """

    def __init__(
        self, store: RemoteFolder, hold: Hold, notify: Notify, retries: Retries | None = None
    ) -> None:
        """Use a run's folder in the store. Raises `OSError` if the outbox cannot be made."""
        self.location = store.location
        self.store = store
        """The folder that everything is delivered to."""
        self._hold, self._notify = hold, notify
        self._retries = retries or Retries()
        self._here = outbox_of(store)
        _make_private(Path(self._here.location) / RECORDS)
        self._contents: dict[str, bytes] = {}
        self._waiting: set[str] = set()
        # Digests of the manifests that this process wrote since the last one that was delivered.
        # The store may have any of them; if it has another one, another process wrote it.
        self._lineage: list[str] = []
        self._failing = False
        self._pause_s, self._next_try = 0.0, 0.0

    def load(self) -> None:
        """Read the files in the store, and deliver those that an earlier process left here.

        Raises `OSError` if the store does not answer.
        """
        wanted = [MANIFEST, *self.store.names(RECORDS, ".json")]
        for name, content in self.store.read_many(wanted):
            if isinstance(content, bytes):  # Otherwise it has just been removed.
                self._contents[name] = content
        self._load_manifest()
        for name in self._here.names(RECORDS, ".json"):
            self._waiting.add(name)
            self._contents[name] = self._here.read(name)
        self._lineage = [_digest(self.read(MANIFEST))]
        self._deliver()

    def read(self, name: str, most: int = 0) -> bytes:
        """Return the content of a file, delivered or not; its size is known."""
        del most
        try:
            return self._contents[name]
        except KeyError:
            raise FileNotFoundError(self.file(name)) from None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield each name with its content."""
        return ((name, self.read(name)) for name in names)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, now or when the store answers again.

        Raises `StoreError` if another process took the run over, and `OSError` if the file can be
        kept neither there nor here.
        """
        self._contents[name] = content
        self._waiting.add(name)
        if name == MANIFEST:
            self._lineage.append(_digest(content))
        problem = self._keep(name)
        if now() >= self._next_try:
            self._try_to_deliver()
        if problem and name in self._waiting:
            raise OSError(f"the store does not answer, and on this machine: {problem}")

    def write_derived(self, name: str, content: bytes) -> None:
        """Write a file that can be made again, to the store or nowhere."""
        if self._waiting:
            raise OSError("the store does not answer")
        self._hold.confirm()
        self.store.write(name, content)

    def rename(self, old: str, new: str) -> None:
        """Rename a file in the store."""
        self.store.rename(old, new)
        del self._contents[old]

    def remove(self) -> None:
        """Remove the run from the store, and the files that wait for it."""
        self.store.remove()
        self._here.remove()

    @property
    def here(self) -> str:
        """The folder on this machine in which files wait."""
        return self._here.location

    def kept(self) -> set[str]:
        """Return the names of the files that are delivered, or wait on this machine."""
        here = {*self._here.names(""), *self._here.names(RECORDS)}
        return here | self._contents.keys() - self._waiting

    def skip_retries(self) -> None:
        """Try only once to deliver at the end."""
        self._retries = replace(self._retries, at_end_s=0.0)

    def deliver(self) -> None:
        """Try for a while to deliver what waits.

        Raises `StoreError` if some still waits then, or the run was taken over.
        """
        deadline = now() + self._retries.at_end_s
        self._pause_s = 0.0
        while self._waiting and not self._try_to_deliver() and now() < deadline:
            time.sleep(min(self._pause_s, self._retries.at_end_s / 10))
        if self._waiting:
            raise StoreError(self.undelivered)

    @property
    def undelivered(self) -> str:
        """A sentence about what waits; empty if nothing does."""
        if not self._waiting:
            return ""
        records = len(self._waiting - {MANIFEST})
        what = f"{records} record{'s' * (records > 1)}" if records else "its manifest"
        return f"`{self.location}` does not answer and lacks {what}, kept in `{self.here}`."

    def close(self) -> None:
        """Remove the outbox if nothing waits in it."""
        if not self._waiting:
            self._here.remove()

    def listing(self, folder: str, suffix: str) -> list[Entry]:
        """Return the files in a folder: as the store lists them, once all are delivered."""
        if not self._waiting:
            return self.store.listing(folder, suffix)
        return [
            Entry(name.removeprefix(f"{folder}/"), len(self._contents[name]), "")
            for name in self.names(folder, suffix)
        ]

    def _list(self, folder: str, kind: Kind) -> Iterable[str]:
        del kind  # It has no folders but the one with the records.
        start = f"{folder}/"
        return [name.removeprefix(start) for name in self._contents if name.startswith(start)]

    def _load_manifest(self) -> None:
        """Choose between the manifest that waits here and the one in the store."""
        try:
            here = self._here.read(MANIFEST)
            lineage = json.loads(self._here.read(_LINEAGE))
        except (FileNotFoundError, ValueError):
            return
        there = self._contents.get(MANIFEST)
        if there is None:
            self._notify(f"`{self.location}` was emptied: what waited here is delivered again.")
        if there is None or (there != here and _digest(there) in lineage):
            self._contents[MANIFEST] = here
            self._waiting.add(MANIFEST)

    def _try_to_deliver(self) -> bool:
        """Deliver all that waits; say whether the store has answered."""
        began, waited = now(), len(self._waiting)
        try:
            if self._hold.confirm():
                self._notify(f"`{self.location}` was emptied: everything is delivered again.")
                self._deliver_again()
            self._deliver()
        except OSError as error:
            self._back_off(error, now() - began)
            return False
        if self._failing:
            self._notify(
                f"`{self.location}` answers again: all that waited ({waited}) is delivered."
            )
        self._failing, self._pause_s, self._next_try = False, 0.0, 0.0
        return True

    def _back_off(self, error: OSError, spent_s: float) -> None:
        if not self._failing:
            self._notify(
                f"`{self.location}` does not answer ({brief(error)}): the run goes on; what it "
                f"measures waits in `{self._here.location}`."
            )
        if isinstance(error, FileNotFoundError):  # Not even the bucket exists: all is lost there.
            self._deliver_again()
        self._failing = True
        self._keep(MANIFEST)  # With it, the run can be begun again in a store that lost it.
        pause_s = max(2 * self._pause_s, self._retries.pause_s, spent_s / self._retries.share)
        self._pause_s = min(pause_s, self._retries.longest_s)
        self._next_try = now() + self._pause_s

    def _deliver(self) -> None:
        """Write what waits to the store, the manifest first. Raises `OSError`."""
        for name in sorted(self._waiting, key=lambda name: (name != MANIFEST, name)):
            if name == MANIFEST:
                self.store.write(name, self._contents[name])
            else:
                self._deliver_record(name)
            self._waiting.discard(name)
            self._drop(name)
        self._drop(MANIFEST)
        self._lineage = self._lineage[-1:]

    def _deliver_record(self, name: str) -> None:
        """Write a record to the store; one that another process wrote there stays."""
        try:
            self.store.create(name, self._contents[name])
        except FileExistsError:
            there = self.store.read(name)
            if there != self._contents[name]:
                self._notify(
                    f"`{self.file(name)}` is there already, from another process; the one that "
                    f"waited here is dropped."
                )
                self._contents[name] = there

    def _deliver_again(self) -> None:
        for name in self._contents.keys() - self._waiting:
            self._keep(name)
        self._waiting |= self._contents.keys()

    def _keep(self, name: str) -> str:
        """Write a file to the outbox; say why it cannot be, if so."""
        try:
            self._here.write(name, self._contents[name])
            if name == MANIFEST:
                self._here.write(_LINEAGE, json.dumps(self._lineage).encode())
        except OSError as error:
            return brief(error)
        return ""

    def _drop(self, name: str) -> None:
        with suppress(OSError):  # A file that is delivered twice does no harm.
            self._here.delete(name)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_private(folder: Path) -> None:
    """Make a folder and its missing parents, for this user alone."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
