"""The CPU engine: loads the native library for this machine's instruction set and hands it plans and arrays."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.activations import Activation
from schuss.engines.base import Data, Plan, Watch
from schuss.errors import EngineError
from schuss.optimizers import LBFGS, SGD, Optimizer
from schuss.resources import available_threads

Array = NDArray[Any]

LEVEL_VARIABLE = "SCHUSS_INSTRUCTION_SET"
LEVELS = {"baseline": 0, "neon": 1, "avx2": 3, "avx512": 4}
"""The instruction sets, by the name of their library, and the numbers of native/schuss.h, the least first."""


class _Network(ctypes.Structure):
    _fields_ = (
        ("depth", c_int32),
        ("element", c_int32),
        ("sizes", POINTER(c_int32)),
        ("activations", POINTER(c_int32)),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        ("network", _Network),
        ("dropout", c_void_p),
        ("input_noise", c_double),
        ("cost", c_int32),
        ("group", c_int32),
        ("cost_options", c_void_p),
        ("order", c_int32),
        ("threads", c_int32),
        ("members", c_int64),
        ("batch", c_int64),
        ("shuffle_seeds", c_void_p),
        ("noise_seeds", c_void_p),
        ("bootstrap_keys", c_void_p),
        ("folds", c_void_p),
        ("left_out", c_void_p),
        ("fold_ends", c_void_p),
        ("fold_weights", c_void_p),
        ("penalties", c_void_p),
        ("average", c_double),
    )


class _Data(ctypes.Structure):
    _fields_ = (
        ("samples", c_int64),
        ("x", c_void_p),
        ("y", c_void_p),
        ("weights", c_void_p),
        ("weighted", c_int32),
        ("total_weight", c_double),
    )


class _Watch(ctypes.Structure):
    _fields_ = (
        ("every", c_int64),
        ("last_epoch", c_int64),
        ("patience", c_int64),
        ("min_delta", c_double),
        ("of_training", c_int32),
        ("fresh", c_int32),
    )


class _Optimizer(ctypes.Structure):
    _fields_ = (
        ("kind", c_int32),
        ("bias_momentum", c_int32),
        ("history", c_int32),
        ("rates", c_void_p),
        ("factors", c_void_p),
    )


_KINDS = ("sgd", "nesterov", "adam", "rmsprop", "lbfgs")
_SCHEMES = {
    "small": "small batches: units across the lanes of a vector, the gradient fused with the update",
    "shallow": "one hidden layer: each thread has some of the hidden units, for all samples of a batch",
    "tiled": "narrow layers: a tile of samples runs through the whole network in the first caches",
    "wide": "wide layers: first the samples are shared between threads, then the weights",
}
_ORDERS = ("given", "shuffled", "blocks")
_WORK_OF_A_THREAD = 1e6  # operations: native/predict.hpp starts no second thread for less
_STATES: tuple[tuple[str, Any], ...] = (
    ("velocity", None),
    ("square", None),
    ("average", None),
    ("best", None),
    ("fate", np.int32),
    ("fate_epoch", np.int64),
    ("progress", np.float64),
    ("pairs", None),
    ("kept_pairs", np.int64),
)
"""The states of native/schuss.h in order, and their dtypes; None: the plan's."""

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "schuss_machine_level": (c_int32, ()),
    "schuss_built_level": (c_int32, ()),
    "schuss_activation": (c_int32, (c_char_p,)),
    "schuss_cost": (c_int32, (c_char_p,)),
    "schuss_error": (c_char_p, ()),
    "schuss_open": (c_int32, (POINTER(_Plan), c_void_p, POINTER(_Data), POINTER(_Data), POINTER(c_void_p))),
    "schuss_close": (None, (c_void_p,)),
    "schuss_fill": (c_int32, (c_void_p, c_int32, c_int64, c_int64, c_void_p, c_void_p, c_void_p)),
    "schuss_begin": (c_int32, (c_void_p, POINTER(_Watch), POINTER(_Optimizer))),
    "schuss_advance": (c_int32, (c_void_p, c_int64, c_int64, POINTER(_Optimizer), c_void_p, c_void_p)),
    "schuss_restore_best": (None, (c_void_p,)),
    "schuss_gradient": (c_int32, (c_void_p, c_int64, c_void_p, c_void_p)),
    "schuss_state": (c_void_p, (c_void_p, c_int32, POINTER(c_int64))),
    "schuss_scheme": (c_char_p, (c_void_p, POINTER(c_int32))),
    "schuss_predict": (c_int32, (POINTER(_Network), c_void_p, c_int64, c_void_p, c_int64, c_int32, c_void_p)),
    "schuss_limit": (c_int32, (c_int32, c_int32, c_int32, c_double, POINTER(c_double))),
}


