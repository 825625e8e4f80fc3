"""Serves a backend of the harness through a pipe: `python -m benchmarks.helpers.serve floor`.

`echo` is none: it answers a prediction with its inputs, so that only the pipe takes time.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from benchmarks.helpers.commands import ROOT
from harness import Model
from harness.backend import registry
from harness.backend.protocol import Array, Backend, Params

sys.path.insert(0, str(ROOT / "docs" / "process-worker"))

from worker import serve  # type: ignore[import-not-found]

NAME = sys.argv[1]


class Echo:
    def __init__(self, model: Any, device: str) -> None: ...

    def init(self, params: Params) -> None: ...

    def predict(self, state: None, x_TN: Array) -> Array:
        return x_TN


def make(model: Any, device: str) -> Backend[Any]:
    told = {field.name: getattr(model, field.name) for field in fields(Model)}
    return registry.load(NAME)(Model(**told), device)


if __name__ == "__main__":
    serve(Echo if NAME == "echo" else make, framework=NAME)
