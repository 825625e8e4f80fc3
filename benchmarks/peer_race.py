"""How long does the whole job take, beside benchopt on the same training?

`benchmarks/peer` is the task as a benchmark for benchopt 1.10: both frameworks, 1,000 epochs, as
many repetitions as the default job has seeds. Whole processes alternate; printed is the ratio of
each pair. benchopt needs an environment of its own:

    python3 -m venv peer && peer/bin/pip install torch jax flax optax benchopt==1.10
    python -m benchmarks.peer_race peer/bin/benchopt [PAIRS]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness.measure.clock import now
from harness.stats import estimates

HERE = Path(__file__).parent
_PEER = ("-r", "5", "--max-runs", "21", "--no-plot", "--no-html", "--timeout", "300")


def seconds(command: list[str], folder: Path) -> float:
    """Return how long a command takes."""
    start = now()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return now() - start


def peer_s(benchopt: str) -> float:
    """Return the time of benchopt, without its cache."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HERE / "peer", Path(folder) / "peer")
        return seconds([benchopt, "run", "peer", *_PEER], Path(folder))


def ours_s() -> float:
    """Return the time of the default job."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["run", "--backends", "torch,jax", "--results", folder]
        return seconds([sys.executable, "-m", "harness", *run], HERE.parent)


def main() -> None:
    """Print the pairs and their ratio."""
    benchopt, pairs = str(Path(sys.argv[1]).absolute()), int((sys.argv[2:] or ["5"])[0])
    ratios = []
    for number in range(pairs):
        first = ours_s() if number % 2 else None
        peer = peer_s(benchopt)
        ours = first or ours_s()
        ratios.append(ours / peer)
        print(f"harness {ours:.1f} s, benchopt {peer:.1f} s: {ratios[-1]:.2f}", flush=True)
    estimate = estimates.mean(np.log(ratios))
    low, high = np.exp(estimate.interval())
    print(f"ratio {np.exp(estimate.value):.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
