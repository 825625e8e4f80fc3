"""What the system counts for a process and its descendants."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from harness.measure import machine

BURN = "import time\nwhile time.process_time() < 0.2: pass"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_descendants_that_start_and_end_are_counted() -> None:
    burn = [sys.executable, "-c", BURN]
    before = machine.counters().descendants_cpu_s
    subprocess.run(burn, check=True)
    child_ended = machine.counters().descendants_cpu_s
    assert child_ended - before > 0.15
    script = f"read a; {shlex.join(burn)}; echo; read a"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=-1) as shell:
        assert shell.stdin
        assert shell.stdout
        waits = machine.counters().descendants_cpu_s
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        shell.stdout.readline()
        grandchild_ended = machine.counters().descendants_cpu_s
        assert grandchild_ended - waits > 0.15
        shell.stdin.close()
        shell.wait()
    # No time is counted twice when the shell has ended, but for the resolution.
    assert machine.counters().descendants_cpu_s - grandchild_ended < 0.1
