"""PyTorch, as far as operators go: the one-layer rnn, its gradient by hand, in buffers made once.

At this size an operator costs more to call than to compute, so there are as few as can be, four per
time step, and none allocates. What is done, and why (`docs/performance.md` has what each buys):
- the batch is the last axis, [H, B], and a step forwards is a product and an activation in place,
  a step backwards a product and a multiplication in place; no graph of autograd is built;
- tanh(a) = 2 s(2a) - 1 with the logistic function s, which PyTorch computes in half the time: the
  loop keeps s, and the 2 and the 1 move into the weights;
- there is no activation between the two linear layers, so the head is one vector W_2 W_1 and a
  scalar, and all its gradients follow from the sums of g and of g h over time and batch;
- the gradients of W_hh, W_xh and b_h are one product after the loop;
- parameters, and Adam's moments, are one flat vector, which one fused operator updates;
- on a GPU a whole step is one CUDA graph;
- seeds, in groups of `GROUP` on a CPU, are the batch of batched products: one call serves them all.

Shapes: E epochs, R seeds, T time steps, B batch, H hidden, D head units, P parameters of a seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import ceil
from typing import NamedTuple, TypeAlias

import torch

from backends.many_seeds import ByManySeeds, cut, flat
from backends.torch_backend import peak_gpu_mb, torch_device
from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Model
from harness.backend.protocol import Array, Params

GROUP = 16  # As many seeds at once as leave what a time loop touches in the cache.

Weights: TypeAlias = Mapping[str, torch.Tensor]


class State(NamedTuple):
    """Parameters and Adam's two moments [R, P], and the number of steps taken, []."""

    flat: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor
    step: torch.Tensor


class TorchTunedBackend(ByManySeeds[State]):
    """Trains seeds in groups, one training step of a group after another."""

    name = "torch-tuned"

    def __init__(self, model: Model, device: str) -> None:
        model.require(self.name, cell=("rnn",), layers=(1,), gradient=("exact",))
        self.model = model
        self.device = torch_device(self.name, device)
        self._steps: dict[tuple[int, ...], TrainingStep | StepGraph] = {}

    def init_many(self, params: Params) -> State:
        """As `init`, with a row for each seed."""
        flat_RP = torch.tensor(flat(params, self.model), device=self.device)
        step = torch.zeros((), dtype=torch.float32, device=self.device)
        return State(flat_RP, torch.zeros_like(flat_RP), torch.zeros_like(flat_RP), step)

    @torch.inference_mode()
    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """As `train`: one group of seeds after another, each over all epochs of the chunk."""
        x_ETRB, y_ETRB = (self._steps_first(array, 1) for array in (x_ERTB, y_ERTB))
        losses_ER = torch.empty(x_ERTB.shape[:2], dtype=x_ETRB.dtype, device=self.device)
        steps_before = state.step.clone()
        size = GROUP if self.device.type == "cpu" else x_ERTB.shape[1]
        for first in range(0, x_ERTB.shape[1], size):
            group = slice(first, first + size)
            x, y = x_ETRB[:, :, group], y_ETRB[:, :, group]
            flat, mean, square = (moment[group] for moment in state[:3])
            rows = State(flat, mean, square, steps_before)
            step = self._step_for(rows, tuple(y.shape[1:]))
            step.load(rows)
            for x_TRB, y_TRB, loss_R in zip(x, y, losses_ER[:, group], strict=True):
                step(x_TRB, y_TRB, loss_R)
            step.store(rows)
        state.step.add_(len(x_ERTB))
        return state, losses_ER.cpu().numpy()

    @torch.inference_mode()
    def predict_many(self, state: State, x_RTN: Array) -> Array:
        """Return the outputs for every seed and step fed."""
        weights, x_TRB = cut(state.flat, self.model), self._steps_first(x_RTN, 0)
        h_TRHB = x_TRB.new_empty(len(x_TRB) + 1, len(x_RTN), self.model.hidden, x_RTN.shape[2])
        Forward(self.model, h_TRHB)(weights, x_TRB)
        v_RH1, c_R11 = head(weights)
        output_TRB = ((v_RH1 * h_TRHB[1:]).sum(2) + c_R11[:, 0]).transpose(0, 1)
        return output_TRB.contiguous().cpu().numpy()

    def params_many(self, state: State) -> Params:
        """Return a copy of the parameters of every seed."""
        weights = cut(state.flat, self.model)
        return {name: value.cpu().numpy().copy() for name, value in weights.items()}

    def peak_gpu_mb(self) -> float:
        """Return the peak of allocated tensors."""
        return peak_gpu_mb(self.device)

    def _steps_first(self, array: Array, seeds: int) -> torch.Tensor:
        """Return an array on the device with the axis of the seeds behind that of the steps."""
        return torch.from_numpy(array).to(self.device).transpose(seeds, seeds + 1)

    def _step_for(self, state: State, shape: tuple[int, ...]) -> TrainingStep | StepGraph:
        if shape not in self._steps:
            step = TrainingStep(self.model, state, shape)
            self._steps[shape] = StepGraph(step, shape) if self.device.type == "cuda" else step
        return self._steps[shape]


