"""The command `submit`."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import RESULTS, read_request, read_runtime_env
from harness.cli.output import BAD_INPUT, FAULT, INTERRUPTED, UNWRITTEN, warn
from harness.cli.run import run
from harness.cli.usage import in_words_of, option, subcommand
from harness.errors import HarnessError, InvalidInput, Unavailable, printable
from harness.inputs.commands import command, results_words

if TYPE_CHECKING:
    from harness.submit.job_server import ClusterJob, JobRequest, JobServer


@subcommand()
@option(
    "--address",
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    help="Dashboard of the cluster, http://HEAD:8265; by default RAY_API_SERVER_ADDRESS.",
)
@option("--wait", is_flag=True, help="Follow the job and fetch its results.")
@option("--attach", metavar="JOB", help="Follow a job that was submitted before.")
@option(
    "--runtime-env",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Ray runtime environment, YAML or JSON: pip, env_vars, ...",
)
@option(
    "--working-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Project to send; by default the current folder.",
)
@RESULTS
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- run [OPTIONS]")
def submit(
    address: str | None,
    wait: bool,
    attach: str | None,
    runtime_env: Path | None,
    working_dir: Path | None,
    results: str,
    words: tuple[str, ...],
) -> None:
    """Carry out a run as a job on a Ray cluster, over HTTP.

    Sends the project without the files that `.gitignore` names. With `--wait`, fetches the results
    and exits with the code of the run; 74 if the job could not start or its results could not be
    fetched, 130 if it was stopped.

    \b
    Examples:
      python -m harness submit --address http://HEAD:8265 --wait -- run --backends torch,jax
      python -m harness submit --address http://HEAD:8265 --attach harness-mine
      python -m harness submit --address http://HEAD:8265 -- run --results s3://bucket/results
    """
    if not (address or "").strip():
        other = os.environ.get("RAY_ADDRESS", "").strip()
        aside = f"; `RAY_ADDRESS={other}` is not used here" if other else ""
        raise InvalidInput(
            f"`--address` is missing: the dashboard, such as http://HEAD:8265{aside}."
        )
    assert address is not None
    if attach is not None:
        if words or runtime_env or working_dir:
            raise InvalidInput("`--attach` follows a job: nothing is submitted beside it.")
        from harness.submit.job_server import JobServer

        server, name = JobServer(address), attach
        server.job(name)
    else:
        server, name = _send(address, words, runtime_env, working_dir, results)
        if not wait:
            click.echo(f"{name}\n{_how_to_attach(server, name, results)}")
            return
    given = {"--runtime-env": runtime_env, "--working-dir": working_dir}
    options = [str(word) for pair in given.items() if pair[1] for word in pair]
    sys.exit(_wait(server, name, results, options))


def _send(
    address: str,
    words: Sequence[str],
    runtime_env: Path | None,
    working_dir: Path | None,
    results: str,
) -> tuple[JobServer, str]:
    """Check all that can be checked here, then submit; return the server and the job's name."""
    from harness.submit import project_zip
    from harness.submit.job_server import JobServer, ServerSilent, check_address, job_environment
    from harness.submit.unpack_run import check_results

    check_address(address)
    check_results(results)
    folder = (working_dir or Path()).resolve()
    if working_dir is None:
        project_zip.check_project(folder)
    environment = {} if runtime_env is None else read_runtime_env(runtime_env)
    for field in ("working_dir", "excludes"):
        if field in environment:
            raise InvalidInput(
                f"`--runtime-env {runtime_env}`: `{field}` cannot be set there: `--working-dir` "
                "and `.gitignore` choose the files to send."
            )
    files = project_zip.files(folder)
    request = _request(words, folder, results, files)
    environment = job_environment(environment, results if request.is_fetched else "")
    with tempfile.TemporaryDirectory(prefix="harness-submit-") as scratch:
        zipped = Path(scratch) / "project.zip"
        project_zip.pack(folder, files, zipped)
        server = JobServer(address)
        _notify(f"sending {len(files)} files, {zipped.stat().st_size / 2**20:.1f} MiB")
        name = server.free_name(request.run)
        try:
            server.submit(name, request, zipped, environment)
        except ServerSilent as error:
            attach = _how_to_attach(server, name, results)
            raise Unavailable(f"{error}. The job may have arrived:\n{attach}") from error
    return server, name


def _request(
    words: Sequence[str], folder: Path, results: str, files: Mapping[str, Path]
) -> JobRequest:
    """Read the command line of the run as the job will. Raises `InvalidInput` as that would."""
    from harness.submit.job_server import JobRequest
    from harness.submit.unpack_run import check_results

    if words[:1] != ("run",):
        got = f"`{words[0]}`" if words else "nothing"
        raise InvalidInput(f"write `-- run` and its options at the end; got {got}.")
    with _inside(folder):
        inner = run.make_context("run", list(words[1:]))
        place = _results_there(inner, files)
        with in_words_of(run):
            request = read_request(inner)
            request.site.check()
    name = request.name
    if request.resume is None:
        check_results(results, name)
        words = words if request.run_id else (*words, "--run-id", name)
    return JobRequest(name, words, place)


