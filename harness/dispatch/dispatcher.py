"""The two dispatchers: `inline` on this machine, and `ray` on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from harness.dispatch.local import InlineDispatcher
    from harness.dispatch.ray_cluster import RayDispatcher

NAMES = ("ray", "inline")

Dispatcher: TypeAlias = "InlineDispatcher | RayDispatcher"
"""Runs jobs and yields their events."""


def dispatcher(
    name: str, address: str | None, runtime_env: Mapping[str, Any], wait_s: float
) -> Dispatcher:
    """Return the dispatcher of one of `NAMES`; the other arguments are for `ray` only."""
    if name == "inline":
        from harness.dispatch.local import InlineDispatcher

        return InlineDispatcher()
    return cluster(address, runtime_env, wait_s)


def cluster(
    address: str | None, runtime_env: Mapping[str, Any] | None = None, wait_s: float = 0.0
) -> RayDispatcher:
    """Join the Ray cluster at an address, or start a local one."""
    from harness.dispatch.ray_cluster import RayDispatcher

    return RayDispatcher(address, runtime_env, wait_s)