class Forward:
    """The states h_TRHB [T+2, R, H, B], the first the initial one, made in place by a call."""

    def __init__(self, model: Model, h_TRHB: torch.Tensor) -> None:
        self.h_TRHB, self.tanh = h_TRHB, model.activation == "tanh"
        # The views that the loop goes through cost more to make than to use. One seed alone needs
        # no batched product.
        alone = h_TRHB.shape[1] == 1
        self.views = list(h_TRHB.squeeze(1) if alone else h_TRHB)
        self.alone, self.product = alone, torch.Tensor.addmm_ if alone else torch.Tensor.baddbmm_

    def __call__(self, weights: Weights, x_TRB: torch.Tensor) -> None:
        """Run over the steps.

        With s = (h + 1) / 2, tanh(W h + a) = 2 s(2 W h + 2 a) - 1 = 2 s(4 W s + 2 (a - W 1)) - 1.
        """
        W_RHH, bias_RH, W_xh_RH1 = weights["W_hh"], weights["b_h"], weights["W_xh"]
        if self.tanh:
            bias_RH = 2 * (bias_RH - W_RHH.sum(2))
            W_RHH, W_xh_RH1 = 4 * W_RHH, 2 * W_xh_RH1
        torch.mul(W_xh_RH1, x_TRB.unsqueeze(2), out=self.h_TRHB[1:])
        self.h_TRHB[1:] += bias_RH.unsqueeze(2)
        self.h_TRHB[0] = weights["h0"].unsqueeze(2)
        if self.tanh:
            self.h_TRHB[0].add_(1).mul_(0.5)
        self._loop(W_RHH[0] if self.alone else W_RHH)
        if self.tanh:
            self.h_TRHB.mul_(2).sub_(1)

    def _loop(self, W: torch.Tensor) -> None:
        product = self.product
        activate = torch.Tensor.sigmoid_ if self.tanh else torch.Tensor.relu_
        for before, after in pairwise(self.views):
            product(after, W, before)
            activate(after)


