"""The command `gate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.options import TASK, build_task, options, split
from harness.cli.output import errors, width
from harness.cli.usage import option, subcommand
from harness.errors import InvalidInput, build_all

if TYPE_CHECKING:
    from harness.gate.settings import GateSettings
    from harness.gate.verdict import Verdict

_FILE = click.Path(path_type=Path)
MODES = options(
    option(
        "--against", metavar="REF", help="Compare the working tree with a git revision, in turns."
    ),
    option("--baseline", metavar="FILE", type=_FILE, help="Compare it with a baseline in a file."),
    option(
        "--write-baseline", metavar="FILE", type=_FILE, help="Measure such a baseline; no verdict."
    ),
    option(
        "--pytest-benchmark",
        metavar="OLD NEW",
        nargs=2,
        multiple=True,
        type=_FILE,
        help="Judge two JSON files of pytest-benchmark; repeat it for more pairs of processes.",
    ),
)
LIMITS = options(
    option(
        "--backends",
        metavar="A,B,...",
        shell_complete=completion.backends,
        help="Names (`harness list`), module:Class or process:COMMAND.",
    ),
    option(
        "--devices",
        metavar="cpu,gpu",
        shell_complete=completion.devices,
        help="Or auto: the CPU, and a GPU if there is.",
    ),
    option("--max-slowdown", metavar="SHARE", help="Slower by at most this, as in 2%."),
    option("--max-accuracy-loss", metavar="SHARE", help="Larger MSE by at most this."),
    option("--false-alarms", metavar="SHARE", help="Most alarms on identical code."),
    option("--budget", "budget_s", metavar="TIME", help="Time to measure, as in 90s or 3m."),
)
OUTPUTS = options(
    option("--json", "json_file", metavar="FILE", type=_FILE, help="Everything, as JSON."),
    option("--junit", "junit_file", metavar="FILE", type=_FILE, help="JUnit XML."),
    option("--markdown", "markdown_file", metavar="FILE", type=_FILE, help="A comment's body."),
)
_MODES = {
    "against": "--against",
    "baseline": "--baseline",
    "write_baseline": "--write-baseline",
    "pytest_benchmark": "--pytest-benchmark",
}
_OUTPUTS = ("json", "junit", "markdown")
_TASK = {"preset": "--preset", "config": "--config", "changes": "--set"}
_SELECTION = {"backends": "--backends", "devices": "--devices"}
_LIMITS = {
    "max_slowdown": "--max-slowdown",
    "max_accuracy_loss": "--max-accuracy-loss",
    "false_alarms": "--false-alarms",
    "budget_s": "--budget",
}
_USELESS = {
    # Nothing is measured.
    "pytest_benchmark": _TASK
    | _SELECTION
    | {name: _LIMITS[name] for name in ("max_accuracy_loss", "budget_s")},
    # Nothing is decided.
    "write_baseline": {f"{name}_file": f"--{name}" for name in _OUTPUTS} | _LIMITS,
}


@subcommand(
    epilog="\b\nExit codes: 0 pass, 1 regression, 2 bad usage or input, 3 inconclusive,\n"
    "70 a fault of the harness, 74 output could not be written, 130 interrupted.\n"
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
    verdict = _run(options)
    if verdict is None:
        click.echo(f"Baseline: {options['write_baseline']}")
        return
    from harness.gate import report

    code = report.EXIT_CODES[verdict.outcome]
    with errors(code):
        try:
            if unwritten := report.write(verdict, _outputs(options)):
                click.echo(f"warning: {unwritten}", err=True)
        finally:
            # The logs of CI systems are wider than a terminal.
            click.echo(report.terminal(verdict, width(piped=120)), nl=False)
    sys.exit(code)


def _run(options: Mapping[str, Any]) -> Verdict | None:
    """Check all options, then measure and judge; None if there is nothing to judge."""
    from harness.gate.report import check_writable, whole_table
    from harness.task.task import Task

    fields = {name: options[name] for name in _TASK}
    mode, task, settings, _ = build_all(
        lambda: _mode(options),
        lambda: build_task(**fields) if any(fields.values()) else None,
        lambda: _settings(options),
        lambda: check_writable(
            [*_outputs(options).values(), options["write_baseline"]],
            [options["baseline"], *(path for pair in options["pytest_benchmark"] for path in pair)],
        ),
    )
    if mode == "pytest_benchmark":
        from harness.gate import pytest_benchmark

        return pytest_benchmark.judge(options["pytest_benchmark"], settings)

    from harness.gate import modes

    outputs = [path for path in _outputs(options).values() if path]
    comment = options["markdown_file"]
    if comment and (whole := whole_table(comment)):
        outputs.append(whole)
    if mode == "against":
        return modes.against(options["against"], task or Task(), settings, _say, outputs)
    if mode == "baseline":
        return modes.baseline(options["baseline"], task, settings, _say, outputs)
    modes.write_baseline(options["write_baseline"], task or Task(), settings, _say)
    return None


def _mode(options: Mapping[str, Any]) -> str:
    """Return the mode asked for; refuse options without a meaning in it."""
    given = [mode for mode in _MODES if options[mode]]
    if len(given) != 1:
        got = " and ".join(f"`{_MODES[mode]}`" for mode in given) or "none"
        raise InvalidInput(f"give one of {', '.join(_MODES.values())}; got {got}.")
    (mode,) = given
    useless = [flag for name, flag in _USELESS.get(mode, {}).items() if options[name]]
    if useless:
        raise InvalidInput(*(f"`{flag}` means nothing with `{_MODES[mode]}`." for flag in useless))
    return mode


def _settings(options: Mapping[str, Any]) -> GateSettings:
    from harness.gate.settings import GateSettings

    backends, devices = options["backends"], options["devices"]
    return GateSettings.read(
        Path.cwd(),
        backends=None if backends is None else split(backends),
        devices=devices if devices in (None, "auto") else split(devices),
        **{name: options[name] for name in _LIMITS},
    )


def _outputs(options: Mapping[str, Any]) -> dict[str, Path | None]:
    return {name: options[f"{name}_file"] for name in _OUTPUTS}


def _say(line: str) -> None:
    """Show progress on standard error: the table goes to standard output."""
    click.echo(line, err=True)
