"""Seeds as a user writes them: `5`, `1,5-7`."""

from __future__ import annotations

import re

from harness.inputs.quantities import integer

MOST_SEEDS = 100_000
LARGEST_SEED = 2**32 - 1
_PART = re.compile(r"([0-9]{1,10})(?:\s*-\s*([0-9]{1,10}))?")


def listed(value: str | int) -> tuple[int, ...]:
    """Return the seeds: a number n stands for 0, 1, ..., n-1, `1,5-7` for 1, 5, 6 and 7.

    Raises `ValueError`, also if there are more than `MOST_SEEDS`.
    """
    if isinstance(value, str) and ("," in value or "-" in value.strip()[1:]):
        seeds: list[int] = []
        for text in value.split(","):
            part = _PART.fullmatch(text.strip())
            if part is None:
                raise ValueError("write a number of seeds, or a list such as `1,5-7`")
            first, last = int(part[1]), int(part[2] or part[1])
            if first > last:
                raise ValueError(
                    f"the range `{text.strip()}` is empty: write the smaller one first"
                )
            if len(seeds) + last - first >= MOST_SEEDS:
                raise ValueError(f"there are at most {MOST_SEEDS} seeds")
            seeds += range(first, last + 1)
        return tuple(seeds)
    number = integer(value) if isinstance(value, str) else value
    if not 1 <= number <= MOST_SEEDS:
        raise ValueError(f"should be at least 1 and at most {MOST_SEEDS}")
    return tuple(range(number))
