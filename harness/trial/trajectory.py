"""Whether the trials of a block trained the same: their losses agree as far as rounding explains.

The trials of a block have one seed: the same data and the same initial parameters. So their losses
and errors are the same but for rounding. Training amplifies rounding, for some tasks and seeds far
more than for others. A nudge shows by how much: the training is repeated with initial parameters
and inputs that are changed by a little more than rounding changes what follows from them. Two right
backends are about as far apart as such a training is from the one that was not nudged
(`python -m benchmarks.trajectories`).

A backend that skips work, clips its predictions or computes in fewer bits is farther off. Its time
is that of another training, and is not compared. Where a nudge alone changes the losses a lot,
nothing can be told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import expm1, inf, isfinite, log, nan
from typing import NamedTuple, TypeAlias

from harness.trial.record import Chunk, CurvePoint, Record

NUDGE = 256
"""By how many units in the last place a nudge changes each value, up or down. The tanh of a
framework is off by a few units, always in the same direction, at every step of the training."""
NUDGES = 3
"""How many are tried before a difference counts: by chance, a nudge may be one that fades away."""
ALIKE = 1e-4
"""Curves nearer than this, as a share, are the same: the tolerance of parity in float32."""
_FACTOR = 10.0
"""Right backends may be so many times as far apart as nudges move one of them."""
_AHEAD = 2
"""A nudge may take so many points longer: where rounding grows, it grows from point to point."""
_LOST = 0.05
"""Once a nudge moves a curve by more, rounding alone may lead anywhere."""
_MOST = 100.0
"""Farther apart is as far."""
_RIGHT = "reference"

Values: TypeAlias = Mapping[int, Sequence[float]]
"""What a training computed, by epoch: its mean loss since the point before, and its error."""
Difference: TypeAlias = tuple[int, float]
"""An epoch, and how far two trainings are apart there, as a share."""


class Training(NamedTuple):
    """What a trial computed while it trained."""

    learned: Values
    """The training that is evaluated."""
    timed: Values
    """The loss of the calls on the clock; of several times there, the farthest from `learned`."""
    nudged: Sequence[Values]
    """The losses of each nudged training."""

    @classmethod
    def of(
        cls,
        points: Sequence[CurvePoint],
        chunks: Sequence[Chunk],
        nudged: Sequence[Sequence[float]],
        epochs_per_point: int,
    ) -> Training:
        """Take the points of the curve, the timed calls, and the losses of nudged trainings."""
        learned = {point.epoch: (point.train_loss, point.eval_mse) for point in points}
        return cls(
            learned,
            {
                epoch: (max(losses, key=lambda loss: abs(loss - learned[epoch][0])),)
                for epoch, losses in _timed(chunks, epochs_per_point).items()
                if epoch in learned
            },
            [
                {point.epoch: (loss,) for point, loss in zip(points, losses, strict=False)}
                for losses in nudged
            ],
        )

    @property
    def moved(self) -> dict[int, float]:
        """How far nudges have moved the training, by epoch: the farthest of them."""
        by_nudge = [dict(_distances(self.learned, nudged)) for nudged in self.nudged]
        epochs = set.intersection(*map(set, by_nudge)) if by_nudge else set()
        return {epoch: max(by[epoch] for by in by_nudge) for epoch in sorted(epochs)}


class Apart(NamedTuple):
    """How a trial differs from another one of its block, or from its own timed calls."""

    other: str
    """The other trial's backend, with its device if that differs; empty: its own timed calls."""
    epoch: int
    """The first evaluation at which they differ by more than rounding explains."""
    by: float
    """The difference there, as a share."""


def apart(records: Sequence[Record]) -> list[Apart | None]:
    """Return for each record how its training differs from that of the others of its block.

    Those that agree with the reference are right, or else the largest group that agrees; if there
    is none, all that differ are named. None: no difference is shown.
    """
    blocks: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        if record.points and record.status not in {"failed", "lost"}:
            blocks[record.run, record.task, record.seeds or record.seed].append(number)
    found: list[Apart | None] = [None] * len(records)
    for numbers in blocks.values():
        block = [records[number] for number in numbers]
        for number, difference in zip(numbers, _apart(block), strict=True):
            found[number] = difference
    return found


def difference(one: Training, other: Training) -> Difference | None:
    """Return where two trainings first differ by more than rounding explains; None: nowhere."""
    return _differences([one, other])[1].get((0, 1))


def unexplained(trainings: Sequence[Training]) -> bool:
    """Whether any two differ by more than nudges explain so far, or one and its timed calls."""
    own, pairs = _differences(trainings, known=False)
    return bool(own or pairs)


