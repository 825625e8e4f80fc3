"""The default training in PyTorch and nothing else; prints the seconds of each chunk.

Written without the harness, to be compared with a trial's `train_s` by `fidelity.py`.
"""

import time

import numpy as np
import torch
from torch import nn

EPOCHS, CHUNK, T, B, H = 1000, 50, 100, 32, 10


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h0 = nn.Parameter(torch.zeros(H))
        self.rnn = nn.RNN(1, H)
        self.head = nn.Sequential(nn.Linear(H, 20), nn.Linear(20, 1))
        nn.init.zeros_(self.rnn.get_parameter("bias_hh_l0")).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.rnn(x.unsqueeze(-1), self.h0.expand(1, x.shape[1], -1).contiguous())
        output: torch.Tensor = self.head(h).squeeze(-1)
        return output


def chunk(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros((CHUNK, T + 1, B))
    for t in range(T):
        x[:, t + 1] = 0.1 * x[:, t] + rng.standard_normal((CHUNK, B))
    y = x[:, 1:] ** 2 + 0.1 * x[:, :-1] ** 2
    return x.astype(np.float32), y.astype(np.float32)


network = Network()
optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-3)
rng = np.random.default_rng(0)
seconds = []
for first in range(-CHUNK, EPOCHS, CHUNK):
    x_np, y_np = chunk(rng)
    start = time.perf_counter()
    losses = []
    for x, y in zip(torch.from_numpy(x_np), torch.from_numpy(y_np), strict=True):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(x)[1:], y)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    torch.stack(losses).numpy()
    if first >= 0:  # The first chunk warms up.
        seconds.append(time.perf_counter() - start)
print(*seconds)
