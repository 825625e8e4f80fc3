"""How many trials run side by side on this machine, without Ray."""

from __future__ import annotations

import tempfile

import pytest

from harness import Task, Unavailable
from harness.dispatch.local import InlineDispatcher
from harness.trial.events import Started
from harness.trial.record import Record
from tests.helpers.records import trial_job

TASK = Task(n_steps=3, batch_size=2, epochs=4, curve_points=2, eval_paths=5)


def test_trials_never_share_the_one_gpu() -> None:
    """Even in a packed run. The backend has no use for a GPU, so each of them fails at once."""
    jobs = [
        trial_job(TASK, backend="reference", device="gpu", exclusive=False, trial=f"t{seed}")
        for seed in range(3)
    ]
    events = list(InlineDispatcher().run([[job] for job in jobs]))
    assert [type(event) for event in events] == [Started, Record] * 3
    assert [e.trial for e in events if isinstance(e, Record)] == ["t0", "t1", "t2"]


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(Unavailable, match="temporary files, TMPDIR, cannot be used: No such file"):
        list(InlineDispatcher().run([[trial_job(TASK, backend="reference")]]))
