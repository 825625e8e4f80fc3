"""How long a history of many runs takes, how often it states a step that is none, what it finds.

    python -m benchmarks.history [--runs N] [--keep FOLDER]    # reading, statistics, page
    python -m benchmarks.history --rates [--histories N]       # simulated

The runs are copies of one real run (two backends, three seeds) with other times, dates and commits,
in the real format: manifest, records, stored table of trials. One backend becomes 10 % slower at
three fifths, and its error 5 % larger at four fifths. Each command is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from benchmarks.helpers.commands import ROOT, command
from benchmarks.helpers.histories import copy, real_run
from harness.backend.protocol import Array
from harness.measure.clock import now
from harness.stats.changepoints import FALSE_ALARMS, find_change_points

Noise = Callable[[np.random.Generator, int], Array]

SLOWER, WORSE = 1.10, 1.05
# The other one comes first by name, so that is what this one is compared with.
CHANGED = "reference"


def autocorrelated(rng: np.random.Generator, n: int, rho: float) -> Array:
    """Return a stationary AR(1) process of standard deviation 1."""
    values = rng.standard_normal(n)
    for t in range(1, n):
        values[t] = rho * values[t - 1] + np.sqrt(1 - rho**2) * values[t]
    return values


NOISE: dict[str, Noise] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "Student t, 2 df": lambda rng, n: rng.standard_t(2, n),
    "log-normal, sigma 1.5": lambda rng, n: np.exp(1.5 * rng.standard_normal(n)),
    "1 in 20 off by 10 sigma": lambda rng, n: rng.standard_normal(n) + 10 * (rng.random(n) < 0.05),
    "AR(1), 0.2 from run to run": lambda rng, n: autocorrelated(rng, n, 0.2),
    "AR(1), 0.5 from run to run": lambda rng, n: autocorrelated(rng, n, 0.5),
}
"""The last two break what the p-values rest on: that the order of the runs says nothing."""

BLOCKS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "equal: 3": lambda _, n: np.full(n, 3),
    "unlike: 3, 5 or 8": lambda rng, n: rng.choice([3, 5, 8], n),
    "unlike: 8, then 3": lambda _, n: np.where(np.arange(n) < n // 2, 8, 3),
    "very unlike: 3 to 64": lambda rng, n: 3 + (rng.random(n) ** 2 * 62).astype(int),
    "very unlike: 3, 1 in 10 has 64": lambda rng, n: np.where(rng.random(n) < 0.1, 64, 3),
    "very unlike: from 3 up to 64": lambda _, n: np.geomspace(3, 64, n).round().astype(int),
    "very unlike: 64, then 3": lambda _, n: np.where(np.arange(n) < 3 * n // 4, 64, 3),
    "very unlike: 3, then 64": lambda _, n: np.where(np.arange(n) < n // 4, 3, 64),
}
"""How many blocks each run has."""
SCATTER, STEP = 0.05, 0.05
"""The standard deviation of a block's log ratio, and the step that is looked for."""


