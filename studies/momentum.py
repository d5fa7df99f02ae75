"""The experiments of the article on momentum (part 16), beside its figures, and the sign of its bias step.

python studies/momentum.py              # about two minutes; writes studies/results/momentum.md and a picture
python studies/momentum.py --quick      # without the run of 100 000 epochs and with 100 seeds
"""

import argparse
import time

import numpy as np
from articles import RESULTS, Report, data, layers, optimizer, published_update

from schuss import SGD, Network, Population, Training
from schuss.engines import cpu
from schuss.resources import available_threads

THEIRS = {
    (0.2, 0, 0): (0.112, 0.107, 0.101, 0.097, 0.091, 0.084, 0.075, 0.062),
    (0.2, 0.02, 0): (0.111, 0.111, 0.109, 0.107, 0.105, 0.103, 0.100, 0.094),
    (0.2, 0.02, 0.01): (0.106, 0.101, 0.094, 0.082, 0.059, 0.027, 0.008, 0.005),
}


def curves(settings, x, y, seeds):
    """Return {setting: costs (8, seeds)} after every 50 of 400 epochs, each setting from the same seeds."""
    found = {}
    for setting in settings:
        population = Population(4, layers(8, 8), members=seeds, seed=0)
        with Training(population, x, y) as training:
            found[setting] = np.stack([(training.run(50, optimizer(*setting)), training.cost())[1] for _ in range(8)])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the run of 100 000 epochs and with 100 seeds")
    quick = parser.parse_args().quick
    seeds = 100 if quick else 1000
    report = Report("momentum", "Momentum (part 16), corrected")
    x, y = data(0)
    held_x, held_y = data(1)

    report("## 4-32-16-1, run on and on", "")
    rows, network = [], Network(4, layers(32, 16), seed=4)
    with Training(network, x, y) as training:
        for epochs, setting, theirs in (
            (50, (0.05, 0.1, 0.1), "0.1, and the same on unseen data"),
            (1000, (0.05, 0.1, 0.1), ""),
            (4000, (0.01, 0.01, 0.1), ""),
        ):
            training.run(epochs, optimizer(*setting))
            rows.append(
                (epochs, list(setting), f"{training.cost():.4g}", f"{training.cost(held_x, held_y):.4g}", theirs)
            )
    report.table(["epochs more", "[eta lambda mu]", "cost", "cost on unseen data", "the article"], rows)

    report("## 4-8-8-1: cost after every 50 epochs", "")
    started = time.perf_counter()
    found = curves(THEIRS, x, y, seeds)
    report(
        f"The article trained one network for each column; ours are medians of {seeds} seeds, the same for each column, with "
        f"the range of the middle 80 % in brackets. It took {time.perf_counter() - started:.0f} s.",
        "",
    )
    rows = []
    for number, epoch in enumerate(range(50, 401, 50)):
        row = [epoch]
        for setting, costs in found.items():
            low, middle, high = np.percentile(costs[number], (10, 50, 90))
            row += [f"{THEIRS[setting][number]:.3f}", f"{middle:.3f} ({low:.3f} to {high:.3f})"]
        rows.append(row)
    head = ["epoch"]
    for setting in THEIRS:
        head += [f"{list(setting)}, article", "ours"]
    report.table(head, rows)
    plain, decayed, moved = (found[setting][-1] for setting in THEIRS)
    report(
        f"Paired by seed, after 400 epochs: lambda 0.02 changes the cost by a median of "
        f"{np.median(np.abs(decayed - plain)):.1e}, mu 0.01 by {np.median(np.abs(moved - decayed)):.1e}; "
        f"between seeds it ranges over {np.percentile(plain, 90) - np.percentile(plain, 10):.1e}. "
        "The article's columns differ by luck.",
        "",
    )

    report("## The sign of the bias step", "")
    report("4-8-8-1, Glorot weights, 2000 samples, [0.2 0.02 0.9], 400 epochs, 8 seeds; plain NumPy in float64.", "")
    few_x, few_y = data(2, 2000)
    networks = [Network(4, layers(8, 8, initializer="glorot"), seed=seed, dtype="float64") for seed in range(8)]
    rows = []
    for label, sign in (("as published, b <- b - (eta/n) sum delta with z = W a - b", +1), ("turned round", -1)):
        costs = [published_update(network, few_x, few_y, 400, 0.2, 0.02, 0.9, sign)[0][-1] for network in networks]
        rows.append((label, f"{np.median(costs):.3g}", f"{np.min(costs):.3g}", f"{np.max(costs):.3g}"))
    ours = []
    for network in networks:
        with Training(network, few_x, few_y) as training:
            training.run(400, SGD(0.2, 0.02 / 2000, 0.9, bias_momentum=False))
            ours.append(training.cost())
    rows.append(("schuss", f"{np.median(ours):.3g}", f"{np.min(ours):.3g}", f"{np.max(ours):.3g}"))
    report.table(["update", "median cost", "least", "most"], rows)

    report("## Times and long runs, [0.2 0.1 0.4]", "")
    rows = []
    runs = [(4000, "7599 ms (i7-4790K), 1396 ms (GTX 1080 Ti), cost 0.003")]
    runs += [] if quick else [(100_000, "33 750 ms (GTX 1080 Ti), cost 0.00006")]
    for epochs, theirs in runs:
        network = Network(4, layers(32, 16), seed=4)
        with Training(network, x, y) as training:
            started = time.perf_counter()
            training.run(epochs, optimizer(0.2, 0.1, 0.4), record_every=epochs)
            seconds = time.perf_counter() - started
            rows.append((epochs, f"{seconds * 1e3:.0f} ms", f"{training.cost():.2g}", theirs))
    report.table(["epochs", f"schuss, {available_threads()} threads, {cpu.level()}", "cost", "the article"], rows)

    report("## What momentum and decay cost", "")
    report(
        f"4-32-16-1: {price(x, y):.2%} more time for an epoch with both than with neither (median of paired turns).", ""
    )

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.8), layout="constrained")
    epochs = np.arange(50, 401, 50)
    for (setting, costs), color in zip(found.items(), ("C0", "C1", "C2"), strict=True):
        low, middle, high = np.percentile(costs, (10, 50, 90), axis=1)
        axes.plot(epochs, middle, color=color, label=f"{list(setting)}: median of {seeds} seeds")
        axes.fill_between(epochs, low, high, color=color, alpha=0.15, lw=0)
        axes.plot(epochs, THEIRS[setting], "o--", color=color, ms=4, label="the article's one network")
    axes.set(xlabel="epoch", ylabel="cost", yscale="log")
    axes.legend(fontsize=8)
    figure.savefig(RESULTS / "momentum.png", dpi=120)
    report.write()


def price(x, y):
    """Return the relative cost of momentum and decay: the median over turns, each pair in turn."""
    ratios = []
    with Training(Network(4, layers(32, 16), seed=1), x, y) as training:
        for _ in range(31):
            times = []
            for setting in ((0.01, 0, 0), (0.01, 0.1, 0.4)):
                started = time.perf_counter()
                training.run(200, optimizer(*setting), record_every=200)
                times.append(time.perf_counter() - started)
            ratios.append(times[1] / times[0])
    return float(np.median(ratios)) - 1


if __name__ == "__main__":
    main()
