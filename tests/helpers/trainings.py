"""Runs whose trials are carried out in this process, where everything is compiled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import Run, Task
from harness.backend import registry
from harness.measure.clock import Clock, now
from harness.measure.process import JobFailed
from harness.measure.trainer import Evaluation, Trainer, Turn
from harness.measure.training import Find, Training
from harness.measure.trial import Trial
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from harness.trial.arms import Arm
from harness.trial.events import Certificate
from harness.trial.jobs import TrialJob, TurnsJob
from harness.trial.learned import Learned
from harness.trial.plan import Plan
from harness.trial.record import Record
from harness.trial.trajectory import NUDGES, unexplained


class Here(Trainer):
    """Trains in this process."""

    def __init__(
        self, job: TrialJob, find: Find = registry.importer, clock: Clock = now, **about: object
    ) -> None:
        self.job = TurnsJob.of(job)
        self.spent_s = 0.0
        self.about = about
        """Some fields of the record."""
        self.now = ""
        self._training = Training(self.job, self._told, find, clock)

    @property
    def fields(self) -> dict[str, Any]:
        return self.about

    @property
    def phase(self) -> str:
        return self.now

    @phase.setter
    def phase(self, phase: str) -> None:
        self.now = phase

    def _told(self, kind: str, value: Any) -> None:
        if kind == "fields":
            self.about |= value

    def ready(self) -> dict[str, Any]:
        return {}

    def train(self, epochs: int) -> Turn:
        try:
            losses_ER, chunk = self._training.chunk(epochs)
        except RuntimeError as error:
            raise JobFailed(f"RuntimeError: {error}", "failed") from error
        return Turn(chunk.wall_s, losses_ER, asdict(chunk))

    def restart(self, nudge: int = 0) -> None:
        self._training.restart(nudge)

    def evaluate(self) -> Evaluation:
        return Evaluation(*self._training.evaluate())

    def learned(self) -> list[Learned]:
        return [Learned(**one) for one in self._training.learned()]

    def inspect(self) -> dict[str, Any]:
        moved_R = self._training.initial_state_moved()
        return {"initial_state_moved": moved_R} | self._training.peak_gpu

    def epoch_j(self, epochs: int) -> float | None:
        return self._training.epoch_j(epochs)

    def finish(self) -> None:
        self.now = "ended"


def measure(job: TrialJob) -> Record:
    """Carry out a trial, with one turn on the clock: more of them would teach it nothing."""
    (record,) = measure_block([job.model_copy(update={"rounds": 1})])
    return record


def measure_block(jobs: Sequence[TrialJob]) -> list[Record]:
    """Carry out trials one after the other; they are nudged if they did not train alike."""
    trials = [Trial(job, Here(job), "here", lambda event: None) for job in jobs]
    for trial in trials:
        try:
            trial.start()
            trial.settle(trial.epochs)
            for number in range(1, trial.job.rounds + 1):
                trial.take_turn(number, None)
            trial.complete()
        except JobFailed as error:
            trial.fail(error)
    for _ in range(NUDGES):
        if unexplained([trial.training for trial in trials]):
            for trial in trials:
                trial.train_nudged()
    return [trial.record("rounds" if jobs[1:] else "alone", None) for trial in trials]


def run(
    folder: Path,
    task: Task,
    backends: Sequence[str] = ("floor",),
    seeds: Sequence[int] = (0,),
    sweep: Mapping[str, Any] | None = None,
    parity: Sequence[Certificate] = (),
    run_id: str = "r",
) -> Run:
    plan = Plan(
        run=run_id,
        task=task,
        sweep=dict(sweep or {}),
        arms=tuple(Arm(backend=name, device="cpu") for name in backends),
        seeds=tuple(seeds),
    )
    manifest = Manifest(started_utc="now", plan=plan, environment={}, parity=tuple(parity))
    with RunWriter.create(folder, manifest) as writer:
        for block in plan.blocks():
            for job in block:
                writer.add(measure(job))
    return Run(run_id, folder)
