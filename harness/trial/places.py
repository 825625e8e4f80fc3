"""Where in a plan a record belongs, without making the other trials of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.task.task import Task
from harness.trial.arms import Arm
from harness.trial.plan import Block, Plan, trial_name
from harness.trial.record import Record
from harness.trial.sweep import count_points

_MOST_ATTEMPTS = 1_000_000
"""Far more than a machine can make: a number that says more was made up."""


class Places:
    """The places of the trials of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._parts = plan.parts
        self._part_of = {seed: n for n, part in enumerate(self._parts) for seed in part}
        self._arms: dict[tuple[str, str], Arm] = {(a.backend, a.device): a for a in plan.arms}
        self._arm_names = plan.arm_names
        self._values = {
            name: {value: n for n, value in enumerate(values)}
            for name, values in plan.sweep.items()
        }
        self._count = count_points(plan.sweep)
        self._points: dict[Task, int | None] = {}
        self._orders: dict[int, dict[str, int]] = {}

    def fault(self, record: Record) -> str:
        """Return why a record is none of the plan, as a clause; empty if it is one."""
        plan = self._plan
        number, arm = self._number(record), self._arms.get((record.backend, record.device))
        if record.run != plan.run or number is None or record.trial != self._name(record, arm):
            return f"it is no record of run `{plan.run}`"
        if record.block >= len(self._parts) * self._count:
            return f"run `{plan.run}` has no block {record.block}"
        if max(record.attempt, record.go) > _MOST_ATTEMPTS:
            return "nobody made so many attempts"
        if max((chunk.round or 0 for chunk in record.chunks), default=0) > plan.rounds:
            return f"run `{plan.run}` has {plan.rounds} rounds"
        return ""

    def in_order(self, records: Sequence[Record]) -> list[Record]:
        """Return records of the plan in its order, and those of a trial in that of attempts."""
        return sorted(records, key=self._key)

    def _key(self, record: Record) -> tuple[int, int, int]:
        number = self._number(record)
        assert number is not None
        if number not in self._orders:
            self._orders[number] = {name: n for n, name in enumerate(self._names(number))}
        return number, self._orders[number][record.trial], record.attempt

    def _number(self, record: Record) -> int | None:
        """Return the number of the block that a record's seed and task belong to."""
        if record.task not in self._points:
            self._points[record.task] = self._point(record.task)
        part, point = self._part_of.get(record.seed), self._points[record.task]
        if part is None or point is None:
            return None
        return part * self._count + point

    def _point(self, task: Task) -> int | None:
        """Return the number of the point of the sweep that is a task."""
        base, point = self._plan.task, 0
        for name, numbers in self._values.items():
            if (number := numbers.get(getattr(task, name))) is None:
                return None
            point = point * len(numbers) + number
        swept = {name: getattr(base, name) for name in self._values}
        return point if task.model_copy(update=swept) == base else None

    def _name(self, record: Record, arm: Arm | None) -> str | None:
        """Return the name that a record's trial has; None if the plan has no such trial."""
        seeds = record.seeds or (record.seed,)
        part = self._parts[self._part_of[record.seed]]
        if arm is None or seeds != (part if arm in self._plan.many else (record.seed,)):
            return None
        values = {name: getattr(record.task, name) for name in self._values}
        return trial_name(values, seeds, self._arm_names[arm])

    def _names(self, number: int) -> Iterator[str]:
        """Yield the names of the trials of a block in their order."""
        part, rest = divmod(number, self._count)
        values = {}
        for name, swept in reversed(self._plan.sweep.items()):
            rest, n = divmod(rest, len(swept))
            values[name] = swept[n]
        block = Block(number, dict(reversed(values.items())), self._parts[part])
        for arm, seeds in self._plan.in_order(block):
            yield trial_name(block.values, seeds, self._arm_names[arm])
