"""Hostile input for every reader of what comes from elsewhere.

    python -m benchmarks.fuzz [READER ...] [--inputs N] [--seed N] [--keep FOLDER]

Prints for each reader how much was refused with a sentence and how much was accepted. A fault is a
traceback, an exit code that is in no table, more than half a minute, or a file, a program or a
connection that a reader has no business with; the first input of each is kept in the folder. The
same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import chdir
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.helpers.bounds import Began, watched
from benchmarks.helpers.readers import READERS, Fault, Reader
from harness.errors import HarnessError

_LONGEST_S = 30.0
_MOST_BYTES = 8 * 2**30
# Of a process that reads one input: seconds of the processor, and memory with all that is imported.
_LONGEST_ALONE_S = 10
_MOST_KB_ALONE = 1_000_000


class TooSlow(BaseException):
    """A reader took longer than it may."""


def attempt(reader: Reader, data: bytes, folder: Path) -> str:
    """Let a reader read in an empty folder; return `refused` or `accepted`. Raises any fault."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with (
        chdir(folder),
        watched(folder.parent, reader.starts, reader.programs),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # Of NumPy, for numbers near the largest.
        try:
            reader.read(data)
        except HarnessError:
            return "refused"
        except Began:
            pass
    return "accepted"


def attempt_alone(reader: Reader, data: bytes, folder: Path) -> str:
    """Do the same in a process of its own. Raises `Fault` with the traceback there."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGPROF, _too_slow)
        signal.setitimer(signal.ITIMER_PROF, _LONGEST_ALONE_S)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10 * _LONGEST_ALONE_S)
        try:
            outcome = attempt(reader, data, folder)
        except BaseException as error:
            outcome = f"{_place(error)}\n{''.join(traceback.format_exception(error))}"
        with open(sender, "wb") as out:
            out.write(outcome.encode(errors="backslashreplace"))
        os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as answer:
        outcome = answer.read().decode()
    _, status, used = os.wait4(pid, 0)
    if status:
        raise Fault(f"ended with status {status}")
    if used.ru_maxrss > _MOST_KB_ALONE:
        raise Fault(f"took {used.ru_maxrss // 1000} MB: {outcome}")
    if outcome not in {"refused", "accepted"}:
        raise Fault(outcome)
    return outcome


def fuzz(name: str, inputs: int, seed: int, keep: Path) -> None:
    """Print a row of the table."""
    reader, counts, places = READERS[name], Counter[str](), set[str]()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch
        if reader.prepare:
            reader.prepare(Path(scratch))
        for number in range(inputs):
            data = reader.make(random.Random(f"{name} {seed} {number}"))
            signal.setitimer(signal.ITIMER_REAL, 0 if reader.prepare else _LONGEST_S)
            try:
                read = attempt_alone if reader.prepare else attempt
                counts[read(reader, data, Path(scratch, "here"))] += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                counts["faults"] += 1
                place = _place(error)
                if place not in places:
                    places.add(place)
                    _keep(keep, f"{name}-{seed}-{number}".replace("/", "-"), data, error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        tempfile.tempdir = None
    seconds = time.monotonic() - start
    cells = (name, inputs, f"{seconds:.0f}", counts["refused"], counts["accepted"])
    print("| " + " | ".join(map(str, (*cells, counts["faults"]))) + " |", flush=True)


def _place(error: BaseException) -> str:
    """Return what tells one fault from another: the kind, and where it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno} {error!s:.80}"


def _keep(folder: Path, name: str, data: bytes, error: BaseException) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    (folder / f"{name}.txt").write_text("".join(traceback.format_exception(error)))
    print(f"{name}: {type(error).__name__}: {error!s:.300}", file=sys.stderr)


def _too_slow(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TooSlow(f"more than {_LONGEST_S:g} s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "harness-fuzz"))
    given = parser.parse_args()
    if unknown := set(given.readers) - set(READERS):
        parser.error(f"no such reader: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGALRM, _too_slow)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    os.environ |= {"HARNESS_DEBUG": "1", "HARNESS_REPORT": "0"}
    print("| reader | inputs | seconds | refused | accepted | faults |")
    print("|---|---|---|---|---|---|")
    for name in given.readers or READERS:
        fuzz(name, given.inputs, given.seed, given.keep.absolute())


if __name__ == "__main__":
    main()
