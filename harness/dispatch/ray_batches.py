"""Sends batches to the nodes of a Ray cluster, and yields the events that come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.dispatch.admission import Admission
from harness.dispatch.placement import Batch, Need, Node, Scheduler, Target
from harness.dispatch.ray_nodes import REFRESH_S, Nodes
from harness.errors import ClusterLost, brief
from harness.measure.clock import now
from harness.measure.launch import execute
from harness.measure.trial import Host
from harness.trial.events import Certificate, Event, Notice, Refused
from harness.trial.jobs import Job, ParityJob, TrialJob

_NOTICE_S = 10.0
"""How long work waits for cores that others use before the user gets a notice."""
_GONE_S = 10.0
"""How long after a node's death Ray may take to report what ran on it; then it counts as lost."""
_SILENT_S = 60.0
_SILENCE = "no node has answered for a minute: do all nodes have the token of the head?"
_MOST_DEMAND = 64
"""How many waiting batches the autoscaler sees; it starts its nodes step by step anyway."""


@ray.remote(num_returns="streaming", max_retries=0)
def _remote_batch(batch: Sequence[Job], node: str) -> Iterator[Event]:
    """Run a batch in a thread, and yield its events."""
    events: SimpleQueue[Event | Future[None]] = SimpleQueue()
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(execute, batch, Host(node), events.put).add_done_callback(events.put)
        while not isinstance(event := events.get(), Future):
            yield event
        event.result()


