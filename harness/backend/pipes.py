"""The pipes to the process of a backend: lines of text, raw bytes, and what can go wrong.

Standard error is inherited: it never fills up, and a trial keeps it with its own output.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import signal
import stat
import subprocess
import termios
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from harness.backend import process_tree
from harness.backend.command import TABLE, Command
from harness.errors import Unavailable, WorkerError, brief, last_words

_PIPE_BYTES = 2**20
_LONGEST_LINE = 2**16
_MOST_PARTS = 64  # The system allows some hundreds.
_ANSWERS = (b"ok", b"error", b"unavailable")
# A process is idle if it uses less of the processor than this share in each tick of its patience.
_IDLE_SHARE, _TICKS, _LONGEST_TICK_S = 0.01, 6, 5
_TAIL_BYTES = 4000


class Pipes:
    """A process that was started, and the conversation with it. Errors are `WorkerError`."""

    def __init__(self, command: Command) -> None:
        """Start the process. Raises `Unavailable` if it cannot be started."""
        self._command = command
        self._asked = ""
        try:
            self._process = subprocess.Popen(
                list(command.words),
                cwd=command.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise Unavailable(
                f"backend `{command.name}`: `{command.words[0]}` cannot be started: "
                f"{brief(error)}. {command.hint}".rstrip()
            ) from error
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            with suppress(OSError, AttributeError):  # The larger, the fewer changes of process.
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._received = bytearray()
        self.close = weakref.finalize(self, _end, self._process)

    def send(self, asked: str, *parts: bytes | memoryview) -> None:
        """Write a request, named `asked` in errors; stop if an error comes before its end."""
        answered, self._asked = self._asked, asked
        if not self.close.alive:
            self._fail(f"was ended before it was asked to `{asked}`.")
        if answered:
            self._refuse_surplus(answered)
        rest = [memoryview(part).cast("B") for part in parts]
        while rest:
            try:
                sent = os.writev(self._to, rest[:_MOST_PARTS])
            except BlockingIOError:
                ready = self._wait((self._to, self._from), self._not_flushed)
                if self._from in ready and self._receive():
                    if self._received.startswith(b"ok"):
                        self._fail(f"answered `{asked}` before it had read the whole request.")
                    return
                continue
            except BrokenPipeError:
                return  # The answer, or that there is none, says why.
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]

    def read_line(self) -> str:
        """Return the first line of the answer, without its end."""
        while b"\n" not in self._received:
            self._wait((self._from,), self._not_flushed)
            self._receive()
        line, _, self._received = self._received.partition(b"\n")
        if line.partition(b"\t")[0] not in _ANSWERS or line.endswith(b"\r"):
            self._fail_noise(line)
        return line.decode(errors="replace")

    def read_into(self, name: str, values: memoryview) -> None:
        """Read the values of the array of that name."""
        values = values.cast("B")
        got = min(len(self._received), len(values))
        values[:got] = self._received[:got]
        del self._received[:got]

        def incomplete() -> str:
            half = " (float32 where the model is float64?)" if 2 * got == len(values) else ""
            return f"it sent only {got} of the {len(values)} bytes of `{name}`{half}"

        while got < len(values):
            try:
                count = os.readv(self._from, [values[got:]])
            except BlockingIOError:
                self._wait((self._from,), incomplete)
                continue
            if not count:
                self._fail_ended()
            got += count

    def _fail(self, problem: str) -> NoReturn:
        """Raise `WorkerError`; a verb comes first in what the process did."""
        raise WorkerError(f"its process {problem}")

    def _receive(self) -> bool:
        """Add what there is to the line that is being received; return whether it is complete."""
        with suppress(BlockingIOError):
            received = os.read(self._from, _LONGEST_LINE)
            if not received:
                self._fail_ended()
            self._received += received
        complete = b"\n" in self._received
        if not complete and len(self._received) >= _LONGEST_LINE:
            self._fail_noise(self._received)
        return complete

    def _wait(self, pipes: tuple[int, ...], stuck: Callable[[], str]) -> list[int]:
        """Wait for a pipe; return those that are ready. Raise if the process is idle meanwhile."""
        poll = select.poll()
        for pipe in pipes:
            poll.register(pipe, select.POLLOUT if pipe == self._to else select.POLLIN)
        patience_s = self._command.patience_s
        tick_s = min(patience_s / _TICKS, _LONGEST_TICK_S)
        idle, before = 0, None
        while not (ready := poll.poll(1000 * tick_s)):
            if self._process.poll() is not None:  # A child of it may still hold the pipe.
                self._fail_ended()
            pids = process_tree.family(self._process.pid)
            after = process_tree.cpu_s(pids)
            waits = not any({"R", "D"} & set(process_tree.status(pid, "State")) for pid in pids)
            if before is not None and waits and after - before < _IDLE_SHARE * tick_s:
                idle += 1
            else:
                idle = 0
            before = after
            if idle * tick_s >= patience_s:
                self._fail(
                    f"has not answered `{self._asked}`, and has used no processor time for "
                    f"{patience_s:g} s: {stuck()}."
                )
        return [pipe for pipe, _ in ready]

    def _not_flushed(self) -> str:
        if self._received:
            return f"it sent `{_shown(self._received)}`, and no end of the line"
        unread = array.array("i", [0])
        fcntl.ioctl(self._to, termios.FIONREAD, unread)
        if unread[0]:
            return "it does not read the whole request"
        return (
            "it has read the whole request, and may not have flushed its standard output, or it "
            f"waits for something else (then allow more time: `patience_s` in [{TABLE}])"
        )

    def _refuse_surplus(self, answered: str) -> None:
        """Raise if the process wrote more than the answer that was read, or has ended since."""
        with suppress(BlockingIOError):
            surplus = os.read(self._from, _LONGEST_LINE)
            if not surplus:
                self._fail_ended()
            self._received += surplus
        if self._received:
            more = self._received.startswith(_ANSWERS)
            unread = " It may have taken the arrays of the request for another one." * more
            self._fail(
                f"wrote more than the line of its answer to `{answered}` says: "
                f"{len(self._received)} bytes that begin with `{_shown(self._received)}`.{unread}"
            )

    def _fail_noise(self, line: bytes | bytearray) -> NoReturn:
        known = any(word in _ANSWERS for word in line.split()[:1])
        if known and line.endswith(b"\r"):
            why = ": a line ends with \\n alone, not with \\r\\n."
        elif known:
            why = ": the fields of a line are separated by tabs."
        else:
            why = ", where only lines that begin with `ok`, `error` or `unavailable` belong."
        self._fail(
            f"wrote `{_shown(line)}` to its standard output as answer to `{self._asked}`{why}"
        )

    def _fail_ended(self) -> NoReturn:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._fail(f"closed its standard output before it answered `{self._asked}`.")
        killed = code < 0 and f"was killed by {signal.Signals(-code).name}"
        how = killed or f"ended with exit code {code}"
        said = last_words(_tail(), "standard error") or "."
        self._fail(f"{how} before it answered `{self._asked}`{said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a process end by itself, or kill it and its descendants."""
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process_tree.kill(process_tree.family(process.pid))
        process.wait()


def _shown(line: bytes | bytearray) -> str:
    """Return the beginning of what is not an answer, so that it can be printed."""
    return ascii(bytes(line[:80]).decode(errors="replace").partition("\n")[0])[1:-1]


def _tail() -> str:
    """Return the end of standard error, which is a file in the process of a trial."""
    with suppress(OSError):
        status = os.fstat(2)
        if stat.S_ISREG(status.st_mode):
            start = max(0, status.st_size - _TAIL_BYTES)
            return os.pread(2, _TAIL_BYTES, start).decode(errors="replace")
    return ""
