"""The exceptions of the harness, and the sentences they are made of.

HarnessError
├── InvalidInput          the caller's input is refused; nothing was started (exit code 2)
│   └── UnknownName       a backend, preset, device or run that does not exist; names the nearest
├── Unavailable           a backend, its framework or a device is not there (exit code 2)
├── ContractViolation     a backend broke the protocol: a wrong shape or type (the trial fails)
├── WorkerError           a backend's process reported an error, or ended (the trial fails)
├── ClusterLost           the head of the Ray cluster went away (exit code 74, results are kept)
└── StoreError            the results folder could not be written (exit code 74, results are kept)

None of them derives from ValueError: pydantic would swallow one raised inside a validator.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_LAST_LINES, _LONGEST_LINE = 5, 300


class HarnessError(Exception):
    """Base of every error that the harness raises on purpose; its text is a full sentence."""


class InvalidInput(HarnessError):
    """The caller's input is refused before anything starts; `problems` has a sentence for each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnknownName(InvalidInput):
    """A name that is not among the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        allowed = f"known: {', '.join(known)}" if known else "there are none"
        super().__init__(f"unknown {kind} `{name}`{did_you_mean(name, known)}; {allowed}{hint}.")


class Unavailable(HarnessError):
    """A backend, the framework it needs or the device asked for is not there."""


class ContractViolation(HarnessError):
    """A backend returned something that the protocol does not allow."""


class WorkerError(HarnessError):
    """The process of a backend reported an error, broke the protocol or ended."""


class ClusterLost(HarnessError):
    """The head of the Ray cluster went away while something was running there."""


class StoreError(HarnessError):
    """The results folder could not be written."""


def printable(text: str) -> str:
    """Return text from elsewhere with what would control a terminal escaped, visibly."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def last_words(output: str, what: str = "its output") -> str:
    """Return the last lines that a process printed, for the end of a sentence; "" without any."""
    lines = [printable(line.strip())[:_LONGEST_LINE] for line in output.splitlines()]
    lines = list(filter(None, lines))[-_LAST_LINES:]
    return f"; {what} ends with: {' | '.join(lines)}" if lines else ""


def brief(error: BaseException | str) -> str:
    """Return the line that says what went wrong, without a full stop: the last one of a traceback.

    Returns the first problem of a pydantic error, and the type's name of an error without a text.
    """
    if isinstance(error, ValueError):
        from pydantic_core import ValidationError  # Not at the top: `--help` does without pydantic.

        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            return printable(": ".join(filter(None, [where, problem["msg"]])))
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "" if isinstance(error, str) else type(error).__name__
    traceback = any("Traceback" in line for line in lines)
    return printable(lines[-1 if traceback else 0][:500].rstrip(".:"))


@contextmanager
def explained(kind: type[HarnessError], what: str) -> Iterator[None]:
    """Raise an error of this kind in place of an `OSError`: `what`, then the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {brief(error)}.") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" (did you mean `x`?)"` for the nearest known name, or an empty string."""
    known = list(known)
    # The shortest, and the last of several: a run's name is a preset and the time.
    begun = [one for one in reversed(known) if name and one.startswith(name)]
    nearest = sorted(begun, key=len) or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean `{nearest[0]}`?)" if nearest else ""


def build_all(*builds: Callable[[], Any]) -> list[Any]:
    """Return what each call returns; raise `InvalidInput` with the problems of all of them."""
    results: list[Any] = []
    problems: list[str] = []
    for build in builds:
        try:
            results.append(build())
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(*problems)
    return results
