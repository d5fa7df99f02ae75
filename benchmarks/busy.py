"""What another busy process costs: training the articles' network while one of the cores is taken, over undisturbed training.

python benchmarks/busy.py        # half a minute; writes benchmarks/results/busy.md
"""

import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from cpu import articles, processor
from peers import with_schuss

from schuss.engines import cpu
from schuss.resources import available_threads

RESULT = Path(__file__).parent / "results" / "busy.md"
TURNS, EPOCHS = 15, 1000


def timed(run):
    before = time.perf_counter()
    run(EPOCHS)
    return (time.perf_counter() - before) / EPOCHS * 1e3


def main():
    import numpy as np

    case = articles(10_000)
    x = np.random.default_rng(0).random((case.samples, 4), np.float32)
    run = with_schuss(case, x, np.sin(x.sum(axis=1, keepdims=True)))
    run(EPOCHS)
    last = max(os.sched_getaffinity(0))
    quiet, disturbed = [], []
    for _ in range(TURNS):
        quiet.append(timed(run))
        with subprocess.Popen(
            [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{last}])\nwhile True: pass"]
        ) as other:
            time.sleep(0.2)
            disturbed.append(timed(run))
            other.kill()
    alone, beside = statistics.median(quiet), statistics.median(disturbed)
    text = "\n".join([
        "# Beside a busy process", "",
        f"{date.today()}, {processor()}, {available_threads()} threads, {cpu.level()}; `python benchmarks/busy.py`. "
        f"4-32-16-1, 10 000 samples, full batch; medians of {TURNS} turns, quiet and with one core taken in turn.", "",
        f"Undisturbed {alone:.3f} ms an epoch; with another process on one core {beside:.3f} ms: "
        f"{beside / alone:.2f} times.", "",
    ])  # fmt: skip
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
