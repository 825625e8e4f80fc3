"""What a run of very many trials costs at its end, and afterwards.

    python -m benchmarks.many_trials [NUMBER ...] [--keep FOLDER]
    python -m benchmarks.many_trials [NUMBER ...] --s3 MS    # in S3, each request MS longer

The records are copies of real ones: the default task, `floor` and `jax-tuned`, `--packed`. Each
command is a process of its own; a row says how long it took and how much memory it had at most.

`end` is what comes after the last trial: all records are read (a run has them in memory already)
and the tables written. `show, records` is `show` without the stored table of trials. S3 is moto's
server, which answers one request at a time; a row has the number of requests, too.

A run of more than 100,000 trials is one of 100,000, repeated; name it after that. Its records are
links to the same files, so only `list` and `show` are timed: they look at no more than the names,
sizes and dates of all records.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.helpers.commands import ROOT, command
from benchmarks.helpers.delay import delayed
from benchmarks.helpers.runs import cloned, repeated
from benchmarks.helpers.s3 import BUCKET, S3Server
from harness.measure.clock import now

ARMS = 2
_RUN = ("run", "--backends", "floor,jax-tuned", "--packed", "--dispatch", "inline", "--no-report")
STORED = {
    "end": ("run", "--resume", "x", "--no-report", "--quiet"),
    "list": ("list",),
    "show": ("show", "x"),
    "show --table steps": ("show", "x", "--table", "steps"),
    "explain": ("explain", "x"),
    "report --no-plots": ("report", "x", "--no-plots"),
    "history": ("history",),
}
"""The commands that are timed, on run `x`."""
FROM_RECORDS = {"show, records": ("show", "x")}
"""Without the stored table of trials."""
_UPLOADS = 16
_MOST = 100_000
"""Larger runs are repetitions of one of this size."""


def spent(*words: object) -> tuple[float, float]:
    """Run a command; return its seconds, and its peak of memory in MB."""
    began = now()
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=nowhere, stderr=nowhere)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with exit code {process.returncode}")
    return now() - began, used.ru_maxrss / 1024


def measure(
    results: str, rows: Mapping[str, Sequence[str]], requests: Callable[[], int] = lambda: 0
) -> None:
    """Print a row for each command."""
    for name, words in rows.items():
        before = requests()
        seconds, peak_mb = spent(*words, "--results", results)
        asked = requests() - before
        print(f"| {name} | {seconds:.1f} | {peak_mb:.0f} | {asked or ''} |", flush=True)


def on_disk(real: Path, trials: int, folder: Path) -> None:
    """Measure a run in a folder."""
    run = folder / f"{trials}" / "x"
    if trials > _MOST:
        if not run.exists():
            repeated(folder / f"{_MOST}" / "x", run, trials // _MOST)
        measure(str(run.parent), {name: STORED[name] for name in ("list", "show")})
        return
    if not run.exists():
        cloned(real, run, trials // ARMS)
    measure(str(run.parent), STORED)
    table = run / "trials.parquet"
    aside = table.rename(table.with_suffix(".aside"))
    measure(str(run.parent), FROM_RECORDS)
    aside.rename(table)


def in_a_store(real: Path, trials: int, folder: Path, delay_s: float) -> None:
    """Measure a run in S3, where each request takes so much longer than moto does."""
    source = cloned(real, folder / f"s3-{trials}" / "x", trials // ARMS)
    server = S3Server(folder).start()
    os.environ.update(server.environment)
    try:
        system = server.make_bucket().system()
        system.put(str(source), f"{BUCKET}/x", recursive=True, batch_size=_UPLOADS)
        with delayed(server.port, delay_s) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
            measure(f"s3://{BUCKET}", STORED, lambda: proxy.requests)
            system.rm_file(f"{BUCKET}/x/trials.parquet")
            measure(f"s3://{BUCKET}", FROM_RECORDS, lambda: proxy.requests)
    finally:
        server.kill()


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """Yield the folder, or a temporary one."""
    with tempfile.TemporaryDirectory() as scratch:
        yield folder or Path(scratch)


def main() -> None:
    """Print a table for each number of trials."""
    parser = argparse.ArgumentParser()
    parser.add_argument("numbers", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--s3", type=float, metavar="MS")
    given = parser.parse_args()
    with kept(given.keep) as folder:
        real = folder / "real" / "x"
        if not real.exists():
            at = ("--results", real.parent, "--run-id", real.name)
            spent(*_RUN, "--seeds", 3, *at, "--quiet")
        for trials in given.numbers:
            print(f"\n{trials:,} trials\n\n| command | s | MB | requests |\n|---|---|---|---|")
            if given.s3 is None:
                on_disk(real, trials, folder)
            else:
                in_a_store(real, trials, folder, given.s3 / 1000)


if __name__ == "__main__":
    main()
