"""A batch is lost with its node only if nothing that the node sent is left to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness import Task
from harness.dispatch import ray_batches
from harness.dispatch.placement import Batch, Node, Scheduler
from harness.dispatch.ray_batches import Flow
from harness.trial.events import Event, Progress, Started
from harness.trial.jobs import TrialJob
from harness.trial.record import CurvePoint, Record
from tests.helpers.doubles import ManualClock

HERE, THERE = Node("a", "A", 1, 0), Node("b", "B", 1, 0)


def job(number: int) -> TrialJob:
    return TrialJob(
        run="r",
        trial=f"t{number}",
        block=number,
        seed=number,
        task=Task(n_steps=2),
        backend="reference",
        device="cpu",
        threads=1,
        exclusive=True,
    )


def record(ended: TrialJob) -> Record:
    return Record(
        **ended.model_dump(include={"run", "trial", "block", "backend", "device", "seed", "task"}),
        node="-",
        started_utc="-",
        wall_s=1,
        threads=1,
        contended=False,
        status="ok",
    )


def progress(running: TrialJob) -> Progress:
    return Progress(job=running, point=CurvePoint(epoch=1, train_s=1, train_loss=1.0, eval_mse=1.0))


class FakeRay:
    """Streams with the given events; None: nothing has come yet."""

    def __init__(self, *streams: Sequence[Event | None]) -> None:
        self.streams = [list(events) for events in streams]
        self._sent = iter(range(len(streams)))
        self.cancelled: list[int] = []

    def options(self, **_: Any) -> FakeRay:
        return self

    def remote(self, *_: Any) -> Stream:
        return Stream(self, next(self._sent))

    def wait(self, streams: list[Stream], timeout: float = 0) -> tuple[list[Stream], list[Stream]]:
        ready = [s for s in streams if self.streams[s.number][:1] != [None]]
        return ready[:1], [s for s in streams if s not in ready[:1]]

    def get(self, event: Event) -> Event:
        return event

    def cancel(self, stream: Stream, force: bool) -> None:
        self.cancelled.append(stream.number)


class Stream:
    def __init__(self, ray: FakeRay, number: int) -> None:
        self.number, self._events = number, ray.streams[number]

    def __next__(self) -> Event:
        if not self._events:
            raise StopIteration
        event = self._events.pop(0)
        assert event is not None
        return event


class Looks:
    """The nodes that are alive at each look; the last answer stays."""

    def __init__(self, *answers: Sequence[Node]) -> None:
        self._answers = list(answers)

    def look(self) -> list[Node]:
        return list(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])

    def forget(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr(ray_batches, "now", made)
    monkeypatch.setattr(ray_batches, "bound_to", lambda node: None)
    return made


def flow(
    monkeypatch: pytest.MonkeyPatch, ray: FakeRay, nodes: Looks, jobs: int, max_retries: int = 0
) -> Iterator[Event]:
    monkeypatch.setattr(ray_batches, "ray", ray)
    monkeypatch.setattr(ray_batches, "_remote_batch", ray)
    scheduler = Scheduler(lambda *_: True)
    for number in range(jobs):
        scheduler.add(Batch((job(number),)))
    return Flow(scheduler, nodes, max_retries).events()  # type: ignore[arg-type]


def test_a_record_that_a_dead_node_had_sent_is_received(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    busy, dead = job(0), job(1)
    ray = FakeRay(
        [Started(job=busy), *[progress(busy)] * 4, record(busy)],
        [Started(job=dead), record(dead)],
    )
    statuses = {}
    for event in flow(monkeypatch, ray, Looks([HERE, THERE], [HERE]), 2):
        if isinstance(event, Progress):
            clock.spend(11)  # The session is busy: a store does not answer.
        elif isinstance(event, Record):
            statuses[event.trial] = event.status
    assert statuses == {"t0": "ok", "t1": "ok"}


def test_a_node_that_the_head_omits_now_and_then_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    running = job(0)
    ray = FakeRay([Started(job=running), None])
    events = flow(monkeypatch, ray, Looks([HERE], [HERE], [], [HERE], [], [HERE]), 1)
    assert isinstance(next(events), Started)
    original = ray.wait
    looks = 0

    def wait(streams: list[Stream], timeout: float = 0) -> tuple[list[Stream], list[Stream]]:
        nonlocal looks
        if timeout:
            looks += 1
            clock.spend(8)
            if looks == 6:
                ray.streams[0][:] = [record(running)]
        return original(streams, timeout)

    monkeypatch.setattr(ray, "wait", wait)
    assert [event.status for event in events if isinstance(event, Record)] == ["ok"]
    assert ray.cancelled == []


def test_a_batch_on_a_silent_node_is_lost_and_repeated_and_not_heard_again(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    running = job(0)
    ray = FakeRay([Started(job=running), None], [Started(job=running), record(running)])
    original = ray.wait

    def wait(streams: list[Stream], timeout: float = 0) -> tuple[list[Stream], list[Stream]]:
        if timeout:
            clock.spend(4)
            if len(ray.streams[1]) == 1:
                # The silent node is back, and has done it, too.
                ray.streams[0][:] = [record(running)]
        return original(streams, timeout)

    monkeypatch.setattr(ray, "wait", wait)
    events = list(flow(monkeypatch, ray, Looks([HERE, THERE], [THERE]), 1, max_retries=1))
    records = [event for event in events if isinstance(event, Record)]
    assert [(event.status, event.node) for event in records] == [("lost", "A"), ("ok", "-")]
    assert ray.cancelled == [0]
    assert ray.streams[0], "what the lost batch sends is left where it is"
