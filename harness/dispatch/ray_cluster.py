"""Runs jobs on the nodes of a Ray cluster; the module that imports Ray, but for `submission`.

A Ray worker never trains: it starts the same process as the inline dispatcher does and passes its
events on, so the numbers do not depend on who dispatched.

Which node a batch of jobs goes to is decided here and not by Ray, because Ray has no name for "a
node and nothing beside it": each batch is a Ray task bound to its node, and claims every core of
it if its jobs are exclusive. What finds no room waits here, and is shown to Ray's autoscaler as
placement groups that no node of today can hold.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import Any

# An embedded Ray reads these when it starts. No usage statistics are sent; trials run at the same
# priority as without Ray (its workers are `nice` by default); Ray leaves the devices to us.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError
from ray.runtime_env import RuntimeEnv
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.dispatch.admission import Admission
from harness.dispatch.local import InlineDispatcher
from harness.dispatch.placement import Batch, Board, Line, Need, Node
from harness.dispatch.token import ADVICE, has_token
from harness.errors import ClusterLost, InvalidInput, Unavailable, UnknownName, brief
from harness.measure import machine
from harness.measure.clock import now
from harness.measure.launch import Place, execute, lost
from harness.trial.events import Certificate, Event, Notice, Refused
from harness.trial.jobs import Job, ParityJob, TrialJob

# Events are a few kilobytes and are read at once; Ray's own default takes a third of the memory.
_OBJECT_STORE_BYTES = 100 * 2**20
_LOOK_S = 0.2
"""How long what is known of the nodes is taken to be true."""
_HEAD_S = 20.0
"""How long the head may take to answer; Ray itself gives up after a minute."""
_SAY_S = 10.0
"""How long work waits for a node before a person is told."""
_SILENT_S = 60.0
_SILENCE = (
    "no node has answered for a minute: if the cluster asks for no token, say so here, too, by "
    "RAY_AUTH_MODE=disabled; if it does, its nodes need the same one"
)
_DEMAND = 64
"""As many waiting batches are shown to the autoscaler; it starts its nodes step by step anyway."""

_HERE = Place()
"""This process as a Ray worker: what it keeps from one batch to the next."""


@ray.remote(num_returns="streaming", max_retries=0)
def _execute_batch(batch: Sequence[Job], node: str) -> Iterator[Event]:
    _HERE.node = node
    for job in batch:
        yield from execute(job, _HERE)


@ray.remote(num_cpus=0, max_retries=0)
def _describe() -> dict[str, str]:
    return machine.describe() | machine.describe_gpu() | machine.installed_versions()


class RayDispatcher:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts a local Ray of its own.

    A local Ray takes seconds of all cores to start. This machine is its only node, so parity jobs
    run here without it, and it starts once they leave a core free. `runtime_env` is handed to Ray
    as it is. On a cluster, work that no node can take waits for `wait_s` for one that can. Raises
    `Unavailable` if there is no cluster at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
    ) -> None:
        address = address or os.environ.get("RAY_ADDRESS")
        self._runtime_env = dict(runtime_env or {})
        _check_runtime_env(self._runtime_env)
        # In a notebook, Ray may be running already: it is used and left running.
        self._owned = not ray.is_initialized()
        self._local = self._owned and address is None
        self._wait_s = 0.0 if self._local else wait_s
        # The processes of a local Ray die with the thread that started them; `close` ends it.
        self._starter = ThreadPoolExecutor(max_workers=1)
        self._started: Future[None] | None = None
        if self._owned and not self._local:
            _connect(address, self._runtime_env)
        self._nodes = _Nodes(alone=self._local)
        self._certified: set[str] = set()
        """The ids of the nodes that were given parity jobs."""

    def has_gpu(self) -> bool:
        """Say whether a node has a GPU."""
        return machine.has_gpu() if self._local else any(n.gpus for n in self._nodes.look())

    def describe(self) -> dict[str, dict[str, str]]:
        """Describe every node and what is installed there, by its name; `error` if it cannot be."""
        tasks = {
            node.name: _describe.options(scheduling_strategy=_bound_to(node)).remote()
            for node in self._nodes.look(all_of_them=True)
        }
        return {name: _answer(task) for name, task in tasks.items()}

    def certify(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, None]:
        """Run the parity jobs on every node that can take them, and yield their events.

        A job that no node can take waits for one; it is refused if none comes.
        """
        if self._local:
            for event in InlineDispatcher().certify(jobs):
                if isinstance(event, Certificate):
                    self._start()
                yield event
            return
        nodes = yield from self._await(jobs)
        board = Board(allows=lambda *_: True)
        for job in jobs:
            able = [node for node in nodes if Need.of([job]).fits(node)]
            # Nodes that others are using come later, as if they had joined.
            for node in [node for node in able if node.taken < node.cpus] or able:
                self._certified.add(node.id)
                board.add(Batch((job,), bound=node))
        yield from _Flow(board, self._nodes).events()

    def run(
        self, batches: Iterable[Sequence[TrialJob]], admission: Admission, max_retries: int = 0
    ) -> Generator[Event, None, None]:
        """Run the batches on the nodes that are admitted; one that joins late is certified first.

        A batch whose node or Ray worker is lost is repeated whole, `max_retries` times at most.
        """
        if self._local:
            self._start().result()
        board = Board(allows=lambda node, batch: _admits(admission, node, batch))
        for batch in batches:
            board.add(Batch(tuple(batch)))
        flow = _Flow(board, self._nodes, max_retries, self._wait_s)
        if not self._local:
            flow.newcomers = _Newcomers(board, admission, self._certified)
            flow.demand = _Demand()
        yield from flow.events()

    def close(self) -> None:
        """Stop the local Ray, or leave the cluster."""
        if self._started:
            self._started.exception()  # Wait until it is there before it is stopped.
        # Without its head, Ray would wait for that.
        if self._owned and not self._nodes.lost:
            ray.shutdown()
        self._starter.shutdown()

    def _start(self) -> Future[None]:
        self._started = self._started or self._starter.submit(_connect, None, self._runtime_env)
        return self._started

    def _await(self, jobs: Sequence[ParityJob]) -> Generator[Event, None, list[Node]]:
        """Wait until each job has a node that it fits on; refuse those that never get one."""
        demand, deadline, said = _Demand(), now() + self._wait_s, False
        try:
            while True:
                nodes = self._nodes.look()
                lacking = [j for j in jobs if not any(Need.of([j]).fits(n) for n in nodes)]
                needs = {Need.of([job]): 1 for job in lacking}
                if not lacking or now() > deadline:
                    break
                if not said:
                    yield Notice(message=_waits_for(needs, self._wait_s))
                said = True
                demand.show(needs, nodes)
                time.sleep(_LOOK_S)
        finally:
            demand.withdraw()
        for job in lacking:
            yield _refusal(job, Need.of([job]))
        return nodes


def _check_runtime_env(runtime_env: Mapping[str, Any]) -> None:
    known = sorted(RuntimeEnv.known_fields)
    problems = [UnknownName("field of `runtime_env`", n, known) for n in {*runtime_env} - {*known}]
    if problems:
        raise InvalidInput(*(problem.problems[0] for problem in problems))
    try:
        RuntimeEnv(**runtime_env)
    except (TypeError, ValueError, OSError) as error:
        raise InvalidInput(f"`runtime_env` is not one for Ray: {error}") from error


def _connect(address: str | None, runtime_env: Mapping[str, Any]) -> None:
    common = {"runtime_env": dict(runtime_env) or None, "logging_level": logging.ERROR}
    if address is None:
        _init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **common,
        )
        return
    _check_address(address)
    # Why it refuses somebody, Ray says on standard error only, again and again.
    with _captured_stderr() as said:
        try:
            _init(address=address, **common)
        except Unavailable as error:
            if "Unauthenticated" not in said():
                raise
            token = "the token here is not its own" if has_token() else "there is none here"
            raise Unavailable(
                f"the Ray cluster at `{address}` asks for a token, and {token}: {ADVICE}."
            ) from error


def _init(address: str, **arguments: Any) -> None:
    try:
        ray.init(address=address, log_to_driver=False, **arguments)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise Unavailable(f"Ray at `{address}` cannot be used: {brief(error)}.") from error


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what is written to standard error meanwhile, by whatever part of this process."""
    sys.stderr.flush()
    ours = os.dup(2)
    with TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield lambda: os.pread(kept.fileno(), 2**20, 0).decode(errors="replace")
        finally:
            os.dup2(ours, 2)
            os.close(ours)


