"""Everything that can befall a run, once each, in one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.helpers.clusters import IMPATIENT, local_cluster
from benchmarks.helpers.soak import KINDS, Soak


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_whatever_befalls_a_run_no_finished_trial_is_lost(tmp_path: Path) -> None:
    with local_cluster(IMPATIENT, a={"cpus": 1}, b={"cpus": 1}, c={"cpus": 1}) as cluster:
        soak = Soak(cluster, tmp_path, blocks=50, seed=1)
        run = soak.go(KINDS, pauses_s=(0.5, 2.0))
        soak.check(run)
        assert [fault.kind for fault in soak.faults] == list(KINDS)
