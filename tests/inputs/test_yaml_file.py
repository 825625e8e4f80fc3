"""Files in YAML and JSON: numbers mean what they look like, and nothing wins in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inputs.yaml_file import read_mapping


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml") / "any.yaml"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("0020", 20), ("+5", 5), ("-0", 0), ("20", 20), ("1e2", 100.0), ("1E+2", 100.0)),
        *((".5", 0.5), ("5.", 5.0), ("-.5e-3", -0.0005), ("1.50", 1.5)),
        *(("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None)),
        # Numbers, booleans and dates to YAML 1.1 only, or to few readers.
        *((text, text) for text in ("1:40", "0x1f", "0o17", "0b11", "1_000", "0020_0", "1.5.2")),
        *((text, text) for text in ("yes", "No", "on", "OFF", "y", "2024-01-01", ".inf", ".NaN")),
        *((text, text) for text in ("\u0663", "e5", ".", "+", "1e", "9" * 19, "=", "<<")),
        ("'5'", "5"),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    ],
)
def test_a_value_is_what_it_looks_like(file: Path, written: str, value: object) -> None:
    file.write_text(f"a: {written}\n", "utf-8")
    (read,) = read_mapping(file).values()
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: 1\nb: 2\n\na: 3\n", "`a` is there twice: `1` in line 1 and `3` in line 4"),
        ("a: 1\n'a': 1\n", "`a` is there twice: `1` in line 1 and `1` in line 2"),
        ("1: x\n'1': y\n", "`1` is there twice: `x` in line 1 and `y` in line 2"),
        ("a:\n- b: {c: 1,\n  c: 2}\n", "`c` is there twice: `1` in line 2 and `2` in line 3"),
        ('{"a": 1,\n"a": {}}', "`a` is there twice: `1` in line 1 and a list or mapping in line 2"),
        ("a: &x 1\nb: *x\n", "line 2: `*x`: write the value itself, not an alias"),
        ("a: &x [*x]\n", "line 1: `*x`: write the value itself, not an alias"),
        ("a: !!int '5'\n", "line 1: the tag `!!int` means nothing here"),
        ("a: !!python/name:os.system x\n", "line 1: the tag `!!python/name:os.system` means"),
        ("? [a]\n: 1\n", "line 1: a key is a text"),
        ("a: 1\n---\nb: 2\n", "line 2: expected a single document in the stream"),
        ("a: " + "[" * 10_000, "line 1: more than 50 levels"),
        ("a: 1\nb: \x07\n", "line 2: a character that YAML does not allow"),
        ('a: "\\ud83d"\n', "an escape in it stands for no character"),
        ('a: "\\UFFFFFFFF"\n', "an escape in it stands for no character"),
        ("a:\n\tb: 1\n", "line 2: while scanning for the next token, found character"),
        ("- a\n", "expected a mapping of names to values, got a list"),
        ("7\n", "expected a mapping of names to values, got `7`"),
        ("# nothing\n", "it is empty"),
    ],
)
def test_what_is_refused_names_its_place(file: Path, content: str, reason: str) -> None:
    file.write_text(content, "utf-8")
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the text is compared below)
        read_mapping(file)
    assert str(refusal.value).startswith(reason)


TEXT = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=30)
PLAIN = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(-9, 9) | TEXT
NESTED = st.recursive(PLAIN, lambda v: st.lists(v) | st.dictionaries(TEXT, v), max_leaves=9)


@given(st.dictionaries(TEXT, NESTED, min_size=1), st.sampled_from([None, " ", "\t"]))
def test_json_is_read_as_json(file: Path, content: dict[str, Any], indent: str | None) -> None:
    file.write_text(json.dumps(content, indent=indent))
    assert read_mapping(file) == content


@given(st.text(max_size=30))
def test_any_text_is_a_mapping_or_a_sentence(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")
    try:
        assert isinstance(read_mapping(file), dict)
    except ValueError as error:
        assert str(error)  # noqa: PT017 (either is right)
