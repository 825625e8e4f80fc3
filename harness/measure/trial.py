"""One trial as the process that gives the turns sees it: start, turns, the rest of the training.

Only turns are on the clock. The first call trains a throw-away chunk, which pays for
compilation and memory; then the training starts anew from the initial parameters. All calls of a
trial train equally many epochs, so nothing recompiles on the clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import Any, TypeAlias

import numpy as np
from pydantic import ValidationError

from harness.errors import brief
from harness.measure import machine
from harness.measure.clock import timestamp
from harness.measure.curves import Curves
from harness.measure.probe import Probe
from harness.measure.process import JobFailed
from harness.measure.trainer import Trainer, Turn
from harness.trial.events import Event, Progress, Started
from harness.trial.jobs import TrialJob
from harness.trial.learned import Learned
from harness.trial.limits import MOST_CALLS
from harness.trial.profile import Profile
from harness.trial.record import Chunk, CurvePoint, Record, Timing
from harness.trial.trajectory import Training

Emit: TypeAlias = Callable[[Event], None]
"""Takes an event."""
Seeds: TypeAlias = tuple[int, ...]


@dataclass
class Host:
    """The node that a process measures on."""

    node: str = field(default_factory=machine.node_name)
    """Its name in the tables."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, jobs end without an outcome."""


# A turn lasts at least this long: in shorter ones a backend pays for what the others left in the
# caches (with turns of 3 ms, JAX needs a tenth more for an epoch).
TURN_S = 0.02
GPU_TURN_S = 0.05
_OF_A_SEED = ("step_mse", "initial_state_moved", "learned")
"""What is known of each seed that ended well."""


