"""Does the probe of the machine make the ratios of a run narrower, and keep them right?

Takes the blocks of a recorded run, a few consecutive ones at a time, as if each few were a run of
its own. Prints how wide the intervals of the first two backends' ratio are, and how many of them
hold the median of all, with and without the correction (`harness.trial.machine_state`).

    python -m harness run --seeds 24 --run-id blocks
    python -m benchmarks.machine_state results/blocks
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from harness import Run
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.trial.epoch_time import epoch_s
from harness.trial.machine_state import in_calm
from harness.trial.record import Record

WAYS: dict[str, Callable[[Sequence[Record]], list[float | None]]] = {
    "without": lambda records: [epoch_s(record) for record in records],
    "with the probe": lambda records: [
        trial.epoch_s and trial.epoch_s * float(np.exp(trial.error)) for trial in in_calm(records)
    ],
}
SIZES = (3, 5, 8)


def ratio(records: Sequence[Record], times: Sequence[float | None]) -> Estimate:
    """Estimate the log ratio of two backends from their blocks."""
    first, second = sorted({record.backend for record in records})[:2]
    logs: dict[str, dict[int, float]] = {first: {}, second: {}}
    for record, seconds in zip(records, times, strict=True):
        if record.backend in logs and seconds:
            logs[record.backend][record.block] = float(np.log(seconds))
    blocks = sorted(logs[first].keys() & logs[second].keys())
    return estimates.mean(np.array([logs[second][b] - logs[first][b] for b in blocks]))


def main() -> None:
    """Print a line for each number of blocks and each way."""
    folder = Path(sys.argv[1])
    records = [r for r in Run(folder.name, folder.parent).records if r.status == "ok"]
    blocks = sorted({record.block for record in records})
    for size in (size for size in SIZES if size < len(blocks)):
        for name, way in WAYS.items():
            found = []
            for start in range(len(blocks) - size + 1):
                chosen = set(blocks[start : start + size])
                some = [record for record in records if record.block in chosen]
                found.append(ratio(some, way(some)))
            middle = np.median([estimate.value for estimate in found])
            held = np.mean([abs(e.value - middle) <= e.half_width() for e in found])
            width = np.expm1(np.median([e.half_width() for e in found]))
            spread = np.std([e.value for e in found], ddof=1)
            print(
                f"{size} blocks, {name}: ratio {np.exp(middle):.3f}, half-width {width:.1%}, "
                f"{held:.0%} of {len(found)} hold it; they differ by {spread:.1%}"
            )


if __name__ == "__main__":
    main()
