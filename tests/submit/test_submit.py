"""Runs as jobs of a real cluster, over HTTP: followed, interrupted, and their results fetched."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.helpers.head import TOKEN, Head, Proxy
from harness import Run
from tests.helpers.commands import ROOT, TINY_RUN, Cli, command, overriding

RUN = ["--", *TINY_RUN, "--backends", "reference", "--seeds", 1]
SLOW = ["--", *TINY_RUN, "--backends", "tests.helpers.faulty:Slow", "--seeds", 2]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head() as head:
        yield head


@dataclass
class Submit:
    """A client at work; what it prints goes to files, so that it can be read while it comes."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    returncode: int | None = None

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    def until(self, words: str) -> str:
        """Return what it has printed when it has printed these words."""
        while words not in self.stdout:
            assert self.process.poll() is None, self.stdout + self.stderr
            time.sleep(0.1)
        return self.stdout

    def end(self) -> int:
        return self.process.wait(170)


class Client:
    """A user of the head, with a results folder of their own."""

    def __init__(self, head: Head, results: Path) -> None:
        self.head, self.results = head, results

    def start(self, *words: object, url: str = "", **variables: str) -> Submit:
        folder = Path(tempfile.mkdtemp(dir=self.results.parent))
        files = folder / "out", folder / "err"
        base = ["submit", "--address", url or self.head.url, "--results", self.results]
        with files[0].open("w") as out, files[1].open("w") as err:
            process = subprocess.Popen(
                command(*base, *words),
                cwd=ROOT,
                env=self.head.environment | variables,
                stdout=out,
                stderr=err,
            )
        return Submit(process, *files)

    def __call__(self, *words: object, **variables: str) -> Submit:
        submit = self.start(*words, **variables)
        submit.returncode = submit.process.wait(170)
        return submit

    def hint(self, errors: str, kind: str) -> str:
        """Return the command that runs what is missing, of two kinds."""
        (found,) = re.findall(rf"^  {kind}: +(.*)$", errors, re.MULTILINE)
        return str(found)

    def types(self, line: str) -> subprocess.CompletedProcess[str]:
        """Type a command as it is shown."""
        return subprocess.run(
            ["sh", "-c", line],
            cwd=ROOT,
            env=self.head.environment,
            capture_output=True,
            text=True,
        )

    def same_as_on_the_head(self, run: str) -> bool:
        """Whether the manifest and all records are here as they are on the head."""
        there, here = self.head.home / "harness-results" / run, self.results / run
        names = {path.relative_to(there) for path in there.rglob("*.json")}
        assert names == {path.relative_to(here) for path in here.rglob("*.json")}
        return all((there / n).read_bytes() == (here / n).read_bytes() for n in names)


@pytest.fixture
def client(head: Head, tmp_path: Path) -> Client:
    return Client(head, tmp_path / "results")


def test_a_run_survives_a_lost_connection_and_its_results_are_fetched(
    client: Client, head: Head
) -> None:
    proxy = Proxy(head.port)
    arguments = ["--wait", *SLOW, "--run-id", "lost"]
    # An address in the environment is for others.
    submitting = client.start(*arguments, url=proxy.url, RAY_ADDRESS="http://127.0.0.1:1")
    submitting.until("epoch 30")
    proxy.cut()
    time.sleep(2)
    proxy.mend()
    submitting.until("[1/2]")
    proxy.drop()
    assert submitting.end() == 0, submitting.stderr
    assert submitting.stdout == head.log("harness-lost")
    assert str(head.home) not in submitting.stdout  # Its reader is here.
    assert f"Results: {client.results / 'lost'}. All steps: " in submitting.stdout
    errors = submitting.stderr
    assert errors.count("trying again") == errors.count("connected again") in {1, 2}
    assert client.same_as_on_the_head("lost")
    run = Run("lost", client.results)
    assert run.trials["status"].tolist() == ["ok", "ok"]
    assert run.manifest.finished_utc
    assert (client.results / "lost" / "trials.parquet").is_file()
    # The run was one of this cluster's drivers, and not a Ray of its own.
    job = head.ask("/api/jobs/harness-lost")
    assert job["job_id"]
    assert job["driver_exit_code"] == 0
    (folder,) = (head.home / "r").glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    sent = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "harness/__main__.py", "backends/reference.py"} <= sent
    tops = {name.partition("/")[0] for name in sent}
    assert not tops & {"results", ".git", ".venv", ".mypy_cache", "harness.egg-info"}


