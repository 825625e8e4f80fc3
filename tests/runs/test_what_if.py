"""What would help: changes that are tried in turns with the backend as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import InvalidInput, Unavailable, UnknownName
from harness.runs import what_if
from harness.task.task import Task
from harness.trial.arms import Arm
from tests.helpers.commands import TINY, TINY_FIELDS, Cli

TASK = Task(**TINY_FIELDS)
REFERENCE = Arm(backend="reference", device="cpu")


@pytest.fixture
def variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    """An installed backend with three variants: alike, another network, and one that dies."""
    package = tmp_path / "toys-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[harness.backends]\n"
        "toy = backends.reference:ReferenceBackend\n"
        "toy-tuned = tests.helpers.faulty:WrongSign\n"
        "toy-compile = tests.helpers.faulty:Dies\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return Arm(backend="toy", device="cpu")


def test_changes_are_named() -> None:
    assert what_if.chosen("") == ()
    assert what_if.chosen("threads, batch") == ("batch", "threads")
    with pytest.raises(UnknownName, match=r"`seed` \(did you mean `seeds`\?\)"):
        what_if.chosen("batch,seed")


def test_what_applies_is_tried_in_blocks() -> None:
    notes: list[str] = []
    table = what_if.what_if(TASK, REFERENCE, blocks=2, note=notes.append)
    assert len(notes) == 2
    assert list(table["change"]) == ["batch", "seeds"]
    batch, seeds = table.to_dict("records")
    assert batch["n"] == 2
    assert batch["low"] < batch["factor"] < batch["high"]
    words = f"reference on cpu: with {8 * TASK.batch_size} paths in a batch, a path is "
    assert batch["words"].startswith(words)
    assert np.isnan(seeds["factor"])
    assert "16 seeds at once could not be tried: " in seeds["words"]
    assert "cannot train many seeds at once" in seeds["words"]


def test_variants_are_found_by_their_names_and_train_the_same_network(variants: Arm) -> None:
    table = what_if.what_if(TASK, variants, 1, ("variant", "threads"), blocks=1)
    assert list(table["words"].str.partition(" could not be tried: ")[0]) == [
        "toy on cpu: toy-compile",
        "toy on cpu: toy-tuned",
        "toy on cpu: one thread",
    ]
    compiled, tuned, threads = table["words"]
    assert "exit code 1" in compiled
    assert "its losses are others than those of toy" in tuned
    assert "it has one thread already" in threads


def test_a_variant_that_does_not_exist_has_its_sentence() -> None:
    table = what_if.what_if(TASK, REFERENCE, 1, ("variant",))
    assert list(table["words"]) == [
        "reference on cpu: a variant could not be tried: there is no variant of reference: "
        "no backend reference-compile or reference-tuned"
    ]


def test_what_cannot_be_measured_at_all_is_refused() -> None:
    with pytest.raises(InvalidInput, match="`threads` = 10000: there are "):
        what_if.what_if(TASK, REFERENCE, threads=10_000)
    dies = Arm(backend="tests.helpers.faulty:Dies", device="cpu")
    with pytest.raises(Unavailable, match="Dies on cpu: the process ended by itself"):
        what_if.what_if(TASK, dies, 1, ("batch",))


@pytest.mark.slow
def test_the_command_says_what_would_help(cli: Cli, tmp_path: Path) -> None:
    given = ("profile", *TINY, "--backends", "reference", "--results", tmp_path, "-q")
    done = cli(*given, "--what-if", "variant,threads")
    assert done.returncode == 0, done.stderr
    told = done.stdout[done.stdout.index("What would help\n") :].splitlines()
    assert told[1].startswith("reference on cpu: a variant could not be tried: ")
    assert told[2].startswith("reference on cpu: one thread could not be tried: ")


def test_a_change_that_cannot_be_tried_is_refused(cli: Cli) -> None:
    given = ("profile", "--backends", "reference")
    refused = cli(*given, "--what-if", "treads")
    assert refused.returncode == 2
    assert "unknown change `treads` (did you mean `threads`?)" in refused.stderr
    elsewhere = cli(*given, "--what-if", "--dispatch", "ray")
    assert elsewhere.returncode == 2
    assert "`--what-if` measures on this machine" in elsewhere.stderr


@pytest.mark.slow
def test_jax_has_a_variant_and_trains_many_seeds() -> None:
    table = what_if.what_if(TASK, Arm(backend="jax", device="cpu"), blocks=2)
    assert list(table["what"]) == [
        f"{8 * TASK.batch_size} paths in a batch",
        "16 seeds at once",
        "jax-tuned",
    ]
    assert (table["factor"] > 0).all()
