"""Which nodes may run the trials of a run: those on which every backend passed parity, alike.

A certificate holds for the node it was made on. A node that lacks a framework, has it in another
version, or gets another result, is left out, and said by name: its trials would fail, or would be
averaged with what is no longer the same computation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.measure.fingerprint import public_version
from harness.trial.events import Certificate, Refused
from harness.trial.jobs import ParityJob

Outcome = Certificate | Refused


@dataclass
class Admission:
    """The parity jobs that every node runs before it is given a trial, and what came of them."""

    jobs: tuple[ParityJob, ...]
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    """By name of the node."""
    _versions: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Take down the outcome of a parity job."""
        self.outcomes.setdefault(outcome.node, []).append(outcome)

    def expect(self, certificates: Iterable[Certificate]) -> None:
        """Settle that versions are those with which a part of the run was measured."""
        self._versions = _most_common([_loaded(c) for c in certificates if c.passed])

    def heard(self, backend: str, device: str) -> bool:
        """Whether there is any outcome for a backend on a device."""
        return any(_arm(o) == (backend, device) for said in self.outcomes.values() for o in said)

    def certificates(self) -> list[Certificate]:
        """Return the certificates, of all nodes."""
        outcomes = (o for heard in self.outcomes.values() for o in heard)
        return [outcome for outcome in outcomes if isinstance(outcome, Certificate)]

    def settle(self) -> list[str]:
        """Settle what nodes have in common, after the first ones were heard; say who is left out.

        Arms that pass nowhere are of no node's concern: nobody asks for them any more. Versions
        are those of most nodes, unless others are expected; which of two equal halves is right,
        nobody knows, so then it is that of the first name.
        """
        self.jobs = tuple(job for job in self.jobs if self._passes_somewhere(job))
        nodes = [self._loaded(node) for node in sorted(self.outcomes)]
        self._versions = _most_common(nodes) | self._versions
        return list(self.left_out(list(self.outcomes)))

    def left_out(self, nodes: Sequence[str]) -> Iterator[str]:
        """Say for each of the nodes that is left out, why."""
        for node in nodes:
            for device in dict.fromkeys(job.device for job in self.jobs):
                reasons = self.reasons(node, device)
                if reasons and any(job.device == device for job in self._heard(node)):
                    yield f"node {node} is left out on the {device}: {'; '.join(reasons)}"

    def allows(self, node: str, device: str) -> bool:
        """Whether trials on a device may run on a node."""
        return not self.reasons(node, device)

    def reasons(self, node: str, device: str) -> list[str]:
        """Say what keeps trials on a device off a node; nothing does if it may run them."""
        reasons = []
        for job in (job for job in self.jobs if job.device == device):
            outcome = self._outcome(node, job)
            if isinstance(outcome, Refused):
                reasons.append(outcome.message)
            elif outcome is None:
                reasons.append(f"{job.label} was not held against the reference there")
            elif not outcome.passed:
                reasons.append(f"{job.label} failed parity there: {outcome.reason}")
        return reasons + unlike(self._versions, self._loaded(node))

    def _passes_somewhere(self, job: ParityJob) -> bool:
        outcomes = (self._outcome(node, job) for node in self.outcomes)
        return any(isinstance(o, Certificate) and o.passed for o in outcomes)

    def _outcome(self, node: str, job: ParityJob) -> Outcome | None:
        return next((o for o in self.outcomes.get(node, []) if _arm(o) == _arm(job)), None)

    def _heard(self, node: str) -> list[ParityJob]:
        return [job for job in self.jobs if self._outcome(node, job)]

    def _loaded(self, node: str) -> dict[str, str]:
        loaded: dict[str, str] = {}
        for outcome in self.outcomes.get(node, []):
            if isinstance(outcome, Certificate):
                loaded |= _loaded(outcome)
        return loaded


def unlike(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Say which packages have another version than expected."""
    return [
        f"{name} is {found[name]} there and {expected[name]} elsewhere"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]


def _loaded(certificate: Certificate) -> dict[str, str]:
    return {name: public_version(v) for name, v in certificate.versions.items()}


def _most_common(nodes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the version of each package that most nodes have, the first ones' if that is even."""
    seen = Counter(item for node in nodes for item in node.items())
    return dict(item for item, _ in reversed(seen.most_common()))


def _arm(of: Outcome | ParityJob) -> tuple[str, str]:
    arm = of.job if isinstance(of, Refused) else of
    return arm.backend, arm.device
