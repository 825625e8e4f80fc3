"""Finds backends by name: the entry-point group `harness.backends`, or `module:Class`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from harness.backend.protocol import BackendFactory
from harness.errors import InvalidInput, Unavailable, UnknownName, did_you_mean

GROUP = "harness.backends"


def installed() -> Mapping[str, EntryPoint]:
    """Return the installed backends by name, sorted; imports none of them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def check(name: str) -> None:
    """Raise `InvalidInput` unless `name` is installed or names an attribute of a module found.

    No framework is imported: the node that trains finds out whether it is installed.
    """
    if ":" not in name:
        if name not in installed():
            raise UnknownName("backend", name, installed(), hint=", or `module:Class`")
        return
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier():
        raise InvalidInput(f"backend `{name}`: write `module:Class`.")
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    except Exception as error:  # To find a module in a package imports the package.
        raise InvalidInput(
            f"backend `{name}` cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not found:
        raise InvalidInput(f"backend `{name}`: there is no module `{module}` on the import path.")


def module_of(name: str) -> str:
    """Return the name of the module that a backend is in. Raises `InvalidInput` as `check` does."""
    check(name)
    return _entry_point(name).module


def load(name: str) -> BackendFactory:
    """Import a backend, and with it its framework.

    Raises `Unavailable` if it or a package it needs cannot be imported, and `InvalidInput` if the
    module has no such attribute.
    """
    check(name)
    point = _entry_point(name)
    try:
        module = importlib.import_module(point.module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise Unavailable(
            f"backend `{name}` needs the package `{package}`, which is not installed here; "
            f"try `pip install {package}`."
        ) from error
    except Exception as error:
        raise Unavailable(
            f"backend `{name}` cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, point.attr):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise InvalidInput(
            f"backend `{name}`: module `{point.module}` has no `{point.attr}`"
            f"{did_you_mean(point.attr, public)}."
        )
    return cast("BackendFactory", getattr(module, point.attr))


def _entry_point(name: str) -> EntryPoint:
    return EntryPoint(name, name, GROUP) if ":" in name else installed()[name]