def test_a_token_that_is_missing_or_wrong(client: Client, head: Head, tmp_path: Path) -> None:
    missing = client.start(*RUN, HOME=str(tmp_path))
    wrong = client.start(*RUN, RAY_AUTH_TOKEN="wrong" * 8)
    nowhere = client.start(*RUN, RAY_AUTH_TOKEN_PATH="/nowhere")
    unsendable = client.start(*RUN, RAY_AUTH_TOKEN="a\nb")
    answers = [missing, wrong, nowhere, unsendable]
    assert [answer.end() for answer in answers] == [2] * 4
    assert "wants a token, and there is none here" in missing.stderr
    assert "does not accept the token" in wrong.stderr
    assert "RAY_AUTH_TOKEN_PATH names `/nowhere`" in nowhere.stderr
    assert "does not accept the token" in unsendable.stderr
    for answer in answers:
        assert "~/.ray/auth_token" in answer.stderr
        assert answer.stderr.count("\n") == 1
        assert TOKEN not in answer.stderr


@pytest.mark.slow
def test_a_connection_that_falls_silent_is_given_up(client: Client, head: Head) -> None:
    proxy = Proxy(head.port)
    submitting = client.start("--wait", *SLOW, "--run-id", "silent", url=proxy.url)
    submitting.until("epoch 30")
    proxy.freeze()
    assert submitting.end() == 0, submitting.stderr
    assert submitting.stdout == head.log("harness-silent")
    assert client.same_as_on_the_head("silent")


@pytest.mark.slow
def test_a_failing_trial_gives_its_exit_code_and_its_results_are_fetched(client: Client) -> None:
    backends = "tests.helpers.faulty:RaisesMidTraining,reference"
    given = ("--backends", backends, "--seeds", 2, "--run-id", "failing")
    done = client("--wait", "--", *TINY_RUN, *given)
    assert done.returncode == 1
    assert "failed: seed0-tests.helpers.faulty.RaisesMidTraining-cpu" in done.stdout
    assert client.same_as_on_the_head("failing")
    assert sorted(Run("failing", client.results).trials["status"]) == ["failed"] * 2 + ["ok"] * 2


@pytest.mark.slow
def test_a_client_that_was_killed_is_followed_by_another(client: Client, head: Head) -> None:
    first = client.start("--wait", *SLOW, "--run-id", "killed")
    first.until("epoch 30")
    first.process.kill()
    first.end()
    second = client.start("--attach", "harness-killed")
    printed = second.until("[1/2]")
    second.process.send_signal(signal.SIGINT)
    assert second.end() == 130
    assert "job `harness-killed` is not affected" in second.stderr
    assert "--attach harness-killed" in second.stderr
    third = client("--attach", "harness-killed")
    assert third.returncode == 0, third.stderr
    assert third.stdout == head.log("harness-killed")
    assert third.stdout.startswith(printed)
    assert client.same_as_on_the_head("killed")
    # Once more, and from a place where another run of that name is.
    assert client("--attach", "harness-killed").returncode == 0
    manifest = client.results / "killed" / "manifest.json"
    changed = manifest.read_text().replace('"started_utc": "2', '"started_utc": "1')
    manifest.write_text(changed)
    other = client("--attach", "harness-killed")
    assert other.returncode == 2
    assert "another run `killed`" in other.stderr
    assert manifest.read_text() == changed


@pytest.mark.slow
def test_a_job_that_was_stopped_is_fetched_and_resumed(client: Client, head: Head) -> None:
    submitted = client("--", *overriding(*SLOW[1:], "--seeds", 9, "--run-id", "stopped"))
    assert submitted.returncode == 0
    assert submitted.stdout.splitlines()[0] == "harness-stopped"
    following = client.start("--attach", "harness-stopped")
    following.until("[1/9]")
    head.ask("/api/jobs/harness-stopped/stop", "POST")
    assert following.end() == 130
    assert "was stopped" in following.stderr
    finished = len(Run("stopped", client.results).records)
    assert 1 <= finished < 9
    *_, kept, last = following.stdout.splitlines()
    there = head.home / "harness-results"
    assert kept.startswith(f"{finished} of 9 trials are finished and kept in `{there}/stopped`; `")
    assert f"run --resume stopped --results {there}` runs the others" in kept
    assert last == "error: interrupted"
    resumed = client.types(client.hint(following.stderr, "as a job"))
    assert resumed.returncode == 0, resumed.stderr
    assert f"{finished} of 9 trials are finished already" in resumed.stdout
    assert head.ask("/api/jobs/harness-stopped-2")["status"] == "SUCCEEDED"
    assert len(Run("stopped", client.results).records) == 9
    assert client.same_as_on_the_head("stopped")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as a job", "here"])
def test_a_job_whose_driver_was_killed_is_resumed(client: Client, head: Head, kind: str) -> None:
    client.results = client.results.with_name("results of mine")
    run = f"killed-{len(kind)}"
    submitting = client.start("--wait", "--working-dir", ROOT, *SLOW, "--run-id", run)
    submitting.until("[1/2]")
    (driver,) = (
        process
        for process in psutil.process_iter()
        if process.name().startswith("python")
        and {"harness", run} <= {*process.cmdline()}
        and str(head.home / "harness-results") in process.cmdline()
    )
    driver.kill()
    assert submitting.end() == 137, submitting.stderr
    assert len(Run(run, client.results).records) == 1
    resumed = client.types(client.hint(submitting.stderr, kind))
    assert resumed.returncode == 0, resumed.stderr
    assert not Run(run, client.results).missing


