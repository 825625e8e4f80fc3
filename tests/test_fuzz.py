"""Some hostile input for every reader; `python -m benchmarks.fuzz` has more."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz import attempt
from benchmarks.helpers.readers import READERS
from tests.helpers.commands import ROOT


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("HARNESS_DEBUG", "1")
        yield folder


@pytest.mark.parametrize("name", READERS)
@given(seed=st.integers(0, 2**32))
def test_hostile_input_is_refused_or_accepted(name: str, scratch: Path, seed: int) -> None:
    reader = READERS[name]
    attempt(reader, reader.make(random.Random(seed)), scratch / "here")


@pytest.mark.slow
def test_hostile_folders_in_processes_of_their_own(tmp_path: Path) -> None:
    words = ("-m", "benchmarks.fuzz", "folder", "--inputs", "200", "--keep", tmp_path)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].endswith("| 0 |"), done.stdout + done.stderr
