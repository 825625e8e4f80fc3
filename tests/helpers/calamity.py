"""Runs the command line while something happens to its results folder at one of its writes.

`python -m tests.helpers.calamity KIND NUMBER RUN WORDS...`: just before the file with this number
is written into the folder RUN, or before anything if it is 0, the calamity of this kind happens.
The operating system itself refuses the write then. The last line of standard error says whether it
has happened.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from harness.cli import main


def full(run: Path) -> None:
    """The disk is full: the results folder is one of its own."""
    with (run.parent / "filler").open("wb", 0) as filler:
        for size in (2**16, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                pass


def read_only(run: Path) -> None:
    """Nothing may be written any more, unless by root."""
    for folder in (run.parent, run, run / "records", run / "plots"):
        if folder.is_dir():
            folder.chmod(0o555)


def removed(run: Path) -> None:
    """Somebody has removed the run."""
    shutil.rmtree(run, ignore_errors=True)


def without_records(run: Path) -> None:
    """Somebody has removed its records."""
    shutil.rmtree(run / "records", ignore_errors=True)


def no_results(run: Path) -> None:
    """Somebody has removed all results."""
    shutil.rmtree(run.parent, ignore_errors=True)


def replaced(run: Path) -> None:
    """There is a file in place of the results folder."""
    shutil.rmtree(run.parent)
    run.parent.write_bytes(b"")


KINDS = {f.__name__: f for f in (full, read_only, removed, without_records, no_results, replaced)}


def relieve(kind: str, run: Path) -> None:
    """Make the folder fit to be written again, as its owner would."""
    if kind == "full":
        (run.parent / "filler").unlink()
    elif kind == "read_only":
        for folder in (run.parent, run, run / "records", run / "plots"):
            if folder.is_dir():
                folder.chmod(0o755)
    elif kind == "replaced":
        run.parent.unlink()


class Watch:
    """Counts the files that are written, and lets the calamity happen once."""

    def __init__(self, kind: str, number: int, run: Path) -> None:
        self._kind, self._left, self._run = kind, number, run
        self.happened = False
        if number == 0:
            self.happen()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an event of the interpreter."""
        if event == "open" and not self.happened and str(arguments[0]).endswith(".part"):
            self._left -= 1
            if self._left == 0:
                self.happen()

    def happen(self) -> None:
        self.happened = True
        KINDS[self._kind](self._run)


if __name__ == "__main__":
    kind, number, run, *sys.argv[1:] = sys.argv[1:]
    watch = Watch(kind, int(number), Path(run))
    sys.addaudithook(watch)
    try:
        main()
    finally:
        os.write(2, b"it has happened\n" if watch.happened else b"nothing has happened\n")
