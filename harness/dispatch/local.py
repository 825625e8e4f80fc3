"""Runs jobs on this machine, without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from harness.dispatch.admission import Admission
from harness.measure import machine
from harness.measure.launch import execute
from harness.measure.trial import Host
from harness.trial.events import Event
from harness.trial.jobs import Job, ParityJob, TrialJob


class InlineDispatcher:
    """Runs one batch at a time, or as many as there are cores if no job is exclusive.

    Trials on the GPU run one at a time, even if they are not exclusive.
    """

    def has_gpu(self) -> bool:
        """Say whether this machine has a GPU."""
        return machine.has_gpu()

    def certify(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, None]:
        """Run the parity jobs here."""
        return self._run([[job] for job in jobs])

    def run(
        self, batches: Iterable[Sequence[TrialJob]], *_: Admission | int
    ) -> Generator[Event, None, None]:
        """Run the trials here; the arguments for admission and retries mean nothing here."""
        return self._run(list(batches))

    def close(self) -> None:
        """Do nothing: nothing is left running."""

    def _run(self, batches: Sequence[Sequence[Job]]) -> Generator[Event, None, None]:
        """Run the batches in threads, which only wait for the processes of the jobs."""
        events: queue.SimpleQueue[Event | Future[None]] = queue.SimpleQueue()
        stop = threading.Event()
        host = Host(stop=stop)
        with ThreadPoolExecutor(max_workers=_slots(batches)) as pool:
            try:
                running = {pool.submit(execute, batch, host, events.put) for batch in batches}
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


def _slots(batches: Sequence[Sequence[Job]]) -> int:
    jobs = [job for batch in batches for job in batch]
    # Trials of a packed run would share the one GPU that they all see.
    if any(job.exclusive or (isinstance(job, TrialJob) and job.device == "gpu") for job in jobs):
        return 1
    return max(1, len(machine.usable_cores()) // max((job.threads for job in jobs), default=1))
