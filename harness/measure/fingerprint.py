"""Which trials may be compared in absolute times: those measured on the same kind of node.

The fingerprint is the part of a record's `environment` that decides how fast the same code runs
there. Versions of packages and commits are not in it: their effect is what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.measure.settings import THREAD_VARIABLES, changes_times

# Differences are listed in this order.
_NODE = ("cpu", "cpu_quota", "governor", "os", "kernel", "python", "gpu", "gpu_driver")


def fingerprint(environment: Mapping[str, str], threads: int | None = None) -> dict[str, str]:
    """Return what decides whether absolute times of two trials may be compared.

    `environment` is that of a record, or of a manifest with the `threads` of a record. What is not
    in it is not in the fingerprint.
    """
    kind = {name: environment[name] for name in _NODE if name in environment}
    if "cores" in environment:
        kind["cores"] = environment["cores"]
        if "cores_used" in environment:
            # Their number decides, not which ones.
            kind["cores"] = f"{environment['cores_used'].count(',') + 1} of {environment['cores']}"
    if "memory_gb" in environment:
        # The kernel keeps some memory for itself, and not always the same amount.
        kind["memory_gb"] = f"{float(environment['memory_gb']):.0f}"
    named = (f"env:{name}" for name in THREAD_VARIABLES)
    counts = [environment[name] for name in named if name in environment]
    if threads is not None:
        kind["threads"] = str(threads)
    elif counts:
        # The harness sets all variables to one number; others may have set several.
        kind["threads"] = ", ".join(dict.fromkeys(counts))
    variables = (name.removeprefix("env:") for name in environment if name.startswith("env:"))
    return kind | {name: environment[f"env:{name}"] for name in variables if changes_times(name)}


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return a phrase for each name in which two fingerprints differ.

    A name that only one of them has is a difference, for example a GPU that the other node lacks.
    """
    return [
        f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]


def public_version(version: str) -> str:
    """Return a version without its build: the builds for GPU and CPU are one version."""
    return version.partition("+")[0]


def name_kinds(kinds: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a name for each fingerprint: processor, cores and GPU.

    If several get the same name, what they differ in is added.
    """
    names = [_short_name(kind) for kind in kinds]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [number for number, other in enumerate(names) if other == name]
        unlike = [
            field
            for field in dict.fromkeys(field for number in alike for field in kinds[number])
            if len({kinds[number].get(field) for number in alike}) > 1
        ]
        for number in alike:
            more = (f"{field} {kinds[number].get(field, 'none')}" for field in unlike)
            names[number] = ", ".join([name, *more])
    return names


def _short_name(kind: Mapping[str, str]) -> str:
    cores = f"{kind['cores']} cores" if "cores" in kind else None
    parts = (kind.get("cpu"), cores, kind.get("gpu"))
    return ", ".join(part for part in parts if part) or "unknown"
