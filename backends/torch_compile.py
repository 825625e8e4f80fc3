"""PyTorch compiled: the network of `torch` with its loop over time written out, by `torch.compile`.

Against `torch` it saves the launch of every operator: forwards and backwards are one call each into
code that Inductor made. It costs the compilation, a minute or so at a hundred steps, since
the compiler sees every step of the loop; that is in the column of the first call.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from backends.torch_backend import State, TorchBackend
from harness.backend.model import Model
from harness.backend.protocol import Array
from harness.errors import Unavailable

# What Inductor calls for code on a CPU, and Triton for the launchers of its kernels on a GPU.
_COMPILERS = {
    "cpu": ("C++", "CXX", ("g++", "c++", "clang++")),
    "gpu": ("C", "CC", ("gcc", "cc", "clang")),
}


class TorchCompileBackend(TorchBackend):
    """Trains with one Python iteration per epoch: a compiled loss, its gradient, the optimiser."""

    name = "torch-compile"

    def __init__(self, model: Model, device: str) -> None:
        model.require(self.name, cell=("rnn",), layers=(1,), gradient=("exact",))
        language, variable, names = _COMPILERS[device]
        if not any(map(shutil.which, (os.environ.get(variable, ""), *names))):
            where = f"backend `{self.name}` on the {device.upper()}"
            raise Unavailable(f"{where} needs a {language} compiler, such as {names[0]}.")
        super().__init__(model, device)
        # It counts what it compiled for this code, whatever the network, and gives up after some.
        torch._dynamo.reset()
        self._loss = torch.compile(self._loss_of, fullgraph=True, dynamic=False)

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one optimiser step per epoch; losses stay on the device until the end."""
        weights, losses = state.network.by_name(), []
        for x_TB, y_TB in zip(self._tensor(x_ETB), self._tensor(y_ETB), strict=True):
            state.optimiser.zero_grad()
            loss = self._loss(weights, x_TB, y_TB)
            loss.backward()
            state.optimiser.step()
            losses.append(loss.detach())
        return state, torch.stack(losses).cpu().numpy()

    def _loss_of(
        self, weights: Mapping[str, torch.Tensor], x_TB: torch.Tensor, y_TB: torch.Tensor
    ) -> torch.Tensor:
        activation = torch.relu if self.model.activation == "relu" else torch.tanh
        from_input_TBH = x_TB.unsqueeze(-1) * weights["W_xh"][:, 0] + weights["b_h"]
        h_BH = weights["h0"].expand(x_TB.shape[1], -1)
        states = []
        for from_input_BH in from_input_TBH.unbind():
            h_BH = activation(from_input_BH + h_BH @ weights["W_hh"].T)
            states.append(h_BH)
        head_TBD = F.linear(torch.stack(states[1:]), weights["W_1"], weights["b_1"])
        output_TB = F.linear(head_TBD, weights["W_2"], weights["b_2"]).squeeze(-1)
        return F.mse_loss(output_TB, y_TB)
