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
import stat
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from harness.errors import InvalidInput, StoreError, explained, printable
from harness.inputs.bounded import MOST_BYTES, read_open

Notify: TypeAlias = Callable[[str], None]
"""Is called with each message that the user should see."""


Kind: TypeAlias = Literal["file", "directory"]

# The answers of a file system that lacks a call: NFS without its lock service, Lustre without
# `-o flock`, and many in user space.
_LACKING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

# A folder that leads to others: for some systems, who may pass through need not be able to list.
_LEADING = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_ITSELF = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_READ = os.O_RDONLY | _ITSELF
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _ITSELF
_LOCK = os.O_RDWR | os.O_CREAT | _ITSELF
_NO_FILE = "it is no regular file"
_WRITTEN = ("", "records", "plots")
"""The folders of a run that files are written to."""

_STREAMS = ("stdin", "stdout", "stderr")
_STREAM = re.compile(rf"/dev/(?P<name>{'|'.join(_STREAMS)})|(/dev|/proc/self)/fd/(?P<number>\d+)")


class Entry(NamedTuple):
    """A file as its folder lists it."""

    name: str
    size: int
    version: str
    """It differs once the file was changed: its date, or a checksum."""


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

    def refuse_links(self, *names: str) -> None:
        """Raise `OSError` if anything that may be written is a link.

        `names`: the files and folders that will be written, if it is not the folder of a run.
        """
        for folder in _WRITTEN:
            for link in self._links(folder):
                path = f"{folder}/{link}".lstrip("/")
                if not names or path.partition("/")[0] in names:
                    raise _link(f"`{self.file(path)}`")

    def _links(self, folder: str) -> Iterable[str]:
        """Return the names of the links in a folder; nothing where there can be none."""
        del folder
        return ()

    def listing(self, folder: str, suffix: str) -> list[Entry]:
        """Return the files in a folder as it lists them, sorted; none if there is no folder."""
        raise NotImplementedError

    def _list(self, folder: str, kind: Kind) -> Iterable[str]:
        """Return the names of what a folder contains; nothing if there is no such folder."""
        raise NotImplementedError


