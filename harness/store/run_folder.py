"""The folder of a run, for reading: its manifest, its records, and what is made of them.

Records are the truth and never change; tables and report can be made from them again.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import HarnessError, InvalidInput, StoreError, brief, explained, printable
from harness.inputs.bounded import MOST_BYTES
from harness.inputs.bounded_json import from_json
from harness.store.manifest import (
    MANIFEST,
    RECORDS,
    Manifest,
    parse_manifest,
    refuse_newer,
)
from harness.store.outbox import Outbox
from harness.store.remote import Folder
from harness.trial.places import Places
from harness.trial.plan import Plan
from harness.trial.record import Record

_ATTEMPT = re.compile(r"~\d+$")


@dataclass(frozen=True)
class RunContents:
    """The manifest and the records of a run, all read at one time."""

    manifest: Manifest
    attempts: list[Record]
    """All records: trials in the order of the plan, attempts at one trial in their order."""
    problems: dict[str, str]
    """Files among the records that are not records of this run; a sentence says why."""


class Listing(NamedTuple):
    """The records of a run as their folder lists them."""

    records: int
    size: int
    """Of all together, in bytes."""
    checksum: str
    """Of their names, sizes and dates."""


class RunFolder:
    """The folder of a run that exists, for reading. Raises `InvalidInput` if that fails."""

    def __init__(self, files: Folder | Outbox) -> None:
        self._files = files
        self._manifest: bytes | None = None

    @property
    def location(self) -> str:
        """The path or URL of the folder."""
        return self._files.location

    @property
    def name(self) -> str:
        """The id of the run."""
        return self._files.name

    def exists(self) -> bool:
        """Whether there is a manifest, which is then read once for all."""
        with self._reading(MANIFEST):
            try:
                self._manifest = self._files.read(MANIFEST)
            except FileNotFoundError:
                return False
        return True

    def manifest(self) -> Manifest:
        """Return the manifest."""
        with self._reading(MANIFEST):
            content = self._files.read(MANIFEST) if self._manifest is None else self._manifest
        return parse_manifest(self._files.file(MANIFEST), content)

    def load(self, manifest: Manifest | None = None) -> RunContents:
        """Read all records, and the manifest if it is not known; a bad record is a problem only.

        Raises `InvalidInput` at a record of a newer version, too: it is not broken.
        """
        manifest = manifest or self.manifest()
        reader = RecordReader(manifest.plan)
        problems: dict[str, str] = {}
        with self._reading(), _no_garbage_collection():
            for name, content in self._files.read_many(self._record_files()):
                where = self._files.file(name)
                try:
                    reader.add(content, stem=_stem_of(name))
                except NotARecord as error:
                    if isinstance(content, bytes):
                        refuse_newer(where, content)
                    problems[name] = f"`{printable(where)}` is left out: {error}."
        return RunContents(manifest, reader.records(), problems)

    def count_records(self, plan: Plan) -> int:
        """Return how many trials of the plan have finished, without reading their records."""
        with self._reading():
            found = {_ATTEMPT.sub("", _stem_of(name)) for name in self._record_files()}
        return len(found & plan.names) if found else 0

    def record(self, trial: str, attempt: int) -> Record | None:
        """Return the record of an attempt at a trial; None if there is none."""
        try:
            return from_json(Record, self._files.read(f"{RECORDS}/{_stem(trial, attempt)}.json"))
        except (ValueError, HarnessError, OSError):
            return None

    def listing(self, seed: bytes) -> Listing:
        """Return what a look at the names of all records says."""
        with self._reading():
            entries = self._files.listing(RECORDS, ".json")
        checksum = _checksum(seed, (f"{entry}".encode() for entry in entries))
        return Listing(len(entries), sum(entry.size for entry in entries), checksum)

    def contents(self, seed: bytes) -> str:
        """Return a checksum of all records. Raises `InvalidInput` if one cannot be read."""
        with self._reading():
            return _checksum(seed, self._contents())

    def _contents(self) -> Iterator[bytes]:
        for name, content in self._files.read_many(self._record_files()):
            if isinstance(content, OSError):
                raise content
            yield os.fsencode(name)
            yield content

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of the run, as `folder/file`."""
        with self._reading():
            return self._files.names(folder, "")

    def read(self, name: str, most: int = MOST_BYTES) -> bytes | None:
        """Return the content of a file of at most so many bytes; None if there is no such file."""
        with self._reading():
            try:
                return self._files.read(name, most)
            except FileNotFoundError:
                return None

    def write(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files that are made from the records, such as the report. Raises `StoreError`.

        It needs no lock: they may be written while the run goes on, and again.
        """
        with explained(StoreError, f"`{self.location}` cannot be written"):
            self._files.refuse_links()
        for name, content in files:
            with explained(StoreError, f"`{self._files.file(name)}` cannot be written"):
                self._files.write(name, content)

    def _reading(self, name: str = "") -> AbstractContextManager[None]:
        where = self._files.file(name) if name else self.location
        return explained(InvalidInput, f"`{where}` cannot be read")

    def _record_files(self) -> list[str]:
        return self._files.names(RECORDS, ".json")


def _checksum(seed: bytes, parts: Iterable[bytes]) -> str:
    checksum = hashlib.blake2b(seed, digest_size=16)
    for part in parts:
        checksum.update(len(part).to_bytes(8, "big"))
        checksum.update(part)
    return checksum.hexdigest()


class NotARecord(Exception):
    """A file does not hold a record of the run; the text says why."""


class RecordReader:
    """Collects the records of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._places = Places(plan)
        self._records: dict[str, Record] = {}

    def add(self, content: bytes | OSError, stem: str | None = None) -> None:
        """Add a record, read from a file called `stem`.json. Raises `NotARecord`."""
        if isinstance(content, OSError):
            raise NotARecord(f"it is not a whole record: {brief(content)}") from content
        try:
            record = from_json(Record, content)
        except (ValueError, HarnessError) as error:
            raise NotARecord(f"it is not a whole record: {brief(error)}") from error
        if fault := self._places.fault(record):
            raise NotARecord(fault)
        own = stem_of(record)
        if stem not in {None, own}:
            raise NotARecord(f"it is the record of `{own}`")
        if own in self._records:
            raise NotARecord(f"another record of `{own}` is there")
        self._records[own] = record

    def records(self) -> list[Record]:
        """Return the records in the order of the plan and of the attempts."""
        return self._places.in_order(list(self._records.values()))


def counting(attempts: Iterable[Record]) -> list[Record]:
    """Return the records that count: each trial's last attempt, in the last `go` of its block.

    So a block counts whole or not at all, and what is compared was measured on one node at one
    time. `attempts` are in the order in which they were made.
    """
    attempts = list(attempts)
    last: dict[object, int] = {}
    for record in attempts:
        last[_part(record)] = max(record.go, last.get(_part(record), 0))
    counted = {r.trial: r for r in attempts if r.go == last[_part(r)]}
    return list(counted.values())


def _part(record: Record) -> object:
    """Return what is measured in one go: a block on a device, and if packed, a trial."""
    return record.trial if record.contended else (record.block, record.device)


def stem_of(record: Record) -> str:
    """Return the name of a record's file: that of the trial, and `~2` at its second attempt."""
    return _stem(record.trial, record.attempt)


def _stem(trial: str, attempt: int) -> str:
    return trial + (f"~{attempt}" if attempt > 1 else "")


def _stem_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare the collector a search of objects that only grow in number: a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