@cache
def _folder() -> Path:
    """Return where pip put the libraries: in an editable installation that is not where this file lies."""
    here = Path(__file__).parent
    if any(here.glob("libschuss_*")):
        return here
    from importlib.resources import files

    return next(
        (Path(str(path)).parent for path in files("schuss.engines").iterdir() if "libschuss_" in path.name), here
    )


_ALTERNATIVE = ", or go on with engine='reference'"
_ELF_MACHINES = {62: ("x86_64", "amd64"), 183: ("aarch64", "arm64")}
"""The numbers of processors in the header of a library of Linux, and what they are called."""


def _check_file(path: Path) -> None:
    """Raise OSError for a library of another processor, or a part of one: the loader of Linux faults on what is cut short.

    Files that are no ELF libraries of 64 bits, little end first, are left to the loader.
    """
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return
        (machine,) = struct.unpack_from("<H", header, 18)
        segments, sections = struct.unpack_from("<QQ", header, 32)
        segment_size, segment_count, section_size, section_count = struct.unpack_from("<4H", header, 54)
        size = os.fstat(file.fileno()).st_size
        if segments + segment_size * segment_count > size:
            raise OSError(f"{path.name} is cut short or damaged: its table of segments lies beyond its {size} bytes")
        file.seek(segments)
        table = file.read(segment_size * segment_count)
    names = _ELF_MACHINES.get(machine, (f"processor number {machine}",))
    if platform.machine().lower() not in names:
        raise OSError(f"{path.name} is built for {names[0]}, and this is {platform.machine()}")
    ends = [segments + segment_size * segment_count, sections + section_size * section_count]
    for start in range(0, len(table) - 55, segment_size or 56):
        offset, _, _, stored = struct.unpack_from("<4Q", table, start + 8)
        ends.append(offset + stored)
    if size < max(ends):
        raise OSError(f"{path.name} is cut short: {size} bytes of {max(ends)}")


def _advice(path: Path) -> str:
    """Return what to do about a library that cannot be loaded."""
    try:
        forbidden = os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0)
    except OSError:
        forbidden = 0
    if forbidden:
        return f"{path.parent} is mounted without permission to execute (noexec): install schuss elsewhere"
    return "reinstall schuss for this machine"


def _open(path: Path) -> ctypes.CDLL:
    """Return the library in a file with its functions declared; raise EngineError, with the reason, if it is unusable."""
    try:
        _check_file(path)
        native = ctypes.CDLL(str(path))
        for function, (result, arguments) in _FUNCTIONS.items():
            getattr(native, function).restype = result
            getattr(native, function).argtypes = arguments
    except (OSError, AttributeError) as error:  # AttributeError: a function is missing
        raise EngineError(f"the native kernels cannot be loaded: {error}; {_advice(path)}{_ALTERNATIVE}") from error
    return native


@dataclass(frozen=True)
class _Found:
    """The libraries that this machine runs, the least instruction set first, and why others of them cannot be loaded."""

    usable: dict[str, ctypes.CDLL]
    damaged: dict[str, str]


