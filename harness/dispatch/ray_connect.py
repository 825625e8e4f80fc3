"""Joins a Ray cluster, or starts a local one."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_constants import SESSION_LATEST
from ray._private.ray_logging import stdout_deduplicator
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError
from ray.runtime_env import RuntimeEnv

import harness
from harness.dispatch.ray_nodes import HEAD_S
from harness.dispatch.timeout import within
from harness.dispatch.token import ADVICE, MODE, check_token, has_token
from harness.errors import InvalidInput, Unavailable, UnknownName, brief

_VARIABLE = "RAY_ADDRESS"
# A local Ray reads these when it starts: it sends no usage statistics, runs its workers at normal
# priority, and leaves CUDA_VISIBLE_DEVICES to the harness.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_RAYLET_LOG = re.compile(r"Raylet is terminated")
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
        if has_token():
            _set_mode(os.environ.get(MODE) or "token")
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
    head = _find(address)
    # Ray writes the reason of a failure to standard error, too, again and again.
    with _stderr_hidden(), _mode_kept():
        _agree_on_token(address, head)
        _init(address, **common)


def leave_local() -> None:
    """Stop the local Ray, and remove its files; those of other sessions stay."""
    node = ray._private.worker._global_node
    ray.shutdown()
    if node is not None:
        session = Path(node.get_session_dir_path())
        shutil.rmtree(session, ignore_errors=True)
        latest = session.with_name(SESSION_LATEST)
        if latest.is_symlink() and latest.readlink() in {session, Path(session.name)}:
            latest.unlink(missing_ok=True)


def _init(address: str, **arguments: Any) -> None:
    try:
        ray.init(address=address, log_to_driver=False, **arguments)
        # A node that dies costs a line: Ray prints the end of its raylet's log, and twice.
        stdout_deduplicator.skip_re = stdout_deduplicator.skip_re or _RAYLET_LOG
    except Exception as error:  # Ray raises plain ones, too.
        raise _unusable(address, brief(error)) from error


def _find(address: str) -> str:
    """Return host and port of the head. Raises `Unavailable` if nothing listens there."""
    try:
        head = canonicalize_bootstrap_address(address)
        if head is None:
            raise _unusable(address, "no cluster runs on this machine")
        host, _, port = head.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _unusable(address, f"nobody answers there ({brief(error)})") from error
    return head


def _agree_on_token(address: str, head: str) -> None:
    """Send a token if the cluster asks for one, and ask for none if it does not.

    A driver that asks for one itself hears nothing from nodes that have none. Raises `Unavailable`.
    """
    wanted = os.environ.get(MODE) or None
    if _admits(address, head, "disabled"):
        if wanted == "token":
            raise Unavailable(
                f"the Ray cluster at {_stated(address)} asks for no token, and {MODE}=token "
                f"demands one: unset {MODE} to join it all the same."
            )
        return
    asks = f"the Ray cluster at {_stated(address)} asks for a token, and"
    if wanted == "disabled":
        raise Unavailable(f"{asks} {MODE}=disabled keeps it from being sent: unset {MODE}.")
    if not has_token():
        raise Unavailable(f"{asks} there is none here: {ADVICE}.")
    if not _admits(address, head, wanted or "token"):
        raise Unavailable(f"{asks} the token here is not its own: {ADVICE}.")


def _admits(address: str, head: str, mode: str) -> bool:
    """Say whether the head admits us. Raises `Unavailable` if it does not answer."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    _set_mode(mode)
    try:
        within(HEAD_S, lambda: GcsClient(address=head))
    except AuthenticationError:
        return False
    except (TimeoutError, RayError) as error:
        reason = f"something listens there, but no head of a cluster answered for {HEAD_S:g} s"
        raise _unusable(address, reason) from error
    return True


def _set_mode(mode: str) -> None:
    """Make Ray send a token, or none; it reads the variable once, when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    if mode != "disabled":
        check_token()
    os.environ[MODE] = mode
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _mode_kept() -> Iterator[None]:
    """Leave the variable as it was: another cluster may be joined later."""
    before = os.environ.get(MODE)
    try:
        yield
    finally:
        os.environ.pop(MODE, None)
        if before is not None:
            os.environ[MODE] = before


def _unusable(address: str, reason: str) -> Unavailable:
    return Unavailable(f"Ray at {_stated(address)} cannot be used: {reason}.")


@contextmanager
def _stderr_hidden() -> Iterator[None]:
    """Hide what this process writes to standard error, libraries in C included."""
    sys.stderr.flush()
    original, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(nowhere)
