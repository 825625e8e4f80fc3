"""PyTorch, eager: `nn.RNN`, `nn.GRU`, `nn.LSTM`, `nn.Linear` and `torch.optim`, as in tutorials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, HEAD, Model
from harness.backend.protocol import Array, Params
from harness.errors import Unavailable

_RNNS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


Carry: TypeAlias = tuple[torch.Tensor, ...]
"""What a layer carries from step to step: h, and c of an lstm, each [B, H]."""


class Network(nn.Module):
    """The network of a `Model`: inputs [T+1, B] to outputs [T+1, B]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.h0 = nn.Parameter(torch.zeros(model.layers, 1, model.hidden))
        if model.cell == "lstm":
            self.c0 = nn.Parameter(torch.zeros(model.layers, 1, model.hidden))
        options = {"nonlinearity": model.activation} if model.cell == "rnn" else {}
        self.rnn = _RNNS[model.cell](1, model.hidden, model.layers, **options)
        self.head = nn.Sequential(nn.Linear(model.hidden, HEAD), nn.Linear(HEAD, 1))
        # PyTorch adds two biases; the model has one, so the second stays at zero: all of it, but
        # for that of a gru's new gate, which is the last.
        for layer in range(model.layers):
            second = nn.init.zeros_(self.rnn.get_parameter(f"bias_hh_l{layer}"))
            if model.cell == "gru":
                second.register_hook(self._of_the_new_gate)
            else:
                second.requires_grad_(False)

    def forward(self, x_TB: torch.Tensor) -> torch.Tensor:
        """Return one output per step and path."""
        start = [self.h0, self.c0] if self.model.cell == "lstm" else [self.h0]
        carry = [s.expand(-1, x_TB.shape[1], -1).contiguous() for s in start]
        if self.model.gradient == "exact" or not torch.is_grad_enabled():
            h_TBH, _ = self.rnn(x_TB.unsqueeze(-1), carry if len(carry) > 1 else carry[0])
        else:
            h_TBH = self._broadcast(x_TB.unsqueeze(-1), carry)
        output: torch.Tensor = self.head(h_TBH).squeeze(-1)
        return output

    def _broadcast(self, x_TBI: torch.Tensor, start: list[torch.Tensor]) -> torch.Tensor:
        """Return what `self.rnn` puts out, but with the gradient `stateful-broadcast`.

        After a first pass the steps run once more, from the last to the first. Each has the values
        that it has in the right order, but its gradient goes to the step that ran before it, the
        next one in time. So autograd runs the backward steps in forward order of time.
        """
        for layer in range(self.model.layers):
            step, steps = self._cell(layer), x_TBI.unbind()
            carries: list[Carry] = [tuple(value[layer] for value in start)]
            with torch.no_grad():
                for x_BI in steps[:-1]:
                    carries.append(step(x_BI, carries[-1]))
            outputs: list[torch.Tensor] = []
            later: Carry = ()
            for x_BI, before in zip(reversed(steps), reversed(carries), strict=True):
                values = [value.detach() for value in before]
                if later:  # Adds exactly nothing, but the gradient.
                    pairs = zip(values, later, strict=True)
                    values = [value + (other - other.detach()) for value, other in pairs]
                later = step(x_BI, tuple(values))
                outputs.append(later[0])
            x_TBI = torch.stack(outputs[::-1])
        return x_TBI

    def _cell(self, layer: int) -> Callable[[torch.Tensor, Carry], Carry]:
        """Return one step of a layer: from its input and its carry to its next carry."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [self.rnn.get_parameter(f"{kind}_l{layer}") for kind in kinds]
        if self.model.cell == "lstm":
            return lambda x_BI, carry: torch.lstm_cell(x_BI, carry, *weights)
        rnn = {"tanh": torch.rnn_tanh_cell, "relu": torch.rnn_relu_cell}[self.model.activation]
        cell = torch.gru_cell if self.model.cell == "gru" else rnn
        return lambda x_BI, carry: (cell(x_BI, carry[0], *weights),)

    def by_name(self) -> dict[str, torch.Tensor]:
        """Return the parameters under the names of `Model.shapes`; they share their memory."""
        found = {}
        for layer, prefix in enumerate(self.model.prefixes):
            found[f"{prefix}h0"] = self.h0[layer, 0]
            if self.model.cell == "lstm":
                found[f"{prefix}c0"] = self.c0[layer, 0]
            found[f"{prefix}W_xh"] = self.rnn.get_parameter(f"weight_ih_l{layer}")
            found[f"{prefix}W_hh"] = self.rnn.get_parameter(f"weight_hh_l{layer}")
            found[f"{prefix}b_h"] = self.rnn.get_parameter(f"bias_ih_l{layer}")
            if self.model.cell == "gru":
                second = self.rnn.get_parameter(f"bias_hh_l{layer}")
                found[f"{prefix}b_hn"] = second[-self.model.hidden :]
        for number, linear in enumerate(self.head, start=1):
            found[f"W_{number}"] = linear.get_parameter("weight")
            found[f"b_{number}"] = linear.get_parameter("bias")
        return found

    def _of_the_new_gate(self, gradient: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(gradient)
        kept[-self.model.hidden :] = gradient[-self.model.hidden :]
        return kept


@dataclass
class State:
    """A network and the optimiser that trains it."""

    network: Network
    optimiser: torch.optim.Optimizer


class TorchBackend:
    """Trains with one Python iteration, and so several dozen kernel launches, per epoch."""

    name = "torch"

    def __init__(self, model: Model, device: str) -> None:
        self.model = model
        self.device = torch_device(self.name, device)
        self.dtype = torch.float64 if model.dtype == "float64" else torch.float32

    def init(self, params: Params) -> State:
        """Build the network at `params` and its optimiser."""
        network = Network(self.model).to(self.device, self.dtype)
        with torch.no_grad():
            for name, parameter in network.by_name().items():
                parameter.copy_(torch.tensor(params[name]))
        trained = [p for p in network.parameters() if p.requires_grad]
        optimiser: torch.optim.Optimizer
        if self.model.optimiser == "adam":
            optimiser = torch.optim.Adam(
                trained, self.model.learning_rate, (ADAM_BETA1, ADAM_BETA2), ADAM_EPS
            )
        else:
            optimiser = torch.optim.SGD(trained, self.model.learning_rate)
        return State(network, optimiser)

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one optimiser step per epoch; losses stay on the device until the end."""
        network, optimiser = state.network, state.optimiser
        losses = []
        for x_TB, y_TB in zip(self._tensor(x_ETB), self._tensor(y_ETB), strict=True):
            optimiser.zero_grad()
            loss = F.mse_loss(network(x_TB)[1:], y_TB)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return state, torch.stack(losses).cpu().numpy()

    @torch.no_grad()
    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        output: Array = state.network(self._tensor(x_TN)).cpu().numpy()
        return output

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        return {
            name: parameter.detach().cpu().numpy().copy()
            for name, parameter in state.network.by_name().items()
        }

    def peak_gpu_mb(self) -> float:
        """Return the peak of allocated tensors."""
        return peak_gpu_mb(self.device)

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def torch_device(backend: str, device: str) -> torch.device:
    """Return PyTorch's device for "cpu" or "gpu"; raise `Unavailable` if it is not there."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Unavailable(f"backend `{backend}`: PyTorch finds no usable GPU (CUDA) here.")
    # float32 means float32: cuDNN would round the products of an RNN to TF32 by default, and before
    # 2.13 the setting for all does not reach it.
    backends: Any = torch.backends
    for part in (backends, backends.cudnn.conv, backends.cudnn.rnn):
        part.fp32_precision = "ieee"
    return torch.device("cuda" if device == "gpu" else "cpu")


def peak_gpu_mb(device: torch.device) -> float:
    """Return the peak of allocated tensors."""
    return torch.cuda.max_memory_allocated(device) / 1e6
