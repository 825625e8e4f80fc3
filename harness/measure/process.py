"""The process of a job: how it is started, spoken with and ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from harness.backend import process_tree
from harness.errors import HarnessError, Unavailable, explained, last_words
from harness.measure import machine, messages, settings
from harness.measure.clock import now
from harness.trial.jobs import Job, TurnsJob

_POLL_S = 0.5
_RUN = "runpy.run_module('harness.worker', run_name='__main__', alter_sys=True)"
# With `-P`, Python does not put the current folder first, where a `random.py` would hide its own
# module. It goes before the installed packages, once those of the harness itself are found.
_START = f"import os, runpy, sys, harness, backends; {_RUN}"
_START_HERE = _START.replace(
    _RUN,
    "sys.path.insert(next((n for n, p in enumerate(sys.path) if '-packages' in p), len(sys.path)),"
    f" os.getcwd()); {_RUN}",
)
_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Tree:
    """A version of the code: import paths of its own, and a working directory."""

    cwd: Path
    paths: tuple[str, ...]

    @classmethod
    def here(cls) -> Tree:
        """Return the paths that this process imports from.

        Left out are the Python installation and the current folder.
        """
        cwd, own = Path.cwd(), str(Path(__file__).parents[2])
        paths = [p for p in sys.path if p and Path(p) != cwd and not machine.installed(p)]
        own_first = [] if machine.installed(own) else [own]
        return cls(cwd, tuple(dict.fromkeys([*own_first, *paths])))


class JobFailed(HarnessError):
    """The process of a job could not do it; the text says why."""

    def __init__(self, reason: str, kind: str, details: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        """The kind of the message that said so: `refused`, `failed`, `timeout` or `exit`."""
        self.details = details
        """A traceback, or the last lines that the process printed."""

    def during(self, phase: str) -> str:
        """Say what went wrong and when; of a process that ended without a word, its last lines."""
        return f"{self} ({phase})" + (last_words(self.details) if self.kind == "exit" else "")

    @property
    def status(self) -> Literal["failed", "timeout"]:
        """The status of the trial."""
        return "timeout" if self.kind == "timeout" else "failed"


class Worker:
    """The process of a job, in a session of its own. `close` kills it and its descendants."""

    def __init__(
        self,
        job: Job | TurnsJob,
        cores: tuple[int, ...] | None = None,
        tree: Tree | None = None,
        **environment: str,
    ) -> None:
        tree = tree or Tree.here()
        fields = job.model_dump(mode="json")
        if isinstance(job, TurnsJob):
            # Another version of the code may lack a field, or have another default.
            fields["task"] = job.task.model_dump(mode="json", exclude_unset=True)
        request = json.dumps({"job": fields, "cores": cores})
        reader, writer = os.pipe()
        self.fields: dict[str, Any] = {}
        """What it has reported of itself, such as `import_s`, `environment` or `versions`."""
        self.phase = "starting"
        self._timeout_s = job.timeout_s
        self.deadline = None if job.timeout_s is None else now() + job.timeout_s
        """When, on the clock, it should have done what it was asked."""
        self._events = os.fdopen(reader, "rb", buffering=0)
        with explained(Unavailable, "the folder for temporary files, TMPDIR, cannot be used"):
            self._output = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
            self._caches = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        start = _START if sys.flags.safe_path else _START_HERE
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", start, str(writer), request],
                cwd=tree.cwd,
                bufsize=0,  # Else `close` would try to write what a dead process did not take.
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                env=_environment(job, tree, self._caches.name) | environment,
                start_new_session=True,
            )
        finally:
            os.close(writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and its descendants, also those in sessions of their own."""
        if self._process.poll() is None:  # Otherwise, another process may have its number.
            process_tree.kill(process_tree.family(self._process.pid))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stdin.close()
        self._events.close()
        self._output.close()
        self._caches.cleanup()

    def answers(self, stop: threading.Event | None = None) -> Iterator[tuple[str, Any]]:
        """Yield the messages of the process, less those about itself.

        Raises `JobFailed` once it has said all about an error. If `stop` is set, they just end.
        """
        error = None
        for kind, value in self._messages(stop):
            match kind:
                case "phase":
                    self.phase = value
                case "fields":
                    self.fields |= value
                case "refused":
                    error = error or JobFailed(value, kind)
                case "failed" | "exit":
                    error = error or JobFailed(value[0], kind, value[1])
                case "timeout":
                    seconds = f"{self._timeout_s:g} s"
                    error = error or JobFailed(f"still running after {seconds}", kind, value)
            if error and kind in {"done", "exit", "timeout"}:
                raise error
            if kind not in {"phase", "fields", "refused", "failed"}:
                yield kind, value
            if kind == "done":
                return

    def _messages(self, stop: threading.Event | None) -> Iterator[tuple[str, Any]]:
        """Yield the messages of the process, each a kind and its value.

        The last one is ("exit", (how, output)), or ("timeout", output) after the job's timeout. If
        `stop` is set, the messages just end.
        """
        buffer = b""
        while stop is None or not stop.is_set():
            wait_s = _POLL_S if self.deadline is None else min(_POLL_S, self.deadline - now())
            if wait_s <= 0:
                yield "timeout", self._tail()
                return
            # Poll before reading: when it has ended, all that it wrote can be read. The pipe may
            # stay open, if a child of the process outlives it.
            gone = self._process.poll() is not None
            if not select.select([self._events], [], [], 0 if gone else wait_s)[0]:
                if gone:
                    break
                continue
            received = self._events.read(65536)
            if not received:
                break
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                yield messages.read(line)
        else:
            return
        try:
            returncode = self._process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            returncode = None  # It closed the pipe but has not ended.
        yield "exit", (_describe_exit(returncode), self._tail())

    def say(self, line: str) -> None:
        """Send the process a line, if it has not ended."""
        with suppress(BrokenPipeError):
            self._stdin.write(f"{line}\n".encode())

    def pin(self, cores: tuple[int, ...]) -> None:
        """Restrict every thread of the process, and of its descendants, to these cores."""
        for pid in process_tree.family(self._process.pid):
            for thread in Path(f"/proc/{pid}/task").glob("*"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _tail(self) -> str:
        """Return the last lines that the process printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _TAIL_BYTES))
        return self._output.read().decode(errors="replace").strip()


def _describe_exit(returncode: int | None) -> str:
    if returncode is None:
        return "the process stopped reporting before it was done"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"the process ended by itself with exit code {returncode}"


def _visible_gpu(job: Job | TurnsJob) -> str:
    """Return the one GPU that the process of a job may use: the first that this process may."""
    if job.device != "gpu":
        return ""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def _environment(job: Job | TurnsJob, tree: Tree, caches: str) -> dict[str, str]:
    """Return the environment of the process; frameworks read it when they are imported.

    `caches` is an empty folder for compiled code: what an earlier process has compiled would make
    the first call of one framework look shorter than that of another.
    """
    return os.environ | {
        **dict.fromkeys(settings.THREAD_VARIABLES, str(job.threads)),
        "CUDA_VISIBLE_DEVICES": _visible_gpu(job),
        # Otherwise CUDA counts the fastest GPU first, unlike nvidia-smi and NVML.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Full float32 products and reproducible sums in every CUDA library.
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Memory is allocated when needed, so that its peak means something.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # Caches on disk are off, or empty where they cannot be switched off.
        "CUDA_CACHE_DISABLE": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "NUMBA_CACHE_DIR": f"{caches}/numba",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
        "TRITON_CACHE_DIR": f"{caches}/triton",
        "USE_PYTORCH_KERNEL_CACHE": "0",
        "PYTHONPATH": os.pathsep.join(tree.paths),
        # Whatever the locale, a backend may print any character, and what it is told arrives.
        "PYTHONIOENCODING": "utf-8:replace",
    }
