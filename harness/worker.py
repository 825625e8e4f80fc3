"""The process of a job, started by `harness.measure.launch`.

`python -m harness.worker EVENTS REQUEST`: EVENTS is a file descriptor that takes one JSON line
`[kind, value]` per event; REQUEST is JSON: the job and the cores to run on. Standard input is a
lifeline: when it closes, whoever wanted the result is gone, and so is this process. A job that
takes turns is given them there, and a process that trials of a backend share is given the others, a
job in JSON on each line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from typing import Any


def main() -> None:
    """Run the job in the request."""
    events, request = int(sys.argv[1]), json.loads(sys.argv[2])
    # Before anything is imported that counts the cores or starts threads.
    if request["cores"] is not None:
        os.sched_setaffinity(0, request["cores"])
    jobs: SimpleQueue[Any] = SimpleQueue()
    if request["job"]["kind"] != "turns":
        threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    with os.fdopen(events, "w", buffering=1) as stream:
        _run(request["job"], stream)
        before = 1
        while request["job"].get("isolation") == "backend":
            _serve(jobs.get(), before, stream)
            before += 1
    # All is reported: how long a framework takes to tear itself down, or whether it can, is no
    # part of the result.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _listen(jobs: SimpleQueue[Any]) -> None:
    """Pass on each job that comes; die with whoever sends them."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(1)


def _serve(job: dict[str, Any], before: int, stream: Any) -> None:
    """Run one more trial, as like the first as can be."""
    import gc

    from harness.measure import machine

    gc.collect()  # What is left of the trial before is not to be cleared up on the clock.
    machine.reset_peak_rss()
    stream.write(json.dumps(["fields", {"trials_before": before}]) + "\n")
    _run(job, stream)


def _run(request: dict[str, Any], stream: Any) -> None:
    from pydantic_core import to_jsonable_python

    from harness.errors import InvalidInput, Unavailable
    from harness.measure import machine
    from harness.trial.jobs import ParityJob, TrialJob, TurnsJob

    def emit(kind: str, value: Any) -> None:
        stream.write(json.dumps([kind, to_jsonable_python(value)]) + "\n")

    try:
        if request["kind"] == "trial":
            from harness.measure import trial

            trial.run(TrialJob.model_validate(request), emit, _load)
            emit("fields", {"peak_rss_mb": machine.peak_rss_mb()})
        elif request["kind"] == "turns":
            from harness.measure import stepwise

            stepwise.serve(TurnsJob.model_validate(request), sys.stdin, emit)
        else:
            from harness.backend import registry
            from harness.measure import parity

            job = ParityJob.model_validate(request)
            emit("phase", "importing")
            factory = registry.load(job.backend)
            emit("phase", "in the parity check")
            for network, task in job.networks:
                for check in parity.compare(factory, job.device, task, job.at_once):
                    emit("check", check.model_copy(update={"network": network}))
            emit("fields", {"versions": machine.loaded_versions()})
    except (InvalidInput, Unavailable) as error:
        emit("refused", str(error))
    except Exception as error:
        emit("failed", [f"{type(error).__name__}: {error}", traceback.format_exc()])
    # Last, because to ask other programs takes time and processor caches.
    if request["kind"] != "parity":
        emit("fields", {"environment": _environment(request["backend"], request["device"])})
    emit("done", None)


@cache
def _load(backend: str) -> Any:
    """Import a backend; where it is, is looked up once for all trials of this process."""
    from harness.backend import registry

    return registry.load(backend)


@cache
def _environment(backend: str, device: str) -> dict[str, str]:
    """Return under what circumstances this process measures; trials that share it share them."""
    import harness
    from harness.backend import registry
    from harness.errors import InvalidInput
    from harness.measure import machine
    from harness.measure.git import describe_source

    module = None
    with suppress(InvalidInput):  # Refused; it has been said.
        module = sys.modules.get(registry.module_of(backend))
    return {
        **machine.describe(),
        **(machine.describe_gpu() if device == "gpu" else {}),
        **describe_source("harness", harness.__file__),
        **describe_source("backend", getattr(module, "__file__", None)),
        **machine.describe_process(),
    }


if __name__ == "__main__":
    main()
