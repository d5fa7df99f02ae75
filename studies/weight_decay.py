"""The experiments of the article on weight decay (part 15), beside its figures: weights that run away, and what holds them.

python studies/weight_decay.py            # ten seconds; writes studies/results/weight_decay.md and a picture
"""

import time
import warnings

import numpy as np
from articles import RESULTS, Report, data, largest, layers, optimizer, published_update

from schuss import Network, Population, Training
from schuss.engines import cpu
from schuss.resources import available_threads

SEEDS = 200


def run_away(x, y):
    """Return (label, largest weight of each network, final costs) for each way to train 20 epochs at rate 0.3."""
    rows = []
    shape = layers(32, 16)
    networks = [Network(4, shape, seed=seed) for seed in range(30)]
    for decay in (0, 0.9):
        for sign, label in ((+1, "published update"), (-1, "bias step turned round")):
            found = [published_update(network, x[:2000], y[:2000], 20, 0.3, decay, 0, sign) for network in networks]
            weights = [max(np.abs(w).max() for w in W) for _, W in found]
            rows.append((f"{label}, lambda {decay}", weights, [costs[-1] for costs, _ in found]))
        population = Population(4, shape, members=SEEDS, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # divergence is what is counted
            with Training(population, x, y) as training:
                training.run(20, optimizer(0.3, decay))
                costs = training.cost()
        weights = [max(np.abs(layer.weights).max() for layer in network.layers) for network in population]
        rows.append((f"schuss, lambda {decay}", weights, costs))
    return rows


def first_that_stays(x, y):
    """Return the first seed whose network is not lost after 20 epochs of [0.3 0.9]."""
    population = Population(4, layers(32, 16), seed=range(20))
    with warnings.catch_warnings(), Training(population, x, y) as training:
        warnings.simplefilter("ignore")
        training.run(20, optimizer(0.3, 0.9))
        return int(np.flatnonzero(training.cost() < 1)[0])


def main():
    report = Report("weight_decay", "Weight decay (part 15), corrected")
    x, y = data(0)
    held_x, held_y = data(1)

    report("## Learning rate 0.3, 20 epochs, 4-32-16-1, the articles' initial weights", "")
    report("The article: the cost beyond one million, largest weights 950, 754 and 394; with lambda 0.9 below 1.", "")
    found = run_away(x, y)
    report.table(
        ["update", "networks", "median cost", "worst cost", "median largest weight", "worst", "ran away (cost over 1)"],
        [
            (
                label,
                len(costs),
                f"{np.median(costs):.3g}",
                f"{np.max(costs):.3g}",
                f"{np.median(weights):.3g}",
                f"{np.max(weights):.3g}",
                f"{np.mean(~(np.asarray(costs) < 1)):.0%}",
            )
            for label, weights, costs in found
        ],
    )

    report("## One network under decay: [0.3 0.9], run on and on", "")
    seed = first_that_stays(x, y)
    report(
        f"Seed {seed} is the first that does not run away: the article, too, tells its reader to create the network again.",
        "",
    )
    network = Network(4, layers(32, 16), seed=seed)
    published = {
        20: "0.634, 0.191, 0.604",
        170: "0.679, 0.473, 0.730",
        1170: "1.09, 1.32, 1.26",
        2170: "1.07, 1.31, 1.29",
    }
    rows, done = [], 0
    with Training(network, x, y) as training:
        for end, theirs in published.items():
            training.run(end - done, optimizer(0.3, 0.9))
            done = end
            rows.append(
                (end, f"{training.cost():.4g}", f"{training.cost(held_x, held_y):.4g}", largest(network), theirs)
            )
    report.table(["epochs", "cost", "cost on unseen data", "largest weights", "the article's"], rows)

    report("## Times", "")
    rows = []
    for epochs, setting, theirs in (
        (1000, (0.1, 0.01), "5940 ms (i7-4790K)"),
        (4000, (0.1, 0.01), "1496 ms (GTX 1080 Ti)"),
    ):
        network = Network(4, layers(32, 16), seed=seed)
        with Training(network, x, y) as training:
            training.run(10, optimizer(*setting))
            started = time.perf_counter()
            training.run(epochs, optimizer(*setting), record_every=epochs)
            rows.append((epochs, list(setting), f"{(time.perf_counter() - started) * 1e3:.0f} ms", theirs))
    report.table(
        ["epochs", "[eta lambda]", f"schuss, {available_threads()} threads, {cpu.level()}", "the article"], rows
    )

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    bins = np.geomspace(0.1, 1e6, 60)
    for (label, weights, _), color in zip(found[:3], ("C3", "C1", "C0"), strict=True):
        axes.hist(
            np.clip(weights, 0.1, 1e6),
            bins,
            weights=np.full(len(weights), 1 / len(weights)),
            alpha=0.6,
            label=label,
            color=color,
        )
    axes.set(xscale="log", xlabel="largest weight after 20 epochs at learning rate 0.3", ylabel="share of networks")
    axes.legend()
    figure.savefig(RESULTS / "weight_decay.png", dpi=120)
    report.write()


if __name__ == "__main__":
    main()
