"""The current folder: backends of the user, and files that hide modules of the same name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import InvalidInput
from harness.backend import registry
from harness.dispatch import ray_connect
from tests.helpers.commands import TINY_RUN, Cli

MINE = "from backends.reference import ReferenceBackend as Mine\n"
SCRIPT = Path(sys.executable).with_name("harness")
# The driver looks before it starts anything.
REFUSED = ("run", "--dispatch", "inline", "--backends", "mine:Mine,other:Other")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a backend, and files with names of other modules."""
    (tmp_path / "mine.py").write_text(MINE)
    for name in ("random.py", "tempfile.py", "numpy.py", "click.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')\n")
    for package in ("backends", "jax"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "backends" / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*command: object, **environment: str) -> str:
    words = [*map(str, command), *REFUSED]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize(
    "program", [(SCRIPT,), (sys.executable, "-m", "harness")], ids=["harness", "python -m harness"]
)
def test_both_commands_find_the_same_backends(folder: Path, program: tuple[object, ...]) -> None:
    found = refusal(*program)
    assert "no module `other`" in found
    assert "mine" not in found
    assert "no module `mine`" in refusal(*program, PYTHONSAFEPATH="1")


def test_a_process_has_the_modules_of_the_standard_library(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "numpy.py").unlink()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    given = ("--dispatch", "inline", "--backends", "mine:Mine", "--seeds", 1)
    done = cli(*TINY_RUN, *given, "--rounds", 2)
    assert done.returncode == 0, done.stderr


def test_what_hides_an_installed_package_is_named(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "numpy.py").unlink()
    monkeypatch.chdir(folder)
    done = cli("parity", "--dispatch", "inline", "--backends", "jax")
    assert done.returncode == 2
    assert f"`{folder}/jax/__init__.py` hides the installed `jax`: rename it" in done.stderr


def test_what_is_hidden_is_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"`{folder}/backends` is hidden by `.*__init__.py`"):
        registry.check("backends.mine:Mine")
    with pytest.raises(InvalidInput, match=rf"`{folder}/random.py` is hidden by `.*random.py`"):
        registry.load("random:Mine")


def test_a_file_that_hides_the_harness_from_ray(folder: Path) -> None:
    (folder / "harness.py").write_text("")
    with pytest.raises(InvalidInput, match=f"`{folder}/harness.py` hides the harness"):
        ray_connect.check_import_path({})
    ray_connect.check_import_path({"working_dir": "elsewhere"})