def generate(results: Path, runs: int, tables: bool = True) -> None:
    """Write so many runs."""
    with tempfile.TemporaryDirectory() as scratch:
        real = real_run(Path(scratch))
        for number in range(runs):
            copy(
                real,
                results,
                f"nightly-{number:05}",
                number,
                times={CHANGED: SLOWER if number >= runs * 3 // 5 else 1.0},
                errors={CHANGED: WORSE if number >= runs * 4 // 5 else 1.0},
                noise=0.02,
                tables=tables,
            )


def timed(*arguments: object) -> tuple[float, str]:
    """Run a command; return its seconds and what it printed."""
    start = now()
    done = subprocess.run(
        command("history", *arguments), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return now() - start, done.stdout


def measure(runs: int, keep: Path | None) -> None:
    """Print what a history of so many runs costs."""
    folder = keep or Path(tempfile.mkdtemp())
    results = folder / "results"
    if not results.exists():
        start = now()
        generate(results, runs)
        print(f"{runs} runs written in {now() - start:.0f} s")
    page = folder / "history.html"
    seconds, text = timed("--results", results)
    print(f"table, with stored tables     {seconds:6.1f} s")
    print("".join(f"    {line}\n" for line in text.splitlines()[:2]), end="")
    seconds, text = timed("--results", results, "--format", "json", "--html", page)
    steps = [(step["measure"], step["run"]) for step in json.loads(text)["steps"]]
    print(f"JSON and page                 {seconds:6.1f} s")
    print(f"page                          {page.stat().st_size / 1e6:6.2f} MB")
    print(f"steps                         {steps}")
    for table in results.glob("*/trials.parquet"):
        table.rename(table.with_name("trials.aside"))
    seconds, _ = timed("--results", results)
    for table in results.glob("*/trials.aside"):
        table.rename(table.with_name("trials.parquet"))
    print(f"table, rebuilt from records   {seconds:6.1f} s")
    if keep is None:
        shutil.rmtree(folder)


def rates(histories: int) -> None:
    """Print how often steps are stated where there are none, and found where there are."""
    rng = np.random.default_rng(0)
    print(f"histories of pure noise with a step, nominally at most {FALSE_ALARMS:.0%} of them")
    print(f"{'noise':28} {'series':>6} {'runs':>5}  share [95 %]")
    for name, noise in NOISE.items():
        for series, runs in ((1, 30), (1, 200), (6, 60)):
            false = sum(
                any(find_change_points(noise(rng, runs), tests=series) for _ in range(series))
                for _ in range(histories)
            )
            print(f"{name:28} {series:6} {runs:5}  {share(false, histories)}")
    print(
        "\nsteps in the last of 6 series of 60 runs: found within 2 runs, exactly, and false ones"
    )
    for name in ("normal", "1 in 20 off by 10 sigma"):
        for after in (5, 10, 30):
            for size in (1.0, 2.0, 4.0):
                power(name, size, after, histories // 4, rng)


def power(name: str, size: float, after: int, histories: int, rng: np.random.Generator) -> None:
    """Print how well a step is found of so many standard deviations, so many runs ago."""
    near = exact = false = covered = within = 0
    for _ in range(histories):
        values = NOISE[name](rng, 60)
        values[-after:] += size
        found = find_change_points(values, tests=6)
        best = min(found, key=lambda step: abs(step.at - (60 - after)), default=None)
        hit = best is not None and abs(best.at - (60 - after)) <= 2
        near += hit
        false += len(found) - hit
        if best is not None and hit:
            exact += best.at == 60 - after
            low, high = best.change.interval()
            covered += low <= size <= high
            within += best.earliest <= 60 - after <= best.latest
    print(
        f"{name:24} {size:3.0f} sigma, {after:2} runs ago: {near / histories:4.0%} found, "
        f"{exact / max(near, 1):4.0%} of them at the run, in {covered / max(near, 1):4.0%} the "
        f"interval holds its size, in {within / max(near, 1):4.0%} the runs named its place; "
        f"{false / histories:.3f} false"
    )


def unlike_blocks(histories: int) -> None:
    """Print the same where runs have unlike numbers of blocks, with and without regard to them."""
    rng = np.random.default_rng(0)
    print(f"\nruns of unlike numbers of blocks, which scatter by {SCATTER:.0%} each; 1 series")
    print(f"random orders alone, then as the harness does; found: {STEP:.0%}, 10 of 60 runs ago")
    for name, blocks in BLOCKS.items():
        of_30, of_60, of_drifting, found = (
            _with_and_without(rng, blocks, histories, *case)
            for case in ((30, 0.0, 0.0), (60, 0.0, 0.0), (60, 0.3, 0.0), (60, 0.3, STEP))
        )
        print(
            f"{name:31} 30 runs: {of_30}; 60 runs: {of_60}; between runs, too: {of_drifting}; "
            f"found: {found}"
        )


def _with_and_without(
    rng: np.random.Generator,
    blocks: Callable[[np.random.Generator, int], Array],
    histories: int,
    runs: int,
    between: float,
    step: float,
) -> str:
    """Return how many histories have a step, or have it where it is, by either way.

    `between` is a scatter of whole runs, as a share of that of blocks.
    """
    hits, at = np.zeros(2, dtype=int), runs - 10
    for _ in range(histories):
        counts = blocks(rng, runs)
        scatter = SCATTER * np.sqrt(1 / counts + between**2)
        values = scatter * rng.standard_normal(runs) + step * (np.arange(runs) >= at)
        for way, known in enumerate((None, counts)):
            found = find_change_points(values, counts=known)
            hits[way] += any(not step or abs(point.at - at) <= 2 for point in found)
    return " -> ".join(f"{count / histories:.1%}" for count in hits)


def share(count: int, of: int) -> str:
    """Return a share with its 95 % interval."""
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return f"{count / of:5.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="folder for the runs, used again if it is there")
    parser.add_argument("--rates", action="store_true")
    parser.add_argument("--histories", type=int, default=2000)
    options = parser.parse_args()
    if options.rates:
        rates(options.histories)
        unlike_blocks(options.histories)
    else:
        measure(options.runs, options.keep)


if __name__ == "__main__":
    main()
