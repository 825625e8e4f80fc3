"""The default training in JAX (Flax, optax) and nothing else; prints the seconds of each chunk.

Written without the harness, to be compared with a trial's `train_s` by `fidelity.py`.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

EPOCHS, CHUNK, T, B, H = 1000, 50, 100, 32, 10


class Network(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h0 = self.param("h0", nn.initializers.zeros, (H,))
        carry = jnp.broadcast_to(h0, (x.shape[1], H))
        h = nn.RNN(nn.SimpleCell(H), time_major=True)(x[..., None], initial_carry=carry)
        output: jax.Array = nn.Dense(1)(nn.Dense(20)(h))[..., 0]
        return output


def chunk(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros((CHUNK, T + 1, B))
    for t in range(T):
        x[:, t + 1] = 0.1 * x[:, t] + rng.standard_normal((CHUNK, B))
    y = x[:, 1:] ** 2 + 0.1 * x[:, :-1] ** 2
    return aligned(x), aligned(y)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return it in float32, at a multiple of 64 bytes: XLA takes that without a copy."""
    memory = np.empty(array.size + 16, np.float32)
    first = -memory.ctypes.data % 64 // 4
    copy = memory[first : first + array.size].reshape(array.shape)
    copy[:] = array
    return copy


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    output: Any = network.apply(params, x)
    return jnp.mean((output[1:] - y) ** 2)


def step(state: Any, batch: Any) -> Any:
    params, moments = state
    value, gradients = jax.value_and_grad(loss)(params, *batch)
    updates, moments = optimiser.update(gradients, moments, params)
    return (optax.apply_updates(params, updates), moments), value


network = Network()
optimiser = optax.adam(1e-3)
train = jax.jit(lambda state, x, y: jax.lax.scan(step, state, (x, y)), donate_argnums=0)
params = network.init(jax.random.key(0), jnp.zeros((T + 1, B)))
state = (params, optimiser.init(params))
rng = np.random.default_rng(0)
seconds = []
for first in range(-CHUNK, EPOCHS, CHUNK):
    x, y = chunk(rng)
    start = time.perf_counter()
    state, losses = train(state, x, y)
    np.asarray(losses)
    if first >= 0:  # The first chunk compiles.
        seconds.append(time.perf_counter() - start)
print(*seconds)
