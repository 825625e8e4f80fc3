"""What PyTorch's profiler sees of trainings whose operators are known."""

from __future__ import annotations

from time import perf_counter
from types import FunctionType
from typing import Any, NamedTuple

import pytest
import torch

from backends.torch_backend import TorchBackend
from harness.backend.protocol import Array
from harness.profiling.seen import Seen, Train
from harness.profiling.torch_counts import count_events
from harness.profiling.torch_events import PREDICTION, Event, record, walk
from harness.profiling.torch_operators import Empty, Parts, look
from harness.task import data
from harness.task.task import Task
from tests.profiling.trainings import EPOCHS, timed


def seen(train: Train) -> Seen:
    train()
    found = look(train, EPOCHS, min(train() for _ in range(3)) / EPOCHS)
    assert found
    return found


def test_operators_of_an_epoch_are_counted_and_those_of_a_call_shared() -> None:
    a, b = torch.ones(5, 7), torch.ones(5, 7)

    def epoch() -> None:
        a.detach().add_(b)
        b.copy_(a + b)

    counts = seen(timed(epoch, lambda: a.mul_(b))).counts
    assert counts["operators"] == pytest.approx(4 + 1 / EPOCHS)
    assert counts["working_operators"] == pytest.approx(3 + 1 / EPOCHS)
    assert counts["allocations"] == 1
    assert counts["allocated_bytes"] == counts["copied_bytes"] == 5 * 7 * 4
    assert not counts.get("float64")


def test_products_of_matrices_are_counted_with_and_without_gradient() -> None:
    a, b = torch.ones(5, 6, requires_grad=True), torch.ones(4, 6, 7)
    flat = torch.ones(6, 7, requires_grad=True)
    counts = seen(timed(lambda: ((a @ b).sum() + (a @ flat).sum()).backward())).counts
    assert counts["multiply_adds"] == 5 * 6 * 7 * (4 * 2 + 3)


def test_double_precision_is_counted_but_numbers_are_not() -> None:
    x = torch.ones(100)

    def epoch() -> None:
        x.mul_(0.5).add_(torch.tensor(1.0, dtype=torch.float64))
        x.double().mul_(2)

    assert seen(timed(epoch)).counts["float64"] == 2  # The conversion and the product.


def test_a_copy_of_the_data_of_all_epochs_in_each_is_counted_in_full() -> None:
    data = torch.ones(EPOCHS, 1000)

    def train(fewer: int | None = None, /) -> float:
        start = perf_counter()
        for _ in range(fewer or EPOCHS):
            data[:fewer].clone()
        return perf_counter() - start

    assert seen(train).counts["copied_bytes"] == 4 * EPOCHS * 1000


def test_what_a_product_copies_for_itself_is_no_copy() -> None:
    a, b = torch.ones(5, 5), torch.ones(5)
    counts = seen(timed(lambda: torch.addmm(b, a, a))).counts
    assert counts["working_operators"] == 2
    assert not counts.get("copied_bytes")


def network(task: Task) -> Train:
    backend = TorchBackend(task.model, "cpu")
    state = backend.init(data.initial_params(task.model, 0))
    x_ERTB, y_ERTB = data.training_chunks(task, (0,), 0, EPOCHS)
    x_ETB, y_ETB = x_ERTB[:, 0], y_ERTB[:, 0]

    def train(fewer: int | None = None, /) -> float:
        start = perf_counter()
        losses: Array = backend.train(state, x_ETB[:fewer], y_ETB[:fewer])[1]
        assert len(losses) == (fewer or EPOCHS)
        return perf_counter() - start

    return train


def test_the_stretches_of_a_network_add_up_to_an_epoch() -> None:
    train = network(Task(n_steps=10))
    train()
    found = look(train, EPOCHS, 0.25)
    assert found
    assert sum(found.seconds.values()) == pytest.approx(0.25)
    assert set(found.seconds) == {"python", "calls", "kernels", "copies", "optimiser"}
    assert min(found.seconds.values()) >= 0
    assert found.counts["operators"] > 100
    assert {call.name for call in found.calls} >= {"aten::mm", "aten::addmm", "aten::tanh"}
    assert len(found.calls) == 20


def test_large_products_are_kernels_and_large_copies_copies() -> None:
    a, b = torch.ones(300, 300), torch.ones(2_000_000)
    products = seen(timed(lambda: torch.mm(a, a))).seconds
    copies = seen(timed(lambda: b.clone())).seconds
    assert products["kernels"] > 0.8 * sum(products.values())
    assert copies["copies"] > 0.5 * sum(copies.values())


def test_many_empty_operators_are_calls() -> None:
    x = torch.ones(1)

    def epoch() -> None:
        for _ in range(500):
            x.detach()

    found = seen(timed(epoch))
    assert not found.seconds.get("kernels")
    assert found.counts["operators"] == 500