def _check_address(address: str) -> None:
    """Raise `Unavailable` if nobody is there, which Ray would take minutes to say."""
    if address.startswith("ray://"):
        raise InvalidInput(
            f"`--address {address}`: a run is started on a node of the cluster, with `HEAD:6379`, "
            "or from anywhere by `submit`."
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise Unavailable(
            f"Ray at `{address}` cannot be used: nobody answers there ({error.strerror or error})."
        ) from error


class _Nodes:
    """The nodes of the cluster, each under a name of its own."""

    def __init__(self, alone: bool) -> None:
        """`alone`: the Ray is our own, so nobody else takes anything of it."""
        self.lost = False
        """Whether the head has gone."""
        self._alone = alone
        self._names: dict[str, str] = {}
        self._seen: list[Node] = []
        self._looked = -_LOOK_S
        self._asker = ThreadPoolExecutor(max_workers=1)

    def look(self, all_of_them: bool = False) -> list[Node]:
        """Return the nodes that are alive and have cores to run on, or all that are alive.

        Raises `ClusterLost` if the head does not answer.
        """
        if all_of_them or now() - self._looked >= _LOOK_S:
            nodes, free = self._ask()
            alive = [node for node in nodes if node["Alive"]]
            self._name(alive)
            self._seen = [self._node(node, free.get(node["NodeID"])) for node in alive]
            self._looked = now()
        return [node for node in self._seen if node.cpus or all_of_them]

    def _ask(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
        """Ask the head for the nodes, and for what is free on each."""

        def ask() -> tuple[Any, Any]:
            nodes = ray.nodes()
            return nodes, {} if self._alone else available_resources_per_node()

        try:
            # In a thread of its own: where there is no head any more, Ray waits for it, and in the
            # end takes the whole process down without a word of ours.
            return self._asker.submit(ask).result(timeout=_HEAD_S)
        except (RayError, OSError, RuntimeError) as error:
            self.lost = True
            raise ClusterLost(
                f"the head of the Ray cluster does not answer any more ({type(error).__name__})."
            ) from error

    def forget(self) -> None:
        """Look again the next time: something has happened to a node."""
        self._looked = -_LOOK_S

    def _node(self, node: Mapping[str, Any], free: Mapping[str, float] | None) -> Node:
        has = node["Resources"]
        cpus = has.get("CPU", 0.0)
        taken = 0.0 if free is None else cpus - free.get("CPU", 0.0)
        name = self._names[node["NodeID"]]
        return Node(node["NodeID"], name, cpus, int(has.get("GPU", 0)), taken)

    def _name(self, alive: Sequence[Mapping[str, Any]]) -> None:
        """Name each node as its owner did, or after its host; two of one name are told apart."""
        ids = {node["NodeID"] for node in alive}
        self._names = {id_: name for id_, name in self._names.items() if id_ in ids}
        for node in alive:
            given = node.get("NodeName") or ""
            name = node["NodeManagerHostname"] if given in {"", _address(node)} else given
            if node["NodeID"] not in self._names:
                self._names[node["NodeID"]] = _distinct(name, node["NodeID"], self._names.values())


class _Flow:
    """Sends batches to nodes and yields the events that come back, until all have ended."""

    def __init__(
        self, board: Board, nodes: _Nodes, max_retries: int = 0, wait_s: float = 0.0
    ) -> None:
        self.newcomers: _Newcomers | None = None
        self.demand: _Demand | None = None
        self._board = board
        self._nodes = nodes
        self._max_retries = max_retries
        self._running: dict[Any, Batch] = {}
        self._patience = _Patience(wait_s)

    def events(self) -> Generator[Event, None, None]:
        """Yield the events; closing the iterator ends what is still running."""
        try:
            while self._board.open:
                nodes = self._nodes.look()
                if self.newcomers:
                    yield from self.newcomers.receive(nodes)
                self._send(nodes)
                if self.demand:
                    self.demand.show(self._board.waiting(), nodes)
                yield from self._patience.judge(self._board, nodes, bool(self._running))
                if not self._running:
                    time.sleep(_LOOK_S / 4)
                    continue
                ready, _ = ray.wait(list(self._running), timeout=_LOOK_S)
                for stream in ready:
                    yield from self._receive(stream)
        except ClusterLost:
            raise  # There is nobody left to be told.
        except BaseException:
            self._abandon()
            raise
        self._abandon()

    def _abandon(self) -> None:
        if self.demand:
            self.demand.withdraw()
        for stream in self._running:
            # A worker that is stuck does not hear a kind word.
            with suppress(RayError):
                ray.cancel(stream, force=True)

    def _send(self, nodes: Sequence[Node]) -> None:
        for batch, node in self._board.place(nodes):
            need = batch.need
            task = _execute_batch.options(
                num_cpus=node.cpus if need.exclusive else need.threads,
                num_gpus=need.gpus,
                scheduling_strategy=_bound_to(node),
            )
            self._running[task.remote(list(batch.jobs), node.name)] = batch

    def _receive(self, stream: Any) -> Iterator[Event]:
        batch = self._running[stream]
        try:
            event: Event = ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._board.end(batch)
        except RayError as error:
            del self._running[stream]
            yield from self._lose(batch, self._board.end(batch), error)
        else:
            self._patience.hear()
            batch.see(event)
            if self.newcomers is None or not self.newcomers.take(event):
                yield event

    def _lose(self, batch: Batch, node: Node, error: RayError) -> Iterator[Event]:
        """Account for a batch that was lost with its node or worker; repeat it if that may be."""
        self._nodes.forget()
        if not batch.left:
            return
        job, why = batch.left[0], _brief(error)
        if not isinstance(job, TrialJob) or isinstance(error, RuntimeEnvSetupError):
            refused = Refused(
                job=job, node=node.name, message=f"{job.label}: node {node.name}: {why}"
            )
            if self.newcomers is None or not self.newcomers.take(refused):
                yield refused
            return
        last = batch.go > self._max_retries
        if batch.running or last:
            yield lost(job, batch.loss(node.name, f"lost with its node or Ray worker: {why}"))
        if not last:
            self._board.add(batch.again(node.id), first=True)
            yield Notice(
                message=f"{node.name} was lost with block {job.block} (seed {job.seed}): the whole "
                f"block is repeated, go {batch.go + 1} of {self._max_retries + 1}: {why}"
            )
        elif rest := batch.rest():
            self._board.add(rest, first=True)


class _Newcomers:
    """Nodes that join a run: each is held against the reference before it is given a trial."""

    def __init__(self, board: Board, admission: Admission, certified: set[str]) -> None:
        self._board = board
        self._admission = admission
        self._certified = certified
        self._asked: dict[str, int] = {}
        """How many outcomes are awaited from a node, by its name."""
        self._news: list[str] = []

    def receive(self, nodes: Sequence[Node]) -> Iterator[Event]:
        """Give parity jobs to nodes that have not had any, and say what came of it."""
        while self._news:
            yield Notice(message=self._news.pop(0))
        for node in nodes:
            jobs = [job for job in self._admission.jobs if Need.of([job]).fits(node)]
            if node.id in self._certified or not jobs:
                continue
            self._certified.add(node.id)
            self._admission.outcomes.pop(node.name, None)
            self._asked[node.name] = len(jobs)
            for job in jobs:
                self._board.add(Batch((job,), bound=node, optional=True), first=True)
            yield Notice(message=f"node {node.name} has joined: parity first")

    def take(self, event: Event) -> bool:
        """Take the outcome of a parity job; return whether nobody else needs to see it."""
        if isinstance(event, Certificate):
            self._hear(event)
        elif isinstance(event, Refused) and isinstance(event.job, ParityJob):
            self._hear(event)
            return True
        return False

    def _hear(self, outcome: Certificate | Refused) -> None:
        self._admission.add(outcome)
        self._asked[outcome.node] -= 1
        if not self._asked[outcome.node]:
            self._news += list(self._admission.left_out([outcome.node]))


class _Demand:
    """Shows waiting work to Ray's autoscaler, as placement groups; they end with this process.

    Each must go to a node that is not there yet: those that are would take it when a batch of ours
    is to have all of their cores.
    """

    def __init__(self) -> None:
        self._groups: dict[Need, list[PlacementGroup]] = {}
        self._there: frozenset[str] = frozenset()

    def show(self, waiting: Mapping[Need, int], nodes: Sequence[Node]) -> None:
        """Show what waits now; changes no more than differs from what was shown before."""
        there = frozenset(node.id for node in nodes)
        if there != self._there:
            self.withdraw()
        self._there = there
        for need in {*waiting, *self._groups}:
            groups = self._groups.setdefault(need, [])
            wanted = min(waiting.get(need, 0), _DEMAND)
            _remove(groups[wanted:])
            del groups[wanted:]
            groups += [self._ask(need, nodes) for _ in range(wanted - len(groups))]

    def withdraw(self) -> None:
        """Show nothing any more."""
        for groups in self._groups.values():
            _remove(groups)
        self._groups.clear()

    def _ask(self, need: Need, nodes: Sequence[Node]) -> PlacementGroup:
        elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(self._there))})"}
        group: PlacementGroup = placement_group(
            [_bundle(need, nodes)], bundle_label_selector=[elsewhere] if self._there else None
        )
        return group


