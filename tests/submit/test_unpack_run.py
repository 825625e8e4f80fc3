"""Runs that are packed into the output of a job, and what is refused when they are unpacked."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import harness
from harness import InvalidInput, Run
from harness.errors import StoreError
from harness.submit import pack_run, unpack_run
from tests.helpers.commands import ROOT
from tests.helpers.files import write


def example() -> str:
    return "\n".join(pack_run.pack(ROOT / "results" / "example"))


def repacked(folder: Path, **changes: object) -> str:
    """Return a packed run whose records (or manifest) were changed with evil intent."""
    source = ROOT / "results" / "example"
    write(folder, **{"manifest.json": (source / "manifest.json").read_text()})
    record = json.loads((source / "records" / "seed0-jax-cpu.json").read_text())
    write(folder, **{"records/a.json": json.dumps(record | changes)})
    return "\n".join(pack_run.pack(folder))


def test_a_packed_run_comes_out_as_it_went_in(tmp_path: Path) -> None:
    fetched = unpack_run.unpack(f"INFO a line of Ray\n{example()}\nanother", "example")
    assert fetched is not None
    unpack_run.save(fetched, tmp_path)
    original = ROOT / "results" / "example"
    assert Run("example", tmp_path).summary().equals(Run("example", ROOT / "results").summary())
    names = {path.name for path in (original / "records").iterdir()}
    assert {path.name for path in (tmp_path / "example" / "records").iterdir()} == names
    assert unpack_run.save(fetched, tmp_path).unwritten == []
    assert unpack_run.unpack("packed run: {}", "example") is None
    # What is made from the records does not decide whether they are here.
    (tmp_path / "example" / "steps.csv").unlink()
    (tmp_path / "example" / "steps.csv").mkdir()
    (sentence,) = unpack_run.save(fetched, tmp_path).unwritten
    assert "cannot be written" in sentence
    assert "run --resume example --results" in sentence


def test_a_run_that_is_too_large_is_told_how_to_come_home() -> None:
    header = json.dumps({"packed": 1, "unpacked": 2**29, "sha256": ""})
    with pytest.raises(StoreError, match=r"512 MiB, and at most 256 are fetched: .*--results URL"):
        unpack_run.unpack(f"packed run: {header}", "example")


def test_only_regular_files_of_a_run_are_packed(tmp_path: Path) -> None:
    folder, whole = tmp_path / "evil", repacked(tmp_path / "evil")
    (tmp_path / "secret.json").write_text('"secret"')
    records = folder / "records"
    (records / "link.json").symlink_to(tmp_path / "secret.json")
    (records / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(records / "pipe.json")
    (records / "folder.json").mkdir()
    with (records / "huge.json").open("wb") as file:
        file.truncate(2**40)
    (folder / ".manifest.json").write_text("another")
    assert "\n".join(pack_run.pack(folder)) == whole
    (tmp_path / "linked").symlink_to(folder)
    assert list(pack_run.pack(tmp_path / "linked")) == ["packed run: {}"]
    records.rename(tmp_path / "elsewhere")
    records.symlink_to(tmp_path / "elsewhere")
    found = unpack_run.unpack("\n".join(pack_run.pack(folder)), "example")
    assert found is not None
    assert found.attempts == []


@pytest.mark.parametrize(
    "changes",
    [
        {"trial": "../../escaped"},
        {"trial": "seed0-jax-cpu/x"},
        {"run": "../up"},
        {"seed": "x"},
        {"unknown": 1},
        {"task": {"n_steps": -1}},
        {"attempt": 10**30},
        {"attempt": 10**7},
        {"attempt": -5},
        {"attempt": 0},
        {"go": -1},
        {"go": 10**18},
        {"block": -1},
        {"block": 5},
        {"seed": 7},
        {"seeds": [0, 1]},
        {"threads": 0},
        {"schema_version": 9},
        {"backend": "torch"},
        {"device": "gpu"},
        {"task": {"hidden": 11}},
        {"wall_s": 1e300},
    ],
)
def test_what_is_no_record_of_the_run_is_left_out(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    fetched = unpack_run.unpack(repacked(tmp_path / "evil", **changes), "example")
    assert fetched is not None
    assert not fetched.attempts
    assert len(fetched.problems) == 1
    unpack_run.save(fetched, tmp_path / "home")
    assert not list((tmp_path / "home" / "example" / "records").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"evil", "home"}


def test_no_record_comes_twice_and_too_many_strangers_end_it(tmp_path: Path) -> None:
    source = ROOT / "results" / "example"
    record = (source / "records" / "seed0-jax-cpu.json").read_text()
    write(tmp_path, **{"manifest.json": (source / "manifest.json").read_text()})
    write(tmp_path, **{f"records/{name}.json": record for name in "ab"})
    fetched = unpack_run.unpack("\n".join(pack_run.pack(tmp_path)), "example")
    assert fetched is not None
    assert len(fetched.attempts) == 1
    assert list(fetched.problems.values()) == [
        "a record is left out: another record of `seed0-jax-cpu` is there."
    ]
    write(tmp_path, **{f"records/{number}.json": "{}" for number in range(1001)})
    with pytest.raises(StoreError, match="1,000 of its records are none"):
        unpack_run.unpack("\n".join(pack_run.pack(tmp_path)), "example")


def test_what_comes_home_replaces_nothing(tmp_path: Path) -> None:
    fetched = unpack_run.unpack(example(), "example")
    assert fetched is not None
    unpack_run.save(fetched, tmp_path)
    records = tmp_path / "example" / "records"
    (records / "seed0-jax-cpu.json").write_text("mine, half written")
    unpack_run.save(fetched, tmp_path)
    assert (records / "seed0-jax-cpu.unreadable").read_text() == "mine, half written"
    assert not harness.load("example", tmp_path).problems
    other = json.loads((records / "seed1-jax-cpu.json").read_text()) | {"wall_s": 1.0}
    (records / "seed1-jax-cpu.json").write_text(json.dumps(other))
    with pytest.raises(InvalidInput, match="has another result of `seed1-jax-cpu`"):
        unpack_run.save(fetched, tmp_path)
    assert json.loads((records / "seed1-jax-cpu.json").read_text()) == other


def test_a_plan_of_too_many_trials_is_not_unpacked(tmp_path: Path) -> None:
    manifest = json.loads((ROOT / "results" / "example" / "manifest.json").read_text())
    manifest["plan"]["sweep"] = {name: list(range(1, 201)) for name in ("hidden", "layers")}
    manifest["plan"]["seeds"] = list(range(10_000))
    write(tmp_path, **{"manifest.json": json.dumps(manifest)})
    with pytest.raises(StoreError, match="800,000,000 trials"):
        unpack_run.unpack("\n".join(pack_run.pack(tmp_path)), "example")


def test_a_plan_whose_backend_is_a_path_has_trials_that_are_names(tmp_path: Path) -> None:
    text = (ROOT / "results" / "example" / "manifest.json").read_text()
    evil = json.loads(text)
    evil["plan"]["arms"][0]["backend"] = "/../../x y"
    write(tmp_path, **{"manifest.json": json.dumps(evil)})
    fetched = unpack_run.unpack("\n".join(pack_run.pack(tmp_path)), "example")
    assert fetched is not None
    trials = fetched.manifest.plan.trials()
    assert not [
        trial for trial in trials if not re.fullmatch(r"[\w.+-]+", trial) or trial[0] == "."
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("packed run| ", "packed run| AAAA"),
        ("packed run| ", "packed run| ~"),
        ('"sha256": "', '"sha256": "0'),
        ('"unpacked": ', '"unpacked": 9'),
        ('"unpacked": ', '"unpacked": 99999999999'),
        ('"packed": ', '"packed": -'),
        ('"unpacked": ', f'"unpacked": {10**1000}'),
        ("packed run: ", "packed run: {}\npacked run: "),
        ("packed run: ", "paked run: "),
    ],
)
def test_a_packed_run_that_was_changed_on_the_way_is_refused(old: str, new: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        unpack_run.unpack(example().replace(old, new, 1), "example")


def test_another_run_of_that_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not run `mine` but `example`"):
        unpack_run.unpack(example(), "mine")
