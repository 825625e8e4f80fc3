"""A run as a user reads it: its tables as DataFrames, and whether all went well."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record import Record
from harness.store import Manifest, RunFolder, counting

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run in a results folder, finished or not.

    Raises `InvalidInput` if there is no such run or its manifest cannot be read.
    """

    def __init__(self, run: str, results: str | Path = "results") -> None:
        folder = RunFolder(Path(results), run)
        self.path = folder.path
        self.manifest: Manifest = folder.manifest()
        self.attempts: list[Record]
        """Of all attempts at every trial, in the order of the plan."""
        self.problems: list[str]
        """A sentence for each file among the records that is not one of this run's."""
        self.attempts, self.problems = folder.attempts()
        self.records: list[Record] = counting(self.attempts)
        """Of each trial the attempt that counts: the last one that was not lost."""

    def __repr__(self) -> str:
        planned = len(self.manifest.plan.arms) * len(self.manifest.plan.seeds)
        return f"Run({str(self.path)!r}, {len(self.records)} of {planned} trials)"

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial."""
        from harness.tables import trials_table

        return trials_table(self.records, self.attempts)

    def attempts_table(self) -> pd.DataFrame:
        """Return the table `trials` with a row for every attempt, those included that were lost."""
        from harness.tables import trials_table

        return trials_table(self.attempts)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row per evaluation during training."""
        from harness.tables import curves_table

        return curves_table(self.records)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row per time step of the final evaluation, with the yardsticks."""
        from harness.tables import steps_table

        return steps_table(self.records, self.manifest.plan.task)

    @cached_property
    def chunks(self) -> pd.DataFrame:
        """A row per timed call of the training."""
        from harness.tables import chunks_table

        return chunks_table(self.records)

    def summary(self) -> pd.DataFrame:
        """Return a row per backend and device; see `harness.summary.summarise`."""
        from harness.summary import summarise

        return summarise(self.trials, self.manifest.plan.pilot or 0)

    def comparisons(self) -> pd.DataFrame:
        """Return every backend against the fastest; see `harness.summary.compare_arms`."""
        from harness.summary import compare_arms

        return compare_arms(self.trials, self.manifest.plan.pilot or 0)

    @property
    def missing(self) -> list[str]:
        """The trials that have not ended yet, in whatever way, or were lost with their node."""
        done = {record.trial for record in self.records if record.status != "lost"}
        jobs = (job for block in self.manifest.plan.blocks() for job in block)
        return [job.trial for job in jobs if job.trial not in done]

    @property
    def failures(self) -> list[str]:
        """A sentence for each backend that failed parity and each trial that failed."""
        parity = [
            f"{c.backend} on {c.device} failed parity on {c.node} and was not timed: {c.reason}"
            for c in self.manifest.parity
            if not c.passed
        ]
        trials = [
            f"{r.trial}: {r.status}: {r.error}"
            for r in self.records
            if r.status in {"failed", "timeout", "lost"}
        ]
        return parity + trials
