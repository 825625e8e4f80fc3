"""Finding a backend is one step, importing it another: only the second is timed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.backend import registry
from harness.errors import InvalidInput, Unavailable


def test_a_package_is_imported_in_the_second_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "backend.py").write_text("class Mine: ...")
    load = registry.importer("slow_package.backend:Mine")
    assert "slow_package" not in sys.modules
    assert load() is sys.modules["slow_package.backend"].Mine


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no_such:Mine", InvalidInput, "there is no module `no_such`"),
        ("no_such.at_all:Mine", InvalidInput, "there is no module `no_such.at_all`"),
        ("json:Mine", InvalidInput, "module `json` has no `Mine`"),
        ("needy:Mine", Unavailable, "needs the package `no_such`"),
    ],
)
def test_what_cannot_be_imported_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type, message: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needy.py").write_text("import no_such")
    load = registry.importer(name)
    with pytest.raises(error, match=message):
        load()
