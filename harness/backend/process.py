"""A backend that is a process of its own: a program in any language that answers requests.

docs/process-backends.md specifies the protocol. A request, and an answer, is a line of text with
fields between tabs, then the values of the arrays that the line names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NoReturn

import numpy as np

from harness.backend.command import Command
from harness.backend.model import Model
from harness.backend.pipes import Pipes
from harness.backend.protocol import Array, Params
from harness.errors import ContractViolation, Unavailable, WorkerError

PROTOCOL = "1"
# The fields of a model that version 1 always sends. A later one is sent only if its value is not
# the default, so that an older worker refuses what it cannot train, and nothing else.
_FIRST_FIELDS = {
    *("dtype", "hidden", "cell", "activation", "layers", "optimiser", "learning_rate", "gradient")
}


@dataclass(frozen=True)
class Greeting:
    """What the process says of itself."""

    framework: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """By name, for example of the language and of packages."""
    source: str | None = None
    """The path of its source file."""

    def describe(self) -> dict[str, str]:
        """Return it for the record of a trial, with a hash of the source; empty if it is."""
        told = {"framework": self.framework, "source": self.source}
        with suppress(OSError):
            code = Path(self.source or "").read_bytes()
            told["source_sha256"] = hashlib.sha256(code).hexdigest()[:12]
        return {
            **{f"worker:{name}": value for name, value in told.items() if value},
            **{f"version:{name}": value for name, value in self.versions.items()},
        }


class ProcessWorker:
    """A process that was started. Called with a model and a device, it makes a backend.

    One process serves all of them. It has one training at a time: a backend made or a training
    begun ends the one before it.
    """

    def __init__(self, command: Command) -> None:
        """Start the process and exchange greetings.

        Raises `Unavailable` if it does not start, speaks another version or lacks its framework.
        """
        self.command = command
        self.trainings = 0
        """How many trainings it has begun or ended."""
        self.took: Mapping[str, float] = {}
        """Seconds of the last request: its way through the pipes, and until the answer came."""
        self.model: tuple[Model, str] | None = None
        """What it was told last to train, and on which device."""
        self._pipes = Pipes(command)
        self.greeting = self._greet()

    def __call__(self, model: Model, device: str) -> ProcessBackend:
        """Make a backend. Raises `Unavailable` if the process cannot train that."""
        self.choose(model, device)
        return ProcessBackend(self, model, device)

    def choose(self, model: Model, device: str) -> None:
        """Tell the process what to train."""
        told = {"device": device}
        for one in fields(model):
            value = getattr(model, one.name)
            if one.name in _FIRST_FIELDS or value != one.default:
                told[one.name] = str(value)
        self.trainings += 1
        self.ask("model", told)
        self.model = model, device

    def close(self) -> None:
        """End the process."""
        self._pipes.close()

    def restart(self) -> None:
        """End the process, then start it anew: it may need something that only one can have."""
        self.close()
        self.trainings, self.model = self.trainings + 1, None
        self._pipes = Pipes(self.command)
        self.greeting = self._greet()

    def ask(
        self,
        request: str,
        told: Mapping[str, str] | None = None,
        arrays: Params | None = None,
        expected: Mapping[str, tuple[int, ...]] | None = None,
        dtype: str = "float32",
    ) -> dict[str, Array]:
        """Send a request, told in fields or arrays; return the arrays of the answer.

        `expected` has their names and shapes. Raises `WorkerError` and `ContractViolation`.
        """
        wire = np.dtype(dtype).newbyteorder("<")
        sent = {name: np.ascontiguousarray(a, wire) for name, a in (arrays or {}).items()}
        words = [*(told or {}).items(), *((n, _shape(a.shape)) for n, a in sent.items())]
        line = "\t".join([request, *(f"{name}={value}" for name, value in words)])
        start_s = time.perf_counter()
        self._pipes.send(request, f"{line}\n".encode(), *(a.data for a in sent.values()))
        sent_s = time.perf_counter()
        answered = self._answer(request)
        answered_s = time.perf_counter()
        expected = expected or {}
        self._check_shapes(request, answered, expected)
        received = {name: np.empty(expected[name], wire) for name, _ in answered}
        for name, values in received.items():
            self._pipes.read_into(name, values.data)
        self.took = {
            "copies": sent_s - start_s + time.perf_counter() - answered_s,
            "other": answered_s - sent_s,
            "copied_bytes": sum(a.nbytes for a in (*sent.values(), *received.values())),
        }
        return {name: values.astype(dtype, copy=False) for name, values in received.items()}

    def _answer(self, request: str) -> list[tuple[str, str]]:
        """Return the fields of the answer's line; raise if it is an error."""
        word, *rest = self._pipes.read_line().split("\t")
        answered = [(name, value) for name, _, value in (one.partition("=") for one in rest)]
        if word == "ok":
            return answered
        message = dict(answered).get("message") or f"`{word}` without a message"
        if word == "unavailable":
            raise Unavailable(f"backend `{self.command.name}`: {message}")
        raise WorkerError(f"{message} (its process, asked to `{request}`)")

    def _check_shapes(
        self,
        request: str,
        answered: Iterable[tuple[str, str]],
        expected: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Refuse an answer whose line has other arrays than expected, in whatever order."""
        want = {name: _shape(shape) for name, shape in expected.items()}
        if sorted(answered) != sorted(want.items()):
            raise ContractViolation(
                f"its process answered `{request}` with {_listed(answered)}, not with "
                f"{_listed(want.items())}."
            )

    def _greet(self) -> Greeting:
        try:
            self._pipes.send("hello", f"hello\tprotocol={PROTOCOL}\n".encode())
            said = dict(self._answer("hello"))
        except WorkerError as error:
            raise Unavailable(f"backend `{self.command.name}`: {error}") from error
        version = said.get("protocol")
        if not version:
            self._unavailable(f"does not say `protocol={PROTOCOL}` in the answer to `hello`.")
        if version != PROTOCOL:
            self._unavailable(f"speaks version {version} of the protocol, not {PROTOCOL}.")
        if not said.get("framework"):
            self._unavailable("does not name its `framework` in the answer to `hello`.")
        versions = {
            name.removeprefix("version:"): value
            for name, value in said.items()
            if name.startswith("version:")
        }
        source = said.get("source")
        if source:
            source = str(Path(self.command.folder or "", source).absolute())
        return Greeting(said["framework"], versions, source)

    def _unavailable(self, problem: str) -> NoReturn:
        raise Unavailable(f"backend `{self.command.name}`: its process {problem}")


def greeting(factory: object) -> Greeting:
    """Return what the process of a backend says of itself; an empty one if there is no process."""
    return factory.greeting if isinstance(factory, ProcessWorker) else Greeting()


class ProcessBackend:
    """A `Backend` whose training is in a process; its state is the number of the training."""

    def __init__(self, worker: ProcessWorker, model: Model, device: str) -> None:
        self._worker, self._model, self._device = worker, model, device

    def init(self, params: Params) -> int:
        """Begin a training."""
        worker = self._worker
        if worker.model != (self._model, self._device):
            worker.choose(self._model, self._device)
        worker.ask("init", arrays=params, dtype=self._model.dtype)
        worker.trainings += 1
        return worker.trainings

    def train(self, state: int, x_ETB: Array, y_ETB: Array) -> tuple[int, Array]:
        """Train."""
        arrays = {"x": x_ETB, "y": y_ETB}
        return state, self._ask(state, "train", arrays, {"losses": x_ETB.shape[:1]})["losses"]

    def predict(self, state: int, x_TN: Array) -> Array:
        """Predict."""
        return self._ask(state, "predict", {"x": x_TN}, {"outputs": x_TN.shape})["outputs"]

    def params(self, state: int) -> Params:
        """Return the parameters."""
        return self._ask(state, "params", {}, self._model.shapes)

    def explain_training(self) -> Mapping[str, float]:
        """Return what the last request took, if that was to train."""
        return self._worker.took

    def _ask(
        self, state: int, request: str, arrays: Params, expected: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        if state != self._worker.trainings:
            raise ContractViolation(
                "its process has begun another training, and keeps one at a time."
            )
        return self._worker.ask(request, None, arrays, expected, self._model.dtype)


def _shape(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def _listed(arrays: Iterable[tuple[str, str]]) -> str:
    """Return names and shapes as a line of the protocol has them."""
    return " ".join(f"{name}={shape}" for name, shape in arrays) or "no arrays"
