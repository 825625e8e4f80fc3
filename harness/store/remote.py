"""A folder behind a URL, over fsspec: object stores (S3 and others), SFTP, memory.

A store that does not answer is found out in seconds, not minutes: who writes keeps what he has
and tries again (`harness.store.outbox`).
"""

from __future__ import annotations

import asyncio
import errno
import inspect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harness.errors import InvalidInput
from harness.store.files import Hold, Note
from harness.store.lease import Lease, Timing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# One request creates or replaces an object there, whole or not at all.
OBJECT_STORES = {"abfs", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
_WITH_BUCKETS = OBJECT_STORES - {"memory"}
_CONNECT_S = 5
_SLOWEST = 250_000  # Bytes per second at which a large file still gets through.
_AT_ONCE = 200


class RemoteFolder:
    """A folder in a file system of fsspec."""

    may_stop_answering = True

    def __init__(
        self, system: AbstractFileSystem, path: str, url: str, timing: Timing | None = None
    ) -> None:
        """`path` is how the file system calls what users call `url`."""
        self._system = system
        self._path = path.rstrip("/")
        self._timing = timing or Timing()
        self._is_object_store = url.partition("://")[0] in OBJECT_STORES
        self.location = url.rstrip("/")

    def file(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.location}/{name}"

    def folder(self, name: str) -> RemoteFolder:
        """Return a folder in it."""
        return RemoteFolder(self._system, self._at(name), self.file(name), self._timing)

    def folders(self) -> list[str]:
        """Return the names of the folders in it. Raises `FileNotFoundError` without a bucket."""
        try:
            found = self._list(self._path)
        except FileNotFoundError:
            self._check_bucket()
            return []
        return [_last(entry["name"]) for entry in found if entry["type"] == "directory"]

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the files of a folder."""
        try:
            found = self._list(self._at(folder))
        except FileNotFoundError:
            return []
        files = [_last(entry["name"]) for entry in found if entry["type"] == "file"]
        return sorted(f"{folder}/{name}" for name in files if name.endswith(suffix))

    def read(self, name: str) -> bytes:
        """Read a file."""
        content = self._call("cat_file", self._at(name))
        return bytes(content)

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Read many files at a time. Raises `OSError` if the store does not answer."""
        names = list(names)
        for start in range(0, len(names), _AT_ONCE):
            some = {self._at(name): name for name in names[start : start + _AT_ONCE]}
            size = _AT_ONCE * _SLOWEST // 50
            found = self._call("cat", list(some), on_error="return", size=size)
            for path, name in some.items():
                yield name, self._one_of_many(found, path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one request, or under another name where that is not whole."""
        path = self._at(name)
        if self._is_object_store:
            self._call("pipe_file", path, content, size=len(content))
            return
        folder, _, file = path.rpartition("/")
        part = f"{folder}/.{file}.part"
        self._call("makedirs", folder, exist_ok=True)
        self._call("pipe_file", part, content, size=len(content))
        self._move(part, path)

    def create(self, name: str, content: bytes) -> None:
        """Write a file only if there is none, by the store's own means where it has some."""
        if self._creates():
            try:
                self._call("pipe_file", self._at(name), content, size=len(content), mode="create")
                return
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
        if self._call("exists", self._at(name)):
            raise FileExistsError(self.file(name))
        self.write(name, content)

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""
        self._move(self._at(old), self._at(new))

    def delete(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            self._call("rm_file", self._at(name))

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        with suppress(FileNotFoundError):
            self._call("rm", self._path, recursive=True, size=60 * _SLOWEST)

    def claim(self) -> Hold:
        """Make it as a new folder, by being the first who holds it."""
        lease = Lease(self, self._timing)
        lease.claim()
        try:
            self.read("manifest.json")
        except FileNotFoundError:
            return lease
        except OSError:
            lease.release()
            raise
        lease.release()
        raise FileExistsError(self.location)

    def hold(self, note: Note) -> Hold:
        """Hold it, if need be after it was watched for a while."""
        lease = Lease(self, self._timing)
        lease.take(note)
        return lease

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _creates(self) -> bool:
        """Whether the store itself can refuse to replace a file."""
        system = self._system
        method = getattr(system, "_pipe_file" if system.async_impl else "pipe_file")
        return self._is_object_store and "mode" in inspect.signature(method).parameters

    def _move(self, old: str, new: str) -> None:
        if self._system.async_impl:  # Object stores know no renaming.
            self._call("cp_file", old, new)
            self._call("rm_file", old)
        else:
            self._call("mv", old, new)

    def _list(self, path: str) -> list[dict[str, Any]]:
        self._system.invalidate_cache()
        found: list[dict[str, Any]] = self._call("ls", path, detail=True, size=60 * _SLOWEST)
        return sorted(found, key=lambda entry: str(entry["name"]))

    def _check_bucket(self) -> None:
        bucket = self._path.lstrip("/").partition("/")[0]
        if self.location.partition("://")[0] in _WITH_BUCKETS:
            try:
                self._call("info", bucket)
            except FileNotFoundError:
                raise FileNotFoundError(f"there is no bucket `{bucket}`") from None

    def _one_of_many(self, found: dict[str, Any], path: str) -> bytes | OSError:
        content = found.get(path, FileNotFoundError(path))
        if isinstance(content, FileNotFoundError):
            return content
        if isinstance(content, BaseException):
            # Not that file's fault: taken for broken, its trial would be measured again.
            raise _as_os_error(content)
        return bytes(content)

    def _call(self, method: str, *args: Any, size: int = 0, **options: Any) -> Any:
        """Call a method of the file system; `size` are the bytes that it may have to move."""
        try:
            if not self._system.async_impl:
                return getattr(self._system, method)(*args, **options)
            request = getattr(self._system, f"_{method}")(*args, **options)
            return self._answer(request, self._timing.answer_s + size / _SLOWEST)
        except OSError as error:
            raise _as_os_error(error) from error
        except Exception as error:
            raise _as_os_error(error) from error

    def _answer(self, request: Any, seconds: float) -> Any:
        # The file system's own time limits leave out, of S3, the wait for leave to send a body.
        waiting = asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(request, seconds), self._system.loop
        )
        try:
            return waiting.result()
        except TimeoutError:
            raise TimeoutError(f"no answer within {seconds:.0f} s") from None
        finally:
            waiting.cancel()


def connect(url: str, protocol: str) -> RemoteFolder:
    """Return the folder at a URL, unasked whether it is there. Raises `InvalidInput`."""
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
    # Another process may write there: what it held a moment ago says nothing.
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in {"s3", "s3a"}:
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": Timing.answer_s,
            "retries": {"mode": "standard", "total_max_attempts": 2},
        }
    return options


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _as_os_error(error: BaseException) -> OSError:
    """Return an error of whatever client as one that says in a line what went wrong."""
    if isinstance(error, OSError) and str(error):
        return error
    text = " ".join(str(error).split())
    kind = type(error) if isinstance(error, OSError) else OSError
    return kind(text or type(error).__name__)
