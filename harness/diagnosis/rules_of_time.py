"""The rules of time: what a profile shows that could be saved, and what it is that takes the time.

Warnings name something that a framework does not need in order to train this network; the infos
after them say what the time of an epoch is bound by. docs/diagnosis.md has the thresholds, the
reasons for them, and how often they are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple, TypeAlias

from harness.backend.model import GATES
from harness.diagnosis.timed import Timed
from harness.diagnosis.types import Evidence, Id, Rule, Severity
from harness.diagnosis.wording import settings
from harness.inputs.commands import command
from harness.tables.numbers import large, percent, short

Look: TypeAlias = Callable[[Timed], "Evidence | None"]

_FEWEST_EVALUATIONS = 5
"""A short run for times has fewer, and hardly any epochs to hold them against."""
_OF_SHORT_RUNS = {"epochs", "curve_points"}
"""What such a run has changed in the task."""
WORTH = 0.05
"""A part below this share of an epoch is not worth a word."""
BOUND = 0.5
"""A part above it is what the time is bound by."""
_PRODUCTS = re.compile(r"mm|matmul|dot|linear|einsum|tanh|sigmoid", re.IGNORECASE)
_WAITS = re.compile(r"\b(sleep|wait|acquire|read|readline|recv|poll|select|join)\b")
_FEWEST_PATHS = 8
"""With fewer in a batch, a loop over them looks like a few operators in each step."""
_FOUGHT = 0.3
"""Two that are busy all the time wait for half of it."""
_CALLS_PER_GATE = 12
"""Nobody needs more calls of one operator in a step, for each gate of each layer."""


class Entry(NamedTuple):
    """A rule, and how to look whether it applies."""

    rule: Rule
    look: Look


def _rule(name: Id, severity: Severity, headline: str) -> Callable[[Look], Entry]:
    return lambda look: Entry(Rule(name, severity, headline), look)


def observe(timed: Timed) -> Iterator[tuple[Rule, Evidence]]:
    """Yield the rules that apply, with the evidence: what could be saved first."""
    found = [(rule, look(timed)) for rule, look in AVOIDABLE]
    said = [(rule, evidence) for rule, evidence in found if evidence]
    yield from sorted(said, key=lambda one: -one[1].weight)
    for rule, look in BOUNDS:
        if evidence := look(timed):
            yield rule, evidence
            return


def time_text(seconds: float) -> str:
    """Return a time in a readable unit."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit:
            return f"{short(seconds / unit)} {name}"
    return f"{short(seconds * 1e9)} ns"


def _evidence(timed: Timed, seconds: float, text: str, remedy: str) -> Evidence:
    share = seconds / timed.epoch_s
    taken = (
        f"That is {time_text(seconds)} of {time_text(timed.epoch_s)} an epoch: {percent(share)}."
    )
    return Evidence(f"{text} {taken}", remedy, percent(share), weight=share)


@_rule("path-loop", "warning", "The paths of a batch are worked off one by one.")
def path_loop(timed: Timed) -> Evidence | None:
    """As many products as there are paths times steps."""
    task = timed.task
    paths, steps = task.batch_size, task.n_steps
    # A step of all layers has some products of its own, forwards and backwards.
    least = max(0.9 * paths * steps, 4 * steps * task.layers * GATES[task.cell]) * timed.at_once
    calls = [c for c in timed.calls if c.times >= least and _PRODUCTS.search(c.name)]
    if paths < _FEWEST_PATHS or not calls:
        return None
    seconds = timed.parts["calls"] + timed.parts["python"]
    first = calls[0]
    return _evidence(
        timed,
        seconds,
        f"`{first.name}` is called {large(first.times)} times an epoch, as often as there are "
        f"paths times steps ({paths} x {steps}); a step of all paths together is one call. Calls "
        "and Python between them take the time.",
        "Give each operator the whole batch: in place of the loop over paths, one axis more.",
    )


