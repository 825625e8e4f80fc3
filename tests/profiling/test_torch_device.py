"""What the processor waits for while a device is busy: spans of time that are made up."""

from __future__ import annotations

import pytest
import torch

from harness.profiling.torch_device import Device, device, waits
from harness.profiling.torch_events import Event, record, walk
from harness.profiling.torch_operators import Empty, Parts, look
from tests.profiling.trainings import EPOCHS, timed

DEVICE = Device(kernels=[(0, 100), (200, 400)], copies=[(350, 500), (600, 700)])


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 100), (100, 0)),
        ((50, 250), (100, 0)),
        ((300, 450), (100, 50)),
        ((550, 1000), (0, 100)),
        ((800, 900), (0, 0)),
    ],
)
def test_a_span_is_cut_at_what_the_device_does(
    span: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert DEVICE.during(*span) == expected


def test_the_device_is_busy_with_either() -> None:
    assert DEVICE.busy_s == pytest.approx((100 + 300 + 100) / 1e9)


def test_waiting_for_a_busy_device_is_the_time_of_its_kernels() -> None:
    parts = Parts(0, Empty(0.0, 1e-7, {(True, False): 0.0}), DEVICE)
    rows = [
        (0, 150, "aten::mm"),
        (300, 550, "cudaStreamSynchronize"),
        (600, 650, "cudaMemcpyAsync"),
    ]
    walk([Event(*row, thread=1, graph=False) for row in rows], parts.nodes.append)
    parts.add_up()
    found = {name: round(seconds * 1e9) for name, seconds in parts.stretches(650e-9).items()}
    assert found == {
        "calls": 150,
        "kernels": 100,
        "copies": 100 + 50,
        "waiting": 50,
        "python": 150 + 50,
    }


def test_what_the_profiler_of_the_device_does_for_itself_is_taken_off() -> None:
    parts = Parts(0, Empty(0.0, 1e-7, {(True, False): 0.0}), DEVICE)
    rows = [
        (0, 150, "cudaGraphLaunch"),
        (50, 100, "Activity Buffer Request"),
        (150, 170, "Buffer Flush"),
        (200, 300, "Command Buffer Full"),
    ]
    walk([Event(*row, thread=1, graph=False) for row in rows], parts.nodes.append)
    parts.add_up()
    found = {name: round(seconds * 1e9) for name, seconds in parts.stretches(300e-9).items()}
    assert found == {"calls": 100, "kernels": 100, "copies": 0, "waiting": 0, "python": 30}


def test_only_what_waits_for_the_device_is_a_wait() -> None:
    assert waits("cudaDeviceSynchronize")
    assert waits("cudaMemcpyAsync")
    assert not waits("cudaLaunchKernel")


def test_without_a_device_there_is_none() -> None:
    assert device(record(timed(lambda: torch.ones(1)))[0]) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_of_a_real_device_are_counted_and_waited_for() -> None:
    x = torch.ones(4000, 4000, device="cuda")

    def epoch() -> None:
        torch.mm(x, x)
        torch.cuda.synchronize()

    train = timed(epoch)
    train()
    found = look(train, EPOCHS, train() / EPOCHS)
    assert found
    assert found.counts["kernels"] >= 1
    assert 0.5 < found.counts["device_busy_s"] / sum(found.seconds.values()) < 1.01
    assert found.seconds["kernels"] > 0.5 * sum(found.seconds.values())
