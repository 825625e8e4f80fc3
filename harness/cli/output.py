"""What commands share: exit codes, errors and warnings as sentences, the width of a table."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from harness.errors import ClusterLost, HarnessError, InvalidInput, StoreError, printable

if TYPE_CHECKING:
    from harness.runs.results import Run

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Print an error as sentences and exit with its code."""
    try:
        yield
    except InvalidInput as error:
        stop(BAD_INPUT, *error.problems)
    except StoreError as error:
        stop(FAILED, str(error))
    except ClusterLost as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        sys.stdout.flush()
        # On a normal exit, Ray would wait a minute for the head and then abort.
        os._exit(FAILED)
    except HarnessError as error:
        stop(BAD_INPUT, *str(error).splitlines())
    except KeyboardInterrupt:
        stop(INTERRUPTED, "interrupted")


def stop(code: int, *sentences: str) -> NoReturn:
    """Print the sentences and exit."""
    for sentence in sentences:
        click.echo(f"error: {printable(sentence)}", err=True)
    sys.exit(code)


def open_run(run: str, results: str) -> Run:
    """Return a run, and warn of files in it that are left out. Raises `InvalidInput`."""
    from harness.runs.results import Run

    opened = Run(run, results)
    for problem in opened.problems:
        click.echo(f"warning: {printable(problem)}", err=True)
    return opened


def width(piped: int = 80) -> int:
    """Return the width of a table: that of the terminal, or `piped` if there is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else piped
