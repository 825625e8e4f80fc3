"""Options that several commands share, and the request that `run` and `parity` build from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.cli import completion
from harness.cli.usage import Choice, option
from harness.errors import InvalidInput, brief, build_all, did_you_mean
from harness.inputs.quantities import seconds

if TYPE_CHECKING:
    from harness.runs.request import RunRequest
    from harness.task.task import Task

F = TypeVar("F", bound=Callable[..., Any])


def options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Bundle options that always come together."""

    def decorate(function: F) -> F:
        for decorator in reversed(options):
            function = decorator(function)
        return function

    return decorate


def split(text: str) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def quantity(parse: Callable[[str], float], option: str) -> Callable[[str], float]:
    """Return the type of an option that takes a share or a duration.

    `parse` is a function of `harness.inputs.quantities`. The type raises `InvalidInput`.
    """

    def convert(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise InvalidInput(f"`{option} {text}`: {error}.") from None

    return convert


def site(dispatch: str = "ray") -> Callable[[F], F]:
    """Return the options on where work takes place, given the usual dispatch."""
    return options(
        option(
            "--dispatch",
            metavar="ray|inline",
            default=dispatch,
            shell_complete=completion.one_of("ray", "inline"),
            help="inline: on this machine, without Ray.",
        ),
        option(
            "--address",
            metavar="ADDRESS",
            help="Ray cluster to join; otherwise a local Ray is started.",
        ),
        option(
            "--runtime-env",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Handed to Ray as the job's runtime environment, from YAML or JSON.",
        ),
        option(
            "--wait-nodes",
            "wait_s",
            metavar="TIME",
            type=quantity(seconds, "--wait-nodes"),
            default="10m",
            help="How long to wait for a node of the cluster that can take the work.",
        ),
        option("--timeout", "timeout_s", metavar="TIME", help="Kill what takes longer: 90s, 10m."),
    )


RESULTS = option(
    "--results",
    metavar="PATH|URL",
    default="results",
    shell_complete=completion.folders,
    help="Folder of the runs: a path, or a URL (s3://bucket/prefix).",
)
TASK = options(
    option(
        "--preset",
        metavar="NAME",
        shell_complete=completion.presets,
        help="corrected (default), posted, posted-sign-mended, posted-gradient-mended, no-lag or "
        "strong-lag.",
    ),
    option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), help="Task fields from YAML."
    ),
    option(
        "--set",
        "changes",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=completion.setting,
        help="Change a task field; may be repeated. Fields: `harness list`.",
    ),
)
SWEEP = option(
    "--sweep",
    metavar="KEY=A,B,...",
    multiple=True,
    shell_complete=completion.swept,
    help="A task field and its values in turn; repeated, every combination.",
)
VECTORIZE = option(
    "--vectorize",
    is_flag=False,
    flag_value="all",
    metavar="[N]",
    help="Train all seeds of a backend at once, or N of them, if it can.",
)
BACKENDS = option(
    "--backends",
    metavar="A,B,...",
    type=split,
    default="torch,jax",
    shell_complete=completion.backends,
    help="Names (`harness list`), module:Class or process:COMMAND.",
)
DEVICES = option(
    "--devices",
    metavar="cpu,gpu",
    type=lambda text: text if text == "auto" else split(text),
    default="auto",
    shell_complete=completion.devices,
    help="auto: the CPU, and a GPU where there is one.",
)
SITE = site()
FORMAT = option(
    "--format",
    "kind",
    type=Choice(["table", "csv", "markdown", "json"]),
    default="table",
    help="How to print it.",
)


def build_task(preset: str | None, config: Path | None, changes: Iterable[str]) -> Task:
    """Build the task from `--preset`, then `--config`, then `--set`. Raises `InvalidInput`."""
    from harness.task.task import Task

    in_file, changed = build_all(
        lambda: {} if config is None else _read_mapping("--config", config),
        lambda: _assignments("--set", changes),
    )
    presets = {
        place: str(name)
        for place, name in (
            ("`--preset`", preset),
            (f"`--config {config}`", in_file.pop("preset", None)),
            ("`--set`", changed.pop("preset", None)),
        )
        if name is not None
    }
    if len({*presets.values()}) > 1:
        named = " and ".join(f"`{name}` by {place}" for place, name in presets.items())
        raise InvalidInput(f"the preset is named twice: {named}.")
    return Task.preset(*({*presets.values()} or {"corrected"}), **in_file | changed)


