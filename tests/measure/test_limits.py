"""What one core can do, as a process measures it."""

from __future__ import annotations

import shutil
import sys

import pytest

from harness.measure import machine
from harness.measure.limits import Limits
from harness.task.task import Task

COMMON = {
    "multiply_add",
    "byte:16384",
    "byte:262144",
    "byte:4194304",
    "byte:67108864",
}


def test_a_process_measures_what_things_cost_each_time_it_is_asked() -> None:
    with Limits(Task(cell="gru"), machine.usable_cores()[-1:]) as limits:
        first, second = limits(), limits()
    assert set(first) == COMMON | {"tanh", "sigmoid"}
    assert first != second
    for costs in (first, second):
        assert 1e-13 < costs["multiply_add"] < costs["tanh"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_floor_is_measured_where_it_can_train_the_network(dtype: str) -> None:
    with Limits(Task(activation="relu", dtype=dtype, hidden=7), None) as limits:
        limits.wait_until_compiled()
        costs = limits()
    assert set(costs) == COMMON | {"relu", "floor_epoch"}
    assert costs["floor_epoch"] > costs["multiply_add"]


@pytest.mark.parametrize("program", ["false", "cat"])
def test_a_process_that_fails_knows_no_costs(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which(program))
    with Limits(Task(), None) as limits:
        assert limits() == {}
