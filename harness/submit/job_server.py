"""Submits runs to a cluster through Ray's job server, and follows them over a bad connection.

The client needs only HTTP to the dashboard on the head. Ray is imported when a `JobServer` is made.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.dispatch.token import ADVICE, show_token
from harness.errors import HarnessError, InvalidInput, Unavailable, UnknownName, brief
from harness.inputs.commands import FETCHED_TO
from harness.measure.clock import now
from harness.store.files import Notify
from harness.submit import pack_run

DEFAULT_RESULTS = "$HOME/harness-results"
"""Folder on the head for all jobs, so that a later one can resume a run. Its shell knows `HOME`."""

_OLDEST_RAY = (2, 49)
_STOP_S = "30"
_CONTACT_S, _TIMEOUT_S = 20.0, 60.0
"""Timeouts of the first request, and of all others."""
_POLL_S = 0.5
# The server sends the whole log each time: a long one is asked for less often.
_BYTES_PER_S = 100_000
_NOT_STARTED_S = 30.0
_PAUSE_S, _LONGEST_PAUSE_S, _GIVE_UP_S = 1.0, 30.0, 3600.0
_RUN, _RESULTS = "harness_run", "harness_results"
_FETCH = "-home-"
# Exit codes of the shell on the head for a command that cannot be run or does not exist.
_NO_PYTHON = {126, 127}

T = TypeVar("T")


class ServerSilent(HarnessError):
    """The server does not answer any more, or answers with an error of its own."""


@dataclass(frozen=True)
class JobRequest:
    """A run to be carried out on a cluster."""

    run: str
    words: Sequence[str]
    """The arguments of `python -m harness`, complete but for `--results`."""
    results: str | None = None
    """`--results` on the cluster: a URL or an absolute path; None: `DEFAULT_RESULTS`."""

    @property
    def entrypoint(self) -> str:
        """The command of the job, for the shell of the head."""
        words = shlex.join(["python", "-m", "harness", *self.words])
        return words if self.results else f'{words} --results "{DEFAULT_RESULTS}"'

    @property
    def is_fetched(self) -> bool:
        """Whether the results are fetched, and do not stay at a URL."""
        return "://" not in (self.results or "")

    @property
    def metadata(self) -> dict[str, str]:
        """What a client has to know that attaches to the job."""
        return {_RUN: self.run, _RESULTS: self.results or DEFAULT_RESULTS}


@dataclass(frozen=True)
class ClusterJob:
    """A job on a cluster, as its server described it."""

    name: str
    status: str
    exit_code: int | None
    message: str
    run: str | None
    """The run that it carries out; None if it was not submitted by `harness submit`."""
    results: str
    """Where the run is on the cluster."""

    @property
    def has_default_results(self) -> bool:
        """Whether they are where a job writes without `--results`."""
        return self.results == DEFAULT_RESULTS

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it."""
        return self.status == "STOPPED"

    @property
    def not_started(self) -> str:
        """Why its command could not start; an empty text if it did."""
        if self.exit_code in _NO_PYTHON:
            return "there is no `python` on the PATH of the head"
        failed = self.exit_code is None and self.status == "FAILED"
        return brief(self.message) or "no reason given" if failed else ""


def _stated(address: str) -> str:
    named = os.environ.get("RAY_API_SERVER_ADDRESS") == address
    return f"RAY_API_SERVER_ADDRESS={address}" if named else f"--address {address}"