class TrainingStep:
    """Forwards, backwards and an optimiser step of R seeds, in buffers of its own.

    Called with inputs x_TRB [T+1, R, B], targets y_TRB [T, R, B] and where to put the losses [R].
    """

    def __init__(self, model: Model, state: State, shape: tuple[int, ...]) -> None:
        steps, seeds, batch = shape
        self.model, self.scale = model, 2 / (steps * batch)
        self.state = State(*map(torch.clone, state))
        self.weights = cut(self.state.flat, model)
        self.gradient = torch.empty_like(self.state.flat)
        self.gradients = cut(self.gradient, model)
        empty, self.one = self.gradient.new_empty, self.gradient.new_ones(())
        self.h_TRHB = empty(steps + 2, seeds, model.hidden, batch)
        self.forward = Forward(model, self.h_TRHB)
        self.delta_TRHB = empty(steps + 1, seeds, model.hidden, batch)
        self.slope_TRHB = torch.empty_like(self.delta_TRHB)
        self.work_TRHB = torch.empty_like(self.delta_TRHB)
        self.delta_RHTB = empty(seeds, model.hidden, steps + 1, batch)
        # What a step is fed: its past, its input, and 1 for the bias. With whole vectors of rows,
        # the rest of no use, the product for the gradients takes a third less.
        rows = ceil((model.hidden + 2) / 16) * 16
        self.fed_RHTB = empty(seeds, rows, steps + 1, batch).fill_(1)
        alone = self.forward.alone
        back = (t.squeeze(1) if alone else t for t in (self.delta_TRHB, self.slope_TRHB))
        self.views = [list(t)[::-1] for t in back]

    def load(self, state: State) -> None:
        """Copy a state in."""
        for mine, given in zip(self.state, state, strict=True):
            mine.copy_(given)

    def store(self, state: State) -> None:
        """Copy the parameters and the moments out."""
        for mine, given in zip(self.state[:3], state[:3], strict=True):
            given.copy_(mine)

    def __call__(self, x_TRB: torch.Tensor, y_TRB: torch.Tensor, loss_R: torch.Tensor) -> None:
        """Take one optimiser step."""
        self.forward(self.weights, x_TRB)
        self._head(y_TRB, loss_R)
        self._backwards()
        self._recurrent_gradients(x_TRB)
        self._update()

    def _head(self, y_TRB: torch.Tensor, loss_R: torch.Tensor) -> None:
        """Put in place the losses, the gradients of the head and what each h_t gets from it."""
        weights, gradients = self.weights, self.gradients
        v_RH1, c_R11 = head(weights)
        h_TRHB, work_TRHB = self.h_TRHB[2:], self.work_TRHB[1:]  # x_0 is fed, but not scored.
        torch.mul(v_RH1, h_TRHB, out=work_TRHB)
        residual_TR1B = work_TRHB.sum(2, keepdim=True).add_(c_R11).sub_(y_TRB.unsqueeze(2))
        torch.mean(residual_TR1B * residual_TR1B, (0, 2, 3), out=loss_R)
        g_TR1B = residual_TR1B.mul_(self.scale)
        torch.mul(v_RH1, g_TR1B, out=self.delta_TRHB[1:])
        torch.mul(h_TRHB, g_TR1B, out=work_TRHB)
        gh_R1H, g_R1 = work_TRHB.sum((0, 3)).unsqueeze(1), g_TR1B.sum((0, 3))
        torch.mul(weights["W_2"].mT, gh_R1H, out=gradients["W_1"])
        torch.mul(weights["W_2"][:, 0], g_R1, out=gradients["b_1"])
        torch.matmul(gh_R1H, weights["W_1"].mT, out=gradients["W_2"])
        gradients["W_2"][:, 0].addcmul_(weights["b_1"], g_R1)
        gradients["b_2"].copy_(g_R1)

    def _backwards(self) -> None:
        """Make of the derivatives by each h_t those by its argument, from the last to the first."""
        h_TRHB, slope_TRHB = self.h_TRHB[1:], self.slope_TRHB
        if self.forward.tanh:
            torch.addcmul(self.one, h_TRHB, h_TRHB, value=-1, out=slope_TRHB)
        else:
            torch.sign(h_TRHB, out=slope_TRHB)
        product, multiply = self.forward.product, torch.Tensor.mul_
        W = self.weights["W_hh"].mT.contiguous()
        W = W[0] if self.forward.alone else W
        self.delta_TRHB[0] = 0
        deltas, slopes = self.views
        multiply(deltas[0], slopes[0])
        for (after, delta), slope in zip(pairwise(deltas), slopes[1:], strict=True):
            product(delta, W, after)
            multiply(delta, slope)

    def _recurrent_gradients(self, x_TRB: torch.Tensor) -> None:
        hidden, gradients = self.model.hidden, self.gradients
        start_R1H = self.delta_TRHB[0].sum(2).unsqueeze(1)
        gradients["h0"].copy_((start_R1H @ self.weights["W_hh"]).squeeze(1))
        self.delta_RHTB.copy_(self.delta_TRHB.permute(1, 2, 0, 3))
        self.fed_RHTB[:, :hidden].copy_(self.h_TRHB[:-1].permute(1, 2, 0, 3))
        self.fed_RHTB[:, hidden].copy_(x_TRB.transpose(0, 1))
        product_RHF = self.delta_RHTB.flatten(2) @ self.fed_RHTB.flatten(2).mT
        gradients["W_hh"].copy_(product_RHF[:, :, :hidden])
        gradients["W_xh"].copy_(product_RHF[:, :, hidden : hidden + 1])
        gradients["b_h"].copy_(product_RHF[:, :, hidden + 1])

    def _update(self) -> None:
        flat, mean, square, step = self.state
        rate = self.model.learning_rate
        if self.model.optimiser == "sgd":
            flat.sub_(self.gradient, alpha=rate)
            return
        step.add_(1)
        torch._fused_adam_(
            [flat],
            [self.gradient],
            [mean],
            [square],
            [],
            [step],
            lr=rate,
            beta1=ADAM_BETA1,
            beta2=ADAM_BETA2,
            weight_decay=0.0,
            eps=ADAM_EPS,
            amsgrad=False,
            maximize=False,
        )


class StepGraph:
    """A `TrainingStep` recorded once as a CUDA graph; a call replays it on other data."""

    def __init__(self, step: TrainingStep, shape: tuple[int, ...]) -> None:
        steps, seeds, batch = shape
        self.load, self.store = step.load, step.store
        zeros = step.gradient.new_zeros
        self.fixed = zeros(steps + 1, seeds, batch), zeros(shape), zeros(seeds)
        # As PyTorch's notes on CUDA graphs ask for: some runs on a stream of their own come first.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(*self.fixed)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            step(*self.fixed)

    def __call__(self, x_TRB: torch.Tensor, y_TRB: torch.Tensor, loss_R: torch.Tensor) -> None:
        """Take one optimiser step."""
        fixed_x, fixed_y, fixed_loss = self.fixed
        fixed_x.copy_(x_TRB)
        fixed_y.copy_(y_TRB)
        self.graph.replay()
        loss_R.copy_(fixed_loss)


def head(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Return W_2 W_1 as [R, H, 1] and W_2 b_1 + b_2 as [R, 1, 1]."""
    W_2_R1D = weights["W_2"]
    constant = W_2_R1D @ weights["b_1"].unsqueeze(2) + weights["b_2"].unsqueeze(2)
    return (W_2_R1D @ weights["W_1"]).mT, constant