class LocalFolder(Files):
    """A folder on a disk of this machine.

    Its path is the user's own word and may be, or hold, a link. Below it no link is followed, for
    reading or writing: each folder is opened from the one before it, so that nothing can be put in
    between meanwhile.
    """

    def __init__(self, path: Path, *inside: str) -> None:
        """`inside`: the names of the folders below `path` that lead to it."""
        self._root, self._inside = path, inside
        self.location = str(path.joinpath(*inside))

    def folder(self, name: str) -> LocalFolder:
        """Return a folder in it."""
        return LocalFolder(self._root, *self._inside, name)

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read a regular file of at most so many bytes."""
        [(_, content)] = self.read_many([name], most)
        if isinstance(content, OSError):
            raise content
        return content

    def read_many(
        self, names: Iterable[str], most: int = MOST_BYTES
    ) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield each name with its content, or with the reason why this one cannot be read."""
        with ExitStack() as stack:
            opened: dict[tuple[str, ...], int] = {}
            for name in names:
                try:
                    folder, file = split_name(name)
                    if folder not in opened:
                        opened[folder] = stack.enter_context(self._open(*folder))
                    content: bytes | OSError = _read(opened[folder], file, most)
                except OSError as error:
                    content = error
                yield name, content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it by renaming another one."""
        self._put(name, content, os.replace)

    def create(self, name: str, content: bytes) -> None:
        """Write a file that does not exist yet. Raises `FileExistsError`."""
        self._put(name, content, os.link)

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""
        (folder, file), (new_folder, new_file) = split_name(old), split_name(new)
        with self._open(*folder) as here, self._open(*new_folder) as there:
            os.rename(file, new_file, src_dir_fd=here, dst_dir_fd=there)

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        folder, file = split_name(name)
        with suppress(FileNotFoundError), self._open(*folder) as here:
            os.unlink(file, dir_fd=here)

    def remove(self) -> None:
        """Remove the folder with all its files, as far as that is possible."""
        if not self._inside:
            shutil.rmtree(self._root, ignore_errors=True)
            return
        *parents, name = self._inside
        with suppress(OSError), _opened(self._root, parents) as above:
            shutil.rmtree(name, ignore_errors=True, dir_fd=above)

    def claim(self) -> Flock:
        """Make the folder and missing parents, and hold it. Raises `FileExistsError`."""
        *parents, name = self._inside
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # The folder itself does not exist.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        with _opened(self._root, parents) as above:
            os.mkdir(name, dir_fd=above)
        try:
            with self._open("records", make=True):
                return self._lock()
        except BaseException:
            self.remove()  # Without a lock it would be no run, but take its name.
            raise

    def hold(self, notify: Notify) -> Flock:
        """Hold it for writing. Raises `InvalidInput` if another process does."""
        del notify  # It never waits: the system knows whether the holder lives.
        self.refuse_links()
        return self._lock()

    def _links(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError), self._entries(folder) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]
        return []

    def listing(self, folder: str, suffix: str) -> list[Entry]:
        """Return the files in a folder as it lists them, sorted; none if there is no folder."""
        with suppress(FileNotFoundError), self._entries(folder) as entries:
            there = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
            return sorted(
                Entry(name, of.st_size, str(of.st_mtime_ns))
                for name, of in there
                if name.endswith(suffix)
            )
        return []

    def _list(self, folder: str, kind: Kind) -> list[str]:
        # A folder where a file belongs is named as one, and so is a link to a folder where a folder
        # belongs: whoever reads it says so.
        with suppress(FileNotFoundError), self._entries(folder) as entries:
            return [entry.name for entry in entries if kind == "file" or _is_folder(entry)]
        return []

    @contextmanager
    def _entries(self, folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with self._open(*filter(None, [folder])) as here:
            number = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            try:
                with os.scandir(number) as entries:
                    yield entries
            finally:
                os.close(number)

    def _put(self, name: str, content: bytes, publish: Callable[..., object]) -> None:
        folder, file = split_name(name)
        part = f".{uuid.uuid4().hex}.part"
        with self._open(*folder, make=True) as here:
            try:
                with open(os.open(part, _NEW, 0o666, dir_fd=here), "wb") as out:
                    out.write(content)
                    out.flush()
                    with _supported("fsync"):
                        os.fsync(out.fileno())
                publish(part, file, src_dir_fd=here, dst_dir_fd=here)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=here)

    def _open(self, *inside: str, make: bool = False) -> AbstractContextManager[int]:
        """Return a descriptor of a folder in it; `make`: those `inside` are made if missing."""
        return _opened(self._root, (*self._inside, *inside), len(inside) if make else 0)

    def _lock(self) -> Flock:
        with self._open() as here:
            return Flock(here, self.name)


@contextmanager
def _opened(root: Path, inside: Sequence[str], made: int = 0) -> Iterator[int]:
    """Yield a descriptor of a folder below `root`; the last `made` are made if they are missing."""
    here, path = os.open(root, _LEADING), root
    try:
        for number, name in enumerate(inside):
            path = path / name
            if number >= len(inside) - made:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=here)
            above, here = here, _into(here, name, path)
            os.close(above)
        yield here
    finally:
        os.close(here)


def _into(above: int, name: str, path: Path) -> int:
    """Open a folder in another one."""
    try:
        return os.open(name, _LEADING | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if _is_link(above, name):
            raise _link(f"`{path}`") from None
        if error.errno == errno.ENOTDIR:
            raise NotADirectoryError(errno.ENOTDIR, f"`{path}` is no folder") from None
        raise


def _read(folder: int, name: str, most: int) -> bytes:
    """Read a regular file, and nothing else."""
    try:
        number = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if _is_link(folder, name):
            raise _link("it") from None
        if error.errno == errno.ENXIO:
            raise OSError(_NO_FILE) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(_NO_FILE)
        return read_open(number, most)
    finally:
        os.close(number)


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _link(what: str) -> OSError:
    return OSError(f"{what} is a link, which is not followed; put a copy in its place")


def split_name(name: str) -> tuple[tuple[str, ...], str]:
    """Return the folders and the file in a name. Raises `OSError` if it leads elsewhere."""
    *folders, file = name.split("/")
    if {"", ".", ".."} & {*folders, file} or "\0" in name:
        raise OSError(f"`{printable(name)}` is no name of a file in it")
    return tuple(folders), file


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that leads to itself.
        return False


class Flock:
    """The right to write to a folder on a disk: the system's lock on its file `.lock`."""

    def __init__(self, folder: int, name: str) -> None:
        """`folder` is its descriptor, `name` what it is called."""
        number = os.open(".lock", _LOCK, 0o666, dir_fd=folder)
        self._file = FileIO(number)
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise OSError(f"`.lock`: {_NO_FILE}; remove it")
            with _supported("locks"):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise being_written(name) from None
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
