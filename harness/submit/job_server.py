"""Submits runs to a cluster through Ray's job server, and follows them over a bad connection.

All that is assumed is HTTP to the dashboard on the head. Ray is imported when a `JobServer` is
made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.dispatch.token import ADVICE, show_token
from harness.errors import HarnessError, InvalidInput, Unavailable, UnknownName, brief
from harness.measure.clock import now
from harness.submit import pack_run

DEFAULT_RESULTS = "$HOME/harness-results"
"""On the head, for all jobs, so that a later one can resume a run; its shell knows its home."""

_OLDEST_RAY = (2, 49)
_STOP_S = "30"
_ANSWER_S = 60.0
_QUIET_S, _MOST_QUIET_S = 30.0, 300.0
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_POLL_S = 0.5
_GIVE_UP_S = 3600.0
_RUN, _RESULTS = "harness_run", "harness_results"
_HOME = "-home-"

Note = Callable[[str], None]
T = TypeVar("T")


class Lost(HarnessError):
    """The server does not answer any more, or with an error of its own."""


@dataclass(frozen=True)
class Order:
    """A run to be carried out on a cluster."""

    run: str
    words: Sequence[str]
    """The arguments of `python -m harness`, complete but for `--results`."""
    results: str | None = None
    """The URL or absolute path that `--results` names there; None: `DEFAULT_RESULTS`."""

    @property
    def entrypoint(self) -> str:
        """The command of the job, for the shell of the head."""
        words = shlex.join(["python", "-m", "harness", *self.words])
        return words if self.results else f'{words} --results "{DEFAULT_RESULTS}"'

    @property
    def metadata(self) -> dict[str, str]:
        """What whoever attaches to the job has to know."""
        return {_RUN: self.run, _RESULTS: self.results or DEFAULT_RESULTS}


@dataclass(frozen=True)
class Job:
    """What the server knows of a job."""

    name: str
    status: str
    exit_code: int | None
    message: str
    run: str | None
    """The run that it carries out; None if it was not submitted by `harness submit`."""
    results: str

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}


def check_address(address: str) -> str:
    """Return the URL of a dashboard without its last slash. Raises `InvalidInput`."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        good = None
    if not good:
        raise InvalidInput(
            f"`--address {address}`: give the URL of the cluster's dashboard, for example "
            "http://HEAD:8265."
        )
    return address.rstrip("/")


