from __future__ import annotations


def pytest_xdist_auto_num_workers() -> int:
    """Run benchmarks one by one: others beside them would change their times."""
    return 0
