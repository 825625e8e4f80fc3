"""The results folder: `RESULTS/<run>/` with a manifest, a record per finished trial, and tables.

Records are the truth and are never changed; the tables are rebuilt from them. Every file is
written whole or not at all, so a kill at any moment loses no finished trial.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError, InvalidInput, StoreError, UnknownName
from harness.jobs import Certificate
from harness.plan import Plan
from harness.record import SCHEMA_VERSION, Record, SchemaVersion

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


class RunFolder:
    """The folder of a run that exists, for reading."""

    def __init__(self, results: Path, run: str) -> None:
        _check_run_id(run)
        self.path = results / run
        if not (self.path / "manifest.json").is_file():
            known = [folder.path.name for folder in run_folders(results)]
            raise UnknownName("run", run, known, hint=f" in `{results}`")

    def manifest(self) -> Manifest:
        """Read the manifest. Raises `InvalidInput` if it is not one of ours."""
        path = self.path / "manifest.json"
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, HarnessError) as error:
            refuse_newer(path, SCHEMA_VERSION)
            raise InvalidInput(f"`{path}` cannot be read as a manifest: {brief(error)}.") from error

    def count_records(self) -> int:
        """Return how many trials have finished, without reading them."""
        files = (self.path / "records").glob("*.json")
        return len({_ATTEMPT.sub("", path.stem) for path in files})

    def attempts(self) -> tuple[list[Record], list[str]]:
        """Read all records, in the order of the plan, and say which files are none of its.

        Raises `InvalidInput` at a record of a newer version: what it holds is no mistake.
        """
        plan = self.manifest().plan
        jobs = (job for block in plan.blocks() for job in block)
        order = {job.trial: number for number, job in enumerate(jobs)}
        records: list[Record] = []
        problems: list[str] = []
        for path in sorted((self.path / "records").glob("*.json")):
            try:
                record = Record.model_validate_json(path.read_bytes())
            except (OSError, ValidationError, HarnessError) as error:
                refuse_newer(path, SCHEMA_VERSION)
                problems.append(f"`{path}` is left out: it is not a whole record: {brief(error)}.")
                continue
            belongs = (record.run, record.task) == (plan.run, plan.task) and record.trial in order
            if not belongs or path.stem != _stem(record):
                problems.append(f"`{path}` is left out: it is no record of run `{plan.run}`.")
            else:
                records.append(record)
        return sorted(records, key=lambda r: (order[r.trial], r.attempt)), problems


def counting(attempts: Iterable[Record]) -> list[Record]:
    """Return of each trial the attempt that counts: the last one that was not lost.

    If all were lost, it is the last of those. `attempts` come in the order in which they were made.
    """
    last: dict[str, Record] = {}
    for record in attempts:
        if record.status != "lost" or last.get(record.trial, record).status == "lost":
            last[record.trial] = record
    return list(last.values())


def run_folders(results: Path) -> list[RunFolder]:
    """Return the runs in a results folder, by name."""
    return [
        RunFolder(results, path.parent.name) for path in sorted(results.glob("*/manifest.json"))
    ]


class RunWriter:
    """The folder of a run, held for writing by one process at a time."""

    def __init__(self, results: Path, manifest: Manifest, lock: IO[str]) -> None:
        self._manifest = manifest
        self._lock = lock
        self.path = results / manifest.plan.run

    @classmethod
    def create(cls, results: Path, manifest: Manifest) -> RunWriter:
        """Make the folder of a new run. Raises `InvalidInput` if it exists or cannot be written."""
        run = manifest.plan.run
        _check_run_id(run)
        try:
            results.mkdir(parents=True, exist_ok=True)
            (results / run).mkdir()
            (results / run / "records").mkdir()
            writer = cls(results, manifest, _lock(results / run))
            writer.update()
        except FileExistsError:
            raise InvalidInput(
                f"`{results / run}` exists already; if it is a run, finish it with "
                f"`--resume {run}`, or choose another `--run-id`."
            ) from None
        except (OSError, StoreError) as error:
            raise InvalidInput(
                f"the results folder `{results}` cannot be written: {error}."
            ) from error
        return writer

    @classmethod
    def resume(cls, results: Path, run: str) -> RunWriter:
        """Open the folder of a run that exists, to go on with it."""
        manifest = RunFolder(results, run).manifest()
        try:
            return cls(results, manifest, _lock(results / run))
        except OSError as error:
            raise InvalidInput(f"the run `{results / run}` cannot be written: {error}.") from error

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def manifest(self) -> Manifest:
        """What the run is."""
        return self._manifest

    @property
    def folder(self) -> RunFolder:
        """The same folder, for reading."""
        return RunFolder(self.path.parent, self.path.name)

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest."""
        self._manifest = self._manifest.model_copy(update=changes)
        write_whole(self.path / "manifest.json", self._manifest.model_dump_json(indent=1).encode())

    def add(self, record: Record) -> None:
        """Write the record of a finished trial; those of its earlier attempts stay.

        Raises `StoreError` if it cannot; the record is then kept in the folder for temporary files.
        """
        path = self.path / "records" / f"{_stem(record)}.json"
        content = record.model_dump_json(indent=1).encode()
        try:
            write_whole(path, content)
        except StoreError as error:
            try:
                refuge = Path(tempfile.mkdtemp(prefix=f"harness-{record.run}-")) / path.name
                refuge.write_bytes(content)
            except OSError as full:
                raise StoreError(
                    f"{error}; nor could the trial just finished be kept in the folder for "
                    f"temporary files ({full.strerror}): `--resume {record.run}` runs it again."
                ) from error
            raise StoreError(
                f"{error}; the trial just finished is kept as `{refuge}`: once there is room, "
                f"move it to `{path.parent}`, then `--resume {record.run}`."
            ) from error

    def set_aside(self) -> list[str]:
        """Rename each unreadable or foreign record, so that its trial can run; say so for each."""
        _, problems = self.folder.attempts()
        for problem in problems:
            path = Path(problem.split("`")[1])
            path.rename(path.with_suffix(".unreadable"))
        return problems

    def write_tables(self, tables: Mapping[str, DataFrame]) -> None:
        """Write each table as Parquet and as CSV."""
        for name, table in tables.items():
            write_whole(self.path / f"{name}.parquet", table.to_parquet(index=False))
            write_whole(self.path / f"{name}.csv", table.to_csv(index=False).encode())

    def discard(self) -> None:
        """Remove a run that has measured nothing."""
        shutil.rmtree(self.path)


