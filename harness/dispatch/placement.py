"""Which batch of jobs may go to which node now. Independent of Ray.

A node runs one exclusive batch and nothing beside it, or as many other batches as its cores and
GPUs hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from harness.measure.outcome import Messages, Outcome
from harness.trial.events import Certificate, Event, Progress, Refused, Started
from harness.trial.jobs import Job, TrialJob
from harness.trial.record import Record


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
        """Return what jobs need that run one after the other."""
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
    """Jobs that run in order on one node, and how far they are."""

    jobs: tuple[Job, ...]
    bound: Node | None = None
    """The only node that it may run on; None: any node."""
    optional: bool = False
    """The run may end without it."""
    go: int = 1
    """Counts how often the whole batch was sent to a node."""
    avoid: str = ""
    """The id of the node on which it was lost: other nodes are preferred."""
    left: deque[Job] = field(default_factory=deque)
    """The jobs without an outcome yet."""
    running: Messages | None = None
    """What the first of `left` has reported; None if it has not begun."""

    def __post_init__(self) -> None:
        self.left = deque(self.jobs)

    @property
    def need(self) -> Need:
        """What it needs of a node."""
        return Need.of(self.jobs)

    def update(self, event: Event) -> None:
        """Keep track of an event of the batch, so that `lost_trial` and `repeated` can be made."""
        match event:
            case Started(job=job):
                self.running = Messages(job)
            case Progress(point=point) if self.running:
                self.running.points.append(point)
            case Record() | Certificate() | Refused():
                self.running = None
                self.left.popleft()

    def repeated(self, avoid: str) -> Batch:
        """Return the whole batch once more, after it was lost on the node with the id `avoid`."""
        begun = len(self.jobs) - len(self.left) + (self.running is not None)
        jobs = (_next_go(job, number < begun) for number, job in enumerate(self.jobs))
        return Batch(tuple(jobs), go=self.go + 1, avoid=avoid)

    def lost_trial(self, node: str, reason: str) -> Outcome:
        """Return the outcome of the trial that was running or about to begin on a lost node."""
        return (self.running or Messages(self.left[0])).lost(node, reason)

    def rest(self) -> Batch | None:
        """Return the jobs after the one that was lost, if there are any."""
        rest = tuple(self.left)[1:]
        return Batch(rest) if rest else None


def _next_go(job: Job, begun: bool) -> Job:
    """Return a job of a batch that is repeated; `begun`: the number of this attempt is taken."""
    if not isinstance(job, TrialJob):
        return job
    return job.model_copy(update={"attempt": job.attempt + begun, "go": job.go + 1})


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
