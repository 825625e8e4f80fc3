"""Do the intervals hold the truth as often as they say?

Draws many experiments whose truth is known and prints how often the 95 % interval of the harness
holds it (with the 95 % interval of that share): for samples of a fixed size, for the number of
epochs from which on a backend is ahead, for the two-stage rule of `run --precision`, and for the
rule that looks again after each block, which the harness does not use. Then how often, among
several equal backends, at least one is said to differ from the fastest, which the same data have
chosen: without a correction, with Holm's for the comparisons shown, and with Holm's for all pairs,
which the harness uses. And how often "the same within the margin" is said at the very margin.

    python -m benchmarks.interval_coverage [EXPERIMENTS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binomtest

from harness.backend.protocol import Array
from harness.runs.precision import PILOT
from harness.stats import estimates
from harness.stats.crossing import crossing

Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]

# Each of mean 0; the last two have standard deviation 1 but for their tails, which no choice of
# the number of blocks knows of.
NOISE: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t4, heavy tails": lambda rng, shape: rng.standard_t(4, shape) / np.sqrt(2),
    # One block in twenty is disturbed: five times the noise.
    "contaminated": lambda rng, shape: (
        rng.standard_normal(shape) * np.where(rng.random(shape) < 0.05, 5, 1)
    ),
}


def fixed(experiments: int, noise: Noise, size: int) -> float:
    """Return the coverage with samples of one size."""
    samples = noise(np.random.default_rng(1), (experiments, size))
    return float(np.mean([_holds(estimates.mean(sample)) for sample in samples]))


def break_even(experiments: int, noise: Noise, size: int) -> float:
    """Return how often the interval holds the epochs from which on one of two backends is ahead.

    One starts in 2.4 s and takes 0.8 ms for an epoch, the other 2 s and 4.2 ms. Times of a block
    vary together by 10 %, each start by 5 % and each time of an epoch by 3 % more.
    """
    rng = np.random.default_rng(6)
    shared = np.exp(0.1 * rng.standard_normal((experiments, size, 1)))
    start_s = np.array([2.4, 2.0]) * (1 + 0.05 * noise(rng, (experiments, size, 2))) * shared
    epoch_s = np.array([8e-4, 42e-4]) * (1 + 0.03 * noise(rng, (experiments, size, 2))) * shared
    truth, held = 0.4 / 34e-4, 0
    for start_B2, epoch_B2 in zip(start_s, epoch_s, strict=True):
        found = crossing(np.diff(start_B2)[:, 0], np.diff(epoch_B2)[:, 0])
        held += found.low <= truth <= found.high and (found.rising or not found.shown)
    return held / experiments


def two_stage(experiments: int, noise: Noise, spread: float) -> tuple[float, float]:
    """Return the coverage of Stein's rule for +-1, and the mean number of blocks."""
    rng = np.random.default_rng(2)
    pilots = spread * noise(rng, (experiments, PILOT))
    hits, sizes = 0, []
    for pilot in pilots:
        size = estimates.stein_size(pilot, 1.0)
        sample = np.append(pilot, spread * noise(rng, (size - PILOT,)))
        hits += _holds(estimates.mean(sample, PILOT))
        sizes.append(size)
    return hits / experiments, float(np.mean(sizes))


def peeking(experiments: int, noise: Noise, spread: float, most: int = 60) -> float:
    """Return the coverage if one stops as soon as the interval is narrower than +-1."""
    samples = spread * noise(np.random.default_rng(3), (experiments, most))
    n = np.arange(1, most + 1)
    means = samples.cumsum(axis=1) / n
    squares = (samples**2).cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt((squares / n - means**2) / (n - 1))
    half = stdtrit(np.maximum(n - 1, 1), 0.975) * errors
    narrow = half <= 1
    narrow[:, :2] = False
    stop = np.where(narrow.any(axis=1), narrow.argmax(axis=1), most - 1)
    row = np.arange(experiments)
    return float(np.mean(np.abs(means[row, stop]) <= half[row, stop]))


def familywise(experiments: int, noise: Noise, arms: int) -> Array:
    """Return how often some of several equal arms is wrongly said to differ from the fastest.

    As is, by Holm for the comparisons shown, and by Holm for all pairs: [3]. As in the harness, the
    fastest is that with the least median in the very times that are then compared.
    """
    both = list(combinations(range(arms), 2))
    wrong = np.zeros(3)
    for times in noise(np.random.default_rng(4), (experiments, arms, PILOT)):
        fastest = int(np.median(times, axis=1).argmin())
        p = np.array([estimates.mean(times[i] - times[j]).p_different() for i, j in both])
        shown = np.array([fastest in pair for pair in both])
        corrected = estimates.holm(p[shown].tolist()), np.array(estimates.holm(p.tolist()))[shown]
        wrong += [min(p_values) < 0.05 for p_values in (p[shown], *corrected)]
    return wrong / experiments


def equivalence(experiments: int, noise: Noise) -> float:
    """Return how often "the same" is said of a truth that lies exactly on the margin."""
    samples = 0.5 + noise(np.random.default_rng(5), (experiments, PILOT)) * 0.2
    return float(np.mean([estimates.mean(sample).p_within(0.5) < 0.05 for sample in samples]))


def _holds(estimate: estimates.Estimate) -> bool:
    low, high = estimate.interval()
    return low <= 0 <= high


def _share(share: float, experiments: int) -> str:
    interval = binomtest(round(share * experiments), experiments).proportion_ci()
    return f"{100 * share:5.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def main() -> None:
    """Print the shares."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(f"{count} experiments each; a share is followed by its own 95 % interval")
    for name, noise in NOISE.items():
        print(f"\n{name} noise")
        for told, share, experiments in shares(count, noise):
            print(f"  {told:<38} {_share(share, experiments)}")


def shares(count: int, noise: Noise) -> Iterator[tuple[str, float, int]]:
    """Yield what was looked at, how often it was so, and of how many experiments."""
    for size in (3, PILOT, 20):
        yield f"coverage, {size} blocks:", fixed(count, noise, size), count
    for size in (3, PILOT, 20):
        yield f"coverage, break-even, {size} blocks:", break_even(count, noise, size), count
    for spread in (0.5, 1.5, 3.0):
        share, blocks = two_stage(count, noise, spread)
        yield f"coverage, two stages, {blocks:.1f} blocks:", share, count
    yield "coverage, looking after each block:", peeking(count, noise, 1.5), count
    for arms in (2, 3, 4, 6):
        found = familywise(count, noise, arms).tolist()
        for how, share in zip(("as is", "Holm, shown", "Holm, all"), found, strict=True):
            yield f"{arms} equal, one told apart, {how}:", share, count
    yield "wrongly called the same:", equivalence(count, noise), count


if __name__ == "__main__":
    main()
