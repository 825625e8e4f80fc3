"""Runs logged to MLflow, by its own client: to files, and (slow) to a real server."""

from __future__ import annotations

import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.errors import InvalidInput, StoreError, Unavailable
from harness.report import mlflow, mlflow_entries
from harness.runs.reporter import Silent
from harness.runs.request import RunRequest
from harness.runs.settings import Settings, Site
from harness.runs.start import start
from harness.trial.events import Event
from harness.trial.record import Record
from tests.helpers.commands import ROOT, TINY_RUN, Cli, command, overriding

SMALL = harness.Task(n_steps=5, batch_size=4, epochs=100, curve_points=10, eval_paths=20)
NAN, RAISES = "tests.helpers.faulty:ReturnsNan", "tests.helpers.faulty:RaisesMidTraining"


class Server:
    """A tracking server with an SQLite database, of the MLflow in an environment of its own."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self._program, self._folder = environment / "bin" / "mlflow", folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        store = ("--backend-store-uri", f"sqlite:///{self._folder}/db.sqlite")
        files = ("--artifacts-destination", str(self._folder / "artefacts"))
        at = ("--host", "127.0.0.1", "--port", str(self._port), "--workers", "1")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "server", *store, *files, *at],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.2)
        return self

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with all of MLflow; the harness needs its client alone."""
    folder = tmp_path_factory.mktemp("mlflow")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "mlflow"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"MLflow cannot be installed here: {done.stderr.splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(environment, tmp_path_factory.mktemp("server"))
    try:
        yield started.start()
    finally:
        started.kill()


