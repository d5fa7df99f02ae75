"""CUDA through CuPy: devices, and the queue of a session."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.engines.cuts import THREADS, Limits
from schuss.engines.launches import TILE_KERNELS, Call, Launch, Product
from schuss.errors import EngineError

_STEPS_A_GRAPH, _CALLS_A_GRAPH = 16, 2048  # at most
_OLDEST = (8, 0)  # compute capability

COMPILER_OPTIONS = ("--std=c++17", "--device-as-default-execution-space")
"""Of NVRTC; the functions of random.h are for the device, too."""


_FULL_MATH, _TF32_MATH = 0, 3  # cublasMath_t: all bits of float32; factors rounded to TF32
_SCALARS = {name: np.array([0, 1], name) for name in ("float32", "float64")}


@cache
def _cublas() -> Any:
    """Return CuPy's calls of cuBLAS, or None where the library is absent: then our own kernels multiply."""
    try:
        from cupy_backends.cuda.libs import cublas
    except ImportError:
        return None
    return cublas


@cache
def _package() -> Any:
    """Return cupy; raise EngineError, with what to install, where it is absent or has no driver."""
    try:
        import cupy
    except ImportError as error:
        raise EngineError(f"engine 'cuda' needs CuPy ({error}); pip install 'schuss[cuda]'") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except (cupy.cuda.runtime.CUDARuntimeError, RuntimeError, OSError) as error:
        raise EngineError(f"engine 'cuda' found no NVIDIA driver that it can use ({error}); see nvidia-smi") from error
    if not count:
        raise EngineError("engine 'cuda' found a driver but no device; see nvidia-smi and CUDA_VISIBLE_DEVICES")
    return cupy


def _properties(number: int) -> dict[str, Any]:
    return dict(_package().cuda.runtime.getDeviceProperties(number))


def devices() -> tuple[str, ...]:
    """Return the name and memory of each device."""
    every = map(_properties, range(_package().cuda.runtime.getDeviceCount()))
    return tuple(f"{one['name'].decode()}, {one['totalGlobalMem'] / 1e9:.3g} GB" for one in every)


@cache
def is_available() -> bool:
    """Return whether there is a device; asked once, because loading CuPy takes a moment."""
    try:
        return bool(devices())
    except EngineError:
        return False


def adopted(given: Any, copy: bool) -> Any:
    """Return an array on a device as one of CuPy, without a copy, or its copy on the host."""
    array = _package().from_dlpack(given)
    return array.get() if copy else array


