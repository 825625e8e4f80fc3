"""The command of a backend that is a process of its own: what is known before it is started."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InvalidInput
from harness.inputs.pyproject import problems, read_table

PREFIX = "process:"
TABLE = "tool.harness.backends"


@dataclass(frozen=True)
class Command:
    """A worker of docs/process-backends.md: a program and its arguments.

    An attribute of this type is what an entry point of `harness.backends` names, if its backend is
    not written in Python.
    """

    name: str
    """The name of the backend in messages."""
    words: Sequence[str]
    folder: Path | None = None
    """Where it runs; None: the current folder."""
    hint: str = ""
    """What to do if there is no such program, as a sentence."""
    patience_s: float = 30.0
    """How long it may owe an answer without using the processor."""

    def __str__(self) -> str:
        return shlex.join(self.words)

    @classmethod
    def parse(cls, name: str, text: str, folder: Path | None = None) -> Command:
        """Return the command that a user wrote. Raises `InvalidInput`."""
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise InvalidInput(
                f"backend `{name}`: the command `{text}` cannot be read: {error}."
            ) from None
        if not words:
            raise InvalidInput(f"backend `{name}`: the command is empty.")
        return cls(name, words, folder)


def named(folder: Path, taken: Collection[str]) -> dict[str, Command | InvalidInput]:
    """Return the commands in the nearest `pyproject.toml` in a folder or above it, by name.

    They run in the folder of that file. In place of a command that is wrong, or has a name that is
    `taken`, is the error to raise. Raises `InvalidInput` if the table cannot be read.
    """
    path, table = read_table(folder, TABLE)
    commands: dict[str, Command | InvalidInput] = {}
    for name, entry in sorted(table.items()):
        try:
            if name in taken:
                raise InvalidInput(
                    f"backend `{name}`: an installed backend has that name; choose another."
                )
            commands[name] = _read(name, entry, path.parent)
        except InvalidInput as error:
            commands[name] = problems(path, TABLE, *error.problems)
    return commands


def _read(name: str, entry: object, folder: Path) -> Command:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InvalidInput(f"backend `{name}`: a name has letters, digits, `-`, `_` and `.` only.")
    if not isinstance(entry, str):
        raise InvalidInput(f"backend `{name}` = {entry!r}: write its command as a text.")
    return Command.parse(name, entry, folder)
