"""Runs jobs on this machine, without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from harness import machine
from harness.jobs import Event, Job
from harness.launch import execute


class InlineDispatcher:
    """One batch at a time, or as many as there are cores if none of them is exclusive."""

    def has_gpu(self) -> bool:
        """Say whether this machine has a GPU."""
        return machine.has_gpu()

    def run(self, batches: Sequence[Sequence[Job]]) -> Generator[Event, None, None]:
        """Run the jobs in threads that do nothing but wait for their processes."""
        events: queue.SimpleQueue[Event | Future[None]] = queue.SimpleQueue()
        stop = threading.Event()

        def run_batch(batch: Sequence[Job]) -> None:
            for job in batch:
                for event in execute(job, stop):
                    events.put(event)
                if stop.is_set():
                    return

        with ThreadPoolExecutor(max_workers=_slots(batches)) as pool:
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

    def close(self) -> None:
        """Nothing is left running."""


def _slots(batches: Sequence[Sequence[Job]]) -> int:
    jobs = [job for batch in batches for job in batch]
    if any(job.exclusive for job in jobs):
        return 1
    return max(1, len(machine.usable_cores()) // max((job.threads for job in jobs), default=1))