class Trial:
    """The process of a trial, and what it has reported so far. Methods raise as `Trainer` does.

    A turn is one call. If that takes less than `TURN_S`, a turn has several; then the training
    that is evaluated comes first, and the turns are only timed.
    """

    def __init__(self, job: TrialJob, trainer: Trainer, node: str, emit: Emit) -> None:
        """Take what trains, on the node of that name."""
        self.job, self.trainer = job, trainer
        self.seeds: Seeds = job.seeds or (job.seed,)
        self._node = node
        self.epochs = job.task.chunk_epochs(len(self.seeds))
        """How many epochs a call trains."""
        self.chunks: list[Chunk] = []
        self._emit = emit
        self._started_utc = timestamp()
        self._fields: dict[str, Any] = {}
        self._points: list[CurvePoint] = []
        self._nudged: list[tuple[float, ...]] = []
        """The losses at these points, in each nudged training."""
        self._curves = Curves(self.seeds)
        self._epoch = 0
        self._seconds = 0.0
        self._epoch_s = 0.0
        """How long an epoch takes, measured before the turns."""
        emit(Started(job=job))

    @property
    def status(self) -> str:
        """How the training ended; empty before."""
        return str(self._fields.get("status", ""))

    @property
    def calls(self) -> int:
        """How many calls a turn has."""
        turn_s = GPU_TURN_S if self.job.device == "gpu" else TURN_S
        call_s = self.epochs * self._epoch_s
        most = max(1, MOST_CALLS // self.job.rounds)
        return 1 if call_s >= turn_s else min(most, 1 + ceil(turn_s / max(call_s, 1e-6)))

    def start(self) -> float:
        """Import, set up and call once; return how long a call takes afterwards, in seconds."""
        trainer = self.trainer
        trainer.ready()
        trainer.phase = "in the first call"
        first, prediction = trainer.train(self.epochs), trainer.evaluate()
        self._fields["first_call_s"] = first.seconds + prediction.seconds
        pace_s = trainer.train(self.epochs).seconds
        self._epoch_s = pace_s / self.epochs
        return pace_s

    def settle(self, epochs: int) -> None:
        """Get ready for turns of calls that train so many epochs."""
        if epochs != self.epochs:
            self.epochs = epochs
            self.trainer.train(epochs)  # It may compile anew, and is thrown away.
        self._restart()
        if self.calls > 1:
            self._train_to_the_end()
            if self.status == "ok":
                self._restart()

    def take_turn(self, number: int, probe: Probe | None) -> None:
        """Train for the turn of a round, on the clock, between two looks at the machine."""
        before = probe and probe()
        turns, epochs = [], []
        for _ in range(self.calls):
            if self._epoch >= self.job.task.epochs:
                self._restart()
            turns.append(self._train())
            epochs.append(self._epoch)
        after = probe and probe()
        state = before.mean(after)._asdict() if before and after else {}
        for call, (turn, epoch) in enumerate(zip(turns, epochs, strict=True)):
            loss = float(turn.losses_ER.mean())
            fields = turn.chunk | state
            fields |= {"round": number, "counted": call > 0 or self.calls == 1, "epoch": epoch}
            fields["loss"] = loss if isfinite(loss) else None
            try:
                self.chunks.append(Chunk(**fields))
            except ValidationError as error:
                raise JobFailed(f"a turn cannot be read: {brief(error)}", "failed") from error
        if not self.status:
            self._learn(turns[0])

    def complete(self) -> None:
        """Train to the end of the task, off the clock."""
        self._train_to_the_end()

    @property
    def training(self) -> Training:
        """What it has computed so far."""
        per_point = self.job.task.epochs_per_point
        return Training.of(self._points, self.chunks, self._nudged, per_point)

    def train_nudged(self) -> None:
        """Train once more, nudged and off the clock; nothing else counts."""
        self._fields.setdefault("wall_s", self.trainer.spent_s)
        self.trainer.spent_s = 0.0  # It may take as long as the training itself.
        self.trainer.phase = "training nudged"
        self.trainer.restart(len(self._nudged) + 1)
        calls = self.job.task.epochs // self.epochs
        losses = [float(self.trainer.train(self.epochs).losses_ER.mean()) for _ in range(calls)]
        at_points = np.reshape(losses, (len(self._points), -1)).mean(axis=1)
        self._nudged.append(tuple(at_points.tolist()))

    def count_energy(self) -> None:
        """Count the energy of a GPU in some more calls."""
        self._fields.setdefault("wall_s", self.trainer.spent_s)
        self.trainer.spent_s = 0.0
        self.trainer.phase = "while its energy was counted"
        self._fields["epoch_j"] = self.trainer.epoch_j(self.epochs)

    def profile(self, costs: Mapping[str, float]) -> None:
        """Let profilers look at some more calls; `costs` are those of single things on the core."""
        self._fields.setdefault("wall_s", self.trainer.spent_s)
        self.trainer.spent_s = 0.0
        self.trainer.phase = "under a profiler"
        try:
            seen = self.trainer.profile(self.epochs)
        except JobFailed as error:  # What was measured before counts.
            self._fields["profile"] = Profile.failed(error.during(self.trainer.phase))
            raise
        self._fields["profile"] = seen.model_copy(update={"costs": {**costs, **seen.costs}})
        self.trainer.spent_s = 0.0

    def finish(self) -> None:
        """Let the process end."""
        if self.status == "ok":
            # A profiler may leave a process that cannot end well: its own training has.
            with suppress(*[JobFailed] * ("profile" in self._fields)):
                self.trainer.finish()

    def fail(self, error: JobFailed) -> None:
        """Note how the process failed; final errors are those of trials that ended well."""
        for name in (*_OF_A_SEED, "shares"):
            self._fields.pop(name, None)
        after = f" after epoch {self._epoch}" if self._epoch else ""
        self._fields |= {
            "status": error.status,
            "error": error.during(f"{self.trainer.phase}{after}"),
            "details": error.details or None,
        }

    def record(self, timing: Timing, cores: tuple[int, ...] | None) -> Record:
        """Return all that is known. Its turns were on `cores`, whatever the rest ran on."""
        values: dict[str, Any] = {
            "node": self._node,
            "started_utc": self._started_utc,
            "wall_s": self.trainer.spent_s,
            "cores": cores,
            "timing": timing,
            "chunks": tuple(self.chunks),
            "points": tuple(self._points),
            "nudged": tuple(self._nudged),
        }
        values |= self.trainer.fields | self._fields
        if cores and "environment" in values:
            values["environment"]["cores_used"] = ",".join(map(str, cores))
        return self.job.record(**values)

    def _restart(self) -> None:
        self.trainer.restart()
        self._epoch = 0

    def _train_to_the_end(self) -> None:
        while not self.status:
            self._learn(self._train())

    def _train(self) -> Turn:
        self.trainer.phase = "training"
        turn = self.trainer.train(self.epochs)
        self._epoch += self.epochs
        return turn

    def _learn(self, turn: Turn) -> None:
        """Add a call to the curve, and evaluate where the curve has a point."""
        task, curves = self.job.task, self._curves
        self._seconds += turn.wall_s
        at_point = not self._epoch % task.epochs_per_point
        if curves.add(turn.losses_ER) or at_point:
            evaluation = self.trainer.evaluate()
            self._fields["eval_s"] = self._fields.get("eval_s", 0.0) + evaluation.seconds
            point = curves.evaluate(
                self._epoch, self._seconds, evaluation.step_mse_RT, everyone=at_point
            )
            if at_point or not curves.running:
                self._points.append(point)
                self._emit(Progress(job=self.job, point=point))
        if self._epoch >= task.epochs or not curves.running:
            self._end()

    def _learned(self) -> list[Learned]:
        """Look at the last predictions; that is no part of what the trial took."""
        spent_s, self.trainer.spent_s = self.trainer.spent_s, 0.0
        learned = self.trainer.learned()
        self.trainer.spent_s = spent_s
        if len(learned) != len(self.seeds):
            raise JobFailed(f"the process looked at {len(learned)} seeds", "failed")
        return learned

    def _end(self) -> None:
        about = self.trainer.inspect()
        learned = self._learned() if self._curves.running else [Learned()] * len(self.seeds)
        shares = self._curves.shares(np.asarray(about.pop("initial_state_moved")), learned)
        self._fields |= about | {"status": "ok" if self._curves.running else "diverged"}
        if self.job.seeds:
            self._fields["shares"] = tuple(shares)
        elif self._curves.running:
            self._fields |= {name: getattr(shares[0], name) for name in _OF_A_SEED}
        if not self._curves.running:
            self.trainer.finish()
