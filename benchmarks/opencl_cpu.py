"""OpenCL on the processor beside the native engine: what the kernels for GPUs cost where there is none.

Both in one process, taking turns; milliseconds are medians, a ratio is the median of those of the turns. Writes
benchmarks/results/opencl_cpu.md.

    python benchmarks/opencl_cpu.py
"""

import argparse
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
from cpu import PAUSE, articles, processor, square
from peers import with_schuss

from schuss.engines import cpu, opencl
from schuss.resources import available_threads

CASES = {
    "4-32-16-1, 10 000 samples": articles(10_000),
    "16-256-256-4, 2 048 samples": square(16, 256, 2, 4, 2048),
    "16-32-32-4, batches of 256 of 2 048": square(16, 32, 2, 4, 2048, batch_size=256),
    "16-512-512-4, 2 048 samples": square(16, 512, 2, 4, 2048),
}


def measure(case, turns, seconds):
    """Return milliseconds an epoch of each engine, a list of turns."""
    x = np.random.default_rng(0).random((case.samples, case.inputs), np.float32)
    y = np.repeat(np.sin(x.sum(axis=1, keepdims=True)), case.sizes[-1], axis=1)
    runs, epochs, times = {}, {}, {}
    for engine in ("cpu", "opencl"):
        runs[engine], times[engine] = with_schuss(case, x, y, engine), []
        runs[engine](2)
        before = time.perf_counter()
        runs[engine](2)
        epochs[engine] = max(1, int(2 * seconds / (time.perf_counter() - before)))
    for _ in range(turns):
        for engine, run in runs.items():
            time.sleep(PAUSE)
            before = time.perf_counter()
            run(epochs[engine])
            times[engine].append((time.perf_counter() - before) / epochs[engine] * 1e3)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="a turn")
    options = parser.parse_args()
    lines = []
    for title, case in CASES.items():
        times = measure(case, options.turns, options.seconds)
        ratios = sorted(ours / native for ours, native in zip(times["opencl"], times["cpu"], strict=True))
        cells = [f"{statistics.median(found):.3f}" for found in times.values()]
        lines.append(
            f"| {title} | {cells[0]} | {cells[1]} | {statistics.median(ratios):.2f} x | {ratios[0]:.2f} to {ratios[-1]:.2f} |"
        )
        print(lines[-1], flush=True)
    Path(__file__).with_name("results").joinpath("opencl_cpu.md").write_text(
        "\n".join([
            "# OpenCL on the processor beside the native engine, float32", "",
            f"{date.today()}; {opencl.devices()[0]}; {processor()} ({cpu.machine_levels()[-1]}), {available_threads()} "
            f"threads, Python {platform.python_version()}; `python benchmarks/opencl_cpu.py`. Milliseconds an epoch, medians "
            f"of {options.turns} turns; ratio: the median of those of the turns, and their range.", "",
            "| case | cpu | opencl | ratio | range |", "|---|---|---|---|---|", *lines, "",
        ])
    )  # fmt: skip


if __name__ == "__main__":
    main()
