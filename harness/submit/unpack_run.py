"""Fetches a run from a cluster into a local results folder.

The run arrives as text from another machine. Its size is bounded before it is unpacked, and only
a valid manifest and records of its plan are taken from it. Files get their names from the plan.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter

from harness.errors import InvalidInput, StoreError, brief
from harness.inputs.bounded_json import from_json
from harness.inputs.commands import command, results_words
from harness.runs.results import Run
from harness.runs.session import finish
from harness.store.files import LocalFolder
from harness.store.manifest import Manifest, to_json
from harness.store.results_folder import open_folder, run_folder
from harness.store.run_folder import NotARecord, RecordReader, RunContents, RunFolder, stem_of
from harness.store.run_writer import RunWriter

_MOST_BYTES = 2**28
_MOST_PROBLEMS = 1000
_TEXT = TypeAdapter(str)


class _Header(BaseModel):
    packed: int = Field(ge=0, lt=2**63)
    unpacked: int = Field(ge=0, lt=2**63)
    sha256: str


def check_results(results: str, new_run: str | None = None) -> None:
    """Raise `InvalidInput` if a fetched run could not be written to the results folder.

    That is if the folder cannot be written, or contains a run called `new_run`.
    """
    folder = open_folder(results)
    if isinstance(folder, LocalFolder):
        path = Path(folder.location).absolute()
        parent = next(path for path in (path, *path.parents) if os.path.exists(path))
        if not os.access(parent, os.W_OK):
            raise InvalidInput(f"`--results {results}`: `{parent}` cannot be written.")
    if new_run is not None and RunFolder(run_folder(results, new_run)).exists():
        resume = command("run", "--resume", new_run, *results_words(results))
        raise InvalidInput(
            f"run `{new_run}` is in `{results}` already: `{resume}` goes on with it here, and as a "
            f"job the words `-- run --resume {new_run}`; or choose another `--run-id`."
        )


def unpack(log: str, run: str) -> RunContents | None:
    """Return the run that `harness.submit.pack_run` printed among other lines of a log.

    Returns None if it found no run. Raises `StoreError` if the text is not whole, or another run.
    """
    try:
        files = _files(log)
        if files is None:
            return None
        manifest = from_json(Manifest, next(files))
        if manifest.plan.run != run:
            raise StoreError(f"what arrived is not run `{run}` but `{manifest.plan.run}`.")
        reader = RecordReader(manifest.plan)
        problems: dict[str, str] = {}
        for number, content in enumerate(files, 1):
            try:
                reader.add(content)
            except NotARecord as error:
                problems[f"record {number}"] = f"a record is left out: {error}."
                if len(problems) > _MOST_PROBLEMS:
                    raise ValueError(f"{_MOST_PROBLEMS:,} of its records are none") from error
    except (ValueError, InvalidInput, zlib.error) as error:
        raise StoreError(f"what arrived of run `{run}` cannot be read: {brief(error)}.") from error
    return RunContents(manifest, reader.records(), problems)


def _files(log: str) -> Iterator[bytes] | None:
    """Return the content of each file, the manifest first. Raises `ValueError`, `zlib.error`."""
    lines = log.splitlines()
    headers = _without("packed run: ", lines)
    if len(headers) != 1:
        raise ValueError("there is no header, or more than one")
    if headers[0] == "{}":
        return None
    header = _Header.model_validate_json(headers[0])
    if header.packed > _MOST_BYTES or header.unpacked > _MOST_BYTES:
        raise ValueError(
            f"its records have {header.unpacked / 2**20:,.0f} MiB, and at most "
            f"{_MOST_BYTES / 2**20:.0f} are fetched: copy the run from the head, or give a job as "
            "large as this a URL (`-- run --results URL`)"
        )
    packed = base64.b64decode("".join(_without("packed run| ", lines)), validate=True)
    if len(packed) != header.packed or hashlib.sha256(packed).hexdigest() != header.sha256:
        raise ValueError("part of it is missing or was changed on the way")
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(packed, header.unpacked + 1)
    if len(content) != header.unpacked or not unpacking.eof:
        raise ValueError("it is larger than it says")
    return (_TEXT.validate_json(line).encode() for line in BytesIO(content))


def _without(prefix: str, lines: Sequence[str]) -> list[str]:
    """Return the lines that begin with a prefix, without it."""
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def save(fetched: RunContents, results: str | Path) -> Run:
    """Write the run to a results folder, or add what is new to the same run there.

    Raises `InvalidInput` if another run of that name is there, or the same with other results:
    neither is touched. Raises `StoreError` if a record cannot be written; `Run.unwritten` says what
    else could not.
    """
    run = fetched.manifest.plan.run
    writer, aside = _writer(fetched, results)
    with writer:
        writer.set_aside(aside)
        for record in fetched.attempts:
            writer.add(record)
        writer.update(**dict(fetched.manifest))
        unwritten = finish(writer, Run.of(writer.folder))
    saved = Run(run, results)
    saved.unwritten = unwritten
    return saved


def _writer(fetched: RunContents, results: str | Path) -> tuple[RunWriter, Iterable[str]]:
    """Return what writes the run, and the broken records that are there."""
    run = fetched.manifest.plan.run
    folder = RunFolder(run_folder(results, run))
    if not folder.exists():
        return RunWriter.create(results, fetched.manifest), ()
    here = folder.load()
    kept = "both are kept: the one that arrived, on the cluster"
    if here.manifest.started_utc != fetched.manifest.started_utc:
        raise InvalidInput(f"another run `{run}` is in `{results}` already; {kept}.")
    arrived = {stem_of(record): record for record in fetched.attempts}
    for record in here.attempts:
        same = arrived.get(stem_of(record))
        if same is None or to_json(same) != to_json(record):
            raise InvalidInput(
                f"run `{run}` in `{results}` was continued here, or has another result of "
                f"`{record.trial}`; {kept}."
            )
    return RunWriter.resume(results, run), here.problems
