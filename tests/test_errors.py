"""The sentences of errors: which name is the nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from harness import Task
from harness.cli import cli
from harness.errors import did_you_mean, nearest
from harness.gate.settings import GateSettings
from harness.runs.settings import Settings

TABLES = [
    list(Task.model_fields),
    [name for name in GateSettings.model_fields if name != "backend"],  # There is `backends`, too.
    list(Settings.model_fields),
    list(cli.commands),
]


def misspelt(name: str) -> Iterator[str]:
    """Yield the name with a letter left out, swapped with the next, doubled or replaced."""
    for i, letter in enumerate(name):
        yield name[:i] + name[i + 1 :]
        yield name[:i] + name[i + 1 : i + 2] + letter + name[i + 2 :]
        yield name[:i] + letter + name[i:]
        yield name[:i] + "~" + name[i + 1 :]


@pytest.mark.parametrize("known", TABLES, ids=lambda known: known[0])
def test_a_name_with_one_mistake_means_that_name(known: Sequence[str]) -> None:
    wrong = {
        typed: (name, found)
        for name in known
        if len(name) > 3
        for typed in misspelt(name)
        if (found := nearest(typed, known)) != name
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("typed", "known", "name"),
    [
        ("max_slowdow", ["max_slowdown", "max_slowdown_across"], "max_slowdown"),
        ("max_slowdow", ["max_slowdown_across", "max_slowdown"], "max_slowdown"),
        ("max_slowdwn_across", ["max_slowdown", "max_slowdown_across"], "max_slowdown_across"),
        ("lag", ["eval_paths", "lag_weight"], "lag_weight"),
        ("weight", ["eval_paths", "lag_weight"], "lag_weight"),
        ("LagWeight", ["lag_weight"], "lag_weight"),
        ("BATCH-SIZE", ["batch_size"], "batch_size"),
        ("jxa", ["floor", "jax", "jax-step"], "jax"),
        ("corected", ["corrected-1", "corrected-2", "posted-3"], "corrected-2"),
        ("corrected", ["corrected-1", "corrected-2", "posted-3"], "corrected-2"),
        ("foo", ["float32", "flux"], None),
        ("x", ["xs", "y"], "xs"),
        ("lr", ["layers"], None),
        ("", ["layers"], None),
        ("_", ["layers"], None),
        ("n" * 100_000, ["n_steps"], None),
        ("any", [], None),
    ],
)
def test_the_nearest_name(typed: str, known: Sequence[str], name: str | None) -> None:
    assert nearest(typed, known) == name
    assert did_you_mean(typed, known) == (f" (did you mean `{name}`?)" if name else "")
