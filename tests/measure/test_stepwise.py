"""The protocol of a worker that trains when it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from harness import ContractViolation, Task
from harness.measure.stepwise import serve
from harness.trial.record import Chunk
from tests.helpers.commands import ROOT, TINY_FIELDS
from tests.helpers.doubles import FakeBackend, ManualClock
from tests.helpers.records import turns_job

TASK = Task(epochs=12, curve_points=4, n_steps=3, batch_size=2, eval_paths=5)


def answers(
    *commands: str, task: Task = TASK, backend: FakeBackend | None = None, **changes: object
) -> list[tuple[str, Any]]:
    """Return the messages after the first one, which is checked."""
    clock = backend.clock if backend else ManualClock()
    backend = backend or FakeBackend(clock)
    said: list[tuple[str, Any]] = []

    def emit(kind: str, value: Any) -> None:
        if kind not in {"phase", "fields"}:
            said.append((kind, json.loads(json.dumps(value))))

    serve(turns_job(task, **changes), commands, emit, lambda name: lambda: backend, clock)
    (ready, about), *rest = said
    assert ready == "ready"
    assert about["task"] == task.model_dump(mode="json")
    assert f"{ROOT}/harness/measure/stepwise.py" in about["sources"].values()
    assert about["versions"]["numpy"]
    return rest


def test_it_trains_when_it_is_told_to() -> None:
    (kind, turn), *rest = answers("3\n", "2")
    assert kind == "turn"
    assert turn["losses"] == [1, 1 / 2, 1 / 3]
    assert turn["losses_ER"] == [[1], [1 / 2], [1 / 3]]
    assert turn["wall_s"] == 10 + 3  # It compiles.
    chunk = Chunk(**turn["chunk"])
    assert (chunk.wall_s, chunk.epochs) == (13, 3)
    assert chunk.cpu_s > 0
    ((_, second),) = rest
    assert (second["losses"], second["wall_s"]) == ([1 / 4, 1 / 5], 2)


def test_it_starts_anew() -> None:
    _, restarted, (_, turn) = answers("3", "restart", "1")
    assert restarted == ("restarted", None)
    assert turn["losses"] == [1]


def test_it_evaluates() -> None:
    ((kind, value),) = answers("evaluate")
    assert kind == "evaluated"
    assert value["seconds"] == pytest.approx(100, abs=0.9)  # Less what it waits for the processor.
    assert len(value["step_mse"]) == 3
    assert value["step_mse_RT"] == [value["step_mse"]]


def test_it_tells_how_far_it_is() -> None:
    *_, (kind, value) = answers("5", "inspect")
    assert kind == "inspected"
    assert value["initial_state_moved"] == [5]
    assert value["peak_rss_mb"] > 10
    assert "peak_gpu_mb" not in value


def test_it_counts_energy_where_there_is_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measure.energy.meter", lambda device: lambda: None)
    assert answers("energy 3", device="gpu") == [("energy", None)]


def test_after_the_last_command_nothing_is_done() -> None:
    backend = FakeBackend(ManualClock())
    assert answers("finish", "3", backend=backend) == []
    assert "train 3" not in backend.calls


def test_losses_that_are_not_finite_are_told_as_they_are() -> None:
    ((_, turn),) = answers("2", backend=FakeBackend(ManualClock(), diverge_after=1))
    assert turn["losses"][0] == 1
    assert turn["losses"][1] != turn["losses"][1]


def test_what_a_backend_raises_goes_through() -> None:
    class Short(FakeBackend):
        def train(self, *given: Any) -> Any:
            state, losses = super().train(*given)
            return state, losses[:-1]

    with pytest.raises(ContractViolation, match="`train` losses"):
        answers("3", backend=Short(ManualClock()))


# As a gate of version 0.2 writes it: with the fields of the task that are not the default.
OLDER_REQUEST = {
    "job": {
        "task": TINY_FIELDS,
        "backend": "reference",
        "device": "cpu",
        "threads": 1,
        "exclusive": True,
        "timeout_s": 60.0,
        "kind": "turns",
        "seed": 3,
        "seeds": [],
    },
    "cores": None,
}


def test_an_older_gate_is_answered() -> None:
    reader, writer = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "harness.worker", str(writer), json.dumps(OLDER_REQUEST)],
        stdin=subprocess.PIPE,
        pass_fds=[writer],
        cwd=ROOT,
        text=True,
    )
    os.close(writer)
    assert worker.stdin is not None
    said: dict[str, list[Any]] = {}
    with worker, os.fdopen(reader) as events:
        for command in ("4", "4", "restart", "4", "evaluate"):
            worker.stdin.write(f"{command}\n")
        worker.stdin.flush()
        for kind, value in map(json.loads, events):
            said.setdefault(kind, []).append(value)
            if kind == "evaluated":
                worker.kill()
    (ready,) = said["ready"]
    assert ready["task"]["n_steps"] == TINY_FIELDS["n_steps"]
    assert f"{ROOT}/backends/reference.py" in ready["sources"].values()
    assert ready["versions"]["numpy"]
    first, second, again = (turn["losses"] for turn in said["turn"])
    assert len(first) == 4
    assert first == again != second
    assert all(turn["wall_s"] > 0 for turn in said["turn"])
    assert said["restarted"] == [None]
    assert len(said["evaluated"][0]["step_mse"]) == TINY_FIELDS["n_steps"]
