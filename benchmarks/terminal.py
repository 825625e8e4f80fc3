"""What showing a run takes of the processor on which its trials are timed.

    python -m benchmarks.terminal [ROUNDS]

Runs the default job inline with each kind of report, in turn, on a pseudo-terminal (the lines go to
a file), and prints the processor time of the driver over the time that passed, from the moment the
trials are planned to the end of the last one: medians over the rounds. What its trials take is not
in it, and what it does in any case, such as writing records, is in all of them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

import harness
from benchmarks.helpers.commands import ROOT
from benchmarks.helpers.pseudo_terminal import Terminal
from harness.measure.clock import cpu_time, now
from harness.runs.dashboard import reporter
from harness.runs.progress import Lines
from harness.trial.events import Event, Planned
from harness.trial.record import Record

KINDS = {"quiet": None, "lines": None, "live, 80x24": (80, 24), "live, 120x40": (120, 40)}


class Meter:
    """A reporter that passes on what it is told, and reads the clocks."""

    def __init__(self, told: Lines) -> None:
        self._told = told
        self.begin, self.grow, self.note = told.begin, told.grow, told.note
        self.first = self.last = (0.0, 0.0)

    def event(self, event: Event) -> None:
        """Pass it on."""
        if isinstance(event, Planned):
            self.first = cpu_time(), now()
        self._told.event(event)
        if isinstance(event, Record):
            self.last = cpu_time(), now()

    @property
    def spent(self) -> tuple[float, float]:
        """Processor time and wall time, in seconds."""
        return self.last[0] - self.first[0], self.last[1] - self.first[1]


def drive(kind: str, results: str) -> None:
    """Be the driver: run the job, and write down what it took."""
    with reporter(Console(stderr=True), quiet=kind == "quiet") as told:
        meter = Meter(told)
        harness.run(
            backends=["torch", "jax"],
            dispatch="inline",
            results=results,
            run_id="job",
            reporter=meter,
        )
    Path(results, "spent.json").write_text(json.dumps([type(told).__name__, *meter.spent]))


def measure(kind: str) -> tuple[str, float, float]:
    """Run the job with a kind of report; return the reporter, processor time and wall time."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "benchmarks.terminal", "--drive", kind, results]
        size = KINDS[kind]
        if size is None:
            with Path(results, "log").open("w") as log:
                subprocess.run(command, check=True, cwd=ROOT, stderr=log)
        else:
            with Terminal(command, *size) as terminal:
                assert terminal.end() == 0, terminal.screen.shown
        name, cpu_s, wall_s = json.loads(Path(results, "spent.json").read_text())
        return name, cpu_s, wall_s


def main() -> None:
    """Print the table, a row for each kind of report."""
    if sys.argv[1:2] == ["--drive"]:
        return drive(*sys.argv[2:])
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seen: dict[str, list[tuple[str, float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            seen[kind].append(measure(kind))
    print("| report | reporter | run s | processor s | % of a core |\n|---|---|---|---|---|")
    for kind, runs in seen.items():
        cpu_s = statistics.median(cpu for _, cpu, _ in runs)
        wall_s = statistics.median(wall for _, _, wall in runs)
        share = statistics.median(100 * cpu / wall for _, cpu, wall in runs)
        print(f"| {kind} | {runs[0][0]} | {wall_s:.1f} | {cpu_s:.3f} | {share:.2f} |")
    return None


if __name__ == "__main__":
    main()