@cache
def _found() -> _Found:
    """Load the libraries that were built and that this machine runs; raise EngineError if there is none.

    The least one must load: it runs on every machine of its kind, and so is the one to ask what this machine runs.
    """
    paths = {name: _folder() / f"libschuss_{name}.so" for name in LEVELS}  # CMake names modules so on macOS, too
    built = [name for name, path in paths.items() if path.is_file()]
    if not built:
        raise EngineError(
            "the native kernels were not built when schuss was installed; install a C++20 compiler (g++ 11 or Clang 14, or "
            "later) and reinstall schuss, or go on with engine='reference'"
        )
    usable = {built[0]: _open(paths[built[0]])}
    damaged = {}
    machine = usable[built[0]].schuss_machine_level()
    if LEVELS[built[0]] > machine:
        raise EngineError(
            f"the native kernels need {built[0]}, which this machine does not run; use engine='reference'"
        )
    for name in built[1:]:
        if LEVELS[name] <= machine:
            try:
                usable[name] = _open(paths[name])
            except EngineError as error:
                damaged[name] = str(error).removesuffix(_ALTERNATIVE)  # there is a better one: the lower library
    return _Found(usable, damaged)


def machine_levels() -> tuple[str, ...]:
    """Return the instruction sets that were built and that this machine runs, the best last."""
    return tuple(_found().usable)


def level() -> str:
    """Return the instruction set in use: the best one that can be loaded, or what SCHUSS_INSTRUCTION_SET asks for.

    Raises EngineError if that is no instruction set of this machine.
    """
    found = _found()
    asked = os.environ.get(LEVEL_VARIABLE, "")
    if asked in found.damaged:
        raise EngineError(f"{LEVEL_VARIABLE}={asked!r}: {found.damaged[asked]}")
    if asked and asked not in found.usable:
        raise EngineError(f"{LEVEL_VARIABLE}={asked!r} is not available; this machine runs {', '.join(found.usable)}")
    return asked or list(found.usable)[-1]


def shortfall() -> str:
    """Return why a lower instruction set is in use than this machine runs, or nothing if it is the best."""
    found, used = _found(), level()
    if os.environ.get(LEVEL_VARIABLE) or not found.damaged:
        return ""
    better = {name: reason for name, reason in found.damaged.items() if LEVELS[name] > LEVELS[used]}
    return "; ".join(f"{name}: {reason}" for name, reason in better.items())


def library() -> ctypes.CDLL:
    """Return the library of the instruction set in use; raise EngineError with the reason where there is none."""
    return _found().usable[level()]


def devices() -> tuple[str, ...]:
    """Return what the engine runs on, such as ``2 threads, avx2``."""
    threads, missed = available_threads(), shortfall()
    return (f"{threads} thread{'s' * (threads != 1)}, {level()}{f' (not {missed})' if missed else ''}",)


def _limit(which: int, element: int, threads: int, seconds: float) -> float:
    found, native = c_double(), library()
    _succeed(native, native.schuss_limit(which, element, threads, seconds, byref(found)), "to measure this machine")
    return found.value


def fma_peak(dtype: np.dtype[Any], threads: int, seconds: float = 0.2) -> float:
    """Return the measured rate of fused multiply-adds, in FLOP/s, of all threads together."""
    return _limit(0, dtype.itemsize, threads, seconds)


def read_bandwidth(threads: int, seconds: float = 0.2) -> float:
    """Return the measured bytes/s that all threads together read from memory."""
    return _limit(1, 4, threads, seconds)


def barrier_seconds(threads: int, seconds: float = 0.1) -> float:
    """Return the measured cost of a barrier of the threads."""
    return 1 / _limit(2, 4, threads, seconds) if threads > 1 else 0.0


def activation_rate(activation: Activation, dtype: np.dtype[Any], threads: int, seconds: float = 0.05) -> float:
    """Return the measured values/s of an activation, of all threads together, on numbers in the first cache."""
    code = library().schuss_activation(activation.name.encode())
    return _limit(3 + code, dtype.itemsize, threads, seconds)


@lru_cache(maxsize=64)
def _network(sizes: tuple[int, ...], activations: tuple[Activation, ...], dtype: np.dtype[Any]) -> _Network:
    native = next(iter(_found().usable.values()))  # the codes are the same in all
    codes = [native.schuss_activation(row.name.encode()) for row in activations]
    depth = len(codes)
    return _Network(depth, dtype.itemsize, (c_int32 * (depth + 1))(*sizes), (c_int32 * depth)(*codes))


