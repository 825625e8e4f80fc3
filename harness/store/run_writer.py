"""The folder of a run, for writing: one process at a time holds it.

Every file is written whole or not at all, so a kill at any moment loses no finished trial.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from harness.errors import InvalidInput, StoreError, brief, explained
from harness.inputs.commands import command, run_words
from harness.store.files import LocalFolder, Notify
from harness.store.manifest import MANIFEST, RECORDS, Manifest, to_json
from harness.store.outbox import Outbox, outbox_of, waits_here
from harness.store.remote import Folder, Hold, RemoteFolder
from harness.store.rescue import Rescue, Rescued
from harness.store.results_folder import find_run, run_folder
from harness.store.run_folder import RunFolder, stem_of
from harness.trial.record import Record

_MOST_NUMBERED = 1000


def _silent(message: str) -> None:
    """Show the user nothing."""


class RunExists(InvalidInput):
    """There is something of that name among the results."""


class RunWriter:
    """The folder of a run, held for writing by one process at a time.

    If a store does not answer, `notify` is called and the files wait in an outbox
    (`harness.store.outbox`).
    """

    def __init__(self, files: LocalFolder | Outbox, hold: Hold, manifest: Manifest) -> None:
        """Write to `files`, until the end of the context releases `hold`."""
        self.manifest = manifest
        """The manifest as it was written last."""
        self.location = files.location
        """The path or URL of the folder."""
        self.is_empty = True
        """Whether no record was to be written."""
        self._files = files
        self._hold = hold
        self._outbox = files if isinstance(files, Outbox) else None
        # What is copied to the outbox is delivered by `--resume`.
        at_home = self._outbox.here if self._outbox else files.location
        self._rescue = Rescue(Path(at_home))

    @classmethod
    def create(
        cls,
        results: str | Path,
        manifest: Manifest,
        notify: Notify = _silent,
        numbered: bool = False,
    ) -> RunWriter:
        """Make the folder of a new run; `numbered`: as `run-2`, `run-3`, ... if it exists.

        Raises `RunExists` if it exists, `InvalidInput` if it cannot be written.
        """
        plan = manifest.plan
        for number in range(2, _MOST_NUMBERED if numbered else 2):
            try:
                return cls._create(results, manifest, notify)
            except RunExists:
                renamed = plan.model_copy(update={"run": f"{plan.run}-{number}"})
                manifest = manifest.model_copy(update={"plan": renamed})
        return cls._create(results, manifest, notify)

    @classmethod
    def _create(cls, results: str | Path, manifest: Manifest, notify: Notify) -> RunWriter:
        run = manifest.plan.run
        folder = run_folder(results, run)
        try:
            if isinstance(folder, RemoteFolder) and waits_here(folder):
                raise FileExistsError
            with ExitStack() as stack:
                hold = folder.claim()
                if isinstance(folder, LocalFolder):  # A store that failed would take long again.
                    stack.callback(folder.remove)
                stack.callback(hold.release)
                folder.write(MANIFEST, to_json(manifest))
                files = _loaded(folder, hold, notify)
                stack.pop_all()
                return cls(files, hold, manifest)
        except FileExistsError:
            finish = command("run", "--resume", *run_words(folder.location))
            raise RunExists(
                f"`{folder.location}` exists already; if it is a run, `{finish}` finishes it; or "
                "choose another `--run-id`."
            ) from None
        except OSError as error:
            raise InvalidInput(
                f"the results folder `{results}` cannot be written: {brief(error)}."
            ) from error

    @classmethod
    def resume(cls, results: str | Path, run: str, notify: Notify = _silent) -> RunWriter:
        """Find, hold and read a run, to go on with it; what waits on this machine is delivered.

        Raises `UnknownName` if there is no such run, `InvalidInput` if it cannot be written.
        """
        folder = run_folder(results, run)
        # A store may have lost a run that is still here.
        if not (isinstance(folder, RemoteFolder) and RunFolder(outbox_of(folder)).exists()):
            find_run(results, run)
        with (
            explained(InvalidInput, f"the run `{folder.location}` cannot be written"),
            ExitStack() as stack,
        ):
            hold = folder.hold(notify)
            stack.callback(hold.release)
            files = _loaded(folder, hold, notify)
            manifest = RunFolder(files).manifest()
            stack.pop_all()
            return cls(files, hold, manifest)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._outbox:
            self._outbox.close()
        self._hold.release()

    @property
    def name(self) -> str:
        """The id of the run."""
        return self.manifest.plan.run

    @property
    def folder(self) -> RunFolder:
        """The same folder for reading, with the files that wait to be delivered."""
        return RunFolder(self._files)

    @property
    def rescued(self) -> bool:
        """Whether files are kept elsewhere that the folder does not take."""
        return self._rescue.folder is not None

    @property
    def at_rest(self) -> RunFolder:
        """The same folder for reading after the end of the context."""
        return RunFolder(self._outbox.store if self._outbox else self._files)

    @property
    def undelivered(self) -> str:
        """A sentence about what waits for the store; empty if nothing does."""
        return self._outbox.undelivered if self._outbox else ""

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest. Raises `StoreError`."""
        self.manifest = self.manifest.model_copy(update=changes)
        self._write(MANIFEST, to_json(self.manifest))

    def add(self, record: Record) -> None:
        """Write the record of a finished trial; those of its earlier attempts stay.

        Raises `StoreError`.
        """
        self.is_empty = False
        self._write(_file_of(record), to_json(record))

    def restore(self, records: Iterable[Record]) -> None:
        """Write what the folder lacks of the manifest and the records. Raises `StoreError`."""
        for name, content in self._lacking(records).items():
            self._write(name, content)
        self._rescue.remove()

    def rescue(self, records: Iterable[Record]) -> Rescued | None:
        """Keep what the folder lacks of them elsewhere on this machine, if it lacks any."""
        lacking = self._lacking(records)
        if not lacking:
            return None
        return self._rescue.keep({**lacking, MANIFEST: to_json(self.manifest)})

    def _lacking(self, records: Iterable[Record]) -> dict[str, bytes]:
        try:
            names = {*self._files.names(""), *self._files.names(RECORDS)}
            kept = self._outbox.kept() if self._outbox else names
        except OSError:  # It cannot even be read.
            kept = set()
        whole = {MANIFEST: self.manifest, **{_file_of(record): record for record in records}}
        return {name: to_json(model) for name, model in whole.items() if name not in kept}

    def set_aside(self, names: Iterable[str]) -> None:
        """Rename broken or foreign records, so that their trials can run. Raises `StoreError`."""
        for name in names:
            with self._writing(name):
                self._files.rename(name, name.removesuffix(".json") + ".unreadable")

    def deliver(self) -> None:
        """Deliver what waits; try for a minute.

        Raises `StoreError` if some still waits, or the run was taken over.
        """
        if self._outbox:
            self._outbox.deliver()

    def skip_retries(self) -> None:
        """Let `deliver` try only once."""
        if self._outbox:
            self._outbox.skip_retries()

    def write_derived(self, name: str, content: bytes) -> None:
        """Write a file that can be made again from the records. Raises `StoreError`."""
        write = self._outbox.write_derived if self._outbox else self._files.write
        with self._writing(name):
            write(name, content)

    def discard(self) -> None:
        """Remove a run that has measured nothing."""
        self._hold.release()  # First: on NFS, an open file keeps its folder.
        with suppress(OSError):
            self._files.remove()

    def _write(self, name: str, content: bytes) -> None:
        with self._writing(name):
            self._files.write(name, content)

    def _writing(self, name: str) -> AbstractContextManager[None]:
        return explained(StoreError, f"`{self._files.file(name)}` cannot be written")


def _file_of(record: Record) -> str:
    return f"{RECORDS}/{stem_of(record)}.json"


def _loaded(folder: Folder, hold: Hold, notify: Notify) -> LocalFolder | Outbox:
    """Return the files of a run that is held: read, and what waited for it delivered."""
    if isinstance(folder, LocalFolder):
        return folder
    outbox = Outbox(folder, hold, notify)
    outbox.load()
    return outbox
