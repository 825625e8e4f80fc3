"""Records of trials that nobody ran, and the manifest of a run of them."""

from __future__ import annotations

from typing import Any

from harness import Task
from harness.store.manifest import Manifest
from harness.trial.arms import Arm
from harness.trial.jobs import TrialJob, TurnsJob
from harness.trial.plan import Plan
from harness.trial.record import Chunk, CurvePoint, Record
from tests.helpers.commands import TINY_FIELDS

TASK = Task(n_steps=2)
TINY_TASK = Task(**TINY_FIELDS)
PLAN = Plan(run="r", task=TASK, arms=(Arm(backend="a:B", device="cpu"),), seeds=(0, 1))
MANIFEST = Manifest(started_utc="now", plan=PLAN, environment={})


def trial_job(task: Task, **changes: object) -> TrialJob:
    """A job to train a task with one seed on the CPU."""
    fields: dict[str, object] = {
        "task": task,
        "backend": "fake",
        "device": "cpu",
        "threads": 1,
        "exclusive": True,
        "run": "r",
        "trial": "t",
        "block": 0,
        "seed": 0,
    }
    return TrialJob.model_validate(fields | changes)


def turns_job(task: Task, **changes: object) -> TurnsJob:
    """A job to train a task whenever it is asked."""
    return TurnsJob.of(trial_job(task, **changes))


def record(seed: int = 0, **changes: object) -> Record:
    fields: dict[str, object] = {
        "run": "r",
        "trial": f"seed{seed}-a.B-cpu",
        "block": seed,
        "backend": "a:B",
        "device": "cpu",
        "seed": seed,
        "task": TASK,
        "node": "n",
        "started_utc": "now",
        "wall_s": 1.0,
        "threads": 1,
        "contended": False,
        "status": "ok",
        "points": (CurvePoint(epoch=1000, train_s=2.0, train_loss=0.1, eval_mse=0.5),),
        "step_mse": (0.25, 0.75),
    }
    return Record.model_validate(fields | changes)


def timed(backend: str, seed: int, train_s: float, mse: float = 0.01, **changes: object) -> Record:
    """A record of a backend that took so long and ended with such an error."""
    points = (
        CurvePoint(epoch=500, train_s=train_s / 2, train_loss=0.5, eval_mse=1.0),
        CurvePoint(epoch=1000, train_s=train_s, train_loss=0.1, eval_mse=mse),
    )
    call = Chunk(wall_s=train_s, epochs=1000, round=1, cpu_s=train_s, involuntary_switches=0)
    return record(
        **{  # type: ignore[arg-type]
            "trial": f"{backend}{seed}",
            "timing": "rounds",
            "chunks": (call,),
            "backend": backend,
            "seed": seed,
            "block": seed,
            "points": points,
            "step_mse": (mse, mse),
            **changes,
        }
    )


def started(backend: str, seed: int, start_s: float, epoch_ms: float, **changes: Any) -> Record:
    """A record of a backend that starts in so many seconds, and trains 1000 epochs."""
    parts = {"import_s": start_s, "setup_s": 0.0, "first_call_s": 0.0, "eval_s": 0.0}
    return timed(backend, seed, epoch_ms, **parts | changes)
