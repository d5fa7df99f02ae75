"""The engines for CPU, CUDA and OpenCL side by side, with PyTorch and JAX on the same device.

All in one process, taking turns; medians. Without an NVIDIA GPU the peers run on the processor, as OpenCL may do,
and the table says so. Writes benchmarks/results/device_NAME.md.

    python benchmarks/device.py            # all cases
    python benchmarks/device.py --quick    # small ones, for machines without a GPU
"""

import argparse
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
import peers
import population
from cpu import PAUSE, processor

from schuss import Dense, EngineError, list_engines
from schuss.engines import cuda, opencl
from schuss.limits import Case
from schuss.resources import available_threads

RESULTS = Path(__file__).parent / "results"
ARTICLES = (Dense(32, "sigmoid"), Dense(16, "tanh"), Dense(1))


def engines():
    """Return the engines that are there, CPU first."""
    return [info.name for info in list_engines() if info.available and info.name != "reference"]


def networks(quick):
    """Yield the cases of one network."""
    yield "4-32-16-1, full batch", Case(4, ARTICLES, 1000 if quick else 10_000)
    yield "4-32-16-1, batches of 250", Case(4, ARTICLES, 1000 if quick else 10_000, 250)
    for units in (32, 128) if quick else (32, 64, 128, 256, 512, 1024):
        hidden = Dense(units, "tanh")
        yield f"16-{units}-{units}-4, full batch", Case(16, (hidden, hidden, Dense(4)), 1024 if quick else 65_536)


def makers(case, x, y, gpu):
    """Return what trains a case, by name."""
    found = {engine: lambda engine=engine: peers.with_schuss(case, x, y, engine) for engine in engines()}
    found["PyTorch eager"] = lambda: (peers.with_torch_on_gpu if gpu else peers.with_torch)(case, x, y)
    if gpu:
        found["torch.compile"] = lambda: peers.with_torch_compiled_on_gpu(case, x, y)
        if case.batch_size is None:
            found["PyTorch, CUDA graphs"] = lambda: peers.with_torch_graphs(case, x, y)
    found["JAX, jitted loop"] = lambda: peers.with_jax(case, x, y)
    return found


def measure(found, seconds, turns):
    """Return the median seconds an epoch of each, taking turns, and the spread (highest over lowest)."""
    runs, epochs, times = {}, {}, {}
    for name, make in found.items():
        run = make()
        run(1)  # compiles
        run(2)
        before = time.perf_counter()
        run(2)
        epochs[name] = max(2, int(seconds / ((time.perf_counter() - before) / 2)))
        runs[name], times[name] = run, []
    for _ in range(turns):
        for name, run in runs.items():
            time.sleep(PAUSE)
            before = time.perf_counter()
            run(epochs[name])
            times[name].append((time.perf_counter() - before) / epochs[name])
    return {name: (statistics.median(one), max(one) / min(one)) for name, one in times.items()}


def rows(title, found, members=1):
    """Return the lines of a table: microseconds a member and epoch, and times that of the fastest engine of ours."""
    best = min(found[name][0] for name in engines())
    lines = []
    for name, (seconds, spread) in found.items():
        each = seconds * 1e6 / members
        lines.append(f"| {title} | {name} | {each:.4g} | {seconds / best:.2f} x | {spread:.2f} |")
        print(lines[-1], flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, for machines without a GPU")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="a turn")
    options = parser.parse_args()
    gpu = cuda.is_available()
    os.environ.setdefault("JAX_PLATFORMS", "cuda" if gpu else "cpu")
    rng = np.random.default_rng(0)
    lines = []
    for title, case in networks(options.quick):
        x = rng.random((case.samples, case.inputs), np.float32)
        y = np.repeat(np.sin(x.sum(axis=1, keepdims=True)), case.sizes[-1], axis=1)
        lines += rows(title, measure(makers(case, x, y, gpu), options.seconds, options.turns))
    for layers, members in ((ARTICLES, 64), (ARTICLES, 1000), ((Dense(8, "tanh"), Dense(8, "tanh"), Dense(1)), 1000)):
        case = Case(4, layers, 256 if options.quick else 10_000)
        x = rng.random((case.samples, 4), np.float32)
        y = np.sin(x.sum(axis=1, keepdims=True))
        found = {
            engine: lambda engine=engine, c=case, m=members, x=x, y=y: population.with_schuss(c, m, x, y, engine=engine)
            for engine in engines()
        }
        found["jax.vmap"] = lambda c=case, m=members, x=x, y=y: population.with_jax(c, m, x, y)
        title = f"{members} members of {'-'.join(map(str, case.sizes))}"
        lines += rows(title, measure(found, options.seconds, options.turns), members)
    try:
        opencl_device = opencl.devices()[0]
    except EngineError as error:
        opencl_device = f"none ({error})"
    device = cuda.devices()[0] if gpu else "no GPU was at hand"
    where = "on the GPU" if gpu else "on the processor, PyTorch and JAX too: these figures say nothing of a GPU"
    name = device.split(",")[0].replace(" ", "_").lower() if gpu else "no_gpu"
    (RESULTS / f"device_{name}.md").write_text(
        "\n".join([
            "# Engines on a device, float32", "",
            f"{date.today()}; CUDA: {device}; OpenCL: {opencl_device}; {processor()}, {available_threads()} threads, "
            f"Python {platform.python_version()}; {peers.versions(['PyTorch eager', 'JAX, jitted loop'])}; "
            f"`python benchmarks/device.py{' --quick' if options.quick else ''}`.",
            f"Microseconds a member and epoch, medians of {options.turns} turns, {where}; times that of our fastest "
            f"engine; spread: the slowest turn over the fastest.{' Small cases.' if options.quick else ''}", "",
            "| case | who | microseconds | x | spread |", "|---|---|---|---|---|", *lines, "",
        ])
    )  # fmt: skip


if __name__ == "__main__":
    main()