class Flow:
    """Sends batches to nodes and yields their events, until all have ended.

    A batch that is lost with its node or Ray worker is repeated whole, at most `max_retries` times.
    A batch that no node can take is refused after `timeout_s`. If set, `newcomers` certifies nodes
    that join, and `demand` shows waiting batches to Ray's autoscaler.
    """

    def __init__(
        self, scheduler: Scheduler, nodes: Nodes, max_retries: int = 0, timeout_s: float = 0.0
    ) -> None:
        self.newcomers: Newcomers | None = None
        self.demand: Demand | None = None
        self._scheduler = scheduler
        self._nodes = nodes
        self._max_retries = max_retries
        self._running: dict[Any, Batch] = {}
        self._dead_since: dict[Any, float] = {}
        """When the node of a stream was first seen dead, or the last event since."""
        self._timeout = _NodeTimeout(timeout_s)

    def events(self) -> Generator[Event, None, None]:
        """Yield the events; closing the iterator ends what is still running."""
        try:
            while self._scheduler.open:
                nodes = self._nodes.look()
                if self.newcomers:
                    yield from self.newcomers.receive(nodes)
                self._send(nodes)
                if self.demand:
                    self.demand.show(self._scheduler.waiting(), nodes)
                yield from self._timeout.check(self._scheduler, nodes, bool(self._running))
                if not self._running:
                    time.sleep(REFRESH_S / 4)
                    continue
                ready, _ = ray.wait(list(self._running), timeout=REFRESH_S)
                for stream in ready:
                    yield from self._shown(self._receive(stream))
                yield from self._shown(self._lose_with_nodes(nodes))
        except ClusterLost:
            raise  # Nothing can be ended without the head.
        except BaseException:
            self._abandon()
            raise
        self._abandon()

    def _shown(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield the events, less those that are only for the newcomers."""
        for event in events:
            if not (self.newcomers and self.newcomers.take(event)):
                yield event

    def _abandon(self) -> None:
        if self.demand:
            self.demand.withdraw()
        for stream in self._running:
            self._cancel(stream)

    def _cancel(self, stream: Any) -> None:
        with suppress(RayError):
            ray.cancel(stream, force=True)  # A stuck worker ignores anything less.

    def _send(self, nodes: Sequence[Node]) -> None:
        for batch, node in self._scheduler.place(nodes):
            need = batch.need
            task = _remote_batch.options(
                num_cpus=node.cpus if need.exclusive else need.threads,
                num_gpus=need.gpus,
                scheduling_strategy=bound_to(node),
            )
            self._running[task.remote(list(batch.jobs), node.name)] = batch

    def _receive(self, stream: Any) -> Iterator[Event]:
        batch = self._running[stream]
        self._dead_since.pop(stream, None)
        try:
            event: Event = ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._scheduler.end(batch)
        except RayError as error:
            del self._running[stream]
            yield from self._lose(batch, self._scheduler.end(batch), error)
        else:
            self._timeout.answered = True
            batch.update(event)
            yield event

    def _lose_with_nodes(self, nodes: Sequence[Node]) -> Iterator[Event]:
        """Give up the batches on dead nodes that Ray does not report.

        Ray notices when a connection breaks. A power cut or a cut cable breaks no connection, and
        Ray would take many minutes to notice.
        """
        alive = {node.id for node in nodes}
        for stream, batch in list(self._running.items()):
            # What the node sent before it died is received first.
            if self._scheduler.node_of(batch).id in alive or ray.wait([stream], timeout=0)[0]:
                self._dead_since.pop(stream, None)
                continue
            if now() - self._dead_since.setdefault(stream, now()) > _GONE_S:
                self._cancel(stream)
                del self._running[stream], self._dead_since[stream]
                error = NodeDiedError("it does not answer any more")
                yield from self._lose(batch, self._scheduler.end(batch), error)

    def _lose(self, batch: Batch, node: Node, error: RayError) -> Iterator[Event]:
        """Yield what follows from the loss of a batch, and repeat it if retries are left."""
        self._nodes.forget()
        if not batch.left:
            return
        job, reason = batch.left[0], explain(error)
        if not isinstance(job, TrialJob) or isinstance(error, RuntimeEnvSetupError):
            message = f"{job.label}: node {node.name}: {reason}"
            yield Refused(job=job, node=node.name, message=message)
            return
        last = batch.go > self._max_retries
        if batch.begun or last:
            yield from batch.lost(node.name, f"lost with its node or Ray worker: {reason}")
        if not last:
            self._scheduler.add(batch.repeated(avoid=node.id), first=True)
            yield Notice(
                message=f"{node.name} was lost with block {job.block} (seed {job.seed}): the whole "
                f"block is repeated, attempt {batch.go + 1} of {self._max_retries + 1}: {reason}"
            )


class Newcomers:
    """Nodes that join a run: each passes parity before it is given a trial."""

    def __init__(self, scheduler: Scheduler, admission: Admission, certified: set[str]) -> None:
        """`certified` has the ids of the nodes that were given parity jobs."""
        self._scheduler = scheduler
        self._admission = admission
        self._certified = certified
        self._open: dict[str, int] = {}
        """How many parity jobs have not ended, by the name of the node."""
        self._messages: list[str] = []

    def receive(self, nodes: Sequence[Node]) -> Iterator[Event]:
        """Give parity jobs to new nodes, and yield notices."""
        while self._messages:
            yield Notice(message=self._messages.pop(0))
        for node in nodes:
            jobs = [job for job in self._admission.jobs if Need.of([job]).fits(node)]
            if node.id in self._certified or not jobs:
                continue
            self._certified.add(node.id)
            self._admission.outcomes.pop(node.name, None)
            self._open[node.name] = len(jobs)
            for job in jobs:
                self._scheduler.add(Batch((job,), bound=node, optional=True), first=True)
            yield Notice(message=f"node {node.name} has joined: parity first")

    def take(self, event: Event) -> bool:
        """Take the outcome of a parity job; return whether the event is not to be yielded."""
        if isinstance(event, Certificate):
            self._add(event)
        elif isinstance(event, Refused) and isinstance(event.job, ParityJob):
            self._add(event)
            return True
        return False

    def _add(self, outcome: Certificate | Refused) -> None:
        self._admission.add(outcome)
        self._open[outcome.node] -= 1
        if not self._open[outcome.node]:
            self._messages += list(self._admission.left_out([outcome.node]))


class Demand:
    """Shows waiting batches to Ray's autoscaler, as placement groups; they end with this process.

    Each group asks for a node that does not exist yet. On an existing node, it would take the cores
    that an exclusive batch needs.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._groups: dict[Need, list[PlacementGroup]] = {}
        self._known: frozenset[str] = frozenset()
        """The ids of the nodes that exist."""

    def show(self, waiting: Mapping[Need, int], nodes: Sequence[Node]) -> None:
        """Show what waits now: add the groups that are missing, and remove those in excess."""
        known = frozenset(node.id for node in nodes)
        if known != self._known:
            self.withdraw()
        self._known = known
        for need in {*waiting, *self._groups}:
            groups = self._groups.setdefault(need, [])
            wanted = min(waiting.get(need, 0), _MOST_DEMAND)
            self._remove(groups[wanted:])
            del groups[wanted:]
            groups += [self._ask(need, nodes) for _ in range(wanted - len(groups))]

    def withdraw(self) -> None:
        """Remove all groups."""
        for groups in self._groups.values():
            self._remove(groups)
        self._groups.clear()

    def _remove(self, groups: Iterable[PlacementGroup]) -> None:
        for group in groups:
            if not self._nodes.lost:  # They end with this process anyway.
                self._nodes.ask(partial(_remove, group))

    def _ask(self, need: Need, nodes: Sequence[Node]) -> PlacementGroup:
        # An exclusive batch takes a whole node. The size of a new node is not known, so ask for
        # that of the smallest that fits: it surely exists.
        whole = (n.cpus for n in nodes if need.fits(n) and need.exclusive)
        bundle = {"CPU": min(whole, default=need.threads)}
        if need.gpus:
            bundle["GPU"] = need.gpus
        elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(self._known))})"}
        selector = [elsewhere] if self._known else None
        ask: Callable[[], PlacementGroup] = partial(
            placement_group, [bundle], bundle_label_selector=selector
        )
        return self._nodes.ask(ask)


