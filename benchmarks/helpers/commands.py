"""The command line of the harness, and a small task for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Small enough to train in a fraction of a second, long enough for late faults to show.
TINY_FIELDS = {"n_steps": 5, "batch_size": 4, "epochs": 100, "curve_points": 10, "eval_paths": 20}
TINY = [argument for field in TINY_FIELDS.items() for argument in ("--set", "{}={}".format(*field))]
TINY_RUN = ["run", *TINY, "--rounds", "2"]


def overriding(*words: object) -> list[str]:
    """Return the words of a command with the last of what is there twice: options, fields."""
    kept: dict[str, list[str]] = {}
    key = ""
    for word in map(str, words):
        if not word.startswith("--") or key == "--":
            if kept.setdefault(key, []) == ["--set"]:
                kept[f"--set {word.partition('=')[0]}"] = [*kept.pop(key), word]
            else:
                kept[key].append(word)
            continue
        key = word
        if word != "--set":
            kept.pop(word, None)
        kept[word] = [word]
    return [word for words in kept.values() for word in words]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
