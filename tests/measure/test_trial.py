"""What is on the clock and what is not, measured with a manual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness import Task
from harness.measure.trial import GPU_TURN_S, TURN_S, Trial
from harness.trial.events import Event, Progress, Started
from harness.trial.record import Record
from tests.helpers.doubles import FakeBackend, ManualClock
from tests.helpers.records import trial_job
from tests.helpers.trainings import Here

TASK = Task(epochs=12, curve_points=4, n_steps=3, batch_size=2, eval_paths=5)
ONCE = [*["train 3", "predict 5"] * 4, "predict 5"]
"""A training; the last predictions are looked at."""


def about(seconds: float) -> Any:
    """Seconds of the manual clock, less what this process really waited for the processor."""
    return pytest.approx(seconds, abs=0.9)


class Measured:
    """A trial of a fake backend, started."""

    def __init__(
        self,
        task: Task = TASK,
        device: str = "cpu",
        epochs: int = 0,
        kind: type[FakeBackend] = FakeBackend,
        **costs: Any,
    ) -> None:
        clock = ManualClock()
        self.backend = kind(clock, **costs)

        def find(name: str) -> Callable[[], FakeBackend]:
            clock.spend(50)  # No part of the import.

            def load() -> FakeBackend:
                clock.spend(5)
                return self.backend

            return load

        # Of two threads, no waiting for the processor is taken off a manual clock.
        job = trial_job(task, device=device, threads=2)
        self.events: list[Event] = []
        self.trial = Trial(job, Here(job, find, clock), "here", self.events.append)
        self.pace_s = self.trial.start()
        self.trial.settle(epochs or self.trial.epochs)

    def ended(self, rounds: int = 0) -> Record:
        for number in range(1, rounds + 1):
            self.trial.take_turn(number, None)
        self.trial.complete()
        self.trial.finish()
        return self.trial.record("rounds", (1,))


def test_each_phase_has_a_time_of_its_own() -> None:
    record = Measured().ended(4)
    assert record.import_s == about(5)
    assert record.setup_s == about(1000)
    assert record.first_call_s == about(10 + 3 + 100)  # compile, 3 epochs, a prediction
    assert record.eval_s == about(4 * 100)
    assert [point.train_s for point in record.points] == [3, 6, 9, 12]
    assert record.status == "ok"


def test_set_up_holds_the_first_state_and_nothing_the_second() -> None:
    """PyTorch imports 820 modules when it makes its first optimiser, which is in the state."""
    record = Measured(init_s=7).ended(4)
    assert (record.import_s, record.setup_s) == (about(5), about(1007))
    assert record.first_call_s == about(10 + 3 + 100)
    assert [point.train_s for point in record.points] == [3, 6, 9, 12]


def test_the_first_chunk_is_thrown_away_and_training_starts_anew() -> None:
    measured = Measured()
    calls = measured.backend.calls
    assert calls == ["make cpu 10", "init 8", "train 3", "predict 5", "train 3", "init 8"]
    assert measured.pace_s == about(3)
    points = measured.ended().points
    assert calls[6:] == ONCE
    # The loss of epoch e is 1/(e+1), so the curve starts at epoch 0 and its points are means.
    assert points[0].train_loss == (1 + 1 / 2 + 1 / 3) / 3
    assert [point.epoch for point in points] == [3, 6, 9, 12]


def test_what_is_not_timed_is_trained_all_the_same() -> None:
    timed, half, none = (Measured().ended(rounds) for rounds in (4, 2, 0))
    assert [len(record.chunks) for record in (timed, half, none)] == [4, 2, 0]
    assert timed.points == half.points == none.points
    assert timed.step_mse == half.step_mse == none.step_mse


def test_each_timed_call_says_what_it_took() -> None:
    chunks = Measured().ended(4).chunks
    assert [chunk.wall_s for chunk in chunks] == [3, 3, 3, 3]
    assert [chunk.round for chunk in chunks] == [1, 2, 3, 4]
    assert all(chunk.counted and chunk.epochs == 3 for chunk in chunks)
    assert all(chunk.cpu_s > 0 and chunk.involuntary_switches >= 0 for chunk in chunks)


def test_after_its_end_it_starts_anew_for_the_turns_that_are_left() -> None:
    measured = Measured()
    record = measured.ended(6)
    assert measured.backend.calls[6:] == [*ONCE, "init 8", *["train 3"] * 2]
    assert [chunk.round for chunk in record.chunks] == [1, 2, 3, 4, 5, 6]
    assert [point.epoch for point in record.points] == [3, 6, 9, 12]


@pytest.mark.parametrize(("device", "turn_s"), [("cpu", TURN_S), ("gpu", GPU_TURN_S)])
def test_a_short_chunk_is_trained_several_times_in_a_turn(device: str, turn_s: float) -> None:
    measured = Measured(device=device, epoch_s=turn_s / 10)
    record = measured.ended(3)
    # 3 epochs take 3/10 of a turn: 4 calls make one, and one more does not count.
    assert [chunk.counted for chunk in record.chunks] == [False, True, True, True, True] * 3
    assert [chunk.round for chunk in record.chunks] == [1] * 5 + [2] * 5 + [3] * 5
    # Each says where in the training it was: it starts anew at its end.
    assert [chunk.epoch for chunk in record.chunks] == [3, 6, 9, 12] * 3 + [3, 6, 9]
    assert record.chunks[5].loss == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)
    # They are only timed: what is evaluated is trained before them.
    assert measured.backend.calls[5:16] == ["init 8", *ONCE, "init 8"]
    assert "predict 5" not in measured.backend.calls[15:]
    assert record.points[0].train_loss == (1 + 1 / 2 + 1 / 3) / 3


def test_a_long_chunk_is_cut_and_the_first_shorter_call_is_thrown_away() -> None:
    measured = Measured(epochs=1)
    assert measured.backend.calls[-2:] == ["train 1", "init 8"]
    record = measured.ended(3)
    assert [(chunk.epochs, chunk.wall_s) for chunk in record.chunks] == [(1, 1)] * 3
    assert record.points == Measured().ended(4).points


def test_what_a_cut_makes_too_short_is_trained_several_times() -> None:
    assert Measured(epoch_s=TURN_S * 0.6).trial.calls == 1
    assert Measured(epoch_s=TURN_S * 0.6, epochs=1).trial.calls == 3


@pytest.mark.parametrize("peak_mb", [12.5, None])
def test_the_peak_on_the_gpu_is_that_of_a_chunk_and_not_of_a_prediction(
    peak_mb: float | None,
) -> None:
    class OnGpu(FakeBackend):
        def peak_gpu_mb(self) -> float | None:
            self.calls.append("peak")
            return peak_mb

    measured = Measured(device="gpu", kind=OnGpu)
    record = measured.ended()
    assert measured.backend.calls[2:5] == ["train 3", "peak", "predict 5"]
    assert measured.backend.calls.count("peak") == 1
    assert (record.peak_gpu_mb, record.status) == (peak_mb, "ok")


def test_the_energy_of_a_gpu_is_counted_in_calls_as_long_as_those_of_the_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks: list[ManualClock] = []
    monkeypatch.setattr(
        "harness.measure.energy.meter", lambda device: lambda: 300 * clocks[0].seconds
    )
    measured = Measured(device="gpu", epoch_s=0.5)
    clocks.append(measured.backend.clock)
    measured.trial.complete()
    measured.trial.count_energy()
    assert measured.backend.calls[-4:] == ["init 8", *["train 3"] * 3]
    record = measured.ended()
    assert record.epoch_j == pytest.approx(150)
    assert record.status == "ok"


def test_errors_are_those_of_the_predictions() -> None:
    record = Measured().ended()
    assert len(record.step_mse) == 3
    assert record.points[-1].eval_mse == sum(record.step_mse) / 3


def test_how_far_the_initial_state_has_moved() -> None:
    assert Measured().ended().initial_state_moved == 12  # By 1 for each epoch.


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_loss_that_is_not_finite_ends_the_trial_as_a_result(rounds: int) -> None:
    measured = Measured(diverge_after=4)
    record = measured.ended(rounds)
    assert record.status == "diverged"
    assert [point.epoch for point in record.points] == [3, 6]
    assert record.points[-1].train_loss != record.points[-1].train_loss
    assert record.step_mse == ()
    assert measured.backend.calls.count("train 3") == 4
    assert measured.trial.trainer.phase == "ended"


def test_what_is_reported_while_it_runs() -> None:
    measured = Measured()
    record = measured.ended()
    started, *progress = measured.events
    assert isinstance(started, Started)
    assert [event.point for event in progress if isinstance(event, Progress)] == list(record.points)