@_rule("repeated-call", "warning", "An operator is called far more often than the network needs.")
def repeated_call(timed: Timed) -> Evidence | None:
    """More calls of one operator than any cell has in a step."""
    task = timed.task
    most = _CALLS_PER_GATE * (task.n_steps + 1) * task.layers * GATES[task.cell] * timed.at_once
    calls = [c for c in timed.calls if c.times > most and not _PRODUCTS.search(c.name) and c.where]
    if path_loop.look(timed) or not calls:
        return None
    first = max(calls, key=lambda call: call.seconds)
    if first.seconds < WORTH * timed.epoch_s:
        return None
    return _evidence(
        timed,
        first.seconds,
        f"`{first.name}` is called {large(first.times)} times an epoch by {first.where}: "
        f"{short(first.times / task.n_steps)} times for each of the {task.n_steps} steps.",
        f"See what the calls in {first.where} are for; what does not depend on the step goes "
        "before the loop, and what changes nothing goes.",
    )


@_rule("double-precision", "warning", "Double precision is computed where single was asked for.")
def double_precision(timed: Timed) -> Evidence | None:
    """Arrays of float64 in a network of float32."""
    doubles, working = timed.count("float64"), timed.working
    if timed.task.dtype != "float32" or not working or doubles < WORTH * working:
        return None
    share = min(1.0, doubles / working)
    return Evidence(
        f"{large(doubles)} of {large(working)} {timed.kind}s an epoch compute in float64 "
        f"({percent(share)}), though the task says `dtype` = float32.",
        "Look for what is float64 by default: a constant, `np.array`, a Python number in an "
        "array, `x64` of JAX; one such operand makes all that follows double.",
        percent(share),
        weight=share,
    )


@_rule("recompiles", "warning", "The training is compiled again and again.")
def recompiles(timed: Timed) -> Evidence | None:
    """Compilation after the first call."""
    times, seconds = timed.count("compilations"), timed.parts["compilation"]
    if not times or seconds < WORTH * timed.epoch_s:
        return None
    return _evidence(
        timed,
        seconds,
        f"It compiles {short(times)} programs an epoch, though all calls of `train` are alike.",
        "Make the compiled function once, in `__init__`, and not in `train`; keep shapes, dtypes "
        "and Python arguments the same from call to call.",
    )


@_rule("garbage", "warning", "Python's garbage is collected in the loop.")
def garbage(timed: Timed) -> Evidence | None:
    """Time in the garbage collector."""
    seconds = timed.parts["collection"]
    if seconds < WORTH * timed.epoch_s:
        return None
    return _evidence(
        timed,
        seconds,
        f"Python's garbage is collected {short(timed.count('collections'))} times an epoch.",
        "Leave out `gc.collect()`; if nobody calls it, objects that refer to each other are made "
        "in the loop: make them once, or `gc.freeze()` what stays.",
    )


@_rule("allocation", "warning", "Large memory is allocated anew again and again.")
def allocation(timed: Timed) -> Evidence | None:
    """Page faults: memory that the system gives for the first time."""
    seconds, faults = timed.parts["system"], timed.count("page_faults")
    if seconds < WORTH * timed.epoch_s or faults < 1:
        return None
    return _evidence(
        timed,
        seconds,
        f"The system hands out new memory {large(faults)} times an epoch (page faults): a large "
        "array is allocated, touched and given back.",
        "Make large arrays once and write into them (`out=`, in-place operators, donated buffers). "
        "Of a compiled program, let the C library keep what it frees: set "
        "`MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648` before the command.",
    )


