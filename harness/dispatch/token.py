"""The token that a Ray cluster may ask for."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import Unavailable, brief

MODE = "RAY_AUTH_MODE"
"""The variable that makes Ray send a token, and demand one: `token` or `disabled`."""
ADVICE = (
    "the head has it in `~/.ray/auth_token` (`ray get-auth-token` prints it there): copy it to "
    "the same file here, mode 0600, or set RAY_AUTH_TOKEN"
)


def has_token() -> bool:
    """Say whether there is a token where Ray looks for it."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def check_token() -> None:
    """Raise `Unavailable` if Ray could not send the token: it would end this process."""
    where, token = "RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN")
    if token is None:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
        where = f"`{path}`"
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise Unavailable(f"{where} has no token for Ray: {brief(error)}; {ADVICE}.") from error
    if not token or not all("!" <= character <= "~" for character in token):
        raise Unavailable(f"{where} has no token for Ray: it is not one word; {ADVICE}.")


def show_token() -> None:
    """Make Ray's client send the token, if there is one; by default it does not."""
    if has_token():
        os.environ.setdefault(MODE, "token")
