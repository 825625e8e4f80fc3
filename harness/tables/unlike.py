"""Sentences about trials that did not train as others of their block did.

`harness.trial.trajectory` finds them. Such a trial has no time in the table `trials`, because it is
that of another training; the columns `apart_from`, `apart_epoch` and `apart_by` say why.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.tables import numbers
from harness.tables.pairs import ARM, ArmKey, names, of_arm


def not_the_same(trials: pd.DataFrame, arm: ArmKey, against: ArmKey) -> str:
    """Say which of two arms did not train as others did, and where; empty if both did."""
    both = pd.concat([of_arm(trials, arm), of_arm(trials, against)])
    unlike = both[both["apart_by"].notna()].sort_values("block", kind="stable")
    if unlike.empty:
        return ""
    row = unlike.iloc[0]
    name = dict(zip((arm, against), names(arm, against), strict=True))
    found = [name[one] for one in (arm, against) if not of_arm(unlike, one).empty]
    blocks = f"{unlike['block'].nunique()} of {both['block'].nunique()} blocks"
    return (
        f"{difference(name[row[ARM[0]], row[ARM[1]]], row)} ({blocks}); "
        f"there, no speed is stated for {' and '.join(found)}"
    )


def difference(mine: str, row: pd.Series[Any]) -> str:
    """Say how a trial of the backend `mine`, given its row, did not train as others did."""
    by = row["apart_by"]
    size = f"differ by {numbers.percent(by)}" if by < 1 else f"are {numbers.ratio(1 + by)}x apart"
    where = f"{size} at epoch {row['apart_epoch']} of seed {row['seed']}"
    why = "more than rounding explains"
    if other := row["apart_from"]:
        return f"{mine} and {other} did not train the same: losses or errors {where}, {why}"
    return (
        f"the timed calls of {mine} did not train as those that are evaluated: "
        f"losses {where}, {why}"
    )
