"""The command line. Every command imports what it needs when it runs, so that help is instant.

Exit codes: 0 fine; 1 a trial or a parity check failed, or results could not be written; 2 bad
usage or input; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from harness.errors import HarnessError, InvalidInput, StoreError

if TYPE_CHECKING:
    from harness.experiment import Settings, Site
    from harness.results import Run
    from harness.store import RunFolder
    from harness.task import Task

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

_F = TypeVar("_F", bound=Callable[..., Any])


def _options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the runs.",
)
_TASK = _options(
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
_BACKENDS = click.option(
    "--backends",
    metavar="A,B,...",
    default="torch,jax",
    show_default=True,
    help="Installed names (`harness list`) or module:Class.",
)
_DEVICES = click.option(
    "--devices",
    metavar="cpu,gpu",
    default="auto",
    show_default=True,
    help="auto: the CPU, and a GPU where there is one.",
)
_SITE = _options(
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
_FORMAT = click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "markdown", "json"]),
    default="table",
    show_default=True,
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes: 0 fine, 1 a trial or a parity check failed, 2 bad usage or input,\n"
    "130 interrupted (finished trials are kept).",
)
@click.version_option(package_name="harness", message="%(version)s")
def cli() -> None:
    r"""Compare deep-learning frameworks on one recurrent-network task.

    Teach a small RNN `x_t^2 + w*x_{t-1}^2` on AR(1) paths, with the same data and the same initial
    parameters in every framework, and compare accuracy and time.

    \b
    Examples:
      python -m harness run --backends torch,jax
      python -m harness run --preset posted --set epochs=10000 --backends jax
      python -m harness show RUN --table steps
      python -m harness list
    """


@cli.command()
@_TASK
@_BACKENDS
@click.option("--seeds", type=int, default=3, show_default=True, help="How many seeds: 0, 1, ...")
@_DEVICES
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of each trial.")
@click.option("--packed", is_flag=True, help="Fill the machine with trials; times are contended.")
@_SITE
@_RESULTS
@click.option("--run-id", metavar="ID", default="", help="Name of the new run.")
@click.option("--resume", metavar="RUN", help="Run only the trials that RUN still lacks.")
@click.pass_context
def run(ctx: click.Context, /, resume: str | None, **options: Any) -> None:
    r"""Measure backends on a task: parity first, then every trial on the clock.

    \b
    Examples:
      python -m harness run --backends torch,jax
      python -m harness run --preset posted --set epochs=10000 --seeds 1
      python -m harness run --config task.yaml --dispatch inline --run-id mine
      python -m harness run --backends torch,mypackage.mymodule:MyBackend
      python -m harness run --resume mine
    """
    from rich.console import Console

    from harness import experiment
    from harness.progress import reporter

    given = {
        name
        for name in options
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    with _errors(), reporter(Console(stderr=True)) as report:
        site = _site(options)
        if resume is None:
            task, settings = _task_and_settings(options)
            outcome = experiment.run(task, settings, site, options["run_id"], report)
        else:
            expected = _expected(options, given)
            outcome = experiment.resume(resume, site, expected, options["timeout_s"], report)
    _print_run(outcome)
    if outcome.failures:
        for failure in outcome.failures:
            click.echo(f"failed: {failure}", err=True)
        sys.exit(FAILED)


@cli.command()
@_TASK
@_BACKENDS
@_DEVICES
@_SITE
@_FORMAT
def parity(kind: str, **options: Any) -> None:
    r"""Hold backends against the float64 reference: outputs, gradients, 20 Adam steps.

    \b
    Examples:
      python -m harness parity --backends torch,jax
      python -m harness parity --backends mypackage.mymodule:MyBackend --set hidden=64
    """
    import pandas as pd

    from harness import experiment
    from harness.render import render

    with _errors():
        task, settings = _task_and_settings(options)
        certificates = experiment.certify(task, settings, _site(options))
    rows = [
        {"backend": c.backend, "device": c.device, **check.model_dump(), "passed": check.passed}
        for c in certificates
        for check in c.checks
    ]
    columns = ["backend", "device", "quantity", "dtype", "element", "error", "tolerance", "passed"]
    click.echo(render(pd.DataFrame(rows, columns=columns), kind, _width()), nl=False)
    for certificate in certificates:
        if not certificate.passed:
            click.echo(
                f"{certificate.backend} on {certificate.device}: {certificate.reason}", err=True
            )
    sys.exit(0 if all(c.passed for c in certificates) else FAILED)


@cli.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--table",
    "name",
    type=click.Choice(["summary", "steps", "curves", "trials"]),
    default="summary",
    show_default=True,
)
@_FORMAT
@_RESULTS
def show(run_id: str, name: str, kind: str, results: Path) -> None:
    r"""Print the tables of a run.

    \b
    Examples:
      python -m harness show demo
      python -m harness show demo --table steps
      python -m harness show demo --table curves --format csv > curves.csv
    """
    from harness.results import Run

    with _errors():
        shown = Run(run_id, results)
    for problem in shown.problems:
        click.echo(f"warning: {problem}", err=True)
    click.echo(_table(shown, name, kind), nl=False)


@cli.command("list")
@_RESULTS
def list_(results: Path) -> None:
    """List backends, presets, task fields and runs."""
    from harness import registry
    from harness.store import run_folders
    from harness.task import PRESETS, Task

    click.echo("Backends")
    for name, point in registry.installed().items():
        origin = f" ({point.dist.name} {point.dist.version})" if point.dist else ""
        click.echo(f"  {name:<12} {point.value}{origin}")
    click.echo("\nPresets")
    for name, fields in PRESETS.items():
        changed = ", ".join(f"{k}={v}" for k, v in fields.items()) or "the defaults below"
        click.echo(f"  {name:<12} {changed}")
    click.echo("\nTask fields (--set)")
    for name, field in Task.model_fields.items():
        click.echo(f"  {name:<14} {field.default!s:<8} {field.description}")
    click.echo(f"\nRuns in {results}")
    for folder in run_folders(results):
        click.echo(f"  {_describe_run(folder)}")


def main() -> None:
    """Run the command line."""
    # An orderly end, as after Ctrl-C, when a CI system or a cluster sends SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli(prog_name="python -m harness")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn the harness's errors into a sentence each and the right exit code."""
    try:
        yield
    except InvalidInput as error:
        _stop(BAD_INPUT, *error.problems)
    except StoreError as error:
        _stop(FAILED, str(error))
    except HarnessError as error:
        _stop(BAD_INPUT, *str(error).splitlines())
    except KeyboardInterrupt:
        _stop(INTERRUPTED, "interrupted")


