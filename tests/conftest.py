from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from harness.measure.settings import THREAD_VARIABLES
from tests.helpers.commands import ROOT, Cli, in_a_process, in_this_process
from tests.helpers.processes import MARK

# Most tests of `run` are not about its report, which takes seconds.
os.environ.setdefault("HARNESS_REPORT", "0")
# One thread for each framework that tests load in their own process, as trials have by default:
# with more, the threads of two processes wait for each other most of the time.
os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

# Images for containers often forbid to keep compiled code. Then each worker of the suite would
# compile all test files anew, and each process that a test starts would compile the harness.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts its background jobs deaf to Ctrl-C, and so would be all processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a busy machine, so there is no deadline. A slow test
# tries more examples: see `test_properties.py`.
settings.register_profile("fast", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("fast")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole fast suite in several processes, and all else in one."""
    whole = [Path(argument).absolute() for argument in config.args] == [Path(__file__).parent]
    if not whole or config.option.markexpr != "not slow":
        return 0
    # One more than there are cores: many tests wait for a process, a store or a timeout.
    return min(4, len(os.sched_getaffinity(0))) + 1


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Call the command line in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(MARK, str(tmp_path))
    return in_this_process


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line in a process of its own, as a user does."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return in_a_process
