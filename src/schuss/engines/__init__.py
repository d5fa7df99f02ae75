"""Choosing and listing engines, and the one function through which networks predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from numpy.typing import NDArray

from schuss.activations import Activation
from schuss.arrays import cuda_device
from schuss.engines import cpu, cuda, opencl, reference
from schuss.engines.base import Data, Plan, Session
from schuss.engines.cuts import PATHS
from schuss.engines.gpu import GpuSession
from schuss.errors import EngineError, InputError, Problems, unknown_name, warn
from schuss.layers import weight_count

NAMES = ("cpu", "cuda", "opencl", "reference")

_SLOWNESS = "5 to 100"
"""How many times as long the reference engine takes: benchmarks/engines.py."""

_GPU_WORK = 20_000_000
"""Floating-point operations of a step from which "auto" takes a GPU: docs/engines.md."""


@dataclass(frozen=True)
class CPU:
    """The native kernels on this machine's processor; ``engine="cpu"``."""

    def __str__(self) -> str:
        return "cpu"


@dataclass(frozen=True)
class Reference:
    """NumPy; ``engine="reference"``."""

    def __str__(self) -> str:
        return "reference"


@dataclass(frozen=True)
class CUDA:
    """An NVIDIA GPU; ``engine="cuda"`` or ``"cuda:1"``.

    device: its number. path: how steps are cut, "grid", "epochs", "step" or "layers" (docs/engines.md), None for the one
    that should be fastest. tf32: let the matrix products of wide layers round their factors to 10 bits, for speed.
    """

    device: int = 0
    path: str | None = None
    tf32: bool = False

    def __post_init__(self) -> None:
        _check_device(self.device, self.path)

    def __str__(self) -> str:
        return f"cuda:{self.device}"


@dataclass(frozen=True)
class OpenCL:
    """A device of OpenCL, GPUs first; ``engine="opencl"`` or ``"opencl:1"``. device, path: as for ``CUDA``."""

    device: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        _check_device(self.device, self.path)

    def __str__(self) -> str:
        return f"opencl:{self.device}"


Engine = CPU | CUDA | OpenCL | Reference
_DESCRIPTIONS: dict[str, Callable[..., Engine]] = {"cpu": CPU, "cuda": CUDA, "opencl": OpenCL, "reference": Reference}


def _check_device(device: object, path: object) -> None:
    if isinstance(device, bool) or not isinstance(device, int) or device < 0:
        raise InputError(f"device must be a whole number, at least 0; got {device!r}")
    if path is not None and path not in PATHS:
        raise InputError(unknown_name("path", path, PATHS))


@dataclass(frozen=True)
class EngineInfo:
    """What is known of an engine: its name, whether it can be used, why not if it cannot, and its devices."""

    name: str
    available: bool
    reason: str
    devices: tuple[str, ...]


def list_engines() -> list[EngineInfo]:
    """Return every engine, available or with the reason why not, and its devices.

    >>> [info.name for info in list_engines()]
    ['cpu', 'cuda', 'opencl', 'reference']
    """
    found = []
    for name, devices in (("cpu", cpu.devices), ("cuda", cuda.devices), ("opencl", opencl.devices)):
        try:
            found.append(EngineInfo(name, True, "", devices()))
        except EngineError as error:
            found.append(EngineInfo(name, False, str(error), ()))
    return [*found, EngineInfo("reference", True, "", ("NumPy",))]


def resolve(engine: str | Engine) -> Engine | None:
    """Return the description for a name such as "cuda:1", or a description as it is; None for "auto".

    Raises InputError for an unknown name, and EngineError, with the reason, for an engine that is absent.
    """
    if engine == "auto":
        return None
    if isinstance(engine, str):
        name, colon, number = engine.partition(":")
        numbered = name in ("cuda", "opencl")
        if name.lower() == "gpu":
            raise InputError(
                f"unknown engine {engine!r}; a GPU is engine='cuda' (NVIDIA) or engine='opencl' (any other)"
            )
        if name not in NAMES or (colon and not (numbered and number.isdecimal() and number.isascii())):
            raise InputError(
                unknown_name("engine", engine, ["auto", "cpu", "cuda", "cuda:1", "opencl", "opencl:1", "reference"])
            )
        engine = _DESCRIPTIONS[name](int(number)) if colon else _DESCRIPTIONS[name]()
    if not isinstance(engine, Engine):
        raise InputError(unknown_name("engine", engine, ["auto", *NAMES]))
    if isinstance(engine, CPU):
        cpu.library()  # raises EngineError with the reason
    elif isinstance(engine, CUDA | OpenCL):
        module = cuda if isinstance(engine, CUDA) else opencl
        found = module.devices()
        if engine.device >= len(found):
            raise EngineError(f"there is no device {engine}; there are {len(found)}: {'; '.join(found)}")
    return engine


