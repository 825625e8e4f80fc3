"""The conversation with the process of a backend, and a sentence for whatever it gets wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.reference import ReferenceBackend
from harness import BackendFactory, ContractViolation, Model, Unavailable
from harness.backend.command import Command
from harness.backend.process import ProcessWorker
from harness.backend.protocol import ExplainsItself
from harness.errors import HarnessError, WorkerError
from tests.helpers.commands import ROOT

MODEL = Model(dtype="float64")
ODD = (sys.executable, str(ROOT / "tests" / "helpers" / "odd_worker.py"))


@contextmanager
def started(*words: str, patience_s: float = 30) -> Iterator[ProcessWorker]:
    worker = ProcessWorker(Command("mine", words, patience_s=patience_s))
    try:
        yield worker
    finally:
        worker.close()


def trained(factory: BackendFactory, model: Model = MODEL) -> dict[str, Any]:
    """Train a little and anew, as a trial does; return all that comes back in the end."""
    rng = np.random.default_rng(0)
    x_ETB, y_ETB = (rng.standard_normal((70, steps, 3)).astype(model.dtype) for steps in (5, 4))
    start = {n: rng.uniform(-0.3, 0.3, s).astype(model.dtype) for n, s in model.shapes.items()}
    backend = factory(model, "cpu")
    backend.train(backend.init(start), x_ETB[:2], y_ETB[:2])
    state, losses_E = backend.train(backend.init(start), x_ETB, y_ETB)
    outputs = backend.predict(state, x_ETB[0])
    return {"losses": losses_E, "outputs": outputs, **backend.params(state)}


def test_one_process_trains_one_model_after_another() -> None:
    with started(*ODD, "none") as worker:
        for model in (MODEL, Model(hidden=3), Model(optimiser="sgd", dtype="float64")):
            got, want = trained(worker, model), trained(ReferenceBackend, model)
            assert got.keys() == want.keys()
            tolerance = 1e-9 if model.dtype == "float64" else 1e-4
            for name, value in want.items():
                assert got[name].dtype == model.dtype
                np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance)


def test_a_greeting_says_what_goes_into_the_record() -> None:
    with started(*ODD, "none") as worker:
        described = worker.greeting.describe()
    assert described["worker:framework"] == "Odd"
    assert described["worker:source"] == ODD[1]
    assert len(described["worker:source_sha256"]) == 12
    assert described["version:odd"] == "1.2"


def test_a_source_is_relative_to_the_folder_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "worker.sh").write_text(
        r"read line; printf 'ok\tprotocol=1\tframework=x\tsource=worker.sh\n'"
    )
    worker = ProcessWorker(Command("mine", ("sh", "worker.sh"), tmp_path))
    worker.close()
    described = worker.greeting.describe()
    assert described["worker:source"] == str(tmp_path / "worker.sh")
    assert len(described["worker:source_sha256"]) == 12


def test_a_training_that_has_ended_is_not_continued() -> None:
    with started(*ODD, "none") as worker:
        backend, params = worker(MODEL, "cpu"), {n: np.zeros(s) for n, s in MODEL.shapes.items()}
        first, second = backend.init(params), backend.init(params)
        backend.params(second)
        for choose_anew in (False, True):
            if choose_anew:
                worker(Model(hidden=3), "cpu")
            with pytest.raises(ContractViolation, match="begun another training"):
                backend.params(second if choose_anew else first)


def test_a_backend_takes_its_model_up_again() -> None:
    with started(*ODD, "none") as worker:
        small, large = (worker(Model(hidden=hidden), "cpu") for hidden in (2, 20))
        for backend, hidden in ((small, 2), (large, 20)):
            params = {n: np.ones(s) for n, s in Model(hidden=hidden).shapes.items()}
            assert backend.params(backend.init(params))["W_hh"].shape == (hidden, hidden)


def test_standard_error_does_not_fill_up(capfd: pytest.CaptureFixture[str]) -> None:
    with started(*ODD, "chatters") as worker:
        trained(worker)
    assert capfd.readouterr().err.count("a line on standard error") == 10_000


def test_large_arrays_go_both_ways() -> None:
    with started(*ODD, "none") as worker:
        backend = worker(MODEL, "cpu")
        state = backend.init({n: np.zeros(s) for n, s in MODEL.shapes.items()})
        x_TN = np.zeros((2, 200_000))
        assert backend.predict(state, x_TN).shape == x_TN.shape


HASTY = r"""
import sys, time
for answer in ("protocol=1\tframework=x", "", "", "outputs=2,200000"):
    sys.stdin.buffer.readline()
    print("ok", answer, sep="\t" * bool(answer), flush=True)
time.sleep(60)  # If it read the rest now, it might have done so before the answer is seen.
"""


LINES_ONLY = r"""
import sys
for answer in ("\tprotocol=1\tframework=x", "", "\nerror\tmessage=unknown request"):
    sys.stdin.buffer.readline()
    print("ok" + answer, flush=True)
