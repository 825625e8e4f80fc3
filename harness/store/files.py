"""A folder of files, wherever it is: what the store of results needs, and that on a local disk.

Names are relative, with `/` between folder and file. A file is written whole or not at all.
Everything raises `OSError`: `FileNotFoundError` and `FileExistsError` mean what they say, any other
that the place cannot be used or does not answer.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, TypeAlias

from harness.errors import InvalidInput, StoreError

Note: TypeAlias = Callable[[str], None]
"""Is told what the user should know."""


def silence(message: str) -> None:
    """Tell nobody."""


class Hold(Protocol):
    """The right of one process to write to a folder."""

    def confirm(self) -> bool:
        """Make sure that it is held still.

        Say whether the folder was lost, with all that was in it, and is held anew. Raises
        `StoreError` if another process took it over, `OSError` if the place does not answer.
        """

    def release(self) -> None:
        """Give it up."""


class Files(Protocol):
    """The files of a folder."""

    @property
    def location(self) -> str:
        """Where the folder is: a path or a URL."""

    def file(self, name: str) -> str:
        """Return where a file of it is, for people."""

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files in one of its folders, as `folder/file`, sorted."""

    def read(self, name: str) -> bytes:
        """Return what is in a file."""

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield what is in each file, or why that one file cannot be read."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file or replace it."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""

    def remove(self) -> None:
        """Remove the folder and all that is in it."""


class Folder(Files, Protocol):
    """A folder of files and folders."""

    @property
    def may_stop_answering(self) -> bool:
        """Whether there is a network between here and there."""

    def folder(self, name: str) -> Folder:
        """Return a folder in it, which need not exist."""

    def folders(self) -> list[str]:
        """Return the names of the folders in it, sorted."""

    def create(self, name: str, content: bytes) -> None:
        """Write a file that does not exist yet."""

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def claim(self) -> Hold:
        """Make it as a new folder and hold it. Raises `FileExistsError` if it is there."""

    def hold(self, note: Note) -> Hold:
        """Hold it for writing. Raises `InvalidInput` if another process does."""


class LocalFolder:
    """A folder on a disk of this machine."""

    may_stop_answering = False

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def location(self) -> str:
        """Its path."""
        return str(self._path)

    def file(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._path / name)

    def folder(self, name: str) -> LocalFolder:
        """Return a folder in it."""
        return LocalFolder(self._path / name)

    def folders(self) -> list[str]:
        """Return the names of the folders in it."""
        return sorted(path.name for path in self._path.glob("*/"))

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the files of a folder."""
        return sorted(f"{folder}/{path.name}" for path in (self._path / folder).glob(f"*{suffix}"))

    def read(self, name: str) -> bytes:
        """Read a file."""
        with open(f"{self._path}/{name}", "rb") as file:  # Faster than by way of a `Path`.
            return file.read()

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | OSError]]:
        """Read one file after the other."""
        for name in names:
            try:
                yield name, self.read(name)
            except OSError as error:
                yield name, error

    def write(self, name: str, content: bytes) -> None:
        """Write a file under another name and rename it."""
        part = self._part(name, content, "")
        try:
            part.replace(self._path / name)
        except OSError:
            part.unlink()
            raise

    def create(self, name: str, content: bytes) -> None:
        """Write a file under another name and link it, which does not replace another."""
        part = self._part(name, content, f".{uuid.uuid4().hex}")
        try:
            (self._path / name).hardlink_to(part)
        finally:
            part.unlink()

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""
        (self._path / old).rename(self._path / new)

    def delete(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the tree."""
        shutil.rmtree(self._path)

    def claim(self) -> Hold:
        """Make the folder, its parents too."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.mkdir()
        (self._path / "records").mkdir()
        return self.hold()

    def hold(self, note: Note | None = None) -> Hold:
        """Lock it as long as this process lives."""
        del note  # There is nothing to wait for: the system knows who lives.
        return _Flock((self._path / ".lock").open("w"), self._path.name)

    def _part(self, name: str, content: bytes, mark: str) -> Path:
        path = self._path / name
        part = path.with_name(f".{path.name}{mark}.part")
        try:
            if path.parent != self._path:
                path.parent.mkdir(exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise
        return part


class _Flock:
    """A lock of the system's on an open file."""

    def __init__(self, file: IO[str], name: str) -> None:
        self._file = file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise being_written(name) from None

    def confirm(self) -> bool:
        """Say that nothing has changed: it cannot be taken over."""
        return False

    def release(self) -> None:
        """Let go."""
        self._file.close()


def being_written(name: str) -> InvalidInput:
    """Return the refusal of a second writer."""
    return InvalidInput(f"run `{name}` is being written by another process.")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and for good. Raises `StoreError`."""
    try:
        LocalFolder(path.parent).write(path.name, content)
    except OSError as error:
        raise StoreError(f"`{path}` cannot be written: {reason(error)}") from error


def reason(error: OSError) -> str:
    """Say in a few words what went wrong."""
    return (error.strerror or str(error) or type(error).__name__).rstrip(".")
