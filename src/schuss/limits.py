"""How near training comes to what this machine can do: measured peaks, the floor they set, and the share reached."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from schuss.engines import cpu
from schuss.layers import Dense
from schuss.network import Network
from schuss.optimizers import SGD
from schuss.training import Training


@dataclass(frozen=True)
class Case:
    """A network and how it is trained; ``batch_size`` None means all samples."""

    inputs: int
    layers: tuple[Dense, ...]
    samples: int
    batch_size: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """d0..dL."""
        return (self.inputs, *(layer.units for layer in self.layers))

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.samples // (self.batch_size or self.samples))

    @property
    def operations(self) -> int:
        """Floating-point operations of the matrix products of an epoch: the first layer has no backward product."""
        weights = [fan_in * fan_out for fan_in, fan_out in zip(self.sizes, self.sizes[1:], strict=False)]
        return 2 * self.samples * (3 * sum(weights) - weights[0])

    def network(self) -> Network:
        """Return such a network."""
        return Network(self.inputs, self.layers, seed=0)


CASES = (
    Case(4, (Dense(32, "sigmoid"), Dense(16, "tanh"), Dense(1)), 10_000),  # the articles'
    Case(16, (Dense(64, "tanh"), Dense(64, "tanh"), Dense(4)), 2048),
    Case(16, (Dense(256, "tanh"), Dense(256, "tanh"), Dense(4)), 2048),
    Case(20, (Dense(256, "relu"), Dense(256, "relu"), Dense(1)), 10_000, 256),
)


@dataclass(frozen=True)
class Floor:
    """The least seconds an epoch can take: its parts do not overlap, so some machines may beat it a little."""

    products: float
    activations: float
    memory: float
    barriers: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.products + self.activations + self.memory + self.barriers


def floor(case: Case, dtype: np.dtype[Any], threads: int, peak: float) -> Floor:
    """Return the floor of an epoch: operations over the FMA ``peak``, activations at their own measured rate, the bytes of
    the data over the memory's bandwidth if they exceed 16 MB (fewer stay in a cache), and two barriers a step."""
    activations = sum(
        case.samples * layer.units / cpu.activation_rate(layer.activation, dtype, threads)
        for layer in case.layers
        if layer.activation.name != "linear"
    )
    data = case.samples * (case.inputs + case.layers[-1].units) * dtype.itemsize
    return Floor(
        products=case.operations / peak,
        activations=activations,
        memory=data / cpu.read_bandwidth(threads) if data > 16e6 else 0.0,
        barriers=2 * case.steps * cpu.barrier_seconds(threads),
    )


@dataclass(frozen=True)
class Reached:
    """What training a case took, beside its floor and the FMA peak measured around it."""

    case: Case
    seconds: float
    floor: Floor
    peak: float

    @property
    def rate(self) -> float:
        """FLOP/s of the matrix products."""
        return self.case.operations / self.seconds

    def row(self) -> tuple[str, ...]:
        """Return the cells under ``COLUMNS``."""
        case = self.case
        return (
            "-".join(map(str, case.sizes)),
            f"{case.samples}",
            f"{case.batch_size or 'full'}",
            f"{self.seconds * 1e3:.3f}",
            f"{self.rate / self.peak:.0%}",
            f"{self.floor.total / self.seconds:.0%}",
            f"{self.floor.total * 1e3:.3f}",
            f"{self.floor.products * 1e3:.3f}",
            f"{self.floor.activations * 1e3:.3f}",
            f"{self.floor.memory * 1e3:.3f}",
            f"{self.floor.barriers * 1e3:.3f}",
        )


COLUMNS = (
    *("network", "samples", "batch", "ms an epoch", "of peak", "of floor"),
    *("floor, ms", "products", "activations", "memory", "barriers"),
)
EXPLANATION = """\
of peak: the matrix products' share of the rate of fused multiply-adds. floor: those products at that rate, the activations at
their own measured rate, the data's bytes over the bandwidth, and the barriers; of floor: its share of the time."""


def measure(case: Case, dtype: np.dtype[Any], threads: int, seconds: float) -> Reached:
    """Train a case for about ``seconds``, in short turns, and return the median beside the peak measured between them."""
    rng = np.random.default_rng(0)
    x = rng.random((case.samples, case.inputs)).astype(dtype)
    y = rng.random((case.samples, case.layers[-1].units)).astype(dtype)
    network = Network(case.inputs, case.layers, seed=0, dtype=dtype.name)
    optimizer = SGD(1e-3, 1e-6, 0.9)
    times: list[float] = []
    peaks: list[float] = []
    with Training(network, x, y, engine="cpu", batch_size=case.batch_size, threads=threads) as training:
        started = time.perf_counter()
        training.run(1, optimizer)
        epochs = max(1, int(seconds / 10 / (time.perf_counter() - started)))
        while time.perf_counter() - started < seconds or not times:
            peaks.append(cpu.fma_peak(dtype, threads, 0.02))
            before = time.perf_counter()
            training.run(epochs, optimizer, record_every=epochs)
            times.append((time.perf_counter() - before) / epochs)
    peak = float(np.median(peaks))
    return Reached(case, float(np.median(times)), floor(case, dtype, threads, peak), peak)
