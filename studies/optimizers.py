"""Time to quality: every optimizer on the articles' network and function, cost against seconds.

    python studies/optimizers.py             # about two minutes; a table and a picture in studies/results/

The articles' network 4-32-16-1 on 10 000 samples of their function: they reached a cost of 0.00006 after 100 000 epochs
and 33.75 s on a GTX 1080 Ti, and write that a million epochs did not lower it. Here with Glorot weights, float32, three
seeds.
"""

import argparse
import time

import articles
import matplotlib
import numpy as np

from schuss import LBFGS, SGD, Adam, Network, RMSprop, Training
from schuss.schedules import Cosine

SEEDS, LEVELS = (1, 2, 3), (6e-5, 1e-6)


WAYS = {  # the best of two or three rates each, in factors of about three
    "SGD": SGD(0.2),
    "SGD, momentum 0.9": SGD(0.1, momentum=0.9),
    "Nesterov 0.99": SGD(0.03, momentum=0.99, nesterov=True),
    "RMSprop": RMSprop(0.003),
    "Adam": Adam(0.01),
    "Adam, cosine": Adam(Cosine(0.03)),
    "L-BFGS": LBFGS(),
}


def curve(optimizer, seed, epochs, x, y):
    """Return the seconds of training and the cost after each chunk; the time of looking is not counted."""
    network = Network(4, articles.layers(32, 16, initializer="glorot"), seed=seed)
    seconds, costs = [], []
    with Training(network, x, y) as training:
        started = time.perf_counter()

        def look(training, history):
            nonlocal started
            seconds.append((seconds[-1] if seconds else 0.0) + time.perf_counter() - started)
            costs.append(history.cost[-1])
            started = time.perf_counter()
            return bool(costs[-1] < LEVELS[-1])

        training.run(epochs, optimizer, callbacks=[look])
    return np.array(seconds), np.array(costs)


def reached(seconds, costs, level):
    below = np.flatnonzero(costs <= level)
    return seconds[below[0]] if len(below) else np.inf


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15_000, help="of an optimizer that takes a step an epoch")
    options = parser.parse_args()
    import schuss.runs

    schuss.runs._CHUNK_SECONDS = 0.01  # the resolution of the curves
    matplotlib.use("Agg")
    from matplotlib import pyplot

    x, y = articles.data(0)
    report = articles.Report("optimizers", "Time to quality of each optimizer")
    report(*__doc__.strip().splitlines()[4:], "")
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    rows = []
    for name, optimizer in WAYS.items():
        epochs = options.epochs if name != "L-BFGS" else 10_000
        runs = [curve(optimizer, seed, epochs, x, y) for seed in SEEDS]
        times = [sorted(reached(*run, level) for run in runs)[1] for level in LEVELS]
        lowest = np.median([costs.min() for _, costs in runs])
        rows.append(
            (
                optimizer.short(),
                f"{np.median([seconds[-1] for seconds, _ in runs]):.2f}",
                f"{lowest:.2g}",
                *("not reached" if np.isinf(value) else f"{value:.3f}" for value in times),
            )
        )
        print(rows[-1], flush=True)
        middle = runs[int(np.argsort([run[1][-1] for run in runs])[1])]
        axes.plot(*middle, label=name, lw=1.5 if name != "L-BFGS" else 2.5)
    report.table(("optimizer", "seconds", "lowest cost", "seconds to 0.00006", "seconds to 0.000001"), rows)
    report("Medians over the seeds. The time is that of training alone, on two cores.")
    report.write()
    axes.axhline(LEVELS[0], color="gray", lw=1, ls="--")
    axes.text(0.011, LEVELS[0] * 1.15, "the articles, 100 000 epochs, 33.75 s on a GPU", fontsize=8, color="gray")
    axes.set(xlabel="seconds of training", ylabel="cost", xscale="log", yscale="log")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(articles.RESULTS / "optimizers.png", dpi=120)


if __name__ == "__main__":
    main()
