"""Whether a trial was disturbed: what its timed calls show of others at work on the machine.

Judged are the chunks of steady training of a trial that had its cores to itself. A disturbance is
seen in three ways, because each escapes the others: another process on the same core takes the
processor away (the clock goes on, the processor time does not), a hypervisor takes the core away,
and a neighbour in the same caches, or a lower frequency, makes chunks slow at full processor time.
What slows all chunks alike without taking the processor is seen by none of them.
"""

from __future__ import annotations

from statistics import median

from harness.trial.record import Chunk, Record

# A training keeps its core busy: undisturbed it lacks less than 0.5 % of it, for the work of
# the kernel. A busy process on the same core takes half, one that wakes now and then some per cent.
LOST_LIMIT = 0.02
# Steal is time that is lost for certain, and undisturbed it is none; but it is counted in whole
# ticks, the first of which may belong to what was before.
STEAL_LIMIT = 0.01
_TICK_S = 0.01
# Undisturbed chunks do the same work within some per cent of each other, so time is in excess only
# beyond that. 3 % of the training: what is left out of account is less than what a gate looks for
# (5 %), and one hiccup of half a chunk among 20 is not enough.
UNEVEN_FROM = 1.1
UNEVEN_LIMIT = 0.03


def lost_share(record: Record) -> float | None:
    """Return the share of the training's wall time in which no thread of the process ran.

    None on a GPU, for which a process may wait, and where nothing was timed. With several threads
    it is the least that can have been lost.
    """
    wall_s = sum(chunk.wall_s for chunk in record.chunks)
    if record.device != "cpu" or not wall_s:
        return None
    return max(0.0, 1 - sum(chunk.cpu_s for chunk in record.chunks) / wall_s)


def noise(record: Record) -> list[str] | None:
    """Say how a trial was disturbed: for each limit exceeded, the share of `train_s` concerned.

    None if that cannot be told: nothing was timed, or others were meant to run beside it.
    """
    if record.contended or not sum(chunk.wall_s for chunk in record.chunks):
        return None
    uneven = ("uneven", _uneven_share(record.chunks), UNEVEN_LIMIT)
    return [*_taken_away(record), *_exceeding(uneven)]


def repeats(record: Record, retry_noisy: int) -> bool:
    """Whether another attempt follows: the trial ran to its end, and its processor was taken away.

    Not by how long it took, nor by how its chunks compare: the excess of a slow chunk is part of
    the time that is measured, so to repeat what was slow or uneven would make every backend look
    faster than it is, the more so the more its times vary. What others took of the processor is
    read from clocks of its own and is the same for slow and fast chunks of the backend itself.
    Nor is there a choice among the attempts: the last one counts, noisy or not.
    """
    if record.status not in {"ok", "diverged"} or record.attempt > retry_noisy:
        return False
    return bool(noise(record)) and bool(_taken_away(record))


def _taken_away(record: Record) -> list[str]:
    """Say what others took of the processor, if it exceeds a limit."""
    return _exceeding(
        ("off the processor", lost_share(record) or 0.0, LOST_LIMIT),
        ("stolen", _steal_share(record), STEAL_LIMIT),
    )


def _exceeding(*shares: tuple[str, float, float]) -> list[str]:
    return [f"{what} {share:.1%}" for what, share, limit in shares if share > limit]


def _steal_share(record: Record) -> float:
    """Return the share of its cores' time that the hypervisor kept."""
    steal_s = sum(chunk.steal_s or 0.0 for chunk in record.chunks)
    cores = len(record.cores) if record.cores else record.threads
    wall_s = sum(chunk.wall_s for chunk in record.chunks)
    # Half a tick: sums of ticks are not exact in binary.
    return steal_s / (wall_s * cores) if steal_s > 1.5 * _TICK_S else 0.0


def _uneven_share(chunks: tuple[Chunk, ...]) -> float:
    """Return the share of the time that chunks took in excess of `UNEVEN_FROM` times the median."""
    walls_s = [chunk.wall_s for chunk in chunks]
    ordinary_s = UNEVEN_FROM * median(walls_s)
    return sum(max(0.0, wall_s - ordinary_s) for wall_s in walls_s) / sum(walls_s)
