"""How long a call waited for the processor, and the probe beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import machine
from harness.measure.probe import Probe, State
from harness.measure.run_queue import Reading, RunQueue, waited_s, waits

SECONDS = st.floats(0, 1000)
COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10**12), min_size=1)


def reading(at_s: float, **counted: int) -> Reading:
    return Reading(at_s, 0.0, counted, 0.0, at_s)


@given(COUNTS, COUNTS, SECONDS, SECONDS)
def test_never_more_than_the_threads_waited_nor_than_none_of_them_ran(
    before: dict[str, int], more: dict[str, int], wall_s: float, cpu_s: float
) -> None:
    # Threads end and begin in between.
    after = {name: before.get(name, 0) + ns for name, ns in more.items()}
    waited = waited_s(reading(5.0, **before), reading(5.0 + wall_s, **after), cpu_s)
    assert waited is not None
    assert 0 <= waited <= sum(more.values()) / 1e9
    assert waited <= max(0.0, wall_s - cpu_s + 1e-9)


@given(st.integers(0, 10**10), SECONDS, SECONDS)
def test_a_thread_that_only_waits_and_works(waits_ns: int, cpu_s: float, sleep_s: float) -> None:
    end = reading(cpu_s + waits_ns / 1e9 + sleep_s, one=7 + waits_ns)
    assert waited_s(reading(0.0, one=7), end, cpu_s) == pytest.approx(waits_ns / 1e9, abs=1e-9)


def test_two_threads_that_hand_over_to_each_other_do_not_wait() -> None:
    # Each stands in the queue while the other works: one of them always runs.
    assert waited_s(reading(0.0, a=0, b=0), reading(2.0, a=10**9, b=10**9), 2.0) == 0


def test_where_nothing_is_counted_nothing_is_known() -> None:
    assert waited_s(reading(0.0), reading(1.0), 0.5) is None
    assert waits([2**22 + 1]) == {}


def clock(times_s: Iterable[float]) -> RunQueue:
    return RunQueue(list, iter(times_s).__next__)


def test_a_reading_that_was_interrupted_is_taken_anew() -> None:
    queue = clock([0, 1e-5, 1, 1.01, 2, 2.00003, 3])
    assert queue.read().after_s == 1e-5
    assert queue.read().before_s == 2


def test_on_a_machine_that_is_always_interrupted_a_reading_ends() -> None:
    queue = clock([0, 0, *range(1, 100)])
    queue.read()
    assert queue.read().before_s == 5


needs_linux = pytest.mark.skipif(not waits([os.getpid()]), reason="waiting is not counted here")

# Pins itself to a core, says so, and then works.
BUSY = "import os; os.sched_setaffinity(0, [{}]); print(flush=True)\nwhile True: pass"
# Works for half a second of processor time on that core, between two readings.
WORK = """
import os, time
from harness.measure.run_queue import RunQueue, waited_s
os.sched_setaffinity(0, [{}])
queue = RunQueue(lambda: [os.getpid()])
start = queue.read()
while time.process_time() < start.cpu_after_s + 0.5: pass
end = queue.read()
cpu_s = end.cpu_before_s - start.cpu_after_s
print(end.before_s - start.after_s, waited_s(start, end, cpu_s), cpu_s)
"""


@needs_linux
def test_work_beside_a_busy_process_takes_what_it_takes_alone() -> None:
    core = machine.usable_cores()[-1]
    with subprocess.Popen(
        [sys.executable, "-c", BUSY.format(core)], stdout=subprocess.PIPE
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        done = subprocess.run(
            [sys.executable, "-c", WORK.format(core)], capture_output=True, text=True, check=True
        )
        busy.kill()
    wall_s, waited, cpu_s = map(float, done.stdout.split())
    assert wall_s > 1.2 * cpu_s
    assert wall_s - waited == pytest.approx(cpu_s, rel=0.05)


# ---- the probe


def test_the_probe_answers_and_ends_with_its_block() -> None:
    core = machine.usable_cores()[-1]
    children = psutil.Process().children
    before = set(children())
    with Probe((core,)) as probe:
        (process,) = set(children()) - before
        for _ in range(2):
            state = probe()
            assert state is not None
            assert min(state) > 0
        assert process.cpu_affinity() == [core]
        process.kill()
        process.wait()
        assert probe() is None
    assert set(children()) == before


def test_the_mean_of_two_states() -> None:
    assert State(1, 3).mean(State(2, 5)) == (1.5, 4)
