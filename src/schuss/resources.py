"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def available_threads() -> int:
    """Return the smallest of CPU affinity, cgroup quota and OMP_NUM_THREADS, at least 1."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits += _cgroup_quota(Path("/sys/fs/cgroup"))
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    limits += [int(asked)] if asked.isdigit() and int(asked) > 0 else []
    return max(1, min(limits))


def _cgroup_quota(root: Path) -> list[int]:
    """Return the cores that the cgroup's quota allows, rounded up: of version 2, else 1, or nothing if there is none."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / name).read_text() for name in files).split()
            return [-(-int(quota) // int(period))] if int(quota) > 0 else []
        except (OSError, ValueError):  # not this version, or "max": no quota
            continue
    return []
