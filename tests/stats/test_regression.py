"""Least squares with intervals by groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from harness.backend.protocol import Array
from harness.stats.regression import fit


def sums(design_GRP: Array, y_GR: Array) -> tuple[Array, Array]:
    return (
        np.einsum("grp,grq->gpq", design_GRP, design_GRP),
        np.einsum("grp,gr->gp", design_GRP, y_GR),
    )


@given(seed=st.integers(0, 10**6), size=st.floats(1e-6, 1e6))
def test_it_is_least_squares_and_the_jackknife_by_hand(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    design, y = rng.standard_normal((6, 5, 2)) * [1, size], rng.standard_normal((6, 5))
    found = fit(*sums(design, y))
    assert found is not None

    def solved(groups: npt.NDArray[np.int64]) -> Array:
        parts = design[groups].reshape(-1, 2), y[groups].ravel()
        solution: Array = np.linalg.lstsq(*parts, rcond=None)[0]
        return solution

    everything = np.arange(6).astype(np.int64)
    np.testing.assert_allclose(found.values, solved(everything), rtol=1e-6, atol=1e-9 / size)
    without = np.array([solved(np.delete(everything, g)) for g in everything])
    by_hand = np.sqrt(5 / 6 * np.sum((without - solved(everything)) ** 2, axis=0))
    np.testing.assert_allclose(found.errors, by_hand, rtol=1e-6)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    # Rows of a group go together: as if they were one.
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        design = np.stack([np.ones((20, 5)), rng.standard_normal((20, 5))], axis=2)
        y = design @ [1.0, 2.0] + rng.standard_normal((20, 1))
        found = fit(*sums(design, y))
        assert found is not None
        held += bool(abs(found.values[0] - 1) < found.halves()[0])
    assert 930 < held < 975


def test_regressors_that_cannot_be_told_apart_have_no_coefficients() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.standard_normal((4, 5, 1)), 2, axis=2)
    assert fit(*sums(same, rng.standard_normal((4, 5)))) is None
    assert fit(*sums(np.zeros((4, 5, 2)), rng.standard_normal((4, 5)))) is None
    alone = np.zeros((4, 5, 1))
    alone[0] = 1  # One group knows it, and nobody else.
    assert fit(*sums(alone, rng.standard_normal((4, 5)))) is None
