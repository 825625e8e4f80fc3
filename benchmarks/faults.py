"""How often does parity name the right fault?

Backends in PyTorch with one mistake each are looked at on networks and data of random sizes.

    python -m benchmarks.faults SECONDS

It goes round all of them for so long, and prints a table in Markdown. A draw in which the fault
does not show (with one hidden unit, a transposed matrix is the same) counts as `no effect`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from benchmarks.helpers import beginner
from harness.backend.evidence import Sample
from harness.backend.model import Model
from harness.measure.faults import name_fault
from harness.measure.parity import TOLERANCE

# Each backend with words of the one sentence that must be said of it.
PLANTED = {
    "ForwardOrder": "its gradient is that of backward steps in forward order of time",
    "ExactGradient": "its gradient is the exact one; the task asks for",
    "Detached": "the state is detached at every step",
    "CutEverySeven": "its gradient is cut after every 7 steps",
    "FollowsThree": "each loss is followed back through 3 steps only",
    "FixedStart": "not trained: the gradient is zero",
    "FixedBias": "`b_1` is not trained",
    "FixedMatrix": "not trained",
    "NeverTrains": "it does not train: no parameter moves",
    "Transposed": "it uses `W_hh`",
    "IgnoresStart": "it ignores `h0`",
    "HeadActivation": "it applies relu between the two linear layers",
    "SwappedAxes": "it takes the axes of its data for [path, time]",
    "SumLoss": "its loss is a sum over time steps and paths in place of a mean",
    "SumOverTime": "its loss is a sum over the time steps in place of a mean",
    "SumInBackward": "its gradient is that of a sum over the time steps; the loss it reports",
    "MeanOverMore": "its loss is divided by T + 1 time steps in place of T",
    "WithoutLast": "its loss is without the last time step (",
    "WrongSign": "its loss has the wrong sign",
    "PlusInLoss": "its loss is the mean of (output + y)^2: y has the wrong sign",
    "OneStepOff": "it scores output t - 1 against target t (",
    "AllPairs": "it scores the output of each path against the targets of all paths",
    "RootLoss": "its loss is the root of the mean squared error",
    "AbsoluteLoss": "its loss is the mean absolute error",
    "TwoBiases": "it has two biases in the place of `b_h` and trains both",
    "NoCorrection": "its Adam is without bias correction",
    "EpsilonInside": "its Adam has an eps of 1e-08 inside the square root",
    "KerasEpsilon": "its Adam has an eps of 1e-07 in place of 1e-08",
    "OtherBetas": "its Adam has a beta2 of 0.99 in place of 0.999",
    "OtherBeta1": "its Adam has a beta1 of 0.95 in place of 0.9",
    "AdamW": "it decays the parameters as AdamW does, by 0.01 times the rate",
    "AdamPenalty": "it adds a weight decay of 0.05 to the gradient in Adam",
    "AmsGrad": "its optimiser is AMSGrad in place of Adam",
    "OtherRate": "its learning rate is 0.001 where it is told 0.003",
    "PlainDescent": "it trains with plain gradient descent, whatever `optimiser` says",
    "AlwaysAdam": "it trains with adam, whatever `optimiser` says",
    "ClipsNorm": "it clips the gradient at a norm of 0.5",
    "ClipsValue": "it clips each element of the gradient at 0.25",
    "Decays": "it has weight decay of 0.001 on all parameters, in its gradient",
    "NewOptimiser": "it begins with a new optimiser at each call of `train`",
    "NoZeroGrad": "it adds up the gradients of all steps",
    "Bfloat16": "its products are computed in bfloat16",
    "Half": "its products are computed in float16",
    "Dropout": "something random is in it, such as dropout",
    "DropoutInTraining": "something random is in it, such as dropout",
    "FirstBatch": "it trains all epochs of a call on its first batch",
    "BatchBefore": "it trains each epoch on the batch of the epoch before",
    "LossAfter": "it takes the loss after the step in place of before it",
}
ONE_LAYER = {
    "KeepsState": "it carries the hidden state from one sequence to the next even past `init`",
    "KeepsStateInTraining": "it carries the hidden state from one sequence to the next in training",
}
# In float32, some are within the tolerance.
FLOAT64_ONLY = {
    "AmsGrad": "",
    "Single": "its products are computed in float32",
    "RoundsData": "it rounds inputs to float32",
    "EpsilonInside": "",
    "KerasEpsilon": "",
}
OF_A_CELL = {
    ("GateOrder", "gru"): "it takes the gates for z, r, n, as in Keras",
    ("GateOrder", "lstm"): "it takes the gates for i, g, f, o, as in Haiku",
    ("UpdateGate", "gru"): "its update gate is the other way round",
}


def expected(name: str, cell: str) -> str | None:
    """Return words of the sentence that is right; None: there is no such fault with that cell."""
    words = FLOAT64_ONLY | ONE_LAYER | PLANTED | {"Right": ""}
    return words.get(name, OF_A_CELL.get((name, cell)))


def draw(rng: np.random.Generator, name: str) -> tuple[Model, Sample]:
    """Return a network and data of random sizes."""
    fields: dict[str, Any] = {
        "hidden": int(rng.integers(1, 33)),
        "cell": str(rng.choice(["rnn", "rnn", "gru", "lstm"])),
        "layers": 1 if name in ONE_LAYER else int(rng.integers(1, 3)),
        "activation": str(rng.choice(["tanh", "tanh", "relu"])),
        "dtype": "float64",
        "gradient": "stateful-broadcast" if name == "ExactGradient" else "exact",
    }
    if name not in FLOAT64_ONLY and rng.random() < 0.3:
        fields["dtype"] = "float32"
    model = Model(**fields)
    steps, paths = int(rng.integers(9, 41)), int(rng.integers(2, 9))
    sample = Sample.draw(model, int(rng.integers(10**6)), steps, paths)
    return model, sample


def judge(name: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return how one draw ends, and the sentence."""
    model, sample = draw(rng, name)
    words = expected(name, model.cell)
    if words is None:
        return "", ""
    sentence = name_fault(getattr(beginner, name), sample, TOLERANCE[model.dtype])
    if "agrees on a small sample" in sentence:
        return "no effect", sentence
    if "no known fault" in sentence:
        return "unknown", sentence
    if words not in sentence:
        return "wrong", sentence
    return "several" if ", or " in sentence else "right", sentence