class _Patience:
    """Tells a person why work waits, and gives up on what no node can take for too long."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._since: dict[Line, float] = {}
        self._begun = self._idle_since = now()
        self._heard = self._said = False

    def hear(self) -> None:
        """Note that a node has answered."""
        self._heard = True

    def judge(self, board: Board, nodes: Sequence[Node], working: bool) -> Iterator[Event]:
        """Yield notices, and refusals of the batches that are given up."""
        hopeless = board.hopeless(nodes)
        new = [need for need, bound in hopeless if (need, bound) not in self._since and not bound]
        self._since = {line: self._since.get(line, now()) for line in hopeless}
        if new and self._wait_s:
            yield Notice(message=_waits_for(new, self._wait_s))
        for batch in board.drop([line for line in hopeless if self._is_over(line)]):
            for job in () if batch.optional else batch.jobs:
                yield _refusal(job, batch.need, batch.bound)
        if working and not self._heard and now() - self._begun > _SILENT_S and not self._said:
            self._said = True
            yield Notice(message=_SILENCE)
        if working or hopeless:
            self._idle_since = now()
        elif now() - self._idle_since > _SAY_S and not self._said:
            self._said = True
            yield Notice(message=_waits_for_others(nodes))

    def _is_over(self, line: Line) -> bool:
        _, bound = line  # A node that went away comes back under another id.
        return bound is not None or now() - self._since[line] >= self._wait_s


def _remove(groups: Iterable[PlacementGroup]) -> None:
    for group in groups:
        with suppress(RayError):
            remove_placement_group(group)


def _waits_for(needs: Iterable[Need], wait_s: float) -> str:
    wanted = " and one with ".join(map(str, needs))
    return f"no node of the cluster can be used that has {wanted}: waiting {wait_s:g} s for one"


def _waits_for_others(nodes: Sequence[Node]) -> str:
    taken = (f"{n.taken:g} of {n.cpus:g} of {n.name}" for n in nodes if n.taken)
    return (
        f"waiting: cores are in use by others ({', '.join(taken)}); a timed trial has a node alone"
    )


def _refusal(job: Job, need: Need, bound: Node | None = None) -> Refused:
    if bound:
        return Refused(job=job, node=bound.name, message=f"{job.label}: node {bound.name} is gone.")
    return Refused(job=job, message=f"{job.label}: no node of the cluster has {need}.")


def _bundle(need: Need, nodes: Sequence[Node]) -> dict[str, float]:
    """Return what a batch would take of a node that is not there yet.

    An exclusive one takes a whole node, of a size not known: that of the smallest there is, which
    asks for nothing that no kind of node has.
    """
    cpus = min((n.cpus for n in nodes if need.fits(n) and need.exclusive), default=need.threads)
    return {"CPU": cpus} | ({"GPU": need.gpus} if need.gpus else {})


def _bound_to(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _admits(admission: Admission, node: Node, batch: Batch) -> bool:
    parity = isinstance(batch.jobs[0], ParityJob)
    return parity or admission.allows(node.name, batch.need.device)


def _answer(task: Any) -> dict[str, str]:
    try:
        return dict(ray.get(task, timeout=60))
    except RayError as error:
        return {"error": _brief(error)}


def _distinct(name: str, node_id: str, taken: Collection[str]) -> str:
    """Return a name that no other node has, with as much of the id as that takes."""
    longer = (f"{name}#{node_id[-digits:]}" for digits in range(6, len(node_id) + 1))
    return next(name for name in (name, *longer) if name not in taken)


def _address(node: Mapping[str, Any]) -> str:
    return str(node["NodeManagerAddress"])


def _brief(error: Exception) -> str:
    """Return the line of an error that says what happened."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    return f"{type(error).__name__}: {brief(error)}"
