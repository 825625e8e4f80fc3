"""A complete third-party backend: autograd over explicit tensors, without a single nn.Module."""

import numpy as np
import torch

import harness


class ExampleBackend:
    """A state is a dictionary of tensors and their optimiser."""

    def __init__(self, model: harness.Model, device: str) -> None:
        if device != "cpu":
            raise harness.Unavailable("backend `example` runs on the CPU only.")
        model.require("example", cell=["rnn"], activation=["tanh"], layers=[1])
        self.model = model

    def init(self, params):
        weights = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[self.model.optimiser]
        return weights, make(weights.values(), lr=self.model.learning_rate)

    def train(self, state, x_ETB, y_ETB):
        weights, optimiser = state
        losses = []
        for x_TB, y_TB in zip(torch.from_numpy(x_ETB), torch.from_numpy(y_ETB), strict=True):
            optimiser.zero_grad()
            loss = torch.mean((self.forward(weights, x_TB)[1:] - y_TB) ** 2)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return state, np.array(losses)

    def predict(self, state, x_TN):
        with torch.no_grad():
            return self.forward(state[0], torch.from_numpy(x_TN)).numpy()

    def params(self, state):
        return {name: value.detach().numpy().copy() for name, value in state[0].items()}

    def forward(self, w, x_TB):
        h_HB = w["h0"][:, None].expand(-1, x_TB.shape[1])
        outputs = []
        for x_B in x_TB:
            h_HB = torch.tanh(w["W_xh"] * x_B + w["W_hh"] @ h_HB + w["b_h"][:, None])
            head_DB = w["W_1"] @ h_HB + w["b_1"][:, None]
            outputs.append((w["W_2"] @ head_DB)[0] + w["b_2"])
        return torch.stack(outputs)
