"""Logs runs to an MLflow tracking server: one run there for each run here, one below it per trial.

What is logged is made from the records, as the tables are. Of a run that was logged before, what is
there stays and what is missing is added. docs/tracking.md says what goes where.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import HarnessError, InvalidInput, StoreError, Unavailable, UnknownName
from harness.report import run_page
from harness.runs.reporter import Reporter
from harness.runs.results import TABLES, Run
from harness.tables.metrics import METRICS
from harness.tables.pairs import ARM, KIND
from harness.tables.text import stated
from harness.trial.events import Event
from harness.trial.record import Record

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "harness"
"""Where runs are logged if no experiment is named."""
TRACKERS = ("mlflow",)
CURVES = ("train_loss", "eval_mse", "train_s")
"""The columns of `curves` that become metrics of a trial, by epoch."""

_MS = 1000
_REQUESTS = 8  # At once: the server needs most of the time of one for its database.
# Limits of MLflow: of a request 1,000 entries, of which 100 are parameters and 100 tags; of an
# answer 1,000 runs; of a tag 5,000 characters in any of its databases.
_FEW, _METRICS, _RUNS, _LONG = 100, 800, 1000, 5000
# Of MLflow's client, which by default tries for minutes: to look whether a server is there, and to
# log to it, unless the user has set them.
_LOOK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


class Target(NamedTuple):
    """Where runs are logged."""

    uri: str
    """Of the MLflow server."""
    experiment: str

    def __str__(self) -> str:
        named = "" if self.experiment == EXPERIMENT else f"#{self.experiment}"
        return f"mlflow:{_shown(self.uri)}{named}"


class Metric(NamedTuple):
    """A value of a metric."""

    key: str
    value: float
    at_ms: int
    """The time that it is of, since 1970."""
    step: int = 0


@dataclass(frozen=True)
class Entry:
    """What is logged as one run of MLflow's: a run of the harness, or one of its trials."""

    name: str
    status: str
    """As MLflow has it: FINISHED, FAILED or KILLED."""
    started_ms: int
    ended_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Metric] = field(repr=False)


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
            f"`mlflow:{_shown(uri)}`: a URL that others see holds no credentials; give them as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or as MLFLOW_TRACKING_TOKEN."
        )
    return Target(uri.rstrip("/"), experiment or EXPERIMENT)


def log(run: Run, target: str) -> str:
    """Log a run, finished or not, to `mlflow:URI[#experiment]`; return where it can be seen.

    Raises `InvalidInput` or `Unavailable` if nothing can be logged there, `StoreError` if that ends
    on the way.
    """
    return Tracker(target).log(run)


