"""Flux, the deep-learning framework of Julia: `worker.jl`, in a process of its own."""

from pathlib import Path

from harness.backend.command import Command

_FOLDER = Path(__file__).parent

COMMAND = Command(
    "flux",
    ["julia", "--startup-file=no", f"--project={_FOLDER}", str(_FOLDER / "worker.jl")],
    hint=f"Install Julia (julialang.org), then Flux as {_FOLDER / 'README.md'} says.",
)
