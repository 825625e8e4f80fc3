"""What a backend says of itself, in a profile."""

from __future__ import annotations

import time
from typing import Any

import pytest

from harness.backend.protocol import ExplainsItself
from harness.errors import ContractViolation
from harness.profiling.profiler import profile
from tests.profiling.trainings import EPOCHS, timed


class Library:
    """Its training is one call into code that nobody can look into."""

    def __init__(self) -> None:
        self.copied_s = 0.0

    def train(self) -> None:
        start = time.perf_counter()
        sum(range(100_000))
        self.copied_s = time.perf_counter() - start
        sum(range(100_000))

    def explain_training(self) -> dict[str, float]:
        return {"copies": self.copied_s, "launches": 7 * EPOCHS}


def test_what_a_backend_says_is_in_its_profile() -> None:
    library = Library()
    assert isinstance(library, ExplainsItself)
    train = timed(lambda: None, library.train)
    found = profile(train, EPOCHS, library.explain_training)
    assert found.counts["launches"] == 7
    assert sum(found.seconds.values()) == pytest.approx(found.epoch_s)
    assert 0.2 < found.seconds["copies"] / found.epoch_s < 0.8
    assert "launches" not in profile(train, EPOCHS).counts


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (None, "`explain_training` returned None"),
        ({"copies": -1.0}, "`explain_training` copies: got -1.0"),
        ({"copies": float("nan")}, "`explain_training` copies: got nan"),
        ({"launches": "many"}, "`explain_training` launches: got 'many'"),
    ],
)
def test_what_is_no_explanation_is_a_sentence(said: Any, sentence: str) -> None:
    with pytest.raises(ContractViolation, match=sentence):
        profile(timed(lambda: None), EPOCHS, lambda: said)
