"""Runs jobs on the nodes of a Ray cluster.

A Ray worker never trains: it starts the same process as the inline dispatcher does and passes its
events on, so the numbers do not depend on the dispatcher.

The harness decides which node a batch goes to, because Ray has no name for "a node and nothing
beside it": each batch is a Ray task bound to its node, and claims every core of it if its jobs are
exclusive. Batches that find no room wait in the driver, and are shown to Ray's autoscaler as
placement groups that no existing node can hold.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from harness.dispatch.admission import Admission
from harness.dispatch.local import InlineDispatcher
from harness.dispatch.placement import Batch, Need, Node, Scheduler
from harness.dispatch.ray_batches import (
    Demand,
    Flow,
    Newcomers,
    bound_to,
    explain,
    refusal,
    waiting_for,
)
from harness.dispatch.ray_connect import (
    check_import_path,
    check_runtime_env,
    cluster_address,
    connect,
    leave_local,
)
from harness.dispatch.ray_nodes import REFRESH_S, Nodes
from harness.measure import machine
from harness.measure.clock import now
from harness.trial.events import Certificate, Event
from harness.trial.jobs import ParityJob, TrialJob

_ANSWER_S = 60.0
_NO_ANSWER = f"it has not answered for {_ANSWER_S:g} s"


@ray.remote(num_cpus=0, max_retries=0)
def _describe() -> dict[str, str]:
    return machine.describe() | machine.describe_gpu() | machine.installed_versions()


class RayDispatcher:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts a local Ray.

    A local Ray takes seconds of all cores to start. This machine is its only node, so parity jobs
    run here without it, and it starts once they leave a core free. `runtime_env` is passed to Ray
    unchanged. On a cluster, work that no node can take waits for `wait_s` for one that can. Raises
    `Unavailable` if there is no cluster at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
    ) -> None:
        address = cluster_address(address)
        self._runtime_env = dict(runtime_env or {})
        check_runtime_env(self._runtime_env)
        check_import_path(self._runtime_env)
        # In a notebook, Ray may be running already: it is used and left running.
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        self._owned = not ray.is_initialized()
        self._local = self._owned and address is None
        self._wait_s = 0.0 if self._local else wait_s
        # The processes of a local Ray die with the thread that started them; `close` ends it.
        self._starter = ThreadPoolExecutor(max_workers=1)
        self._started: Future[None] | None = None
        if self._owned and not self._local:
            with _waiting_sigterm():
                connect(address, self._runtime_env)
                self._keep_sigterm()
        self._nodes = Nodes(alone=self._local)
        self._certified: set[str] = set()
        """The ids of the nodes that were given parity jobs."""

    def has_gpu(self) -> bool:
        """Say whether a node has a GPU."""
        return machine.has_gpu() if self._local else any(n.gpus for n in self._nodes.look())

    def describe(self) -> dict[str, dict[str, str]]:
        """Return machine and versions of every node, by its name; `error` if one cannot be asked.

        The keys are those of `machine.describe`, and `version:PACKAGE`.
        """
        tasks = {
            node.name: _describe.options(scheduling_strategy=bound_to(node)).remote()
            for node in self._nodes.look(all_of_them=True)
        }
        ready, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=_ANSWER_S)
        return {
            name: _answer(task) if task in ready else {"error": _NO_ANSWER}
            for name, task in tasks.items()
        }

    def certify(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, None]:
        """Run the parity jobs on every node that can take them, and yield their events.

        A job that no node can take waits for one, and is refused after `wait_s`.
        """
        if self._local:
            for event in InlineDispatcher().certify(jobs):
                if isinstance(event, Certificate):
                    self._start()
                self._keep_sigterm()
                yield event
            return
        nodes = yield from self._await(jobs)
        scheduler = Scheduler(allows=lambda *_: True)
        for job in jobs:
            able = [node for node in nodes if Need.of([job]).fits(node)]
            # Nodes that others use completely are certified later, like nodes that join.
            for node in [node for node in able if node.taken < node.cpus] or able:
                self._certified.add(node.id)
                scheduler.add(Batch((job,), bound=node))
        yield from Flow(scheduler, self._nodes).events()

    def run(
        self, batches: Iterable[Sequence[TrialJob]], admission: Admission, max_retries: int = 0
    ) -> Generator[Event, None, None]:
        """Run each batch in order on one node that is admitted; new nodes are certified first.

        A node runs nothing beside a batch with an exclusive job. Each job yields `Started`, any
        `Progress`, and an outcome. A batch whose node or Ray worker is lost is repeated whole, at
        most `max_retries` times. Closing the iterator ends what is still running.
        """
        if self._local:
            self._start().result()
            self._keep_sigterm()

        def allows(node: Node, batch: Batch) -> bool:
            parity = isinstance(batch.jobs[0], ParityJob)
            return parity or admission.allows(node.name, batch.need.device)

        scheduler = Scheduler(allows)
        for batch in batches:
            scheduler.add(Batch(tuple(batch)))
        flow = Flow(scheduler, self._nodes, max_retries, self._wait_s)
        if not self._local:
            flow.newcomers = Newcomers(scheduler, admission, self._certified)
            flow.demand = Demand(self._nodes)
        yield from flow.events()

    def close(self) -> None:
        """Stop the local Ray, or leave the cluster."""
        if self._started:
            self._started.exception()  # Wait until it runs before it is stopped.
        if self._owned and not self._nodes.lost:  # Without its head, Ray would wait for that.
            (leave_local if self._local else ray.shutdown)()
        self._starter.shutdown()

    def _start(self) -> Future[None]:
        self._started = self._started or self._starter.submit(connect, None, self._runtime_env)
        return self._started

    def _keep_sigterm(self) -> None:
        """Let SIGTERM do what it did: Ray prints a stack, and aborts the process 3 s later."""
        if self._on_sigterm and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _await(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, list[Node]]:
        """Wait until each job has a node that it fits on; refuse those that never get one."""
        demand, deadline, noticed = Demand(self._nodes), now() + self._wait_s, False
        try:
            while True:
                nodes = self._nodes.look()
                lacking = [j for j in jobs if not any(Need.of([j]).fits(n) for n in nodes)]
                needs = {Need.of([job]): 1 for job in lacking}
                if not lacking or now() > deadline:
                    break
                if not noticed:
                    yield waiting_for(needs, self._wait_s)
                noticed = True
                demand.show(needs, nodes)
                time.sleep(REFRESH_S)
        finally:
            demand.withdraw()
        for job in lacking:
            yield refusal(job, Need.of([job]))
        return nodes


@contextmanager
def _waiting_sigterm() -> Iterator[None]:
    """Let SIGTERM wait until `_keep_sigterm`.

    Ray's handlers would end this process without a word: one in C++, and one that exits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    except SystemExit as error:  # Another thread took the signal.
        if error.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(task: Any) -> dict[str, str]:
    try:
        return dict(ray.get(task))
    except RayError as error:
        return {"error": explain(error)}
