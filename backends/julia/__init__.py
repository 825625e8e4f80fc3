"""The network in plain Julia: `worker.jl`, in a process of its own."""

from pathlib import Path

from harness.backend.command import Command

COMMAND = Command(
    "julia",
    ["julia", "--startup-file=no", str(Path(__file__).with_name("worker.jl"))],
    hint="Install Julia (julialang.org); `julia` must be on the PATH.",
)
