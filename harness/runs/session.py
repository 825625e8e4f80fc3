"""One attempt at the missing trials of a run: parity first, then block after block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from threading import Thread
from typing import Any

from harness.dispatch.admission import Admission
from harness.dispatch.dispatcher import Dispatcher
from harness.errors import StoreError, Unavailable
from harness.inputs.commands import command, run_words
from harness.measure.clock import now, timestamp
from harness.runs import precision
from harness.runs.reporter import Reporter
from harness.runs.results import Run
from harness.runs.stored_tables import StoredTables
from harness.store.rescue import Rescued
from harness.store.run_folder import RunContents
from harness.store.run_writer import RunWriter
from harness.tables.numbers import percent
from harness.task.task import Task
from harness.trial.arms import Arm, Device
from harness.trial.events import Certificate, Event, Planned, Refused
from harness.trial.jobs import TrialJob
from harness.trial.plan import Plan
from harness.trial.record import Record


class Session:
    """Runs the missing trials of a run and saves each record as it comes."""

    def __init__(
        self,
        writer: RunWriter,
        attempts: Iterable[Record],
        nodes: Dispatcher,
        reporter: Reporter,
        started: float,
    ) -> None:
        """Take the records that the run has already, and when it began on the clock, in seconds."""
        self._writer = writer
        self._attempts = list(attempts)
        self._nodes = nodes
        self._reporter = reporter
        self._started = started
        self._admission = Admission(())
        self._awaited: set[str] = set()
        """Trials of blocks with a record that could not be written, as long as they run."""
        self._unwritten = False
        """Whether there is such a record."""

    @property
    def run(self) -> Run:
        """The run as it is now."""
        order = {trial: number for number, trial in enumerate(self._plan.trials())}
        attempts = sorted(self._attempts, key=lambda r: (order[r.trial], r.attempt))
        return Run.of(self._writer.folder, RunContents(self._writer.manifest, attempts, {}))

    @property
    def _plan(self) -> Plan:
        return self._writer.manifest.plan

    def carry_out(self, optional: Sequence[Device] = ()) -> list[str]:
        """Certify the backends, run the trials, and write the tables, however it ends.

        Returns a sentence for what could not be written at the end.
        """
        loading = Thread(target=_load_tables, daemon=True)
        loading.start()
        try:
            arms = self._certify(optional)
            self._admit(arms)
            loading.join()  # Not while a trial is on the clock.
            blocks = self._blocks(arms)
            planned = self._planned(blocks)
            self._reporter.begin(len(planned.jobs), len(planned.jobs) + len(planned.ended))
            self._reporter.event(planned)
            if self._plan.precision is None:
                self._measure(blocks)
            else:
                self._measure_precisely(arms)
        except StoreError as error:
            if self.run.missing or not self._plan.settled:
                raise StoreError(f"{error} {self._what_is_kept()}") from error
        except BaseException as error:
            # A run that was refused before any trial finished is not kept.
            if self._attempts or not isinstance(error, Unavailable):
                self._writer.skip_retries()
                self._reporter.note(self._what_is_kept())
                for problem in [] if self._writer.rescued else finish(self._writer, self.run):
                    self._reporter.note(problem)
            raise
        try:
            return finish(self._writer, self.run)
        except KeyboardInterrupt:
            self._reporter.note(self._what_is_kept())
            raise

    def _what_is_kept(self) -> str:
        run = self.run
        missing = len(run.missing)
        finished = sum(record.status != "lost" for record in run.records)
        # A block is timed whole: its finished trials run again with the missing ones.
        again = sum(map(len, self._blocks(set(self._plan.arms)))) - missing
        beside = f", and with them {again} finished ones of the same blocks" if again > 0 else ""
        with suppress(StoreError):  # What cannot be restored is rescued.
            self._writer.restore(self._attempts)
        rescued = self._writer.rescue(self._attempts)
        lacks = rescued or self._writer.undelivered
        kept = f". {lacks} " if lacks else f" and kept in `{run.location}`; "
        then = f"runs the others{beside}" if missing else "makes the run whole"
        return (
            f"{finished} of {finished + missing} trials are finished{kept}"
            f"{_resuming(run, rescued)} {then}."
        )

    def _planned(self, blocks: Sequence[Sequence[TrialJob]]) -> Planned:
        """Return what is about to run, what has ended already, and the budget that is left."""
        plan = self._plan
        jobs = tuple(job for block in blocks for job in block)
        again = {job.trial for job in jobs}
        spent_s = now() - self._started
        return Planned(
            jobs=jobs,
            ended=tuple(record for record in self.run.records if record.trial not in again),
            pilot=not plan.settled,
            budget_s=None if plan.budget_s is None else plan.budget_s - spent_s,
        )

    def _blocks(self, arms: set[Arm]) -> list[list[TrialJob]]:
        """Return the jobs of each block that are still to run, as far as these arms go.

        If a trial is missing, all trials of its block on that device run again: what is compared is
        measured on one node in the same rounds. Packed trials are not compared and run alone.
        """
        missing = set(self.run.missing)
        needs = self._needs()
        last = {r.trial: r for r in sorted(self._attempts, key=lambda r: r.attempt)}
        blocks = []
        for device in self._plan.devices:
            for block in self._plan.blocks():
                part = [job for job in block if job.device == device and job.arm in arms]
                if not missing.isdisjoint(job.trial for job in part):
                    part = [job.expecting(*needs[job.arm, job.task]) for job in part]
                    blocks.append(_next_attempt(part, last))
        if self._plan.packed:
            blocks = [[job] for block in blocks for job in block if job.trial in missing]
        return sorted(blocks, key=lambda block: block[0].block)

    def _needs(self) -> Mapping[tuple[Arm, Task], tuple[float, float]]:
        """Return how much memory each arm needs for each task, in MB: of a node, of a GPU.

        It is the most that it took in the parity check and in the trials so far.
        """
        taken: list[tuple[Task, Certificate | Record]]
        taken = [(task, c) for c in self._writer.manifest.parity for task in self._plan.tasks]
        taken += [(record.task, record) for record in self._attempts]
        needs: dict[tuple[Arm, Task], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for task, by in taken:
            arm = Arm.model_validate({"backend": by.backend, "device": by.device})
            rss_mb, gpu_mb = needs[arm, task]
            needs[arm, task] = (max(rss_mb, by.peak_rss_mb or 0), max(gpu_mb, by.peak_gpu_mb or 0))
        return needs

    def _measure(self, blocks: Sequence[Sequence[TrialJob]]) -> None:
        events = self._nodes.run(blocks, self._admission, self._plan.max_retries)
        for event in self._events(events, blocks):
            if isinstance(event, Refused):
                raise Unavailable(event.message)
            if isinstance(event, Certificate):  # From a node that has just joined.
                self._record_parity([event])

    def _measure_precisely(self, arms: set[Arm]) -> None:
        """Run the pilot, decide how many blocks it takes, and run those the budget allows.

        The plan in the manifest always holds the blocks to run, so that an interrupted run can be
        resumed.
        """
        within = self._measure_within_budget(arms)
        if not self._plan.settled and within:
            self._extend_by_pilot(arms)
            within = self._measure_within_budget(arms)
        if not within:
            begun = {record.seed for record in self._attempts}
            seeds = tuple(seed for seed in self._plan.seeds if seed in begun)
            pilot = self._plan.pilot
            pilot = len(seeds) if pilot is None else min(pilot, len(seeds))
            self._replan(seeds=seeds, pilot=pilot, budget_spent=True)

    def _extend_by_pilot(self, arms: set[Arm]) -> None:
        plan = self._plan
        blocks, most = precision.blocks_needed(self.run.trials, plan), precision.most_blocks(plan)
        self._reporter.note(
            f"after a pilot of {len(plan.seeds)} blocks: {blocks} are needed to know every "
            f"ratio to within ±{percent(plan.precision or 0)}"
            + f"; a run may have {most}: it will not get there"
            * (blocks > most)
        )
        seeds = precision.extend(plan.seeds, min(blocks, most))
        self._replan(seeds=seeds, pilot=len(plan.seeds))
        planned = self._planned(self._blocks(arms))
        self._reporter.grow(len(planned.jobs) + len(planned.ended))
        self._reporter.event(planned)

    def _measure_within_budget(self, arms: set[Arm]) -> bool:
        """Run the missing blocks as long as the budget lasts; return whether it did."""
        budget_s = self._plan.budget_s
        if budget_s is None:
            self._measure(self._blocks(arms))
            return True
        block_s: dict[int, float] = {}
        for record in self._attempts:
            block_s[record.seed] = block_s.get(record.seed, 0.0) + record.wall_s
        for block in self._blocks(arms):
            # A block is expected to take as long as those before it; one that began is finished.
            began, seed = now(), block[0].seed
            expected_s = sum(block_s.values()) / max(len(block_s), 1)
            if seed not in block_s and began - self._started + expected_s > budget_s:
                return False
            self._measure([block])
            block_s[seed] = now() - began
        return True

    def _replan(self, **changes: Any) -> None:
        self._writer.update(plan=self._plan.model_copy(update=changes))

    def _certify(self, optional: Sequence[Device]) -> set[Arm]:
        """Return the arms with missing trials that pass parity; record all certificates.

        A backend that is not available on an `optional` device is left out of the plan. Raises
        `Unavailable` if one is not available elsewhere.
        """
        plan = self._plan
        # Before the pilot has decided how many blocks there are, every arm may get more.
        to_run = self._arms_to_run() if plan.settled else plan.arms
        needed = [arm for arm in plan.arms if arm in to_run]
        self._admission = Admission(tuple(plan.parity_job(arm) for arm in needed))
        if self._attempts:
            self._admission.expect(self._writer.manifest.parity)
        refused = self._check_parity()
        certificates = self._admission.certificates()
        # A backend that only some nodes refuse runs on the others.
        for certificate in certificates:
            refused.pop(certificate.arm, None)
        for arm in [arm for arm in refused if arm.device in optional]:
            for message in dict.fromkeys(refused.pop(arm)):
                self._reporter.note(f"left out: {message}")
            plan = plan.without(arm)
        refuse(message for messages in refused.values() for message in messages)
        unheard = [arm for arm in needed if arm in plan.arms and not self._admission.answered(arm)]
        refuse(f"{arm} could be compared with the reference on no node." for arm in unheard)
        if not self._attempts:
            plan = self._vectorized(plan, certificates)
        self._writer.update(plan=plan)
        self._record_parity(certificates)
        return {certificate.arm for certificate in certificates if certificate.passed}

    def _check_parity(self) -> dict[Arm, list[str]]:
        """Run the parity jobs; return why arms were refused."""
        refused: dict[Arm, list[str]] = {}
        for event in self._events(self._nodes.certify(self._admission.jobs)):
            if isinstance(event, Certificate | Refused):
                self._admission.add(event)
            if isinstance(event, Refused):
                refused.setdefault(event.job.arm, []).append(event.message)
        return refused

    def _vectorized(self, plan: Plan, certificates: Sequence[Certificate]) -> Plan:
        """Return the plan with the arms that can train many seeds at once, if it asks for that."""
        if plan.at_once is None:
            return plan
        able = {certificate.arm for certificate in certificates if certificate.many}
        for arm in plan.arms:
            if arm not in able:
                self._reporter.note(f"{arm} cannot train seeds at once: it trains one by one")
        return plan.model_copy(update={"many": tuple(arm for arm in plan.arms if arm in able)})

    def _arms_to_run(self) -> set[Arm]:
        """Return the arms that have trials to run: missing ones, or ones in the same block."""
        return {job.arm for block in self._blocks(set(self._plan.arms)) for job in block}

    def _admit(self, arms: set[Arm]) -> None:
        """Report which nodes are left out. Raises `Unavailable` if none is left for a device."""
        for reason in self._admission.settle():
            self._reporter.note(reason)
        for device in {arm.device for arm in arms}:
            if not any(self._admission.allows(node, device) for node in self._admission.outcomes):
                raise Unavailable(f"no node can run every backend on the {device} alike.")

    def _record_parity(self, certificates: Iterable[Certificate]) -> None:
        known = (*self._writer.manifest.parity, *certificates)
        latest = {(c.backend, c.device, c.node): c for c in known}
        self._writer.update(parity=tuple(latest.values()))

    def _events(
        self, source: Generator[Event, None, None], blocks: Sequence[Sequence[TrialJob]] = ()
    ) -> Iterator[Event]:
        with closing(source) as events:
            for event in events:
                if isinstance(event, Record):
                    self._attempts.append(event)
                    self._save(event, blocks)
                self._reporter.event(event)
                yield event
                if self._unwritten and not self._awaited:
                    self._writer.restore(self._attempts)
                    self._unwritten = False
                    self._reporter.note("Every record could be written: the run goes on.")

    def _save(self, record: Record, blocks: Sequence[Sequence[TrialJob]]) -> None:
        """Write a record; if that fails, the run stops at the end of the block, and not now.

        The other trials of the block would be lost, and so would this one: it counts with them.
        """
        self._awaited.discard(record.trial)
        try:
            self._writer.add(record)
        except StoreError as error:
            self._writer.rescue(self._attempts)
            if not self._unwritten:
                self._reporter.note(f"{error} It is tried again at the end of the block.")
            self._unwritten = True
            ended = {r.trial for r in self._attempts if r.go >= record.go}
            for block in blocks:
                trials = {job.trial for job in block}
                self._awaited |= trials - ended if record.trial in trials else set()


def _load_tables() -> None:
    """Import what the end of a run takes: by then, its code may have been changed or removed."""
    import harness.tables.stored  # noqa: F401


def finish(writer: RunWriter, run: Run) -> list[str]:
    """Write all that belongs to a run by now: records and manifest, then the tables.

    The manifest says when the last trial ended, once all records are written. Returns a sentence
    for what could not be written, with the command that writes it later.
    """
    from harness.tables import stored

    ended = run.manifest.plan.settled and not run.missing and not run.manifest.finished_utc
    tables = list(run.tables)
    try:
        writer.restore(run.attempts)
        writer.update(**{"finished_utc": timestamp()} if ended else {})
        writer.deliver()
        source = StoredTables(writer.folder, writer.manifest).source()
        while tables:
            for file, content in stored.files(tables[0], run.table(tables[0]), source):
                writer.write_derived(file, content)
            del tables[0]
        writer.restore(run.attempts)  # The tables took their time.
    except StoreError as error:
        rescued = writer.rescue(run.attempts)
        kept = f" {rescued}" if rescued else ""
        old = f" or old: the tables {', '.join(tables)}" if tables else ""
        return [f"{error}{kept} {_resuming(run, rescued)} writes what is missing{old}."]
    return []


def _resuming(run: Run, rescued: Rescued | None = None) -> str:
    """Return the command that goes on with a run, after what puts rescued records back."""
    resume = command("run", "--resume", *run_words(run.location))
    if rescued is None:
        return f"`{resume}`"
    words = [rescued.back, resume] if rescued.back else [resume]
    return f"Once it can be written, `{' && '.join(words)}`"


def refuse(messages: Iterable[str]) -> None:
    """Raise `Unavailable` if there is a message."""
    if distinct := list(dict.fromkeys(messages)):
        raise Unavailable("\n".join(distinct))


def _next_attempt(part: Sequence[TrialJob], last: Mapping[str, Record]) -> list[TrialJob]:
    """Return the jobs of a block with the numbers of their next attempt."""
    known = [last[job.trial] for job in part if job.trial in last]
    go = max((record.go for record in known), default=0) + 1
    attempts = {record.trial: record.attempt for record in known}
    return [
        job.model_copy(update={"go": go, "attempt": attempts.get(job.trial, 0) + 1}) for job in part
    ]
