"""Which files of a project travel with a job, and how they are packed."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from harness.errors import InvalidInput
from harness.submit import project_zip
from tests.helpers.files import write


@pytest.mark.parametrize("repository", [True, False])
def test_what_git_would_add_is_sent(tmp_path: Path, repository: bool) -> None:
    project = tmp_path / "project"
    kept = ["pyproject.toml", "pkg/a.py", "pkg/data/keep.csv", "pkg/results/b.py", "ä b.txt"]
    left = ["pkg/data/big.csv", "pkg/a.pyc", "secret.env", "build/x", ".venv/bin/python"]
    left += ["results/example/manifest.json", "pkg/__pycache__/a", "venv/x", "deep/er/local"]
    write(project, **dict.fromkeys([*kept, *left], "x"))
    ignored = "*.pyc\n/secret.env\nbuild/\n/pkg/data/*\n!/pkg/data/keep.csv\n"
    write(project, **{".gitignore": ignored, "deep/er/.gitignore": "local\n"})
    (project / "linked").symlink_to(tmp_path)
    if repository:
        inner = project / "inner"
        inner.mkdir()
        for folder in (project, inner):
            subprocess.run(["git", "init", "-q", folder], check=True)
        write(inner, **{"c.py": "x", ".gitignore": "d.py\n", "d.py": "x"})
        kept += ["inner/c.py", "inner/.gitignore"]
    found = project_zip.files(project)
    assert set(found) == {*kept, ".gitignore", "deep/er/.gitignore"}
    for name in ("one", "two"):
        project_zip.pack(project, found, tmp_path / name)
        os.utime(project / "pyproject.toml", (0, 1_000_000_000))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with zipfile.ZipFile(tmp_path / "one") as archive:
        assert set(archive.namelist()) == set(found)
        assert archive.read("pkg/a.py") == b"x"


def test_a_project_that_is_too_large_names_the_largest_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_zip, "LIMIT_MB", 3)
    project = tmp_path / "project"
    write(project, **{"pyproject.toml": "", "small.py": "x"})
    (project / "data").mkdir()
    (project / "data" / "noise").write_bytes(os.urandom(4 * 2**20))
    with pytest.raises(InvalidInput, match=r"more than the 3 MiB.*largest: `data/` 4 MiB"):
        project_zip.pack(project, project_zip.files(project), tmp_path / "zip")


def test_no_home_directory_is_sent_unasked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not look like a project"):
        project_zip.check_project(tmp_path)


@pytest.mark.parametrize("repository", [True, False])
def test_why_a_folder_has_nothing_to_send(tmp_path: Path, repository: bool) -> None:
    def why() -> str:
        with pytest.raises(InvalidInput, match="has no files to send") as refused:
            project_zip.files(tmp_path)
        return str(refused.value)

    if repository:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    else:
        assert "(it is empty): go to the project" in why()
    write(tmp_path, **{"results/example/manifest.json": "x"})
    assert "(never sent: `results/`): go to the project" in why()
    write(tmp_path, **{"results/.gitignore": "*"})
    assert "(git ignores them all)" in why()
