"""What the counters of a process say of trainings that do one thing."""

from __future__ import annotations

import gc
import mmap
import threading
import time
from collections.abc import Callable

import pytest

from harness.profiling.process import Counted, count, set_apart
from harness.trial.profile import Stretch
from tests.profiling.trainings import EPOCHS, timed


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def counted(epoch: Callable[[], object]) -> Counted:
    return count(timed(epoch), EPOCHS)


def test_collections_are_counted_and_timed() -> None:
    hooks = list(gc.callbacks)
    found = counted(lambda: gc.collect(0))
    assert found.counts["collections"] == 1
    assert 0 < found.seconds["collection"] < 1e-3
    assert gc.callbacks == hooks


def test_without_a_collection_there_is_none() -> None:
    assert counted(lambda: None).seconds["collection"] == 0


def test_a_sleep_is_waiting_and_work_is_not() -> None:
    asleep, busy = counted(lambda: time.sleep(0.005)), counted(lambda: spin(0.005))
    assert asleep.seconds["waiting"] > 0.8 * asleep.epoch_s
    assert asleep.counts["switches"] >= 1
    assert busy.seconds["waiting"] < 0.1 * busy.epoch_s


def test_new_memory_is_counted_by_the_page() -> None:
    pages = 100

    def touch() -> None:
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            for page in range(pages):
                memory[page * mmap.PAGESIZE] = 1

    assert counted(touch).counts["page_faults"] >= pages


def test_the_processor_time_of_other_threads_is_told_apart() -> None:
    def epoch() -> None:
        helper = threading.Thread(target=spin, args=[0.004])
        helper.start()
        helper.join()

    found = counted(epoch)
    assert found.counts["other_threads_s"] > 0.003
    assert found.counts["caller_s"] < 0.003
    assert found.seconds["waiting"] < 0.5 * found.epoch_s


def test_collection_and_waiting_are_taken_out_of_python_first() -> None:
    apart: dict[Stretch, float] = {"collection": 2.0, "waiting": 3.0}
    parts = set_apart({"python": 4.0, "kernels": 5.0, "waiting": 1.0}, apart)
    assert parts == {"python": 0.0, "kernels": 5.0, "collection": 2.0, "waiting": 3.0}
    assert set_apart({"kernels": 1.0}, apart)["collection"] == pytest.approx(1.0)


def test_the_system_works_where_large_arrays_are_touched() -> None:
    parts = set_apart({"python": 4.0, "kernels": 2.0, "copies": 3.0}, {"system": 4.0})
    assert parts == {"python": 4.0, "kernels": 0.0, "copies": 1.0, "system": 4.0}
