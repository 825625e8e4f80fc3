"""The token that a Ray cluster may ask for."""

from __future__ import annotations

import os
from pathlib import Path

ADVICE = (
    "the head has it in `~/.ray/auth_token` (`ray get-auth-token` prints it there): copy it to "
    "the same file here, mode 0600, or set RAY_AUTH_TOKEN"
)


def has_token() -> bool:
    """Say whether there is a token where Ray looks for it."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def show_token() -> None:
    """Make Ray's client send the token, if there is one; by default it does not."""
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
