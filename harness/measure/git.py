"""Which code was measured: the commit of the repository that a file lies in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_TIMEOUT_S = 10.0


def describe_source(name: str, file: str | None) -> dict[str, str]:
    """Return `commit:NAME`, and `dirty:NAME`: whether the code differs from that commit.

    Nothing where there is nothing to say: no file, no git, no repository, or one that ignores the
    file, as that around a virtual environment does.
    """
    if file is None:
        return {}
    folder = Path(file).resolve().parent
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None or _git(folder, "check-ignore", file) is not None:
        return {}
    # Results and notes lie about untracked; the file itself is code.
    tracked = _git(folder, "ls-files", "--error-unmatch", file) is not None
    return {f"commit:{name}": commit, f"dirty:{name}": "yes" if changes or not tracked else "no"}


def git_environment() -> dict[str, str]:
    """Return an environment in which git reads the repository that it runs in, and changes none.

    In a hook, it would be told of the repository and the index of the hook.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return environment | {"GIT_OPTIONAL_LOCKS": "0"}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if there is no git, or it says no."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=git_environment(),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
