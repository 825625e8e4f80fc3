"""Energy counters: RAPL as files, NVML as a shared library, both real to the code that reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import Task
from harness.measure.energy import WARM_S, Rapl, between, meter, of_calls_in_a_row
from harness.measure.training import Training
from harness.tables.from_records import chunks_table, trials_table
from harness.tables.summary import summarise
from harness.tables.text import render_summary
from harness.trial.record import Chunk
from tests.helpers.commands import ROOT
from tests.helpers.doubles import FakeBackend, ManualClock
from tests.helpers.records import timed, turns_job


def domain(
    root: Path, name: str, what: str, energy_uj: int, turn_uj: int = 262_143_328_850
) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{what}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{turn_uj}\n")
    return folder


def test_all_packages_count_and_nothing_twice(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    domain(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    read = Rapl(tmp_path)
    assert read() == 0
    # A part of a package, memory, the platform, and the first package by another path.
    domain(tmp_path, "intel-rapl:0:0", "core", 900_000_000)
    domain(tmp_path, "intel-rapl:0:1", "dram", 900_000_000)
    domain(tmp_path, "intel-rapl:2", "psys", 900_000_000)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 900_000_000)
    (tmp_path / "intel-rapl").mkdir()
    with_others = Rapl(tmp_path)
    assert with_others() == 0
    domain(tmp_path, "intel-rapl:0", "package-0", 3_500_000)
    domain(tmp_path, "intel-rapl:1", "package-1", 7_250_000)
    assert read() == with_others() == pytest.approx(2.75)


def test_the_tree_of_an_amd_processor_is_the_same(tmp_path: Path) -> None:
    # In sysfs they are links into the device tree.
    devices = tmp_path / "devices" / "virtual" / "powercap"
    domain(devices, "intel-rapl:0", "package-0", 5, turn_uj=65_532_610_987)
    domain(devices, "intel-rapl:0:0", "core", 1, turn_uj=65_532_610_987)
    root = tmp_path / "class"
    root.mkdir()
    for folder in devices.iterdir():
        (root / folder.name).symlink_to(folder)
    read = meter("cpu", root)
    assert read() == 0
    domain(devices, "intel-rapl:0", "package-0", 2_000_005, turn_uj=65_532_610_987)
    assert read() == pytest.approx(2)


def test_a_counter_that_starts_over_goes_on(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 9_000_000, turn_uj=10_000_000)
    read = Rapl(tmp_path)
    totals = [read()]
    for energy_uj in (9_500_000, 500_000, 2_000_000, 1_000_000):
        domain(tmp_path, "intel-rapl:0", "package-0", energy_uj, turn_uj=10_000_000)
        totals.append(read())
    assert totals == pytest.approx([0, 0.5, 1.5, 3.0, 12.0])


@pytest.mark.parametrize("broken", ["absent", "a folder", "no number", "no right to read it"])
def test_a_package_that_cannot_be_read_leaves_nothing_known(
    tmp_path: Path, broken: str, request: pytest.FixtureRequest
) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    counter = domain(tmp_path, "intel-rapl:1", "package-1", 1) / "energy_uj"
    read = Rapl(tmp_path)
    assert read() == 0
    if broken == "no number":
        counter.write_text("")
    elif broken == "no right to read it":
        counter.chmod(0)
        if os.geteuid() == 0:  # Who may read everything.
            request.addfinalizer(lambda: os.seteuid(0))
            os.seteuid(65534)
    else:
        counter.unlink()
        if broken == "a folder":
            counter.mkdir()
    assert read() is None
    assert Rapl(tmp_path)() is None


def test_without_counters_nothing_is_known(tmp_path: Path) -> None:
    assert meter("cpu", tmp_path)() is None
    assert meter("cpu", tmp_path / "absent")() is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert meter("cpu", tmp_path)() is None


# Three GPUs: one like an A100, one too old for the counter, one that is sliced.
NVML = """
#include <stdlib.h>
#include <string.h>
typedef struct { const char *uuid; int sliced; } gpu;
static gpu gpus[] = {{"GPU-aaaa-1", 0}, {"GPU-bbbb-2", 0}, {"GPU-cccc-3", 1}};
static unsigned long long millijoules = 40000;
int nvmlInitWithFlags(unsigned flags) { return getenv("NO_GPU") ? 9 : 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned n, gpu **h) { *h = gpus + n; return n < 3 ? 0 : 2; }
int nvmlDeviceGetUUID(gpu *h, char *s, unsigned n) { strncpy(s, h->uuid, n); return 0; }
int nvmlDeviceGetMigMode(gpu *h, unsigned *now, unsigned *next) {
    *now = *next = h->sliced; return h == gpus + 1 ? 3 : 0; }
