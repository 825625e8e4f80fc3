"""Every test that Hypothesis gives examples, with ten times as many as the fast suite has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_properties_hold_for_many_examples() -> None:
    words = ["-q", "-m", "hypothesis and not slow", "--hypothesis-profile", "thorough"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
