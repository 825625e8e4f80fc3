from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.commands import Cli, in_a_process, in_this_process
from tests.helpers.processes import MARK

# Most tests of `run` are not about its report, which takes seconds.
os.environ.setdefault("HARNESS_REPORT", "0")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Call the command line in this process."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return in_this_process


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line in a process of its own, as a user does."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return in_a_process
