"""Turns healthy input into hostile input: whole values are replaced, and single bytes are garbled.

A `Make` takes a source of random numbers and returns an input; the same numbers, the same input.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Make: TypeAlias = Callable[[random.Random], bytes]

VALUES: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**53 + 1, 2**63, -(2**64), 10**30, 10**400),
    *(0.5, -0.0, 5e-324, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "-1", "1e999", "nan", "null", "NA", "True", "9" * 5000, "x" * 70_000),
    *("\0", "\ufeff", "\x1b[2J\x07", "\r\n", "\u202e", "\ud800", "é", "😀", "../../x", "a/b", "~"),
    *([], {}, [[]], [None] * 3, {"a": {}}, [[[[0]]]], {"": ""}),
)
TEXTS = (
    *(text for text in VALUES if isinstance(text, str)),
    *(
        "0x10",
        "1_0",
        "1e308",
        "-1e400",
        "\u0661",
        "1:40",
        "0020",
        "2%",
        "-5",
        "1e-400",
        "null",
        "yes",
    ),
    *('"', "'", "`", "\\", "#", "%", "&a", "*a", "!!python/object:os.system", "<<:", "---\n", "\t"),
    *("[" * 3000, '{"a":' * 3000, "]", "}", ",", ";", ":", "=", "://", "::", "@", "?", "--", "-"),
)

_BYTES = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r")


def tree(*examples: Any) -> Make:
    """Change values of JSON; the examples are what `json.dumps` takes."""
    texts = [json.dumps(example) for example in examples]

    def make(rng: random.Random) -> bytes:
        value = json.loads(rng.choice(texts))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            value = changed(rng, value)
        return _mostly_whole(rng, json.dumps(value, ensure_ascii=rng.random() < 0.5))

    return make


def text(*examples: str) -> Make:
    """Change words and signs of a text."""
    parts = [re.findall(r"\w+|\s+|.", example, re.DOTALL) for example in examples]

    def make(rng: random.Random) -> bytes:
        words = list(rng.choice(parts))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            first, last = sorted(rng.randrange(len(words) + 1) for _ in range(2))
            span, other = words[first:last], rng.choice(parts)
            match rng.randrange(6):
                case 0:
                    words[first : first + 1] = [rng.choice(TEXTS)]
                case 1:
                    words[first:first] = [rng.choice(TEXTS)]
                case 2:
                    words[first : first + rng.randrange(4)] = []
                case 3:
                    words[last:last] = span
                case 4:
                    words[first:last] = [word for word in other if rng.random() < 0.5]
                case 5:
                    words[first:last] = span[::-1]
        return _mostly_whole(rng, "".join(words))

    return make


def either(*makes: Make) -> Make:
    """Make one of several kinds of input."""
    return lambda rng: rng.choice(makes)(rng)


def changed(rng: random.Random, value: Any) -> Any:
    """Return JSON with one value replaced, removed, added, repeated or swapped with another."""
    places = list(_places(value))
    if not places:
        return _hostile(rng)
    holder, key = rng.choice(places)
    other_holder, other_key = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = _hostile(rng)
        case 3:
            del holder[key]
        case 4 if isinstance(holder, list):
            holder *= rng.choice((2, 3))
        case 4:
            holder[rng.choice(TEXTS)] = _hostile(rng)
        case 5:
            # By a copy, or the value could hold itself.
            holder[key] = json.loads(json.dumps(other_holder[other_key]))
        case 6 if isinstance(holder[key], int | float):
            holder[key] *= rng.choice((-1, 10, 10**9))
        case _:
            holder[key] = [holder[key]]
    return value


def _hostile(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))  # Or a later change would reach `VALUES`.


def garbled(rng: random.Random, data: bytes) -> bytes:
    """Return data with some bytes changed, lost, added or repeated."""
    mixed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        first, last = sorted(rng.randrange(len(mixed) + 1) for _ in range(2))
        match rng.randrange(5):
            case 0:
                mixed[first : first + 1] = rng.randbytes(1)
            case 1:
                del mixed[first:]
            case 2:
                del mixed[first:last]
            case 3:
                mixed[first:first] = mixed[first:last]
            case 4:
                at = rng.choice((0, first))
                mixed[at:at] = rng.choice(_BYTES)
    return bytes(mixed)


def _mostly_whole(rng: random.Random, words: str) -> bytes:
    data = words.encode("utf-8", "surrogatepass")
    return data if rng.random() < 0.8 else garbled(rng, data)


def _places(value: Any) -> Any:
    """Yield every place of a value inside JSON: what holds it, and its key."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
