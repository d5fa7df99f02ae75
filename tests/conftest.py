"""What the tests share: engines, small data sets, central differences; what --full and --strict-skips mean."""

import platform
import re
from pathlib import Path

import numpy as np
import pytest

from schuss import Dense, EngineError, Network
from schuss.engines import CUDA, OpenCL, cpu, cuda, cuts, opencl


def thinned(values, *kept):
    """Return the values of a parameter, all but ``kept`` for ``pytest --full`` only; those of a dict go by their names."""
    if isinstance(values, dict):
        return [pytest.param(value, id=name, marks=full_unless(name in kept)) for name, value in values.items()]
    return [pytest.param(value, marks=full_unless(value in kept)) for value in values]


def full_unless(kept):
    return () if kept else pytest.mark.full


try:
    LEVELS = cpu.machine_levels()
except EngineError:  # an installation without native kernels: the reference engine alone is tested
    LEVELS = ()
GPU_ENGINES = [
    *(f"{driver}-{path}" for driver in ("opencl", "pocl") for path in ("step", "epochs", "layers")),
    "cuda",
    *(f"cuda-{path}" for path in cuts.PATHS),
]
"""The first device of OpenCL, PoCL, which is a second implementation, and CUDA; each with the paths that it has."""
ENGINES = [
    "reference",
    *(f"cpu-{level}" for level in LEVELS),
    *(name for name in GPU_ENGINES if name not in ("pocl-epochs", "pocl-layers")),  # which take it minutes
]


def gpu_engine_of(name):
    """Return the description of one of GPU_ENGINES; skip the test where there is no such device."""
    driver, _, path = name.partition("-")
    module = cuda if driver == "cuda" else opencl
    try:
        devices = module.devices()
    except EngineError as error:
        pytest.skip(f"no {'CUDA' if module is cuda else 'OpenCL'} device: {error}")
    if module is cuda:
        return CUDA(path=path or None)
    numbers = [i for i, device in enumerate(devices) if driver == "opencl" or "Portable Computing Language" in device]
    if not numbers:
        pytest.skip("PoCL is not installed; pip install 'schuss[full]'")
    return OpenCL(numbers[0], path)


QUICK = "reference", *(f"cpu-{level}" for level in LEVELS[-1:]), "cuda"


@pytest.fixture(params=thinned(ENGINES, *QUICK))
def engine(request, monkeypatch):
    """The engines that begin at once, the native one on the best instruction set; with --full every set, driver and path."""
    return made_ready(request.param, monkeypatch)


@pytest.fixture(params=thinned(ENGINES, *QUICK, "opencl-step"))
def every_engine(request, monkeypatch):
    """The same with OpenCL, also without --full: it compiles its kernels for seconds, so this is for a few tests."""
    return made_ready(request.param, monkeypatch)


def made_ready(name, monkeypatch):
    """Return what Training takes as the engine of a name of ``ENGINES``, or skip the test where it cannot run."""
    if name in GPU_ENGINES:
        return gpu_engine_of(name)
    name, _, level = name.partition("-")
    if level:
        monkeypatch.setenv(cpu.LEVEL_VARIABLE, level)
    return name


@pytest.fixture(params=thinned(GPU_ENGINES, "opencl-step", "opencl-epochs", "opencl-layers", "cuda"))
def gpu_engine(request):
    """OpenCL and CUDA on each path; with --full PoCL, too."""
    return gpu_engine_of(request.param)


@pytest.fixture
def many_cpus(monkeypatch):
    """Let trainings begin as many threads as they are asked for, however few CPUs there are."""
    monkeypatch.setattr("schuss.training.available_cpus", lambda: 64)


@pytest.fixture(params=thinned(LEVELS, *LEVELS[-1:]))
def level(request, monkeypatch):
    """The best instruction set of this machine; with --full every one."""
    monkeypatch.setenv(cpu.LEVEL_VARIABLE, request.param)
    return request.param


@pytest.fixture(params=LEVELS)
def every_level(request, monkeypatch):
    """Every instruction set of this machine, also without --full."""
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


# -- --full and --strict-skips ----------------------------------------------------------------------------------------

LEFT_OUT = pytest.StashKey[int]()
"""How many tests were left out for want of --full."""

ALLOWED_SKIPS = (
    "the peak of memory cannot be reset here",  # /proc/self/clear_refs of a hardened container
    "^SCIPY_ARRAY_API is not set: not checking array_api input",  # scikit-learn's checks of what our estimators do not offer
    "does not have a decision_function method",
    "^this system lets nobody mount a file system in a name space",  # a container
    "has no thread sanitizer that runs here",  # on some kernels
    "^this system does not say which CPUs are allowed",
    *(("^this machine runs the .* library alone",) if len(LEVELS) < 2 else ()),
    *(("^the emulated processors are of x86-64", "^no OpenCL device") if platform.machine() != "x86_64" else ()),
    *(() if Path("/dev/nvidiactl").exists() else ("^engine 'cuda' ", "no CUDA device")),
)
"""The reasons of skips, as regular expressions, that lie with the machine or the test, not with what could be installed."""


def pytest_addoption(parser):
    group = parser.getgroup("schuss")
    group.addoption("--full", action="store_true", help="run the exhaustive tests, too")
    group.addoption(
        "--strict-skips",
        action="store_true",
        help="fail if a test is skipped for want of something that can be installed",
    )


def pytest_report_header():
    return f"instruction sets: {', '.join(LEVELS) or 'none, the reference engine alone'}"


def pytest_collection_modifyitems(config, items):
    if config.getoption("full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.stash[LEFT_OUT] = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take the count over from a worker of pytest-xdist: each collects all tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def unexpected_skips(config):
    """Return the reasons of the skips that --strict-skips does not allow."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not config.getoption("strict_skips"):
        return []
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])]
    return [reason for reason in reasons if not any(re.search(allowed, reason) for allowed in ALLOWED_SKIPS)]


def pytest_sessionfinish(session):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = config.stash.get(LEFT_OUT, 0)
    elif session.exitstatus == pytest.ExitCode.OK and unexpected_skips(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for reason in sorted(set(unexpected_skips(config))):
        terminalreporter.write_line(f"skipped, though it can run on this machine: {reason}", red=True)
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(f"{left_out} exhaustive tests were left out: python -m pytest --full runs them")
