"""Logs runs to an MLflow tracking server: one run there for each run here, one below it per trial.

A run is found again by its tags, so it can be logged any number of times, and after an interrupted
log. docs/tracking.md says what goes where.
"""

from __future__ import annotations

import os
import re
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import HarnessError, InvalidInput, StoreError, Unavailable, UnknownName
from harness.inputs import commands
from harness.report import mlflow_entries
from harness.report.mlflow_entries import Entry, MetricValue
from harness.runs.reporter import Reporter
from harness.runs.results import Run
from harness.store.files import Notify
from harness.trial.events import Event
from harness.trial.record import Record

EXPERIMENT = "harness"
"""Where runs are logged if no experiment is named."""
TRACKERS = ("mlflow",)
_REQUESTS = 8  # At once: the server needs most of the time of one for its database.
# Limits of MLflow: 1,000 entries in a request, of which 100 are parameters and 100 tags; 1,000 runs
# in an answer.
_METRICS, _FEW, _RUNS = 800, 100, 1000
_TOLD = 100
"""The user is told after each so many trials: MLflow has no request for many of its runs."""
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# By default MLflow's client tries for minutes. The first is for whether a server answers at all;
# the second is for logging, unless the user has set it.
_LOOK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_LOG = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}


class Target(NamedTuple):
    """Where runs are logged."""

    uri: str
    """The MLflow server."""
    experiment: str

    def __str__(self) -> str:
        named = "" if self.experiment == EXPERIMENT else f"#{self.experiment}"
        return f"mlflow:{_without_secrets(self.uri)}{named}"


def parse(text: str) -> Target:
    """Read `mlflow:URI` or `mlflow:URI#experiment`. Raises `InvalidInput`."""
    tracker, _, rest = text.partition(":")
    if tracker not in TRACKERS:
        raise UnknownName("tracker", tracker, TRACKERS, "; write `mlflow:http://host:5000`")
    uri, _, experiment = rest.partition("#")
    if not uri:
        raise InvalidInput(f"`{text}` names no server: write `mlflow:http://host:5000`.")
    if re.match(r"https?://[^/]*@", uri):
        raise InvalidInput(
            f"`mlflow:{_without_secrets(uri)}`: a URL that others see holds no credentials; give "
            "them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or as "
            "MLFLOW_TRACKING_TOKEN."
        )
    return Target(uri.rstrip("/"), experiment or EXPERIMENT)


def _silent(message: str) -> None:
    """Show the user nothing."""


def log(run: Run, target: str, notify: Notify = _silent) -> str:
    """Log a run, finished or not, to `mlflow:URI[#experiment]`; return where it can be seen.

    `notify` is told how far it is, if there are many trials. Raises `InvalidInput` or `Unavailable`
    if nothing can be logged there, `StoreError` if the server goes away meanwhile.
    """
    return Tracker(target).log(run, notify)


