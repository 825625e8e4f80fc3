"""What Python tells of trainings whose calls are known."""

from __future__ import annotations

import cProfile
import sys
from time import sleep

import numpy as np
import pytest

from harness.profiling.python_calls import calls, look, opcodes
from harness.profiling.seen import Seen, Train
from harness.profiling.torch_operators import look as look_at_torch
from harness.trial.profile import Call
from tests.profiling.trainings import EPOCHS, timed


def least(train: Train) -> float:
    return min(train() for _ in range(3)) / EPOCHS


def test_a_function_in_c_is_counted_with_who_calls_it() -> None:
    text = "x"

    def waste() -> None:
        for _ in range(300):
            text.isdigit()

    train = timed(waste)
    found = {call.name: call for call in calls(train, EPOCHS, least(train)).calls()}
    call = found["method 'isdigit' of 'str'"]
    assert call.count == 300
    assert "waste (test_python_calls.py:" in call.where


def test_copies_and_conversions_of_numpy_are_copies() -> None:
    x = np.ones(1_000_000)
    train = timed(lambda: (x.copy(), x.astype(np.float32)))
    epoch_s = least(train)
    found = calls(train, EPOCHS, epoch_s)
    assert found.stretches(epoch_s)["copies"] > 0.1 * epoch_s
    seen = found.added_to(Seen("other profiler", epoch_s, {"python": epoch_s}), epoch_s)
    assert seen.seconds["copies"] > 0.1 * epoch_s
    assert sum(seen.seconds.values()) == pytest.approx(epoch_s)
    assert {c.name for c in seen.calls} >= {"method 'copy' of 'numpy.ndarray'"}


class Evaluating:
    """A backend that predicts in its training."""

    def predict_many(self) -> None:
        sleep(0.002)

    def predict(self) -> None:
        self.predict_many()

    def train(self) -> None:
        self.predict()


def test_predictions_inside_a_training_are_counted_once_and_timed() -> None:
    train = timed(Evaluating().train)
    epoch_s = least(train)
    found = calls(train, EPOCHS, epoch_s)
    assert found.predicts == {Evaluating.predict.__code__}
    assert found.stretches(epoch_s)["prediction"] > 0.5 * epoch_s
    seen = found.added_to(Seen("other profiler", epoch_s, {"other": epoch_s}), epoch_s)
    assert seen.counts["predictions"] == 1
    assert look(train, EPOCHS, epoch_s, found).counts["predictions"] == 1
    assert sum(seen.seconds.values()) == pytest.approx(epoch_s)


def test_an_operator_gets_the_name_of_who_calls_it() -> None:
    train = timed(lambda: "x".isdigit())
    found = calls(train, EPOCHS, 1e-6)
    seen = Seen(
        "other profiler",
        1e-6,
        {"calls": 1e-6},
        calls=(Call(name="aten::isdigit", count=1, seconds=1e-6),),
    )
    assert "<lambda> (test_python_calls.py:" in found.added_to(seen, 1e-6).calls[0].where


def test_operators_of_a_prediction_are_not_those_of_the_training() -> None:
    import torch

    class Backend:
        x = torch.ones(50, 50)

        def predict(self) -> None:
            for _ in range(20):
                torch.mm(self.x, self.x)

        def train(self) -> None:
            torch.mm(self.x, self.x)
            self.predict()

    train = timed(Backend().train)
    train()
    epoch_s = least(train)
    predicts = calls(train, EPOCHS, epoch_s).predicts
    seen = look_at_torch(train, EPOCHS, epoch_s, predicts)
    assert seen
    assert seen.seconds["prediction"] > 0.6 * epoch_s
    assert sys.getprofile() is None


def test_instructions_of_the_interpreter_are_told_from_calls_into_compiled_code() -> None:
    x = np.ones((300, 300))

    def interpreted() -> None:
        total = 0
        for number in range(20_000):
            total += number

    python_s = []
    for epoch in (interpreted, lambda: x @ x):
        train = timed(epoch)
        epoch_s = least(train)
        seen = look(train, EPOCHS, epoch_s, calls(train, EPOCHS, epoch_s)).seconds
        assert sum(seen.values()) == pytest.approx(epoch_s)
        python_s.append(seen.get("python", 0.0))
    assert python_s[0] > 20 * python_s[1]


def test_instructions_are_counted_exactly_and_far_too_many_are_given_up() -> None:
    def one() -> int:
        return 1

    def loop(fewer: int | None = None, /) -> float:
        for _ in range(10**6):
            pass
        return 0.0

    once, twice = (opcodes(timed(one), epochs) for epochs in (1, 2))
    assert once
    assert twice
    assert 0 < twice - once < 20
    assert opcodes(loop, 1) is None
    assert sys.gettrace() is None


def test_a_training_that_fails_leaves_no_profiler_on() -> None:
    def fail() -> None:
        raise ValueError("diverged")

    for see in (lambda: calls(timed(fail), EPOCHS, 1e-3), lambda: opcodes(timed(fail), 1)):
        with pytest.raises(ValueError, match="diverged"):
            see()
    assert sys.gettrace() is None
    profiler = cProfile.Profile()  # It refuses to start beside another one.
    profiler.runcall(lambda: None)