def _results_there(inner: click.Context, files: Mapping[str, Path]) -> str | None:
    """Return where the run writes on the cluster; None if the command line does not say.

    Raises `InvalidInput` if it cannot write there, or needs a file that is not sent.
    """
    options = inner.params
    if options["address"] is not None:
        raise InvalidInput(
            f"`--address {options['address']}` after `--`: the run joins the cluster that it is "
            "submitted to."
        )
    for name in ("config", "runtime_env"):
        path = options[name]
        if path is not None and path.as_posix() not in files:
            raise InvalidInput(
                f"`--{name.replace('_', '-')} {path}` after `--` is not sent: it is not among "
                "the files of the project."
            )
    place = str(options["results"])
    if inner.get_parameter_source("results") is click.core.ParameterSource.DEFAULT:
        return None
    if "://" not in place and not place.startswith("/"):
        raise InvalidInput(
            f"`--results {place}` after `--`: a job's folder goes away with it; give a URL, or an "
            "absolute path on the head, or nothing."
        )
    return place


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Find files and backends as the job will: its `python -m` runs in the project's folder.

    Backends are looked up deep inside the validation of the settings, by the import path alone.
    """
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _wait(server: JobServer, name: str, results: str, options: Sequence[str]) -> int:
    """Print the log of the job, fetch its results, and return the exit code.

    `options` are those for another job with the same project.
    """
    attach = _how_to_attach(server, name, results)
    try:
        job = server.follow(name, show_log, _notify)
        if job.stopped:
            _notify(f"error: job `{name}` was stopped.")
        elif job.not_started:
            _notify(f"error: job `{name}` could not start: {job.not_started}.")
        fetched = _fetch(server, job, results, options)
    except KeyboardInterrupt:
        _notify(f"interrupted; job `{name}` is not affected.\n{attach}")
        return INTERRUPTED
    except HarnessError as error:
        _notify(
            f"error: {error}\nThe job is not affected; its results are on the cluster.\n{attach}"
        )
        return BAD_INPUT if isinstance(error, InvalidInput) else UNWRITTEN
    return exit_code(job) or (0 if fetched else UNWRITTEN)


def exit_code(job: ClusterJob) -> int:
    """Return that of the run; 74 if it never began, 130 if it was stopped."""
    if job.stopped:
        return INTERRUPTED
    if job.not_started:
        return UNWRITTEN
    code = job.exit_code or 0
    return code if code >= 0 else 128 - code  # The second is a shell's code for a signal.


def _fetch(server: JobServer, job: ClusterJob, results: str, options: Sequence[str]) -> bool:
    """Write the run to the local results folder, as far as it got; say where it is."""
    from harness.submit.unpack_run import save, unpack

    if job.run is None:
        _notify(
            f"job `{job.name}` was not submitted by the harness: its results are where it put them"
        )
        return True
    if "://" in job.results:
        _notify(f"Results: {job.results.rstrip('/')}/{job.run}")
        if exit_code(job) >= FAULT:
            _notify(_how_to_go_on(server, job, "", options))
        return True
    if job.not_started:
        return False
    fetched = unpack(server.fetch(job, _notify), job.run)
    if fetched is None:
        _notify(f"run `{job.run}` left no results")
        return False
    warn(list(fetched.problems.values()))
    saved = save(fetched, results)
    _notify(f"Results: {saved.location} (fetched, {len(saved.records)} trials)")
    _notify(f"Its report: {command('report', *saved.words)}")
    if saved.missing or not saved.manifest.plan.settled:
        _notify(_how_to_go_on(server, job, results, options))
    for sentence in saved.unwritten:
        _notify(f"error: {sentence}")
    return not saved.unwritten


def _how_to_go_on(server: JobServer, job: ClusterJob, results: str, options: Sequence[str]) -> str:
    """Return what runs the missing trials: as a job, or here. `results`: "" if not fetched."""
    resume = ("run", "--resume", job.run)
    there = [] if job.has_default_results else ["--results", job.results]
    here = results_words(results) if results else there
    given = ["--address", server.address, "--wait", *options, *(here if results else [])]
    return (
        f"This runs what is missing:\n"
        f"  as a job: {command('submit', *given, '--', *resume, *there)}\n"
        f"  here:     {command(*resume, *here)}"
    )


def _how_to_attach(server: JobServer, name: str, results: str) -> str:
    at = ("--address", server.address)
    follow = command("submit", *at, "--attach", name, *results_words(results))
    stop = shlex.join(["ray", "job", "stop", *at, name])
    return f"  follow: {follow}\n  stop:   RAY_AUTH_MODE=token {stop}"


def show_log(text: str) -> None:
    """Print a part of the log of a job, without colours and what else would control a terminal."""
    click.echo(printable(click.unstyle(text)), nl=False)


def _notify(message: str) -> None:
    click.echo(printable(message), err=True)
