"""The tuned variants on the real task: many seeds at once are the seeds one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness import Task

NAMES = ["floor", "jax-tuned", "torch-tuned"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_seeds_at_once_agree_with_one_by_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "backends": NAMES,
        "seeds": 10,
        "results": tmp_path,
        "dispatch": "inline",
    }
    task = Task(epochs=300)
    many = harness.run(task, vectorize=True, **options)
    alone = harness.run(task, **options)
    assert {(r.backend, r.at_once) for r in many.records} == {(name, 10) for name in NAMES}
    keys = ["backend", "seed"]
    both = many.trials.merge(alone.trials, on=keys, suffixes=("", "_alone"))
    assert len(both) == 10 * len(NAMES)
    # Rounding grows in the course of a training.
    np.testing.assert_allclose(both["final_mse"], both["final_mse_alone"], rtol=0.02)
    summary = many.summary().set_index("backend")
    assert summary.loc["floor", "floor_ratio"] == 1
    assert (summary.drop("floor")["floor_ratio"] > 1).all()
