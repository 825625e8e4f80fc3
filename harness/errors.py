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

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_LAST_LINES, _LONGEST_LINE = 5, 300
_LONGEST_NAME, _LONGEST = 200, 500
_MOST_PROBLEMS = 1000


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


def one_line(text: str) -> str:
    """Return printable text with its line ends and tabs escaped, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def last_words(output: str, what: str = "its output") -> str:
    """Return the last lines that a process printed, for the end of a sentence; "" without any."""
    lines = [printable(line.strip())[:_LONGEST_LINE] for line in output.splitlines()]
    lines = list(filter(None, lines))[-_LAST_LINES:]
    return f"; {what} ends with: {' | '.join(lines)}" if lines else ""


def middle_cut(text: str, longest: int) -> str:
    """Return the text, or its beginning and its end if it is longer than `longest`."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[: longest - half - 1]}…{text[-half:]}"


def brief(error: BaseException | str) -> str:
    """Return the line that says what went wrong, without a full stop: the last one of a traceback.

    Returns the first problem of a pydantic error, and the type's name of an error without a text.
    """
    if isinstance(error, ValueError):
        from pydantic_core import ValidationError  # Not at the top: `--help` does without pydantic.

        if isinstance(error, ValidationError):
            if error.error_count() > _MOST_PROBLEMS:  # Each takes a kilobyte.
                return f"{error.error_count():,} of its values are none that it may have"
            # Without the input: where a name is missing, that is all there is, each time.
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = middle_cut(".".join(map(str, problem["loc"])), _LONGEST_NAME)
            text = middle_cut(": ".join(filter(None, [where, problem["msg"]])), _LONGEST)
            return printable(text)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "" if isinstance(error, str) else type(error).__name__
    traceback = any("Traceback" in line for line in lines)
    return printable(lines[-1 if traceback else 0][:_LONGEST].rstrip(".:"))


@contextmanager
def explained(kind: type[HarnessError], what: str) -> Iterator[None]:
    """Raise an error of this kind in place of an `OSError`: `what`, then the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {brief(error)}.") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" (did you mean `x`?)"` for the nearest known name, or an empty string."""
    found = nearest(name, known)
    return "" if found is None else f" (did you mean `{found}`?)"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most nearly this one, or begins like it; None if none does.

    Of equally near ones the last: a run's name is a preset and the time. Failing all, a name of
    which `name` is a word: `weight` is `lag_weight`.
    """
    typed = plain(name)
    if not 0 < len(typed) <= _LONGEST_NAME:
        return None
    ranked = [(*_typing_errors(typed, plain(one)), one) for one in reversed(list(known))]
    near = (len(typed) + 1) // 3
    alike = [rank for rank in ranked if rank[0] <= len(typed) // 5 or rank[1] <= near]
    alike = alike or [rank for rank in ranked if typed in re.split("[_-]", rank[2].casefold())]
    return min(alike, key=lambda rank: rank[:2])[2] if alike else None


def plain(name: str) -> str:
    """Return a name without what people write in different ways: case, `_` and `-`."""
    return re.sub("[_-]", "", name.casefold())


def _typing_errors(typed: str, known: str) -> tuple[int, int]:
    """Return how many letters are missing, too many, wrong or swapped (optimal string alignment).

    First up to where `typed` ends, which is the least for any beginning of `known`; then in all.
    """
    before, row = [0] * (len(known) + 1), list(range(len(known) + 1))
    for i, letter in enumerate(typed, start=1):
        longer_ago, before, row = before, row, [i]
        for j, other in enumerate(known, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other)))
            if i > 1 < j and typed[i - 2] + letter == other + known[j - 2]:
                row[j] = min(row[j], longer_ago[j - 2] + 1)
    return min(row), row[-1]


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
