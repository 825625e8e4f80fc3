"""Backends that train rightly and waste time, each in one way that a profile should name.

Named on the command line as `benchmarks.helpers.wasteful:Name`. What can be planted in any
framework is planted in three: an eager one, a compiled one, and one without a framework.
"""

from __future__ import annotations

import gc
import threading
import time
import zlib
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional as F

from backends.floor import FloorBackend
from backends.jax_backend import JaxBackend
from backends.torch_backend import State, TorchBackend
from harness.backend.protocol import Array


class _Wasteful:
    """Wastes time before each epoch, given the data of the whole call."""

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        losses = []
        for epoch in range(len(x_ETB)):
            self.waste(state, x_ETB, y_ETB)
            one = slice(epoch, epoch + 1)
            state, loss_E = super().train(state, x_ETB[one], y_ETB[one])  # type: ignore[misc]
            losses.append(loss_E)
        return state, np.concatenate(losses)

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        raise NotImplementedError


class Copies(_Wasteful):
    """Copies the data of all epochs for each of them."""

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        self.data = x_ETB.copy(), y_ETB.copy()


class Collects(_Wasteful):
    """Collects Python's garbage."""

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        gc.collect()


class Allocates(_Wasteful):
    """Fills 64 MB that are given back at once."""

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        np.ones(2**24, np.float32)


class Evaluates(_Wasteful):
    """Predicts the batch before it trains on it."""

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        self.predict(state, x_ETB[0])  # type: ignore[attr-defined]


class Sleeps(_Wasteful):
    """Sleeps for about a fifth of the time."""

    share = 0.25  # Of what the rest takes.

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        now, last = time.perf_counter(), getattr(self, "last", None)
        if last is not None:
            time.sleep(min(0.1, self.share * (now - last)))
        self.last = time.perf_counter()

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        self.last = time.perf_counter()
        return super().train(state, x_ETB, y_ETB)


class Fights:
    """A second thread is busy while it trains."""

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        done = threading.Event()

        def spin() -> None:
            text = bytes(2_000_000)
            while not done.is_set():
                zlib.crc32(text)  # Lets others have the interpreter.

        thread = threading.Thread(target=spin)
        thread.start()
        try:
            return super().train(state, x_ETB, y_ETB)  # type: ignore[misc, no-any-return]
        finally:
            done.set()
            thread.join()


class TorchCopies(Copies, TorchBackend):
    pass


class JaxCopies(Copies, JaxBackend):
    pass


class FloorCopies(Copies, FloorBackend):
    pass


class TorchCollects(Collects, TorchBackend):
    pass


class JaxCollects(Collects, JaxBackend):
    pass


class FloorCollects(Collects, FloorBackend):
    pass


class TorchAllocates(Allocates, TorchBackend):
    pass


class JaxAllocates(Allocates, JaxBackend):
    pass


class FloorAllocates(Allocates, FloorBackend):
    pass


class TorchEvaluates(Evaluates, TorchBackend):
    pass


class JaxEvaluates(Evaluates, JaxBackend):
    pass


class FloorEvaluates(Evaluates, FloorBackend):
    pass


class TorchSleeps(Sleeps, TorchBackend):
    pass


class JaxSleeps(Sleeps, JaxBackend):
    pass


class FloorSleeps(Sleeps, FloorBackend):
    pass


class TorchFights(Fights, TorchBackend):
    pass


class JaxFights(Fights, JaxBackend):
    pass


class TorchNoOps(_Wasteful, TorchBackend):
    """Calls an operator 2,000 times that does nothing."""

    def waste(self, state: Any, x_ETB: Array, y_ETB: Array) -> None:
        h0 = state.network.h0
        for _ in range(2000):
            h0.detach()


class TorchPathLoop(TorchBackend):
    """Works off the paths of a batch one by one."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        losses = []
        for x_TB, y_TB in zip(self._tensor(x_ETB), self._tensor(y_ETB), strict=True):
            state.optimiser.zero_grad()
            paths = [state.network(x_TB[:, b : b + 1]) for b in range(x_TB.shape[1])]
            loss = F.mse_loss(torch.cat(paths, dim=1)[1:], y_TB)
            loss.backward()
            state.optimiser.step()
            losses.append(loss.detach())
        return state, torch.stack(losses).numpy()


class TorchDouble(TorchBackend):
    """Trains in double precision, whatever is asked for."""

    def __init__(self, model: Any, device: str) -> None:
        super().__init__(model, device)
        self.dtype = torch.float64

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        state, loss_E = super().train(state, x_ETB, y_ETB)
        return state, loss_E.astype(x_ETB.dtype)

    def predict(self, state: State, x_TN: Array) -> Array:
        return super().predict(state, x_TN).astype(x_TN.dtype)

    def params(self, state: State) -> Any:
        kind = self.model.dtype
        return {name: value.astype(kind) for name, value in super().params(state).items()}

    def _tensor(self, array: Array) -> torch.Tensor:
        return super()._tensor(array).double()


class JaxRecompiles(JaxBackend):
    """Compiles a new function in each call."""

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        anew = jax.jit(lambda *data: self._scan(*data))  # noqa: PLW0108, `_scan` is known to JAX
        state, losses_E = anew(state, x_ETB, y_ETB)
        return state, np.asarray(losses_E)
