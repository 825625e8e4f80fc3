"""Questions to git, first of all which code was measured."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from harness.errors import InvalidInput

_TIMEOUT_S = 10.0


def git(
    *arguments: str, folder: Path | None = None, timeout_s: float | None = None, **variables: str
) -> str:
    """Return what git prints, without the last line break.

    It runs in `folder`, or the current one, with `variables` in its environment. Raises
    `InvalidInput` if git is not installed, fails, or takes longer than `timeout_s`.
    """
    # Inside a git hook, these name the repository and the index of the hook.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", **variables}
    folder = folder or Path.cwd()
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidInput(f"`git` cannot be used in `{folder}`: {error}.") from None
    if done.returncode:
        last = (os.fsdecode(done.stderr).strip().splitlines() or ["no reason given"])[-1]
        raise InvalidInput(f"`git {arguments[0]}` in `{folder}`: {last}.")
    return os.fsdecode(done.stdout).rstrip("\n")


def describe_source(name: str, file: str | None) -> dict[str, str]:
    """Return `commit:NAME`, and `dirty:NAME`: whether the code differs from that commit.

    Returns nothing without a file, git or a repository, or if git ignores the file, as it does
    inside a virtual environment.
    """
    if file is None:
        return {}
    folder = Path(file).resolve().parent
    commit = _asked(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _asked(folder, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None or _asked(folder, "check-ignore", file) is not None:
        return {}
    # Untracked results and notes do not count, but an untracked `file` is code.
    tracked = _asked(folder, "ls-files", "--error-unmatch", file) is not None
    return {f"commit:{name}": commit, f"dirty:{name}": "yes" if changes or not tracked else "no"}


def _asked(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it fails."""
    try:
        return git(*arguments, folder=folder, timeout_s=_TIMEOUT_S)
    except InvalidInput:
        return None
