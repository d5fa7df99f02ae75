"""16-H-H-4 on 2048 samples in full batches, beside PyTorch eager, for several widths H: where schuss is ahead, and where not.

python benchmarks/width.py            # prints the table, and writes it to benchmarks/results/
"""

import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from schuss import SGD, Dense, Network, Training
from schuss.engines import cpu
from schuss.resources import available_threads

WIDTHS, SAMPLES, TURNS, SECONDS = (8, 32, 64, 128, 256, 512), 2048, 9, 0.3
RATE, MOMENTUM = 0.01, 0.9
RESULT = Path(__file__).parent / "results" / "width_cpu.md"


def with_schuss(width, x, y):
    training = Training(Network(16, [Dense(width, "tanh"), Dense(width, "tanh"), Dense(4)], seed=1), x, y)
    return lambda epochs: training.run(epochs, SGD(RATE, momentum=MOMENTUM), record_every=epochs)


def with_torch(width, x, y):
    first, second, last = torch.nn.Linear(16, width), torch.nn.Linear(width, width), torch.nn.Linear(width, 4)
    net = torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Tanh(), last)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    loss_function = torch.nn.MSELoss()
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def run(epochs):
        for _ in range(epochs):
            optimizer.zero_grad()
            loss_function(net(tx), ty).backward()
            optimizer.step()

    return run


def measure(width):
    """Return the median milliseconds an epoch of schuss and of PyTorch, who take turns."""
    rng = np.random.default_rng(0)
    x, y = rng.random((SAMPLES, 16), np.float32), rng.random((SAMPLES, 4), np.float32)
    runs = [with_schuss(width, x, y), with_torch(width, x, y)]
    epochs, times = [], [[], []]
    for run in runs:
        run(3)
        before = time.perf_counter()
        run(3)
        epochs.append(max(3, int(3 * SECONDS / (time.perf_counter() - before))))
    for _ in range(TURNS):
        for run, count, found in zip(runs, epochs, times, strict=True):
            before = time.perf_counter()
            run(count)
            found.append((time.perf_counter() - before) / count * 1e3)
    return [statistics.median(found) for found in times]


def main():
    threads = available_threads()
    torch.set_num_threads(threads)
    peak = cpu.fma_peak(np.dtype(np.float32), threads)
    rows = []
    for width in WIDTHS:
        ours, theirs = measure(width)
        products = 16 * width + width**2 + 4 * width
        share = 2 * SAMPLES * (3 * products - 16 * width) / (ours * 1e-3) / peak
        rows.append(f"| {width} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} | {share:.0%} |")
    head = [
        "# 16-H-H-4, tanh, 2048 samples, full batch, float32",
        "",
        f"{date.today()}, {threads} threads, {cpu.level()}, torch {torch.__version__}; `python benchmarks/width.py`",
        "",
        "| H | schuss, ms an epoch | PyTorch eager | PyTorch / schuss | share of the FMA peak |",
        "|---|---|---|---|---|",
    ]
    text = "\n".join([*head, *rows, ""])
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
