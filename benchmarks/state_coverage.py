"""Do the intervals hold the ratio of two backends on a host whose state drifts?

    python -m benchmarks.state_coverage [EXPERIMENTS]

Simulated blocks of PyTorch and JAX, each with a probe that shows the state of the machine with some
noise of its own. A busy host slows PyTorch more than JAX, for longer than a block lasts. Printed is
how often the 95 % interval over blocks holds the ratio in the calmest state that a run met, and how
wide it is (median), with and without the correction (`harness.trial.machine_state`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.machine_state import WAYS, ratio
from harness.backend.protocol import Array
from harness.tables.text import render
from harness.task.task import Task
from harness.trial.epoch_time import QUANTILE
from harness.trial.record import Chunk, Record

BLOCKS = (3, 5, 8, 20)
ROUNDS = 20
EPOCHS = 50
EPOCH_S = {"torch": 3.7e-3, "jax": 0.72e-3}
FOLLOWS = {"torch": 0.35, "jax": 0.1}
"""By how much the logarithm of a backend's time follows that of the probe."""
PROBE_S = 0.93e-3
PROCESSES = 0.007
"""The standard deviation of the speeds of processes."""
DELAY = 0.01
"""The mean delay of a turn, as a share of its time."""
PROBE_NOISE = 0.04
WITHIN = 0.04
"""The standard deviation of the state within a block."""
DRIFTS = {"a quiet host": 0.0, "drifts by 5 %": 0.05, "by 15 %": 0.15, "by 30 %": 0.3}
"""The scale of the state: it is the absolute value of a walk with this standard deviation."""
LASTS = 0.9
"""The correlation of the states of neighbouring blocks; in a block, of neighbouring rounds 0.7."""


def drifting(rng: np.random.Generator, blocks: int, drift: float) -> tuple[list[Record], float]:
    """Return the records of a run, and the log ratio of torch to jax in its calmest state."""
    states_BM = np.abs(_wandering(rng, blocks, drift, LASTS))[:, np.newaxis]
    states_BM = states_BM + [_wandering(rng, ROUNDS, WITHIN, 0.7) for _ in range(blocks)]
    states_BM = np.maximum(states_BM, 0.0)
    records = [r for block in range(blocks) for r in _block(rng, block, states_BM[block])]
    calmest = float(np.quantile(states_BM, QUANTILE, axis=1).min())
    quiet = float(np.log(EPOCH_S["torch"] / EPOCH_S["jax"]))
    return records, quiet + (FOLLOWS["torch"] - FOLLOWS["jax"]) * calmest


def _wandering(rng: np.random.Generator, number: int, scale: float, lasts: float) -> Array:
    """Return values of mean 0 and standard deviation `scale`, neighbours correlated by `lasts`."""
    values = rng.normal(0, scale, number)
    for i in range(1, number):
        values[i] = lasts * values[i - 1] + np.sqrt(1 - lasts**2) * values[i]
    return values


def _block(rng: np.random.Generator, number: int, state_M: Array) -> Iterator[Record]:
    for backend, epoch_s in EPOCH_S.items():
        usual_s = EPOCHS * epoch_s * np.exp(rng.normal(0, PROCESSES) + FOLLOWS[backend] * state_M)
        turns_s = usual_s * (1 + rng.exponential(DELAY, ROUNDS))
        probes_s = PROBE_S * np.exp(state_M + abs(rng.normal(0, PROBE_NOISE, ROUNDS)))
        yield Record(
            run="simulated",
            trial=f"{backend}{number}",
            block=number,
            backend=backend,
            device="cpu",
            seed=number,
            task=Task(),
            node="host",
            started_utc="",
            wall_s=0.0,
            threads=1,
            contended=False,
            status="ok",
            timing="rounds",
            chunks=tuple(
                Chunk(
                    wall_s=wall_s,
                    cpu_s=wall_s,
                    involuntary_switches=0,
                    epochs=EPOCHS,
                    round=place,
                    memory_s=probe_s,
                )
                for place, (wall_s, probe_s) in enumerate(zip(turns_s, probes_s, strict=True))
            ),
        )


def coverage(experiments: int, blocks: int, drift: float) -> dict[str, tuple[float, float]]:
    """Return, for each way: how often the interval holds the truth, and its median half-width."""
    rng = np.random.default_rng(1)
    hits: dict[str, list[bool]] = {name: [] for name in WAYS}
    widths: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(experiments):
        records, truth = drifting(rng, blocks, drift)
        for name, way in WAYS.items():
            found = ratio(records, way(records))
            widths[name].append(found.half_width())
            hits[name].append(abs(found.value - truth) <= widths[name][-1])
    return {name: (float(np.mean(hits[name])), float(np.median(widths[name]))) for name in WAYS}


def main() -> None:
    """Print the table."""
    experiments = int((sys.argv[1:] or ["1000"])[0])
    rows = []
    for host, drift in DRIFTS.items():
        found = {blocks: coverage(experiments, blocks, drift) for blocks in BLOCKS}
        for name in WAYS:
            row = {"the host": host, "measured": name}
            for blocks, ways in found.items():
                held, width = ways[name]
                row[f"{blocks} blocks"] = f"{100 * held:.1f} (±{100 * np.expm1(width):.1f})"
            rows.append(row)
    print(f"{experiments} experiments; coverage in %, median half-width in brackets\n")
    print(render(pd.DataFrame(rows), "markdown"))


if __name__ == "__main__":
    main()