int nvmlDeviceGetTotalEnergyConsumption(gpu *h, unsigned long long *mj) {
    if (h == gpus + 1) return 3;
    millijoules += 2500; *mj = millijoules; return 0; }
"""
READ = """
from harness.measure.energy import meter
read = meter("gpu")
print([read(), read()])
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pynvml")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    source, library = folder / "nvml.c", folder / "libnvidia-ml.so.1"
    source.write_text(NVML)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


def read_gpu(driver: Path, **settings: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CUDA")}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env=environment | {"LD_LIBRARY_PATH": str(driver)} | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


KNOWN, UNKNOWN = "[42.5, 45.0]", "[None, None]"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, KNOWN, id="the first by default"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0,1"}, KNOWN, id="the first of several"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "GPU-aaaa-1"}, KNOWN, id="UUID"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "GPU-aa"}, KNOWN, id="start of a UUID"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "1"}, UNKNOWN, id="too old"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "GPU-bbbb-2"}, UNKNOWN, id="too old, by UUID"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "2"}, UNKNOWN, id="a slice, by index"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "MIG-cccc-3-1"}, UNKNOWN, id="a slice"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "3"}, UNKNOWN, id="there is no such"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "GPU-"}, UNKNOWN, id="more than one"),
        pytest.param({"CUDA_VISIBLE_DEVICES": ""}, UNKNOWN, id="none"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "-1"}, UNKNOWN, id="none, the other way"),
        pytest.param({"NO_GPU": "1"}, UNKNOWN, id="no driver loaded"),
    ],
)
def test_the_gpu_that_the_process_sees_is_read(
    driver: Path, settings: dict[str, str], expected: str
) -> None:
    assert read_gpu(driver, **settings) == expected


