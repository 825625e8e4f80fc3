"""Fetches a run from a cluster into a local results folder.

The run arrives as text from another machine. Its size is bounded before it is unpacked, and only
valid manifests and records are taken from it. Files get their names from the plan, not from it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import InvalidInput, StoreError, brief
from harness.inputs.bounded_json import from_json
from harness.runs.results import Run
from harness.runs.session import finish
from harness.store.files import LocalFolder
from harness.store.manifest import Manifest
from harness.store.results_folder import open_folder, run_folder
from harness.store.run_folder import NotARecord, RecordReader, RunContents, RunFolder
from harness.store.run_writer import RunWriter

_MAX_BYTES = 2**29
_TRIAL = re.compile(r"\w[\w.-]*")


class _Header(BaseModel):
    packed: int = Field(ge=0, le=_MAX_BYTES)
    unpacked: int = Field(ge=0, le=_MAX_BYTES)
    sha256: str


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    manifest: str
    records: list[str]


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
        raise InvalidInput(
            f"run `{new_run}` is in `{results}` already: go on with it by `--resume {new_run}`, or "
            "choose another `--run-id`."
        )


def unpack(log: str, run: str) -> RunContents | None:
    """Return the run that `harness.submit.pack_run` printed among other lines of a log.

    Returns None if it found no run. Raises `StoreError` if the text is not whole, or another run.
    """
    try:
        content = _content(log)
        if content is None:
            return None
        manifest = from_json(Manifest, content.manifest)
    except (ValueError, InvalidInput, zlib.error) as error:
        raise StoreError(f"what arrived of run `{run}` cannot be read: {brief(error)}.") from error
    if manifest.plan.run != run:
        raise StoreError(f"what arrived is not run `{run}` but `{manifest.plan.run}`.")
    unfit = next((trial for trial in manifest.plan.trials() if not _TRIAL.fullmatch(trial)), None)
    if unfit is not None:
        raise StoreError(f"what arrived of run `{run}` has a trial {unfit!r}: that is no name.")
    reader = RecordReader(manifest.plan)
    problems: dict[str, str] = {}
    for number, text in enumerate(content.records, 1):
        try:
            reader.add(text)
        except NotARecord as error:
            problems[f"record {number}"] = f"a record is left out: {error}."
    return RunContents(manifest, reader.records(), problems)


def _content(log: str) -> _Content | None:
    lines = log.splitlines()
    headers = _without("packed run: ", lines)
    if len(headers) != 1:
        raise ValueError("there is no header, or more than one")
    if headers[0] == "{}":
        return None
    header = _Header.model_validate_json(headers[0])
    packed = base64.b64decode("".join(_without("packed run| ", lines)), validate=True)
    if len(packed) != header.packed or hashlib.sha256(packed).hexdigest() != header.sha256:
        raise ValueError("part of it is missing or was changed on the way")
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(packed, header.unpacked + 1)
    if len(content) != header.unpacked or not unpacking.eof:
        raise ValueError("it is larger than it says")
    return _Content.model_validate(json.loads(content))


def _without(prefix: str, lines: Sequence[str]) -> list[str]:
    """Return the lines that begin with a prefix, without it."""
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def save(fetched: RunContents, results: str | Path) -> Run:
    """Write the run to a results folder, or add what is new to the same run there.

    Raises `InvalidInput` if another run of that name is there, or the same with other results:
    neither is touched. Raises `StoreError` if it cannot be written.
    """
    run = fetched.manifest.plan.run
    with _writer(fetched, results) as writer:
        for record in fetched.attempts:
            writer.add(record)
        writer.update(**dict(fetched.manifest))
        unwritten = finish(writer, Run.of(writer.folder))
    if unwritten:
        raise StoreError("\n".join(unwritten))
    return Run(run, results)


def _writer(fetched: RunContents, results: str | Path) -> RunWriter:
    run = fetched.manifest.plan.run
    folder = RunFolder(run_folder(results, run))
    if not folder.exists():
        return RunWriter.create(results, fetched.manifest)
    here = folder.load()
    kept = "both are kept: the one that arrived, on the cluster"
    if here.manifest.started_utc != fetched.manifest.started_utc:
        raise InvalidInput(f"another run `{run}` is in `{results}` already; {kept}.")
    arrived = {(r.trial, r.attempt): r.model_dump_json() for r in fetched.attempts}
    for record in here.attempts:
        if arrived.get((record.trial, record.attempt)) != record.model_dump_json():
            raise InvalidInput(
                f"run `{run}` in `{results}` was continued here, or has another result of "
                f"`{record.trial}`; {kept}."
            )
    return RunWriter.resume(results, run)
