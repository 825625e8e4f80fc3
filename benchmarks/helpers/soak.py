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

from benchmarks.helpers.clusters import HEAD, LocalCluster, check_whole, trials_on
from benchmarks.helpers.commands import ROOT, TINY_RUN, command, overriding, wait_for
from harness import Run
from harness.cli.output import BAD_INPUT, UNWRITTEN

BACKENDS = ("reference", "benchmarks.helpers.slow:Slow")
TIMEOUT_S = 10.0
KINDS = (
    *("kill of a trial", "stop of a trial", "kill of a Ray worker", "kill of a raylet"),
    *("kill of a node", "kill of the driver", "full object stores"),
    *("silent node", "silent head"),
)
# What a trial may end with, and the faults that explain it.
EXPLAINED = {
    "failed": {"kill of a trial"},
    # A node that is silent for less time than its death takes: the trials were late, no more.
    "timeout": {"stop of a trial", "silent node"},
}
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
    trials: tuple[str, ...] = ()
    """The trials whose own processes it befell."""
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
        self._start(*TINY_RUN, *long, "--run-id", "x", "--max-retries", 20, "--timeout", TIMEOUT_S)
        self._some_trial()  # Before the first one, there is nothing to lose.
        for kind in kinds:
            self._look_on(self._random.uniform(*pauses_s))
            if self._driver.poll() is not None:
                self._end()
                raise AssertionError(f"it ended before `{kind}`, after {self.faults}: {self.said}")
            self._befall(kind)
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
        for record in run.records:
            if record.status != "ok":
                blamed = [f for f in self.faults if f.kind in EXPLAINED[record.status]]
                assert record.trial in [trial for f in blamed for trial in f.trials], record
        # A driver that has not joined yet is refused by a silent head.
        ends = {"kill of the driver": {-signal.SIGKILL}, "silent head": {UNWRITTEN, BAD_INPUT}}
        failed = (run.trials["status"] != "ok").any()
        expected = [ends[fault.kind] for fault in self.faults if fault.kind in ends]
        for code, fit in zip(self.exit_codes, [*expected, {int(failed)}], strict=True):
            assert code in fit, self.exit_codes
        assert run.manifest.finished_utc

    def _befall(self, kind: str) -> None:
        before = len(self.faults)
        while True:
            try:
                self._inflict[kind]()
                return
            except psutil.NoSuchProcess:  # It has just ended by itself: another one.
                del self.faults[before:]
                self._replace_dead()

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
            "silent node": self._silence_node,
            "silent head": self._silence_head,
        }

    def _kill_trial(self) -> None:
        node, process = self._some_trial()
        self._note("kill of a trial", node, process)
        process.kill()

    def _stop_trial(self) -> None:
        node, process = self._some_trial()
        self._note("stop of a trial", node, process)
        process.suspend()
        self._look_on(TIMEOUT_S)

    def _kill_worker(self) -> None:
        node, process = self._some_trial()
        self._note("kill of a Ray worker", node, process)
        worker = process.parent()
        if worker is None:
            raise psutil.NoSuchProcess(process.pid)
        worker.kill()

    def _kill_raylet(self) -> None:
        node = self._some_node()
        self._note("kill of a raylet", node, *trials_on(self._cluster.raylet(node)))
        self._cluster.raylet(node).kill()
        self._look_on(3)
        self._replace(node)

    def _kill_node(self) -> None:
        node = self._some_node()
        self._note("kill of a node", node, *trials_on(self._cluster.raylet(node)))
        self._replace(node)

    def _kill_driver(self) -> None:
        self._note("kill of the driver", "")
        self._driver.kill()
        self._resume()

    def _silence_node(self) -> None:
        """Stop a node for longer or shorter than the head takes to give it up; it comes back."""
        node, _ = self._some_trial()
        self._note("silent node", node, *trials_on(self._cluster.raylet(node)))
        stopped = self._cluster.silence(node)
        self._look_on(self._random.uniform(1, 40))
        self._cluster.wake(stopped)
        # Given up, it finds that out and ends.
        self._look_on(10)
        self._replace_dead()

    def _silence_head(self) -> None:
        self._note("silent head", "")
        stopped = self._cluster.silence(HEAD)
        while self._driver.poll() is None:
            self._look_on(0.3)
        self._cluster.wake(stopped)
        self._look_on(5)
        self._replace_dead()
        self._resume()

    def _resume(self) -> None:
        """Go on with a driver that has ended."""
        self._end()
        measured = Counter(record.block for record in Run("x", self._results).records)
        self.faults[-1].repeated = sorted(b for b, n in measured.items() if n < len(BACKENDS))
        self._look_on(self._random.uniform(0, 3))
        self._start("run", "--resume", "x")

    def _fill_stores(self) -> None:
        self._note("full object stores", "")
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

    def _replace_dead(self) -> None:
        for node in sorted(self._cluster.names):
            if not self._cluster.is_alive(node):
                self._replace(node)

    def _some_node(self) -> str:
        return self._random.choice(sorted(self._cluster.names))

    def _some_trial(self) -> tuple[str, psutil.Process]:
        def look() -> tuple[str, psutil.Process] | None:
            self._look_on(0.05)
            node = self._some_node()
            processes = trials_on(self._cluster.raylet(node))
            return (node, self._random.choice(processes)) if processes else None

        found: tuple[str, psutil.Process] = wait_for(look, 300)
        # Anywhere in its short life, not only at its start.
        self._look_on(self._random.uniform(0, 1.5))
        return found if found[1].is_running() else self._some_trial()

    def _note(self, kind: str, node: str, *processes: psutil.Process) -> None:
        """Note a fault, and the processes of trials that it befalls."""
        ages_s = [time.time() - process.create_time() for process in processes]
        during = f"trials aged {max(ages_s):.1f} s" if ages_s else ""
        after_s = time.monotonic() - self._began
        trials = tuple(map(self._trial, processes))
        self.faults.append(Fault(kind, node, after_s, len(self._seen), during, trials))

    def _trial(self, process: psutil.Process) -> str:
        """Return the name of the trial that a process was started for."""
        told = json.loads(process.cmdline()[-1])["job"]
        blocks = Run("x", self._results).manifest.plan.blocks()
        fields = ("backend", "device", "seed")
        (trial,) = [
            job.trial
            for block in blocks
            for job in block
            if all(getattr(job, field) == told[field] for field in fields)
        ]
        return trial

    def _start(self, *given: object) -> None:
        where = ("--address", self._cluster.address, "--results", self._results)
        self._driver = subprocess.Popen(
            command(*overriding(*given, *where)),
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
