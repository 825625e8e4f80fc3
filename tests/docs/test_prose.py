"""The documents are easy to read, and their tables of rooms and rules are complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from harness.diagnosis import types
from tests.helpers import docs
from tests.helpers.commands import ROOT

PAGES = [
    *docs.DOCUMENTS,
    ROOT / "CHANGELOG.md",
    ROOT / "docs" / "data" / "README.md",
    ROOT / "backends" / "flux" / "README.md",
]
WIDTH = 100
LINES = 5
README_LINES = 150


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines(path: Path) -> list[str]:
    """Return the lines of a page; those of code and tables are empty."""
    text = re.sub(r"(?ms)^( *)```.*?^ *```$", "", path.read_text())
    return ["" if re.match(r"\||    ", line) else line for line in text.splitlines()]


def paragraphs(path: Path) -> list[list[str]]:
    """Return the paragraphs of a page; an item of a list is one."""
    found: list[list[str]] = [[]]
    for line in lines(path):
        if not line.strip() or re.match(r"#| *([-*]|\d+\.) ", line):
            found.append([])
        if line.strip():
            found[-1].append(line)
    return [paragraph for paragraph in found if paragraph]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_lines_are_short(path: Path) -> None:
    assert [line for line in lines(path) if len(line) > WIDTH] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_paragraphs_are_short(path: Path) -> None:
    assert [paragraph[0] for paragraph in paragraphs(path) if len(paragraph) > LINES] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=name)
def test_a_page_is_in_the_readme_and_begins_with_what_it_is_for(path: Path) -> None:
    assert f"](docs/{path.name})" in (ROOT / "README.md").read_text()
    first = paragraphs(path)[1]
    assert re.search(r"[Tt]his page|command for each", first[0]), first


def first_column(path: Path, heading: str) -> set[str]:
    """Return the names in code in the first column of the tables below a heading."""
    section = re.split(r"(?m)^## ", path.read_text())
    text = next(part for part in section if part.startswith(heading))
    cells = re.findall(r"(?m)^\| (`[^|]+) \|", text)
    return {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}


def test_the_page_of_the_diagnosis_has_every_rule() -> None:
    page = ROOT / "docs" / "diagnosis.md"
    headings = ("The rules", "The rules of time", "Your own predictions")
    rules = set().union(*(first_column(page, heading) for heading in headings))
    assert rules - {"path", "t", "x", "prediction"} == set(get_args(types.Id))


def rooms_of_contributing() -> list[str]:
    """Return the rooms of the table in CONTRIBUTING.md, from the top."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| room |")[2].partition("\n\n")[0]
    return re.findall(r"(?m)^\| `(\w+)` \|", table)


def test_the_table_of_rooms_has_every_module() -> None:
    modules = {
        path.stem
        for path in (ROOT / "harness").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(rooms_of_contributing()) == sorted(modules - {"__init__", "__main__"})


def test_the_table_of_rooms_has_the_order_of_the_imports() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c["layers"] for c in settings["contracts"] if c["type"] == "layers")
    rooms = rooms_of_contributing()
    for layer in reversed([layer for layer in layers if layer != "__main__"]):
        beside = layer.split(" | ")
        assert sorted(rooms[: len(beside)]) == sorted(beside)
        rooms = rooms[len(beside) :]
    assert rooms == []