@_rule("threads-fight", "warning", "Another thread takes the core from the training.")
def threads_fight(timed: Timed) -> Evidence | None:
    """Threads that could run and had to wait, in a process that had the core all the time."""
    # In JAX, the thread that calls hands its work over to another one.
    waited = timed.count("workers_fought_s" if timed.source == "XLA" else "fought_s")
    busy = timed.count("caller_s") + timed.count("other_threads_s")
    # Beside a device, whoever waits for a core may wait for the device, too.
    if timed.device != "cpu" or not busy or waited < _FOUGHT * busy:
        return None
    return _evidence(
        timed,
        waited,
        f"Threads of the process waited for a core {time_text(waited)} an epoch, while others of "
        f"its threads ran: it has {timed.threads} core{'s' * (timed.threads > 1)} and more threads "
        "that are busy.",
        "Let the framework start as many threads as `threads` says (its own setting, "
        "`OMP_NUM_THREADS`), and stop helpers that spin.",
    )


@_rule("sleeps", "warning", "The training waits, and nothing runs meanwhile.")
def sleeps(timed: Timed) -> Evidence | None:
    """Time in which neither the process computes nor anything else of it."""
    seconds = timed.parts["waiting"]
    if timed.device != "cpu" or seconds < WORTH * timed.epoch_s:
        return None
    waits = [c for c in timed.calls if _WAITS.search(c.name) and c.seconds > 0.5 * seconds]
    by = waits[0] if waits else None
    who = f" It is in `{by.name}`{f', called by {by.where}' * bool(by.where)}." if by else ""
    return _evidence(
        timed,
        seconds,
        f"The process is neither computing nor waiting for a core.{who}",
        "Look for what it waits for: a sleep, a lock, a pipe, a file, another process.",
    )


@_rule("copies", "warning", "Copies of arrays take a part of the time that is worth saving.")
def copies(timed: Timed) -> Evidence | None:
    """Arrays that are only moved or converted."""
    task, seconds = timed.task, timed.parts["copies"]
    if seconds < WORTH * timed.epoch_s:
        return None
    value = 8 if task.dtype == "float64" else 4
    data = prod((timed.at_once, task.batch_size, 2 * task.n_steps + 1, value))
    copied = timed.count("copied_bytes")
    much = f"{short(copied / 1e6)} MB are copied" if copied else "Arrays are copied"
    times = f", {short(copied / data)} times the data of an epoch" if copied > data else ""
    by = next((call for call in timed.calls if re.search("cop|clone|astype", call.name)), None)
    who = f" The dearest is `{by.name}`{f' in {by.where}' * bool(by.where)}." if by else ""
    return _evidence(
        timed,
        seconds,
        f"{much} in an epoch{times}.{who}",
        "Convert and move the data of a call once, before the loop over epochs, and slice views "
        "of it.",
    )


@_rule("predicts", "warning", "The training makes predictions that no gradient needs.")
def predicts(timed: Timed) -> Evidence | None:
    """Look for `predict`, or the network without a gradient, inside `train`."""
    seconds = timed.parts["prediction"]
    if seconds < WORTH * timed.epoch_s:
        return None
    times = timed.count("predictions")
    often = f"{short(times)} times an epoch, " if times else ""
    return _evidence(
        timed,
        seconds,
        f"In `train` the network is evaluated {often}beside the training.",
        "Take the loss from the training's own forward pass; evaluate at the points of the curve.",
    )


@_rule("evaluation", "info", "The run evaluates longer than it trains.")
def evaluation(timed: Timed) -> Evidence | None:
    """Hold the evaluations of the whole run against its training."""
    if not timed.eval_s or not timed.train_s or timed.eval_s < timed.train_s:
        return None
    if timed.task.curve_points < _FEWEST_EVALUATIONS:
        return None
    return Evidence(
        f"All evaluations took {time_text(timed.eval_s)}, the training {time_text(timed.train_s)}; "
        "evaluations are never part of the times that are compared.",
        "Evaluate less: `--set curve_points=5`, or `--set eval_paths=500`.",
        time_text(timed.eval_s),
        weight=timed.eval_s / timed.train_s,
    )


