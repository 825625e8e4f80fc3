from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    path = tmp_path / "project"
    path.mkdir()
    return Project(path)
