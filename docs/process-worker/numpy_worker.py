"""A worker in NumPy: a tanh cell whose gradient is derived by hand, trained with SGD or Adam."""

import numpy as np
from worker import serve


class NumpyBackend:
    """Axes: T time steps, B batch, H hidden units, D units between the two linear layers."""

    def __init__(self, model, device):
        model.require(
            "numpy_worker",
            device=["cpu"],
            cell=["rnn"],
            activation=["tanh"],
            layers=[1],
            gradient=["exact"],
        )
        self.model = model

    def init(self, params):
        moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}
        return {"params": params, "moments": moments, "step": 0}

    def train(self, state, x_ETB, y_ETB):
        return state, np.array([self.step(state, x, y) for x, y in zip(x_ETB, y_ETB)])

    def predict(self, state, x_TN):
        return self.forward(state["params"], x_TN)[2]

    def params(self, state):
        return state["params"]

    def step(self, state, x_TB, y_TB):
        """Take one step; return the loss before it."""
        error_TB, gradient = self.error_and_gradient(state["params"], x_TB, y_TB)
        state["step"] += 1
        for name, g in gradient.items():
            state["params"][name] -= self.model.learning_rate * self.direction(state, name, g)
        return np.mean(error_TB**2)

    def direction(self, state, name, g):
        if self.model.optimiser == "sgd":
            return g
        m, v = state["moments"][name]
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        correction = np.sqrt(1 - 0.999 ** state["step"]), 1 - 0.9 ** state["step"]
        return m / correction[1] / (np.sqrt(v) / correction[0] + 1e-8)

    def forward(self, p, x_TB):
        h_THB = np.empty((len(x_TB), len(p["h0"]), x_TB.shape[1]), x_TB.dtype)
        h_HB = p["h0"][:, None]
        for t, x_B in enumerate(x_TB):
            h_HB = np.tanh(p["W_xh"] * x_B + p["W_hh"] @ h_HB + p["b_h"][:, None])
            h_THB[t] = h_HB
        head_TDB = p["W_1"] @ h_THB + p["b_1"][:, None]
        return h_THB, head_TDB, (p["W_2"] @ head_TDB)[:, 0] + p["b_2"]

    def error_and_gradient(self, p, x_TB, y_TB):
        h_THB, head_TDB, output_TB = self.forward(p, x_TB)
        error_TB = output_TB[1:] - y_TB  # The first output is not scored.
        d_output_TB = np.zeros_like(x_TB)
        d_output_TB[1:] = 2 * error_TB / error_TB.size
        d_head_TDB = p["W_2"].T * d_output_TB[:, None]
        d_h_THB = p["W_1"].T @ d_head_TDB
        before_THB = np.concatenate([np.broadcast_to(p["h0"][:, None], h_THB[:1].shape), h_THB])
        a_THB = np.empty_like(h_THB)  # The gradient at what goes into tanh.
        later_HB = 0
        for t in reversed(range(len(x_TB))):
            a_THB[t] = (d_h_THB[t] + later_HB) * (1 - h_THB[t] ** 2)
            later_HB = p["W_hh"].T @ a_THB[t]
        return error_TB, {
            "h0": later_HB.sum(1),
            "W_xh": np.einsum("thb,tb->h", a_THB, x_TB)[:, None],
            "W_hh": np.einsum("thb,tgb->hg", a_THB, before_THB[:-1]),
            "b_h": a_THB.sum((0, 2)),
            "W_1": np.einsum("tdb,thb->dh", d_head_TDB, h_THB),
            "b_1": d_head_TDB.sum((0, 2)),
            "W_2": np.einsum("tb,tdb->d", d_output_TB, head_TDB)[None],
            "b_2": d_output_TB.sum()[None],
        }


if __name__ == "__main__":
    serve(NumpyBackend, framework="NumPy")
