"""Adam on mini-batches beside scikit-learn and PyTorch, for regression and classification; and what it costs over plain SGD.

All in one process, taking turns; the median of the turns counts. Writes a table to benchmarks/results/adam.md.

    python benchmarks/adam.py                       # about three minutes
"""

import argparse
import platform
import statistics
import time
import warnings
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
from cpu import RESULTS, processor

from schuss import SGD, Adam, Dense, Network, Training
from schuss.engines import cpu
from schuss.resources import available_threads

RATE, SEEDS = 1e-3, 10
PAUSE = (
    0.5  # seconds before a turn: threads of some peers spin on when their work is done, and our steps are microseconds
)


@dataclass(frozen=True)
class Job:
    title: str
    hidden: tuple[int, ...]
    batch: int
    x: np.ndarray
    y: np.ndarray  # labels for classification, (n,), else numbers (n,)

    @property
    def classes(self):
        return int(self.y.max()) + 1 if self.y.dtype.kind == "i" else 0

    def network(self, seed=0):
        last = Dense(self.classes, "softmax") if self.classes else Dense(1)
        return Network(self.x.shape[1], [*(Dense(units, "relu") for units in self.hidden), last], seed=seed)

    @property
    def cost(self):
        return "cross_entropy" if self.classes else "quadratic"


def with_schuss(job):
    training = Training(job.network(), job.x, job.y, cost=job.cost, l2=1e-4, batch_size=job.batch)
    return lambda epochs: training.run(epochs, Adam(RATE), record_every=epochs)


def with_torch(job):
    import torch

    torch.set_num_threads(available_threads())
    sizes = (job.x.shape[1], *job.hidden, job.classes or 1)
    layers = []
    for fan_in, units in pairwise(sizes):
        layers += [torch.nn.Linear(fan_in, units), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    loss = torch.nn.CrossEntropyLoss() if job.classes else torch.nn.MSELoss()
    tx, ty = torch.from_numpy(job.x), torch.from_numpy(job.y if job.classes else job.y[:, None])

    def run(epochs):
        for _ in range(epochs):
            for rows in torch.randperm(len(tx)).split(job.batch):
                optimizer.zero_grad()
                loss(net(tx[rows]), ty[rows]).backward()
                optimizer.step()

    return run


def sklearn_model(job, **options):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPClassifier if job.classes else MLPRegressor
    return kind(hidden_layer_sizes=job.hidden, batch_size=job.batch, learning_rate_init=RATE, **options)


def with_sklearn(job):
    def run(epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "maximum iterations reached" is what we ask for
            sklearn_model(job, max_iter=epochs, tol=0, n_iter_no_change=10**9).fit(job.x, job.y)

    return run


PEERS = {"schuss": with_schuss, "PyTorch eager": with_torch, "scikit-learn": with_sklearn}


def measure(makers, turns, seconds):
    """Return the median milliseconds an epoch of each run(epochs), taking turns."""
    epochs, times = {}, {name: [] for name in makers}
    for name, run in makers.items():
        run(2)
        before = time.perf_counter()
        run(2)
        epochs[name] = max(2, int(2 * seconds / (time.perf_counter() - before)))
    for _ in range(turns):
        for name, run in makers.items():
            time.sleep(PAUSE)
            before = time.perf_counter()
            run(epochs[name])
            times[name].append((time.perf_counter() - before) / epochs[name] * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target.astype(np.int64)


def accuracies():
    """Return the test accuracies on digits, (SEEDS,) of schuss and of scikit-learn, trained alike: 200 epochs of Adam."""
    from sklearn.model_selection import train_test_split

    x, y = digits()
    ours, theirs = [], []
    for seed in range(SEEDS):
        xt, xh, yt, yh = train_test_split(x, y, test_size=0.25, random_state=seed, stratify=y)
        job = Job("", (100,), 200, xt, yt)
        network = job.network(seed)
        with Training(network, xt, yt, cost=job.cost, l2=1e-4, batch_size=200, seed=seed) as training:
            training.run(200, Adam(RATE), record_every=200)
        ours.append((network(xh).argmax(axis=1) == yh).mean())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = sklearn_model(job, max_iter=200, tol=0, n_iter_no_change=10**9, random_state=seed).fit(xt, yt)
        theirs.append(model.score(xh, yh))
    return np.array(ours), np.array(theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x4, x20 = rng.random((10_000, 4), np.float32), rng.random((10_000, 20), np.float32)
    jobs = [
        Job(
            "regression, scikit-learn's defaults: 4-100-1, 10 000 samples, batch 200",
            (100,),
            200,
            x4,
            np.sin(x4.sum(1)),
        ),
        Job("regression, 20-256-256-1, 10 000 samples, batch 256", (256, 256), 256, x20, np.sin(x20.sum(1))),
        Job("digits: 64-100-10, 1797 samples, batch 200", (100,), 200, *digits()),
    ]
    lines = [
        "# Adam on mini-batches, float32",
        "",
        f"{date.today()}, {processor()}, {available_threads()} threads, {cpu.level()}, Python {platform.python_version()}; "
        "`python benchmarks/adam.py`. Milliseconds an epoch, medians of turns; in brackets, times that of schuss.",
        "",
        "| job | schuss | PyTorch eager | scikit-learn |",
        "|---|---|---|---|",
    ]
    for job in jobs:
        found = measure({name: make(job) for name, make in PEERS.items()}, options.turns, options.seconds)
        cells = [f"{found[name]:.2f} ({found[name] / found['schuss']:.1f} x)" for name in list(PEERS)[1:]]
        lines.append(f"| {job.title} | {found['schuss']:.3f} | {cells[0]} | {cells[1]} |")
        print(lines[-1], flush=True)
    ours, theirs = accuracies()
    difference = ours - theirs
    lines += [
        "",
        f"Test accuracy on digits, {SEEDS} splits and seeds, 200 epochs each: schuss {ours.mean():.4f}, scikit-learn "
        f"{theirs.mean():.4f}; difference {difference.mean():+.4f} (standard error "
        f"{difference.std(ddof=1) / SEEDS**0.5:.4f}).",
    ]
    training = Training(jobs[1].network(), x20, jobs[1].y, batch_size=256)
    ways = {
        "SGD": SGD(0.01),
        "SGD, momentum": SGD(0.01, momentum=0.9),
        "Adam": Adam(RATE),
        "Adam, clipped": Adam(clip_norm=1.0),
    }
    runs = {
        name: (lambda epochs, way=way: training.run(epochs, way, record_every=epochs)) for name, way in ways.items()
    }
    found = measure(runs, options.turns, options.seconds)
    shares = ", ".join(f"{name} {found[name]:.2f} ms ({found[name] / found['SGD'] - 1:+.1%})" for name in ways)
    lines += ["", f"Optimizers on 20-256-256-1, batch 256, an epoch: {shares}.", ""]
    print("\n".join(lines[-4:]))
    (RESULTS / "adam.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