class Tracker:
    """A tracking server that answers.

    Raises `InvalidInput` if `target` is none, `Unavailable` without MLflow, or without an answer
    within seconds.
    """

    def __init__(self, target: str) -> None:
        self.target = parse(target)
        self._mlflow = _import_mlflow()
        with _settings(_QUIET | _LOOK):
            try:
                self._client = self._mlflow.MlflowClient(self.target.uri)
                self._experiment = self._find_experiment()
            except Exception as error:  # MLflow has no class for all that it may raise.
                raise Unavailable(f"`{self.target}` cannot be used: {_reason(error)}.") from error

    def log(self, run: Run) -> str:
        """Log a run, finished or not; return where it can be seen. Raises `StoreError`."""
        whole, trials, files = entry(run), trial_entries(run), dict(artefacts(run))
        patience = {name: os.environ.get(name, value) for name, value in _PATIENCE.items()}
        with _settings(_QUIET | patience):
            try:
                return self._log(whole, trials, files)
            except Exception as error:  # As above.
                raise StoreError(
                    f"run `{run.name}` is kept in `{run.location}`, but could not be logged to "
                    f"`{self.target}`: {_reason(error)}. Once it can: `{command(run, self.target)}`"
                ) from error

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

    def _log(self, whole: Entry, trials: Sequence[Entry], files: Mapping[str, bytes]) -> str:
        found = self._search(
            {name: whole.tags[name] for name in ("harness.run", "harness.started")}
        )
        there = found[0] if found else self._create(whole)
        parent = str(there.info.run_id)
        self._log_trials(parent, trials)
        # What MLflow holds cannot be changed (parameters) or would be there twice (metrics).
        known = there.data.metrics
        news = [metric for metric in whole.metrics if known.get(metric.key) != metric.value]
        params = {k: v for k, v in whole.params.items() if k not in there.data.params}
        self._fill(parent, news, params, whole.tags)
        with tempfile.TemporaryDirectory(prefix="harness-track-") as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(parent, folder)
        self._client.set_terminated(parent, whole.status, whole.ended_ms)
        if not self.target.uri.startswith("http"):
            return f"{self.target}, run {parent}"
        return f"{self.target.uri}/#/experiments/{self._experiment}/runs/{parent}"

    def _log_trials(self, parent: str, trials: Sequence[Entry]) -> None:
        """Log the trials that are not there yet; remove those that no longer count."""
        wanted = {_identity(trial.tags): trial for trial in trials}
        for there in self._search({"mlflow.parentRunId": parent}):
            # One that was not ended was not logged to its end.
            if there.info.status == "RUNNING" or not wanted.pop(_identity(there.data.tags), None):
                self._client.delete_run(there.info.run_id)
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for _ in pool.map(lambda trial: self._log_trial(parent, trial), wanted.values()):
                pass

    def _log_trial(self, parent: str, trial: Entry) -> None:
        run = self._create(trial, {"mlflow.parentRunId": parent}).info.run_id
        self._fill(run, trial.metrics, trial.params)
        self._client.set_terminated(run, trial.status, trial.ended_ms)

    def _search(self, tags: Mapping[str, str]) -> list[Any]:
        """Return the runs of the experiment with these tags."""
        wanted, token, found = [f"tags.`{k}` = '{v}'" for k, v in tags.items()], None, []
        while token is None or token:
            page = self._client.search_runs(
                [self._experiment], " and ".join(wanted), max_results=_RUNS, page_token=token
            )
            found += page
            token = page.token or ""
        return found

    def _create(self, new: Entry, tags: Mapping[str, str] = {}) -> Any:
        all_tags = {**new.tags, **tags}
        return self._client.create_run(self._experiment, new.started_ms, all_tags, new.name)

    def _fill(
        self,
        run: str,
        metrics: Sequence[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str] = {},
    ) -> None:
        """Add to a run, in as few requests as MLflow permits."""
        entities = self._mlflow.entities
        rows = [entities.Metric(*metric) for metric in metrics]
        some = [entities.Param(*item) for item in params.items()]
        told = [entities.RunTag(*item) for item in tags.items()]
        while rows or some or told:
            self._client.log_batch(run, rows[:_METRICS], some[:_FEW], told[:_FEW])
            rows, some, told = rows[_METRICS:], some[_FEW:], told[_FEW:]


