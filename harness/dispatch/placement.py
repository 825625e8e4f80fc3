"""Which batch of jobs may go to which node now: what a batch needs, what a node has left.

A node runs one exclusive batch and nothing beside it, or as many others as its cores and GPUs
hold. Nothing here knows of Ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from harness.measure.clock import now, timestamp
from harness.measure.launch import Loss, another_follows
from harness.trial.events import Certificate, Event, Progress, Refused, Started
from harness.trial.jobs import Job, TrialJob
from harness.trial.record import CurvePoint, Record


class Node(NamedTuple):
    """A node that can run something now."""

    id: str
    name: str
    """As the tables name it."""
    cpus: float
    gpus: int
    taken: float = 0.0
    """How many of its cores are taken, by us or by anybody."""


class Need(NamedTuple):
    """What a batch needs of a node; batches with the same need are interchangeable."""

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
        """The GPUs that it takes: a trial sees one."""
        return int(self.device == "gpu")

    def fits(self, node: Node) -> bool:
        """Whether a node could take it if it had nothing else to do."""
        return node.cpus >= self.threads and node.gpus >= self.gpus

    def __str__(self) -> str:
        return f"{self.threads} core{'s' * (self.threads > 1)}" + " and a GPU" * self.gpus


@dataclass(eq=False)
class Batch:
    """Jobs that run in order on one node, and what has become of them."""

    jobs: tuple[Job, ...]
    bound: Node | None = None
    """The one node that it may run on, if there is only one."""
    optional: bool = False
    """Nobody waits for it to end."""
    go: int = 1
    """Counts how often the whole batch was sent off."""
    avoid: str = ""
    """The id of the node on which it was lost: any other is better."""
    left: deque[Job] = field(default_factory=deque)
    """The jobs without an outcome yet."""
    attempts: dict[str, int] = field(default_factory=dict)
    """The number of the last attempt of each trial that has begun."""
    running: bool = False
    """Whether the first of those left has begun."""
    points: list[CurvePoint] = field(default_factory=list)
    """What that one has reported."""
    _began: float = 0.0
    _began_utc: str = ""

    def __post_init__(self) -> None:
        self.left = deque(self.jobs)

    @property
    def need(self) -> Need:
        """What it needs of a node."""
        return Need.of(self.jobs)

    def see(self, event: Event) -> None:
        """Keep the account: what would be lost if the node went away now."""
        match event:
            case Started(job=job, attempt=attempt):
                self.running = True
                self._began, self._began_utc = now(), timestamp()
                if isinstance(job, TrialJob):
                    self.attempts[job.trial] = attempt
                self.points.clear()
            case Progress(point=point):
                self.points.append(point)
            case Record() | Certificate() | Refused():
                self.running = False
                if not another_follows(self.left[0], event):
                    self.left.popleft()

    def again(self, node: str) -> Batch:
        """Return the batch as it is repeated whole after it was lost with a node."""
        return Batch(tuple(map(self._next, self.jobs)), go=self.go + 1, avoid=node)

    def loss(self, node: str, reason: str) -> Loss:
        """Return what is known of the trial that was running, or was about to."""
        job = self.left[0]
        assert isinstance(job, TrialJob)
        begun = self.attempts.get(job.trial, job.attempt - 1)
        if not self.running:
            return Loss(begun + 1, node, reason)
        wall_s = now() - self._began
        return Loss(begun, node, reason, self._began_utc, wall_s, tuple(self.points))

    def rest(self) -> Batch | None:
        """Return what comes after the job that was lost, if anything does."""
        rest = tuple(self.left)[1:]
        return Batch(rest) if rest else None

    def _next(self, job: Job) -> Job:
        if not isinstance(job, TrialJob):
            return job
        attempt = self.attempts.get(job.trial, job.attempt - 1) + 1
        return job.model_copy(update={"attempt": attempt, "go": job.go + 1})


Line: TypeAlias = tuple[Need, Node | None]
"""What batches that wait for the same thing have in common: their need, and where they must go."""


class Board:
    """The batches that wait, in order, and those that are on a node."""

    def __init__(self, allows: Callable[[Node, Batch], bool]) -> None:
        """Take who says whether a batch may go to a node that has room."""
        self._allows = allows
        self.open = 0
        """How many batches have not ended that are not optional."""
        self._waiting: dict[Line, deque[Batch]] = {}
        self._placed: dict[Batch, Node] = {}

    def add(self, batch: Batch, first: bool = False) -> None:
        """Let a batch wait for its turn, or for the first free node."""
        self.open += not batch.optional
        line = self._waiting.setdefault((batch.need, batch.bound), deque())
        line.appendleft(batch) if first else line.append(batch)

    def place(self, nodes: Sequence[Node]) -> Iterator[tuple[Batch, Node]]:
        """Take each batch that a node has room for, and say which."""
        # Nodes without a GPU come first, and on those with one the work that needs it.
        lines = sorted(self._waiting.items(), key=lambda item: -item[0][0].gpus)
        for node in sorted(nodes, key=lambda node: node.gpus):
            for _, line in lines:
                while line and self._may_take(node, line[0], nodes):
                    batch = line.popleft()
                    self._placed[batch] = node
                    yield batch, node
        self._waiting = {key: line for key, line in self._waiting.items() if line}

    def end(self, batch: Batch) -> Node:
        """Note that a batch is no longer on its node, and return that."""
        self.open -= not batch.optional
        return self._placed.pop(batch)

    def on(self, node: Node) -> list[Batch]:
        """Return the batches on a node."""
        return [batch for batch, at in self._placed.items() if at.id == node.id]

    def waiting(self) -> dict[Need, int]:
        """Return how many batches wait for whatever node, by what they need."""
        return {need: len(batches) for (need, bound), batches in self._waiting.items() if not bound}

    def hopeless(self, nodes: Sequence[Node]) -> list[Line]:
        """Return the lines whose batches no node could take, even with nothing else to do."""
        return [
            line
            for line, batches in self._waiting.items()
            if not any(self._could_take(node, batches[0]) for node in nodes)
        ]

    def drop(self, lines: Iterable[Line]) -> list[Batch]:
        """Take the batches in these lines off the board, and return them."""
        dropped = [batch for line in lines for batch in self._waiting.pop(line)]
        self.open -= sum(not batch.optional for batch in dropped)
        return dropped

    def _may_take(self, node: Node, batch: Batch, nodes: Sequence[Node]) -> bool:
        if not self._could_take(node, batch) or not self._has_room(node, batch.need):
            return False
        return batch.avoid != node.id or not any(
            other.id != node.id
            and self._could_take(other, batch)
            # Others may keep theirs for good; our own batches end.
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
