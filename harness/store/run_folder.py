"""The results: `RESULTS/<run>/` with a manifest, a record per finished trial, and tables.

Records are the truth and are never changed; the tables are rebuilt from them. Every file is
written whole or not at all, so a kill at any moment loses no finished trial. `RESULTS` is a local
path or a URL (`harness.store.results_folder`).
"""

from __future__ import annotations

import gc
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError, InvalidInput, StoreError, UnknownName, brief
from harness.store.files import Files, Folder, Hold, Note, reason, silence
from harness.store.outbox import MANIFEST, RECORDS, Outbox, outbox_of
from harness.store.results_folder import open_folder
from harness.trial.events import Certificate
from harness.trial.plan import Plan
from harness.trial.record import SCHEMA_VERSION, Record, SchemaVersion

if TYPE_CHECKING:
    from pandas import DataFrame

_ATTEMPT = re.compile(r"~\d+$")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Manifest(BaseModel):
    """What a run is: its plan, where it was started, and who passed parity."""

    model_config = ConfigDict(frozen=True)

    schema_version: SchemaVersion = SCHEMA_VERSION
    started_utc: str
    finished_utc: str | None = None
    plan: Plan
    environment: dict[str, str]
    parity: tuple[Certificate, ...] = ()


class RunExists(InvalidInput):
    """There is something of that name among the results."""


class RunFolder:
    """The folder of a run that exists, for reading."""

    def __init__(self, files: Files) -> None:
        self._files = files

    @property
    def location(self) -> str:
        """Where it is: a path or a URL."""
        return self._files.location

    @property
    def name(self) -> str:
        """The id of the run."""
        return self.location.replace("\\", "/").rpartition("/")[2]

    def manifest(self) -> Manifest:
        """Read the manifest. Raises `InvalidInput` if it is not one of ours."""
        where, content = self._files.file(MANIFEST), b""
        try:
            content = self._files.read(MANIFEST)
            return Manifest.model_validate_json(content)
        except OSError as error:
            raise InvalidInput(f"`{where}` cannot be read: {reason(error)}.") from error
        except (ValidationError, HarnessError) as error:
            refuse_newer(where, content, SCHEMA_VERSION)
            raise InvalidInput(
                f"`{where}` cannot be read as a manifest: {brief(error)}."
            ) from error

    def names(self, folder: str) -> list[str]:
        """Return the files in one of its folders. Raises `InvalidInput`."""
        with _reading(self.location):
            return self._files.names(folder, "")

    def read(self, name: str) -> bytes | None:
        """Read one of its files, None if there is none. Raises `InvalidInput`."""
        with _reading(self.location):
            try:
                return self._files.read(name)
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file that is made from the records, as the tables are. Raises `StoreError`.

        That takes no hold: it may be done while the run goes on, and done again.
        """
        try:
            self._files.write(name, content)
        except OSError as error:
            where = self._files.file(name)
            raise StoreError(f"`{where}` cannot be written: {reason(error)}") from error

    def count_records(self) -> int:
        """Return how many trials have finished, without reading them."""
        with _reading(self.location):
            return len({_ATTEMPT.sub("", _stem_of(name)) for name in self._record_files()})

    def attempts(self) -> tuple[list[Record], list[str]]:
        """Read all records, and say which files are none of the run's.

        They come in the order of the plan, those of one trial in the order of its attempts. Raises
        `InvalidInput` at a record of a newer version (what it holds is no mistake), or if the
        store does not answer.
        """
        records, problems = self._read()
        return records, list(problems.values())

    def not_records(self) -> dict[str, str]:
        """Return the names of the files among the records that are none, and say why."""
        return self._read()[1]

    def _record_files(self) -> list[str]:
        return self._files.names(RECORDS, ".json")

    def _read(self) -> tuple[list[Record], dict[str, str]]:
        plan = self.manifest().plan
        order = {trial: number for number, trial in enumerate(plan.trials())}
        tasks = plan.tasks
        records: list[Record] = []
        problems: dict[str, str] = {}
        with _reading(self.location), _no_collection():
            for name, content in self._files.read_many(self._record_files()):
                try:
                    record = _parse(self._files, name, content)
                except _NoRecord as error:
                    problems[name] = (
                        f"`{self._files.file(name)}` is left out: it is not a whole record: "
                        f"{brief(error)}."
                    )
                    continue
                belongs = record.run == plan.run and record.task in tasks
                if belongs and record.trial in order and _stem_of(name) == _stem(record):
                    records.append(record)
                else:
                    problems[name] = (
                        f"`{self._files.file(name)}` is left out: it is no record of run "
                        f"`{plan.run}`."
                    )
        records.sort(key=lambda record: (order[record.trial], record.attempt))
        return records, problems


def counting(attempts: Iterable[Record]) -> list[Record]:
    """Choose the records that count: those of the last go of a block, and the last attempt of each.

    So a block counts whole or not at all, and what is compared was measured on one node, one after
    the other. `attempts` come in the order in which they were made.
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


