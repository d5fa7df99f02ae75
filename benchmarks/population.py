"""Many networks at once, each with a learning rate of its own, beside jax.vmap in jax.jit and a loop over PyTorch modules.

All in one process, taking turns; medians, as milliseconds a member and epoch. Writes benchmarks/results/population.md.

    python benchmarks/population.py
"""

import os
import resource
import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
from cpu import PAUSE, processor
from peers import DECAY, MOMENTUM, jax_loop, versions, with_torch

from schuss import SGD, Dense, Population, Training
from schuss.engines import cpu
from schuss.limits import Case
from schuss.resources import available_threads

RESULT = Path(__file__).parent / "results" / "population.md"
TURNS, SECONDS = 5, 1.0


def rates(members):
    return np.geomspace(0.001, 0.1, members)


def with_schuss(case, members, x, y, threads=None, engine="auto"):
    population = Population(case.inputs, case.layers, members=members, seed=0)
    training = Training(population, x, y, batch_size=case.batch_size, threads=threads, engine=engine)
    return lambda epochs: training.run(epochs, SGD(rates(members), DECAY, MOMENTUM), record_every=epochs)


def with_jax(case, members, x, y):
    """All members by jax.vmap; they see the same batches."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    population = Population(case.inputs, case.layers, members=members, seed=0)
    parts = [[(layer.weights.T, layer.bias) for layer in network.layers] for network in population]
    start = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    rate = jax.numpy.asarray(rates(members), jax.numpy.float32)
    return jax_loop(case, x, y, start, rate, together=lambda step: jax.vmap(step, in_axes=(0, 0, 0, None, None)))


def measure(makers):
    """Return the median seconds an epoch of each, taking turns."""
    runs, epochs, times = {}, {}, {}
    for name, make in makers.items():
        runs[name], times[name] = make(), []
        runs[name](1)
        before = time.perf_counter()
        runs[name](1)
        epochs[name] = max(1, int(SECONDS / (time.perf_counter() - before)))
    for _ in range(TURNS):
        for name, run in runs.items():
            time.sleep(PAUSE)
            before = time.perf_counter()
            run(epochs[name])
            times[name].append((time.perf_counter() - before) / epochs[name])
    return {name: statistics.median(found) for name, found in times.items()}


def compare(case, members, with_loop):
    rng = np.random.default_rng(0)
    x = rng.random((case.samples, case.inputs), np.float32)
    y = np.sin(x.sum(axis=1, keepdims=True))
    makers = {
        "schuss": lambda: with_schuss(case, members, x, y),
        "one thread": lambda: with_schuss(case, members, x, y, threads=1),
        "jax.vmap": lambda: with_jax(case, members, x, y),
    }
    if with_loop:  # one module after the other: one stands for all, the rest take as long
        makers["PyTorch loop"] = lambda: with_torch(case, x, y)
    found = measure(makers)
    each = {name: seconds * 1e3 / (1 if name == "PyTorch loop" else members) for name, seconds in found.items()}
    ours = each["schuss"]
    cells = [
        f"{each[name]:.4f} ({each[name] / ours:.1f} x)" if name in each else "" for name in ("jax.vmap", "PyTorch loop")
    ]
    line = (
        f"| {'-'.join(map(str, case.sizes))} | {case.samples} | {case.batch_size or 'full'} | {members} | {ours:.4f} | "
        f"{cells[0]} | {cells[1]} | {each['one thread'] / ours:.2f} x |"
    )
    print(line, flush=True)
    return line


def many():
    """Train 100 000 members of 4-8-8-1 on 1000 samples; return what memory they took."""

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    x = np.random.default_rng(0).random((1000, 4), np.float32)
    y = np.sin(x.sum(axis=1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    population = Population(4, [Dense(8, "tanh"), Dense(8, "tanh"), Dense(1)], members=100_000, seed=0)
    drawn = peak()
    with Training(population, x, y) as training:
        training.run(1, SGD(0.1, momentum=0.9))
        started = time.perf_counter()
        training.run(10, SGD(0.1, momentum=0.9), record_every=10)
        seconds = (time.perf_counter() - started) / 10
    own = population.parameters.nbytes / 2**20
    return (
        f"100 000 members of 4-8-8-1 on 1000 samples: {seconds:.2f} s an epoch; their parameters are {own:.0f} MiB, the "
        f"process grew by {peak() - before:.0f} MiB, {drawn - before:.0f} of them when the first weights were drawn."
    )


def main():
    memory = many()  # first: the peak of memory only grows
    print(memory)
    small = Case(4, (Dense(8, "tanh"), Dense(8, "tanh"), Dense(1)), 10_000)
    wider = Case(16, (Dense(64, "tanh"), Dense(64, "tanh"), Dense(1)), 20_000, 256)
    lines = [compare(small, 64, True), compare(small, 1000, False), compare(wider, 64, True)]
    RESULT.write_text(
        "\n".join([
            "# Populations on the CPU, float32", "",
            f"{date.today()}, {processor()}, {available_threads()} threads, {cpu.level()}; "
            f"{versions(['PyTorch eager', 'JAX, jitted loop'])}; `python benchmarks/population.py`.",
            "Milliseconds a member and epoch, medians of turns; in brackets, times that of schuss. tanh, SGD with "
            "momentum, a learning rate for each member.", "",
            "| network | samples | batch | members | schuss | jax.vmap in jax.jit | PyTorch loop | two threads over one |",
            "|---|---|---|---|---|---|---|---|", *lines, "", memory, "",
        ])
    )  # fmt: skip


if __name__ == "__main__":
    main()
