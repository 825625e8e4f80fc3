"""The example backend, training many seeds at once: every array has one more axis, the seeds."""

import numpy as np
import torch
from example_backend import ExampleBackend


class ExampleManyBackend(ExampleBackend):
    """`torch.vmap` runs the forward pass of one network for all of them."""

    def init_many(self, params):
        return self.init(params)

    def train_many(self, state, x_ERTB, y_ERTB):
        weights, optimiser = state
        forward = torch.vmap(self.forward)
        losses = []
        for x_RTB, y_RTB in zip(torch.from_numpy(x_ERTB), torch.from_numpy(y_ERTB), strict=True):
            optimiser.zero_grad()
            loss_R = torch.mean((forward(weights, x_RTB)[:, 1:] - y_RTB) ** 2, dim=(1, 2))
            # No network is in the loss of another, so each gets the gradient that it has alone.
            loss_R.sum().backward()
            optimiser.step()
            losses.append(loss_R.detach().numpy())
        return state, np.array(losses)

    def predict_many(self, state, x_RTN):
        with torch.no_grad():
            return torch.vmap(self.forward)(state[0], torch.from_numpy(x_RTN)).numpy()

    def params_many(self, state):
        return self.params(state)