class Watch:
    """A reporter that passes on what it is told, and knows the run that it was told of."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.run: str | None = None
        """Its id, once a trial has ended."""

    def begin(self, trials: int, total: int) -> None:
        """Pass it on."""
        self._reporter.begin(trials, total)

    def grow(self, total: int) -> None:
        """Pass it on."""
        self._reporter.grow(total)

    def event(self, event: Event) -> None:
        """Pass it on."""
        if isinstance(event, Record):
            self.run = event.run
        self._reporter.event(event)

    def note(self, message: str) -> None:
        """Pass it on."""
        self._reporter.note(message)


@contextmanager
def salvaging(tracker: Tracker, results: str | Path, reporter: Reporter) -> Iterator[Reporter]:
    """Log what has ended of the run that is told to the reporter returned, if it is cut short."""
    watch = Watch(reporter)
    try:
        yield watch
    except BaseException:
        if watch.run:
            try:
                reporter.note(f"logged: {tracker.log(Run(watch.run, results))}")
            except HarnessError as error:
                reporter.note(str(error))
        raise


def command(run: Run, target: Target) -> str:
    """Return the command that logs a run."""
    results = run.location.removesuffix(f"/{run.name}")
    where = "" if results == "results" else f" --results {results}"
    return f"python -m harness track {run.name}{where} --to {target}"


def entry(run: Run) -> Entry:
    """Return what is logged of a run as a whole."""
    manifest, plan = run.manifest, run.manifest.plan
    started = _ms(manifest.started_utc)
    ended = max((_ended_ms(record) for record in run.records), default=started)
    asked = plan.task.model_dump() | {
        "backends": ",".join(plan.backends),
        "devices": ",".join(plan.devices),
        "threads": plan.threads,
        "packed": plan.packed,
        "isolation": plan.isolation,
    }
    asked |= {name: ",".join(map(str, values)) for name, values in plan.sweep.items()}
    comparisons = run.comparisons()
    tags = manifest.environment | {
        "harness.run": run.name,
        "harness.started": manifest.started_utc,
        "harness.finished": manifest.finished_utc or "",
        "harness.location": run.location,
        "trials": f"{len(run.records)} of {plan.size}",
        "failures": "\n".join(run.failures),
        "mlflow.note.content": ""
        if run.swept
        else "\n".join(f"- {s}" for s in stated(comparisons)),
    }
    finished = plan.settled and not run.missing
    return Entry(
        name=run.name,
        status="FAILED" if run.failures else "FINISHED" if finished else "KILLED",
        started_ms=started,
        ended_ms=ended,
        tags=_texts(tags),
        params=_texts(asked),
        metrics=[Metric(key, value, ended) for key, value in _summary(run).items()],
    )


def trial_entries(run: Run) -> list[Entry]:
    """Return what is logged of each trial; of one that trained many seeds at once, of each seed."""
    rows = run.trials.to_dict("records")
    by_trial = {record.trial: record for record in run.records}
    curves = _by_seed(run.curves, ("epoch", *CURVES))
    steps = _by_seed(run.steps, ("t", "mse"))
    entries = []
    for row in rows:
        key = (row["trial"], row["seed"])
        record = by_trial[row["trial"]]
        entries.append(_trial(record, row, curves.get(key, ()), steps.get(key, ())))
    return entries


def _trial(
    record: Record,
    row: Mapping[Any, Any],
    curve: Iterable[Sequence[float]],
    steps: Iterable[Sequence[float]],
) -> Entry:
    started, ended, seed = _ms(record.started_utc), _ended_ms(record), row["seed"]
    metrics = [
        Metric(name, float(value), started + round(train_s * _MS), int(epoch))
        for epoch, *values, train_s in curve
        for name, value in zip(CURVES, (*values, train_s), strict=True)
    ]
    metrics += [Metric("step_mse", float(mse), ended, int(t)) for t, mse in steps]
    figures = {name: row[name] for name, metric in METRICS.items() if metric.tracked}
    # In a sweep over it, `epochs` is what was to be trained.
    figures["epochs_trained"] = row.get("epochs_trained", row["epochs"])
    metrics += [Metric(name, value, ended) for name, value in _numbers(figures).items()]
    told = ("status", "error", "node", "node_kind", "contended", "noisy", "noise", "lost", "block")
    tags = record.environment | {name: row[name] for name in told}
    tags |= {
        "details": (record.details or "")[-_LONG:],
        "harness.run": record.run,
        "harness.trial": record.trial,
        "harness.seed": seed,
        "harness.attempt": f"{record.attempt} at {record.started_utc}",
        "mlflow.source.git.commit": record.environment.get("commit:harness", ""),
    }
    params = record.task.model_dump() | {"backend": record.backend, "device": record.device}
    params |= {"seed": seed, "threads": record.threads, "at_once": record.at_once}
    return Entry(
        name=record.trial if record.at_once == 1 else f"{record.trial} (seed {seed})",
        status="FINISHED" if record.status in {"ok", "diverged"} else "FAILED",
        started_ms=started,
        ended_ms=ended,
        tags=_texts(tags),
        params=_texts(params | {"isolation": record.isolation}),
        metrics=metrics,
    )


def _summary(run: Run) -> dict[str, float]:
    """Return the figures of `Run.summary`, each named by backend and device, `torch-cpu/r2`.

    The point of a sweep, and the kind of node where there are several, come first.
    """
    summary = run.summary()
    if summary.empty:
        return {}
    kinds = summary[KIND].nunique() > 1
    figures: dict[str, float] = {}
    for row in summary.to_dict("records"):
        point = [f"{name}_{row[name]}" for name in run.swept]
        parts = [*point, *([row[KIND]] if kinds else []), "-".join(row[name] for name in ARM)]
        own = {k: v for k, v in row.items() if k not in {*run.swept, KIND, *ARM}}
        figures |= {
            "/".join(_name(str(part)) for part in (*parts, name)): value
            for name, value in _numbers(own).items()
        }
    return figures


def artefacts(run: Run) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files that go with a run, the report's where it was made."""
    yield "manifest.json", run.manifest.model_dump_json(indent=1).encode()
    for name in TABLES:
        table = run.table(name)
        for suffix, export in ((".parquet", table.to_parquet), (".csv", table.to_csv)):
            content = BytesIO()
            export(content, index=False)
            yield name + suffix, content.getvalue()
    for name, table in (("summary", run.summary()), ("comparisons", run.comparisons())):
        yield f"{name}.csv", table.to_csv(index=False).encode()
    for name in (run_page.NAME, *run.folder.names(run_page.PLOTS)):
        if (made := run.folder.read(name)) is not None:
            yield name, made


