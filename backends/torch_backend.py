"""PyTorch, eager: `nn.RNN`, `nn.Linear` and `torch.optim`, as the tutorials write them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from harness.errors import Unavailable
from harness.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, HEAD, Model
from harness.protocol import Array, Params

# Our names for PyTorch's parameters.
_NAMES = {
    "h0": "h0",
    "W_xh": "rnn.weight_ih_l0",
    "W_hh": "rnn.weight_hh_l0",
    "b_h": "rnn.bias_ih_l0",
    "W_1": "head.0.weight",
    "b_1": "head.0.bias",
    "W_2": "head.1.weight",
    "b_2": "head.1.bias",
}


class Network(nn.Module):
    """The network of a `Model`: inputs [T+1, B] to outputs [T+1, B]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.h0 = nn.Parameter(torch.zeros(hidden))
        self.rnn = nn.RNN(input_size=1, hidden_size=hidden)
        self.head = nn.Sequential(nn.Linear(hidden, HEAD), nn.Linear(HEAD, 1))
        # nn.RNN adds two biases; the model has one, so the second stays at zero.
        nn.init.zeros_(self.rnn.get_parameter("bias_hh_l0")).requires_grad_(False)

    def forward(self, x_TB: torch.Tensor) -> torch.Tensor:
        """Return one output per step and path."""
        h0 = self.h0.expand(1, x_TB.shape[1], -1).contiguous()
        h_TBH, _ = self.rnn(x_TB.unsqueeze(-1), h0)
        output: torch.Tensor = self.head(h_TBH).squeeze(-1)
        return output


@dataclass
class State:
    """A network and the optimiser that trains it."""

    network: Network
    optimiser: torch.optim.Optimizer


class TorchBackend:
    """Trains with one Python iteration, and so several dozen kernel launches, per epoch."""

    def __init__(self, model: Model, device: str) -> None:
        if device == "gpu" and not torch.cuda.is_available():
            raise Unavailable("backend `torch`: PyTorch finds no usable GPU (CUDA) here.")
        self.model = model
        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        self.dtype = torch.float64 if model.dtype == "float64" else torch.float32
        # float32 means float32: cuDNN would round the products of an RNN to TF32 by default.
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]

    def init(self, params: Params) -> State:
        """Build the network at `params` and its optimiser."""
        network = Network(self.model.hidden).to(self.device, self.dtype)
        with torch.no_grad():
            for name, theirs in _NAMES.items():
                network.get_parameter(theirs).copy_(torch.tensor(params[name]))
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
            loss.backward()  # type: ignore[no-untyped-call]
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
        network = state.network
        return {
            name: network.get_parameter(theirs).detach().cpu().numpy().copy()
            for name, theirs in _NAMES.items()
        }

    def peak_gpu_mb(self) -> float:
        """Return the peak of allocated tensors."""
        return torch.cuda.max_memory_allocated(self.device) / 1e6

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
