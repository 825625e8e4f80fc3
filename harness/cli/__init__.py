"""The command line. Every command imports what it needs when it runs, so that help is instant.

Exit codes: 0 fine; 1 a trial or a parity check failed, a regression was found or a strict doctor
warns; 2 bad usage or input; 3 the gate is inconclusive; 70 a fault of the harness; 74 output or
results could not be written; 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from harness.cli.compare import compare
from harness.cli.doctor import doctor
from harness.cli.explain import explain
from harness.cli.gate import gate
from harness.cli.history import history
from harness.cli.output import UNWRITTEN, check_current_folder, errors, stop
from harness.cli.parity import parity
from harness.cli.profile import profile
from harness.cli.report import report
from harness.cli.run import run
from harness.cli.show import list_, show
from harness.cli.streams import guard
from harness.cli.submit import submit
from harness.cli.track import track
from harness.cli.usage import Group


class Program(Group):
    """Turns the errors of all commands into sentences and exit codes."""

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """Read the options before the command."""
        with errors():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the command's options and run it."""
        with errors():
            check_current_folder()
            return super().invoke(ctx)


@click.group(
    cls=Program,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog="\b\nExit codes: 0 fine, 1 a trial or a parity check failed or a regression was found,\n"
    "2 bad usage or input, 3 inconclusive, 70 a fault of the harness, 74 output or results\n"
    "could not be written, 130 interrupted (finished trials are kept).",
)
@click.option(
    "--debug",
    is_flag=True,
    envvar="HARNESS_DEBUG",
    help="Print the traceback of a fault of the harness; so does HARNESS_DEBUG=1.",
)
@click.version_option(package_name="harness", message="%(version)s")
def cli(debug: bool) -> None:
    """Compare deep-learning frameworks on one recurrent-network task.

    Teach a small RNN `x_t^2 + w*x_{t-L}^2` on AR(1) paths, with the same data and the same initial
    parameters in every framework, and compare accuracy and time.

    \b
    Examples:
      python -m harness run --backends torch,jax
      python -m harness run --preset posted --set epochs=10000 --backends jax
      python -m harness submit --address http://HEAD:8265 --wait -- run --backends torch,jax
      python -m harness show RUN --table steps
      python -m harness explain RUN
      python -m harness profile --backends torch,jax
      python -m harness report RUN --open
      python -m harness compare RUN_A RUN_B
      python -m harness history --html history.html
      python -m harness gate --against origin/main
      python -m harness list
      python -m harness doctor
    """


for command in (
    run,
    submit,
    show,
    explain,
    report,
    history,
    compare,
    gate,
    doctor,
    list_,
    parity,
    profile,
    track,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    # CI systems and clusters send SIGTERM, a terminal that closes SIGHUP: end as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` has it ignored.
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    if not sys.flags.safe_path:
        sys.path.append("")  # A backend may be in the current folder.
    output = guard()
    try:
        cli()
    except SystemExit as end:
        output.flush()
        if output.problem:
            code = end.code if isinstance(end.code, int) else 0
            stop(code or UNWRITTEN, f"standard output cannot be written: {output.problem}.")
        raise
