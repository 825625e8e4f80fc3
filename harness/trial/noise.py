"""Whether a trial was disturbed by other work on the machine.

Only trials that had their cores to themselves are judged, by their chunks of steady training. There
are four signs, because each one misses what the others show:

- another process on the same core: wall time passes, processor time does not;
- the hypervisor takes the core away: the system counts it as steal;
- a neighbour in the same caches, or a lower frequency: some chunks are slow at full processor time;
- a busy host, for longer than a trial lasts: the probe is slower than in other blocks of the run.

None of them shows what slows a whole run alike without taking the processor.
"""

from __future__ import annotations

from harness.trial.epoch_time import turns, undisturbed
from harness.trial.record import Record

# Undisturbed, a training lacks less than 0.5 % of its core, for the work of the kernel. A busy
# process on the same core takes half, one that wakes now and then some per cent.
LOST_LIMIT = 0.02
# Undisturbed, there is no steal. But it is counted in whole ticks, and the first one may belong to
# the time before.
STEAL_LIMIT = 0.01
_TICK_S = 0.01
# Undisturbed calls differ by some per cent, so only time beyond that is in excess.
UNEVEN_FROM = 1.1
UNEVEN_LIMIT = 0.1
# Undisturbed, the probe differs by up to 10 % from block to block.
SLOWER_MEMORY_LIMIT = 0.2


def lost_share(record: Record) -> float | None:
    """Return the share of the training's wall time in which no thread of the process ran.

    None on a GPU, because a process may wait for it, and if nothing was timed. With several
    threads, the true share may be larger.
    """
    wall_s = sum(chunk.wall_s for chunk in record.chunks)
    if record.device != "cpu" or not wall_s:
        return None
    return max(0.0, 1 - sum(chunk.cpu_s for chunk in record.chunks) / wall_s)


def noise(record: Record, slower_memory: float = 0.0) -> list[str] | None:
    """Return a phrase for each limit exceeded, with the share of `train_s`, such as `stolen 3.0%`.

    `slower_memory` is what `harness.trial.machine_state` says. The result is None if nothing was
    timed, or if other trials were meant to run beside it.
    """
    if record.contended or not sum(chunk.wall_s for chunk in record.chunks):
        return None
    # Where it is known how long it waited for the processor, that is off the clock.
    known = all(chunk.waited_s is not None for chunk in record.chunks)
    shares = (
        ("off the processor", 0.0 if known else lost_share(record) or 0.0, LOST_LIMIT),
        ("stolen", _steal_share(record), STEAL_LIMIT),
        ("uneven", _uneven_share(record), UNEVEN_LIMIT),
        ("slower memory", slower_memory, SLOWER_MEMORY_LIMIT),
    )
    return [f"{what} {share:.1%}" for what, share, limit in shares if share > limit]


def _steal_share(record: Record) -> float:
    """Return the share of its cores' time that the hypervisor took."""
    steal_s = sum(chunk.steal_s or 0.0 for chunk in record.chunks)
    cores = len(record.cores) if record.cores else record.threads
    cores_s = cores * sum(chunk.wall_s for chunk in record.chunks)
    # Half a tick more, because sums of ticks are not exact in binary.
    return steal_s / cores_s if cores_s and steal_s > 1.5 * _TICK_S else 0.0


def _uneven_share(record: Record) -> float:
    """Return the share of the time beyond `UNEVEN_FROM` times that of undisturbed turns."""
    times_s = [turn.epoch_s for turn in turns(record)]
    if not sum(times_s):
        return 0.0
    ordinary_s = UNEVEN_FROM * undisturbed(times_s)
    return sum(max(0.0, seconds - ordinary_s) for seconds in times_s) / sum(times_s)
