"""How many times as long the reference engine takes as the native kernels, for small networks.

python benchmarks/engines.py     # half a minute; writes benchmarks/results/engines.md
"""

import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
from cpu import processor

from schuss import SGD, Dense, Network, Training
from schuss.engines import cpu
from schuss.resources import available_threads

RESULT = Path(__file__).parent / "results" / "engines.md"
TURNS, SECONDS = 7, 0.1
CASES = [  # sizes, samples, samples of a batch
    ((4, 32, 16, 1), 10_000, 10_000),
    ((4, 32, 16, 1), 10_000, 200),
    ((20, 100, 1), 10_000, 200),
    ((20, 256, 256, 1), 10_000, 200),
]


def milliseconds(training):
    """Return the time of an epoch, as often as fits into a fraction of a second."""
    epochs, before = 0, time.perf_counter()
    while time.perf_counter() < before + SECONDS:
        training.run(1, SGD(0.01))
        epochs += 1
    return (time.perf_counter() - before) / epochs * 1e3


def row(sizes, samples, batch, dtype):
    x = np.random.default_rng(0).random((samples, sizes[0]), np.float32).astype(dtype)
    times = {}
    for engine in ("cpu", "reference"):
        network = Network(sizes[0], [*(Dense(units, "tanh") for units in sizes[1:-1]), Dense(1)], seed=1, dtype=dtype)
        times[engine] = Training(network, x, np.sin(x.sum(axis=1)), batch_size=batch, engine=engine), []
    for _ in range(TURNS):
        for training, measured in times.values():
            measured.append(milliseconds(training))
    native, reference = (statistics.median(measured) for _, measured in times.values())
    name = "-".join(map(str, sizes))
    return f"| {name} | {batch} | {dtype} | {native:.2f} | {reference:.1f} | {reference / native:.1f} |"


def main():
    text = "\n".join([
        "# Without the native kernels", "",
        f"{date.today()}, {processor()}, {available_threads()} threads, {cpu.level()}, NumPy {np.__version__}; "
        f"`python benchmarks/engines.py`. Milliseconds an epoch of 10 000 samples, medians of {TURNS} turns.", "",
        "| network | batch | numbers | cpu | reference | ratio |", "|---|---|---|---|---|---|",
        *(row(*case, dtype) for case in CASES for dtype in ("float32", "float64")), "",
    ])  # fmt: skip
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
