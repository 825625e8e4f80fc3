"""The network as a backend is told of it: cell, sizes, optimiser, parameter names and shapes.

    x_t --> recurrent layer 1 --> ... --> recurrent layer L --> h_t
    output_t = W_2 (W_1 h_t + b_1) + b_2             no activation in between

A recurrent layer maps its input x_t and its own past to h_t, and starts from a trained state:

    rnn    h_t = f(W_xh x_t + W_hh h_{t-1} + b_h)                      f: tanh or relu
    gru    r_t = s(W_xr x_t + W_hr h_{t-1} + b_r)                      s: the logistic function
           z_t = s(W_xz x_t + W_hz h_{t-1} + b_z)
           n_t = tanh(W_xn x_t + b_n + r_t * (W_hn h_{t-1} + b_hn))
           h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    lstm   i_t, f_t, o_t = s(W_x. x_t + W_h. h_{t-1} + b_.)
           g_t = tanh(W_xg x_t + W_hg h_{t-1} + b_g)
           c_t = f_t * c_{t-1} + i_t * g_t,   h_t = o_t * tanh(c_t)

The gates of a layer are stacked along the first axis of W_xh, W_hh and b_h, in the order r, z, n
of a gru and i, f, g, o of an lstm. It is the gru that PyTorch, cuDNN and Flax compute: the reset
gate stands outside the product with W_hn, so the new gate has a second bias, b_hn; every other
gate has one.

The gradient is exact, or it is that of a program with a fault, `stateful-broadcast`. With c_t for
all that a layer hands on after step t (h_t, and c_t of an lstm), and g_t for the gradient that
comes to c_t from the output at t:

    exact                back-propagation through time, t downwards: the backward step of t gets g_t
                         plus the gradient that the backward step of t+1 returned for c_t. The
                         initial states get what that of the first step returned.
    stateful-broadcast   t upwards: the backward step of t gets g_t plus the gradient that the
                         backward step of t-1 returned for c_{t-2}. The initial states get none.

The latter is what Zygote computes for `m.(xs)`, the broadcast of a Flux `Chain` that holds a
recurrent layer: it runs the backward steps of a broadcast in forward order. The manual of Flux 0.14
warns of it.

Shape suffixes used throughout the project:
E epochs, R seeds trained at once, T time steps, B batch, N evaluation paths, H hidden units,
D head units, G gates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.errors import Unavailable

Cell: TypeAlias = Literal["rnn", "gru", "lstm"]
Activation: TypeAlias = Literal["tanh", "relu"]
Gradient: TypeAlias = Literal["exact", "stateful-broadcast"]

HEAD = 20  # D: the width between the two linear layers
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # eps stands outside the square root
GATES: Mapping[Cell, int] = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Model:
    """Recurrent layers 1 -> hidden -> ..., a linear layer to `HEAD` units, one to the output.

    `optimiser` is "adam" (with the constants above) or plain "sgd"; `dtype` is that of parameters,
    data and arithmetic; `activation` is that of an rnn, the other cells have their own; `gradient`
    is what the optimiser is given (above).
    """

    hidden: int = 10
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    dtype: Literal["float32", "float64"] = "float32"
    cell: Cell = "rnn"
    activation: Activation = "tanh"
    layers: int = 1
    gradient: Gradient = "exact"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefix of the parameter names of each recurrent layer, from the first layer on."""
        return ("", *(f"layer{number}." for number in range(2, self.layers + 1)))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter; weights are [out, in]."""
        hidden, gates = self.hidden, GATES[self.cell] * self.hidden
        shapes: dict[str, tuple[int, ...]] = {}
        for prefix in self.prefixes:
            shapes[f"{prefix}h0"] = (hidden,)
            if self.cell == "lstm":
                shapes[f"{prefix}c0"] = (hidden,)
            shapes[f"{prefix}W_xh"] = (gates, hidden if prefix else 1)
            shapes[f"{prefix}W_hh"] = (gates, hidden)
            shapes[f"{prefix}b_h"] = (gates,)
            if self.cell == "gru":
                shapes[f"{prefix}b_hn"] = (hidden,)
        return shapes | {
            "W_1": (HEAD, hidden),
            "b_1": (HEAD,),
            "W_2": (1, HEAD),
            "b_2": (1,),
        }

    @property
    def initial_states(self) -> tuple[str, ...]:
        """The names of the parameters that the recurrent layers start from."""
        return tuple(name for name in self.shapes if name.endswith(("h0", "c0")))

    def require(self, backend: str, **allowed: Collection[object]) -> None:
        """Raise `Unavailable` unless each named field has one of the values a backend can train."""
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                raise Unavailable(
                    f"backend `{backend}` does not train a network with `{name}` = {value}; "
                    f"it does with {', '.join(map(str, values))}. `torch` and `jax` train them all."
                )