def _remove(group: PlacementGroup) -> None:
    with suppress(RayError):
        remove_placement_group(group)


class _NodeTimeout:
    """Tells the user why work waits, and refuses what no node can take within `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self.answered = False
        """Whether a node has answered."""
        self._timeout_s = timeout_s
        self._since: dict[Target, float] = {}
        self._begun = self._idle_since = now()
        self._noticed = False

    def check(self, scheduler: Scheduler, nodes: Sequence[Node], working: bool) -> Iterator[Event]:
        """Yield notices, and refusals of the batches whose timeout is over."""
        hopeless = scheduler.hopeless(nodes)
        new = [need for need, bound in hopeless if (need, bound) not in self._since and not bound]
        self._since = {target: self._since.get(target, now()) for target in hopeless}
        if new and self._timeout_s:
            yield waiting_for(new, self._timeout_s)
        for batch in scheduler.drop([target for target in hopeless if self._is_over(target)]):
            for job in () if batch.optional else batch.jobs:
                yield refusal(job, batch.need, batch.bound)
        if working and not self.answered and now() - self._begun > _SILENT_S:
            yield from self._notice(_SILENCE)
        if working or hopeless:
            self._idle_since = now()
        elif now() - self._idle_since > _NOTICE_S:
            used = ", ".join(f"{n.taken:g} of {n.cpus:g} of {n.name}" for n in nodes if n.taken)
            yield from self._notice(
                f"waiting: cores are in use by others ({used}); a timed trial has a node alone"
            )

    def _notice(self, message: str) -> Iterator[Event]:
        if not self._noticed:
            self._noticed = True
            yield Notice(message=message)

    def _is_over(self, target: Target) -> bool:
        _, bound = target  # A node that went away comes back under another id.
        return bound is not None or now() - self._since[target] >= self._timeout_s


def waiting_for(needs: Iterable[Need], timeout_s: float) -> Notice:
    """Return the notice that no node has what is needed."""
    wanted = " and one with ".join(map(str, needs))
    return Notice(
        message=f"no node of the cluster can be used that has {wanted}: "
        f"waiting {timeout_s:g} s for one"
    )


def refusal(job: Job, need: Need, bound: Node | None = None) -> Refused:
    """Return the refusal of a job: no node can take it, or the node it is bound to is gone."""
    if bound:
        return Refused(job=job, node=bound.name, message=f"{job.label}: node {bound.name} is gone.")
    return Refused(job=job, message=f"{job.label}: no node of the cluster has {need}.")


def bound_to(node: Node) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that makes Ray run a task on this node only."""
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def explain(error: RayError) -> str:
    """Return the type and the first line of an error, or of its cause in a Ray task."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {brief(cause)}"