def main() -> None:
    """Go round the faults until the time is over."""
    torch.set_num_threads(1)
    end = time.monotonic() + float(sys.argv[1])
    names = [*PLANTED, *ONE_LAYER, *FLOAT64_ONLY, *{name for name, _ in OF_A_CELL}]
    names = sorted({*names, "Right"})
    counts = {name: Counter[str]() for name in names}
    said: dict[str, Counter[str]] = {name: Counter() for name in names}
    number = 0
    while time.monotonic() < end:
        for place, name in enumerate(names):
            if time.monotonic() > end:
                break
            outcome, sentence = judge(name, np.random.default_rng((number, place)))
            counts[name][outcome] += bool(outcome)
            said[name][outcome and f"{outcome}: {sentence.partition(' (agrees')[0]}"] += 1
            if outcome not in {"", "right", "no effect"}:
                print(f"{name}, draw {number}: {outcome}: {sentence}", file=sys.stderr, flush=True)
        number += 1
    print("| backend | named right | no effect | unknown | several | wrong | what is said |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        count = counts[name]
        shown = sum(n for outcome, n in count.items() if outcome not in {"", "no effect"})
        others = " | ".join(str(count[o]) for o in ("no effect", "unknown", "several", "wrong"))
        right = [s for s, _ in said[name].most_common() if s.startswith("right")]
        words = right[0].partition(": ")[2] if right else ""
        print(f"| {name} | {count['right']} of {shown} | {others} | {words} |")


if __name__ == "__main__":
    main()