def check_address(address: str) -> str:
    """Return the URL of a dashboard without its last slash. Raises `InvalidInput`."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        good = None
    if not good:
        raise InvalidInput(
            f"`{_stated(address)}`: give the URL of the cluster's dashboard, for example "
            "http://HEAD:8265."
        )
    return address.rstrip("/")


class JobServer:
    """The job server of a cluster. Raises `Unavailable` if it does not answer or refuses us.

    Later calls raise `ServerSilent` if it does not answer any more.
    """

    def __init__(self, address: str) -> None:
        self.address = check_address(address)
        show_token()
        import requests
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for module in ("job.sdk", "dashboard_sdk"):
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)

        timeout_s = _CONTACT_S

        class Client(JobSubmissionClient):
            """Ray's client, which has no timeout of its own."""

            def _do_request(self, *arguments: Any, **options: Any) -> Any:
                return super()._do_request(*arguments, timeout=timeout_s, **options)

        # A token with a line break in it cannot even be sent.
        self._refusals = (AuthenticationError, requests.exceptions.InvalidHeader)
        try:
            with self._asked(), _environment_ignored():
                self._client = Client(self.address)
                answer = self._client._do_request("GET", "/api/version").json()
            version = str(answer["ray_version"])
            timeout_s = _TIMEOUT_S
            too_old = tuple(map(int, version.split(".")[:2])) < _OLDEST_RAY
        except (ServerSilent, ValueError, KeyError, TypeError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, ConnectionError):
                raise Unavailable(
                    f"no dashboard answers at {self.address}: is the cluster up, is this the port "
                    "of its dashboard (8265), and can it be reached from here, if need be by a "
                    "tunnel?"
                ) from None
            if isinstance(cause, requests.exceptions.Timeout):
                raise Unavailable(
                    f"something listens at {self.address}, but has not answered for "
                    f"{_CONTACT_S:g} s: is the head of the cluster alive?"
                ) from None
            raise Unavailable(
                f"what answers at {self.address} is not the dashboard of a Ray cluster "
                f"({brief(cause)}): the address is that of port 8265 of the head."
            ) from None
        if too_old:
            raise Unavailable(
                f"the cluster at {self.address} runs Ray {version}; "
                f"{'.'.join(map(str, _OLDEST_RAY))} or newer is needed."
            )

    def free_name(self, run: str) -> str:
        """Return a name for a new job; a run that is resumed had a job before."""
        with self._asked():
            taken = {job.submission_id for job in self._client.list_jobs()}
        name = f"harness-{run}"
        numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        return next(free for free in (name, *numbered) if free not in taken)

    def submit(
        self, name: str, request: JobRequest, project: Path, environment: Mapping[str, Any]
    ) -> None:
        """Send a run and its project, a zip file, to the cluster.

        `environment` is that of `job_environment`. Raises `ServerSilent` if it is not known whether
        the job has arrived.
        """
        whole = {**environment, "working_dir": str(project)}
        self._submit(name, request.entrypoint, whole, request.metadata)

    def job(self, name: str) -> ClusterJob:
        """Return what is known of a job. Raises `UnknownName`, with the jobs that exist."""
        with self._asked():
            try:
                details = self._client.get_job_info(name)
            except RuntimeError as error:
                if "status code 404" not in str(error):
                    raise
                ids = [job.submission_id or "" for job in self._client.list_jobs()]
                known = [other for other in ids if other and _FETCH not in other]
                raise UnknownName("job", name, known, hint=f" at {self.address}") from None
        metadata = details.metadata or {}
        return ClusterJob(
            name=details.submission_id or name,
            status=str(details.status.value),
            exit_code=details.driver_exit_code,
            message=details.message or "",
            run=metadata.get(_RUN),
            results=metadata.get(_RESULTS, ""),
        )

    def follow(self, name: str, write: Callable[[str], None], notify: Notify) -> ClusterJob:
        """Pass the log of a job to `write` as it grows; return the job when it has ended.

        A lost connection is retried for an hour; no text is passed twice or left out. Raises
        `Unavailable` after that.
        """
        written, started, told = 0, now(), False
        while True:
            job = self._retried(lambda: self.job(name), notify)
            log = self._retried(lambda: self._client.get_job_logs(name), notify)
            if len(log) > written:
                write(log[written:])
                written = len(log)
            if job.ended:
                return job
            if not written and not told and now() - started > _NOT_STARTED_S:
                notify(f"job `{name}` has not started yet: it is {job.status.lower()}")
                told = True
            time.sleep(max(_POLL_S, len(log) / _BYTES_PER_S))

    def fetch(self, job: ClusterJob, notify: Notify) -> str:
        """Return the log of a second, tiny job that prints the run of the first."""
        source = Path(pack_run.__file__).read_text("utf-8")
        # `$HOME` is for the shell of the head; every other path is quoted.
        results = f'"{job.results}"' if job.results == DEFAULT_RESULTS else shlex.quote(job.results)
        command = f"python -c {shlex.quote(source)} {results} {shlex.quote(job.run or '')}"

        def send() -> str:  # Each time under another name: the one before may have arrived.
            return self._submit(f"{job.name}{_FETCH}{secrets.token_hex(3)}", command, {}, {})

        name = self._retried(send, notify)
        while not self._retried(lambda: self.job(name), notify).ended:
            time.sleep(_POLL_S)
        # It stays in the server's list: one deleted right after its end comes back as failed.
        return self._retried(lambda: self._client.get_job_logs(name), notify)

    def _retried(self, ask: Callable[[], T], notify: Notify) -> T:
        """Ask until there is an answer, with growing pauses. Raises `Unavailable` after an hour."""
        pause_s, since = _PAUSE_S, None
        while True:
            try:
                with self._asked():
                    answer = ask()
            except ServerSilent as error:
                if since is None:
                    notify(f"{error}; the job goes on, trying again")
                    since = now()
                elif now() - since > _GIVE_UP_S:
                    raise Unavailable(f"{error}.") from error
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if since is not None:
                    notify("connected again")
                return answer

    def _submit(
        self, name: str, entrypoint: str, environment: dict[str, Any], metadata: dict[str, str]
    ) -> str:
        with self._asked():
            try:
                return self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    runtime_env=environment,
                    metadata=metadata,
                )
            except (ValueError, TypeError) as error:
                raise InvalidInput(f"the runtime environment is refused: {brief(error)}.") from None

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn the errors of a request into `Unavailable` (refused) or `ServerSilent`."""
        try:
            yield
        except HarnessError:
            raise
        except self._refusals as error:
            raise Unavailable(_refused(self.address, str(error))) from None
        except (OSError, RuntimeError) as error:  # All errors of `requests` are an `OSError`.
            raise ServerSilent(f"{self.address} does not answer ({brief(error)})") from error


def job_environment(runtime_env: Mapping[str, Any], fetched_to: str = "") -> dict[str, Any]:
    """Return the runtime environment of a job: the given one, and what every job needs.

    `fetched_to`: the results folder here that its results will be written to. Raises `InvalidInput`
    if Ray would refuse it.
    """
    show_token()
    from ray.runtime_env import RuntimeEnv

    # A run that is stopped writes its tables first, and Ray would kill it after 3 s.
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_S}
    if fetched_to:  # The report is not fetched: it can be made from what is.
        variables |= {FETCHED_TO: fetched_to, "HARNESS_REPORT": "0"}
    environment = {**runtime_env, "env_vars": {**variables, **runtime_env.get("env_vars", {})}}
    try:
        RuntimeEnv(**environment, working_dir="gcs://project.zip")
    except Exception as error:  # Each of its plugins has exceptions of its own.
        raise InvalidInput(f"the runtime environment is refused: {brief(error)}.") from None
    return environment


def _refused(address: str, message: str) -> str:
    if "Authentication failed" in message or "Bearer" in message:
        return f"the cluster at {address} does not accept the token given: {ADVICE}."
    if "RAY_AUTH_TOKEN_PATH" in message.partition(". ")[0]:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
        return f"RAY_AUTH_TOKEN_PATH names `{path}`, which cannot be read or is empty: {ADVICE}."
    return f"the cluster at {address} wants a token, and there is none here: {ADVICE}."


@contextmanager
def _environment_ignored() -> Iterator[None]:
    """Keep Ray from using an address in the environment instead of the given one."""
    names = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & os.environ.keys()
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
