"""Julia for the tests that run it: the one on the PATH, or Debian's, unpacked into a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# The last suite of Debian that has Julia (1.5.3).
SUITE = "bullseye"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NoJulia(Exception):
    """There is none, and none can be had; the text says why."""


def folder_of_julia(folder: Path) -> Path:
    """Return the folder of the program `julia`, unpacked into `folder` if it is not on the PATH."""
    installed = shutil.which("julia")
    if installed:
        return Path(installed).parent
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NoJulia("`julia` is not on the PATH, and without apt-get there is no other.")
    archives = _download(folder)
    for archive in archives:
        _run("dpkg", "-x", archive, folder)
    (library,) = folder.glob("usr/lib/*/libjulia.so.1")
    libraries = library.parent
    for link in libraries.glob("julia/*.so"):
        if not link.exists():  # It leads to a library that this system has, of the same name.
            name = link.readlink().name
            (libraries / name).symlink_to(Path("/") / libraries.relative_to(folder) / name)
    return _program(folder, libraries)


def _download(folder: Path) -> list[Path]:
    """Fetch Julia and the libraries that this system lacks from the mirror that apt uses."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYS}] {_mirror()} {SUITE} main\n")
    # apt keeps its own state in the folder, and reads only which packages are installed.
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder,
        "Dir::Cache::Archives": folder / "archives",
        "Acquire::http::Timeout": 10,
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    apt = ("apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items()))
    _run(*apt, "update")
    _run(*apt, "--download-only", "--no-install-recommends", "install", f"julia/{SUITE}")
    # A later libunwind is installed here, and Julia's exceptions crash with it.
    _run(*apt, "download", f"libunwind8/{SUITE}", cwd=folder / "archives")
    return sorted((folder / "archives").glob("*.deb"))


def _mirror() -> str:
    """Return the address of Debian's archive in the sources of apt."""
    form = "--format=$(REPO_URI)"
    addresses = _run("apt-get", "indextargets", form, "Created-By: Packages", "Origin: Debian")
    mirrors = [a for a in addresses.splitlines() if "security" not in a]
    if not mirrors:
        raise NoJulia("`julia` is not on the PATH, and apt knows no mirror of Debian.")
    return mirrors[0]


def _program(folder: Path, libraries: Path) -> Path:
    program = folder / "bin" / "julia"
    program.parent.mkdir()
    path = f"{libraries}:{libraries / 'julia'}"
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={path} exec {folder}/usr/bin/julia "$@"\n')
    program.chmod(0o755)
    return program.parent


def _run(*words: object, cwd: Path | None = None) -> str:
    environment: Mapping[str, str] = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            [*map(str, words)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise NoJulia(f"`{words[0]}`: {error.stderr.strip()[-300:]}") from error
    return done.stdout
