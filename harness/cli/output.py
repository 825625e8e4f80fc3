"""What commands share: exit codes, errors and warnings as sentences, the width of a table."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from harness.errors import (
    ClusterLost,
    HarnessError,
    InvalidInput,
    StoreError,
    Unavailable,
    brief,
    explained,
    middle_cut,
    printable,
)
from harness.inputs.commands import command

if TYPE_CHECKING:
    from harness.runs.results import Run

FAILED, BAD_INPUT, FAULT, UNWRITTEN, INTERRUPTED = 1, 2, 70, 74, 130
"""Exit codes. `FAILED` is a result (a regression, a trial that failed), and never an error."""
# Of an error: a file from elsewhere may name things at any length.
_LONGEST, _MOST_WARNINGS = 4000, 20


@contextlib.contextmanager
def errors(decided: int = 0) -> Iterator[None]:
    """Print an error as sentences and exit with its code.

    `decided`: the exit code that the results have, if they are known: it stays unless it is 0.
    """
    try:
        yield
    except (SystemExit, click.Abort, click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
        raise
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            words = f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n"
            click.echo(words, err=True)
        stop(error.exit_code, error.format_message())
    except InvalidInput as error:
        stop(decided or BAD_INPUT, *error.problems)
    except StoreError as error:
        stop(decided or UNWRITTEN, str(error))
    except ClusterLost as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        sys.stdout.flush()
        # On a normal exit, Ray would wait a minute for the head and then abort.
        os._exit(UNWRITTEN)
    except HarnessError as error:
        stop(decided or BAD_INPUT, *str(error).splitlines())
    except KeyboardInterrupt:
        stop(INTERRUPTED, "interrupted")
    except BaseException as error:  # Some libraries in Rust raise what is no `Exception`.
        stop(decided or FAULT, _fault(error))


@contextlib.contextmanager
def beside(what: str) -> Iterator[None]:
    """Let what is made beside the results fail with a warning: a good run stays one."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        why = str(error) if isinstance(error, HarnessError) else _fault(error)
        click.echo(f"warning: {what}: {printable(why)}", err=True)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Raise `Unavailable` if the packages that draw charts cannot be imported."""
    try:
        yield
    except Exception as error:  # Altair reads its own docstrings when it is imported.
        stripped = "PYTHONOPTIMIZE=2 and `python -OO` leave Altair without docstrings"
        why = stripped if sys.flags.optimize > 1 else f"{type(error).__name__}: {brief(error)}"
        raise Unavailable(f"charts cannot be drawn: {why}.") from error


def stop(code: int, *sentences: str) -> NoReturn:
    """Print the sentences and exit."""
    for sentence in sentences:
        click.echo(f"error: {middle_cut(printable(sentence), _LONGEST)}", err=True)
    sys.exit(code)


def check_current_folder() -> None:
    """Refuse a current folder that was deleted: nothing could be found from there."""
    with explained(InvalidInput, "the current folder cannot be used; change to another one"):
        os.getcwd()


def open_run(run: str, results: str) -> Run:
    """Return a run, and warn of files in it that are left out. Raises `InvalidInput`."""
    from harness.runs.results import FEW, Run

    opened = Run(run, results)
    if opened.manifest.finished_utc and opened.reads_records and opened.stored.records > FEW:
        store = command("run", "--resume", *opened.words)
        click.echo(
            f"reading {opened.stored.records:,} records: no stored table is of just these; "
            f"`{store}` stores them anew",
            err=True,
        )
    warn(opened.problems)
    return opened


def warn(problems: Sequence[str]) -> None:
    """Print warnings, of very many only some."""
    for problem in problems[:_MOST_WARNINGS]:
        click.echo(f"warning: {middle_cut(printable(problem), _LONGEST)}", err=True)
    if (more := len(problems) - _MOST_WARNINGS) > 0:
        click.echo(f"warning: {more:,} more were left out", err=True)


def width(piped: int = 80) -> int:
    """Return the width of a table: that of the terminal, or `piped` if there is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else piped


def _fault(error: BaseException) -> str:
    """Return a sentence on an error that nobody foresaw, after its traceback or with its place."""
    import traceback

    text = "".join(traceback.format_exception(error))
    what = ": ".join(filter(None, [type(error).__name__, brief(str(error))]))
    sentence = f"this is a fault of the harness: {what}"
    context = click.get_current_context(silent=True)
    if context and context.find_root().params.get("debug"):
        click.echo(text, nl=False, err=True)
        return f"{sentence}."
    where = _keep(text)
    place = f"the traceback is in `{where}`" if where else "HARNESS_DEBUG=1 prints the traceback"
    return f"{sentence}; {place}."


def _keep(text: str) -> str:
    """Write text to a temporary file that stays; return its path, or nothing if there is none."""
    import tempfile

    try:
        number, path = tempfile.mkstemp(".txt", "harness-fault-")
        with open(number, "wb") as file:
            file.write(text.encode(errors="backslashreplace"))
    except OSError:
        return ""
    return path
