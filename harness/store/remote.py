"""A folder behind a URL, over fsspec: object stores (S3 and others), SFTP, memory.

A store that does not answer fails within seconds, not minutes: `harness.store.outbox` tries again.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import re
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import InvalidInput
from harness.inputs.bounded import MOST_BYTES, TooLarge
from harness.store.files import Entry, Files, Flock, Kind, LocalFolder, Notify, split_name
from harness.store.lease import Lease, Timing
from harness.store.manifest import MANIFEST

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# One request creates or replaces an object there, whole or not at all.
OBJECT_STORES = {"abfs", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
_WITH_BUCKETS = OBJECT_STORES - {"memory"}
_CONNECT_S = 5
_SLOWEST = 250_000  # Bytes per second at which a large file still gets through.
_AT_ONCE = 32
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
"""How file systems call the checksum or the date of a file."""


class RemoteFolder(Files):
    """A folder in a file system of fsspec."""

    def __init__(
        self, system: AbstractFileSystem, path: str, url: str, timing: Timing | None = None
    ) -> None:
        """`path` is the file system's name for the user's `url`."""
        self._system = system
        self._path = path.rstrip("/")
        self._timing = timing or Timing()
        self._is_object_store = url.partition("://")[0] in OBJECT_STORES
        self.location = url.rstrip("/")

    def folder(self, name: str) -> RemoteFolder:
        """Return a folder in it."""
        return RemoteFolder(self._system, self._at(name), self.file(name), self._timing)

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read a file of at most so many bytes, in one request."""
        path = self._at(name)
        try:
            content = bytes(self._call("cat_file", path, start=0, end=most + 1))
        except OSError as error:
            if not _is_out_of_range(error):
                raise
            return b""  # Of an empty object there is no first byte.
        if len(content) > most:
            raise TooLarge(most)
        return content

    def read_many(
        self, names: Iterable[str], most: int = MOST_BYTES
    ) -> Iterator[tuple[str, bytes | OSError]]:
        """Read many files at a time.

        Raises `OSError` if the store does not answer: taken for broken, a record would be measured
        again.
        """
        # Only the clients of object stores may be shared by threads.
        at_once = _AT_ONCE if self._system.async_impl else 1
        # What has arrived waits in memory until it is asked for: few files, as they may be large.
        waiting: deque[tuple[str, Future[bytes | OSError]]] = deque()
        with ThreadPoolExecutor(at_once) as pool:
            try:
                for name in names:
                    waiting.append((name, pool.submit(self._read_if_there, name, most)))
                    if len(waiting) >= 2 * at_once:
                        first, content = waiting.popleft()
                        yield first, content.result()
                yield from ((name, content.result()) for name, content in waiting)
            finally:
                pool.shutdown(cancel_futures=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one request, or under another name where that is not whole."""
        path = self._at(name)
        if self._is_object_store:
            self._send(path, content)
            return
        folder = path.rpartition("/")[0]
        part = f"{folder}/.{uuid.uuid4().hex}.part"
        self._call("makedirs", folder, exist_ok=True)
        self._send(part, content)
        self._call("mv", part, path)

    def create(self, name: str, content: bytes) -> None:
        """Write a file only if there is none: in one request if the store can do that."""
        path = self._at(name)
        if self._can_create():
            try:
                self._send(path, content, mode="create")
                return
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
        if self._call("exists", path):
            raise FileExistsError(self.file(name))
        self.write(name, content)

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""
        self.write(new, self.read(old))  # Object stores have no such request.
        self.delete(old)

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError):
            self._call("rm_file", self._at(name))

    def remove(self) -> None:
        """Remove the folder with all its files."""
        with suppress(FileNotFoundError):
            self._call("rm", self._path, recursive=True, size=60 * _SLOWEST)

    def claim(self) -> Lease:
        """Make it as a new folder, by being the first that holds it."""
        lease = Lease(self, self._timing)
        lease.claim()
        try:
            self.read(MANIFEST)
        except FileNotFoundError:
            return lease
        except OSError:
            lease.release()
            raise
        lease.release()
        raise FileExistsError(self.location)

    def hold(self, notify: Notify) -> Lease:
        """Hold it, after watching for a while if another process holds it."""
        self.refuse_links()
        lease = Lease(self, self._timing)
        lease.take(notify)
        return lease

    def listing(self, folder: str, suffix: str) -> list[Entry]:
        """Return the files in a folder as it lists them, sorted; none if there is no folder."""
        found = (entry for entry in self._entries(folder) or () if entry["type"] == "file")
        return sorted(
            Entry(_name(entry), int(entry["size"] or 0), _version(entry))
            for entry in found
            if _name(entry).endswith(suffix)
        )

    def _list(self, folder: str, kind: Kind) -> list[str]:
        found = self._entries(folder)
        if found is None and not folder:
            self._check_bucket()
        names = (_name(entry) for entry in found or () if entry["type"] == kind)
        return [name for name in names if name not in {"", ".", ".."}]

    def _links(self, folder: str) -> list[str]:
        if self._is_object_store:
            return []
        found = self._entries(folder) or ()
        return [_name(e) for e in found if e["type"] == "link" or e.get("islink")]

    def _entries(self, folder: str) -> list[dict[str, Any]] | None:
        """Return what a folder contains; None if there is no such folder."""
        try:
            return list(self._call("ls", self._at(folder), detail=True, size=60 * _SLOWEST))
        except FileNotFoundError:
            return None

    def _check_bucket(self) -> None:
        """Raise `FileNotFoundError` if it is the bucket that does not exist."""
        bucket = self._path.lstrip("/").partition("/")[0]
        if self.location.partition("://")[0] in _WITH_BUCKETS:
            try:
                self._call("info", bucket)
            except FileNotFoundError:
                raise FileNotFoundError(f"there is no bucket `{bucket}`") from None

    def _read_if_there(self, name: str, most: int) -> bytes | OSError:
        try:
            return self.read(name, most)
        except (FileNotFoundError, TooLarge) as error:
            return error

    def _send(self, path: str, content: bytes, **mode: str) -> None:
        self._call("pipe_file", path, content, size=len(content), **mode)

    def _can_create(self) -> bool:
        """Whether the store itself can refuse to replace a file."""
        system = self._system
        method = getattr(system, "_pipe_file" if system.async_impl else "pipe_file")
        return self._is_object_store and "mode" in inspect.signature(method).parameters

    def _at(self, name: str) -> str:
        if name:
            split_name(name)
        return f"{self._path}/{name}".rstrip("/")

    def _call(self, method: str, *args: Any, size: int = 0, **options: Any) -> Any:
        """Call a method of the file system, which may have to move `size` bytes."""
        try:
            if not self._system.async_impl:
                return getattr(self._system, method)(*args, **options)
            request = getattr(self._system, f"_{method}")(*args, **options)
            return self._answer(request, self._timing.answer_s + size / _SLOWEST)
        except Exception as error:
            raise _as_os_error(error) from error

    def _answer(self, request: Any, seconds: float) -> Any:
        # The timeouts of S3's client do not cover its wait for permission to send a body.
        waiting = asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(request, seconds), self._system.loop
        )
        try:
            return waiting.result()
        except TimeoutError:
            raise TimeoutError(f"no answer within {seconds:.0f} s") from None
        finally:
            waiting.cancel()


Folder: TypeAlias = LocalFolder | RemoteFolder
Hold: TypeAlias = Flock | Lease


def connect(url: str, protocol: str) -> RemoteFolder:
    """Return the folder at a URL, which need not exist. Raises `InvalidInput`."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, **_options(protocol))
    except ImportError as error:
        extra = "harness[s3]" if protocol in {"s3", "s3a"} else ""
        advice = f"install `{extra}`" if extra else str(error).rstrip(".")
        raise InvalidInput(f"`{protocol}://` needs a package that is missing: {advice}.") from None
    except Exception as error:
        raise InvalidInput(f"`{url}` cannot be used: {_as_os_error(error)}.") from error
    if protocol in {"s3", "s3a"}:
        system.retries = 1  # Beside those of the client itself.
    return RemoteFolder(system, path, url)


def _options(protocol: str) -> dict[str, Any]:
    if protocol not in _WITH_BUCKETS:
        return {}
    # Another process may write there at any moment.
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in {"s3", "s3a"}:
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": Timing.answer_s,
            "retries": {"mode": "standard", "total_max_attempts": 2},
        }
    return options


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _is_out_of_range(error: OSError) -> bool:
    """Whether a store answered that an object ends before the range that was asked for."""
    text = r"InvalidRange|range\b.*\b(not satisfiable|is invalid)"
    return type(error) is OSError and re.search(text, str(error), re.IGNORECASE) is not None


def _version(entry: Mapping[str, Any]) -> str:
    """Return what tells a changed file: a store's checksum of it, or else its date."""
    return next((str(entry[key]) for key in _VERSIONS if entry.get(key)), "")


def _as_os_error(error: BaseException) -> OSError:
    """Return the error of any client as an `OSError` with one line of text."""
    if isinstance(error, OSError) and str(error):
        return error
    text = " ".join(str(error).split())
    kind = type(error) if isinstance(error, OSError) else OSError
    return kind(text or type(error).__name__)
