"""Options that several commands share, and what is built from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.errors import InvalidInput

if TYPE_CHECKING:
    from harness.experiment import Settings, Site
    from harness.task import Task

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
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the runs.",
)
TASK = options(
    click.option(
        "--preset", metavar="NAME", help="corrected (default), posted, no-lag, strong-lag."
    ),
    click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), help="Task fields from YAML."
    ),
    click.option(
        "--set",
        "changes",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change a task field; may be repeated. Fields: `harness list`.",
    ),
)
BACKENDS = click.option(
    "--backends",
    metavar="A,B,...",
    default="torch,jax",
    show_default=True,
    help="Installed names (`harness list`) or module:Class.",
)
DEVICES = click.option(
    "--devices",
    metavar="cpu,gpu",
    default="auto",
    show_default=True,
    help="auto: the CPU, and a GPU where there is one.",
)
SITE = options(
    click.option(
        "--dispatch",
        metavar="ray|inline",
        default="ray",
        show_default=True,
        help="inline: on this machine, without Ray.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to join; otherwise a local Ray is started.",
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
)


def build_task(options: Mapping[str, Any]) -> Task:
    """Build the task from `--preset`, then `--config`, then `--set`."""
    from harness.task import Task

    fields: dict[str, Any] = {}
    if options["config"] is not None:
        fields |= _read_config(options["config"])
    for change in options["changes"]:
        name, equals, value = change.partition("=")
        if not equals:
            raise InvalidInput(f"`--set {change}`: write KEY=VALUE.")
        fields[name.strip()] = value.strip()
    preset = fields.pop("preset", None)
    return Task.preset(str(options["preset"] or preset or "corrected"), **fields)


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        fields = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"`--config {path}` cannot be read: {reason}.") from error
    if not isinstance(fields, dict):
        raise InvalidInput(f"`--config {path}`: expected a mapping of task fields to values.")
    return {str(name): value for name, value in fields.items()}


def build_settings(options: Mapping[str, Any]) -> Settings:
    """Build how to measure from `--backends`, `--seeds` and the like."""
    from harness.experiment import Settings

    names = ("seeds", "threads", "packed", "timeout_s", "retry_noisy")
    devices = options["devices"]
    share, time = options.get("precision"), options.get("budget")
    return Settings(
        precision=None if share is None else parse_share("--precision", share),
        budget_s=None if time is None else parse_duration("--budget", time),
        backends=split(options["backends"]),
        devices=devices if devices == "auto" else split(devices),
        **{name: options[name] for name in names if name in options},
    )


def parse_share(option: str, text: str) -> float:
    """Return a share given as `2%` or `0.02`. Raises `InvalidInput`."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if rest or not math.isfinite(value):
        raise InvalidInput(f"`{option} {text}`: write a share, such as 2% or 0.02.")
    return value / 100 if percent else value


def parse_margin(option: str, text: str) -> float:
    """Return a share above 0, at most 1. Raises `InvalidInput`."""
    share = parse_share(option, text)
    if not 0 < share <= 1:
        raise InvalidInput(f"`{option} {text}`: a margin is above 0 and at most 100%.")
    return share


def parse_duration(option: str, text: str) -> float:
    """Return a duration given as `90s`, `10m` or `1h`, in seconds. Raises `InvalidInput`."""
    seconds = {"s": 1, "m": 60, "h": 3600}
    text = text.strip()
    try:
        value = float(text[:-1]) * seconds[text[-1:]]
    except (ValueError, KeyError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"`{option} {text}`: write a time with its unit, such as 90s, 10m, 1h.")
    return value


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
    from harness.experiment import Site

    return Site(options["dispatch"], options["address"], options.get("results", Path("results")))
