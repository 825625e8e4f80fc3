"""Serves a backend class to the harness, over standard input and output. Copy this file.

It needs Python 3.8 and NumPy, and nothing of the harness:

    from worker import serve

    serve(MyBackend, framework="MyFramework", versions={"myframework": "1.2"})

The class has the methods of docs/backends.md: `__init__(model, device)`, `init`, `train`, `predict`
and `params`. The protocol is in docs/process-backends.md.
"""

import os
import platform
import sys
import traceback

import numpy as np

TYPES = {"hidden": int, "layers": int, "learning_rate": float}
NAMES = ["device", "dtype", "cell", "activation", "optimiser", "gradient", *TYPES]


class Unavailable(Exception):
    """For a device or a network that a backend does not support."""


class Model:
    """What to train: `hidden`, `cell`, `optimiser`, `learning_rate`, ... as attributes."""

    def __init__(self, fields):
        unknown = [name for name in fields if name not in NAMES]
        if unknown:
            raise Unavailable(f"this worker does not know the field `{unknown[0]}`")
        for name, text in fields.items():
            setattr(self, name, TYPES.get(name, str)(text))

    def require(self, backend, **allowed):
        """Raise `Unavailable` unless each named field has one of its values."""
        for name, values in allowed.items():
            value = getattr(self, name)
            if value not in values:
                raise Unavailable(f"`{backend}` does not train with `{name}` = {value}")


def serve(backend_class, framework, versions=None):
    """Answer requests until standard input ends."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What is printed goes to standard error: standard output is for answers.
    worker = _Worker(backend_class, framework, versions or {})
    for line in iter(requests.readline, b""):
        word, *rest = line.decode().rstrip("\n").split("\t")
        fields = dict(field.split("=", 1) for field in rest)
        try:
            if word in ("init", "train", "predict"):
                fields = {
                    name: _read(requests, shape, worker.dtype) for name, shape in fields.items()
                }
            answer, arrays = "ok", getattr(worker, f"answer_{word}")(fields)
        except Unavailable as error:
            answer, arrays = "unavailable", {"message": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer, arrays = "error", {"message": f"{type(error).__name__}: {error}"}
        _write(answers, answer, arrays, worker.dtype)


class _Worker:
    """A method for each request: it gets the fields or arrays of the request, and returns those
    of the answer.
    """

    def __init__(self, backend_class, framework, versions):
        self.backend_class = backend_class
        self.versions = {"python": platform.python_version(), "numpy": np.__version__, **versions}
        self.framework = framework
        self.dtype = None

    def answer_hello(self, fields):
        source = sys.modules[self.backend_class.__module__].__file__
        greeting = {"protocol": "1", "framework": self.framework, "source": os.path.abspath(source)}
        return {**greeting, **{f"version:{name}": v for name, v in self.versions.items()}}

    def answer_model(self, fields):
        model = Model(fields)
        self.backend, self.dtype = self.backend_class(model, model.device), np.dtype(model.dtype)
        return {}

    def answer_init(self, params):
        self.state = self.backend.init(params)
        return {}

    def answer_train(self, data):
        self.state, losses = self.backend.train(self.state, data["x"], data["y"])
        return {"losses": losses}

    def answer_predict(self, data):
        return {"outputs": self.backend.predict(self.state, data["x"])}

    def answer_params(self, fields):
        return self.backend.params(self.state)


def _read(requests, shape, dtype):
    """Read the values of an array, which are little-endian."""
    values = np.empty([int(length) for length in shape.split(",")], dtype.newbyteorder("<"))
    requests.readinto(values.data.cast("B"))
    return values.astype(dtype, copy=False)


def _write(answers, word, fields, dtype):
    """Write a line, and then the values of the arrays in it."""
    arrays = []
    for name, value in fields.items():
        text = value
        if not isinstance(value, str):
            arrays.append(np.ascontiguousarray(value, dtype.newbyteorder("<")))
            text = ",".join(map(str, arrays[-1].shape))
        word += f"\t{name}={' '.join(text.split())}"
    answers.write(word.encode() + b"\n")
    for array in arrays:
        answers.write(array.data.cast("B"))
    answers.flush()
