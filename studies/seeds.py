"""What the articles' choices are worth: each on 1000 paired seeds, with intervals; how often learning rate 0.3 runs away.

python studies/seeds.py                 # about two minutes; writes studies/results/seeds.md and a picture
python studies/seeds.py --seeds 100     # quicker
"""

import argparse
import time
import warnings

import numpy as np
from articles import RESULTS, Report, data, layers, optimizer

from schuss import Population, Training
from schuss.comparison import compared

BASE = (0.2, 0, 0)
COLUMNS = [(0.2, 0.02, 0), (0.2, 0.02, 0.01)]
MOMENTA = [(0.2, 0, mu) for mu in (0.5, 0.9, 0.99)]
DECAYS = [(0.2, decay, 0) for decay in (0.1, 1, 10, 100, 1000)]


def final_costs(setting, x, y, seeds, epochs=400, hidden=(8, 8)):
    """Return the cost of each seed after some epochs, inf where it diverged."""
    population = Population(4, layers(*hidden), members=seeds, seed=0)
    with warnings.catch_warnings(), Training(population, x, y) as training:
        warnings.simplefilter("ignore")  # divergence is counted
        training.run(epochs, optimizer(*setting, samples=len(x)), record_every=epochs)
        return np.where(training.diverged, np.inf, training.cost())


def row(label, found, theirs=""):
    low, high = found.interval
    return (
        label,
        f"{np.median(found.cost_b):.4f}",
        f"{found.ratio:.4f} ({low:.4f} to {high:.4f})",
        f"{found.improved:.0%}",
        found.diverged[1],
        {"b is better": "better", "a is better": "worse"}.get(found.verdict, found.verdict),
        theirs,
    )


HEAD = [
    "[eta lambda mu]",
    "median cost",
    "cost over that of [0.2 0 0], 95 %",
    "lower on",
    "diverged",
    "verdict",
    "the article",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    seeds = parser.parse_args().seeds
    report = Report("seeds", f"The articles' settings on {seeds} seeds")

    started = time.perf_counter()
    x, y = data(0)
    base = final_costs(BASE, x, y, seeds)
    found = {setting: compared(base, final_costs(setting, x, y, seeds)) for setting in COLUMNS}
    seconds = time.perf_counter() - started
    report(
        "## The columns of part 16's table: 4-8-8-1, 10 000 samples, 400 epochs",
        "",
        f"All three columns on {seeds} seeds took {seconds:.0f} s. [0.2 0 0] itself: median cost {np.median(base):.4f}, the "
        f"middle 80 % from {np.percentile(base, 10):.4f} to {np.percentile(base, 90):.4f}; the article's one network 0.062.",
        "",
    )
    theirs = {COLUMNS[0]: "0.094: a little slower", COLUMNS[1]: "0.005: far faster"}
    report.table(HEAD, [row(list(setting), one, theirs[setting]) for setting, one in found.items()])

    x, y = data(2, 2000)
    base = final_costs(BASE, x, y, seeds)
    wider = {setting: compared(base, final_costs(setting, x, y, seeds)) for setting in [*MOMENTA, *DECAYS]}
    report("## What momentum and decay really do: the same on 2000 samples (their lambda, divided by 2000)", "")
    report.table(HEAD[:-1], [row(list(setting), one)[:-1] for setting, one in wider.items()])

    report("## Learning rate 0.3 on 4-32-16-1, 100 epochs, 2000 samples", "")
    rows = []
    for initializer in ("article", "glorot"):
        for decay in (0, 0.9, 90):
            population = Population(4, layers(32, 16, initializer=initializer), members=seeds, seed=0)
            with warnings.catch_warnings(), Training(population, x, y) as training:
                warnings.simplefilter("ignore")
                history = training.run(100, optimizer(0.3, decay, samples=len(x)), record_every=100)
                costs = np.where(training.diverged, np.inf, training.cost())
            rows.append(
                (
                    initializer,
                    decay,
                    f"{(costs > 1).mean():.1%}",
                    f"{len(history.diverged) / seeds:.1%}",
                    f"{np.median(costs):.3g}",
                )
            )
    report.table(
        ["initial weights", "lambda", "ran away (cost over 1)", "left the finite numbers", "median cost"], rows
    )

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    shown = {**found, **wider}
    for height, one in enumerate(reversed(shown.values())):
        low, high = one.interval
        finite = np.clip([low, one.ratio, high], 1e-3, 1e3)
        color = {"b is better": "C2", "a is better": "C3"}.get(one.verdict, "gray")
        axes.plot(finite[[0, 2]], [height, height], color=color, lw=3)
        axes.plot(finite[1], height, "o", color=color)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(shown)), [str(list(setting)) for setting in reversed(shown)])
    axes.set(xscale="log", xlabel=f"cost over that of [0.2, 0, 0] after 400 epochs, median of {seeds} pairs, 95 %")
    figure.savefig(RESULTS / "seeds.png", dpi=120)
    report.write()


if __name__ == "__main__":
    main()
