"""The manifest of a run: what was planned, where it started, and which backends passed parity."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from harness.errors import HarnessError, InvalidInput, brief
from harness.inputs.bounded_json import Several, from_json, loads
from harness.trial.events import Certificate
from harness.trial.plan import Plan
from harness.trial.record import SCHEMA_VERSION, Name, SchemaVersion, Texts

MANIFEST, RECORDS = "manifest.json", "records"
"""The file and the folder that make a folder a run; see docs/results.md."""
PAGE, PLOTS = "report.html", "plots"
"""The report in the folder of a run, and the folder of its pictures."""


class Manifest(BaseModel):
    """What a run is. `finished_utc` is None until its last trial has ended."""

    model_config = ConfigDict(frozen=True)

    schema_version: SchemaVersion = SCHEMA_VERSION
    started_utc: Name
    finished_utc: Name | None = None
    plan: Plan
    environment: Texts
    parity: Several[Certificate] = ()


def parse_manifest(where: str, content: bytes) -> Manifest:
    """Return the manifest in the file `where`. Raises `InvalidInput` if there is none in it."""
    try:
        return from_json(Manifest, content)
    except (ValueError, HarnessError) as error:
        refuse_newer(where, content)
        raise InvalidInput(f"`{where}` cannot be read as a manifest: {brief(error)}.") from error


def refuse_newer(where: str, content: bytes, known: int = SCHEMA_VERSION) -> None:
    """Raise `InvalidInput` if a newer version of the harness wrote the file."""
    try:
        version = loads(content)["schema_version"]
    except (ValueError, TypeError, KeyError):
        return  # It is broken in some other way.
    if isinstance(version, int) and known < version < 10**9:
        raise InvalidInput(
            f"`{where}` was written by a newer version of the harness (schema {version}; this one "
            f"reads up to {known})."
        )


def to_json(model: BaseModel) -> bytes:
    """Return a manifest or a record as it is stored."""
    return model.model_dump_json(indent=1).encode()
