"""Runs an experiment: parity first, then every trial; each result is saved as it comes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, field_validator, model_validator

from harness.dispatch.admission import Admission
from harness.dispatch.dispatcher import NAMES, Dispatcher, dispatcher
from harness.errors import ClusterLost, InvalidInput, StoreError, Unavailable, UnknownName
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.runs import precision
from harness.runs.results import TABLES, Run
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from harness.tables.numbers import percent
from harness.task.task import PRESETS, Task
from harness.trial.arms import DEVICES, Arm, Device, Selection, distinct
from harness.trial.events import Certificate, Event, Planned, Refused
from harness.trial.jobs import TrialJob
from harness.trial.plan import Plan, seeds_at_once
from harness.trial.record import Isolation, Record
from harness.trial.sweep import Value, grid, swept_values

# What the user calls some fields of the plan.
_ASKED_AS = {"at_once": "vectorize"}


class Reporter(Protocol):
    """Is told what happens during a run."""

    def begin(self, trials: int, total: int) -> None:
        """`trials` of the `total` are about to run; the others are there already."""

    def grow(self, total: int) -> None:
        """There will be `total` trials: the pilot has told how many it takes."""

    def event(self, event: Event) -> None:
        """Something happened to a job."""

    def note(self, message: str) -> None:
        """Something the user should know."""


class Silence:
    """The reporter that says nothing."""

    def begin(self, trials: int, total: int) -> None:
        """Say nothing."""

    def grow(self, total: int) -> None:
        """Say nothing."""

    def event(self, event: Event) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""


class Settings(Selection):
    """How a task is measured. Raises `InvalidInput` with a sentence for every bad value."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Which seeds; a number n stands for 0, 1, ..., n-1."""
    threads: int = Field(1, ge=1)
    """Threads of each trial."""
    packed: bool = False
    """Fill the machine with trials: same accuracy, times that are not to be compared."""
    timeout_s: float | None = Field(None, gt=0)
    """Kill a trial that takes longer than this many seconds."""
    retry_noisy: int = Field(0, ge=0)
    """Measure a trial again that was disturbed, up to so many times; see `harness.trial.noise`."""
    sweep: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Task fields and the values that each takes: a grid, of which each point is a task."""
    vectorize: Annotated[int, Field(ge=2)] | Literal["all"] | None = None
    """How many seeds a backend trains at once, if it can; True or "all": all of them."""
    isolation: Isolation = "process"
    """A process for each trial, or one for all trials of a backend (on a node), one by one."""
    max_retries: int = Field(2, ge=0)
    """Repeat a block whose node, or Ray worker, went away, up to so many times."""
    precision: float | None = Field(None, gt=0, le=0.5)
    """To within which share to know every time ratio: 0.02 is +-2 %. Runs as many blocks as that
    takes, the given seeds and at least `harness.runs.precision.PILOT` first."""
    budget_s: float | None = Field(None, gt=0)
    """With `precision`: begin no block that would not end within so many seconds of the start."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_seeds(cls, value: object) -> object:
        return tuple(range(value)) if isinstance(value, int) and value > 0 else value

    @field_validator("vectorize", mode="before")
    @classmethod
    def _all_or_none(cls, value: object) -> object:
        if isinstance(value, bool):
            return "all" if value else None
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("seeds")
    @classmethod
    def _not_negative(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(distinct(value)) < 0:
            raise ValueError("seeds are not negative")
        return value

    @model_validator(mode="after")
    def _has_ratios_to_know(self) -> Self:
        problems = []
        if self.budget_s is not None and self.precision is None:
            problems.append("`budget_s` is the budget of `precision`: give both, or neither.")
        if self.precision is not None and self.packed:
            problems.append(
                "`precision` and `packed` exclude each other: times with other trials beside them "
                "are not compared."
            )
        if self.precision is not None and (self.sweep or self.vectorize):
            problems.append(
                "`precision` asks for as many blocks of one seed of one task as it takes: it takes "
                "no `sweep` and no `vectorize`."
            )
        devices = 1 if self.devices == "auto" else len(self.devices)
        if self.precision is not None and len(self.backends) * devices < 2:
            problems.append(
                "`precision` is that of time ratios, and there is nothing to compare "
                f"`{self.backends[0]}` with: name two backends or two devices."
            )
        if problems:
            raise InvalidInput(*problems)
        return self

    def plan(self, run: str, task: Task, has_gpu: bool) -> Plan:
        """Return the plan of a run; `has_gpu` decides what "auto" means.

        Raises `InvalidInput` if a point of the sweep is no task, or cannot be cut into chunks.
        """
        pilot = 0 if self.precision is None else max(precision.PILOT, len(self.seeds))
        as_they_are = {"threads", "packed", "timeout_s", "retry_noisy", "precision", "budget_s"}
        as_they_are |= {"isolation", "max_retries"}
        at_once = seeds_at_once(self.vectorize, len(self.seeds))
        for point in grid(task, self.sweep) if at_once else ():
            point.task.refuse_uncuttable(at_once or 1)
        return Plan(
            run=run,
            task=task,
            arms=self.arms(has_gpu),
            seeds=precision.extend(self.seeds, pilot),
            sweep=swept_values(task, self.sweep),
            at_once=at_once,
            **self.model_dump(include=as_they_are),
        )


@dataclass(frozen=True)
class Site:
    """Where a run takes place and where its results go."""

    dispatch: str = "ray"
    address: str | None = None
    """Of a Ray cluster to join; without one, a local Ray is started."""
    results: str | Path = "results"
    """A local path, or a URL."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """Of the Ray job; Ray says what may be in it."""
    wait_s: float = 600.0
    """How long work waits for a node of the cluster that can take it."""

    def dispatcher(self) -> Dispatcher:
        """Start, or connect to, what runs the jobs."""
        return dispatcher(self.dispatch, self.address, self.runtime_env, self.wait_s)

    def check(self) -> None:
        """Raise `InvalidInput` unless this is somewhere where a run could take place."""
        if self.dispatch not in NAMES:
            raise UnknownName("dispatch", self.dispatch, NAMES)
        if self.dispatch == "inline" and (self.address or self.runtime_env):
            raise InvalidInput("`address` and `runtime_env` are for Ray: they take no `inline`.")


def run(
    task: Task, settings: Settings, site: Site, run_id: str = "", reporter: Reporter | None = None
) -> Run:
    """Measure a task as a new run; without a `run_id` it gets a readable one.

    Raises `InvalidInput` or `Unavailable` before anything is measured. A trial that fails raises
    nothing: it becomes a row with its status and error.
    """
    started = now()
    site.check()
    plan = settings.plan(run_id or readable_id(task), task, has_gpu=False)
    manifest = Manifest(started_utc=timestamp(), plan=plan, environment=machine.describe())
    reporter = reporter or Silence()
    with RunWriter.create(site.results, manifest, reporter.note, numbered=not run_id) as writer:
        try:
            with closing(site.dispatcher()) as nodes:
                if settings.devices == "auto" and nodes.has_gpu():
                    writer.update(plan=settings.plan(writer.name, task, has_gpu=True))
                _Session(writer, nodes, reporter, started).carry_out(
                    optional=DEVICES[1:] if settings.devices == "auto" else ()
                )
        except (InvalidInput, Unavailable):
            if not writer.folder.count_records():  # Refused: nothing was started.
                writer.discard()
            raise
    return Run(writer.name, site.results)


def resume(
    run_id: str,
    site: Site,
    expected: Mapping[str, Any] = {},
    timeout_s: float | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Run the trials that a run still lacks, by its own plan; `timeout_s` replaces the plan's.

    A budget goes on from the wall time of the trials that are there.

    `expected` holds fields of the `Plan` that the caller believes in. Raises `InvalidInput` if the
    plan of the run differs from them: one run never mixes two tasks or two ways of measuring.
    """
    site.check()
    reporter = reporter or Silence()
    with RunWriter.resume(site.results, run_id, reporter.note) as writer:
        plan = writer.manifest.plan
        if "sweep" in expected:
            expected = {**expected, "sweep": swept_values(plan.task, expected["sweep"])}
        if "at_once" in expected:
            at_once = seeds_at_once(expected["at_once"], len(plan.seeds))
            expected = {**expected, "at_once": at_once}
        problems = [
            f"`{_ASKED_AS.get(name, name)}` differs: run `{run_id}` has "
            f"{_tell(getattr(plan, name), value)}, not {_tell(value, getattr(plan, name))}; "
            "start a new run for that."
            for name, value in expected.items()
            if getattr(plan, name) != value
        ]
        if problems:
            raise InvalidInput(*problems)
        if timeout_s is not None:
            writer.update(plan=plan.model_copy(update={"timeout_s": timeout_s}))
        for problem in writer.set_aside():
            reporter.note(
                f"{problem} It was renamed to `.unreadable`; its trial runs again "
                "unless another attempt of it is there."
            )
        run = Run.of(writer.folder)
        started = now() - sum(record.wall_s for record in run.attempts)
        if run.missing or not plan.settled:
            with closing(site.dispatcher()) as nodes:
                _Session(writer, nodes, reporter, started).carry_out()
        else:
            reporter.note(f"run `{run_id}` is complete: nothing to do.")
            finish(writer)
    return Run(run_id, site.results)


def certify(task: Task, settings: Settings, site: Site) -> list[Certificate]:
    """Hold backends against the reference, and nothing else. Raises as `run` does."""
    site.check()
    with closing(site.dispatcher()) as nodes:
        plan = settings.plan("parity", task, has_gpu=nodes.has_gpu())
        events = list(nodes.certify([plan.parity_job(arm) for arm in plan.arms]))
    certificates = [event for event in events if isinstance(event, Certificate)]
    certified = {(c.backend, c.device) for c in certificates}
    _refuse(
        event.message
        for event in events
        if isinstance(event, Refused)
        # What one node lacks, another may have; and nobody has asked for a GPU.
        and (event.job.backend, event.job.device) not in certified
        and (settings.devices != "auto" or event.job.device == "cpu")
    )
    return certificates


def _refuse(messages: Iterable[str]) -> None:
    if said := list(dict.fromkeys(messages)):
        raise Unavailable("\n".join(said))


class _Session:
    """One go at the missing trials of a run."""

    def __init__(
        self, writer: RunWriter, nodes: Dispatcher, reporter: Reporter, started: float
    ) -> None:
        """Take up a run that began at `started` on the clock."""
        self._writer = writer
        self._nodes = nodes
        self._reporter = reporter
        self._started = started
        self._admission = Admission(())

    def carry_out(self, optional: Sequence[Device] = ()) -> None:
        """Certify the backends, run the trials, and write the tables, however it ends."""
        missing = set(self._run().missing)
        arms = self._certify(missing, optional)
        self._admit(arms)
        plan = self._writer.manifest.plan
        blocks = self._blocks(arms)
        planned = self._planned(blocks)
        self._reporter.begin(len(planned.jobs), len(planned.jobs) + len(planned.ended))
        self._reporter.event(planned)
        try:
            if plan.precision is None:
                self._measure(blocks)
            else:
                self._measure_precisely(arms)
        except (KeyboardInterrupt, StoreError, ClusterLost, Unavailable) as error:
            run = self._run()
            # A run that was refused before any trial finished is not kept.
            if run.records or not isinstance(error, Unavailable):
                # A block is timed whole: with what is missing, what ended before it runs again.
                again = sum(map(len, self._blocks(arms))) - len(run.missing)
                beside = (
                    f", and with them {again} finished ones of the same blocks" if again > 0 else ""
                )
                self._reporter.note(
                    f"{len(run.records)} of {len(run.records) + len(run.missing)} trials are "
                    f"finished and kept in `{run.location}`; run the others with "
                    f"`--resume {run.name}`{beside}."
                )
            self._writer.skip_retries()
            raise
        finally:
            finish(self._writer)

    def _planned(self, blocks: Sequence[Sequence[TrialJob]]) -> Planned:
        """Return what is to be run, what is there of the run already, and the time it may take."""
        plan = self._writer.manifest.plan
        jobs = tuple(job for block in blocks for job in block)
        again = {job.trial for job in jobs}
        spent_s = now() - self._started
        return Planned(
            jobs=jobs,
            ended=tuple(record for record in self._run().records if record.trial not in again),
            pilot=not plan.settled,
            budget_s=None if plan.budget_s is None else plan.budget_s - spent_s,
        )

    def _blocks(self, arms: set[Arm]) -> list[list[TrialJob]]:
        """Return what is to be run of each block of the plan, as far as these arms go.

        That is the part on each device in which a trial is missing, and if trials are timed all of
        it: what is compared is measured on one node, one after the other.
        """
        run = self._run()
        missing = set(run.missing)
        last = {record.trial: record for record in run.attempts}
        plan, blocks = run.manifest.plan, []
        for device in plan.devices:
            for block in plan.blocks():
                part = [
                    job
                    for job in block
                    if job.device == device and Arm(backend=job.backend, device=device) in arms
                ]
                if not missing.isdisjoint(job.trial for job in part):
                    blocks.append(_next_go(part, last))
        if plan.packed:
            blocks = [[job] for block in blocks for job in block if job.trial in missing]
        return sorted(blocks, key=lambda block: block[0].block)

    def _measure(self, blocks: Sequence[Sequence[TrialJob]]) -> None:
        plan = self._writer.manifest.plan
        for event in self._events(self._nodes.run(blocks, self._admission, plan.max_retries)):
            if isinstance(event, Refused):
                _refuse([event.message])
            elif isinstance(event, Certificate):  # Of a node that has joined.
                self._record_parity([event])

    def _measure_precisely(self, arms: set[Arm]) -> None:
        """Run the pilot, settle how many blocks it takes, and run those; or what the budget allows.

        The plan in the manifest holds the blocks to be run at every moment, so that an interrupted
        run goes on where it was.
        """
        plan = self._writer.manifest.plan
        within = self._measure_within_budget(arms)
        if not plan.settled and within:
            blocks = precision.blocks_needed(self._run().trials, plan)
            self._reporter.note(
                f"after a pilot of {len(plan.seeds)} blocks: {blocks} are needed to know every "
                f"ratio to within ±{percent(plan.precision or 0)}"
            )
            seeds = precision.extend(plan.seeds, blocks)
            self._replan(seeds=seeds, pilot=len(plan.seeds))
            planned = self._planned(self._blocks(arms))
            self._reporter.grow(len(planned.jobs) + len(planned.ended))
            self._reporter.event(planned)
            within = self._measure_within_budget(arms)
        if not within:
            plan = self._writer.manifest.plan
            begun = {record.seed for record in self._run().records}
            seeds = tuple(seed for seed in plan.seeds if seed in begun)
            pilot = len(seeds) if plan.pilot is None else min(plan.pilot, len(seeds))
            self._replan(seeds=seeds, pilot=pilot, budget_spent=True)

    def _measure_within_budget(self, arms: set[Arm]) -> bool:
        """Run the missing blocks, as long as the budget lasts; say whether it did."""
        budget_s = self._writer.manifest.plan.budget_s
        if budget_s is None:
            self._measure(self._blocks(arms))
            return True
        block_s: dict[int, float] = {}
        for record in self._run().attempts:
            block_s[record.seed] = block_s.get(record.seed, 0.0) + record.wall_s
        for block in self._blocks(arms):
            # A block is taken to last as long as those before it did; one begun is finished.
            began, seed = now(), block[0].seed
            expected_s = sum(block_s.values()) / max(len(block_s), 1)
            if seed not in block_s and began - self._started + expected_s > budget_s:
                return False
            self._measure([block])
            block_s[seed] = now() - began
        return True

    def _replan(self, **changes: Any) -> None:
        plan = self._writer.manifest.plan.model_copy(update=changes)
        self._writer.update(plan=plan)

    def _certify(self, missing: set[str], optional: Sequence[Device]) -> set[Arm]:
        """Return the arms with missing trials that pass parity; record all certificates.

        A backend that is not available on an `optional` device is left out of the plan.
        """
        plan = self._writer.manifest.plan
        # As long as it is not settled how many blocks there are, more may come for every arm.
        to_run = self._to_run(missing) if plan.settled else plan.arms
        needed = [arm for arm in plan.arms if arm in to_run]
        self._admission = Admission(tuple(plan.parity_job(arm) for arm in needed))
        if self._run().records:
            self._admission.expect(self._writer.manifest.parity)
        refused: dict[Arm, list[Refused]] = {}
        for event in self._events(self._nodes.certify(self._admission.jobs)):
            if isinstance(event, Certificate | Refused):
                self._admission.add(event)
            if isinstance(event, Refused):
                arm = Arm(backend=event.job.backend, device=event.job.device)
                refused.setdefault(arm, []).append(event)
        certificates = self._admission.certificates()
        # Refused on some nodes only, it is left to the others.
        for arm in {Arm(backend=c.backend, device=c.device) for c in certificates}:
            refused.pop(arm, None)
        for arm in [arm for arm in refused if arm.device in optional]:
            for message in dict.fromkeys(refusal.message for refusal in refused.pop(arm)):
                self._reporter.note(f"left out: {message}")
            plan = plan.without(arm)
        _refuse(refusal.message for refusals in refused.values() for refusal in refusals)
        unheard = [arm for arm in needed if arm in plan.arms and not self._admission.answered(arm)]
        _refuse(f"{arm} could be compared with the reference on no node." for arm in unheard)
        if not self._run().records:
            plan = self._vectorized(plan, certificates)
        self._writer.update(plan=plan)
        self._record_parity(certificates)
        return {Arm(backend=c.backend, device=c.device) for c in certificates if c.passed}

    def _vectorized(self, plan: Plan, certificates: Sequence[Certificate]) -> Plan:
        """Return the plan with the arms that train many seeds at once, if any was to."""
        if plan.at_once is None:
            return plan
        held = {(c.backend, c.device) for c in certificates if c.many}
        many = tuple(arm for arm in plan.arms if (arm.backend, arm.device) in held)
        for arm in plan.arms:
            if arm not in many:
                self._reporter.note(f"{arm} cannot train seeds at once: it trains one by one")
        return plan.model_copy(update={"many": many})

    def _to_run(self, missing: set[str]) -> set[Arm]:
        """Return the arms of which a trial is missing or, as a block is repeated whole, beside."""
        plan = self._writer.manifest.plan
        arms: set[Arm] = set()
        for block in plan.blocks():
            absent = [job for job in block if job.trial in missing]
            devices = {job.device for job in absent}
            again = absent if plan.packed else [job for job in block if job.device in devices]
            arms |= {Arm(backend=job.backend, device=job.device) for job in again}
        return arms

    def _admit(self, arms: set[Arm]) -> None:
        """Say which nodes are left out. Raises `Unavailable` if none is left for a device."""
        reasons = self._admission.settle()
        for reason in reasons:
            self._reporter.note(reason)
        for device in {arm.device for arm in arms}:
            if not any(self._admission.allows(node, device) for node in self._admission.outcomes):
                raise Unavailable(f"no node can run every backend on the {device} alike.")

    def _record_parity(self, certificates: Iterable[Certificate]) -> None:
        known = (*self._writer.manifest.parity, *certificates)
        latest = {(c.backend, c.device, c.node): c for c in known}
        self._writer.update(parity=tuple(latest.values()))

    def _events(self, source: Generator[Event, None, None]) -> Iterator[Event]:
        with closing(source) as events:
            for event in events:
                if isinstance(event, Record):
                    self._writer.add(event)
                self._reporter.event(event)
                yield event

    def _run(self) -> Run:
        return Run.of(self._writer.folder)


def _next_go(part: Sequence[TrialJob], last: Mapping[str, Record]) -> list[TrialJob]:
    """Return the jobs of a block as they are run next, after the last records of their trials."""
    there = [last[job.trial] for job in part if job.trial in last]
    go = max((record.go for record in there), default=0) + 1
    attempts = {record.trial: record.attempt for record in there}
    return [
        job.model_copy(update={"go": go, "attempt": attempts.get(job.trial, 0) + 1}) for job in part
    ]


def finish(writer: RunWriter) -> None:
    """Rebuild the tables from the records; note when the last trial has ended."""
    run = Run.of(writer.folder)
    # A full disk has been reported by then, and the records are the truth.
    with suppress(StoreError):
        complete = run.manifest.plan.settled and not run.missing
        if complete and not run.manifest.finished_utc:
            writer.update(finished_utc=timestamp())
        writer.deliver()
        for name in TABLES:
            writer.write_table(name, run.table(name))


def readable_id(task: Task) -> str:
    """Return the name that a run gets which was given none."""

    def kind(task: Task) -> tuple[float, int]:
        return task.lag_weight, task.train_sign

    preset = next((n for n in PRESETS if kind(Task.preset(n)) == kind(task)), "custom")
    date, _, time = timestamp().removesuffix("+00:00").partition("T")
    return f"{preset}-{date.replace('-', '')}-{time.replace(':', '')}"


def _tell(value: Any, other: Any) -> str:
    """Describe a value; of two tasks, only the fields in which they differ."""
    if not isinstance(value, Task):
        return f"{value}"
    pairs = value.model_dump().items() ^ other.model_dump().items()
    names = sorted({name for name, _ in pairs})
    return ", ".join(f"{name}={getattr(value, name)}" for name in names)
