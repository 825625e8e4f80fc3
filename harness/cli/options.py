"""Options that several commands share, and what is built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.cli import completion
from harness.errors import InvalidInput, did_you_mean
from harness.inputs.quantities import fraction, seconds

if TYPE_CHECKING:
    from harness.runs.session import Settings, Site
    from harness.task.task import Task

F = TypeVar("F", bound=Callable[..., Any])


def options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Bundle options that always come together."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


RESULTS = click.option(
    "--results",
    metavar="PATH|URL",
    default="results",
    show_default=True,
    shell_complete=completion.folders,
    help="Folder of the runs: a path, or a URL (s3://bucket/prefix).",
)
TASK = options(
    click.option(
        "--preset",
        metavar="NAME",
        shell_complete=completion.presets,
        help="corrected (default), posted, no-lag, strong-lag.",
    ),
    click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), help="Task fields from YAML."
    ),
    click.option(
        "--set",
        "changes",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=completion.setting,
        help="Change a task field; may be repeated. Fields: `harness list`.",
    ),
)
SWEEP = click.option(
    "--sweep",
    metavar="KEY=A,B,...",
    multiple=True,
    shell_complete=completion.swept,
    help="A task field and its values in turn; repeated, every combination.",
)
VECTORIZE = click.option(
    "--vectorize",
    is_flag=False,
    flag_value="all",
    metavar="[N]",
    help="Train all seeds of a backend at once, or N of them, if it can.",
)
BACKENDS = click.option(
    "--backends",
    metavar="A,B,...",
    default="torch,jax",
    show_default=True,
    shell_complete=completion.backends,
    help="Installed names (`harness list`) or module:Class.",
)
DEVICES = click.option(
    "--devices",
    metavar="cpu,gpu",
    default="auto",
    show_default=True,
    shell_complete=completion.devices,
    help="auto: the CPU, and a GPU where there is one.",
)
SITE = options(
    click.option(
        "--dispatch",
        metavar="ray|inline",
        default="ray",
        show_default=True,
        shell_complete=completion.one_of("ray", "inline"),
        help="inline: on this machine, without Ray.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to join; otherwise a local Ray is started.",
    ),
    click.option(
        "--runtime-env",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Handed to Ray as the job's runtime environment, from YAML or JSON.",
    ),
    click.option(
        "--wait-nodes",
        metavar="TIME",
        default="10m",
        show_default=True,
        help="How long to wait for a node of the cluster that can take the work.",
    ),
    click.option(
        "--timeout", "timeout_s", type=float, metavar="SECONDS", help="Kill what takes longer."
    ),
)
FORMAT = click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "markdown", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


def build_task(options: Mapping[str, Any]) -> Task:
    """Build the task from `--preset`, then `--config`, then `--set`."""
    from harness.task.task import Task

    fields: dict[str, Any] = {}
    if options["config"] is not None:
        fields |= _read_mapping("--config", options["config"], "task fields")
    for change in options["changes"]:
        name, equals, value = change.partition("=")
        if not equals:
            raise InvalidInput(f"`--set {change}`: write KEY=VALUE.")
        fields[name.strip()] = value.strip()
    preset = fields.pop("preset", None)
    return Task.preset(str(options["preset"] or preset or "corrected"), **fields)


_RUNTIME_ENV = (
    *("config", "conda", "container", "env_vars", "excludes", "image_uri", "java_jars", "pip"),
    *("py_executable", "py_modules", "uv", "worker_process_setup_hook", "working_dir"),
)


def read_runtime_env(path: Path) -> dict[str, Any]:
    """Read the runtime environment of a Ray job. Raises `InvalidInput`.

    What is in a field is Ray's to check; of an unknown one it only warns, in its logs.
    """
    fields = _read_mapping("--runtime-env", path, "fields of a runtime environment")
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


def _read_mapping(option: str, path: Path, what: str) -> dict[str, Any]:
    """Read a mapping from YAML, of which JSON is a part. Raises `InvalidInput`."""
    import yaml

    try:
        fields = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"`{option} {path}` cannot be read: {reason}.") from error
    if not isinstance(fields, dict):
        raise InvalidInput(f"`{option} {path}`: expected a mapping of {what} to values.")
    return {str(name): value for name, value in fields.items()}


def build_settings(options: Mapping[str, Any]) -> Settings:
    """Build how to measure from `--backends`, `--seeds` and the like."""
    from harness.runs.session import Settings

    names = ("seeds", "threads", "packed", "timeout_s", "retry_noisy", "isolation", "max_retries")
    devices = options["devices"]
    vectorize = options.get("vectorize")
    share, time = options.get("precision"), options.get("budget")
    return Settings(
        precision=None if share is None else quantity(fraction, "--precision", share),
        budget_s=None if time is None else quantity(seconds, "--budget", time),
        sweep=build_sweep(options),
        vectorize=vectorize if vectorize in {None, "all"} else _at_once(str(vectorize)),
        backends=split(options["backends"]),
        devices=devices if devices == "auto" else split(devices),
        **{name: options[name] for name in names if name in options},
    )


def build_sweep(options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Build the fields to be swept from `--sweep`, as text. Raises `InvalidInput`."""
    sweep: dict[str, tuple[str, ...]] = {}
    changed = {change.partition("=")[0].strip() for change in options["changes"]}
    problems = []
    for text in options.get("sweep", ()):
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not split(values):
            problems.append(f"`--sweep {text}`: write KEY=A,B,...")
        elif name in sweep:
            problems.append(f"`--sweep {text}`: `{name}` is swept already; name its values once.")
        elif name in changed:
            problems.append(f"`--sweep {text}`: `--set` gives `{name}` a value; give it one way.")
        else:
            sweep[name] = split(values)
    if problems:
        raise InvalidInput(*problems)
    return sweep


def _at_once(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise InvalidInput(
            f"`--vectorize {text}`: give a number of seeds, 2 or more, or nothing for all of them."
        )
    return int(text)


def quantity(parse: Callable[[str], float], option: str, text: str) -> float:
    """Return a share or a duration given to an option. Raises `InvalidInput`.

    `parse` is of `harness.inputs.quantities`.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidInput(f"`{option} {text}`: {error}.") from None


def split(text: str) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def task_and_settings(options: Mapping[str, Any]) -> tuple[Task, Settings]:
    """Build both, and refuse the problems of both at once."""
    problems: list[str] = []
    built: list[Any] = []
    for build in (build_task, build_settings):
        try:
            built.append(build(options))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(*problems)
    return built[0], built[1]


def build_site(options: Mapping[str, Any]) -> Site:
    """Build where to measure and where results go."""
    from harness.runs.session import Site

    path = options["runtime_env"]
    return Site(
        options["dispatch"],
        options["address"],
        options.get("results", "results"),
        {} if path is None else read_runtime_env(path),
        quantity(seconds, "--wait-nodes", options["wait_nodes"]),
    )