sys.stdin.buffer.read()
"""


def test_arrays_that_were_not_read_are_suspected() -> None:
    with started(sys.executable, "-c", LINES_ONLY) as worker:
        backend = worker(MODEL, "cpu")
        state = backend.init({"h0": np.zeros(10)})
        with pytest.raises(WorkerError, match="may have taken the arrays of the request for anoth"):
            backend.params(state)


def test_a_request_is_read_before_it_is_answered() -> None:
    with started(sys.executable, "-c", HASTY) as worker:
        backend = worker(MODEL, "cpu")
        state = backend.init({})
        with pytest.raises(WorkerError, match="answered `predict` before it had read the whole re"):
            backend.predict(state, np.zeros((2, 200_000)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["./nowhere"], "backend `mine`: `./nowhere` cannot be started: No such file or directory"),
        ([ROOT / "README.md"], "README.md` cannot be started: Permission denied"),
        (
            ["cat"],
            r"wrote `hello\\tprotocol=1` to its standard output as answer to `hello`, where",
        ),
        (
            ["false"],
            "backend `mine`: its process ended with exit code 1 before it answered `hello`",
        ),
        (
            [*ODD, "ends"],
            "exit code 1 before .*`hello`; standard error ends with: no framework here$",
        ),
        ([*ODD, "version"], "backend `mine`: its process speaks version 2 of the protocol, not 1"),
        ([*ODD, "anonymous"], "its process does not name its `framework` in the answer to `hello`"),
        ([*ODD, "lacks"], "backend `mine`: no such package"),
        (
            ["echo", "ok protocol=1 framework=Perl"],
            "wrote `ok protocol=1 .* answer to `hello`: the fields of a line are separated by tabs",
        ),
        (
            ["printf", r"ok\tprotocol=1\tframework=Perl\r\n"],
            r"Perl\\r` .* answer to `hello`: a line ends with \\n alone, not with \\r\\n",
        ),
    ],
)
def test_what_cannot_begin_is_unavailable(
    words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match=sentence), started(*map(str, words)):
        pass


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("prints", "wrote `epoch 1: loss 0.5` to its standard output as answer to `train`, where"),
        ("raises", r"^ValueError: no memory for this \(its process, asked to `train`\)$"),
        ("exits", "ended with exit code 3 before it answered `train`; .*: the last words$"),
        ("leaves", "its process ended with exit code 4 before it answered `init`"),
        ("is-killed", "its process was killed by SIGKILL before it answered `train`"),
        ("closes", "closed its standard output before it answered `train`"),
        (
            "keeps",
            "`train`, and has used no processor time for 1 s: it has read the whole req.* may not "
            r"have flushed .*, or it waits for .*: `patience_s` in \[tool.harness.backends\]\)",
        ),
        (
            "float32",
            r"sent only 8 of the 16 bytes of `losses` \(float32 where the model is fl",
        ),
        ("short", "answered `train` with losses=69, not with losses=70"),
        ("transposed", "answered `predict` with outputs=3,5, not with outputs=5,3"),
        ("nameless", "answered `params` with h0=10 .* b_1=20 W_2=1,20, not with h0=10 .* b_2=1"),
    ],
)
def test_a_wrong_answer_is_a_sentence(
    fault: str, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    patience_s = 1 if fault in {"keeps", "float32"} else 30
    with (
        pytest.raises((WorkerError, ContractViolation), match=sentence),
        started(*ODD, fault, patience_s=patience_s) as worker,
    ):
        trained(worker)


def test_values_that_are_too_wide_are_found_at_the_next_request() -> None:
    model = Model(dtype="float32")
    with (
        pytest.raises(WorkerError, match="wrote more than the line of its answer to `train` "),
        started(*ODD, "float64") as worker,
    ):
        trained(worker, model)


def test_a_program_that_does_not_read_is_told_from_one_that_does_not_answer() -> None:
    with (
        pytest.raises(Unavailable, match="for 1 s: it does not read the whole request"),
        started("sleep", "600", patience_s=1),
    ):
        pass


def test_a_program_that_ends_may_leave_a_child_that_holds_the_pipe() -> None:
    with (
        pytest.raises(Unavailable, match="ended with exit code 3 before it answered `hello`"),
        started("sh", "-c", "sleep 5 & exit 3", patience_s=1),
    ):
        pass


def test_a_program_that_computes_may_take_its_time(capfd: pytest.CaptureFixture[str]) -> None:
    busy = "import time; e = time.time() + 3\nwhile time.time() < e: pass\nprint('ok', flush=True)"
    with (
        pytest.raises(HarnessError, match="does not say `protocol=1` in the answer to `hello`"),
        started(sys.executable, "-c", busy, patience_s=0.5),
    ):
        pass


def test_a_backend_in_a_process_knows_what_went_through_its_pipes() -> None:
    with started(*ODD, "none") as worker:
        backend = worker(MODEL, "cpu")
        state = backend.init({n: np.zeros(s, MODEL.dtype) for n, s in MODEL.shapes.items()})
        x_ETB, y_ETB = np.zeros((7, 5, 3)), np.zeros((7, 4, 3))
        _, losses_E = backend.train(state, x_ETB, y_ETB)
        assert isinstance(backend, ExplainsItself)
        said = backend.explain_training()
    assert said["copied_bytes"] == x_ETB.nbytes + y_ETB.nbytes + losses_E.nbytes
    assert said["copies"] > 0
    assert said["other"] > 0
