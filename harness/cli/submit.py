"""The command `submit`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import RESULTS, build_site, read_runtime_env, task_and_settings
from harness.cli.output import BAD_INPUT, FAILED, INTERRUPTED, errors
from harness.cli.run import expected_of, named, run
from harness.errors import HarnessError, InvalidInput, UnknownName, brief

if TYPE_CHECKING:
    from harness.submit.job_server import Job, JobServer, Order

# Of the shell on the head, for a command that cannot be run or is not there.
_NOT_STARTED = (126, 127)


@click.command()
@click.option(
    "--address",
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    help="Dashboard of the cluster, http://HEAD:8265; by default RAY_API_SERVER_ADDRESS.",
)
@click.option("--wait", is_flag=True, help="Follow the job and bring its results home.")
@click.option("--attach", metavar="JOB", help="Take up a job that was submitted before.")
@click.option(
    "--runtime-env",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Ray runtime environment, YAML or JSON: pip, env_vars, ...",
)
@click.option(
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

    What `.gitignore` leaves in travels; results come home if it is waited for. Its exit code is
    that of the run, 1 if the job could not start, 130 if it was stopped.

    \b
    Examples:
      python -m harness submit --address http://HEAD:8265 --wait -- run --backends torch,jax
      python -m harness submit --address http://HEAD:8265 --attach harness-mine
      python -m harness submit --address http://HEAD:8265 -- run --results s3://bucket/results
    """
    with errors():
        if address is None:
            raise InvalidInput("`--address` is missing: the dashboard, such as http://HEAD:8265.")
        if attach is not None:
            if words or runtime_env or working_dir:
                raise InvalidInput("`--attach` takes up a job: nothing is submitted beside it.")
            from harness.submit.job_server import JobServer

            server, name = JobServer(address), attach
            server.job(name)
        else:
            server, name = _send(address, words, runtime_env, working_dir, results)
            if not wait:
                click.echo(f"{name}\n{_how_to_attach(server, name, results)}")
                return
        sys.exit(_wait(server, name, results))


def _send(
    address: str,
    words: Sequence[str],
    runtime_env: Path | None,
    working_dir: Path | None,
    results: str,
) -> tuple[JobServer, str]:
    """Check all that can be checked here, then submit; return the server and the job's name."""
    from harness.submit import project_zip
    from harness.submit.job_server import JobServer, check_address, job_environment

    check_address(address)
    _check_home(results)
    folder = (working_dir or Path()).resolve()
    if working_dir is None:
        project_zip.check_project(folder)
    environment = {} if runtime_env is None else read_runtime_env(runtime_env)
    for field in ("working_dir", "excludes"):
        if field in environment:
            raise InvalidInput(
                f"`--runtime-env {runtime_env}`: `{field}` is not for it to say: `--working-dir` "
                "and `.gitignore` tell what travels."
            )
    files = project_zip.files(folder)
    order = _order(words, folder, results, files)
    environment = job_environment(environment)
    with tempfile.TemporaryDirectory(prefix="harness-submit-") as scratch:
        zipped = Path(scratch) / "project.zip"
        project_zip.pack(folder, files, zipped)
        server = JobServer(address)
        _note(f"sending {len(files)} files, {zipped.stat().st_size / 2**20:.1f} MiB")
        return server, server.submit(order, zipped, environment)


def _order(words: Sequence[str], folder: Path, results: str, files: Mapping[str, Path]) -> Order:
    """Read the command line of the run as the job will; raise `InvalidInput` if it would be."""
    from harness.runs.session import readable_id
    from harness.submit.job_server import Order

    if words[:1] != ("run",):
        got = f"`{words[0]}`" if words else "nothing"
        raise InvalidInput(f"write `-- run` and its options at the end; there is {got}.")
    with _inside(folder):
        inner = run.make_context("run", list(words[1:]))
        options, given = inner.params, named(inner)
        _check_place(options, files)
        build_site(options).check()
        if options["resume"] is not None:
            expected_of(options, given)
            return Order(options["resume"], words, _place(options, given))
        task, _ = task_and_settings(options)
    run_id = options["run_id"] or readable_id(task)
    if _exists(run_id, results):
        raise InvalidInput(
            f"run `{run_id}` is in `{results}` already: go on with it by `--resume {run_id}`, or "
            "choose another `--run-id`."
        )
    words = words if options["run_id"] else (*words, "--run-id", run_id)
    return Order(run_id, words, _place(options, given))


