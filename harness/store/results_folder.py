"""Where results are: a local path or a URL, as a user gives it."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import InvalidInput, UnknownName
from harness.store.files import Folder, LocalFolder
from harness.store.remote import OBJECT_STORES, connect

PROTOCOLS = sorted({*OBJECT_STORES, "file", "sftp", "ssh"})


def open_folder(results: str | Path) -> Folder:
    """Return the folder at a local path or a URL, which need not exist.

    Raises `InvalidInput` for a URL that is none of a folder, or of a store that is not supported.
    """
    text = str(results)
    if isinstance(results, Path) or not re.match(r"[^/]*:/", text):
        if re.match(r"[A-Za-z][A-Za-z0-9+]+:/", text):
            raise InvalidInput(f"`{_shown(text)}`: give a URL as text, not as a path.")
        return LocalFolder(Path(text))
    protocol = _check(text)
    if protocol == "file":
        return LocalFolder(Path(text.removeprefix("file://")))
    return connect(text, protocol)


def _check(url: str) -> str:
    """Return the protocol of a URL. Raises `InvalidInput`."""
    protocol, _, rest = url.partition(":")
    if "::" in url:
        raise InvalidInput(f"`{_shown(url)}`: chained URLs (`::`) are not supported.")
    if protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    if not rest.startswith("//"):
        raise InvalidInput(f"`{_shown(url)}`: write it as `{protocol}://...`.")
    rest = rest.removeprefix("//")
    if re.search(r"[?#\s\x00-\x1f*\[\]]", rest):
        raise InvalidInput(
            f"`{_shown(url)}`: a URL of results holds no space and none of `? # * [ ]`."
        )
    if {".", ".."} & set(rest.split("/")):
        raise InvalidInput(f"`{_shown(url)}`: a URL of results holds no `.` or `..`.")
    user = rest.partition("/")[0].rpartition("@")[0]
    if user and (":" in user or protocol in OBJECT_STORES):
        raise InvalidInput(
            f"`{_shown(url)}`: a URL that others see holds no credentials; give them by the "
            "environment or the store's own files."
        )
    if protocol == "file" and not rest.startswith("/"):
        raise InvalidInput(f"`{_shown(url)}`: write `file:///` and the rest of the path.")
    if not rest.strip("/"):
        what = "path" if protocol in {"file", "memory"} else "bucket or host"
        raise InvalidInput(f"`{_shown(url)}`: it names no {what}.")
    return protocol


def _shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    return re.sub(r"[?#].*", "?...", re.sub(r"//[^/]*@", "//...@", url))
