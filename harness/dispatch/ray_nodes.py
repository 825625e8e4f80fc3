"""Joins a Ray cluster, and says which nodes it has."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.runtime_env import RuntimeEnv

import harness
from harness.dispatch.placement import Node
from harness.dispatch.token import ADVICE, has_token
from harness.errors import ClusterLost, InvalidInput, Unavailable, UnknownName, brief
from harness.measure.clock import now

REFRESH_S = 0.2
"""How long an answer of the head about its nodes is used."""
_VARIABLE = "RAY_ADDRESS"
_HEAD_S = 20.0
"""Timeout of the head; Ray's own is a minute."""
# A local Ray reads these when it starts: it sends no usage statistics, runs its workers at normal
# priority, and leaves CUDA_VISIBLE_DEVICES to the harness.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Events are a few kilobytes and are read at once; Ray's default is a third of the memory.
_OBJECT_STORE_BYTES = 100 * 2**20


def check_runtime_env(runtime_env: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` unless Ray takes this runtime environment."""
    known = sorted(RuntimeEnv.known_fields)
    problems = [UnknownName("field of `runtime_env`", n, known) for n in {*runtime_env} - {*known}]
    if problems:
        raise InvalidInput(*(problem.problems[0] for problem in problems))
    try:
        RuntimeEnv(**runtime_env)
    except (TypeError, ValueError, OSError) as error:
        raise InvalidInput(f"`runtime_env` is not one for Ray: {error}") from error


def check_import_path(runtime_env: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` if Ray's workers, which look there first, would not find the harness."""
    here = Path.cwd()
    for path in (here / "harness.py", here / "harness" / "__init__.py"):
        alien = path.is_file() and not path.samefile(harness.__file__)
        if alien and "working_dir" not in runtime_env:
            raise InvalidInput(
                f"`{path}` hides the harness from Ray's workers, which look in the current folder "
                "first: rename it, or name another `working_dir` in `--runtime-env`."
            )


def cluster_address(given: str | None) -> str | None:
    """Return the address of the cluster to join, also from RAY_ADDRESS; None: start a local Ray.

    Raises `InvalidInput` for an address that is there for other programs.
    """
    address = (given or "").strip() or os.environ.get(_VARIABLE, "").strip()
    if address in {"", "local"}:
        return None
    scheme, is_url, rest = address.partition("://")
    if not is_url:
        return address
    host = re.sub(r"^.*@|:[0-9]*$", "", re.split("[/?#]", rest)[0]) or "HEAD"
    unset = "" if (given or "").strip() else f"; without {_VARIABLE}, a run stays on this machine"
    if scheme in {"http", "https"}:
        what = f"is a dashboard, which `submit --address {address}` takes"
    else:
        what = "is for other programs"
    raise InvalidInput(
        f"the address {_stated(address)} {what}: a cluster is joined on one of its nodes, "
        f"with `--address {host}:6379`, or from anywhere by `submit`{unset}."
    )


def _stated(address: str) -> str:
    """Return an address as it was stated: as an argument or by the variable."""
    named = os.environ.get(_VARIABLE, "").strip() == address
    return f"`{_VARIABLE}={address}`" if named else f"`{address}`"


def connect(address: str | None, runtime_env: Mapping[str, Any]) -> None:
    """Join the cluster at an address, or start a local Ray.

    Raises `Unavailable` if that fails.
    """
    common = {"runtime_env": dict(runtime_env) or None, "logging_level": logging.ERROR}
    if address is None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        store = {"object_store_memory": _OBJECT_STORE_BYTES}
        try:
            _init("local", include_dashboard=False, **store, **common)
        except Unavailable as error:
            names = (os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR"))
            folder = next(filter(None, names), "/tmp")
            raise Unavailable(
                f"{error} Its files and sockets go to `{folder}`: set RAY_TMPDIR to a folder with "
                "a short name of plain letters, such as /tmp, or use `--dispatch inline`, which "
                "needs no Ray."
            ) from error
        return
    _check_address(address)
    # Ray writes the reason of a refusal only to standard error, again and again.
    with _captured_stderr() as captured:
        try:
            _init(address, **common)
        except Unavailable as error:
            if "Unauthenticated" not in captured():
                raise
            token = "the token here is not its own" if has_token() else "there is none here"
            raise Unavailable(
                f"the Ray cluster at `{address}` asks for a token, and {token}: {ADVICE}."
            ) from error


def _init(address: str, **arguments: Any) -> None:
    try:
        ray.init(address=address, log_to_driver=False, **arguments)
    except Exception as error:  # Ray raises plain ones, too.
        raise Unavailable(f"Ray at {_stated(address)} cannot be used: {brief(error)}.") from error


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture the standard error of this process, that of libraries in C included."""
    sys.stderr.flush()
    original = os.dup(2)
    with TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.pread(file.fileno(), 2**20, 0).decode(errors="replace")
        finally:
            os.dup2(original, 2)
            os.close(original)


def _check_address(address: str) -> None:
    """Raise `Unavailable` if nothing listens there: Ray would take minutes to say so."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise Unavailable(
            f"Ray at {_stated(address)} cannot be used: nobody answers there ({brief(error)})."
        ) from error


class Nodes:
    """The nodes of the cluster, each under a name of its own."""

    def __init__(self, alone: bool) -> None:
        """`alone`: a local Ray, where nobody else uses any cores."""
        self.lost = False
        """Whether the head has gone."""
        self._alone = alone
        self._names: dict[str, str] = {}
        self._seen: list[Node] = []
        self._looked = -REFRESH_S
        self._asker = ThreadPoolExecutor(max_workers=1)

    def look(self, all_of_them: bool = False) -> list[Node]:
        """Return the nodes that are alive and have cores to run on, or all that are alive.

        Raises `ClusterLost` if the head does not answer.
        """
        if all_of_them or now() - self._looked >= REFRESH_S:
            nodes, free = self._ask()
            alive = [node for node in nodes if node["Alive"]]
            self._name(alive)
            self._seen = [self._node(node, free.get(node["NodeID"])) for node in alive]
            self._looked = now()
        return [node for node in self._seen if node.cpus or all_of_them]

    def forget(self) -> None:
        """Ask the head again at the next look."""
        self._looked = -REFRESH_S

    def _ask(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
        """Ask the head for the nodes, and for the free resources of each."""

        def ask() -> tuple[Any, Any]:
            nodes = ray.nodes()
            return nodes, {} if self._alone else available_resources_per_node()

        try:
            # In a thread, because Ray waits for a head that has gone, and then ends the process.
            return self._asker.submit(ask).result(timeout=_HEAD_S)
        except (RayError, OSError, RuntimeError) as error:
            self.lost = True
            raise ClusterLost(
                f"the head of the Ray cluster does not answer any more ({type(error).__name__})."
            ) from error

    def _node(self, node: Mapping[str, Any], free: Mapping[str, float] | None) -> Node:
        resources = node["Resources"]
        cpus = resources.get("CPU", 0.0)
        taken = 0.0 if free is None else cpus - free.get("CPU", 0.0)
        name = self._names[node["NodeID"]]
        return Node(node["NodeID"], name, cpus, int(resources.get("GPU", 0)), taken)

    def _name(self, alive: Sequence[Mapping[str, Any]]) -> None:
        """Give each node the name that its owner gave it, or that of its host, made unique."""
        ids = [node["NodeID"] for node in alive]
        self._names = {id_: name for id_, name in self._names.items() if id_ in ids}
        for id_, node in zip(ids, alive, strict=True):
            given = node.get("NodeName") or ""
            name = node["NodeManagerHostname"]
            if given not in {"", str(node["NodeManagerAddress"])}:
                name = given
            taken = self._names.values()
            self._names.setdefault(id_, name if name not in taken else f"{name}#{id_[-6:]}")
