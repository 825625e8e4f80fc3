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

_NAMES = {
    "api": ("load", "resume", "run"),
    "backend.model": ("Model",),
    "backend.protocol": ("Backend", "BackendFactory", "TrainsManySeeds"),
    "errors": (
        *("ContractViolation", "HarnessError", "InvalidInput", "StoreError", "Unavailable"),
        "UnknownName",
    ),
    "runs.results": ("Run",),
    "task.task": ("PRESETS", "Task"),
    "task.yardsticks": ("Yardsticks", "yardsticks"),
}
_MODULES = {name: f"harness.{module}" for module, names in _NAMES.items() for name in names}

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
    if name not in _MODULES:
        raise AttributeError(f"module `harness` has no attribute `{name}`")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
