"""The articles' network, 4-32-16-1 on 10 000 samples in full batches, beside PyTorch, JAX and scikit-learn.

Each peer is written as its own documentation recommends: PyTorch eager with MSELoss and optim.SGD; JAX with the whole loop
over epochs inside jax.jit, its buffers donated; scikit-learn's MLPRegressor with solver="sgd", which knows one activation
for all hidden layers. They take turns, all in one process, and the median of the turns counts.

    python benchmarks/articles_network.py            # prints the table, and writes it to benchmarks/results/
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

from schuss import SGD, Dense, Network, Training
from schuss.engines import cpu
from schuss.resources import available_threads

SIZES, SAMPLES = (4, 32, 16, 1), 10_000
RATE, DECAY, MOMENTUM = 0.2, 1e-5, 0.4
RESULT = Path(__file__).parent / "results" / "articles_network_cpu.md"


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((SAMPLES, 4), np.float32)
    return x, np.sin(x[:, 0]) + np.cos(x[:, 1]) + np.tanh(x[:, 2]) + x[:, 3] ** 2


def network() -> Network:
    return Network(4, [Dense(32, "sigmoid"), Dense(16, "tanh"), Dense(1)], seed=1)


def with_schuss(x, y, threads) -> Callable[[int], None]:
    training = Training(network(), x, y, threads=threads)
    return lambda epochs: training.run(epochs, SGD(RATE, DECAY, MOMENTUM), record_every=epochs) and None


def with_torch(x, y, threads) -> Callable[[int], None]:
    import torch

    torch.set_num_threads(threads)
    layers = [
        torch.nn.Linear(4, 32),
        torch.nn.Sigmoid(),
        torch.nn.Linear(32, 16),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 1),
    ]
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    loss_function = torch.nn.MSELoss()
    tx, ty = torch.from_numpy(x), torch.from_numpy(y[:, None])

    def run(epochs: int) -> None:
        for _ in range(epochs):
            optimizer.zero_grad()
            loss_function(net(tx), ty).backward()
            optimizer.step()

    return run


def with_jax(x, y, threads) -> Callable[[int], None]:
    del threads  # JAX takes all cores; on the machines measured that is the number the others were given
    import jax
    import jax.numpy as jnp

    jx, jy = jnp.asarray(x), jnp.asarray(y[:, None])
    start = [(jnp.asarray(layer.weights.T), jnp.asarray(layer.bias)) for layer in network().layers]

    def cost(parameters):
        (W1, b1), (W2, b2), (W3, b3) = parameters
        a = jnp.tanh(jax.nn.sigmoid(jx @ W1 + b1) @ W2 + b2) @ W3 + b3
        return 0.5 * jnp.mean(jnp.square(a - jy))

    def epoch(_, state):
        parameters, velocity = state
        gradient = jax.grad(cost)(parameters)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v - RATE * g, velocity, gradient)
        return jax.tree.map(lambda p, v: (1 - RATE * DECAY) * p + v, parameters, velocity), velocity

    loop = jax.jit(lambda state, epochs: jax.lax.fori_loop(0, epochs, epoch, state), donate_argnums=0)
    state = (start, jax.tree.map(jnp.zeros_like, start))

    def run(epochs: int) -> None:
        nonlocal state
        state = jax.block_until_ready(loop(state, epochs))

    return run


def with_sklearn(x, y, threads) -> Callable[[int], None]:
    del threads  # its matrix products take what BLAS takes
    from sklearn.neural_network import MLPRegressor

    def run(epochs: int) -> None:
        model = MLPRegressor(
            hidden_layer_sizes=SIZES[1:-1],
            activation="tanh",
            solver="sgd",
            alpha=0,
            batch_size=SAMPLES,
            learning_rate_init=RATE,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            max_iter=epochs,
            tol=0,
            n_iter_no_change=10**9,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "maximum iterations reached" is what we ask for
            model.fit(x, y)

    return run


def measure(turns: int, seconds: float) -> tuple[dict[str, list[float]], float]:
    """Return milliseconds an epoch of every turn of every peer, and the FMA peak measured between the turns."""
    x, y = data()
    threads = available_threads()
    makers = {
        "schuss": with_schuss,
        "PyTorch eager": with_torch,
        "JAX, jitted loop": with_jax,
        "scikit-learn": with_sklearn,
    }
    runs, epochs = {}, {}
    for name, make in makers.items():
        runs[name] = make(x, y, threads)
        runs[name](20)  # compile, warm up
        before = time.perf_counter()
        runs[name](20)
        epochs[name] = max(20, int(20 * seconds / (time.perf_counter() - before)))
    times = {name: [] for name in runs}
    peaks = []
    for _ in range(turns):
        peaks.append(cpu.fma_peak(np.dtype(np.float32), threads))
        for name, run in runs.items():
            before = time.perf_counter()
            run(epochs[name])
            times[name].append((time.perf_counter() - before) / epochs[name] * 1e3)
    return times, statistics.median(peaks)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def table(times: dict[str, list[float]], peak: float) -> str:
    versions = {"schuss": "schuss", "PyTorch eager": "torch", "JAX, jitted loop": "jax", "scikit-learn": "scikit-learn"}
    ours = statistics.median(times["schuss"])
    products = [fan_in * fan_out for fan_in, fan_out in pairwise(SIZES)]
    share = 2 * SAMPLES * (3 * sum(products) - products[0]) / (ours * 1e-3) / peak
    rows = [
        f"| {name} {version(versions[name])} | {middle:.3f} | {min(t):.3f} | {middle / ours:.1f} |"
        for name, t in times.items()
        for middle in [statistics.median(t)]
    ]
    return "\n".join([
        "# The articles' network, 4-32-16-1, 10 000 samples, full batch, float32", "",
        f"{date.today()}, {processor()}, {available_threads()} threads, instruction set {cpu.level()}, "
        f"Python {platform.python_version()}; `python benchmarks/articles_network.py`", "",
        "| | ms an epoch, median | fastest turn | times schuss |", "|---|---|---|---|", *rows, "",
        f"FMA peak measured between the turns: {peak / 1e9:.0f} GFLOP/s; the products of schuss reach {share:.0%} of it, "
        "the rest goes to sigmoid, tanh and memory.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    text = table(*measure(options.turns, options.seconds))
    print(text)
    RESULT.write_text(text)
