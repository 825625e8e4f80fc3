"""Which batch of jobs may go to which node now. Independent of Ray.

A node runs one exclusive batch and nothing beside it, or as many other batches as its cores and
GPUs hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from harness.measure.clock import timestamp
from harness.trial.events import Certificate, Event, Progress, Refused, Started
from harness.trial.jobs import Job, TrialJob, go_in_rounds
from harness.trial.record import CurvePoint, Record


class Node(NamedTuple):
    """A node that can run something now."""

    id: str
    name: str
    """Its name in the tables."""
    cpus: float
    gpus: int
    taken: float = 0.0
    """How many of its cores are in use, by this run or by others."""


class Need(NamedTuple):
    """What a batch needs of a node."""

    device: str
    threads: int
    exclusive: bool

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Need:
        """Return what the jobs of a batch need."""
        return cls(
            "gpu" if any(job.device == "gpu" for job in jobs) else "cpu",
            max(job.threads for job in jobs),
            any(job.exclusive for job in jobs),
        )

    @property
    def gpus(self) -> int:
        """The number of GPUs: a trial sees one at most."""
        return int(self.device == "gpu")

    def fits(self, node: Node) -> bool:
        """Whether an idle node of this size could take the batch."""
        return node.cpus >= self.threads and node.gpus >= self.gpus

    def __str__(self) -> str:
        return f"{self.threads} core{'s' * (self.threads > 1)}" + " and a GPU" * self.gpus


@dataclass(eq=False)
class Batch:
    """Jobs that run together on one node, and how far they are."""

    jobs: tuple[Job, ...]
    bound: Node | None = None
    """The only node that it may run on; None: any node."""
    optional: bool = False
    """The run may end without it."""
    go: int = 1
    """Counts how often the whole batch was sent to a node."""
    avoid: str = ""
    """The id of the node on which it was lost: other nodes are preferred."""
    left: list[Job] = field(default_factory=list)
    """The jobs without an outcome yet."""
    begun: dict[str, str] = field(default_factory=dict)
    """When each trial began that has begun."""
    points: dict[str, list[CurvePoint]] = field(default_factory=dict)
    """The points of the curve of each trial so far."""

    def __post_init__(self) -> None:
        self.left = list(self.jobs)

    @property
    def need(self) -> Need:
        """What it needs of a node."""
        return Need.of(self.jobs)

    def update(self, event: Event) -> None:
        """Keep track of an event of the batch, so that `lost` and `repeated` can be made."""
        match event:
            case Started(job=TrialJob(trial=trial)):
                self.begun[trial] = timestamp()
            case Progress(job=job, point=point):
                self.points.setdefault(job.trial, []).append(point)
            case Record(trial=trial):
                self.left = [job for job in self.left if _trial(job) != trial]
            case Refused(job=job):
                self.left = [other for other in self.left if other != job]
            case Certificate(arm=arm):
                self.left = [job for job in self.left if job.arm != arm]

    def repeated(self, avoid: str) -> Batch:
        """Return the whole batch once more, after it was lost on the node with the id `avoid`."""
        return Batch(tuple(map(self._next, self.jobs)), go=self.go + 1, avoid=avoid)

    def lost(self, node: str, reason: str) -> Iterator[Record]:
        """Yield the record of each trial that was running or about to begin on a lost node."""
        trials = [job for job in self.jobs if isinstance(job, TrialJob)]
        for job in trials:
            if job in self.left:
                points = self.points.get(job.trial, [])
                after = f"training after epoch {points[-1].epoch}" if points else "starting"
                yield job.record(
                    node=node,
                    started_utc=self.begun.get(job.trial) or timestamp(),
                    wall_s=0.0,
                    status="lost",
                    error=f"{reason} ({after})",
                    timing="rounds" if go_in_rounds(trials) else "alone",
                    points=tuple(points),
                )

    def _next(self, job: Job) -> Job:
        if not isinstance(job, TrialJob):
            return job
        attempt = job.attempt + (job.trial in self.begun)
        return job.model_copy(update={"attempt": attempt, "go": job.go + 1})


def _trial(job: Job) -> str:
    return job.trial if isinstance(job, TrialJob) else ""


Target: TypeAlias = tuple[Need, Node | None]
"""What batches in one queue have in common: their need, and the node they are bound to."""


class Scheduler:
    """The batches that wait, in order, and those that are on a node."""

    def __init__(self, allows: Callable[[Node, Batch], bool]) -> None:
        """`allows(node, batch)` says whether this batch may run on this node."""
        self._allows = allows
        self.open = 0
        """How many batches have not ended, optional ones not counted."""
        self._waiting: dict[Target, deque[Batch]] = {}
        self._placed: dict[Batch, Node] = {}

    def add(self, batch: Batch, first: bool = False) -> None:
        """Add a batch at the end of its queue, or as its first."""
        self.open += not batch.optional
        queue = self._waiting.setdefault((batch.need, batch.bound), deque())
        queue.appendleft(batch) if first else queue.append(batch)

    def place(self, nodes: Sequence[Node]) -> Iterator[tuple[Batch, Node]]:
        """Yield each batch that a node has room for, with the node."""
        # Nodes without a GPU first; on nodes with one, the batches that need it first.
        queues = sorted(self._waiting.items(), key=lambda item: -item[0][0].gpus)
        for node in sorted(nodes, key=lambda node: node.gpus):
            for _, queue in queues:
                while queue and self._may_take(node, queue[0], nodes):
                    batch = queue.popleft()
                    self._placed[batch] = node
                    yield batch, node
        self._waiting = {target: queue for target, queue in self._waiting.items() if queue}

    def end(self, batch: Batch) -> Node:
        """Take a batch off its node, and return the node."""
        self.open -= not batch.optional
        return self._placed.pop(batch)

    def node_of(self, batch: Batch) -> Node:
        """Return the node that a batch is on."""
        return self._placed[batch]

    def on(self, node: Node) -> list[Batch]:
        """Return the batches on a node."""
        return [batch for batch, at in self._placed.items() if at.id == node.id]

    def waiting(self) -> dict[Need, int]:
        """Return how many batches without a bound node wait, by what they need."""
        return {need: len(queue) for (need, bound), queue in self._waiting.items() if not bound}

    def hopeless(self, nodes: Sequence[Node]) -> list[Target]:
        """Return the targets whose batches no node could take, even if it were idle."""
        return [
            target
            for target, queue in self._waiting.items()
            if not any(self._could_take(node, queue[0]) for node in nodes)
        ]

    def drop(self, targets: Iterable[Target]) -> list[Batch]:
        """Remove the waiting batches of these targets, and return them."""
        dropped = [batch for target in targets for batch in self._waiting.pop(target)]
        self.open -= sum(not batch.optional for batch in dropped)
        return dropped

    def _may_take(self, node: Node, batch: Batch, nodes: Sequence[Node]) -> bool:
        if not self._could_take(node, batch) or not self._has_room(node, batch.need):
            return False
        return batch.avoid != node.id or not any(
            other.id != node.id
            and self._could_take(other, batch)
            # Our own batches on it will end; work of others may go on for ever.
            and (self._has_room(other, batch.need) or self.on(other))
            for other in nodes
        )

    def _could_take(self, node: Node, batch: Batch) -> bool:
        elsewhere = batch.bound is not None and batch.bound.id != node.id
        return not elsewhere and batch.need.fits(node) and self._allows(node, batch)

    def _has_room(self, node: Node, need: Need) -> bool:
        here = [batch.need for batch in self.on(node)]
        if need.exclusive:
            return not here and not node.taken
        cpus = sum(other.threads for other in here) + need.threads
        gpus = sum(other.gpus for other in here) + need.gpus
        alone = any(other.exclusive for other in here)
        return not alone and cpus <= node.cpus and gpus <= node.gpus