def _by_seed(
    table: pd.DataFrame, columns: Sequence[str]
) -> dict[tuple[str, int], list[tuple[Any, ...]]]:
    """Return the rows of each trial and seed, these columns of them."""
    rows: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    keys = zip(table["trial"], table["seed"], strict=True)
    for key, row in zip(keys, table[list(columns)].itertuples(index=False), strict=True):
        rows.setdefault(key, []).append(tuple(row))
    return rows


def _numbers(figures: Mapping[Any, Any]) -> dict[str, float]:
    """Return those figures that are numbers: not text, not missing."""
    numbers = {
        str(name): float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as MLflow takes them, without those that are missing or empty."""
    texts = {_name(name): str(value)[:_LONG] for name, value in values.items() if value is not None}
    return {name: text for name, text in texts.items() if text not in {"", "<NA>"}}


def _name(text: str) -> str:
    """Return a name as every MLflow takes it: `version.torch`."""
    return re.sub(r"[^\w\-. ]", ".", text)


def _identity(tags: Mapping[str, str]) -> tuple[str | None, ...]:
    """Return what tells a logged trial from others of its run."""
    return tuple(tags.get(f"harness.{name}") for name in ("trial", "seed", "attempt"))


def _ms(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * _MS)


def _ended_ms(record: Record) -> int:
    return _ms(record.started_utc) + round(record.wall_s * _MS)


def _import_mlflow() -> Any:
    """Import MLflow, which without asking would tell its makers about every use of it."""
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
def _settings(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, where MLflow looks at every request, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reason(error: BaseException) -> str:
    """Say in a few words what went wrong, without secrets."""
    text = _shown(" ".join(str(error).split()))
    # A request that failed is told by four libraries, each in its words; the system's are last.
    if causes := re.findall(r"\[Errno -?\d+\] ([^'\")]+)", text):
        return f"it does not answer: {causes[-1].strip()}"
    if "timed out" in text:
        return "it does not answer in time"
    return textwrap.shorten(text.partition(" Response body")[0], 300, placeholder=" ...").rstrip(
        "."
    )


def _shown(text: str) -> str:
    """Return a text with URLs in it, less what may be secret in those."""
    return re.sub(r"//[^/@\s]*@", "//...@", text)
