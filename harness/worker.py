"""The process of a job, started by `harness.measure.process`.

`python -m harness.worker EVENTS REQUEST`: EVENTS is a file descriptor that takes one JSON line
`[kind, value]` per message; REQUEST is JSON: the job and the cores to run on. Standard input is a
lifeline: when it closes, the process and its descendants end. On it come the commands of a
job that takes turns.

This is a protocol between versions: a gate starts the worker of an older checkout.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from harness.backend import process_tree

_given = dict(os.environ)
"""The environment before anything that is imported changes it."""


def main() -> None:
    """Run the job in the request."""
    events, request = int(sys.argv[1]), json.loads(sys.argv[2])
    job = request["job"]
    # Before anything is imported that counts the cores or starts threads.
    if request["cores"] is not None:
        os.sched_setaffinity(0, request["cores"])
    commands: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    with os.fdopen(events, "w", buffering=1, encoding="utf-8") as stream:
        _run(job, iter(commands.get, None), stream)
    # Everything is reported: how a framework shuts down is not part of the result.
    sys.stdout.flush()
    sys.stderr.flush()
    process_tree.kill(_descendants())
    os._exit(0)


def _listen(commands: SimpleQueue[str]) -> None:
    """Queue each line of standard input; when it closes, kill the process and its descendants."""
    for line in sys.stdin:
        commands.put(line)
    process_tree.kill(_descendants())
    os.killpg(0, signal.SIGKILL)


def _descendants() -> list[int]:
    return process_tree.family(os.getpid())[1:]


def _run(job: dict[str, Any], commands: Iterator[str], stream: Any) -> None:
    from pydantic_core import to_jsonable_python

    from harness.backend.registry import hiding
    from harness.errors import InvalidInput, Unavailable

    def emit(kind: str, value: Any) -> None:
        stream.write(json.dumps([kind, to_jsonable_python(value)]) + "\n")

    try:
        _carry_out(job, commands, emit)
    except (InvalidInput, Unavailable) as error:
        emit("refused", str(error))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}{hiding()}"
        emit("failed", [reason, traceback.format_exc()])
    # Last, because running other programs takes time and processor caches.
    if job["kind"] != "parity":
        emit("fields", {"environment": _environment(job["backend"], job["device"])})
    emit("done", None)


def _carry_out(job: dict[str, Any], commands: Iterator[str], emit: Any) -> None:
    """Import only what this kind of job needs: imports are part of what is measured."""
    from harness.trial.jobs import ParityJob, TurnsJob

    if job["kind"] == "turns":
        from harness.measure import stepwise

        stepwise.serve(TurnsJob.model_validate(job), commands, emit, _find)
    else:
        from harness.measure import machine, parity

        parity.run(ParityJob.model_validate(job), emit)
        emit("fields", {"peak_rss_mb": machine.peak_rss_mb()})


_loaded: dict[str, Any] = {}


def _find(backend: str) -> Any:
    """Find a backend; return what imports or starts it, once for all trainings of this process."""
    from harness.backend import registry

    import_backend = registry.importer(backend)

    def load() -> Any:
        if backend not in _loaded:
            _loaded[backend] = import_backend()
        return _loaded[backend]

    return load


def _environment(backend: str, device: str) -> dict[str, str]:
    """Describe the machine, the versions of the code, and this process."""
    import harness
    from harness.backend import process, registry
    from harness.errors import InvalidInput
    from harness.measure import machine, settings
    from harness.measure.git import describe_source

    module = None
    with suppress(InvalidInput):  # It was refused, and that was reported.
        module = sys.modules.get(registry.module_of(backend) or "")
    greeting = process.greeting(_loaded.get(backend))
    return {
        # First, because what describes the rest sets variables.
        **settings.describe(_given, _loaded.get(backend), device),
        **machine.describe(),
        **(machine.describe_gpu() if device == "gpu" else {}),
        **describe_source("harness", harness.__file__),
        **describe_source("backend", greeting.source or getattr(module, "__file__", None)),
        **machine.describe_process(),
        **greeting.describe(),
    }


if __name__ == "__main__":
    main()