class CudaQueue:
    """The memory and the program of one session (see ``Queue``): a stream of its own."""

    def __init__(self, number: int = 0, tf32: bool = False) -> None:
        self._cupy, self._device = _package(), _package().cuda.Device(number)
        self._cublas, self._tf32 = _cublas(), tf32
        facts = _properties(number)
        self.name = f"{facts['name'].decode()} (cuda:{number})"
        if (facts["major"], facts["minor"]) < _OLDEST:
            raise EngineError(
                f"{self.name} has compute capability {facts['major']}.{facts['minor']}; engine 'cuda' needs "
                f"{_OLDEST[0]}.{_OLDEST[1]} or later; try engine='opencl'"
            )
        with self._device:
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self.limits = Limits(
            memory=int(free),
            local_memory=int(facts["sharedMemPerBlockOptin"]),
            units=int(facts["multiProcessorCount"]),
            cooperative=bool(facts.get("cooperativeLaunch", True)),
            products=self._cublas is not None,
        )
        self._memory: Any = None
        self._places: dict[str, Any] = {}
        self._arguments: tuple[Any, ...] = ()
        self._kernels: dict[str, Any] = {}
        self._modules: list[Any] = []
        self._graphs: dict[int, tuple[tuple[Call, ...], Any]] = {}  # by the id of the calls, which it keeps alive
        self._tile_bytes = 0

    def _lost(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self.name} failed: {error}; the weights of the last chunk are kept; a new training may go on with them"
        )

    def allocate(self, sizes: dict[str, int]) -> None:
        """Make the buffers (see ``Queue``), as parts of one allocation."""
        cuda = self._cupy.cuda
        aligned = {name: -(-size // 256) * 256 for name, size in sizes.items()}
        try:
            with self._device:
                self._memory = cuda.Memory(sum(aligned.values()))  # not of CuPy's pool: release gives it back
                self._memory_pointer = cuda.MemoryPointer(self._memory, 0)
                self._memory_pointer.memset_async(0, sum(aligned.values()), self._stream)
                self._stream.synchronize()
        except (cuda.memory.OutOfMemoryError, cuda.runtime.CUDARuntimeError) as error:
            self.release()
            raise EngineError(
                f"{self.name} has no room for the {sum(sizes.values()) / 1e9:.3g} GB of this training ({error}); "
                "use fewer members or samples"
            ) from error
        offset = 0
        for name, size in aligned.items():
            self._places[name] = self._memory_pointer + offset
            offset += size
        self._arguments = tuple(np.uint64(place.ptr) for place in self._places.values())

    def build(self, text: str, tile_bytes: int, meets: bool) -> None:
        """Compile (see ``Queue``), with NVRTC."""
        cupy, self._tile_bytes = self._cupy, tile_bytes
        # Cooperative launches are an option of a module: the second one serves the kernel whose groups meet.
        self._modules = [
            cupy.RawModule(code=text, options=COMPILER_OPTIONS, backend="nvrtc", enable_cooperative_groups=together)
            for together in ((False, True) if meets else (False,))
        ]
        try:
            with self._device:
                for module in self._modules:
                    module.compile()
        except cupy.cuda.compiler.CompileException as error:
            raise EngineError(f"{self.name} cannot compile the kernels: {error}") from error

    def _kernel(self, launch: Launch) -> Any:
        name = launch.kernel
        if name not in self._kernels:
            kernel = self._modules[launch.meets].get_function(name)
            if name in TILE_KERNELS:
                kernel.max_dynamic_shared_size_bytes = self._tile_bytes
            self._kernels[name] = kernel
        return self._kernels[name]

    def write(self, name: str, array: NDArray[Any], offset: int = 0) -> None:
        """Copy to the device (see ``Queue``)."""
        if array.nbytes:
            with self._device:
                try:
                    place = self._places[name] + offset
                    if isinstance(array, np.ndarray):
                        place.copy_from_host_async(array.ctypes.data, array.nbytes, self._stream)
                    else:
                        self._device.synchronize()  # the array may still be in the making on another stream
                        place.copy_from_device_async(array.data, array.nbytes, self._stream)
                    self._stream.synchronize()
                except self._cupy.cuda.runtime.CUDARuntimeError as error:
                    raise self._lost(error) from error

    def packed(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return an array of the device C-ordered and of a dtype, on the device."""
        with self._device:
            return self._cupy.ascontiguousarray(array, dtype)

    def read(self, name: str, array: NDArray[Any]) -> None:
        """Copy from the device (see ``Queue``)."""
        if array.nbytes:
            with self._device:
                try:
                    self._places[name].copy_to_host_async(array.ctypes.data, array.nbytes, self._stream)
                    self._stream.synchronize()
                except self._cupy.cuda.runtime.CUDARuntimeError as error:
                    raise self._lost(error) from error

    def run(self, calls: tuple[Call, ...], times: int) -> None:
        """Launch (see ``Queue``): many times the same as a graph of several."""
        try:
            with self._device, self._stream:
                steps = min(_STEPS_A_GRAPH, _CALLS_A_GRAPH // len(calls))
                if steps and times >= 2 * steps and not any(isinstance(call, Launch) and call.meets for call in calls):
                    graph = self._graph(calls, steps)
                    for _ in range(times // steps):
                        graph.launch(self._stream)
                    times %= steps
                for _ in range(times):
                    self._launch(calls)
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            raise self._lost(error) from error

    def _graph(self, calls: tuple[Call, ...], steps: int) -> Any:
        if id(calls) not in self._graphs:
            for call in calls:
                if isinstance(call, Launch):
                    self._kernel(call)  # nothing may be loaded while a graph is captured
            self._stream.begin_capture()
            for _ in range(steps):
                self._launch(calls)
            self._graphs[id(calls)] = calls, self._stream.end_capture()
        return self._graphs[id(calls)][1]

    def _launch(self, calls: tuple[Call, ...]) -> None:
        for call in calls:
            if isinstance(call, Product):
                self._multiply(call)
                continue
            scalars = tuple(np.int32(value) for value in (call.first_member, call.piece, call.source))
            self._kernel(call)(
                (call.groups, call.members),
                (THREADS,),
                (*self._arguments, *scalars),
                shared_mem=self._tile_bytes if call.kernel in TILE_KERNELS else 0,
            )

    def _multiply(self, product: Product) -> None:
        """Call cuBLAS, which keeps matrices column by column: it sees each transposed, and right left as left right."""
        cublas, one = self._cublas, _SCALARS[product.dtype]
        handle = self._cupy.cuda.device.get_cublas_handle()
        m, n, k = product.m, product.n, product.k
        result, left, right = (
            self._places[name].ptr + first * one.itemsize
            for name, first in (product.result, product.left, product.right)
        )
        operations = [cublas.CUBLAS_OP_T if turned else cublas.CUBLAS_OP_N for turned in product[7:9]]
        before = cublas.getMathMode(handle)
        cublas.setStream(handle, self._stream.ptr)
        cublas.setMathMode(handle, _TF32_MATH if self._tf32 else _FULL_MATH)
        try:
            (cublas.sgemm if product.dtype == "float32" else cublas.dgemm)(
                handle,
                operations[1],
                operations[0],
                n,
                m,
                k,
                one[1:].ctypes.data,
                right,
                k if product.right_transposed else n,
                left,
                m if product.left_transposed else k,
                one[int(product.adds) :].ctypes.data,
                result,
                n,
            )
        finally:
            cublas.setMathMode(handle, before)

    def release(self) -> None:
        """Free everything (see ``Queue``)."""
        self._graphs, self._kernels, self._modules, self._places, self._arguments = {}, {}, [], {}, ()
        self._memory_pointer = self._memory = None
