"""The convergence curve of each seed of a trial, as if it were trained alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.backend.protocol import Array
from harness.trial.learned import Learned
from harness.trial.record import CurvePoint, Share


class Curves:
    """Collects losses and errors. A seed diverges when its loss or error is not finite.

    Then its curve ends, and the others go on. Shape suffixes: E epochs, R seeds, T time steps.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._points: list[list[CurvePoint]] = [[] for _ in seeds]
        self._losses: list[Array] = []
        self._step_mse_RT: Array = np.empty((len(seeds), 0))
        self._running_R = np.ones(len(seeds), bool)
        self._failing_R = np.zeros(len(seeds), bool)

    @property
    def running(self) -> bool:
        """Whether any seed has not diverged."""
        return bool(self._running_R.any())

    def add(self, losses_ER: Array) -> bool:
        """Add the losses of a chunk; return whether a seed has diverged in it."""
        self._losses.append(losses_ER)
        self._failing_R = self._running_R & ~np.isfinite(losses_ER).all(0)
        return bool(self._failing_R.any())

    def evaluate(
        self, epoch: int, train_s: float, step_mse_RT: Array, everyone: bool
    ) -> CurvePoint:
        """Add a point to the curves, and return their mean point.

        If not `everyone`, only to the curves of the seeds that diverge in this chunk.
        """
        added_R = self._running_R if everyone else self._failing_R
        # Contiguous for each seed, so that the sum is the same as if it were trained alone.
        loss_R = np.ascontiguousarray(np.concatenate(self._losses).T).mean(1)
        mse_R = step_mse_RT.mean(1)

        def point(loss: float, mse: float) -> CurvePoint:
            return CurvePoint(
                epoch=epoch, train_s=train_s, train_loss=float(loss), eval_mse=float(mse)
            )

        for r in np.flatnonzero(added_R):
            self._points[r].append(point(loss_R[r], mse_R[r]))
        mean = point(loss_R[added_R].mean(), mse_R[added_R].mean())
        self._running_R = self._running_R & ~self._failing_R & np.isfinite(mse_R)
        self._step_mse_RT = step_mse_RT
        if everyone:
            self._losses.clear()
        return mean

    def shares(self, moved_R: Array, learned_R: Sequence[Learned]) -> list[Share]:
        """Return the results of each seed, with what was looked at when it had ended."""
        return [
            Share(
                seed=seed,
                status="ok" if running else "diverged",
                points=tuple(points),
                step_mse=tuple(mse_T.tolist()) if running else (),
                initial_state_moved=float(moved) if running else None,
                learned=learned if running else None,
            )
            for seed, points, mse_T, moved, learned, running in zip(
                self._seeds,
                self._points,
                self._step_mse_RT,
                moved_R,
                learned_R,
                self._running_R,
                strict=True,
            )
        ]
