"""The network as a backend is told of it: sizes, optimiser, parameter names and shapes.

    h_t = tanh(W_xh x_t + W_hh h_{t-1} + b_h)        h_{-1} = h0, trained
    output_t = W_2 (W_1 h_t + b_1) + b_2             no activation in between

Shape suffixes used throughout the project:
E epochs, T time steps, B batch, N evaluation paths, H hidden units, D head units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD = 20  # D: the width between the two linear layers
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # eps stands outside the square root


@dataclass(frozen=True)
class Model:
    """A tanh RNN cell 1 -> hidden, a linear layer to `HEAD` units and one to the output.

    `optimiser` is "adam" (with the constants above) or plain "sgd"; `dtype` is that of parameters,
    data and arithmetic.
    """

    hidden: int = 10
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter; weights are [out, in]."""
        return {
            "h0": (self.hidden,),
            "W_xh": (self.hidden, 1),
            "W_hh": (self.hidden, self.hidden),
            "b_h": (self.hidden,),
            "W_1": (HEAD, self.hidden),
            "b_1": (HEAD,),
            "W_2": (1, HEAD),
            "b_2": (1,),
        }