class _Patience:
    """Waits for a server that does not answer, longer each time, and says so once."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._pause_s = _PAUSE_S
        self._since: float | None = None

    def found(self) -> None:
        """Note that it answers."""
        if self._since is not None:
            self._note("connected again")
        self._pause_s, self._since = _PAUSE_S, None

    def lost(self, error: Lost) -> None:
        """Wait a while. Raises `Unavailable` when it has been too long."""
        if self._since is None:
            self._note(f"{error}; the job goes on, trying again")
            self._since = now()
        elif now() - self._since > _GIVE_UP_S:
            raise Unavailable(f"{error}.") from error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


class JobServer:
    """The job server of a cluster. Raises `Unavailable` if it is not there or does not let us in.

    Later calls raise `Lost` if it has gone since.
    """

    def __init__(self, address: str) -> None:
        self.address = check_address(address)
        show_token()
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for module in ("job.sdk", "dashboard_sdk"):
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)

        class Client(JobSubmissionClient):
            """Ray's client, which would wait for ever for a server that fell silent."""

            def _do_request(self, *arguments: Any, **options: Any) -> Any:
                return super()._do_request(*arguments, timeout=_ANSWER_S, **options)

        # A token with a line break in it cannot even be sent.
        self._refusals = (AuthenticationError, requests.exceptions.InvalidHeader)
        self._failures = (requests.RequestException, aiohttp.ClientError, OSError, RuntimeError)
        with self._explained(), _environment_ignored():
            self._client = Client(self.address)
            answer = self._client._do_request("GET", "/api/version").json()
        version = str(answer["ray_version"])
        if tuple(map(int, version.split(".")[:2])) < _OLDEST_RAY:
            raise Unavailable(
                f"the cluster at {self.address} runs Ray {version}; "
                f"{'.'.join(map(str, _OLDEST_RAY))} or newer is needed."
            )

    def submit(self, order: Order, package: Path, environment: Mapping[str, Any]) -> str:
        """Send a run and its project, a zip file, to the cluster; return the name of the job.

        `environment` is that of `job_environment`.
        """
        name = self._free_name(f"harness-{order.run}")
        whole = {**environment, "working_dir": str(package)}
        try:
            return self._submit(name, order.entrypoint, whole, order.metadata)
        except Lost as error:
            raise Unavailable(
                f"{error}; whether the job has arrived, `--attach {name}` tells."
            ) from error

    def job(self, name: str) -> Job:
        """Return what is known of a job. Raises `UnknownName`, with those that there are."""
        with self._asked():
            try:
                details = self._client.get_job_info(name)
            except RuntimeError as error:
                if "status code 404" not in str(error):
                    raise
                ids = [job.submission_id or "" for job in self._client.list_jobs()]
                known = [other for other in ids if other and _HOME not in other]
                raise UnknownName("job", name, known, hint=f" at {self.address}") from None
        metadata = details.metadata or {}
        return Job(
            name=details.submission_id or name,
            status=str(details.status.value),
            exit_code=details.driver_exit_code,
            message=details.message or "",
            run=metadata.get(_RUN),
            results=metadata.get(_RESULTS, ""),
        )

    def follow(self, name: str, note: Note) -> Generator[str, None, Job]:
        """Yield the log of a job from its beginning, and return the job when it has ended.

        A connection that is lost is taken up again, for an hour: nothing is yielded twice, and
        nothing is left out. Raises `Unavailable` after that.
        """
        seen, quiet_s, patience = 0, _QUIET_S, _Patience(note)
        while True:
            position = 0
            try:
                job = self.job(name)
                patience.found()
                if job.ended:
                    with self._asked():
                        rest = self._client.get_job_logs(name)[seen:]
                    if rest:
                        yield rest
                    return job
                for text in self._pieces(name, quiet_s):
                    new = text[max(0, seen - position) :]
                    position += len(text)
                    if new:
                        seen, quiet_s = position, _QUIET_S
                        yield new
                if not self.job(name).ended:
                    raise Lost("the log broke off")
            except TimeoutError:
                # Silence may be that of a connection that is dead at the other end only.
                quiet_s = min(2 * quiet_s, _MOST_QUIET_S)
                if not seen:
                    note(f"job `{name}` has not started yet: it is {job.status.lower()}")
            except Lost as error:
                patience.lost(error)

    def fetch(self, job: Job, note: Note) -> str:
        """Return the log of a second, tiny job that prints the run of the first."""
        source = Path(pack_run.__file__).read_text()
        # `$HOME` is for the shell of the head; all else is taken as it stands.
        results = f'"{job.results}"' if job.results == DEFAULT_RESULTS else shlex.quote(job.results)
        command = f"python -c {shlex.quote(source)} {results} {shlex.quote(job.run or '')}"
        name = self._submit(f"{job.name}{_HOME}{secrets.token_hex(3)}", command, {}, {})
        while not self._patiently(lambda: self.job(name), note).ended:
            time.sleep(_POLL_S)
        # It stays in the server's list: one deleted right after its end comes back as failed.
        return self._patiently(lambda: self._client.get_job_logs(name), note)

    def _patiently(self, ask: Callable[[], T], note: Note) -> T:
        """Ask until there is an answer."""
        patience = _Patience(note)
        while True:
            try:
                with self._asked():
                    answer = ask()
                patience.found()
                return answer
            except Lost as error:
                patience.lost(error)

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

    def _free_name(self, name: str) -> str:
        """Return a name that no job has: that of a run resumed is taken."""
        with self._asked():
            taken = {job.submission_id for job in self._client.list_jobs()}
        numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        return next(free for free in (name, *numbered) if free not in taken)

    def _pieces(self, name: str, quiet_s: float) -> Iterator[str]:
        """Yield the log as it comes. Raises `TimeoutError` after a silence, and `Lost`."""
        with asyncio.Runner() as runner:
            stream = self._client.tail_job_logs(name)

            async def piece() -> str | None:
                return await asyncio.wait_for(anext(stream, None), quiet_s)

            while True:
                with self._asked():
                    text = runner.run(piece())
                if text is None:
                    return
                yield text

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what goes wrong on the way into `Lost`."""
        try:
            yield
        except (HarnessError, TimeoutError):
            raise
        except self._refusals as error:
            raise Unavailable(_refused(self.address, str(error))) from None
        except self._failures as error:
            raise Lost(f"{self.address} does not answer ({brief(error)})") from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what goes wrong at the first contact into a sentence."""
        try:
            yield
        except self._refusals as error:
            raise Unavailable(_refused(self.address, str(error))) from None
        except ConnectionError:
            raise Unavailable(
                f"no dashboard answers at {self.address}: is the cluster up, is this the port of "
                "its dashboard (8265), and can it be reached from here, if need be by a tunnel?"
            ) from None
        except (*self._failures, ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                f"what answers at {self.address} is not the dashboard of a Ray cluster "
                f"({brief(error)}): the address is that of port 8265 of the head."
            ) from None


def job_environment(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runtime environment of a job: what was given, and what every job needs.

    Raises `InvalidInput` if Ray would refuse it.
    """
    show_token()
    from ray.runtime_env import RuntimeEnv

    # A run that is told to stop writes its tables first; Ray's own patience is 3 s.
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_S, **runtime_env.get("env_vars", {})}
    environment = {**runtime_env, "env_vars": variables}
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
    """Keep Ray from preferring an address in the environment to the one it is given."""
    names = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & os.environ.keys()
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
