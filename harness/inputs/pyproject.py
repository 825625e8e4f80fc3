"""Tables of the user's `pyproject.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from harness.errors import InvalidInput
from harness.inputs.bounded import SETTINGS_BYTES
from harness.inputs.text import read_text

_FILE = "pyproject.toml"


def read_table(folder: Path, table: str) -> tuple[Path, dict[str, Any]]:
    """Return the nearest `pyproject.toml` in `folder` or above it, and a table of it, or `{}`.

    Without such a file, it is the one that `folder` might have. Raises `InvalidInput`.
    """
    paths = [parent / _FILE for parent in (folder, *folder.parents)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return paths[0], {}
    try:
        content: Any = tomllib.loads(read_text(path, SETTINGS_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise problems(
            path, table, f"the file cannot be read: {' '.join(str(error).split())}."
        ) from error
    for name in table.split("."):
        content = content.get(name, {})
        if not isinstance(content, dict):
            raise problems(path, table, f"expected a table, got {content!r}.")
    return path, dict(content)


def problems(path: Path, table: str, *sentences: str) -> InvalidInput:
    """Return the error that says what is wrong with a table."""
    return InvalidInput(*(f"`{path}`: [{table}]: {sentence}" for sentence in sentences))
