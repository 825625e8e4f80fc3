"""Fills the object store of every node of a cluster, as another user might.

`python -m benchmarks.helpers.hog ADDRESS SECONDS` prints `full` once it has. The objects are in
use, so Ray can neither evict nor spill them.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_MB = 2**20


@ray.remote(num_cpus=0)
class Hog:
    """Holds as much as fits into the object store of its node."""

    def fill(self, capacity: float) -> int:
        """Put objects there until it is full, and return how many bytes they are."""
        self.held: list[Any] = []
        for size in (8 * _MB, _MB, 128 * 1024):
            while sum(array.nbytes for array in self.held) + size < capacity:
                # What is read is mapped into this process, and stays where it is.
                self.held.append(ray.get(ray.put(np.ones(size, np.uint8))))
        return sum(array.nbytes for array in self.held)


def main() -> None:
    """Fill the stores, say so, and hold on for a while."""
    address, seconds = sys.argv[1], float(sys.argv[2])
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    hogs = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        hog = Hog.options(scheduling_strategy=where).remote()  # type: ignore[attr-defined]
        hogs.append((hog, hog.fill.remote(node["Resources"]["object_store_memory"])))
    held = []
    for _, filled in hogs:
        with suppress(RayError):  # Of a node that has died in the meantime.
            held.append(ray.get(filled))
    print("full", *held, flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    main()
