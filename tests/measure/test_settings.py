"""What changes times from outside is recorded, and caches on disk are off for everyone."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness import Task
from harness.measure import settings

TASK = Task(n_steps=3, batch_size=2, epochs=4, curve_points=2, eval_paths=5)
# It keeps something where compilers do, and fails if there is something already.
KEEPER = """
import os
from pathlib import Path

from backends.reference import ReferenceBackend


class Keeper(ReferenceBackend):
    def __init__(self, model, device):
        super().__init__(model, device)
        os.environ["XLA_FLAGS"] = "--own"

    @staticmethod
    def compiler_options(device):
        return {"fast": True, "on": device}


for name in ("NUMBA", "TORCHINDUCTOR", "TRITON"):
    folder = Path(os.environ[f"{name}_CACHE_DIR"])
    folder.mkdir(parents=True)
    (folder / "kept").write_text("")
    with open(Path(__file__).with_name("folders"), "a") as log:
        print(folder, file=log)
"""


@pytest.mark.parametrize(
    "name",
    [
        *("OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_BLOCKTIME", "MKL_CBWR", "DNNL_MAX_CPU_ISA"),
        *("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "LD_PRELOAD", "GLIBC_TUNABLES"),
        *("MALLOC_ARENA_MAX", "MALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
        *("XLA_FLAGS", "TF_XLA_FLAGS"),
    ],
)
def test_what_changes_times_is_recorded(name: str) -> None:
    assert settings.changes_times(name)
    assert settings.variables({name: "x"}) == {f"env:{name}": "x"}


@pytest.mark.parametrize("name", [*settings.THREAD_VARIABLES, "CUDA_VISIBLE_DEVICES", "JAX_X"])
def test_not_all_that_is_recorded_makes_another_machine(name: str) -> None:
    assert not settings.changes_times(name)
    assert settings.variables({name: "x"}) == {f"env:{name}": "x"}


@pytest.mark.parametrize("name", ["HOME", "PATH", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR"])
def test_the_rest_is_not_recorded(name: str) -> None:
    assert settings.variables({name: "x"}) == {}


def test_every_process_begins_without_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keeper.py").write_text(KEEPER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    run = harness.run(
        TASK,
        backends=["keeper:Keeper"],
        seeds=2,
        rounds=2,
        dispatch="inline",
        results=tmp_path / "results",
    )
    assert [record.status for record in run.records] == ["ok", "ok"], run.records
    folders = {Path(line) for line in (tmp_path / "folders").read_text().split()}
    assert len(folders) == 3 * 3  # Parity has a process, too.
    assert not any(folder.exists() for folder in (*folders, tmp_path / "mine"))
    for record in run.records:
        assert record.environment["setting:XLA_FLAGS"] == "--own"
        assert "env:XLA_FLAGS" not in record.environment
        assert record.environment["setting:compiler_options"] == "fast=True on=cpu"