def find_run(results: str | Path, run: str) -> RunFolder:
    """Return the folder of a run. Raises `UnknownName` if there is no such run."""
    folder = _run_folder(results, run)
    with _reading(folder.location):
        if not _is_run(folder):
            raise _unknown(results, run)
    return RunFolder(folder)


def run_folders(results: str | Path) -> list[RunFolder]:
    """Return the runs among results, by name."""
    folder = open_folder(results)
    with _reading(folder.location):
        runs = [folder.folder(name) for name in folder.folders() if _RUN_ID.fullmatch(name)]
        return [RunFolder(run) for run in runs if _is_run(run)]


class RunWriter:
    """The folder of a run, held for writing by one process at a time.

    In a store that may stop answering, it goes on without it (`harness.store.outbox`) and tells
    `note`. Leaving it as a context raises `StoreError` if not all could be delivered in the end.
    """

    def __init__(self, files: Files, hold: Hold, manifest: Manifest, note: Note) -> None:
        self._files = files
        self._hold = hold
        self._manifest = manifest
        self._note = note
        self._outbox = files if isinstance(files, Outbox) else None

    @classmethod
    def create(
        cls, results: str | Path, manifest: Manifest, note: Note = silence, numbered: bool = False
    ) -> RunWriter:
        """Make the folder of a new run; `numbered`: as `run-2`, `run-3`, ... if it exists.

        Raises `RunExists` if it exists, `InvalidInput` if it cannot be written.
        """
        plan, number = manifest.plan, 1
        while True:
            try:
                return cls._create(results, manifest, note)
            except RunExists:
                if not numbered:
                    raise
            number += 1
            renamed = plan.model_copy(update={"run": f"{plan.run}-{number}"})
            manifest = manifest.model_copy(update={"plan": renamed})

    @classmethod
    def _create(cls, results: str | Path, manifest: Manifest, note: Note) -> RunWriter:
        run = manifest.plan.run
        folder = _run_folder(results, run)
        try:
            if folder.may_stop_answering and _waits(folder):
                raise FileExistsError  # It has still to be delivered.
            hold = folder.claim()
        except FileExistsError:
            raise RunExists(
                f"`{folder.location}` exists already; if it is a run, finish it with "
                f"`--resume {run}`, or choose another `--run-id`."
            ) from None
        except OSError as error:
            raise _not_writable(results, error) from error
        try:
            folder.write(MANIFEST, _json(manifest))
            return cls(_writable(folder, hold, note), hold, manifest, note)
        except OSError as error:
            hold.release()
            raise _not_writable(results, error) from error

    @classmethod
    def resume(cls, results: str | Path, run: str, note: Note = silence) -> RunWriter:
        """Open the folder of a run that exists, to go on with it; what waits here is delivered."""
        folder = _run_folder(results, run)
        hold: Hold | None = None
        try:
            # One that the store has lost may be here still.
            lost = folder.may_stop_answering and _is_run(outbox_of(folder))
            if not _is_run(folder) and not lost:
                raise _unknown(results, run)
            hold = folder.hold(note)
            files = _writable(folder, hold, note)
            return cls(files, hold, RunFolder(files).manifest(), note)
        except BaseException as error:
            if hold is not None:
                hold.release()
            if isinstance(error, OSError):
                raise InvalidInput(
                    f"the run `{folder.location}` cannot be written: {reason(error)}."
                ) from error
            raise

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            waits = self._outbox.unsettled() if self._outbox else ""
            if waits and kind is None:
                raise StoreError(waits)
            if waits:
                self._note(waits)
        finally:
            if self._outbox:
                self._outbox.close()
            self._hold.release()

    @property
    def manifest(self) -> Manifest:
        """What the run is."""
        return self._manifest

    @property
    def name(self) -> str:
        """The id of the run."""
        return self._manifest.plan.run

    @property
    def location(self) -> str:
        """Where it is: a path or a URL."""
        return self._files.location

    @property
    def folder(self) -> RunFolder:
        """The same folder, for reading: with what waits to be delivered."""
        return RunFolder(self._files)

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest. Raises `StoreError`."""
        self._manifest = self._manifest.model_copy(update=changes)
        self._write(MANIFEST, _json(self._manifest))

    def add(self, record: Record) -> None:
        """Write the record of a finished trial; those of its earlier attempts stay.

        Raises `StoreError` if it cannot; the record is then kept on this machine.
        """
        name = f"{RECORDS}/{_stem(record)}.json"
        content = _json(record)
        try:
            self._write(name, content)
        except StoreError as error:
            if self._outbox and not self._outbox.full:
                raise
            raise _take_refuge(error, record, self._files.file(name), content) from error

    def set_aside(self) -> list[str]:
        """Rename each unreadable or foreign record, so that its trial can run; say so for each."""
        problems = self.folder.not_records()
        for name in problems:
            with self._writing(name):
                self._files.rename(name, name.removesuffix(".json") + ".unreadable")
        return list(problems.values())

    def settle(self) -> None:
        """Deliver what waits, in a minute at most. Raises `StoreError` if the run was lost."""
        if self._outbox:
            self._outbox.settle()

    def hurry(self) -> None:
        """Ask a store that does not answer once more, and then no more."""
        if self._outbox:
            self._outbox.hurry()

    def write_table(self, name: str, table: DataFrame) -> None:
        """Write a table as Parquet and as CSV. Raises `StoreError`."""
        write = self._outbox.write_derived if self._outbox else self._files.write
        for suffix, export in ((".parquet", table.to_parquet), (".csv", table.to_csv)):
            content = BytesIO()
            export(content, index=False)
            with self._writing(name + suffix):
                write(name + suffix, content.getvalue())

    def discard(self) -> None:
        """Remove a run that has measured nothing."""
        with suppress(OSError):
            self._files.remove()

    def _write(self, name: str, content: bytes) -> None:
        with self._writing(name):
            self._files.write(name, content)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self._files.file(name)
            raise StoreError(f"`{where}` cannot be written: {reason(error)}") from error


def _take_refuge(error: StoreError, record: Record, where: str, content: bytes) -> StoreError:
    """Keep a record in the folder for temporary files; return what to tell."""
    folder, _, name = where.rpartition("/")
    try:
        refuge = Path(tempfile.mkdtemp(prefix=f"harness-{record.run}-")) / name
        refuge.write_bytes(content)
    except OSError as full:
        return StoreError(
            f"{error}; nor could the trial just finished be kept in the folder for temporary "
            f"files ({full.strerror}): `--resume {record.run}` runs it again."
        )
    return StoreError(
        f"{error}; the trial just finished is kept as `{refuge}`: once there is room, move it to "
        f"`{folder}`, then `--resume {record.run}`."
    )


def _run_folder(results: str | Path, run: str) -> Folder:
    if not _RUN_ID.fullmatch(run):
        folder, _, name = run.rstrip("/").rpartition("/")
        if folder and _RUN_ID.fullmatch(name):
            raise InvalidInput(f"run id `{run}`: name the run alone, `{name} --results {folder}`.")
        raise InvalidInput(
            f"run id `{run}`: use letters, digits, `.`, `_` and `-`, at most 100, starting with a "
            f"letter or a digit."
        )
    return open_folder(results).folder(run)


def _writable(folder: Folder, hold: Hold, note: Note) -> Files:
    """Return the files of a run that is held, ready to be written. Raises `OSError`."""
    if not folder.may_stop_answering:
        return folder
    outbox = Outbox(folder, hold, note)
    outbox.load()
    return outbox


def _waits(folder: Folder) -> bool:
    """Whether files for a run wait on this machine."""
    outbox = outbox_of(folder)
    return _is_run(outbox) or bool(outbox.names(RECORDS, ".json"))


def _is_run(folder: Folder) -> bool:
    try:
        folder.read(MANIFEST)
    except FileNotFoundError:
        return False
    return True


def _unknown(results: str | Path, run: str) -> UnknownName:
    known = [folder.name for folder in run_folders(results)]
    return UnknownName("run", run, known, hint=f" in `{results}`")


def _not_writable(results: str | Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"the results folder `{results}` cannot be written: {reason(error)}.")


@contextmanager
def _reading(location: str) -> Iterator[None]:
    """Turn a place that cannot be read into `InvalidInput`."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"`{location}` cannot be read: {reason(error)}.") from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through what is only growing: a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _NoRecord(Exception):
    """A file holds no record."""


def _parse(files: Files, name: str, content: bytes | OSError) -> Record:
    """Read a record. Raises `_NoRecord`, or `InvalidInput` if it is of a newer version."""
    if isinstance(content, OSError):
        raise _NoRecord(reason(content)) from content
    try:
        return Record.model_validate_json(content)
    except (ValidationError, HarnessError) as error:
        refuse_newer(files.file(name), content, SCHEMA_VERSION)
        raise _NoRecord(brief(error)) from error


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=1).encode()


def _stem(record: Record) -> str:
    """Return the name of a record's file: that of the trial, and `~2` at its second attempt."""
    return record.trial + (f"~{record.attempt}" if record.attempt > 1 else "")


def _stem_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


def refuse_newer(where: str, content: bytes, known: int) -> None:
    """Raise `InvalidInput` if a newer version of the harness wrote the file."""
    try:
        version = json.loads(content)["schema_version"]
        newer = int(version) > known
    except (ValueError, TypeError, KeyError):
        return  # It is broken in some other way.
    if newer:
        raise InvalidInput(
            f"`{where}` was written by a newer version of the harness (schema {version}; this one "
            f"reads up to {known})."
        )