def test_compilations_in_each_call_are_counted_and_timed() -> None:
    x = torch.ones(3)

    def step(x: torch.Tensor) -> torch.Tensor:
        return x.sin() + 1

    def compile_anew() -> None:
        anew = FunctionType(step.__code__.replace(co_name="anew"), globals())
        torch.compile(anew, backend="eager")(x)

    train = timed(lambda: x.mul_(x), compile_anew)
    train()
    epoch_s = train() / EPOCHS
    found = look(train, EPOCHS, epoch_s)
    assert found
    assert found.counts["compilations"] == 1 / EPOCHS
    assert found.seconds["compilation"] > 0.2 * epoch_s
    assert sum(found.seconds.values()) == pytest.approx(epoch_s)


def test_without_an_operator_nothing_is_seen() -> None:
    assert look(timed(lambda: None), EPOCHS, 1e-6) is None


@pytest.mark.parametrize("call", range(4))
def test_a_training_that_fails_leaves_no_profiler_on(call: int) -> None:
    calls = iter(range(100))

    def fail() -> None:
        torch.ones(1)
        if next(calls) == call:
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        look(timed(lambda: torch.ones(1), fail), EPOCHS, 1e-4)
    assert not torch.autograd.profiler._is_profiler_enabled


EMPTY = Empty(
    1e-6, 1e-7, dict.fromkeys([(a, b) for a in (True, False) for b in (True, False)], 400)
)


RNN = (0, 6000, "aten::rnn_tanh"), (1000, 2000, "aten::tanh")


def stretches(*rows: tuple[int, int, str]) -> dict[str, float]:
    """Return the ns of each stretch in a call of 10 us; the profiler takes 100 an event."""
    parts = Parts(100, EMPTY)
    events = [Event(start, end, name, thread=1, graph=False) for start, end, name in rows]
    walk(events, parts.nodes.append)
    parts.add_up()
    found = parts.stretches(10_000 / 1e9)
    return {name: round(seconds * 1e9) for name, seconds in found.items() if seconds}


def test_an_operator_is_a_call_as_far_as_an_empty_one_would_be() -> None:
    # Python calls one, so that 600 more are the way from Python to it; 100 are the profiler's.
    assert stretches((0, 5000, "aten::tanh")) == {
        "calls": 400 + 600,
        "kernels": 4600,
        "python": 5000 - 100 - 600,
    }
    assert stretches((0, 5000, "aten::copy_"))["copies"] == 4600
    assert stretches((0, 5000, "aten::t"))["calls"] == 5000 + 600
    inside = stretches((0, 5000, "aten::addmm"), (1000, 4000, "aten::copy_"))
    assert inside["kernels"] == (3000 - 400) + (2000 - 100 - 400)
    part = stretches(*RNN, (3000, 5000, "aten::cat"))
    alone = stretches((0, 6000, "aten::stack"), (3000, 5000, "aten::cat"))
    of_gradient = stretches((0, 6000, "StackBackward0"), (3000, 5000, "aten::cat"))
    assert (part.get("copies"), alone["copies"], of_gradient.get("copies")) == (None, 1600, None)


def test_what_calls_operators_is_a_call_less_the_cost_of_the_profiler() -> None:
    rows = ((0, 6000, "aten::linear"), (1000, 5000, "aten::addmm"), (2000, 2100, "aten::expand"))
    found = stretches(*rows)
    assert found["kernels"] == 4000 - 100 - 100 - 400
    assert found["calls"] == (2000 - 100) + 400 + 100 + 600


def test_between_nodes_of_the_graph_it_is_the_engine_and_not_python() -> None:
    node = "autograd::engine::evaluate_function: TanhBackward0"
    assert stretches((0, 1000, node), (3000, 4000, node)) == {
        "calls": 1000 + 1900 + 1000,
        "python": 6000 - 100,
    }


def test_all_inside_the_step_of_the_optimiser_and_a_prediction_is_theirs() -> None:
    inside = (1000, 2000, "aten::mul_")
    assert stretches((0, 4000, "Optimizer.step#Adam.step"), inside)["optimiser"] == 4000 - 100
    assert stretches((0, 4000, PREDICTION), inside)["prediction"] == 4000 - 100


def test_a_disturbance_of_one_of_many_equal_operators_does_not_count() -> None:
    rows = [(1000 * n, 1000 * n + 50, "aten::t") for n in range(10)]
    rows[4] = (4000, 4900, "aten::t")
    assert stretches(*rows)["calls"] == 9 * 50 + 3 * 50 + 10 * 600


def test_lists_of_tensors_whose_shapes_are_not_recorded_count_as_nothing() -> None:
    class OfAnOlderVersion(NamedTuple):
        """What PyTorch 2.11 tells of an event: no `structured_input_shapes`."""

        event: Any

        def __getattr__(self, name: str) -> Any:
            if name == "structured_input_shapes":
                raise AttributeError(name)
            return getattr(self.event, name)

    x = torch.ones(7)

    def operators() -> float:
        torch.cat([x, x]).mul_(2)
        return 1.0

    raw, _, _ = record(operators, arguments=True)
    listed, plain = (count_events(events) for events in (raw, [*map(OfAnOlderVersion, raw)]))
    assert listed["operators"] == plain["operators"]
    assert listed["bytes"] == plain["bytes"] + (7 + 7 + 7) * 4  # Read both, write as the largest.
