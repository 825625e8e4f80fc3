"""What a backend says of its own training (`ExplainsItself`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from harness.backend import contract
from harness.profiling.seen import Train
from harness.trial.profile import Stretch

Explain = Callable[[], Mapping[str, Any]]

_CALLS = 3


def explained(
    train: Train, epochs: int, explain: Explain
) -> tuple[dict[Stretch, float], dict[str, float]]:
    """Return the stretches and the counts of an epoch, as the backend has them.

    It is asked after each of a few calls, and the fastest one counts. Raises `ContractViolation`.
    """
    calls = [(train(), contract.explanation(explain())) for _ in range(_CALLS)]
    _, said = min(calls, key=lambda call: call[0])
    seconds: dict[Stretch, float] = {
        name: said.pop(name) / epochs for name in get_args(Stretch) if name in said
    }
    return seconds, {name: number / epochs for name, number in said.items()}
