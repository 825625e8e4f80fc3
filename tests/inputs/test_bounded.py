"""Files whose size or content somebody else decided take bounded memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import InvalidInput, Task
from harness.inputs.bounded import TooLarge, read_bytes
from harness.inputs.bounded_json import MOST_NAMES, MOST_VALUES, from_json, loads
from harness.runs.settings import Settings
from harness.store.manifest import MANIFEST, Manifest, parse_manifest, to_json
from harness.store.run_folder import NotARecord, RecordReader
from harness.trial.record import Record
from tests.helpers import records
from tests.helpers.commands import ROOT, Cli


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", most=5) == b"12345"
    for path in (tmp_path / "a", Path("/dev/zero"), Path("/proc/self/environ")):
        with pytest.raises(TooLarge, match="more than 4 bytes"):
            read_bytes(path, most=4)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"x" * 200_000,))
    writer.start()
    assert read_bytes(pipe) == b"x" * 200_000
    writer.join()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--config"),
        ("run", "--runtime-env"),
        ("explain", "--predictions"),
        ("gate", "--baseline"),
        ("gate", "--pytest-benchmark", "/dev/zero", "README.md"),
        ("parity", "--gradient"),
    ],
    ids=lambda words: words[1],
)
def test_no_command_reads_what_has_no_end(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words, *["/dev/zero"] * ("/dev/zero" not in words))
    assert done.returncode == 2
    assert "holds more than" in done.stderr


def test_arrays_that_are_much_larger_than_their_file_are_not_read(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, W_hh=np.zeros(2**25), x=np.zeros(0))
    done = cli("parity", "--gradient", file)
    assert done.returncode == 2
    assert "its arrays hold more than" in done.stderr


def hostile(field: str, value: str, count: int) -> bytes:
    """Return a record or a manifest that has a value many times in a field."""
    model = records.MANIFEST if "." in field else records.record()
    content = json.loads(to_json(model))
    *above, name = field.strip(".").split(".")
    inside = content
    for one in above:
        inside = inside[one]
    inside[name] = "@"
    values = ",".join([value] * count)
    if ":" in value:
        values = ",".join(value.replace("N", str(n)) for n in range(count))
        return json.dumps(content).replace('"@"', f"{{{values}}}").encode()
    return json.dumps(content).replace('"@"', f"[{values}]").encode()


READ = """
import resource, sys, time
from pathlib import Path
from harness.errors import HarnessError, brief
from harness.inputs.bounded_json import from_json
from harness.store.manifest import Manifest, parse_manifest
from harness.trial.record import Record
for path in sys.argv[1:]:
    start, content = time.perf_counter(), Path(path).read_bytes()
    try:
        parse_manifest(path, content) if "." in Path(path).name else from_json(Record, content)
    except (ValueError, HarnessError) as error:
        print(brief(error)[:100])
    else:
        print("ok")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_hostile_file_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    most = MOST_NAMES - 100
    for number, (field, value, count) in enumerate(
        [
            *(("x", "{}", MOST_VALUES - 100), ("x", "[]", MOST_VALUES - 100)),
            *(("chunks", "{}", MOST_VALUES - 100), ("step_mse", '""', MOST_VALUES - 100)),
            *(("environment", '"N":0', most), ("nudged", "[]", MOST_VALUES - 100)),
            *((".plan.arms", "{}", MOST_VALUES - 100), (".plan.task", '"N":0', most)),
            *((".parity", "{}", MOST_VALUES - 100), (".plan.sweep", '"N":0', most)),
            *((".plan.seeds", "0", MOST_VALUES - 100), (".environment", '"N":""', most)),
        ]
    ):
        file = tmp_path / f"{number}{field}"
        file.write_bytes(hostile(field, value, count))
        done = subprocess.run(
            [sys.executable, "-c", READ, file], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.splitlines()[-1]) < 1_000_000, (field, value)


@pytest.mark.parametrize(
    ("field", "value", "count", "sentence"),
    [
        ("x", "0", MOST_VALUES + 2, "more than 1,000,000 names or 4,000,000 values"),
        ("environment", '"N":""', MOST_NAMES, "more than 1,000,000 names or 4,000,000 values"),
        ("environment", '"N":0', 5000, "5,000 of its values are none that it may have"),
        ("chunks", "{}", 100_000, "chunks.0.wall_s: Field required"),
        (".plan.task", '"N":0', 5000, "it has 5,000 names"),
        (".plan.seeds", '""', 100_000, "plan.seeds.0: Input should be a valid integer"),
    ],
)
def test_values_are_counted_before_they_are_made(
    field: str, value: str, count: int, sentence: str
) -> None:
    content = hostile(field, value, count)
    if "." in field:
        with pytest.raises(InvalidInput, match=sentence):
            parse_manifest(MANIFEST, content)
    else:
        with pytest.raises(NotARecord, match=sentence):
            RecordReader(records.PLAN).add(content)


def test_brackets_are_no_recursion() -> None:
    for bracket in ("[", '{"a":'):
        content = (bracket * 200_000).encode()
        with pytest.raises(ValueError, match="too deep"):
            loads(content)
        with pytest.raises(InvalidInput, match="cannot be read as a manifest"):
            parse_manifest(MANIFEST, content)
        with pytest.raises(NotARecord):
            RecordReader(records.PLAN).add(content)


def test_what_is_planned_can_be_read_back() -> None:
    settings = Settings(backends=["reference"], vectorize="all", seeds=20_000)
    with pytest.raises(InvalidInput, match="the record of a trial would be too large"):
        settings.plan("r", Task(), has_gpu=False)
    with pytest.raises(InvalidInput, match="the record of a trial would be too large"):
        Settings(backends=["reference"], rounds=100_000).plan("r", Task(), has_gpu=False)
    Settings(backends=["reference"]).plan("r", Task(epochs=10**7, n_steps=10**6), has_gpu=False)
    seeds = tuple(range(1000))
    (point,) = records.record().points
    points = tuple(replace(point, epoch=50 * number) for number in range(1, 21))
    share = {"status": "ok", "points": points, "step_mse": (0.25, 0.75)}
    large = records.record(seeds=seeds, shares=[share | {"seed": seed} for seed in seeds])
    assert from_json(Record, to_json(large)) == large
    plan = records.PLAN.model_copy(update={"seeds": tuple(range(10**6))})
    whole = records.MANIFEST.model_copy(update={"plan": plan})
    assert from_json(Manifest, to_json(whole)) == whole
