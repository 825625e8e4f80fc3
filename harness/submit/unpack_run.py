"""Takes in a run that was measured elsewhere.

What arrives is text from another machine: its size is bounded before it is unpacked, and only whole
manifests and records come out. No name in it becomes a path before the store has made it its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import InvalidInput, StoreError, UnknownName, brief
from harness.runs.results import Run
from harness.runs.session import finish
from harness.store.manifest import Manifest
from harness.store.results_folder import find_run
from harness.store.run_folder import NotARecord, RecordReader
from harness.store.run_writer import RunWriter
from harness.trial.record import Record

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


@dataclass(frozen=True)
class Arrival:
    """A run as it arrived: checked, and not yet written."""

    manifest: Manifest
    records: Sequence[Record]
    problems: Sequence[str]
    """A sentence for each record that is left out."""


def read(log: str, run: str) -> Arrival | None:
    """Read what `harness.submit.pack_run` printed among other lines of a log; None if there was no
    run.

    Raises `StoreError` if it is not whole, or not the run it should be.
    """
    try:
        content = _content(log)
        if content is None:
            return None
        manifest = Manifest.model_validate_json(content.manifest)
    except (ValueError, InvalidInput, zlib.error) as error:
        raise StoreError(f"what arrived of run `{run}` cannot be read: {brief(error)}.") from error
    if manifest.plan.run != run:
        raise StoreError(f"what arrived is not run `{run}` but `{manifest.plan.run}`.")
    unfit = next((trial for trial in manifest.plan.trials() if not _TRIAL.fullmatch(trial)), None)
    if unfit is not None:
        raise StoreError(f"what arrived of run `{run}` has a trial {unfit!r}: that is no name.")
    reader = RecordReader(manifest.plan)
    problems: list[str] = []
    for text in content.records:
        try:
            reader.add(text)
        except NotARecord as error:
            problems.append(f"a record is left out: {error}.")
    return Arrival(manifest, reader.records(), problems)


def _content(log: str) -> _Content | None:
    lines = log.splitlines()
    headers = [line.removeprefix("bundle: ") for line in lines if line.startswith("bundle: ")]
    if len(headers) != 1:
        raise ValueError("there is no header, or more than one")
    if headers[0] == "{}":
        return None
    header = _Header.model_validate_json(headers[0])
    body = "".join(line.removeprefix("bundle| ") for line in lines if line.startswith("bundle| "))
    packed = base64.b64decode(body, validate=True)
    if len(packed) != header.packed or hashlib.sha256(packed).hexdigest() != header.sha256:
        raise ValueError("part of it is missing or was changed on the way")
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(packed, header.unpacked + 1)
    if len(content) != header.unpacked or not unpacking.eof:
        raise ValueError("it is larger than it says")
    return _Content.model_validate(json.loads(content))


def save(arrival: Arrival, results: str | Path) -> Run:
    """Write the run to a results folder, or add what is new to the same run there.

    Raises `InvalidInput` if another run of that name is there, or the same with other results:
    neither is touched.
    """
    run = arrival.manifest.plan.run
    with _writer(arrival, results) as writer:
        for record in arrival.records:
            writer.add(record)
        fields = Manifest.model_fields
        writer.update(**{name: getattr(arrival.manifest, name) for name in fields})
        finish(writer)
    return Run(run, results)


def _writer(arrival: Arrival, results: str | Path) -> RunWriter:
    run = arrival.manifest.plan.run
    try:
        folder = find_run(results, run)
    except UnknownName:
        return RunWriter.create(results, arrival.manifest)
    kept = "both are kept: the one that arrived, on the cluster"
    there = folder.load()
    if there.manifest.started_utc != arrival.manifest.started_utc:
        raise InvalidInput(f"another run `{run}` is in `{results}` already; {kept}.")
    arrived = {(r.trial, r.attempt): r.model_dump_json() for r in arrival.records}
    for record in there.attempts:
        if arrived.get((record.trial, record.attempt)) != record.model_dump_json():
            raise InvalidInput(
                f"run `{run}` in `{results}` was taken further here, or has another result of "
                f"`{record.trial}`; {kept}."
            )
    return RunWriter.resume(results, run)
