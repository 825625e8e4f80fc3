"""Finds backends by name: installed, of the project at hand, `module:Class`, `process:COMMAND`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from harness.backend.command import PREFIX, TABLE, Command, named
from harness.backend.protocol import BackendFactory
from harness.errors import InvalidInput, Unavailable, UnknownName, did_you_mean

GROUP = "harness.backends"


def installed() -> Mapping[str, EntryPoint]:
    """Return the installed backends by name, sorted; imports none of them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def commands() -> Mapping[str, Command | InvalidInput]:
    """Return the backends that the `pyproject.toml` at hand names, sorted; or its error.

    Raises `InvalidInput` if the table cannot be read.
    """
    return named(Path.cwd(), installed())


def check(name: str) -> None:
    """Raise `InvalidInput` unless there is such a backend, as far as is known without starting it.

    No framework is imported: the node that trains finds out whether it is installed.
    """
    found = _find(name)
    if isinstance(found, EntryPoint) and ":" in name:
        _check_module(name, found.module)


def module_of(name: str) -> str | None:
    """Return the module that a backend is in; None: it is a command.

    Raises `InvalidInput` if there is no backend of that name.
    """
    found = _find(name)
    return None if isinstance(found, Command) else found.module


def load(name: str) -> BackendFactory:
    """Find and import a backend: `importer` and the function that it returns, in one."""
    return importer(name)()


def importer(name: str) -> Callable[[], BackendFactory]:
    """Find a backend; return a function that imports it with its framework, or starts its process.

    These are two steps so that the second can be timed alone. Raises `InvalidInput` if there is no
    backend of that name. The function raises `Unavailable` if the backend or a package that it
    needs cannot be imported, or the process does not start, and `InvalidInput` if there is no such
    module or attribute.
    """
    return partial(_load, name, _find(name))


def hiding() -> str:
    """Say which module of the current folder was imported in place of an installed one, if any."""
    here = Path.cwd()
    elsewhere = [path for path in sys.path if path and Path(path) != here]
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file in {str(here / f"{name}.py"), str(here / name / "__init__.py")}:
            hidden = PathFinder.find_spec(name, elsewhere)
            if hidden and hidden.origin not in {None, file}:
                return f"; `{file}` hides the installed `{name}`: rename it"
    return ""


def _load(name: str, found: EntryPoint | Command) -> BackendFactory:
    attribute = found if isinstance(found, Command) else _imported(name, found)
    if not isinstance(attribute, Command):
        return attribute
    from harness.backend.process import ProcessWorker  # Not at the top: it needs NumPy.

    return ProcessWorker(attribute)


def _find(name: str) -> EntryPoint | Command:
    if name.startswith(PREFIX):
        return Command.parse(name, name.removeprefix(PREFIX))
    if ":" in name:
        module, _, attribute = name.partition(":")
        if not (re.fullmatch(r"[\w.]+", module) and attribute.isidentifier()):
            raise InvalidInput(f"backend `{name}`: write `module:Class`.")
        return EntryPoint(name, name, GROUP)
    points, known = installed(), {}
    try:
        known = dict(commands())
    except InvalidInput:
        if name not in points:
            raise
    # A line of the table that has an installed name is an error, so never silently passed over.
    found = known.get(name) or points.get(name)
    if found is None:
        raise UnknownName(
            "backend",
            name,
            [*points, *known],
            hint=f", `module:Class` or `{PREFIX}COMMAND` (give a command with a comma a name in "
            f"[{TABLE}] of `pyproject.toml`)",
        )
    if isinstance(found, InvalidInput):
        raise found
    return found


def _check_module(name: str, module: str) -> None:
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    except (Exception, SystemExit) as error:  # To find a module in a package imports the package.
        raise InvalidInput(
            f"backend `{name}` cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not found:
        raise InvalidInput(
            f"backend `{name}`: there is no module `{module}` on the import path{_hidden(module)}."
        )


def _hidden(module: str) -> str:
    """Say what hides a module of the current folder, or its package, if anything does."""
    top = module.partition(".")[0]
    # `Path.exists` raises for a name that is too long.
    here = [path for path in (Path(f"{top}.py"), Path(top)) if os.path.exists(path)]
    spec = importlib.util.find_spec(top)
    origin = spec and spec.origin
    if not here or not origin or Path(origin).is_relative_to(Path.cwd()):
        return ""
    return f"; `{here[0].absolute()}` is hidden by `{origin}`: rename it"


def _imported(name: str, point: EntryPoint) -> BackendFactory | Command:
    if ":" in name:
        _check_module(name, point.module)
    try:
        module = importlib.import_module(point.module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        lacks = (
            f"needs the package `{package}`, which is not installed here; "
            f"try `pip install {package}`"
        )
        if found := hiding():
            lacks = f"cannot be imported: {error}{found}"
        raise Unavailable(f"backend `{name}` {lacks}.") from error
    except Exception as error:
        raise Unavailable(
            f"backend `{name}` cannot be imported: {type(error).__name__}: {error}{hiding()}"
        ) from error
    if not hasattr(module, point.attr):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise InvalidInput(
            f"backend `{name}`: module `{point.module}` has no `{point.attr}`"
            f"{did_you_mean(point.attr, public)}{_hidden(point.module)}."
        )
    return cast("BackendFactory | Command", getattr(module, point.attr))