def placed(
    engine: Engine | None, x: Any, y: Any, sample_weight: Any, validation: Any, problems: Problems
) -> tuple[Engine | None, Any, Any, Any, Any]:
    """Return the engine and the data, x on a CUDA device as arrays of CuPy, what else is there as copies on the host.

    Data on a device decide for "auto"; with another engine they are a problem.
    """
    pair = tuple(validation) if isinstance(validation, tuple | list) and len(validation) == 2 else (None, None)
    given = {"x": x, "y": y, "sample_weight": sample_weight, "validation x": pair[0], "validation y": pair[1]}
    devices = {name: number for name, array in given.items() if (number := cuda_device(array)) is not None}
    if not devices:
        return engine, x, y, sample_weight, validation
    name, number = next(iter(devices.items()))
    if engine is None:
        engine = CUDA(number)
    if not isinstance(engine, CUDA) or set(devices.values()) != {engine.device}:
        problems.add(
            f"{name} is on CUDA device {number} but the engine is {engine}; pass engine='cuda:{number}', or a copy on the "
            f"host, such as {name.split()[-1]}.cpu().numpy()"
        )
    if isinstance(validation, float):
        problems.add("a share of the rows to validate on needs data on the host; pass validation=(x, y)")
    problems.raise_if_any()
    for name in devices:
        given[name] = cuda.adopted(given[name], copy=not name.endswith("x"))
    if pair[0] is not None:
        validation = given["validation x"], given["validation y"]
    return engine, given["x"], given["y"], given["sample_weight"], validation


def _host() -> Engine:
    """Return the native kernels where they can be loaded, else the reference."""
    try:
        cpu.library()
    except EngineError:
        return Reference()
    return CPU()


@cache
def _warn_once(message: str) -> None:
    """Warn the first time in this process."""
    warn(message)


def _warn_of_slowness(chosen: Engine) -> None:
    """Warn, once in a process, that what "auto" fell back to is slow, with the reason and what to do."""
    if isinstance(chosen, CPU) and (reason := cpu.shortfall()):
        _warn_once(f"training on the {cpu.level()} kernels, though this machine runs better ones. {reason}")
    if isinstance(chosen, Reference):
        try:
            cpu.library()
        except EngineError as error:
            _warn_once(
                f"training on the reference engine, which takes {_SLOWNESS} times as long as the native kernels: {error}"
            )


def choose(plan: Plan) -> Engine:
    """Return the engine that "auto" means for a plan: a GPU of CUDA for much work a step, else this machine's processor."""
    work = 6.0 * weight_count(plan.sizes) * plan.batch_size * plan.members
    if work >= _GPU_WORK and cuda.is_available():
        return CUDA()
    return _host()


def open_session(
    engine: Engine | None, plan: Plan, parameters: NDArray[Any], data: Data, validation: Data | None = None
) -> tuple[Engine, Session]:
    """Return a session on ``parameters`` (members, p), which it may use as its own memory, and the engine that it is of.

    engine: None for "auto", which falls back to the processor, with a warning, if the GPU refuses the work, and warns
    once if it is the reference engine for want of the native kernels.
    """
    chosen = choose(plan) if engine is None else engine
    if engine is None:
        _warn_of_slowness(chosen)
    try:
        return chosen, _opened(chosen, plan, parameters, data, validation)
    except EngineError as error:
        if engine is not None or not isinstance(chosen, CUDA):
            raise
        warn(f"{error}; training goes on on the processor (engine='cpu')")
    chosen = _host()
    _warn_of_slowness(chosen)
    return chosen, _opened(chosen, plan, parameters, data, validation)


def _opened(engine: Engine, plan: Plan, parameters: NDArray[Any], data: Data, validation: Data | None) -> Session:
    match engine:
        case CPU():
            return cpu.NativeSession(plan, parameters, data, validation)
        case CUDA(device, path, tf32):
            return GpuSession(cuda.CudaQueue(device, tf32), plan, parameters, data, validation, path)
        case OpenCL(device, path):
            return GpuSession(opencl.OpenCLQueue(device), plan, parameters, data, validation, path)
        case Reference():
            return reference.ReferenceSession(plan, parameters, data, validation)


def predict(
    parameters: NDArray[Any], sizes: tuple[int, ...], activations: tuple[Activation, ...], x: NDArray[Any]
) -> NDArray[Any]:
    """Return the outputs (members, n, dL) for parameters (members, p) and C-ordered x (n, d0) of the same dtype."""
    if isinstance(_host(), CPU):
        return cpu.predict(parameters, sizes, activations, x)
    return reference.predict(parameters, sizes, activations, x)
