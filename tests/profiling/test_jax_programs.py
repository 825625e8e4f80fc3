"""What is seen of compiled programs: counts are exact, times only add up."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import monitoring

from harness.profiling import hlo, jax_programs
from harness.profiling.jax_trace import _read, trace
from harness.profiling.seen import Seen, Train
from tests.profiling.trainings import EPOCHS, timed

STEPS, PATHS = 30, 16
X_ETB = np.random.default_rng(0).random((EPOCHS, STEPS, PATHS), np.float32)


def step(w_HH: Any, x_TB: Any) -> tuple[Any, Any]:
    """Train a recurrent network of 8 units on a batch."""

    def loss_of(w_HH: Any) -> Any:
        def forth(h_BH: Any, x_B: Any) -> tuple[Any, None]:
            return jnp.tanh(h_BH @ w_HH + x_B[:, None]), None

        start_BH = jnp.zeros((x_TB.shape[1], 8), w_HH.dtype)
        return jnp.mean(jax.lax.scan(forth, start_BH, x_TB)[0] ** 2)

    loss, gradient = jax.value_and_grad(loss_of)(w_HH)
    return w_HH - 0.1 * gradient, loss


def scan(w_HH: Any, x_ETB: Any) -> tuple[Any, Any]:
    return jax.lax.scan(step, w_HH, x_ETB)


def look(train: Train) -> Seen:
    train()
    epoch_s = min(train() for _ in range(3)) / EPOCHS
    seen = jax_programs.look(train, EPOCHS, epoch_s)
    assert seen is not None
    assert sum(seen.seconds.values()) == pytest.approx(epoch_s)
    return seen


def weights(dtype: Any = jnp.float32) -> Any:
    return 0.1 * jnp.ones((8, 8), dtype)


def nothing() -> None:
    pass


def test_a_trace_shows_the_kernels_that_the_text_of_the_program_promises() -> None:
    w_HH = weights()
    compiled = jax.jit(scan).lower(w_HH, X_ETB).compile()
    program = hlo.program(compiled.as_text() or "")
    seen = look(timed(nothing, call=lambda: np.asarray(compiled(w_HH, X_ETB)[1])))
    assert seen.counts["programs"] * EPOCHS == 1
    assert seen.counts["kernels"] * EPOCHS == sum(kernel.count for kernel in program.kernels)
    assert seen.counts["kernels"] > 2 * STEPS
    assert seen.counts["trips:30"] == 2 * STEPS
    assert seen.counts["float64"] == seen.counts["compilations"] == 0
    assert seen.costs["empty_call"] < seen.costs["empty_call:dot"]  # A call into a library.
    # Three products of [16, 8] and [8, 8] a step, and one multiplication of a few numbers each.
    assert 1 < seen.counts["multiply_adds"] / (3 * STEPS * PATHS * 8 * 8) < 1.5


def test_the_trace_of_a_gpu_names_each_kernel() -> None:
    """Recorded on an NVIDIA H200 with JAX 0.11: two epochs of the default task by `jax`."""
    data = (Path(__file__).parent / "two_epochs_on_h200.xspace.gz").read_bytes()
    (run,), transfers_s = _read(gzip.decompress(data))
    assert (run.program[0], run.inline, run.on_device) == ("jit__scan", False, True)
    names = Counter(one.name for one in run.executed)
    assert names.total() == 2492
    assert names["loop_tanh_fusion"] == 2 * 101  # In a CUDA graph.
    assert names["loop_broadcast_fusion.5"] == 1  # By itself: as in the text of the program.
    assert not [name for name in names if name.startswith("command_buffer")]
    assert transfers_s == pytest.approx((4672 + 3808 + 1792) / 1e9)  # Inputs, targets, losses.


def test_a_long_call_is_counted_though_only_its_beginning_is_traced() -> None:
    w_HH, x_ETB = weights(), np.tile(X_ETB, (200, 1, 1))
    compiled = jax.jit(scan).lower(w_HH, x_ETB).compile()
    program = hlo.program(compiled.as_text() or "")
    train = timed(nothing, call=lambda: np.asarray(compiled(w_HH, x_ETB)[1]))
    assert not trace(train, 0.01).whole
    seen = look(train)
    assert seen.counts["programs"] * EPOCHS == 1
    assert seen.counts["kernels"] * EPOCHS == sum(kernel.count for kernel in program.kernels)
    assert seen.counts["trips:30"] == 200 * 2 * STEPS


def test_a_loop_over_paths_is_seen() -> None:
    w_HH = weights()
    by_path = jax.jit(lambda x_TB: jax.lax.map(lambda x_T: step(w_HH, x_T[:, None]), x_TB.T))
    seen = look(timed(lambda: np.asarray(by_path(X_ETB[0])[1])))
    assert seen.counts["programs"] == 1
    assert seen.counts["trips:16"] == PATHS
    assert seen.counts["trips:30"] == 2 * STEPS * PATHS


def test_compilations_are_counted() -> None:
    w_HH = weights()

    def call() -> None:
        np.asarray(jax.jit(lambda w_HH: w_HH @ w_HH)(w_HH))

    seen = look(timed(nothing, call))
    assert seen.counts["compilations"] == 1 / EPOCHS
    assert seen.seconds["compilation"] > 0.2 * sum(seen.seconds.values())


def test_programs_of_one_name_are_told_apart() -> None:
    twice = jax.jit(lambda x: 2 * x)
    short, long = jnp.zeros(50), jnp.zeros(100_000)
    twice(long)
    assert look(timed(lambda: np.asarray(twice(short)))).counts["bytes"] == 2 * short.nbytes
    assert look(timed(lambda: np.asarray(twice(long)))).counts["bytes"] == 2 * long.nbytes


def test_double_precision_is_seen() -> None:
    with jax.enable_x64(True):
        w_HH, one = weights(jnp.float64), jax.jit(step)
        seen = look(timed(lambda: np.asarray(one(w_HH, X_ETB[0])[1])))
    assert seen.counts["float64"] > STEPS
    assert "trips:16" not in seen.counts


def test_nothing_is_left_on_and_nothing_seen_where_no_program_runs() -> None:
    def fail() -> None:
        raise ArithmeticError

    listeners = monitoring.get_event_duration_listeners()
    assert jax_programs.look(timed(X_ETB.sum), EPOCHS, 1e-6) is None
    with pytest.raises(ArithmeticError):
        jax_programs.look(timed(fail), EPOCHS, 1e-6)
    with pytest.raises(ArithmeticError):
        trace(timed(fail), 1)
    assert monitoring.get_event_duration_listeners() == listeners
