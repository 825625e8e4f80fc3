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


def named(folder: Path, taken: Collection[str]) -> dict[str, Command]:
    """Return the commands in the nearest `pyproject.toml` in a folder or above it, by name.

    They run in the folder of that file. Raises `InvalidInput` with every problem of the table;
    names that are `taken` are one.
    """
    path, table = read_table(folder, TABLE)
    commands: dict[str, Command] = {}
    wrong: list[str] = []
    for name, text in sorted(table.items()):
        if name in taken:
            wrong.append(f"backend `{name}`: an installed backend has that name; choose another.")
        elif not re.fullmatch(r"\w[\w.-]*", name):
            wrong.append(f"backend `{name}`: a name has letters, digits, `-`, `_` and `.` only.")
        elif not isinstance(text, str):
            wrong.append(f"backend `{name}` = {text!r}: write its command as a text.")
        else:
            try:
                commands[name] = Command.parse(name, text, path.parent)
            except InvalidInput as error:
                wrong += error.problems
    if wrong:
        raise problems(path, TABLE, *wrong)
    return commands