def _stop(code: int, *sentences: str) -> NoReturn:
    for sentence in sentences:
        click.echo(f"error: {sentence}", err=True)
    sys.exit(code)


def _task(options: Mapping[str, Any]) -> Task:
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


def _settings(options: Mapping[str, Any]) -> Settings:
    from harness.experiment import Settings

    names = ("seeds", "threads", "packed", "timeout_s")
    devices = options["devices"]
    return Settings(
        backends=_split(options["backends"]),
        devices=devices if devices == "auto" else _split(devices),
        **{name: options[name] for name in names if name in options},
    )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _task_and_settings(options: Mapping[str, Any]) -> tuple[Task, Settings]:
    """Build both, and refuse the problems of both at once."""
    problems: list[str] = []
    built: list[Any] = []
    for build in (_task, _settings):
        try:
            built.append(build(options))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(*problems)
    return built[0], built[1]


def _site(options: Mapping[str, Any]) -> Site:
    from harness.experiment import Site

    return Site(options["dispatch"], options["address"], options.get("results", Path("results")))


def _expected(options: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Return what was said of the plan beside `--resume`, to be held against the run's own."""
    if "run_id" in given:
        raise InvalidInput("`--run-id` names a new run, `--resume` an old one: give one of them.")
    expected: dict[str, Any] = {}
    if given & {"preset", "config", "changes"}:
        expected["task"] = _task(options)
    settings = _settings(options)
    for name in given & {"backends", "devices", "seeds", "threads", "packed"}:
        if getattr(settings, name) != "auto":
            expected[name] = getattr(settings, name)
    return expected


def _print_run(run: Run) -> None:
    """Print all tables of a run, of the time steps only some."""
    for name in ("summary", "curves", "steps"):
        click.echo(_table(run, name, "table", some=True), nl=False)
    name = run.path.name
    click.echo(f"Results: {run.path}. All steps: python -m harness show {name} --table steps")


def _table(run: Run, name: str, kind: str, some: bool = False) -> str:
    """Return a table of a run as text; `some`: only a choice of the time steps."""
    from harness.render import render, render_summary
    from harness.summary import curves_by_arm, spread_out, steps_by_arm

    width = _width()
    if name == "summary":
        return render_summary(run.summary(), kind, width)
    if name == "trials":
        return render(run.trials, kind, width, "Trials")
    if name == "curves":
        ok = run.trials.loc[run.trials["status"] == "ok", "trial"]
        curves = curves_by_arm(run.curves[run.curves["trial"].isin(ok)])
        return render(curves, kind, width, "Convergence, mean over seeds that ended ok")
    steps = steps_by_arm(run.steps)
    if some:
        steps = spread_out(steps)
    return render(steps, kind, width, "Mean squared error per time step, mean over seeds")


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def _describe_run(folder: RunFolder) -> str:
    try:
        manifest = folder.manifest()
    except InvalidInput as error:
        return str(error)
    plan = manifest.plan
    planned = len(plan.arms) * len(plan.seeds)
    arms = ", ".join(map(str, plan.arms))
    return f"{plan.run:<32} {folder.count_records()}/{planned} trials  {arms}"
