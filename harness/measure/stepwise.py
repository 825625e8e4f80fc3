"""A training that goes on only when it is told to, in a process of its own.

The messages are a protocol between two versions of this code, so what is there must not change. The
first one is ("ready", {task, sources, versions}): the task with its defaults, the files of all
modules that are not installed and of a backend's own process, and the versions of what is loaded.
Then each line of text is a command:

    N          train N epochs; answered by ("turn", {wall_s, losses}), losses of the first seed
    restart    start anew from the initial parameters; answered by ("restarted", null)
    evaluate   predict the held-out paths; answered by ("evaluated", {step_mse}), of the first seed

Version 6 of the records added `nudges` to the first message (it knows `nudge`), `losses_ER` and the
fields of a `chunk` to a turn, `step_mse_RT` and `seconds` to an evaluation, and these commands:

    nudge N    as `restart`, but nudged, for the Nth time; answered by ("restarted", null)
    inspect    answered by ("inspected", {initial_state_moved, peak_rss_mb, peak_gpu_mb})
    finish     the last command

Version 7 added

    profile N  start anew and look at calls of N epochs, not on the clock; answered by ("profiled",
               the fields of a `harness.trial.profile.Profile`)

Version 8 added

    learned    look at the predictions of the held-out paths; answered by ("learned", the fields of
               a `harness.trial.learned.Learned` of each seed)
    energy N   start anew and count the energy of calls of N epochs, on a GPU; answered by
               ("energy", joules of an epoch or null)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict

from harness.backend import registry
from harness.measure import machine
from harness.measure.clock import Clock, now
from harness.measure.training import Emit, Find, Training
from harness.trial.jobs import TurnsJob
from harness.trial.trajectory import NUDGES


def worker_source(backend: str) -> str:
    """Return the name among the `sources` that stands for the program of a backend."""
    return f"worker of {backend}"


def serve(
    job: TurnsJob,
    commands: Iterable[str],
    emit: Emit,
    find: Find = registry.importer,
    clock: Clock = now,
) -> None:
    """Execute each of the commands until they end. Raises what the backend raises."""
    training = Training(job, emit, find, clock)
    emit("ready", _about(job, training))
    for line in commands:
        match line.split():
            case ["restart"]:
                training.restart()
                emit("restarted", None)
            case ["nudge", number]:
                training.restart(nudge=int(number))
                emit("restarted", None)
            case ["evaluate"]:
                step_mse_RT, seconds = training.evaluate()
                both = {"step_mse": step_mse_RT[0].tolist(), "step_mse_RT": step_mse_RT.tolist()}
                emit("evaluated", both | {"seconds": seconds})
            case ["inspect"]:
                moved_R = training.initial_state_moved().tolist()
                peaks = {"peak_rss_mb": machine.peak_rss_mb()} | training.peak_gpu
                emit("inspected", {"initial_state_moved": moved_R} | peaks)
            case ["learned"]:
                emit("learned", training.learned())
            case ["profile", epochs]:
                emit("profiled", training.profile(int(epochs)))
            case ["energy", epochs]:
                emit("energy", training.epoch_j(int(epochs)))
            case ["finish"]:
                return
            case [epochs]:
                losses_ER, chunk = training.chunk(int(epochs))
                both = {"losses": losses_ER[:, 0].tolist(), "losses_ER": losses_ER.tolist()}
                emit("turn", {"wall_s": chunk.wall_s, "chunk": asdict(chunk)} | both)


def _about(job: TurnsJob, training: Training) -> dict[str, object]:
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    greeting = training.greeting
    files[worker_source(job.backend)] = greeting.source
    return {
        "task": job.task.model_dump(mode="json"),
        "sources": {name: f for name, f in files.items() if f and not machine.installed(f)},
        "versions": {**machine.loaded_versions(), **greeting.versions},
        "nudges": NUDGES,
    }