@pytest.fixture(
    scope="module",
    params=["files", pytest.param("server", marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def uri(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, settings: None
) -> str:
    """Where to log: a folder, which MLflow's client writes by itself, or a server."""
    if request.param == "server":
        return str(request.getfixturevalue("server").uri)
    return f"file://{tmp_path_factory.mktemp('store')}"


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("HARNESS_REPORT", "0")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> harness.Run:
    """A run in which one backend learns, one diverges and one fails; with a report, of a kind."""
    return harness.run(
        SMALL,
        backends=["reference", NAN, RAISES],
        seeds=2,
        rounds=2,
        dispatch="inline",
        results=tmp_path_factory.mktemp("results"),
        run_id="demo",
    )


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs(uri: str, experiment: str) -> tuple[Any, dict[str, Any]]:
    """Return the one run of an experiment that has none above it, and those below it by name."""
    asked = client(uri)
    found = asked.search_runs([asked.get_experiment_by_name(experiment).experiment_id])
    (parent,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    named = {run.info.run_name: run for run in children}
    assert len(named) == len(children)
    return parent, named


def history(uri: str, run: Any, key: str) -> dict[int, float]:
    """Return the values of a metric by step; each step is there once."""
    values = client(uri).get_metric_history(run.info.run_id, key)
    by_step = {metric.step: metric.value for metric in values}
    assert len(by_step) == len(values)
    return by_step


@pytest.fixture(scope="module")
def logged(run: harness.Run, uri: str) -> str:
    """The experiment that the run was logged to."""
    where = mlflow.log(run, f"mlflow:{uri}#all of it")
    assert runs(uri, "all of it")[0].info.run_id in where
    return "all of it"


def test_a_trial_is_a_run_below_that_of_the_whole(run: harness.Run, uri: str, logged: str) -> None:
    parent, children = runs(uri, logged)
    assert set(children) == set(run.trials["trial"])
    params = children["seed1-reference-cpu"].data.params
    said = {"backend": "reference", "device": "cpu", "seed": "1", "threads": "1", "n_steps": "5"}
    assert params.items() >= said.items()
    assert set(SMALL.model_dump()) <= set(params)
    tags = children["seed1-reference-cpu"].data.tags
    assert tags["status"] == "ok"
    (record,) = (r for r in run.records if r.trial == "seed1-reference-cpu")
    assert tags["node"] == record.node
    assert tags["version.numpy"] == record.environment["version:numpy"]
    assert tags.get("commit.harness") == record.environment.get("commit:harness")
    assert parent.data.tags["harness.run"] == "demo"
    assert parent.data.params["backends"] == f"reference,{NAN},{RAISES}"
    assert parent.info.status == "FAILED"


def test_the_curves_are_those_of_the_tables(run: harness.Run, uri: str, logged: str) -> None:
    _, children = runs(uri, logged)
    for (trial, _), curve in run.curves.groupby(["trial", "seed"]):
        for name in ("train_loss", "eval_mse", "train_s"):
            there = history(uri, children[str(trial)], name)
            assert list(there) == list(curve["epoch"])
            assert list(there.values()) == pytest.approx(list(curve[name]), nan_ok=True)
    for (trial, _), steps in run.steps.groupby(["trial", "seed"]):
        assert history(uri, children[str(trial)], "step_mse") == pytest.approx(
            dict(zip(steps["t"], steps["mse"], strict=True))
        )
    row = run.trials.set_index("trial").loc["seed0-reference-cpu"]
    metrics = children["seed0-reference-cpu"].data.metrics
    for name in ("final_mse", "r2", "lag_skill", "train_s", "epochs_per_s", "peak_rss_mb"):
        assert metrics[name] == pytest.approx(row[name])


def test_a_diverged_trial_is_finished_and_a_failed_one_is_not(
    run: harness.Run, uri: str, logged: str
) -> None:
    _, children = runs(uri, logged)
    status = run.trials.set_index("trial")["status"]
    assert set(status) == {"ok", "diverged", "failed"}
    for trial, child in children.items():
        assert child.data.tags["status"] == status[trial]
        assert child.info.status == ("FAILED" if status[trial] == "failed" else "FINISHED")
        if status[trial] == "failed":
            assert "kernel launch failed" in child.data.tags["error"]
            assert "Traceback" in child.data.tags["details"]
        if status[trial] == "diverged":
            assert math.isnan(list(history(uri, child, "train_loss").values())[-1])
            assert "final_mse" not in child.data.metrics


def test_the_whole_has_the_summary_and_the_files(
    run: harness.Run, uri: str, logged: str, tmp_path: Path
) -> None:
    parent, _ = runs(uri, logged)
    summary = run.summary().set_index("backend").loc["reference"]
    for name in ("time_ratio", "time_ratio_low", "time_ratio_high", "final_mse", "epochs_per_s"):
        assert parent.data.metrics[f"reference-cpu/{name}"] == pytest.approx(summary[name])
    asked, identity = client(uri), parent.info.run_id
    for name in ("trials", "curves", "steps", "chunks"):
        path = asked.download_artifacts(identity, f"{name}.parquet", str(tmp_path))
        pd.testing.assert_frame_equal(pd.read_parquet(path), run.table(name))
        path = asked.download_artifacts(identity, f"{name}.csv", str(tmp_path))
        assert Path(path).read_bytes() == (Path(run.location) / f"{name}.csv").read_bytes()
    path = asked.download_artifacts(identity, "manifest.json", str(tmp_path))
    assert Path(path).read_bytes() == (Path(run.location) / "manifest.json").read_bytes()


def test_logging_again_duplicates_nothing(run: harness.Run, uri: str) -> None:
    target = f"mlflow:{uri}#twice"
    where = mlflow.log(run, target)
    parent, children = runs(uri, "twice")
    # One that was cut short, and one of an attempt that does not count any more.
    client(uri).update_run(children["seed0-reference-cpu"].info.run_id, status="RUNNING")
    client(uri).set_tag(children["seed1-reference-cpu"].info.run_id, "harness.attempt", "0")
    for name, content in (("report.html", b"<p>"), ("plots/curves.svg", b"<svg/>")):
        run.folder.write([(name, content)])
    assert mlflow.log(run, target) == where
    again, now = runs(uri, "twice")
    assert again.info.run_id == parent.info.run_id
    assert set(now) == set(children)
    anew = {name for name, child in now.items() if child.info.run_id != children[name].info.run_id}
    assert anew == {"seed0-reference-cpu", "seed1-reference-cpu"}
    assert {now[name].info.status for name in anew} == {"FINISHED"}
    for name in now:
        assert history(uri, now[name], "step_mse").keys() == (
            history(uri, children[name], "step_mse").keys()
        )
    for key in again.data.metrics:
        history(uri, again, key)
    files = client(uri).list_artifacts(parent.info.run_id)
    assert {"report.html", "plots"} < {file.path for file in files}


class Interrupting(Silent):
    """Presses Ctrl-C when so many trials have ended."""

    def __init__(self, after: int) -> None:
        self._left = after

    def event(self, event: Event) -> None:
        self._left -= isinstance(event, Record)
        if not self._left:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        self.said = message


def test_an_interrupted_run_is_logged_as_far_as_it_came(uri: str, tmp_path: Path) -> None:
    target, told = f"mlflow:{uri}#cut short", Interrupting(after=1)
    site = Site("inline", results=tmp_path)
    measured = Settings(backends=("reference",), devices=("cpu",), seeds=(0, 1), rounds=2)
    with (
        pytest.raises(KeyboardInterrupt),
        mlflow.salvaging(mlflow.Tracker(target), tmp_path, told) as listener,
    ):
        start(RunRequest(SMALL, measured, site), listener)
    parent, children = runs(uri, "cut short")
    assert len(children) == 1
    assert parent.info.status == "KILLED"
    assert parent.info.run_id in told.said
    name = parent.data.tags["harness.run"]
    mlflow.log(harness.resume(name, dispatch="inline", results=tmp_path), target)
    again, now = runs(uri, "cut short")
    assert again.info.run_id == parent.info.run_id
    assert again.info.status == "FINISHED"
    assert again.data.metrics["reference-cpu/seeds"] == 2
    assert len(now) == 2
    assert all(now[name].info.run_id == child.info.run_id for name, child in children.items())


def test_the_points_of_a_sweep_and_seeds_at_once(uri: str, tmp_path: Path) -> None:
    swept = harness.run(
        SMALL,
        backends=["tests.helpers.many:Looped"],
        seeds=2,
        rounds=2,
        vectorize=True,
        sweep={"hidden": [3, 4], "epochs": [50]},
        dispatch="inline",
        results=tmp_path,
        run_id="sweep",
    )
    mlflow.log(swept, f"mlflow:{uri}#sweep")
    parent, children = runs(uri, "sweep")
    assert parent.data.params["hidden"] == "3,4"
    assert parent.data.metrics["hidden_3/epochs_50/tests.helpers.many.Looped-cpu/seeds"] == 2
    assert len(parent.data.metrics) == 2 * len(
        [key for key in parent.data.metrics if key.startswith("hidden_3/epochs_50/")]
    )
    assert len(children) == len(swept.trials) == 4
    for child in children.values():
        assert int(child.data.params["epochs"]) == child.data.metrics["epochs_trained"]
        mse = swept.trials[
            (swept.trials["trial"] == child.data.tags["harness.trial"])
            & (swept.trials["seed"] == int(child.data.params["seed"]))
        ]["final_mse"]
        assert child.data.metrics["final_mse"] == pytest.approx(mse.item())


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_any_name_becomes_one_that_mlflow_takes(backend: str, value: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    name = "/".join(map(mlflow_entries._name, (f"x_{value}", f"{backend}-cpu", "r2")))
    _validate_metric_name(name)  # type: ignore[no-untyped-call]


def tracked(target: str, results: Path) -> list[object]:
    """The words of a small run that is logged."""
    given = ("--backends", "reference", "--dispatch", "inline", "--results", results)
    return [*TINY_RUN, *given, "--run-id", "mine", "--track", target]


def test_the_command_run_logs(program: Cli, cli: Cli, uri: str, tmp_path: Path) -> None:
    done = program(*tracked(f"mlflow:{uri}", tmp_path), "--seeds", 1)
    assert done.returncode == 0, done.stderr
    parent, children = runs(uri, "harness")
    assert list(children) == ["seed0-reference-cpu"]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Logged: ")
    assert last.endswith(parent.info.run_id)
    assert "mlflow" not in done.stderr
    again = ("track", "mine", "--results", tmp_path, "--to", f"mlflow:{uri}")
    assert cli(*again).stdout.splitlines() == [last]
    client(uri).delete_experiment(parent.info.experiment_id)
    done = cli(*again)
    assert done.returncode == 2
    assert "experiment `harness` was deleted" in done.stderr


def test_it_says_how_far_it_is_and_needs_three_requests_a_trial(
    run: harness.Run, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    asked: list[str] = []

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            asked.append(name)
            return method(*given, **named)

        return call

    for name in ("create_run", "log_batch", "set_terminated", "log_metric", "log_param", "set_tag"):
        monkeypatch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    monkeypatch.setattr(mlflow, "_TOLD", 2)
    told: list[str] = []
    mlflow.log(run, f"mlflow:{uri}#told", told.append)
    trials = len(run.trials)
    where = f"mlflow:{uri}#told"
    assert told == [f"logged {n} of {trials} trials to {where}" for n in range(2, trials + 1, 2)]
    assert len(asked) <= 3 * trials + 5


class NoTracker(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def no_tracker() -> Iterator[str]:
    """The address of a server that is none of MLflow's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NoTracker) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("mlflo:http://localhost", "unknown tracker `mlflo` (did you mean `mlflow`?)"),
        ("wandb:team/project", "unknown tracker `wandb`; known: mlflow; write `mlflow:http"),
        ("mlflow", "`mlflow` names no server"),
        ("mlflow:#cells", "`mlflow:#cells` names no server"),
        ("mlflow:http://me:hush@localhost", "MLFLOW_TRACKING_PASSWORD"),
        ("mlflow:http://127.0.0.1:1", "cannot be used: it does not answer: Connection refused."),
        ("mlflow:ftp://localhost", "cannot be used: "),
        ("mlflow:postgresql://me:hush@localhost/db", "`mlflow:postgresql://...@localhost/db`"),
        ("mlflow:http://NO_TRACKER#x", "failed with error code 404"),
    ],
)
def test_a_bad_target_is_refused(target: str, sentence: str, no_tracker: str) -> None:
    with pytest.raises((InvalidInput, Unavailable)) as refused:
        mlflow.Tracker(target.replace("NO_TRACKER", no_tracker))
    said = str(refused.value)
    assert sentence in said
    assert "hush" not in said
    assert "\n" not in said


def test_nothing_is_measured_if_it_cannot_be_logged(cli: Cli, tmp_path: Path) -> None:
    done = cli(*tracked("mlflow:http://127.0.0.1:1", tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: `mlflow:http://127.0.0.1:1` cannot be used")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(Unavailable, match="pip install 'harness\\[mlflow\\]'"):
        mlflow.Tracker("mlflow:http://127.0.0.1:1")


def test_a_store_that_goes_away_costs_nothing_measured(
    run: harness.Run, cli: Cli, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    tracker = mlflow.Tracker(f"mlflow:file://{store}#gone")
    store.rename(tmp_path / "away")
    store.write_text("no folder")
    with pytest.raises(StoreError) as lost:
        tracker.log(run)
    assert f"run `demo` is kept in `{run.location}`" in str(lost.value)
    said = mlflow.command(run, tracker.target)
    assert said in str(lost.value)
    store.unlink()
    (tmp_path / "away").rename(store)
    words = shlex.split(said.removeprefix("python -m harness "))
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert len(runs(f"file://{store}", "gone")[1]) == len(run.trials)


def test_mlflow_is_imported_only_when_needed_and_without_telemetry(tmp_path: Path) -> None:
    code = f"""
import sys
from harness.report import mlflow
print("mlflow" in sys.modules)
mlflow.Tracker("mlflow:file://{tmp_path}")
from mlflow.telemetry.client import get_telemetry_client
print("mlflow" in sys.modules, get_telemetry_client())
"""
    # MLflow takes some of these for a sign that it is being tested, and is silent then.
    quiet = {"CI", "DO_NOT_TRACK", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY"}
    quiet |= {"PYTEST_CURRENT_TEST"}
    loud = {name: value for name, value in os.environ.items() if name not in quiet}
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, env=loud)
    assert said.split() == ["False", "True", "None"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_dies_during_a_run(
    program: Cli, environment: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    server = Server(environment, tmp_path_factory.mktemp("dying")).start()

    def kill_once_it_runs() -> None:
        while not list(tmp_path.glob("mine/records/*.json")):
            time.sleep(0.05)
        server.kill()

    Thread(target=kill_once_it_runs, daemon=True).start()
    words = tracked(f"mlflow:{server.uri}", tmp_path)
    done = program(*overriding(*words, "--backends", "tests.helpers.faulty:Slow", "--seeds", 2))
    assert done.returncode == 74, done.stderr
    assert f"Results: {tmp_path}/mine" in done.stdout
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "it does not answer" in error
    assert "Traceback" not in done.stderr
    try:
        server.start()
        given = error.rpartition("`python -m harness ")[2].rstrip("`").split()
        assert subprocess.call(command(*given), cwd=ROOT) == 0
        parent, children = runs(server.uri, "harness")
        assert parent.info.status == "FINISHED"
        assert len(children) == 2
    finally:
        server.kill()
