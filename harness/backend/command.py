"""The command of a backend that is a process of its own: what is known before it is started."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import InvalidInput, did_you_mean
from harness.inputs.pyproject import problems, read_table

PREFIX = "process:"
TABLE = "tool.harness.backends"
_FIELDS = ("command", "patience_s")


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
    fields = {"command": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not isinstance(fields.get("command"), str):
        raise InvalidInput(
            f"backend `{name}` = {entry!r}: write its command as a text, or as "
            '`{command = "...", patience_s = 600}`.'
        )
    if unknown := sorted(fields.keys() - {*_FIELDS}):
        raise InvalidInput(
            f"backend `{name}`: there is no field `{unknown[0]}`"
            f"{did_you_mean(unknown[0], _FIELDS)}; known: {', '.join(_FIELDS)}."
        )
    patience_s = fields.get("patience_s", Command.patience_s)
    if type(patience_s) not in {int, float} or not 0 < patience_s < math.inf:
        raise InvalidInput(
            f"backend `{name}`: `patience_s` = {patience_s!r}: write a number of seconds above 0."
        )
    return replace(Command.parse(name, fields["command"], folder), patience_s=patience_s)