def _check_place(options: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Raise `InvalidInput` if the run needs what is not there where the job runs."""
    if options["address"] is not None:
        raise InvalidInput(
            f"`--address {options['address']}` after `--`: the run joins the cluster that it is "
            "submitted to."
        )
    for name in ("config", "runtime_env"):
        path = options[name]
        if path is not None and path.as_posix() not in files:
            raise InvalidInput(
                f"`--{name.replace('_', '-')} {path}` after `--` does not travel: it is not among "
                "the files of the project."
            )


def _check_home(results: str) -> None:
    """Raise `InvalidInput` if the results could not be written when they come."""
    if "://" in results:
        return
    folder = Path(results).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InvalidInput(f"`--results {results}`: `{there}` is no folder that can be written.")


def _exists(run_id: str, results: str) -> bool:
    from harness.store.results_folder import find_run

    try:
        find_run(results, run_id)
    except UnknownName:
        return False
    return True


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Look for files and backends where the job will."""
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _place(options: dict[str, Any], given: set[str]) -> str | None:
    """Return where the run shall write on the cluster, if that was said."""
    if "results" not in given:
        return None
    place = str(options["results"])
    if "://" not in place and not place.startswith("/"):
        raise InvalidInput(
            f"`--results {place}` after `--`: a job's folder goes away with it; give a URL, or an "
            "absolute path on the head, or nothing."
        )
    return place


def _wait(server: JobServer, name: str, results: str) -> int:
    """Print what the job prints, bring its results home, and return the exit code."""
    attach = _how_to_attach(server, name, results)
    try:
        job = _follow(server, name)
        said = _ending(job)
        if said:
            _note(f"error: {said}")
        home = _bring_home(server, job, results)
    except KeyboardInterrupt:
        _note(f"interrupted; job `{name}` is not affected.\n{attach}")
        return INTERRUPTED
    except HarnessError as error:
        _note(f"error: {error}\nThe job is not affected; its results are on the cluster.\n{attach}")
        return BAD_INPUT if isinstance(error, InvalidInput) else FAILED
    return exit_code(job) or (0 if home else FAILED)


def _follow(server: JobServer, name: str) -> Job:
    lines = server.follow(name, _note)
    while True:
        try:
            click.echo(next(lines), nl=False)
        except StopIteration as end:
            job: Job = end.value
            return job


def exit_code(job: Job) -> int:
    """Return that of the run; 1 if it never began, 130 if it was stopped."""
    if job.status == "STOPPED":
        return INTERRUPTED
    if job.exit_code is None:
        return 0 if job.status == "SUCCEEDED" else FAILED
    if job.exit_code in _NOT_STARTED:
        return FAILED
    # Killed by a signal: as a shell has it.
    return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code


def _ending(job: Job) -> str:
    """Say what became of a job that did not end by itself."""
    if job.status == "STOPPED":
        return f"job `{job.name}` was stopped."
    if job.exit_code in _NOT_STARTED:
        return f"job `{job.name}` could not start: there is no `python` on the PATH of the head."
    if job.exit_code is None and job.status == "FAILED":
        return f"job `{job.name}` could not start: {brief(job.message)}."
    return ""


def _bring_home(server: JobServer, job: Job, results: str) -> bool:
    """Write the run to the local results folder, as far as it got; say where it is."""
    from harness.submit import unpack_run

    if job.run is None:
        _note(
            f"job `{job.name}` was not submitted by the harness: its results are where it put them"
        )
        return True
    if "://" in job.results:
        _note(f"Results: {job.results.rstrip('/')}/{job.run}")
        return True
    if job.status == "FAILED" and job.exit_code in {None, *_NOT_STARTED}:
        return False
    arrival = unpack_run.read(server.fetch(job, _note), job.run)
    if arrival is None:
        _note(f"run `{job.run}` left no results")
        return False
    for problem in arrival.problems:
        _note(f"warning: {problem}")
    home = unpack_run.save(arrival, results)
    _note(f"Results: {home.location} (brought home, {len(home.records)} trials)")
    folder = "" if results == "results" else f" --results {results}"
    _note(f"Its report: python -m harness report {home.name}{folder}")
    return True


def _how_to_attach(server: JobServer, name: str, results: str) -> str:
    folder = "" if results == "results" else f" --results {results}"
    return (
        f"  follow: python -m harness submit --address {server.address} --attach {name}{folder}\n"
        f"  stop:   RAY_AUTH_MODE=token ray job stop --address {server.address} {name}"
    )


def _note(message: str) -> None:
    click.echo(message, err=True)
