"""A long run on a cluster to which everything happens that can; and what must be true after it.

`benchmarks/soak.py` prints what came of it, `test_soak.py` has a shorter one.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from benchmarks.helpers.clusters import LocalCluster, check_whole, trial_on
from benchmarks.helpers.commands import ROOT, TINY_RUN, command, overriding, wait_for
from harness import Run

BACKENDS = ("reference", "benchmarks.helpers.slow:Slow")
TIMEOUT_S = 10.0
KINDS = (
    *("kill of a trial", "stop of a trial", "kill of a Ray worker", "kill of a raylet"),
    *("kill of a node", "kill of the driver", "full object stores"),
)
_REPEATED = re.compile(r"^(\S+) was lost with block (\d+) ")


@dataclass
class Fault:
    """Something that was done to the run."""

    kind: str
    node: str
    after_s: float
    """Since the start of the run."""
    finished: int
    """How many trials had ended by then."""
    during: str
    """What ran on the node then, or what it befell."""
    trial: str = ""
    """The trial whose own process it befell."""
    repeated: list[int] = field(default_factory=list)
    """The blocks that were repeated for it."""


class Soak:
    """A run under the id `x`, and the faults that befall it at random moments."""

    def __init__(self, cluster: LocalCluster, results: Path, blocks: int, seed: int) -> None:
        self.faults: list[Fault] = []
        self.by_itself: list[int] = []
        """Blocks that were repeated although nothing was done to their node."""
        self.exit_codes: list[int] = []
        """Of each driver, the first one's first."""
        self._cluster = cluster
        self._results = results
        self._blocks = blocks
        self._random = random.Random(seed)
        self._began = time.monotonic()
        self._seen: dict[Path, bytes] = {}

    def go(self, kinds: Sequence[str], pauses_s: tuple[float, float]) -> Run:
        """Carry out the run with these faults, one after the other; return what became of it."""
        long = ("--set", "epochs=200", "--backends", ",".join(BACKENDS), "--seeds", self._blocks)
        self._start(*long, "--run-id", "x", "--max-retries", 20, "--timeout", TIMEOUT_S)
        for kind in kinds:
            self._look_on(self._random.uniform(*pauses_s))
            assert self._driver.poll() is None, f"the run ended before the fault `{kind}`"
            self._inflict[kind]()
        while self._driver.poll() is None:
            self._look_on(0.5)
        self._end()
        return Run("x", self._results)

    def check(self, run: Run) -> None:
        """Hold what became of the run against what the harness promises."""
        lost = [path for path, content in self._seen.items() if path.read_bytes() != content]
        assert not lost, "a record that was there is another one now"
        check_whole(run)
        assert len({(r.trial, r.attempt) for r in run.attempts}) == len(run.attempts)
        assert not run.problems
        blamed = {"failed": "kill of a trial", "timeout": "stop of a trial"}
        for record in run.records:
            if record.status != "ok":
                befallen = [f.trial for f in self.faults if f.kind == blamed[record.status]]
                assert record.trial in befallen, record
        killed = sum(fault.kind == "kill of the driver" for fault in self.faults)
        failed = (run.trials["status"] != "ok").any()
        assert self.exit_codes == [-signal.SIGKILL] * killed + [int(failed)]
        assert run.manifest.finished_utc

    @property
    def _inflict(self) -> dict[str, Callable[[], None]]:
        return {
            "kill of a trial": self._kill_trial,
            "stop of a trial": self._stop_trial,
            "kill of a Ray worker": self._kill_worker,
            "kill of a raylet": self._kill_raylet,
            "kill of a node": self._kill_node,
            "kill of the driver": self._kill_driver,
            "full object stores": self._fill_stores,
        }

    def _kill_trial(self) -> None:
        node, process = self._some_trial()
        self._note("kill of a trial", node, process, _trial(process))
        process.kill()

    def _stop_trial(self) -> None:
        node, process = self._some_trial()
        self._note("stop of a trial", node, process, _trial(process))
        process.suspend()
        self._look_on(TIMEOUT_S)

    def _kill_worker(self) -> None:
        node, process = self._some_trial()
        self._note("kill of a Ray worker", node, process)
        worker = process.parent()
        assert worker is not None
        worker.kill()

    def _kill_raylet(self) -> None:
        node = self._some_node()
        self._note("kill of a raylet", node, trial_on(self._cluster.raylet(node)))
        self._cluster.raylet(node).kill()
        self._look_on(3)
        self._replace(node)

    def _kill_node(self) -> None:
        node = self._some_node()
        self._note("kill of a node", node, trial_on(self._cluster.raylet(node)))
        self._replace(node)

    def _kill_driver(self) -> None:
        self._note("kill of the driver", "", None)
        self._driver.kill()
        self._end()
        measured = Counter(record.block for record in Run("x", self._results).records)
        self.faults[-1].repeated = sorted(b for b, n in measured.items() if n < len(BACKENDS))
        self._look_on(self._random.uniform(0, 3))
        self._start("--resume", "x")

    def _fill_stores(self) -> None:
        self._note("full object stores", "", None)
        for _ in range(5):
            hog = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.helpers.hog", self._cluster.address, "5"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert hog.stdout is not None
            # It ends with the raylet that it had joined, if that one is still being mourned.
            full = hog.stdout.readline().startswith("full")
            while hog.poll() is None:
                self._look_on(0.3)
            hog.stdout.close()
            if full:
                return
        raise AssertionError("the object stores were never full")

    def _replace(self, node: str) -> None:
        self._cluster.remove(node)
        self._look_on(self._random.uniform(0, 3))
        self._cluster.add(node)

    def _some_node(self) -> str:
        return self._random.choice(sorted(self._cluster.names))

    def _some_trial(self) -> tuple[str, psutil.Process]:
        def look() -> tuple[str, psutil.Process] | None:
            self._look_on(0.05)
            node = self._some_node()
            process = trial_on(self._cluster.raylet(node))
            return (node, process) if process else None

        found: tuple[str, psutil.Process] = wait_for(look, 300)
        # Anywhere in its short life, not only at its start.
        self._look_on(self._random.uniform(0, 1.5))
        return found if found[1].is_running() else self._some_trial()

    def _note(self, kind: str, node: str, process: psutil.Process | None, trial: str = "") -> None:
        now = time.monotonic() - self._began
        during = (
            "" if process is None else f"trial aged {time.time() - process.create_time():.1f} s"
        )
        self.faults.append(Fault(kind, node, now, len(self._seen), during, trial))

    def _start(self, *given: object) -> None:
        where = ("--address", self._cluster.address, "--results", self._results)
        self._driver = subprocess.Popen(
            command(*overriding(*TINY_RUN, *where, *given)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self._driver.stderr is not None
        self._listener = threading.Thread(target=self._listen, args=(self._driver.stderr,))
        self._listener.start()

    def _end(self) -> None:
        self.exit_codes.append(self._driver.wait())
        self._listener.join()
        self._look_on(0)

    def _listen(self, errors: IO[str]) -> None:
        """Hear what the driver says of blocks that are repeated."""
        said = []
        with errors:
            for line in errors:
                said.append(line)
                if found := _REPEATED.match(line):
                    node, block = found[1].partition("#")[0], int(found[2])
                    faults = [fault for fault in self.faults if fault.node == node]
                    # A busy head may also give up a node to which nothing was done.
                    (faults[-1].repeated if faults else self.by_itself).append(block)
        self.said = "".join(said)

    def _look_on(self, seconds: float) -> None:
        """Let time pass, and keep what every record is when it first appears."""
        until = time.monotonic() + seconds
        while True:
            for path in (self._results / "x" / "records").glob("*.json"):
                if path not in self._seen:
                    self._seen[path] = path.read_bytes()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))


def _trial(process: psutil.Process) -> str:
    """Return the name of the trial that a process was started for."""
    return str(json.loads(process.cmdline()[-1])["job"]["trial"])
