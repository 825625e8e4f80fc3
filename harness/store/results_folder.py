"""The results folder, given by a local path or a URL, and the runs in it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from harness.errors import InvalidInput, UnknownName, explained
from harness.inputs.commands import run_words
from harness.store.files import LocalFolder
from harness.store.remote import OBJECT_STORES, Folder, connect
from harness.store.run_folder import RunFolder

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PROTOCOLS = sorted({*OBJECT_STORES, "file", "sftp", "ssh"})


def open_folder(results: str | Path) -> Folder:
    """Return the folder at a local path or a URL, which need not exist.

    Raises `InvalidInput` for a path where no folder can be, for a URL that is none of a folder, or
    of a store that is not supported.
    """
    text = str(results)
    if not text.strip():
        raise InvalidInput("the path of the results folder is empty: `.` is the current folder.")
    if isinstance(results, Path) or not re.match(r"[^/]*:/", text):
        if re.match(r"[A-Za-z][A-Za-z0-9+]+:/", text):
            raise InvalidInput(f"`{_shown(text)}`: give a URL as text, not as a path.")
        return _local(Path(text))
    protocol = _check(text)
    if protocol == "file":
        return _local(Path(text.removeprefix("file://")))
    return connect(text, protocol)


def find_run(results: str | Path, run: str) -> RunFolder:
    """Return the folder of a run. Raises `UnknownName` if there is no such run."""
    folder = RunFolder(run_folder(results, run))
    if not folder.exists():
        known = [folder.name for folder in run_folders(results)]
        raise UnknownName("run", run, known, hint=f" in `{results}`")
    return folder


def run_folders(results: str | Path) -> list[RunFolder]:
    """Return the folders of all runs, by name. Raises `InvalidInput` if they cannot be listed."""
    folder = open_folder(results)
    with explained(InvalidInput, f"`{folder.location}` cannot be read"):
        names = filter(_RUN_ID.fullmatch, folder.folders())
    runs = [RunFolder(folder.folder(name)) for name in names]
    return [run for run in runs if _may_be_run(run)]


def _may_be_run(folder: RunFolder) -> bool:
    """Whether it is a run, as far as it can be read: one that cannot does not hide the others."""
    try:
        return folder.exists()
    except InvalidInput:
        return True


def run_folder(results: str | Path, run: str) -> Folder:
    """Return the folder that a run has or would have. Raises `InvalidInput` for a bad id."""
    if not _RUN_ID.fullmatch(run):
        words = run_words(run.rstrip("/"))
        if "/" in run and _RUN_ID.fullmatch(words[0]):
            raise InvalidInput(
                f"run id `{run}`: give the name without its folder: `{shlex.join(words)}`."
            )
        raise InvalidInput(
            f"run id `{run}`: use letters, digits, `.`, `_` and `-`, at most 100, starting with a "
            f"letter or a digit."
        )
    return open_folder(results).folder(run)


def _local(path: Path) -> LocalFolder:
    """Return the folder at a path. Raises `InvalidInput` if something else is in its way."""
    # `Path.exists` raises for some paths, and is false for a link that leads nowhere.
    found = next((p for p in map(str, (path, *path.parents)) if os.path.lexists(p)), "")
    if found and not os.path.isdir(found):
        is_link = os.path.islink(found) and not os.path.exists(found)
        what = f"a link to `{os.readlink(found)}`, which is not there" if is_link else "no folder"
        raise InvalidInput(f"the results folder `{path}` cannot be used: `{found}` is {what}.")
    return LocalFolder(path)


def _check(url: str) -> str:
    """Return the protocol of a URL. Raises `InvalidInput`."""
    protocol, _, rest = url.partition(":")
    if "::" not in url and protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    path = rest.removeprefix("//")
    user = path.partition("/")[0].rpartition("@")[0]
    what = "path" if protocol in {"file", "memory"} else "bucket or host"
    problems = {
        "chained URLs (`::`) are not supported": "::" in url,
        f"write it as `{protocol}://...`": not rest.startswith("//"),
        "a URL of results holds no space and none of `? # * [ ]`": re.search(
            r"[?#\s\x00-\x1f*\[\]]", path
        ),
        "a URL of results holds no `.` or `..`": {".", ".."} & set(path.split("/")),
        "a URL that others see holds no credentials; give them by the environment or the store's "
        "own files": user and (":" in user or protocol in OBJECT_STORES),
        "write `file:///` and the rest of the path": protocol == "file" and path[:1] != "/",
        f"it names no {what}": not path.strip("/"),
    }
    for problem, found in problems.items():
        if found:
            raise InvalidInput(f"`{_shown(url)}`: {problem}.")
    return protocol


def _shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    return re.sub(r"[?#].*", "?...", re.sub(r"//[^/]*@", "//...@", url))
