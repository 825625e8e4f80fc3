"""The columns of all tables: a name has the same type wherever it stands."""

from __future__ import annotations

# Types of pandas; the nullable ones keep a column's type where a value is missing.
_NAMES = {
    "string": (
        "run trial backend device node status error noise node_kind lost metric "
        "against_backend against_device kind words across verdict field local faster_below "
        "faster_above started_utc task commit commit_backend dirty_backend commit_harness "
        "dirty_harness relative_to mse_seeds measure last_run last_commit earliest_run latest_run "
        "also_changed timing apart_from name where"
    ),
    "int64": (
        "block seed epochs threads attempts go trials_before at_once epoch t chunk rounds "
        "involuntary_switches n of n_a n_b trials sizes seeds blocks runs runs_before runs_after "
        "k lag reached"
    ),
    "bool": "contended shown counted",
    "boolean": "noisy",
    "Int64": "epochs_to_lag lag_step round cut_to apart_epoch memory",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def columns(names: str, **others: str) -> dict[str, str]:
    """Return the pandas type of each column in `names`; numbers are float64 unless listed here.

    `others` are types that differ in this table.
    """
    return {name: _TYPES.get(name, "float64") for name in names.split()} | others
