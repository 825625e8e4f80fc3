"""Some hostile input for every reader; `python -m benchmarks.fuzz` has more."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz import attempt
from benchmarks.helpers.readers import READERS


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
