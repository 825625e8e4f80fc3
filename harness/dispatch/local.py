"""Runs jobs on this machine, without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from harness.dispatch.admission import Admission
from harness.measure import machine
from harness.measure.launch import Place, execute
from harness.trial.events import Event
from harness.trial.jobs import Job, ParityJob, TrialJob


class InlineDispatcher:
    """One batch at a time, or as many as there are cores if none of them is exclusive."""

    def has_gpu(self) -> bool:
        """Say whether this machine has a GPU."""
        return machine.has_gpu()

    def certify(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, None]:
        """Run the parity jobs here."""
        return self._run([[job] for job in jobs])

    def run(
        self, batches: Iterable[Sequence[TrialJob]], *_: Admission | int
    ) -> Generator[Event, None, None]:
        """Run the trials here; there is no other node to be admitted, or to be lost."""
        return self._run(list(batches))

    def close(self) -> None:
        """Nothing is left running."""

    def _run(self, batches: Sequence[Sequence[Job]]) -> Generator[Event, None, None]:
        """Run the jobs in threads that do nothing but wait for their processes."""
        events: queue.SimpleQueue[Event | Future[None]] = queue.SimpleQueue()
        places: queue.SimpleQueue[Place] = queue.SimpleQueue()
        stop = threading.Event()
        slots = _slots(batches)
        for _ in range(slots):
            places.put(Place())

        def run_batch(batch: Sequence[Job]) -> None:
            place = places.get()
            try:
                for job in batch:
                    for event in execute(job, place, stop):
                        events.put(event)
                    if stop.is_set():
                        return
            finally:
                places.put(place)

        with ThreadPoolExecutor(max_workers=slots) as pool:
            try:
                running = {pool.submit(run_batch, batch) for batch in batches}
                for future in running:
                    future.add_done_callback(events.put)
                while running:
                    event = events.get()
                    if isinstance(event, Future):
                        event.result()
                        running.remove(event)
                    else:
                        yield event
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
                for _ in range(slots):
                    places.get().close()


def _slots(batches: Sequence[Sequence[Job]]) -> int:
    jobs = [job for batch in batches for job in batch]
    if any(job.exclusive for job in jobs):
        return 1
    return max(1, len(machine.usable_cores()) // max((job.threads for job in jobs), default=1))
