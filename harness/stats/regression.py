"""Least squares over groups of rows that go together, with intervals by a jackknife over groups.

The jackknife leaves out one group after the other (Bell and McCaffrey 2002), so it allows for
residuals that depend on each other inside a group, and whose size depends on the regressors. Shape
suffixes: G groups, P regressors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.backend.protocol import Array


class Fit(NamedTuple):
    """Coefficients [P] and their standard errors [P], with `groups` - 1 degrees of freedom."""

    values: Array
    errors: Array
    groups: int

    def halves(self) -> Array:
        """Return the half-widths [P] of the 95 % intervals."""
        return halves(self.errors, self.groups)


def halves(errors: Array, groups: int) -> Array:
    """Return the half-widths of 95 % intervals, by Student's t over groups."""
    from scipy.special import stdtrit  # A trial's process needs none of it.

    half: Array = float(stdtrit(groups - 1, 0.975)) * errors
    return half


def fit(squares_GPP: Array, products_GP: Array) -> Fit | None:
    """Return the coefficients of a regression; None if the rows cannot tell them apart.

    `squares_GPP` are the sums over the rows of each group of the products of two regressors,
    `products_GP` those of a regressor and the value that is explained.
    """
    squares, products = squares_GPP.sum(axis=0), products_GP.sum(axis=0)
    size = np.sqrt(np.diagonal(squares))
    if not size.all():
        return None
    squares_GPP, products_GP = squares_GPP / np.outer(size, size), products_GP / size
    squares, products = squares / np.outer(size, size), products / size
    if np.linalg.matrix_rank(squares) < len(size):
        return None
    values = np.linalg.solve(squares, products)
    try:
        without_GP = np.linalg.solve(squares - squares_GPP, (products - products_GP)[..., None])
    except np.linalg.LinAlgError:  # One group holds all that tells the coefficients apart.
        return None
    groups = len(squares_GPP)
    variance = (groups - 1) / groups * np.sum((without_GP[..., 0] - values) ** 2, axis=0)
    return Fit(values / size, np.sqrt(variance) / size, groups)