def build_sweep(sweep: Iterable[str], changes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each swept field, as text. Raises `InvalidInput`."""
    changed = {change.partition("=")[0].strip() for change in changes}
    swept = _assignments("--sweep", sweep)
    problems = [
        f"`--sweep {name}={values}`: `--set` gives `{name}` a value; give it one way."
        for name, values in swept.items()
        if name in changed
    ]
    if problems:
        raise InvalidInput(*problems)
    return {name: split(values) for name, values in swept.items()}


def _assignments(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Return the values by name; refuse two that differ for one name. Raises `InvalidInput`."""
    values: dict[str, str] = {}
    problems = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and (value or option == "--set")):
            form = "KEY=VALUE." if option == "--set" else "KEY=A,B,..."
            problems.append(f"`{option} {text}`: write {form}")
        elif values.setdefault(name, value) != value:
            problems.append(f"`{option} {text}`: `{option} {name}={values[name]}` is there, too.")
    if problems:
        raise InvalidInput(*problems)
    return values


def read_request(context: click.Context) -> RunRequest:
    """Return what the options of `run` or `parity` ask for.

    Only options that were given on the command line become settings: the defaults are the same.
    Raises `InvalidInput` with every problem.
    """
    from harness.runs.request import RunRequest
    from harness.runs.settings import Settings, Site

    source, default = context.get_parameter_source, click.core.ParameterSource.DEFAULT
    options = context.params
    given = {name: value for name, value in options.items() if source(name) is not default}
    if {"run_id", "resume"} <= given.keys():
        raise InvalidInput("`--run-id` names a new run, `--resume` an old one: give one of them.")
    task = [options[name] for name in ("preset", "config", "changes")]
    changes = options["changes"]

    def settings() -> Settings:
        fields = {name: given[name] for name in Settings.model_fields if name in given}
        if "sweep" in fields:
            fields["sweep"] = build_sweep(fields["sweep"], changes)
        return Settings(**fields)

    def site() -> Site:
        path = options["runtime_env"]
        return Site(
            dispatch=options["dispatch"],
            address=options["address"],
            results=options.get("results", "results"),
            runtime_env={} if path is None else read_runtime_env(path),
            wait_s=options["wait_s"],
        )

    def built_task() -> Task | None:
        return build_task(*task) if any(task) else None

    stated, how, where = build_all(built_task, settings, site)
    return RunRequest(stated, how, where, options.get("run_id") or "", options.get("resume"))


_RUNTIME_ENV = (
    *("config", "conda", "container", "env_vars", "excludes", "image_uri", "java_jars", "pip"),
    *("py_executable", "py_modules", "uv", "worker_process_setup_hook", "working_dir"),
)


def read_runtime_env(path: Path) -> dict[str, Any]:
    """Read the runtime environment of a Ray job. Raises `InvalidInput`.

    Ray checks the values itself, but only logs a warning about an unknown field.
    """
    fields = _read_mapping("--runtime-env", path)
    variables = fields.get("env_vars", {})
    if not isinstance(variables, dict):
        variables = {"": variables}
    problems = [
        f"unknown field `{name}`{did_you_mean(name, _RUNTIME_ENV)}; "
        f"known: {', '.join(_RUNTIME_ENV)}."
        for name in fields
        if name not in _RUNTIME_ENV
    ] + [
        f"`env_vars` {name} = {value!r}: write a mapping of names to texts, in quotes."
        for name, value in variables.items()
        if not isinstance(value, str)
    ]
    if problems:
        raise InvalidInput(*(f"`--runtime-env {path}`: {problem}" for problem in problems))
    return fields


def _read_mapping(option: str, path: Path) -> dict[str, Any]:
    from harness.inputs.yaml_file import read_mapping

    try:
        return read_mapping(path)
    except (OSError, ValueError) as error:
        reason = brief(error) if isinstance(error, OSError) else error
        raise InvalidInput(f"`{option} {path}` cannot be read: {reason}.") from error
