"""A worker of docs/process-backends.md with a fault: `odd_worker.py FAULT`; `none` is right.

Faults of a training begin after more steps than parity ever trains.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "process-worker"))

import numpy_worker  # type: ignore[import-not-found]
import worker  # type: ignore[import-not-found]

FAULT = sys.argv[1]
LATE = 60
write_right = worker._write


def train(fault: str, losses: Any) -> Any:
    match fault:
        case "raises":
            raise ValueError("no\tmemory\nfor this")
        case "exits":
            print("the last words", flush=True)
            os._exit(3)
        case "is-killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleeps":
            time.sleep(0.2)
        case "hangs":
            time.sleep(600)
        case "burns":
            end = time.process_time() + 0.02
            while time.process_time() < end:
                pass
        case "chatters":
            sys.stderr.write("a line on standard error\n" * 10_000)
        case "nan":
            return losses * np.nan
        case "short":
            return losses[:-1]
        case "none-back":
            return None
    return losses


class Odd(numpy_worker.NumpyBackend):  # type: ignore[misc]
    def train(self, state: Any, x_ETB: Any, y_ETB: Any) -> Any:
        state, losses = super().train(state, x_ETB, y_ETB)
        return state, train(FAULT if state["step"] > LATE else "none", losses)


def write(answers: Any, word: str, fields: Any, dtype: Any) -> None:
    """Write an answer, but with the fault."""
    arrays = [name for name, value in fields.items() if not isinstance(value, str)]
    first = arrays[0] if arrays else ""
    match FAULT:
        case "prints" if first:
            answers.write(b"epoch 1: loss 0.5\n")
        case "version" if "protocol" in fields:
            fields = {**fields, "protocol": "2"}
        case "anonymous" if "protocol" in fields:
            fields = {"protocol": "1"}
        case "lacks" if "protocol" in fields:
            word, fields = "unavailable", {"message": "no such package"}
        case "keeps" if first:
            return  # As if it were still in a buffer.
        case "closes" if first:
            answers.close()
            time.sleep(600)
        case "float32":
            dtype = np.dtype("float32")
        case "float64":
            dtype = np.dtype("float64")
        case "big-endian" | "writes-big-endian":
            swapped = {name: np.asarray(fields[name], dtype).byteswap() for name in arrays}
            fields = {**fields, **swapped}
        case "column-major" | "writes-column-major":
            fields = {**fields, **{n: _written_by_columns(fields[n]) for n in arrays}}
        case "doubles" if "outputs" in fields:
            fields = {"outputs": 2 * fields["outputs"]}
        case "transposed":
            fields = {**fields, **{n: np.asarray(fields[n]).T for n in arrays}}
        case "writes-sorted" if "W_1" in fields:
            values = np.concatenate([fields[name].reshape(-1) for name in sorted(fields)])
            fields = _cut(values, fields, fields)
        case "nameless" if "W_1" in fields:
            fields = {n: v for n, v in fields.items() if n != "b_2"}
    write_right(answers, word, fields, dtype)
    if FAULT == "leaves" and "losses" in fields:
        os._exit(4)


def answer(right: Any) -> Any:
    """Return a method that answers a request, but reads its arrays with the fault."""

    def answered(self: Any, fields: Any) -> Any:
        match FAULT:
            case "big-endian" | "reads-big-endian":
                fields = {name: value.byteswap() for name, value in fields.items()}
            case "column-major" | "reads-column-major":
                fields = {n: v.reshape(-1).reshape(v.shape, order="F") for n, v in fields.items()}
            case "reads-sorted" if "W_1" in fields:
                values = np.concatenate([value.reshape(-1) for value in fields.values()])
                fields = _cut(values, sorted(fields), fields)
            case "reads-y-first" if "y" in fields:
                values = np.concatenate([value.reshape(-1) for value in fields.values()])
                fields = _cut(values, ["y", "x"], fields)
        return right(self, fields)

    return answered


def _written_by_columns(value: Any) -> Any:
    return np.asarray(value).reshape(-1, order="F").reshape(np.shape(value))


def _cut(values: Any, order: Any, like: Any) -> Any:
    cut = {}
    for name in order:
        cut[name], values = values[: like[name].size], values[like[name].size :]
    return {name: cut[name].reshape(like[name].shape) for name in like}


if __name__ == "__main__":
    if FAULT == "ends":
        sys.exit("no framework here")
    worker._write = write
    for name in ("answer_init", "answer_train", "answer_predict"):
        setattr(worker._Worker, name, answer(getattr(worker._Worker, name)))
    worker.serve(Odd, framework="Odd", versions={"odd": "1.2"})
