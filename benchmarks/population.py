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
from peers import DECAY, MOMENTUM, versions, with_torch

from schuss import SGD, Dense, Population, Training
from schuss.engines import cpu
from schuss.limits import Case
from schuss.resources import available_threads

RESULT = Path(__file__).parent / "results" / "population.md"
TURNS, SECONDS = 5, 1.0


def rates(members):
    return np.geomspace(0.001, 0.1, members)


def with_schuss(case, members, x, y, threads=None):
    population = Population(case.inputs, case.layers, members=members, seed=0)
    training = Training(population, x, y, batch_size=case.batch_size, threads=threads)
    return lambda epochs: training.run(epochs, SGD(rates(members), DECAY, MOMENTUM), record_every=epochs)


def with_jax(case, members, x, y):
    """All members by jax.vmap, the whole loop inside jax.jit, buffers donated; the same batches for all."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    jx, jy = jnp.asarray(x), jnp.asarray(y)
    population = Population(case.inputs, case.layers, members=members, seed=0)
    parts = [[(layer.weights.T, layer.bias) for layer in network.layers] for network in population]
    start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    rate = jnp.asarray(rates(members), jnp.float32)

    def cost(parameters, inputs, targets):
        a = inputs
        for number, (W, b) in enumerate(parameters):
            a = a @ W + b
            if number < len(parameters) - 1:
                a = jnp.tanh(a)
        return 0.5 * jnp.mean(jnp.sum(jnp.square(a - targets), axis=1))

    def member_step(parameters, velocity, eta, inputs, targets):
        gradient = jax.grad(cost)(parameters, inputs, targets)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v - eta * g, velocity, gradient)
        return jax.tree.map(lambda p, v: (1 - eta * DECAY) * p + v, parameters, velocity), velocity

    all_members = jax.vmap(member_step, in_axes=(0, 0, 0, None, None))

    def epoch(_, carried):
        state, key = carried
        if case.batch_size is None:
            return all_members(*state, rate, jx, jy), key
        key, now = jax.random.split(key)
        whole = case.samples // case.batch_size
        rows = jax.random.permutation(now, case.samples)[: whole * case.batch_size].reshape(whole, case.batch_size)
        return jax.lax.scan(lambda s, r: (all_members(*s, rate, jx[r], jy[r]), None), state, rows)[0], key

    loop = jax.jit(lambda carried, epochs: jax.lax.fori_loop(0, epochs, epoch, carried), donate_argnums=0)
    carried = ((start, jax.tree.map(jnp.zeros_like, start)), jax.random.key(0))

    def run(epochs):
        nonlocal carried
        carried = jax.block_until_ready(loop(carried, epochs))

    return run


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