def _address(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


def _data(data: Data) -> _Data:
    if data.in_place:
        given = _address(data.x), _address(data.y), _address(data.weights)
        return _Data(len(data.x), *given, data.weights is not None, data.total_weight)
    return _Data(len(data.x), None, None, None, data.weights is not None, data.total_weight)


def predict(parameters: Array, sizes: tuple[int, ...], activations: tuple[Activation, ...], x: Array) -> Array:
    """Return the outputs (members, n, dL) for parameters (members, p) and C-ordered x (n, d0) of the same dtype."""
    outputs = np.empty((len(parameters), len(x), sizes[-1]), parameters.dtype)
    network = _network(sizes, activations, parameters.dtype)
    members = len(parameters)
    little = 2.0 * parameters.size * len(x) < _WORK_OF_A_THREAD
    threads = 1 if little else available_threads()
    given = _address(parameters), members, _address(x), len(x), threads, _address(outputs)
    native = library()
    _succeed(native, native.schuss_predict(byref(network), *given), "to predict; pass fewer rows at a time")
    return outputs


def _succeed(native: ctypes.CDLL, code: int, without_memory: str) -> None:
    """Raise MemoryError, saying what there is no memory for, or EngineError if a function returned an error's code."""
    if code == 1:
        raise MemoryError(f"not enough memory {without_memory}")
    if code:
        raise EngineError(f"the native kernels failed: {native.schuss_error().decode(errors='replace')}")


class NativeSession:
    """One training in the native library; ``parameters`` (members, p) is the model's own memory, changed in place."""

    _handle: int | None = None

    def __init__(self, plan: Plan, parameters: Array, data: Data, validation: Data | None) -> None:
        self._library = library()
        self._plan, self._parameters, self._kept = plan, parameters, data
        self._validated = validation is not None
        dropout = np.array(plan.dropout or [0.0])
        options, penalties = plan.cost.options(plan.sizes[-1]), np.stack([plan.l2, plan.l1], axis=1)
        weights = None if validation is None else validation.weights
        fold_weights = np.diff(plan.fold_ends.astype(np.float64), prepend=0.0)
        if weights is not None and plan.folds is not None:
            fold_weights = np.array([part.sum() for part in np.split(np.float64(weights), plan.fold_ends[:-1])])
        native_plan = _Plan(
            network=_network(plan.sizes, plan.activations, plan.dtype),
            dropout=_address(dropout) if any(plan.dropout) else None,
            input_noise=plan.input_noise,
            cost=self._library.schuss_cost(plan.cost.name.encode()),
            group=plan.sizes[-1] // plan.columns,
            cost_options=_address(options),
            order=_ORDERS.index(plan.order),
            threads=plan.threads,
            members=plan.members,
            batch=plan.batch_size,
            shuffle_seeds=_address(plan.shuffle_seeds),
            noise_seeds=_address(plan.noise_seeds),
            bootstrap_keys=_address(plan.bootstrap_keys),
            folds=_address(plan.folds),
            left_out=_address(plan.left_out),
            fold_ends=_address(plan.fold_ends),
            fold_weights=_address(fold_weights),
            penalties=_address(penalties),
            average=plan.average,
        )
        held_out = None if validation is None else byref(_data(validation))
        handle = c_void_p()
        self._call(
            "for this training; use fewer samples, or smaller batches",
            self._library.schuss_open,
            *(byref(native_plan), _address(parameters), byref(_data(data)), held_out, byref(handle)),
        )
        self._handle = handle.value
        for which, given in enumerate((data, validation)):
            if given is not None and not given.in_place:
                for first, x, y, w in given.blocks(plan.dtype):
                    place = self._handle, which, first, len(x)
                    self._call("for the data", self._library.schuss_fill, *place, _address(x), _address(y), _address(w))

    def _call(self, without_memory: str, function: Callable[..., int], *arguments: Any) -> None:
        _succeed(self._library, function(*arguments), without_memory)

    def _state(self, name: str) -> Array:
        """Return a state as it lies in native memory; the view is valid until the next ``begin`` or ``release``."""
        if name == "parameters":
            return self._parameters
        which = [known for known, _ in _STATES].index(name)
        plan, size = self._plan, c_int64()
        dtype = np.dtype(_STATES[which][1] or plan.dtype)
        address = self._library.schuss_state(self._handle, which, byref(size))
        count = size.value // dtype.itemsize
        several = {
            "fate": (),
            "fate_epoch": (),
            "kept_pairs": (),
            "progress": (6,),
            "pairs": (count // (2 * plan.parameters * plan.members), 2, plan.parameters),
        }.get(name, (plan.parameters,))
        if count == 0:
            return np.empty((0, *several), dtype)
        memory = memoryview((ctypes.c_char * size.value).from_address(address))
        return np.ndarray((plan.members, *several), dtype, memory)

    def begin(self, watch: Watch, optimizer: Optimizer) -> None:
        """Start a run (see ``Session``)."""
        patience = -1 if watch.patience is None else watch.patience
        self._restore_best = watch.restore_best
        native = _Watch(watch.every, watch.last_epoch, patience, watch.min_delta, watch.of_training, watch.fresh)
        described, _arrays = self._described(optimizer, None)
        lacking = "for the state of this optimizer or the best parameters"
        self._call(lacking, self._library.schuss_begin, self._handle, byref(native), byref(described))

    def _described(self, optimizer: Optimizer, factors: Array | None) -> tuple[_Optimizer, Array]:
        """Return the native description of an optimizer, and the table it points to, to be kept as long."""
        rates = optimizer.table(self._plan.members)
        history = optimizer.history if isinstance(optimizer, LBFGS) else 0
        bias_momentum = not isinstance(optimizer, SGD) or optimizer.bias_momentum
        kind = _KINDS.index(optimizer.kind)
        return _Optimizer(kind, bias_momentum, history, _address(rates), _address(factors)), rates

    def advance(
        self, first_step: int, steps: int, optimizer: Optimizer, progress: tuple[int, int]
    ) -> tuple[Array, Array | None]:
        """Run some steps (see ``Session``)."""
        plan = self._plan
        epochs = (first_step + steps) // plan.steps_per_epoch - first_step // plan.steps_per_epoch
        costs = np.empty((epochs, plan.members))
        validation_costs = np.empty_like(costs) if self._validated else None
        factors = optimizer.factors(progress[0], steps, progress[1])
        described, _rates = self._described(optimizer, factors)
        given = first_step, steps, byref(described), _address(costs), _address(validation_costs)
        self._call("for the threads of a run", self._library.schuss_advance, self._handle, *given)
        return costs, validation_costs

    def finish(self) -> None:
        """End a run (see ``Session``)."""
        if self._restore_best:
            self._library.schuss_restore_best(self._handle)

    def value_and_gradient(self, step: int) -> tuple[Array, Array]:
        """Return costs and gradients (see ``Session``)."""
        costs, gradients = np.empty(self._plan.members), np.empty_like(self._parameters)
        given = self._handle, step, _address(costs), _address(gradients)
        self._call("for the gradient", self._library.schuss_gradient, *given)
        return costs, gradients

    def predict(self, x: Array) -> Array:
        """Return the outputs (see ``Session``)."""
        return predict(self._parameters, self._plan.sizes, self._plan.activations, x)

    def read(self, name: str) -> Array:
        """Return a copy of a state (see ``Session``)."""
        return self._state(name).copy()

    def write(self, name: str, value: Array) -> None:
        """Replace a state (see ``Session``)."""
        self._state(name)[...] = value

    def explain(self) -> str:
        """Return how the steps are cut (see ``Session``)."""
        threads = c_int32()
        scheme = self._library.schuss_scheme(self._handle, byref(threads)).decode()
        return f"{_SCHEMES[scheme]}; {threads.value} thread{'s' * (threads.value != 1)}, {level()}"

    def release(self) -> None:
        """Free the native memory (see ``Session``)."""
        if self._handle:
            self._library.schuss_close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.release()
