"""Packs a project for the cluster: the files that git would add, without results and environments.

Ray reads `.gitignore` itself, but not as git does (a negation below a folder, `info/exclude`). It
would send `.git` and committed results, too, and refuses a large project only after the upload.
"""

from __future__ import annotations

import fnmatch
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import InvalidInput
from harness.measure.git import git

LIMIT_MB = 100
"""The largest request that Ray's job server takes (`DASHBOARD_CLIENT_MAX_SIZE`), in MiB."""

_NEVER = (".git", ".venv*", "venv", "__pycache__", "*.egg-info")
_RESULTS = "results"
_MARKS = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".gitignore")
_MIB = 2**20


def check_project(folder: Path) -> None:
    """Raise `InvalidInput` if it is no project, but for example a home directory."""
    if not any((folder / mark).exists() for mark in _MARKS):
        raise InvalidInput(
            f"`{folder}` does not look like a project (it has no {', '.join(_MARKS[:-1])} or "
            f"{_MARKS[-1]}): go to the one that the job needs, or name it with `--working-dir`."
        )


def files(folder: Path) -> dict[str, Path]:
    """Return the files to send, by their names in the zip file.

    Left out are what `.gitignore` names, `results/` at the top, `.git`, virtual environments and
    links to folders. Raises `InvalidInput` if nothing is left, or git cannot be used.
    """
    listed = sorted(_listed(folder))
    found = {
        name: folder / name
        for name in listed
        if name.partition("/")[0] != _RESULTS and not _left_out(name) and (folder / name).is_file()
    }
    if not found:
        raise InvalidInput(
            f"`{folder}` has no files to send ({_why_nothing(folder, listed)}): go to the project "
            "that the job needs, or name it with `--working-dir`."
        )
    return found


def _why_nothing(folder: Path, listed: Sequence[str]) -> str:
    if listed:
        tops = dict.fromkeys("`" + "".join(name.partition("/")[:2]) + "`" for name in listed)
        return f"never sent: {', '.join(list(tops)[:5])}"
    return "git ignores them all" if any(folder.iterdir()) else "it is empty"


def pack(folder: Path, found: Mapping[str, Path], to: Path) -> None:
    """Write a zip file that is the same for the same files, so that it is sent only once.

    Raises `InvalidInput` with the names of the largest files if the job server would not take it.
    """
    try:
        with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in found.items():
                entry = zipfile.ZipInfo(name)
                entry.external_attr = path.stat().st_mode << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
                _check_size(to, folder, found)
        _check_size(to, folder, found)
    except OSError as error:
        raise InvalidInput(f"`{folder}` cannot be packed: {error}.") from error


def _check_size(packed: Path, folder: Path, found: Mapping[str, Path]) -> None:
    if packed.stat().st_size <= LIMIT_MB * _MIB:
        return
    sizes: Counter[str] = Counter()
    for name, path in found.items():
        top, slash, _ = name.partition("/")
        sizes[top + slash] += path.stat().st_size
    largest = ", ".join(f"`{top}` {size / _MIB:.0f} MiB" for top, size in sizes.most_common(5))
    raise InvalidInput(
        f"`{folder}` is more than the {LIMIT_MB} MiB, compressed, that Ray's job server takes; "
        f"largest: {largest}. Name in `.gitignore` what the job does not need."
    )


def _left_out(name: str) -> bool:
    return any(fnmatch.fnmatch(part, mark) for part in name.split("/") for mark in _NEVER)


def _listed(folder: Path) -> Iterator[str]:
    """Yield the names of the files that git tracks or would add, below the folder."""
    for name in filter(None, _ask_git(folder).split("\0")):
        path = folder / name
        if path.is_dir() and not path.is_symlink() and not _left_out(name.rstrip("/")):
            # Git names a repository inside the repository, but does not look into it.
            yield from (f"{name.rstrip('/')}/{inner}" for inner in _listed(path))
        else:
            yield name


def _ask_git(folder: Path) -> str:
    others = ["ls-files", "-z", "--others", "--exclude-standard"]
    try:
        names = git(*others, "--cached", "--deduplicate", folder=folder)
    except InvalidInput:
        # Without a repository, an empty one elsewhere reads the `.gitignore` files all the same.
        with tempfile.TemporaryDirectory() as empty:
            git("init", "--quiet", "--bare", empty, folder=folder)
            names = git(f"--git-dir={empty}", f"--work-tree={folder}", *others, folder=folder)
    try:
        names.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"`{folder}` has a file whose name is not UTF-8.") from None
    return names
