"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

from schuss.errors import InputError


def available_cpus() -> int:
    """Return how many CPUs this process may run on, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_threads() -> int:
    """Return the smallest of CPU affinity, cgroup quota and OMP_NUM_THREADS, at least 1."""
    limits = [available_cpus()]
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


def available_memory() -> int | None:
    """Return the bytes that this process may still take, by the machine and its cgroup, or None where nobody says."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            root = Path("/sys/fs/cgroup")
            limits.append(max(0, int((root / limit).read_text()) - int((root / used).read_text())))
        except (OSError, ValueError):  # not this version, or "max": no limit
            continue
    return min(limits, default=None)


def check_memory(needed: int, what: str, count: int, of: str) -> None:
    """Raise InputError if ``needed`` bytes, for ``count`` of something, are more than there are: how many would fit."""
    room = available_memory()
    if room is not None and needed > room:
        raise InputError(
            f"{what} need {needed / 1e9:.3g} GB but {room / 1e9:.3g} GB of memory are free; "
            f"about {int(count * (room / needed)):d} {of} would fit"
        )
