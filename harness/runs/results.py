"""The results of a run: tables as DataFrames, findings and failures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InvalidInput, UnknownName
from harness.inputs.commands import as_read, run_words
from harness.runs.stored_tables import StoredTables
from harness.store.manifest import Manifest
from harness.store.results_folder import find_run
from harness.store.run_folder import RunContents, RunFolder, counting
from harness.trial.record import Record
from harness.trial.sweep import SweepPoint

if TYPE_CHECKING:
    import pandas as pd

    from harness.charts.draw import Chart
    from harness.charts.figures import Against
    from harness.charts.page import Figure
    from harness.diagnosis.types import Findings
    from harness.tables.from_records import Judged


TABLES = ("trials", "curves", "steps", "lags", "chunks")
"""The tables that are stored with every run; one with profiles has one more."""
FEW = 1000
"""So many records are read in a second: the truth itself, rather than tables made from it."""


class Run:
    """A run in the results folder at a path or a URL, finished or not.

    Raises `InvalidInput` if there is no such run or it cannot be read.
    """

    def __init__(self, run: str, results: str | Path = "results") -> None:
        self._set(find_run(results, run))

    @classmethod
    def of(cls, folder: RunFolder, contents: RunContents | None = None) -> Run:
        """Return the run in a folder; `contents`: what is known of it, so that nothing is read."""
        run = cls.__new__(cls)
        run._set(folder, contents)
        return run

    def _set(self, folder: RunFolder, contents: RunContents | None = None) -> None:
        self.folder = folder
        """Its files."""
        self.name = folder.name
        self.location = folder.location
        """Its path or URL."""
        self.manifest: Manifest = contents.manifest if contents else folder.manifest()
        self.stored = StoredTables(folder, self.manifest)
        """Its tables as they are in its folder."""
        self.unwritten: list[str] = []
        """A sentence for what could not be written when the run ended, just now."""
        if contents or self.stored.records <= FEW:
            self._contents = contents or folder.load(self.manifest)

    @cached_property
    def _contents(self) -> RunContents:
        return self.folder.load(self.manifest)

    @cached_property
    def _stored_trials(self) -> pd.DataFrame | None:
        return None if "_contents" in self.__dict__ else self.stored.frame("trials")

    @property
    def reads_records(self) -> bool:
        """Whether tables are made from its records: few, or no stored tables stand for them."""
        return self._stored_trials is None

    @property
    def attempts(self) -> list[Record]:
        """All records: trials in the order of the plan, attempts at one trial in their order."""
        return self._contents.attempts

    @property
    def problems(self) -> list[str]:
        """A sentence for each file among the records that is not one of this run's."""
        return list(self._contents.problems.values()) if self.reads_records else []

    @cached_property
    def records(self) -> list[Record]:
        """The attempt that counts of each trial: the last one that was not lost."""
        return counting(self.attempts)

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return len(self.records) if self.reads_records else int(self.trials["trial"].nunique())

    def examples(self) -> list[Record]:
        """Return a record of each backend, device and node: one that ended ok, if there is one."""
        if not self.reads_records and (found := self.stored.examples()) is not None:
            return found
        by_source: dict[tuple[str, str, str], Record] = {}
        for record in sorted(self.records, key=lambda record: record.status != "ok"):
            by_source.setdefault((record.backend, record.device, record.node), record)
        return list(by_source.values())

    @property
    def words(self) -> list[str]:
        """The run as the command line takes it: `mine`, or `mine --results elsewhere`."""
        return run_words(as_read(self.location))

    def __repr__(self) -> str:
        return f"Run({self.location!r}, {self.ended} of {self.manifest.plan.size} trials)"

    def table(self, name: str) -> pd.DataFrame:
        """Build one of `tables` anew."""
        from harness.tables import from_records
        from harness.tables.profile import profile_table

        if name == "trials":
            table = from_records.trials_table
            return table(self.records, self.attempts, self.swept, self._judged)
        if name == "curves":
            return from_records.curves_table(self.records, self.swept, self._judged)
        build = {"steps": from_records.steps_table, "chunks": from_records.chunks_table}
        build |= {"lags": from_records.lags_table, "profile": profile_table}
        return build[name](self.records, self.swept)

    @cached_property
    def _judged(self) -> Judged:
        from harness.tables.from_records import Judged

        return Judged.of(self.records)

    def _table(self, name: str) -> pd.DataFrame:
        """Return a table as it is stored, if that stands for the records, or else built anew."""
        stored = None if self.reads_records else self.stored.frame(name)
        return self.table(name) if stored is None else stored

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables that are stored with it."""
        return (*TABLES, "profile") if self.manifest.plan.profile else TABLES

    @property
    def swept(self) -> tuple[str, ...]:
        """The swept fields of the task."""
        return tuple(self.manifest.plan.sweep)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial."""
        return self.table("trials") if self._stored_trials is None else self._stored_trials

    def attempts_table(self) -> pd.DataFrame:
        """Return the table `trials` with a row for every attempt, also for lost ones."""
        from harness.tables.from_records import trials_table

        return trials_table(self.attempts, swept=self.swept)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row per evaluation during training."""
        return self._table("curves")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row per time step of the final evaluation, with the yardsticks."""
        return self._table("steps")

    @cached_property
    def lags(self) -> pd.DataFrame:
        """A row per seed and k: the coefficient of x_{t-k}^2 in its held-out predictions."""
        return self._table("lags")

    @cached_property
    def chunks(self) -> pd.DataFrame:
        """A row per timed call of the training."""
        return self._table("chunks")

    @cached_property
    def profile(self) -> pd.DataFrame:
        """Where the time of an epoch goes, a row per part, count, cost and call.

        See `harness.tables.profile`; it is empty unless the run was profiled.
        """
        return self._table("profile")

    def summary(self) -> pd.DataFrame:
        """Return a row per backend and device; see `harness.tables.summary.summarise`."""
        return self._summary.copy()

    @cached_property
    def _summary(self) -> pd.DataFrame:
        from harness.tables.summary import summarise

        return summarise(self.trials, self.manifest.plan.pilot or 0, self.swept)

    def comparisons(self) -> pd.DataFrame:
        """Compare every backend with the fastest; see `harness.tables.comparisons.compare_arms`."""
        return self._comparisons.copy()

    @cached_property
    def _comparisons(self) -> pd.DataFrame:
        from harness.tables.comparisons import compare_arms

        return compare_arms(self.trials, self.manifest.plan.pilot or 0, self.swept)

    def break_even(self) -> pd.DataFrame:
        """Return from how many epochs on a backend is ahead, its start-up included.

        See `harness.tables.break_even.break_even`.
        """
        return self._break_even.copy()

    @cached_property
    def _break_even(self) -> pd.DataFrame:
        from harness.tables.break_even import break_even

        return break_even(self.trials, self.manifest.plan.pilot or 0, self.swept)

    def sentences(self) -> list[str]:
        """Return what the summary states about differences; nothing for a sweep."""
        from harness.tables.text import stated

        return [] if self.swept else stated(self._comparisons, self._break_even)

    def reach(self) -> pd.DataFrame:
        """Return how many seeds remember as far as the lag, in a sweep over it.

        See `harness.tables.reach.reach`; otherwise it is empty.
        """
        from harness.tables.reach import reach

        return reach(self.trials, self.swept)

    def growth(self) -> pd.DataFrame:
        """Return how times grow with the swept fields; see `harness.tables.scaling.growth`."""
        from harness.tables.scaling import growth

        return growth(self.trials, self.swept)

    def crossovers(self) -> pd.DataFrame:
        """Return where backends overtake others; see `harness.tables.scaling.crossovers`."""
        from harness.tables.scaling import crossovers

        return crossovers(self.trials, self.swept)

    @property
    def caveats(self) -> list[str]:
        """What to know before times of the run are compared."""
        plan = self.manifest.plan
        if len(plan.arms) < 2 or all(point.task.gradient == "exact" for point in plan.points):
            return []
        return [
            "torch and jax imitate gradient = stateful-broadcast by running the time steps twice: "
            "for speed, compare them with gradient = exact"
        ]

    def point(self, values: Mapping[str, object]) -> SweepPoint:
        """Return the point of the sweep with these values; without a sweep there is only one.

        Raises `InvalidInput` if there is none, or more than one.
        """
        points = self.manifest.plan.points
        found = [p for p in points if all(p.values.get(n) == v for n, v in values.items())]
        if len(found) != 1 or len(set(values) - set(self.swept)):
            asked = ", ".join(f"{name}={value}" for name, value in values.items()) or "nothing"
            known = "; ".join(map(str, points)) if self.swept else "no sweep: name no values"
            raise InvalidInput(f"a point of the sweep: {asked} is not one; there is {known}.")
        return found[0]

    def plot_curves(
        self, against: Against = "epoch", file: str | Path | None = None, **at: object
    ) -> Chart:
        """Return the chart of the error against `epoch` or training time, `train_s`.

        `at` names the point of a sweep: `plot_curves(hidden=64)`. A notebook displays the chart; a
        `file` holds it, as PNG, SVG, PDF or HTML, by its suffix. Raises `InvalidInput` if there is
        no such point, nothing to draw, or the file cannot be written.
        """
        from harness.charts import figures

        if against not in figures.AGAINST:
            hint = f'; to save the chart: plot_curves(file="{against}")' * ("." in against)
            raise UnknownName("axis", against, figures.AGAINST, hint)
        trials, point = self._drawn_at(at)
        if against == "train_s" and trials["contended"].any():
            raise InvalidInput(
                f"run `{self.name}`: other trials ran beside these; their times are not drawn."
            )
        return _shown(figures.convergence(self.curves, trials, point, against), file)

    def plot_steps(self, file: str | Path | None = None, **at: object) -> Chart:
        """Return the chart of the error at each time step; otherwise as `plot_curves`."""
        from harness.charts import figures

        trials, point = self._drawn_at(at)
        return _shown(figures.steps(self.steps, trials, point), file)

    def plot_lags(self, file: str | Path | None = None, **at: object) -> Chart:
        """Return the chart of what was learned at each lag; otherwise as `plot_curves`."""
        from harness.charts import figures

        trials, point = self._drawn_at(at)
        figure = figures.lags(self.lags, trials, point)
        if figure is None:
            raise InvalidInput(f"run `{self.name}` does not tell what was learned at each lag.")
        return _shown(figure, file)

    def _drawn_at(self, at: Mapping[str, object]) -> tuple[pd.DataFrame, SweepPoint]:
        """Return the trials at a point of the sweep, and the point; at least one trial ended ok."""
        point, trials = self.point(at), self.trials
        for name, value in point.values.items():
            trials = trials[trials[name] == value]
        if not (trials["status"] == "ok").any():
            raise InvalidInput(f"run `{self.name}`: no trial ended ok, there is nothing to draw.")
        return trials, point

    def findings(self) -> Findings:
        """Return what the run shows, in words, faults first; see `harness.diagnosis.findings`.

        It is a list, and prints as the command `explain` does.
        """
        from harness.diagnosis.findings import findings
        from harness.diagnosis.types import Findings, by_severity

        plan, certificates = self.manifest.plan, self.manifest.parity
        tables = (self.trials, self.curves, self.steps)
        found = findings(
            *tables, plan.points, certificates, plan.pilot or 0, self.words, lags=self.lags
        )
        return Findings(sorted([*found, *self.findings_on_time()], key=by_severity))

    def findings_on_time(self) -> Findings:
        """Return only what the profiles show: where the time goes, and why one is slower."""
        from harness.diagnosis.findings_on_time import on_time
        from harness.diagnosis.joined import joined

        points = self.manifest.plan.points
        found = on_time(self.profile, self.trials, points) if self.manifest.plan.profile else ()
        return joined(found, len(points), self.words)

    @property
    def missing(self) -> list[str]:
        """The names of the trials that have not ended yet, or were lost with their node."""
        done = {record.trial for record in self.records if record.status != "lost"}
        return [trial for trial in self.manifest.plan.trials() if trial not in done]

    @property
    def unprofiled(self) -> list[str]:
        """A sentence for each backend that profilers could not look at."""
        problems = self.profile[self.profile["kind"] == "source"].dropna(subset="where")
        profiled = {*zip(self.profile["backend"], self.profile["device"], strict=True)}
        ended = {(str(r.backend), str(r.device)): r.status for r in self.records}
        return [
            f"{row['backend']} on {row['device']} could not be profiled: {row['where']}"
            for _, row in problems.iterrows()
            if row["where"]
        ] + [
            f"{backend} on {device} has no profile: its training is {status}"
            for (backend, device), status in ended.items()
            if (backend, device) not in profiled and status == "diverged"
        ]

    @property
    def failures(self) -> list[str]:
        """A sentence for each backend that passed parity nowhere, and each trial that failed."""
        certified = {(c.backend, c.device) for c in self.manifest.parity if c.passed}
        parity = [
            f"{c.backend} on {c.device} failed parity on {c.node} and was not timed: {c.reason}"
            for c in self.manifest.parity
            if not c.passed and (c.backend, c.device) not in certified
        ]
        trials = [
            f"{r.trial}: {r.status}: {r.error}"
            for r in self.records
            if r.status in {"failed", "timeout", "lost"}
        ]
        return parity + trials


def _shown(figure: Figure, file: str | Path | None) -> Chart:
    """Return the chart of a figure, saved if there is a file for it."""
    from harness.charts.saved import save

    return save(figure.printable, file) if file is not None else figure.printable
