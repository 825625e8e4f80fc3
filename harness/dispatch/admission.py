"""Which nodes may run the trials of a run: every backend passed parity there, in the same versions.

A certificate holds for the node that it was made on. A node is left out, with a message, if it
lacks a framework, has another version of one, or fails parity: its trials would fail, or be
averaged with those of another computation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.measure.fingerprint import public_version
from harness.trial.arms import Arm
from harness.trial.events import Certificate, Refused
from harness.trial.jobs import ParityJob

ParityOutcome: TypeAlias = Certificate | Refused


@dataclass
class Admission:
    """The parity jobs that every node runs before its first trial, and their outcomes."""

    jobs: tuple[ParityJob, ...]
    outcomes: dict[str, dict[Arm, ParityOutcome]] = field(default_factory=dict)
    """By the name of the node."""
    _versions: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: ParityOutcome) -> None:
        """Add the outcome of a parity job; the first one for an arm on a node counts."""
        arm = outcome.job.arm if isinstance(outcome, Refused) else outcome.arm
        self.outcomes.setdefault(outcome.node, {}).setdefault(arm, outcome)

    def expect(self, certificates: Iterable[Certificate]) -> None:
        """Require the versions with which a part of the run was measured."""
        self._versions = _most_common([_public_versions(c) for c in certificates if c.passed])

    def answered(self, arm: Arm) -> bool:
        """Whether any node has an outcome for an arm."""
        return any(arm in found for found in self.outcomes.values())

    def certificates(self) -> list[Certificate]:
        """Return the certificates of all nodes."""
        outcomes = (o for found in self.outcomes.values() for o in found.values())
        return [outcome for outcome in outcomes if isinstance(outcome, Certificate)]

    def settle(self) -> list[str]:
        """Choose the jobs and versions required of every node; return a message per node left out.

        Arms that pass on no node are no longer required. Each package must have the version that
        most nodes have, unless `expect` has set it. In a tie, the first node's name decides.
        """
        self.jobs = tuple(job for job in self.jobs if self._passes_somewhere(job))
        nodes = [self._versions_on(node) for node in sorted(self.outcomes)]
        self._versions = _most_common(nodes) | self._versions
        return list(self.left_out(list(self.outcomes)))

    def left_out(self, nodes: Sequence[str]) -> Iterator[str]:
        """Yield a message for each of the nodes that is left out."""
        for node in nodes:
            for device in dict.fromkeys(job.device for job in self.jobs):
                reasons = self.reasons(node, device)
                asked = any(j.device == device and self._outcome(node, j) for j in self.jobs)
                if reasons and asked:
                    yield f"node {node} is left out on the {device}: {'; '.join(reasons)}"

    def allows(self, node: str, device: str) -> bool:
        """Whether trials on a device may run on a node."""
        return not self.reasons(node, device)

    def reasons(self, node: str, device: str) -> list[str]:
        """Return what keeps trials on a device off a node; empty if they may run there."""
        reasons = []
        for job in (job for job in self.jobs if job.device == device):
            outcome = self._outcome(node, job)
            if isinstance(outcome, Refused):
                reasons.append(outcome.message)
            elif outcome is None:
                reasons.append(f"{job.label} was not compared with the reference there")
            elif not outcome.passed:
                reasons.append(f"{job.label} failed parity there: {outcome.reason}")
        found = self._versions_on(node)
        return reasons + [
            f"{name} is {found[name]} there and {self._versions[name]} elsewhere"
            for name in sorted(self._versions.keys() & found.keys())
            if self._versions[name] != found[name]
        ]

    def _passes_somewhere(self, job: ParityJob) -> bool:
        outcomes = (self._outcome(node, job) for node in self.outcomes)
        return any(isinstance(o, Certificate) and o.passed for o in outcomes)

    def _outcome(self, node: str, job: ParityJob) -> ParityOutcome | None:
        return self.outcomes.get(node, {}).get(job.arm)

    def _versions_on(self, node: str) -> dict[str, str]:
        versions: dict[str, str] = {}
        for outcome in self.outcomes.get(node, {}).values():
            if isinstance(outcome, Certificate):
                versions |= _public_versions(outcome)
        return versions


def _public_versions(certificate: Certificate) -> dict[str, str]:
    return {name: public_version(v) for name, v in certificate.versions.items()}


def _most_common(nodes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the version of each package that most nodes have; in a tie, the first one's."""
    seen = Counter(item for node in nodes for item in node.items())
    return dict(item for item, _ in reversed(seen.most_common()))