def _apart(block: Sequence[Record]) -> list[Apart | None]:
    """Return for each record of a block how it differs from the right ones, or from any."""
    own, pairs = _differences([_training(record) for record in block])
    found: dict[int, Apart] = {n: Apart("", *difference) for n, difference in own.items()}
    judged = [n for n in range(len(block)) if n not in own]
    right = _right(block, judged, pairs)
    devices = len({record.device for record in block}) > 1
    for (a, b), difference in sorted(pairs.items(), key=lambda pair: pair[1]):
        for one, other in ((a, b), (b, a)):
            if one not in right and (other in right or not right):
                name = block[other].backend + f" on {block[other].device}" * devices
                found.setdefault(one, Apart(name, *difference))
    return [found.get(n) for n in range(len(block))]


def _training(record: Record) -> Training:
    per_point = record.task.epochs_per_point
    return Training.of(record.points, record.chunks, record.nudged, per_point)


def _timed(chunks: Sequence[Chunk], epochs_per_point: int) -> dict[int, list[float]]:
    """Return the mean losses between two points of the curve, each time that it was trained."""
    losses: dict[int, list[float]] = defaultdict(list)
    since: list[float] = []
    for chunk in chunks:
        if not (chunk.epoch and chunk.epochs):
            continue  # Of an older version.
        if chunk.epoch == chunk.epochs:
            since = []  # It starts anew.
        since.append(nan if chunk.loss is None else chunk.loss)
        if not chunk.epoch % epochs_per_point:
            if isfinite(loss := sum(since) / len(since)):
                losses[chunk.epoch].append(loss)
            since = []
    return losses


def _differences(
    trainings: Sequence[Training], known: bool = True
) -> tuple[dict[int, Difference], dict[tuple[int, int], Difference]]:
    """Return which trainings differ from their own timed calls, and which of the others in pairs.

    If not `known`, those without a nudge are taken to amplify nothing.
    """
    moved = [training.moved for training in trainings]
    own = {}
    for n, training in enumerate(trainings):
        # What goes wrong only late in the life of a process spoils its nudged training, too.
        if first := _first(training.learned, training.timed, moved, known):
            own[n] = first
    judged = [n for n in range(len(trainings)) if n not in own]
    pairs = {}
    for a, b in combinations(judged, 2):
        both = (trainings[a].learned, trainings[b].learned)
        if first := _first(*both, [moved[a], moved[b]], known):
            pairs[a, b] = first
    return own, pairs


def _right(
    block: Sequence[Record],
    judged: Sequence[int],
    pairs: Mapping[tuple[int, int], Difference],
) -> set[int]:
    """Return the trials that agree with the reference, or the largest group; empty if none is."""

    def agree(one: int) -> set[int]:
        return {n for n in judged if (min(n, one), max(n, one)) not in pairs}

    for one in judged:
        if block[one].backend == _RIGHT:
            return agree(one)
    groups = [agree(n) for n in judged]
    most = max(groups, key=len, default=set())
    rivals = [group for group in groups if len(group) == len(most) and group != most]
    return most if len(most) > 1 and not rivals else set()


def _first(
    one: Values, other: Values, moved: Sequence[Mapping[int, float]], known: bool
) -> Difference | None:
    """Return the first epoch at which two differ by more than rounding explains, and the share.

    None if there is none, or if it is not known how far rounding leads.
    """
    explained = _explained([by for by in moved if by])
    unknown = inf if known else ALIKE
    for epoch, far in _distances(one, other):
        if far > max(ALIKE, explained.get(epoch, unknown)):
            return epoch, expm1(far)
    return None


def _explained(moved: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return by epoch how far apart rounding may lead; infinite once it may lead anywhere.

    Of several, the least: one that computes in few bits is moved far by any nudge.
    """
    epochs = sorted(set.intersection(*map(set, moved))) if moved else []
    least = [min(by[epoch] for by in moved) for epoch in epochs]
    reach = [max(least[: n + 1 + _AHEAD]) for n in range(len(epochs))]
    return {
        epoch: inf if far > _LOST else _FACTOR * far
        for epoch, far in zip(epochs, reach, strict=True)
    }


def _distances(one: Values, other: Values) -> Iterator[Difference]:
    """Yield each epoch that both have, and how far apart they are: of a logarithm, the largest."""
    for epoch in sorted(one.keys() & other.keys()):
        pairs = list(zip(one[epoch], other[epoch], strict=False))
        if all(isfinite(value) and value > 0 for pair in pairs for value in pair):
            yield epoch, min(_MOST, max(abs(log(a) - log(b)) for a, b in pairs))