@pytest.mark.slow
def test_a_job_that_cannot_start(client: Client, tmp_path: Path) -> None:
    environment = tmp_path / "environment.yaml"
    programs = {p.name: p for folder in ("/usr/bin", "/bin") for p in Path(folder).glob("[!p]*")}
    (tmp_path / "bin").mkdir()
    for name, program in programs.items():
        (tmp_path / "bin" / name).symlink_to(program)
    environment.write_text(f"env_vars: {{PATH: {tmp_path / 'bin'}}}\n")
    path = client("--wait", "--runtime-env", environment, *RUN, "--run-id", "no-python")
    assert path.returncode == 74
    assert "could not start" in path.stderr
    environment.write_text("py_modules: ['gcs://_ray_pkg_nothing.zip']\n")
    module = client("--wait", "--runtime-env", environment, *RUN, "--run-id", "no-module")
    assert module.returncode == 74
    assert "job `harness-no-module` could not start: " in module.stderr
    assert "Traceback" not in module.stderr
    refused = client("--wait", *RUN, "--threads", 99, "--wait-nodes", "1s", "--run-id", "refused")
    assert refused.returncode == 2
    assert "run `refused` left no results" in refused.stderr


@pytest.mark.slow
def test_ray_submits_the_same_command(head: Head, tmp_path: Path) -> None:
    environment = head.environment | {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": head.url}
    words = ["python", "-m", "harness", *RUN[1:], "--results", tmp_path, "--run-id", "plain"]
    done = subprocess.run(
        [
            *(f"{Path(sys.executable).parent}/ray", "job", "submit", "--submission-id", "plain"),
            *("--working-dir", str(ROOT), "--", *map(str, words)),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Run("plain", tmp_path).trials["status"].tolist() == ["ok"]
    attached = Client(head, tmp_path / "home")("--attach", "plain")
    assert attached.returncode == 0
    assert "was not submitted by the harness" in attached.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--address", "head:8265", *RUN], "`--address head:8265`: give the URL"),
        (["--address", "http://[", *RUN], "`--address http://[`: give the URL"),
        (["--address", "http://127.0.0.1:1"], "write `-- run` and its options"),
        (["--", "run", "--bakends", "x"], "--backends"),
        (["--", "run", "--backends", "torhc", "--set", "hiden=3"], "did you mean `torch`"),
        (["--", "run", "--backends", "torhc", "--set", "hiden=3"], "did you mean `hidden`"),
        (["--", "run", "--results", "here"], "an absolute path on the head"),
        (["--", "run", "--address", "other:1"], "joins the cluster that it is submitted to"),
        (["--", "run", "--config", "/etc/hostname"], "is not sent"),
        (["--", "run", "--run-id", "../up"], "run id `../up`"),
        (["--", "run", "--dispatch", "rya"], "did you mean `ray`"),
        (["--results", ROOT / "results", *RUN, "--run-id", "example"], "is in `"),
        (["--results", ROOT / "README.md", *RUN], "is no folder"),
        (["--attach", "x", *RUN], "nothing is submitted beside it"),
        (["--runtime-env", "/nowhere", *RUN], "cannot be read"),
        (["--working-dir", "/nowhere", *RUN], "does not exist"),
        (RUN, "no dashboard answers at http://127.0.0.1:1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    cli: Cli, words: list[object], sentence: str
) -> None:
    address = [] if "--address" in words[:1] else ["--address", "http://127.0.0.1:1"]
    done = cli("submit", *address, *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("env_var: {A: b}", "unknown field `env_var` (did you mean `env_vars`?)"),
        ("env_vars: {A: 1}", "`env_vars` A = 1: write a mapping"),
        ("env_vars: [A]", "write a mapping of names to texts"),
        ("working_dir: /", "`working_dir` cannot be set there"),
        ("!!python/object/apply:os.getcwd []", "cannot be read"),
        ("- pip", "expected a mapping"),
        ("{pip: [a], conda: {}}", "the runtime environment is refused"),
        ("image_uri: a/b", "the runtime environment is refused"),
    ],
)
def test_a_bad_runtime_environment(cli: Cli, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "env.yaml"
    path.write_text(text)
    done = cli("submit", "--address", "http://127.0.0.1:1", "--runtime-env", path, *RUN)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_server_that_is_no_dashboard(cli: Cli, tmp_path: Path) -> None:
    command_ = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command_, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout
        port = server.stdout.readline().split("port ")[1].split()[0]
        done = cli("submit", "--address", f"http://127.0.0.1:{port}", *RUN)
        server.kill()
    assert done.returncode == 2
    assert "is not the dashboard of a Ray cluster" in done.stderr