def _stem(record: Record) -> str:
    """Return the name of a record's file: that of the trial, and `~2` at its second attempt."""
    return record.trial + (f"~{record.attempt}" if record.attempt > 1 else "")


def _check_run_id(run: str) -> None:
    if not _RUN_ID.fullmatch(run):
        raise InvalidInput(
            f"run id `{run}`: use letters, digits, `.`, `_` and `-`, at most 100, starting with a "
            f"letter or a digit."
        )


def _lock(path: Path) -> IO[str]:
    """Hold the run as long as the file returned is open, or this process lives."""
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InvalidInput(f"run `{path.name}` is being written by another process.") from None
    return lock


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and for good. Raises `StoreError`."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise StoreError(f"`{path}` cannot be written: {error.strerror}") from error


def refuse_newer(path: Path, known: int) -> None:
    """Raise `InvalidInput` if a newer version of the harness wrote the file."""
    try:
        version = json.loads(path.read_bytes())["schema_version"]
        newer = int(version) > known
    except (OSError, ValueError, TypeError, KeyError):
        return  # It is broken in some other way.
    if newer:
        raise InvalidInput(
            f"`{path}` was written by a newer version of the harness (schema {version}; this one "
            f"reads up to {known})."
        )


def brief(error: Exception) -> str:
    """Say in a few words why a file could not be read."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error).rstrip(".")
