"""Benchmark deep-learning frameworks on one recurrent-network task.

    import harness

    run = harness.run(harness.Task(lag_weight=0.5), backends=["torch", "jax"], seeds=3)
    run.summary(), run.trials, run.curves, run.steps

Importing this package loads no framework; the names below load what they need when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import load, resume, run
    from harness.backend.model import Model
    from harness.backend.protocol import Backend, BackendFactory, TrainsManySeeds
    from harness.errors import (
        ContractViolation,
        HarnessError,
        InvalidInput,
        StoreError,
        Unavailable,
        UnknownName,
    )
    from harness.runs.results import Run
    from harness.task.task import PRESETS, Task
    from harness.task.yardsticks import Yardsticks, yardsticks

_HOME = {
    "Backend": "backend.protocol",
    "BackendFactory": "backend.protocol",
    "ContractViolation": "errors",
    "HarnessError": "errors",
    "InvalidInput": "errors",
    "Model": "backend.model",
    "PRESETS": "task.task",
    "Run": "runs.results",
    "StoreError": "errors",
    "Task": "task.task",
    "TrainsManySeeds": "backend.protocol",
    "Unavailable": "errors",
    "UnknownName": "errors",
    "Yardsticks": "task.yardsticks",
    "load": "api",
    "resume": "api",
    "run": "api",
    "yardsticks": "task.yardsticks",
}

__all__ = [
    "PRESETS",
    "Backend",
    "BackendFactory",
    "ContractViolation",
    "HarnessError",
    "InvalidInput",
    "Model",
    "Run",
    "StoreError",
    "Task",
    "TrainsManySeeds",
    "Unavailable",
    "UnknownName",
    "Yardsticks",
    "load",
    "resume",
    "run",
    "yardsticks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `harness` has no attribute `{name}`")
    return getattr(importlib.import_module(f"harness.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
