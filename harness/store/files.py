"""The files of a results folder: listed, read and written here, on a local disk.

`harness.store.remote` does the same behind a URL. Names are relative, with `/` between folder and
file. A file is written whole or not at all. Every method may raise `OSError`: `FileNotFoundError`
and `FileExistsError` mean what they say; any other says that the place cannot be used or does not
answer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from harness.errors import InvalidInput, StoreError, explained

Notify: TypeAlias = Callable[[str], None]
"""Is called with each message that the user should see."""


Kind: TypeAlias = Literal["file", "directory"]

# The answers of a file system that lacks a call: NFS without its lock service, Lustre without
# `-o flock`, and many in user space.
_LACKING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


_STREAMS = ("stdin", "stdout", "stderr")
_STREAM = re.compile(rf"/dev/(?P<name>{'|'.join(_STREAMS)})|(/dev|/proc/self)/fd/(?P<number>\d+)")


class Files:
    """What `LocalFolder`, `RemoteFolder` and `Outbox` have in common."""

    location: str
    """The path or URL of the folder."""

    @property
    def name(self) -> str:
        """The last part of the location."""
        return self.location.replace("\\", "/").rpartition("/")[2]

    def file(self, name: str) -> str:
        """Return the path or URL of a file, to show to people."""
        return f"{self.location}/{name}"

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Return the names of the files in a folder, as `folder/file`, sorted."""
        found = (name for name in self._list(folder, "file") if name.endswith(suffix))
        return sorted(f"{folder}/{name}".lstrip("/") for name in found)

    def folders(self) -> list[str]:
        """Return the names of the folders in it, sorted."""
        return sorted(self._list("", "directory"))

    def _list(self, folder: str, kind: Kind) -> Iterable[str]:
        """Return the names of what a folder contains; nothing if there is no such folder."""
        raise NotImplementedError


class LocalFolder(Files):
    """A folder on a disk of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = str(path)

    def folder(self, name: str) -> LocalFolder:
        """Return a folder in it."""
        return LocalFolder(self._path / name)

    def read(self, name: str) -> bytes:
        """Read a file."""
        with open(f"{self.location}/{name}", "rb") as file:  # Faster than a `Path`.
            return file.read()

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield each name with its content, or with the reason why this one cannot be read."""
        for name in names:
            try:
                yield name, self.read(name)
            except OSError as error:
                yield name, error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it by renaming another one."""
        self._put(name, content, lambda part, path: part.replace(path))

    def create(self, name: str, content: bytes) -> None:
        """Write a file that does not exist yet. Raises `FileExistsError`."""
        self._put(name, content, lambda part, path: path.hardlink_to(part))

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""
        (self._path / old).rename(self._path / new)

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        (self._path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all its files, as far as that is possible."""
        shutil.rmtree(self._path, ignore_errors=True)

    def claim(self) -> Flock:
        """Make the folder and missing parents, and hold it. Raises `FileExistsError`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # The folder itself does not exist.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        self._path.mkdir()
        try:
            (self._path / "records").mkdir()
            return Flock(self._path)
        except BaseException:
            self.remove()  # Without a lock it would be no run, but take its name.
            raise

    def hold(self, notify: Notify) -> Flock:
        """Hold it for writing. Raises `InvalidInput` if another process does."""
        del notify  # It never waits: the system knows whether the holder lives.
        return Flock(self._path)

    def _list(self, folder: str, kind: Kind) -> list[str]:
        folders = kind == "directory"
        try:
            with os.scandir(self._path / folder) as entries:
                return [entry.name for entry in entries if _is_folder(entry) == folders]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _put(self, name: str, content: bytes, publish: Callable[[Path, Path], object]) -> None:
        path = self._path / name
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        if path.parent != self._path:
            path.parent.mkdir(exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                with _supported("fsync"):
                    os.fsync(file.fileno())
            publish(part, path)
        finally:
            part.unlink(missing_ok=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that leads to itself.
        return False


class Flock:
    """The right to write to a folder on a disk: the system's lock on its file `.lock`."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / ".lock").open("w")
        try:
            with _supported("locks"):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise being_written(folder.name) from None
        except OSError:
            self._file.close()
            raise

    def confirm(self) -> bool:
        """Return False: no other process can take it over."""
        return False

    def release(self) -> None:
        """Let another process write."""
        self._file.close()


@contextmanager
def _supported(what: str) -> Iterator[None]:
    """Say in the error of a system call that the file system does not have it, if so."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        raise OSError(
            error.errno,
            f"its file system has no {what} ({error.strerror}); name a folder on a local disk",
        ) from error


def being_written(name: str) -> InvalidInput:
    """Return the error that refuses a second writer."""
    return InvalidInput(f"run `{name}` is being written by another process.")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file anywhere on this machine, whole or not at all. Raises `StoreError`.

    A link stays a link. What is no file, such as `/dev/null`, is written to and not replaced, and
    so is an open stream, wherever it leads.
    """
    with explained(StoreError, f"`{path}` cannot be written"):
        if (number := open_stream(path)) is not None:
            sys.stdout.flush()
            with open(os.dup(number), "wb") as stream:
                stream.write(content)
            return
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            LocalFolder(path.parent).write(path.name, content)


def open_stream(path: Path) -> int | None:
    """Return the number of the open stream that a path stands for, as `/dev/stdout`; or None."""
    found = _STREAM.fullmatch(os.fspath(path))
    return int(found["number"] or _STREAMS.index(found["name"])) if found else None
