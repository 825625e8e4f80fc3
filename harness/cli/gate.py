"""The command `gate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import TASK, build_task, options, split
from harness.cli.output import errors, width
from harness.errors import InvalidInput

if TYPE_CHECKING:
    from harness.gate.settings import GateSettings
    from harness.gate.verdict import Verdict
    from harness.task.task import Task

_FILE = click.Path(path_type=Path)
MODES = options(
    click.option(
        "--against", metavar="REF", help="Hold the working tree against a git revision, in turns."
    ),
    click.option(
        "--baseline", metavar="FILE", type=_FILE, help="Hold it against a baseline kept as a file."
    ),
    click.option(
        "--write-baseline", metavar="FILE", type=_FILE, help="Measure such a baseline; no verdict."
    ),
    click.option(
        "--pytest-benchmark",
        metavar="OLD NEW",
        nargs=2,
        multiple=True,
        type=_FILE,
        help="Judge two JSON files of pytest-benchmark; repeat it for more pairs of processes.",
    ),
)
LIMITS = options(
    click.option(
        "--backends",
        metavar="A,B,...",
        shell_complete=completion.backends,
        help="Installed names or module:Class.",
    ),
    click.option(
        "--devices",
        metavar="cpu,gpu",
        shell_complete=completion.devices,
        help="Or auto: the CPU, and a GPU if there is.",
    ),
    click.option("--max-slowdown", metavar="SHARE", help="Slower by at most this, as in 2%."),
    click.option("--max-accuracy-loss", metavar="SHARE", help="Larger MSE by at most this."),
    click.option("--false-alarms", metavar="SHARE", help="Most alarms on identical code."),
    click.option("--budget", "budget_s", metavar="TIME", help="Time to measure, as in 90s or 3m."),
)
OUTPUTS = options(
    click.option("--json", "json_file", metavar="FILE", type=_FILE, help="Everything, as JSON."),
    click.option("--junit", "junit_file", metavar="FILE", type=_FILE, help="JUnit XML."),
    click.option(
        "--markdown", "markdown_file", metavar="FILE", type=_FILE, help="A comment's body."
    ),
)
_MODES = {
    "against": "--against",
    "baseline": "--baseline",
    "write_baseline": "--write-baseline",
    "pytest_benchmark": "--pytest-benchmark",
}
_OUTPUTS = ("json", "junit", "markdown")
_TASK = ("preset", "config", "changes")
# What has no meaning where the times have been measured already.
_OF_MEASURING = {
    "preset": "--preset",
    "config": "--config",
    "changes": "--set",
    "backends": "--backends",
    "devices": "--devices",
    "max_accuracy_loss": "--max-accuracy-loss",
    "budget_s": "--budget",
}


# What has no meaning where nothing is decided.
_OF_DECIDING = {
    "max_slowdown": "--max-slowdown",
    "max_accuracy_loss": "--max-accuracy-loss",
    "false_alarms": "--false-alarms",
    "budget_s": "--budget",
}


@click.command(
    epilog="\b\nExit codes: 0 pass, 1 regression, 2 bad usage or input, 3 inconclusive.\n"
    "Defaults of the limits: [tool.harness.gate] in pyproject.toml; see docs/gate.md."
)
@MODES
@TASK
@LIMITS
@OUTPUTS
def gate(**options: Any) -> None:
    """Say whether a change made training slower or less accurate: a table and an exit code.

    \b
    Examples:
      python -m harness gate --against origin/main
      python -m harness gate --against HEAD~1 --backends jax --max-slowdown 5% --budget 5m
      python -m harness gate --write-baseline baseline.json
      python -m harness gate --baseline baseline.json --junit gate.xml --markdown gate.md
      python -m harness gate --pytest-benchmark old.json new.json
    """
    with errors():
        request = _checked(options)
        verdict = _verdict(request, options)
    if verdict is None:
        click.echo(f"Baseline: {options['write_baseline']}")
        return
    from harness.gate import report

    # The logs of CI systems are wider than the terminals of old.
    click.echo(report.terminal(verdict, width(piped=120)), nl=False)
    with errors():
        report.write(verdict, **request.outputs)
    sys.exit(report.exit_code(verdict))


@dataclass(frozen=True)
class _Request:
    """What is to be done, all of it checked."""

    mode: str
    task: Task | None
    """None if none was asked for: a baseline has its own."""
    settings: GateSettings
    outputs: dict[str, Path | None]


def _checked(options: Mapping[str, Any]) -> _Request:
    """Return what the options ask for; refuse all that is wrong with them at once."""
    from harness.gate.report import check_writable

    outputs: dict[str, Path | None] = {name: options[f"{name}_file"] for name in _OUTPUTS}
    problems: list[str] = []
    results: list[Any] = []
    for check in (
        lambda: _mode(options),
        lambda: build_task(options) if any(options[name] for name in _TASK) else None,
        lambda: _settings(options),
        lambda: check_writable([*outputs.values(), options["write_baseline"]]),
    ):
        try:
            results.append(check())
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(*problems)
    mode, task, settings, _ = results
    return _Request(mode, task, settings, outputs)


def _mode(options: Mapping[str, Any]) -> str:
    """Return the one mode asked for; refuse options that mean nothing in it."""
    given = [mode for mode in _MODES if options[mode]]
    if len(given) != 1:
        got = " and ".join(f"`{_MODES[mode]}`" for mode in given) or "none"
        raise InvalidInput(f"give one of {', '.join(_MODES.values())}; got {got}.")
    (mode,) = given
    useless: list[str] = []
    if mode == "pytest_benchmark":
        useless = [flag for name, flag in _OF_MEASURING.items() if options[name]]
    elif mode == "write_baseline":
        useless = [f"--{name}" for name in _OUTPUTS if options[f"{name}_file"]]
        useless += [flag for name, flag in _OF_DECIDING.items() if options[name]]
    if useless:
        raise InvalidInput(*(f"`{flag}` means nothing with `{_MODES[mode]}`." for flag in useless))
    return mode


def _settings(options: Mapping[str, Any]) -> GateSettings:
    from harness.gate.settings import GateSettings

    names = ("max_slowdown", "max_accuracy_loss", "false_alarms", "budget_s")
    backends, devices = options["backends"], options["devices"]
    return GateSettings.read(
        Path.cwd(),
        backends=None if backends is None else split(backends),
        devices=devices if devices in (None, "auto") else split(devices),
        **{name: options[name] for name in names},
    )


def _verdict(request: _Request, options: Mapping[str, Any]) -> Verdict | None:
    """Measure and judge; None where there is nothing to judge."""
    from harness.task.task import Task

    verdict: Verdict | None = None
    task, settings = request.task, request.settings
    if request.mode == "pytest_benchmark":
        from harness.gate import pytest_benchmark

        return pytest_benchmark.judge(options["pytest_benchmark"], settings)

    from harness.gate import modes

    match request.mode:
        case "against":
            verdict = modes.against(options["against"], task or Task(), settings, _say)
        case "baseline":
            verdict = modes.baseline(options["baseline"], task, settings, _say)
        case _:
            modes.write_baseline(options["write_baseline"], task or Task(), settings, _say)
    return verdict


def _say(line: str) -> None:
    """Show how far it is: the table goes to standard output."""
    click.echo(line, err=True)
