"""What is on the clock and what is not, measured with a manual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness import Task
from harness.measure.trial import run
from harness.trial.record import Chunk, CurvePoint
from tests.helpers.doubles import FakeBackend, ManualClock
from tests.helpers.records import trial_job

TASK = Task(epochs=12, curve_points=4, n_steps=3, batch_size=2, eval_paths=5)


def measure(
    task: Task = TASK, **costs: Any
) -> tuple[dict[str, Any], list[CurvePoint], FakeBackend]:
    clock = ManualClock()
    backend = FakeBackend(clock, **costs)
    fields: dict[str, Any] = {}
    points: list[CurvePoint] = []

    def emit(kind: str, value: Any) -> None:
        if kind == "fields":
            fields.update(value)
        elif kind == "point":
            points.append(value)

    def find(name: str) -> Callable[[], FakeBackend]:
        clock.spend(50)  # No part of the import.

        def load() -> FakeBackend:
            clock.spend(5)
            return backend

        return load

    run(trial_job(task), emit, find, clock)
    return fields, points, backend


def test_each_phase_has_a_time_of_its_own() -> None:
    fields, points, _ = measure()
    assert fields["import_s"] == 5
    assert fields["setup_s"] == 1000
    assert fields["first_call_s"] == 10 + 3 + 100  # compile, a chunk of 3 epochs, a prediction
    assert fields["eval_s"] == 4 * 100
    assert [point.train_s for point in points] == [3, 6, 9, 12]
    assert fields["status"] == "ok"


def test_set_up_holds_the_first_state_and_nothing_the_second() -> None:
    """PyTorch imports 820 modules when it makes its first optimiser, which is in the state."""
    fields, points, _ = measure(init_s=7)
    assert (fields["import_s"], fields["setup_s"]) == (5, 1007)
    assert fields["first_call_s"] == 10 + 3 + 100
    assert [point.train_s for point in points] == [3, 6, 9, 12]


def test_the_first_chunk_is_thrown_away_and_training_starts_anew() -> None:
    _, points, backend = measure()
    assert backend.calls[:4] == ["make cpu 10", "init 8", "train 3", "predict 5"]
    assert backend.calls[4:] == ["init 8", *["train 3", "predict 5"] * 4]
    # The loss of epoch e is 1/(e+1), so the curve starts at epoch 0 and its points are means.
    assert points[0].train_loss == (1 + 1 / 2 + 1 / 3) / 3
    assert [point.epoch for point in points] == [3, 6, 9, 12]


@pytest.mark.parametrize("peak_mb", [12.5, None])
def test_the_peak_on_the_gpu_is_that_of_a_chunk_and_not_of_a_prediction(
    peak_mb: float | None,
) -> None:
    class OnGpu(FakeBackend):
        def peak_gpu_mb(self) -> float | None:
            self.calls.append("peak")
            return peak_mb

    fields: dict[str, Any] = {}
    backend = OnGpu(clock := ManualClock())
    run(
        trial_job(TASK, device="gpu"),
        lambda kind, value: fields.update(value) if kind == "fields" else None,
        lambda name: lambda: backend,
        clock,
    )
    assert backend.calls[2:5] == ["train 3", "peak", "predict 5"]
    assert backend.calls.count("peak") == 1
    assert (fields["peak_gpu_mb"], fields["status"]) == (peak_mb, "ok")


def test_each_timed_call_says_what_it_took() -> None:
    chunks: list[Chunk] = []
    clock = ManualClock()
    run(
        trial_job(TASK),
        lambda kind, value: chunks.append(value) if kind == "chunk" else None,
        lambda name: lambda: FakeBackend(clock),
        clock,
    )
    assert [chunk.wall_s for chunk in chunks] == [3, 3, 3, 3]
    assert all(chunk.cpu_s > 0 and chunk.involuntary_switches >= 0 for chunk in chunks)


def test_errors_are_those_of_the_predictions() -> None:
    fields, points, _ = measure()
    assert len(fields["step_mse"]) == 3
    assert points[-1].eval_mse == sum(fields["step_mse"]) / 3


def test_how_far_the_initial_state_has_moved() -> None:
    fields, _, _ = measure()
    assert fields["initial_state_moved"] == 12  # By 1 for each epoch.


def test_a_loss_that_is_not_finite_ends_the_trial_as_a_result() -> None:
    fields, points, backend = measure(diverge_after=4)
    assert fields["status"] == "diverged"
    assert [point.epoch for point in points] == [3, 6]
    assert points[-1].train_loss != points[-1].train_loss
    assert "step_mse" not in fields
    assert backend.calls.count("train 3") == 3
