"""Why a local Ray cannot start, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Unavailable
from harness.dispatch import ray_connect


@pytest.mark.parametrize(
    "name", ["l" * 90, *(pytest.param(name, marks=pytest.mark.slow) for name in ("ümläut", "file"))]
)
def test_a_folder_for_temporary_files_that_ray_cannot_use(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / name
    folder.touch() if name == "file" else folder.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    with pytest.raises(Unavailable, match=f"go to `{folder}`: set RAY_TMPDIR to .*`--dispatch inl"):
        ray_connect.connect(None, {})
