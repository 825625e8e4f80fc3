"""Do the intervals hold the undisturbed ratio of two backends where a neighbour disturbs them?

    python -m benchmarks.burst_coverage [EXPERIMENTS]               # simulated chunks
    python -m benchmarks.burst_coverage [EXPERIMENTS] --from RUN    # chunks that a run has recorded

Blocks of two backends are drawn chunk by chunk. One block in three is hit by a burst: for 0.2 to
8 s, whatever runs takes longer by a factor. Printed is how often the 95 % interval over blocks
(Student's t) holds the ratio that both have undisturbed, and how wide it is (median), for

- the mean of the chunks, one backend after the other, each after its start-up;
- the mean of the chunks, in rounds: one chunk of each in turn, in random order;
- what a chunk takes undisturbed, in the same rounds.

Simulated chunks take 200 ms (like PyTorch) and 34 ms (like JAX). Each process has a speed of its
own, each chunk some delay (exponential). A burst slows both alike, or only the slower one.

With `--from`, whole blocks of RUN are drawn, and of each a stretch of chunks at random; bursts come
on top. The undisturbed time is then that of all its chunks. RUN is a folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

import harness
from harness.backend.protocol import Array
from harness.errors import InvalidInput
from harness.stats import estimates
from harness.tables.text import render
from harness.trial.epoch_time import undisturbed

Estimator: TypeAlias = Callable[[Any], float]
"""From the seconds of the chunks of a process [R] to those of a chunk."""
Source: TypeAlias = Callable[[np.random.Generator], Array]
"""Draws a block without bursts: the seconds of R chunks of both backends [2, R]."""

BLOCKS = (3, 5, 8, 20)
CHUNK_S = np.array([0.2, 0.034])
START_UP_S = 3.0
ROUNDS = 20
HIT = 1 / 3
LONGEST, SHORTEST = 8.0, 0.2
SLOWER = (1.1, 2.0)
DELAY = 0.01
"""The mean delay of a chunk, as a share of its time."""
BURSTS: dict[str, Sequence[float]] = {"none": (0, 0), "both": (1, 1), "the slower one": (1, 0)}
"""Whom a burst slows."""


class Way(NamedTuple):
    """A way of measuring a block."""

    name: str
    in_rounds: bool
    estimator: Estimator


WAYS = (
    Way("one after the other, mean", False, np.mean),
    Way("rounds, mean", True, np.mean),
    Way("rounds, undisturbed", True, undisturbed),
)


def simulated(scatter: float) -> Source:
    """Return a source of blocks whose processes differ by a standard deviation of `scatter`."""

    def draw(rng: np.random.Generator) -> Array:
        speeds = CHUNK_S * np.exp(scatter * rng.standard_normal(2))
        seconds: Array = speeds[:, np.newaxis] * (1 + rng.exponential(DELAY, (2, ROUNDS)))
        return seconds

    return draw


def recorded(run: harness.Run) -> tuple[Source, float]:
    """Return a source of the blocks that a run has recorded, and its undisturbed log ratio."""
    blocks = list(_recorded_blocks(run.chunks))
    if len(blocks) < min(BLOCKS):
        raise InvalidInput(
            f"run `{run.name}` has {len(blocks)} blocks with {ROUNDS} or more chunks of two "
            f"backends: at least {min(BLOCKS)} are needed, and {max(BLOCKS)} or more are better."
        )
    truth = np.mean([_log_ratio(block, undisturbed) for block in blocks])

    def draw(rng: np.random.Generator) -> Array:
        block = blocks[rng.integers(len(blocks))]
        first = rng.integers(block.shape[1] - ROUNDS + 1)
        return block[:, first : first + ROUNDS]

    return draw, float(truth)


def _recorded_blocks(chunks: pd.DataFrame) -> Iterator[Array]:
    """Yield the chunks of the first two backends of each seed [2, R], the slower one first."""
    chunks = chunks[chunks["counted"]]
    chunks = chunks.assign(wall_s=chunks["wall_s"] - chunks["waited_s"].fillna(0.0))
    medians = chunks.groupby("backend")["wall_s"].median().sort_values(ascending=False)
    for _, block in chunks.groupby("seed"):
        by_backend = dict(list(block.sort_values("chunk").groupby("backend")["wall_s"]))
        both = [by_backend[name].to_numpy() for name in medians.index[:2] if name in by_backend]
        shortest = min(map(len, both), default=0)
        if len(both) == 2 and shortest >= ROUNDS:
            yield np.array([seconds[:shortest] for seconds in both])


def disturbed(rng: np.random.Generator, block: Array, sees: Sequence[float], rounds: bool) -> Array:
    """Return the chunks of a block [2, R] as they are when a burst hits it, if one does."""
    if rng.random() >= HIT or not any(sees):
        return block
    arms, number = block.shape
    if rounds:
        order = np.argsort(rng.random((number, arms)), axis=1).ravel()
        chunk = np.repeat(np.arange(number), arms)
        waits = np.zeros(block.size)
    else:
        order = np.repeat(rng.permutation(arms), number)
        chunk = np.tile(np.arange(number), arms)
        waits = np.where(chunk == 0, START_UP_S, 0.0)
    work = block[order, chunk]
    ends = (work + waits).cumsum()
    lasts = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST)))
    start = rng.uniform(-lasts, ends[-1])
    overlap = np.clip(np.minimum(ends, start + lasts) - np.maximum(ends - work, start), 0, None)
    slower = (rng.uniform(*SLOWER) - 1) * np.asarray(sees)[order]
    slowed = block.copy()
    slowed[order, chunk] += slower * overlap
    return slowed


def coverage(
    experiments: int, source: Source, truth: float, sees: Sequence[float], way: Way
) -> Iterator[str]:
    """Yield for each number of blocks: coverage in %, and the median half-width of a ratio in %."""
    rng = np.random.default_rng(1)
    logs = [
        [
            _log_ratio(disturbed(rng, source(rng), sees, way.in_rounds), way.estimator)
            for _ in range(max(BLOCKS))
        ]
        for _ in range(experiments)
    ]
    for blocks in BLOCKS:
        found = [estimates.mean(sample) for sample in np.array(logs)[:, :blocks]]
        hits = np.mean([abs(one.value - truth) <= one.half_width() for one in found])
        width = np.expm1(np.nanmedian([one.half_width() for one in found]))
        yield f"{100 * hits:.1f} (±{100 * width:.1f})"


def _log_ratio(block: Array, estimator: Estimator) -> float:
    return float(np.log(estimator(block[0]) / estimator(block[1])))


def table(experiments: int, sources: dict[str, tuple[Source, float]]) -> pd.DataFrame:
    """Return a row for each source, kind of burst and way of measuring."""
    rows = [
        {"processes": name, "bursts": burst, "measured": way.name}
        | dict(
            zip(
                (f"{blocks} blocks" for blocks in BLOCKS),
                coverage(experiments, source, truth, sees, way),
                strict=True,
            )
        )
        for name, (source, truth) in sources.items()
        for burst, sees in BURSTS.items()
        for way in WAYS
    ]
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", type=int, nargs="?", default=4000)
    parser.add_argument("--from", dest="run", type=Path, help="folder of a run with chunks")
    options = parser.parse_args()
    if options.run:
        try:
            sources = {"recorded": recorded(harness.Run(options.run.name, options.run.parent))}
        except InvalidInput as error:
            parser.error(str(error))
    else:
        truth = float(np.log(CHUNK_S[0] / CHUNK_S[1]))
        sources = {f"{s:.1%} apart": (simulated(s), truth) for s in (0.007, 0.025)}
    print(f"{options.experiments} experiments; coverage in %, median half-width in brackets\n")
    print(render(table(options.experiments, sources), "markdown"))


if __name__ == "__main__":
    main()
