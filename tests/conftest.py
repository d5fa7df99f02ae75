"""What the tests share: engines, small data sets, central differences."""

import numpy as np
import pytest

from schuss import Dense, EngineError, Network
from schuss.engines import OpenCL, cpu, opencl

LEVELS = cpu.machine_levels()
ENGINES = ["reference", *(f"cpu-{level}" for level in LEVELS), "opencl"]


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run what is marked full: sanitizers and fuzzing")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


def skip_without_opencl():
    try:
        opencl.devices()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(params=ENGINES)
def engine(request, monkeypatch):
    """Every engine, the native one on each instruction set of this machine."""
    name, _, level = request.param.partition("-")
    if name == "opencl":
        skip_without_opencl()
        return OpenCL(path="step")  # that PoCL compiles fastest; test_gpu.py takes every path
    if level:
        monkeypatch.setenv(cpu.LEVEL_VARIABLE, level)
    return name


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Every instruction set of this machine."""
    monkeypatch.setenv(cpu.LEVEL_VARIABLE, request.param)
    return request.param


def data(n, inputs, outputs, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, inputs))
    y = np.stack([np.sin((k + 1) * x.sum(axis=1)) for k in range(outputs)], axis=1)
    return x.astype(dtype), y.astype(dtype)


def network(sizes, activations, seed=1, dtype="float64"):
    layers = [Dense(units, activation) for units, activation in zip(sizes[1:], activations, strict=True)]
    return Network(sizes[0], layers, seed=seed, dtype=dtype)


def central_differences(function, parameters, step=1e-5):
    """Return the gradient of function() by the numbers in ``parameters``, which it reads."""
    gradient = np.empty_like(parameters)
    for i, value in enumerate(parameters.copy()):
        parameters[i] = value + step
        above = function()
        parameters[i] = value - step
        gradient[i] = (above - function()) / (2 * step)
        parameters[i] = value
    return gradient
