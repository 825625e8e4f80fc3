"""Starts a new run, resumes one, or only checks backends against the reference."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from harness.errors import InvalidInput, Unavailable
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.runs.reporter import Reporter, Silent
from harness.runs.request import RunRequest
from harness.runs.results import Run
from harness.runs.session import Session, finish, refuse
from harness.runs.settings import Settings, Site
from harness.store.manifest import Manifest
from harness.store.run_folder import RunContents
from harness.store.run_writer import RunWriter
from harness.task.task import Task
from harness.trial.arms import DEVICES
from harness.trial.events import Certificate, Refused


def start(request: RunRequest, reporter: Reporter | None = None) -> Run:
    """Carry out a request and return the run.

    Raises `InvalidInput` or `Unavailable` before anything is measured, `StoreError` if it ends
    early because its records cannot be written. `Run.unwritten` says what of a whole run could not
    be. A trial that fails raises nothing: it becomes a row with its status and error.
    """
    request.site.check()
    reporter = reporter or Silent()
    if request.resume is None:
        return _run(request, reporter)
    return _resume(request, request.resume, reporter)


def _run(request: RunRequest, reporter: Reporter) -> Run:
    started = now()
    task, settings, site = request.task or Task(), request.settings, request.site
    plan = settings.plan(request.name, task, has_gpu=False)
    manifest = Manifest(started_utc=timestamp(), plan=plan, environment=machine.describe())
    numbered = not request.run_id
    with RunWriter.create(site.results, manifest, reporter.note, numbered=numbered) as writer:
        try:
            with closing(site.dispatcher()) as nodes:
                if settings.devices == "auto" and nodes.has_gpu():
                    writer.update(plan=settings.plan(writer.name, task, has_gpu=True))
                session = Session(writer, (), nodes, reporter, started)
                optional = DEVICES[1:] if settings.devices == "auto" else ()
                unwritten = session.carry_out(optional)
        except (InvalidInput, Unavailable):
            if writer.is_empty:  # Refused: nothing was started.
                writer.discard()
            raise
    return _as_written(writer, session.run, unwritten)


def _resume(request: RunRequest, run_id: str, reporter: Reporter) -> Run:
    """Run the trials that a run still lacks, by its own plan but for the timeout.

    The budget goes on from the wall time of the trials that have ended.
    """
    site, timeout_s = request.site, request.settings.timeout_s
    with RunWriter.resume(site.results, run_id, reporter.note) as writer:
        plan = writer.manifest.plan
        request.check_plan(plan)
        if timeout_s is not None:
            writer.update(plan=plan.model_copy(update={"timeout_s": timeout_s}))
        contents = writer.folder.load()
        writer.set_aside(contents.problems)
        for problem in contents.problems.values():
            reporter.note(
                f"{problem} It was renamed to `.unreadable`; its trial runs again "
                "unless another attempt of it is there."
            )
        run = Run.of(writer.folder, replace(contents, problems={}))
        started = now() - sum(record.wall_s for record in run.attempts)
        if run.missing or not plan.settled:
            if not plan.packed and any(
                record.timing == "trials" and record.status != "lost" for record in run.attempts
            ):
                raise InvalidInput(
                    f"run `{run_id}` lacks trials, but those it has were timed by an older "
                    "version, in a way that cannot be compared: start a new run."
                )
            with closing(site.dispatcher()) as nodes:
                session = Session(writer, run.attempts, nodes, reporter, started)
                unwritten = session.carry_out()
            run = session.run
        else:
            reporter.note(f"run `{run_id}` is complete: nothing to do.")
            unwritten = finish(writer, run)
    return _as_written(writer, run, unwritten)


def _as_written(writer: RunWriter, run: Run, unwritten: list[str]) -> Run:
    """Return a run whose files can be read after its writer has closed them."""
    whole = Run.of(writer.at_rest, RunContents(writer.manifest, run.attempts, {}))
    whole.unwritten = unwritten
    return whole


def certify(task: Task, settings: Settings, site: Site) -> list[Certificate]:
    """Check backends against the reference, and nothing else. Raises as `start` does."""
    site.check()
    with closing(site.dispatcher()) as nodes:
        plan = settings.plan("parity", task, has_gpu=nodes.has_gpu())
        events = list(nodes.certify([plan.parity_job(arm) for arm in plan.arms]))
    certificates = [event for event in events if isinstance(event, Certificate)]
    certified = {certificate.arm for certificate in certificates}
    refuse(
        event.message
        for event in events
        if isinstance(event, Refused)
        # What one node lacks, another may have; and nobody asked for a GPU by name.
        and event.job.arm not in certified
        and (settings.devices != "auto" or event.job.device == "cpu")
    )
    return certificates
