"""How large a run and its files may be: what is planned must be such that it can be read."""

from __future__ import annotations

from harness.errors import InvalidInput
from harness.inputs.bounded import MOST_BYTES
from harness.inputs.bounded_json import MOST_NAMES, MOST_VALUES
from harness.trial.learned import MOST_LAGS

MOST_TRIALS = 1_000_000
"""The trials of a run."""
MOST_ARMS = 1000
"""Its backends on devices."""
MOST_AT_ONCE = 100_000
"""The seeds of a trial."""
MOST_CALLS = 20_000
"""The timed calls of a trial, unless it has more rounds."""
LONGEST_FILE = 230
"""Bytes in the name of a trial: a file system takes 255, with what is added while it is written."""
LONGEST_NAME, LONGEST_TEXT = 4096, 100_000
"""Characters of a name, and of a text such as an error, of which more is left out."""

# Names in a call and in a point of a curve; bytes of a name with its value, and of a number.
_CALL, _POINT, _NAME, _NUMBER = 16, 4, 45, 30


def refuse_unstorable(n_steps: int, points: int, rounds: int, seeds: int, lag: int = 0) -> None:
    """Raise `InvalidInput` if a record of so many seeds at once may be too large to be read.

    `lag`: what is learned at each lag is recorded, too.
    """
    trainings = seeds + 1 if seeds > 1 else 1
    names = _CALL * max(rounds, MOST_CALLS) + _POINT * points * trainings + 5 * seeds
    learned = 0
    if lag:
        names += 9 * seeds
        learned = 7 * min(lag, MOST_LAGS) + 2
    numbers = (n_steps + 1 + learned) * trainings + 3 * points  # And those of nudged trainings.
    if (
        names > MOST_NAMES
        or names + numbers > MOST_VALUES
        or _NAME * names + _NUMBER * numbers > MOST_BYTES
    ):
        raise InvalidInput(
            f"the record of a trial would be too large: {rounds:,} rounds, {points:,} points of "
            f"the curve and {n_steps:,} time steps, for {seeds:,} seeds at once; train fewer seeds "
            "at once, or set fewer `curve_points`, `n_steps` or `rounds`."
        )