def test_without_a_driver_or_the_package_a_gpu_tells_nothing(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is None:
        assert read_gpu(tmp_path) == UNKNOWN
    (tmp_path / "pynvml.py").write_text("raise ImportError('not installed')\n")
    assert read_gpu(tmp_path, PYTHONPATH=str(tmp_path)) == UNKNOWN


def test_the_counter_is_read_around_each_timed_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    log: list[str] = []

    class Backend(FakeBackend):
        def train(self, state: int, x_ETB: Any, y_ETB: Any) -> Any:
            domain(tmp_path, "intel-rapl:0", "package-0", 3_000_000 * (1 + len(log)))
            log.append("train")
            return super().train(state, x_ETB, y_ETB)

    domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    monkeypatch.setattr("harness.measure.energy.meter", lambda device: meter(device, tmp_path))
    job = turns_job(Task(epochs=12, curve_points=4, n_steps=3, batch_size=2, eval_paths=5))
    training = Training(job, lambda kind, value: None, lambda name: lambda: Backend(clock), clock)
    assert [training.chunk(3)[1].energy_j for _ in range(3)] == [2.0, 3.0, 3.0]


def test_the_energy_of_a_call_is_known_with_both_readings() -> None:
    assert between(3.0, 5.0) == 2.0
    assert between(None, 5.0) is None
    assert between(3.0, None) is None


class Gpu:
    """A GPU that is idle but for its calls; its counter moves every 100 ms, as NVML's does."""

    def __init__(self, call_s: float, idle_w: float = 80.0, busy_w: float = 400.0) -> None:
        self.clock, self.call_s, self.busy_w = ManualClock(), call_s, busy_w
        self.calls = 0
        self._idle_w, self._spent_j, self._said = idle_w, 0.0, (0.0, 0.0)
        self._spend(5.03, idle_w)

    def call(self) -> None:
        self.calls += 1
        self._spend(self.call_s, self.busy_w)

    def joules(self) -> float:
        return self._said[1]

    def _spend(self, seconds: float, watts: float) -> None:
        before_s = self.clock()
        self.clock.spend(seconds)
        moved_s = self.clock() // 0.1 * 0.1
        if moved_s > before_s:
            self._said = (moved_s, self._spent_j + watts * (moved_s - before_s))
        self._spent_j += watts * seconds


@given(st.floats(1e-3, 3.0), st.floats(100.0, 700.0))
def test_the_energy_of_calls_in_a_row_is_known_to_five_percent(call_s: float, watts: float) -> None:
    gpu = Gpu(call_s, busy_w=watts)
    found = of_calls_in_a_row(gpu.call, gpu.joules, gpu.clock)
    assert found == pytest.approx(call_s * watts, rel=0.0501)
    assert gpu.calls * call_s < WARM_S + 2 + 2 * call_s


def test_without_a_counter_no_call_is_made() -> None:
    gpu = Gpu(0.1)
    assert of_calls_in_a_row(gpu.call, lambda: None, gpu.clock) is None
    assert gpu.calls == 0


def test_on_a_gpu_calls_in_a_row_are_counted_and_timed_calls_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    monkeypatch.setattr("harness.measure.energy.meter", lambda device: lambda: 300 * clock())
    job = turns_job(Task(epochs=12, curve_points=4, n_steps=3, batch_size=2), device="gpu")
    backend = FakeBackend(clock, epoch_s=0.5)
    training = Training(job, lambda kind, value: None, lambda name: lambda: backend, clock)
    assert training.chunk(3)[1].energy_j is None
    assert training.epoch_j(3) == pytest.approx(150)
    assert backend.calls[-4:] == ["init 8", *["train 3"] * 3]  # One more than 2 s have room for.


def joules(*values: float | None) -> tuple[Chunk, ...]:
    return tuple(
        Chunk(wall_s=1.0, cpu_s=1.0, involuntary_switches=0, energy_j=value) for value in values
    )


def test_the_tables_add_up_what_is_known_and_uncontended() -> None:
    records = [
        timed("known", 0, 1.0, chunks=joules(2.0, 3.0)),
        timed("known", 1, 1.0, chunks=joules(4.0, 5.0)),
        timed("partly", 0, 2.0, chunks=joules(2.0, None)),
        timed("beside", 0, 3.0, chunks=joules(2.0, 3.0), contended=True),
        timed("old", 0, 4.0),
        timed("at once", 0, 5.0, chunks=joules(4.0, 8.0), seeds=(0, 1)),
        timed("on a GPU", 0, 6.0, chunks=joules(None), epoch_j=0.5),
        timed("shared GPU", 0, 6.0, chunks=joules(None), epoch_j=0.5, contended=True),
    ]
    trials = trials_table(records)["energy_j"]
    assert trials[:2].tolist() == [5, 9]
    assert trials[2:5].isna().all()
    assert trials[5:7].tolist() == [6, 6]
    assert trials[7] == records[6].points[-1].epoch * 0.5
    assert trials[8:].isna().all()
    assert chunks_table(records)["energy_j"].dropna().tolist() == [2, 3, 4, 5, 2, 2, 3, 4, 8]
    summary = summarise(trials_table(records))
    assert summary.set_index("backend").loc["known", "energy_j"] == 7
    text = render_summary(summary, "table", width=200)
    assert "energy J" in text
    assert "energy J" not in render_summary(summary[summary["backend"] == "old"], "table", 200)


def test_a_run_has_the_column(tmp_path: Path) -> None:
    task = Task(n_steps=3, batch_size=2, epochs=4, curve_points=2, eval_paths=5)
    run = harness.run(
        task, backends=["reference"], seeds=1, rounds=1, dispatch="inline", results=tmp_path
    )
    known = Rapl()() is not None
    assert run.trials["energy_j"].notna().tolist() == [known]
    assert run.chunks["energy_j"].notna().all() == known