class Tracker:
    """A tracking server that answers.

    Raises `InvalidInput` if `target` names none, `Unavailable` if MLflow is not installed or the
    server does not answer within seconds.
    """

    def __init__(self, target: str) -> None:
        self.target = parse(target)
        self._mlflow = _import_mlflow()
        with _environment(_QUIET | _LOOK):
            try:
                self._client = self._mlflow.MlflowClient(self.target.uri)
                self._experiment = self._find_experiment()
            except Exception as error:  # MLflow has no class for all that it may raise.
                raise Unavailable(f"`{self.target}` cannot be used: {_reason(error)}.") from error

    def _find_experiment(self) -> str:
        name = self.target.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name))
        if found.lifecycle_stage != "active":
            raise InvalidInput(
                f"its experiment `{name}` was deleted; restore it or name another one"
            )
        return str(found.experiment_id)

    def log(self, run: Run, notify: Notify = _silent) -> str:
        """Log a run, finished or not; return where it can be seen. Raises `StoreError`."""
        whole, trials = mlflow_entries.of_run(run), mlflow_entries.of_trials(run)
        files = dict(mlflow_entries.files(run))
        with _environment(_QUIET | _LOG | {n: os.environ[n] for n in _LOG if n in os.environ}):
            try:
                return self._log(whole, trials, files, notify)
            except Exception as error:  # As above.
                raise StoreError(
                    f"run `{run.name}` is kept in `{run.location}`, but could not be logged to "
                    f"`{self.target}`: {_reason(error)}. Once it can: `{command(run, self.target)}`"
                ) from error

    def _log(
        self, whole: Entry, trials: Sequence[Entry], files: Mapping[str, bytes], notify: Notify
    ) -> str:
        found = self._search({tag: whole.tags[tag] for tag in ("harness.run", "harness.started")})
        run = found[0] if found else self._create(whole)
        run_id = str(run.info.run_id)
        self._log_trials(run_id, trials, notify)
        # A metric that is logged again would be there twice, and a parameter never changes.
        news = [m for m in whole.metrics if run.data.metrics.get(m.key) != m.value]
        params = {n: value for n, value in whole.params.items() if n not in run.data.params}
        self._fill(run_id, news, params, whole.tags)
        with tempfile.TemporaryDirectory(prefix="harness-track-") as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(run_id, folder)
        self._client.set_terminated(run_id, whole.status, whole.ended_ms)
        if not self.target.uri.startswith("http"):
            return f"{self.target}, run {run_id}"
        return f"{self.target.uri}/#/experiments/{self._experiment}/runs/{run_id}"

    def _log_trials(self, parent: str, trials: Sequence[Entry], notify: Notify) -> None:
        """Log the trials that are not there yet; delete those that no longer count."""
        missing = {_identity(trial.tags): trial for trial in trials}
        for run in self._search({"mlflow.parentRunId": parent}):
            # A log that was interrupted leaves its trials RUNNING.
            if run.info.status == "RUNNING" or not missing.pop(_identity(run.data.tags), None):
                self._client.delete_run(run.info.run_id)

        def log_trial(trial: Entry) -> None:
            run_id = self._create(trial, {"mlflow.parentRunId": parent}).info.run_id
            self._fill(run_id, trial.metrics, trial.params)
            self._client.set_terminated(run_id, trial.status, trial.ended_ms)

        with ThreadPoolExecutor(_REQUESTS) as pool:
            for number, _ in enumerate(pool.map(log_trial, missing.values()), 1):
                if number % _TOLD == 0:
                    notify(f"logged {number} of {len(missing)} trials to {self.target}")

    def _search(self, tags: Mapping[str, str]) -> list[Any]:
        """Return the runs of the experiment with these tags."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found: list[Any] = []
        token = None
        while token != "":
            page = self._client.search_runs(
                [self._experiment], wanted, max_results=_RUNS, page_token=token
            )
            found += page
            token = page.token or ""
        return found

    def _create(self, entry: Entry, tags: Mapping[str, str] = {}) -> Any:
        all_tags = {**entry.tags, **tags}
        return self._client.create_run(self._experiment, entry.started_ms, all_tags, entry.name)

    def _fill(
        self,
        run_id: str,
        metrics: Sequence[MetricValue],
        params: Mapping[str, str],
        tags: Mapping[str, str] = {},
    ) -> None:
        """Add to a run, in as few requests as MLflow allows."""
        entities = self._mlflow.entities
        parts = [
            ([entities.Metric(*value) for value in metrics], _METRICS),
            ([entities.Param(*item) for item in params.items()], _FEW),
            ([entities.RunTag(*item) for item in tags.items()], _FEW),
        ]
        for n in range(max(-(-len(rows) // most) for rows, most in parts)):
            batch = (rows[n * most : (n + 1) * most] for rows, most in parts)
            self._client.log_batch(run_id, *batch)


def _identity(tags: Mapping[str, str]) -> tuple[str | None, ...]:
    """Return what tells a logged trial from others of its run."""
    return tuple(tags.get(f"harness.{name}") for name in ("trial", "seed", "attempt"))


class _Watch:
    """A reporter that passes everything on, and keeps the name of the run."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.begin, self.grow, self.note = reporter.begin, reporter.grow, reporter.note
        self.run: str | None = None
        """Known once a trial has ended."""

    def event(self, event: Event) -> None:
        if isinstance(event, Record):
            self.run = event.run
        self._reporter.event(event)


@contextmanager
def salvaging(tracker: Tracker, results: str | Path, reporter: Reporter) -> Iterator[Reporter]:
    """Yield a reporter for a run; if the run is interrupted, log the trials that have ended."""
    watch = _Watch(reporter)
    try:
        yield watch
    except BaseException:
        if watch.run:
            try:
                where = tracker.log(Run(watch.run, results), reporter.note)
                reporter.note(f"logged: {where}")
            except HarnessError as error:
                reporter.note(str(error))
        raise


def command(run: Run, target: Target) -> str:
    """Return the command that logs a run."""
    return commands.command("track", *run.words, "--to", target)


def _import_mlflow() -> Any:
    """Import MLflow, which by default reports its use to its makers."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ImportError as error:
        raise Unavailable(
            f"to log to MLflow takes the package `mlflow-skinny` or `mlflow` ({error}): "
            "pip install 'harness[mlflow]'."
        ) from error
    return mlflow


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; MLflow reads them at every request."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _reason(error: BaseException) -> str:
    """Say in a few words what went wrong, without secrets."""
    text = _without_secrets(" ".join(str(error).split()))
    # Four libraries report a request that failed, each in its words; the system's come last.
    if causes := re.findall(r"\[Errno -?\d+\] ([^'\")]+)", text):
        return f"it does not answer: {causes[-1].strip()}"
    if "timed out" in text:
        return "it does not answer in time"
    text = text.partition(" Response body")[0]
    return textwrap.shorten(text, 300, placeholder=" ...").rstrip(".")


def _without_secrets(text: str) -> str:
    """Return a text without the credentials in its URLs."""
    return re.sub(r"//[^/@\s]*@", "//...@", text)
