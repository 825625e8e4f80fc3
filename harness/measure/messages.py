"""The messages of a worker: a line of JSON each, `[kind, value]`.

What is documented in `harness.worker` and `harness.measure.stepwise` is checked here, once. The
worker may be of another version of the code, and a backend in it may write where it should not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # Pydantic needs this one before Python 3.12.

from harness.errors import brief, printable
from harness.trial.events import Check
from harness.trial.learned import Learned
from harness.trial.profile import Profile

_SHOWN = 80
_Rows = list[list[float]]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(TypedDict, total=False):
    import_s: _Finite
    setup_s: _Finite
    peak_rss_mb: float | None
    peak_gpu_mb: float | None
    environment: dict[str, str]
    versions: dict[str, str]
    fault: str


class _Ready(TypedDict, total=False):
    task: dict[str, Any]
    sources: dict[str, str]
    versions: dict[str, str]
    nudges: int


class _Turn(TypedDict):
    wall_s: Annotated[_Finite, Field(gt=0)]
    losses: list[float]
    losses_ER: NotRequired[_Rows]
    chunk: NotRequired[dict[str, Any]]


class _Evaluated(TypedDict):
    step_mse: list[float]
    step_mse_RT: NotRequired[_Rows]
    seconds: NotRequired[_Finite]


class _Inspected(TypedDict):
    initial_state_moved: list[float]
    peak_rss_mb: NotRequired[float | None]
    peak_gpu_mb: NotRequired[float | None]


_VALUES: Mapping[str, TypeAdapter[Any]] = {
    "phase": TypeAdapter(str),
    "fields": TypeAdapter(_Fields),
    "refused": TypeAdapter(str),
    "failed": TypeAdapter(tuple[str, str]),
    "check": TypeAdapter(Check),
    "ready": TypeAdapter(_Ready),
    "turn": TypeAdapter(_Turn),
    "restarted": TypeAdapter(None),
    "evaluated": TypeAdapter(_Evaluated),
    "inspected": TypeAdapter(_Inspected),
    "learned": TypeAdapter(list[Learned]),
    "energy": TypeAdapter(_Finite | None),
    "profiled": TypeAdapter(Profile),
    "done": TypeAdapter(None),
}


def read(line: bytes) -> tuple[str, Any]:
    """Return the kind of a message and its value; kind `failed` if it is none, and why."""
    shown = printable(line[:_SHOWN].decode(errors="replace"))
    try:
        kind, value = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return "failed", (f"the process sent `{shown}`, which is no message", "")
    if not isinstance(kind, str) or kind not in _VALUES:
        return "unknown", value  # Of a later version.
    try:
        return kind, _VALUES[kind].validate_python(value)
    except ValidationError as error:
        return "failed", (f"the process sent a `{kind}` that cannot be read: {brief(error)}", "")
