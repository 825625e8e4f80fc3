"""What backends share that train many seeds in one go."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import prod
from typing import Any, TypeVar

import numpy as np

from harness.backend.model import Model
from harness.backend.protocol import Array, Params, TrainsManySeeds

State = TypeVar("State")


class ByManySeeds(TrainsManySeeds[State]):
    """A backend that trains one seed the way it trains many."""

    def init(self, params: Params) -> State:
        """Start one training."""
        return self.init_many({name: value[None] for name, value in params.items()})

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one optimiser step per epoch."""
        state, losses_ER = self.train_many(state, x_ETB[:, None], y_ETB[:, None])
        return state, losses_ER[:, 0]

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        output_TN: Array = self.predict_many(state, x_TN[None])[0]
        return output_TN

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        return {name: value[0] for name, value in self.params_many(state).items()}


def flat(params: Params, model: Model) -> Array:
    """Return the parameters of each seed as one vector, [R, P]."""
    return np.concatenate([params[name].reshape(len(params[name]), -1) for name in model.shapes], 1)


def cut(flat_RP: Any, model: Model) -> Mapping[str, Any]:
    """Return the parameters by name, [R, *shape], as views of an array or tensor [R, P]."""
    ends = accumulate((prod(shape) for shape in model.shapes.values()), initial=0)
    return {
        name: flat_RP[:, begin:end].reshape(-1, *shape)
        for (name, shape), (begin, end) in zip(model.shapes.items(), pairwise(ends), strict=True)
    }
