"""A process that trains when it is asked: an arm of a block, or a version in a gate's pair.

`harness.measure.stepwise` is the other end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np

from harness.backend.protocol import Array
from harness.measure.clock import now
from harness.measure.process import JobFailed, Tree, Worker
from harness.trial.jobs import TurnsJob
from harness.trial.learned import Learned
from harness.trial.profile import Profile

T = TypeVar("T")


class Stopped(Exception):
    """The caller no longer wants a result."""


@dataclass(frozen=True)
class Turn:
    """What a call of `train` took, and its losses [E, R]."""

    wall_s: float
    losses_ER: Array
    chunk: dict[str, Any] = field(default_factory=dict)
    """The fields of a `harness.trial.record.Chunk`; empty from an older version."""

    @property
    def seconds(self) -> float:
        """What it took, less the time that it waited for the processor, if that is known."""
        return self.wall_s - (self.chunk.get("waited_s") or 0.0)


@dataclass(frozen=True)
class Evaluation:
    """The errors on the held-out paths [R, T], and how long the predictions took."""

    step_mse_RT: Array
    seconds: float


class Trainer:
    """Starts the process; each method asks it for one thing and waits.

    All raise `JobFailed` if the process fails or works for longer than the job's `timeout_s`
    (the time between two requests does not count), and `Stopped` once `stop` is set.
    """

    def __init__(
        self,
        job: TurnsJob,
        cores: tuple[int, ...] | None = None,
        tree: Tree | None = None,
        stop: threading.Event | None = None,
        **environment: str,
    ) -> None:
        self.job = job
        self.spent_s = 0.0
        """How long it has worked."""
        self._asked = now()
        """When it was started, or asked for something last."""
        self._worker = Worker(job, cores, tree, **environment)
        self._answers = self._worker.answers(stop)
        self._stop = stop

    @property
    def fields(self) -> dict[str, Any]:
        """What it has reported of itself: `import_s`, `setup_s`, `environment`."""
        return self._worker.fields

    @property
    def phase(self) -> str:
        """What it is doing."""
        return self._worker.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._worker.phase = phase

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and its descendants."""
        self._worker.close()

    def pin(self, cores: tuple[int, ...]) -> None:
        """Restrict every thread of the process, and of its descendants, to these cores."""
        self._worker.pin(cores)

    def ready(self) -> dict[str, Any]:
        """Wait until it can train; return what `stepwise.serve` says of the process."""
        about: dict[str, Any] = self._answer("ready")
        return about

    def train(self, epochs: int) -> Turn:
        """Train some epochs."""
        turn = self._ask(f"{epochs}", "turn")
        # Before version 6 of the records, it sent only the losses of the first seed.
        losses = turn.get("losses_ER") or [[loss] for loss in turn["losses"]]
        losses_ER = _array("losses", losses, (epochs, len(self.job.seeds) or 1))
        return Turn(turn["wall_s"], losses_ER, turn.get("chunk", {}))

    def restart(self, nudge: int = 0) -> None:
        """Start anew from the initial parameters; nudged, if `nudge` is its number."""
        self._ask(f"nudge {nudge}" if nudge else "restart", "restarted")

    def evaluate(self) -> Evaluation:
        """Predict the held-out paths."""
        answer = self._ask("evaluate", "evaluated")
        step_mse = answer.get("step_mse_RT") or [answer["step_mse"]]
        step_mse_RT = _array("errors", step_mse, (len(self.job.seeds) or 1, -1))
        return Evaluation(step_mse_RT, answer.get("seconds", 0.0))

    def inspect(self) -> dict[str, Any]:
        """Return `initial_state_moved` of each seed, and the peaks of memory so far."""
        answer: dict[str, Any] = self._ask("inspect", "inspected")
        return answer

    def learned(self) -> list[Learned]:
        """Look at the predictions of each seed for the held-out paths."""
        learned: list[Learned] = self._ask("learned", "learned")
        return learned

    def profile(self, epochs: int) -> Profile:
        """Start anew, and look at calls that train so many epochs."""
        profile: Profile = self._ask(f"profile {epochs}", "profiled")
        return profile

    def epoch_j(self, epochs: int) -> float | None:
        """Start anew, and count the joules of an epoch on a GPU in calls of so many."""
        joules: float | None = self._ask(f"energy {epochs}", "energy")
        return joules

    def finish(self) -> None:
        """Let the process describe its environment, and end."""
        self.phase = "ending"
        self._ask("finish", "done")

    def _ask(self, command: str, answer: str) -> Any:
        self._asked = now()
        self._worker.say(command)
        return self._answer(answer)

    def _answer(self, wanted: str) -> Any:
        """Return the value of the next message of a kind."""
        if self.job.timeout_s is not None:
            self._worker.deadline = self._asked + self.job.timeout_s - self.spent_s
        try:
            for kind, value in self._answers:
                if kind == wanted:
                    return value
        finally:
            self.spent_s += now() - self._asked
        if self._stop and self._stop.is_set():
            raise Stopped
        raise JobFailed("the process has ended", "exit")


def _array(what: str, rows: Sequence[Sequence[float]], shape: tuple[int, int]) -> Array:
    """Return the numbers of a message. Raises `JobFailed` if there are more, or fewer."""
    try:
        return np.array(rows, dtype=float).reshape(shape)
    except ValueError as error:
        raise JobFailed(f"the process sent {what} of another shape: {error}", "failed") from error


def at_once(
    tasks: Iterable[Callable[[], T]], most: int, stop: threading.Event | None = None
) -> list[T]:
    """Call functions that wait for processes, up to `most` at a time; return their results.

    If this thread is interrupted, `stop` is set, so that they end.
    """
    with ThreadPoolExecutor(max_workers=max(1, most)) as pool:
        try:
            return list(pool.map(lambda task: task(), tasks))
        except KeyboardInterrupt:
            if stop:
                stop.set()
            raise