AVOIDABLE: Sequence[Entry] = (
    path_loop,
    double_precision,
    recompiles,
    repeated_call,
    predicts,
    threads_fight,
    sleeps,
    garbage,
    allocation,
    copies,
)
"""What a training does not need."""


@_rule("arithmetic-bound", "good", "It is near the limit of the core: little is left to win.")
def arithmetic_bound(timed: Timed) -> Evidence | None:
    """Most of the time is the arithmetic that anybody has to do."""
    if timed.share("arithmetic") < BOUND or not timed.limit_s:
        return None
    return _evidence(
        timed,
        timed.parts["arithmetic"],
        f"The arithmetic that the network needs takes {time_text(timed.limit_s)} at the core's "
        "highest rate.",
        "Nothing in this backend; another device, more cores, or less work.",
    )


@_rule("call-bound", "info", "Most of the time goes into making calls, whatever their size.")
def call_bound(timed: Timed) -> Evidence | None:
    """Dispatch: all that a framework does to make a call."""
    calls = timed.parts["calls"]
    if timed.share("calls") < BOUND:
        return None
    number = timed.operations
    each = f" of {time_text(calls / number)} each" if number else ""
    words = ("--backends", timed.backend, "--what-if", *settings(timed.task, _OF_SHORT_RUNS))
    return _evidence(
        timed,
        calls,
        f"{timed.backend} makes {large(number)} {timed.kind} calls an epoch{each} before they "
        "compute anything.",
        "Let each call do more: more paths (`--set batch_size=256`), many seeds at once "
        "(`--vectorize`), a compiled or fused loop. "
        f"`{command('profile', *words)}` measures what helps.",
    )


@_rule("python-bound", "info", "Most of the time goes into the Python interpreter.")
def python_bound(timed: Timed) -> Evidence | None:
    """Code between the calls into a library."""
    if timed.share("python") < BOUND:
        return None
    functions = [call for call in timed.calls if ".py:" in call.name]
    who = f" The dearest function is `{functions[0].name}`." if functions else ""
    return _evidence(
        timed,
        timed.parts["python"],
        f"The interpreter runs between the calls into the library.{who}",
        "Move the loop over steps into the framework (a scan, a compiled function, its own "
        "recurrent layer).",
    )


@_rule("memory-bound", "info", "Most of the time goes into moving data between memory and core.")
def memory_bound(timed: Timed) -> Evidence | None:
    """Bytes at the measured bandwidth of their level."""
    if timed.share("memory") < BOUND:
        return None
    return _evidence(
        timed,
        timed.parts["memory"],
        f"Its {timed.kind}s read and write {short(timed.count('bytes') / 1e6)} MB an epoch.",
        "Fuse what works on the same data, keep tapes small enough for the cache (smaller groups "
        "of seeds or paths), or use a device with more bandwidth.",
    )


@_rule("slow-kernels", "info", "Most of the time is in its operators, well above their limits.")
def slow_kernels(timed: Timed) -> Evidence | None:
    """Look at what is left of the time inside operators."""
    if timed.share("rest") < BOUND or not timed.limit_s:
        return None
    own = timed.parts["arithmetic"] + timed.parts["rest"]
    first = timed.calls[0] if timed.calls else None
    which = ""
    if first and first.times:
        each = time_text(first.seconds / first.times)
        which = f" The dearest is `{first.name}`: {large(first.times)} calls of {each}."
    return _evidence(
        timed,
        timed.parts["rest"],
        f"Inside its code the arithmetic takes {short(own / timed.limit_s)} times what it would at "
        f"the core's highest rate, and neither calls nor traffic explain it.{which}",
        "Small matrices and short vectors keep a core below its rate: larger batches, or products "
        "in one piece, show whether that is so.",
    )


BOUNDS: Sequence[Entry] = (arithmetic_bound, call_bound, python_bound, memory_bound, slow_kernels)
"""What the time is bound by; the first that applies is said."""
