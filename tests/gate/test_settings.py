"""The settings of the gate: where they come from, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InvalidInput
from harness.gate.settings import GateSettings
from tests.helpers.commands import ROOT


def project(folder: Path, table: str) -> Path:
    """Write a `pyproject.toml` with that text in it; return a folder two levels below it."""
    (folder / "pyproject.toml").write_text(table)
    (inside := folder / "a" / "b").mkdir(parents=True)
    return inside


def test_without_a_table_there_are_defaults(tmp_path: Path) -> None:
    inside = project(tmp_path, '[project]\nname = "x"\n')
    assert GateSettings.read(inside) == GateSettings()
    assert (GateSettings().max_slowdown, GateSettings().backends) == (0.02, ("torch", "jax"))


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    inside = project(tmp_path, "[tool.harness.gate]\nmax_slowdown = 0.5\n")
    (tmp_path / "a" / "pyproject.toml").write_text(
        '[tool.harness.gate]\nbackends = ["reference"]\nmax_slowdown = "3%"\nbudget_s = "1m30s"\n'
    )
    settings = GateSettings.read(inside)
    assert settings.backends == ("reference",)
    assert (settings.max_slowdown, settings.budget_s) == (0.03, 90)


def test_options_come_before_the_file(tmp_path: Path) -> None:
    inside = project(
        tmp_path,
        "[tool.harness.gate]\nmax_slowdown = 0.03\nmisses = 0.1\n"
        '[tool.harness.gate.backend.jax]\nmax_slowdown = "8%"\nmax_accuracy_loss = 0.2\n',
    )
    settings = GateSettings.read(inside, max_slowdown=None)
    assert settings.for_backend("jax").max_slowdown == 0.08
    assert settings.for_backend("jax").max_accuracy_loss == 0.2
    assert settings.for_backend("torch").max_slowdown == 0.03
    settings = GateSettings.read(inside, max_slowdown="5%")
    assert settings.for_backend("jax").max_slowdown == settings.max_slowdown == 0.05
    assert settings.for_backend("jax").max_accuracy_loss == 0.2
    assert settings.misses == 0.1


def test_limits_of_backends_not_asked_for_are_kept(tmp_path: Path) -> None:
    inside = project(
        tmp_path,
        '[tool.harness.gate]\nbackends = ["jax"]\nbackend.torch.max_slowdown = "3%"\n'
        "backend.'tests.helpers.faulty:Hangs'.max_slowdown = '4%'\n",
    )
    settings = GateSettings.read(inside)
    assert settings.for_backend("torch").max_slowdown == 0.03
    assert settings.for_backend("tests.helpers.faulty:Hangs").max_slowdown == 0.04


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_slowdwn = 0.1", "unknown name `max_slowdwn` (did you mean `max_slowdown`?)"),
        ("max_slowdown = 2", "`max_slowdown` = 2: write it with a percent sign: `2%` or `200%`"),
        ("max_slowdown = true", "`max_slowdown` = True: should be a number"),
        ("max_slowdown = 0", "`max_slowdown` = 0: should be greater than 0"),
        ("false_alarms = '60%'", "`false_alarms` = '60%': should be less than 0.5"),
        ("budget_s = 'soon'", "`budget_s` = 'soon': write a duration as"),
        ("backends = ['jxa']", "unknown backend `jxa` (did you mean `jax`?)"),
        ("backends = []", "name at least one"),
        ("devices = ['gpx']", "did you mean `gpu`?"),
        ("yardstick = 'refrence'", "did you mean `reference`?"),
        ("yardstick = 'process:x'", "give the command a name in [tool.harness.backends]"),
        ("backend = 3", "`backend` = 3: should be a valid dictionary"),
        ("backend.jax = 3", "backend `jax`: expected a mapping"),
        ("backend.jxa.max_slowdown = 0.1", "unknown backend `jxa` (did you mean `jax`?)"),
        ("backend.'no.such:Class' = {}", "there is no module `no.such`"),
        ("backend.jax.budget_s = 3", "backend `jax`: unknown name `budget_s`"),
        ("max_slowdown = = 3", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    inside = project(tmp_path, f"[tool.harness.gate]\n{text}\n")
    with pytest.raises(InvalidInput) as caught:
        GateSettings.read(inside)
    assert sentence in str(caught.value)
    assert f"`{tmp_path / 'pyproject.toml'}`" in str(caught.value)


def test_a_file_that_is_no_text_and_a_table_that_is_none(tmp_path: Path) -> None:
    inside = project(tmp_path, "tool.harness = 3\n")
    with pytest.raises(InvalidInput, match="expected a table, got 3"):
        GateSettings.read(inside)
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read"):
        GateSettings.read(inside)


def test_the_problems_of_file_and_options_come_at_once(tmp_path: Path) -> None:
    inside = project(tmp_path, "[tool.harness.gate]\nmisses = 7\nfalse_alarms = -1\n")
    with pytest.raises(InvalidInput) as caught:
        GateSettings.read(inside, max_slowdown="fast")
    assert len(caught.value.problems) == 3


def test_every_setting_is_documented() -> None:
    documented = (ROOT / "docs" / "gate.md").read_text()
    for name in GateSettings.model_fields:
        assert f"| `{name}` |" in documented or f"| `{name}.NAME` |" in documented
