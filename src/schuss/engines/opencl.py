"""OpenCL through PyOpenCL: devices, and the queue of a session."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schuss.engines.cuts import Limits
from schuss.engines.launches import Call, Launch
from schuss.errors import EngineError

_EVERY = 64  # launches between two calls that make the driver begin


@cache
def _package() -> Any:
    """Return pyopencl; raise EngineError, with what to install, where it is absent."""
    try:
        import pyopencl
    except ImportError as error:
        raise EngineError(f"engine 'opencl' needs PyOpenCL ({error}); pip install 'schuss[opencl]'") from error
    return pyopencl


_LOOKING = Lock()  # one thread at a time: the loader of OpenCL is told by the environment of the process
_VENDORS = "OCL_ICD_VENDORS"  # tells the OpenCL loader which folder of drivers to read instead of the system's
_POCL = "Portable Computing Language"


def _intel_library() -> Path | None:
    """Return the driver of the package intel-opencl-rt, for any x86-64 processor; None where it is not installed."""
    try:
        found = [file for file in files("intel-opencl-rt") or () if file.name == "libintelocl.so"]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())).resolve() if found else None


def _intel_failure() -> str:
    """Return, to end a sentence, why the driver of intel-opencl-rt cannot be loaded; "" where it can be or is absent."""
    library = _intel_library()
    try:
        if library is not None:
            ctypes.CDLL(str(library))
    except OSError as error:
        return f"; that of intel-opencl-rt cannot be loaded: {error}"
    return ""


@contextmanager
def _intel_listed() -> Iterator[None]:
    """Let the OpenCL loader find intel-opencl-rt beside the drivers of the system, while it looks for them.

    The .icd file of the package names a folder that does not exist. A loader reads one folder of such files: so it is given a
    temporary one, with the system's files and a right one. Who has set OCL_ICD_VENDORS gets exactly what that names.
    """
    library = _intel_library()
    if library is None or _VENDORS in os.environ:
        yield
        return
    try:
        folder = TemporaryDirectory(prefix="schuss-opencl-")
    except OSError:  # a system that nobody may write to
        yield
        return
    system = Path(os.environ.get("OPENCL_VENDOR_PATH", "/etc/OpenCL/vendors"))
    environment = Path(sys.prefix, "etc/OpenCL/vendors")  # where the loader of a conda environment looks
    with folder as name:
        for number, drivers in enumerate((system, environment)):
            for file in drivers.glob("*.icd"):
                Path(name, f"{number}-{file.name}").symlink_to(file.absolute())
        Path(name, "2-intel-opencl-rt.icd").write_text(f"{library}\n")
        os.environ[_VENDORS] = name
        try:
            yield
        finally:
            os.environ.pop(_VENDORS, None)


@cache
def _devices() -> tuple[Any, ...]:
    """Return all devices: GPUs first, PoCL last; raise EngineError with the reason where there is none."""
    with _LOOKING, _intel_listed():
        cl = _package()
        try:
            platforms = cl.get_platforms()
        except cl.Error as error:
            raise EngineError(
                f"engine 'opencl' found no OpenCL driver ({error}{_intel_failure()}); install that of your device, or "
                "pip install 'schuss[opencl]' for one that runs on the CPU"
            ) from error
        usable, failures = [], []
        for platform in platforms:
            try:
                usable += [one for one in platform.get_devices() if one.available and one.compiler_available]
            except cl.Error as error:  # of one driver: those of the others remain
                failures.append(f"; {platform.name.strip()}: {error}")
    if not usable:
        raise EngineError(
            f"engine 'opencl' found a driver but no device{''.join(failures)}{_intel_failure()}; see clinfo"
        )
    return tuple(sorted(usable, key=lambda one: (not one.type & cl.device_type.GPU, one.platform.name == _POCL)))


def devices() -> tuple[str, ...]:
    """Return the name, driver and memory of each device."""
    return tuple(
        f"{device.name.strip()} ({device.platform.name.strip()}), {device.global_mem_size / 1e9:.3g} GB"
        for device in _devices()
    )


def is_gpu(number: int = 0) -> bool:
    """Return whether a device is a GPU, not a CPU behind OpenCL."""
    return bool(_devices()[number].type & _package().device_type.GPU)


def _limits(device: Any) -> Limits:
    processor = not device.type & _package().device_type.GPU
    return Limits(
        memory=int(device.global_mem_size),
        buffer=int(device.max_mem_alloc_size),
        local_memory=int(device.local_mem_size) if processor else min(int(device.local_mem_size), 96 << 10),
        units=int(device.max_compute_units),
        threads=int(device.max_work_group_size),
        doubles=bool(device.double_fp_config),
        processor=processor,
    )


class OpenCLQueue:
    """The memory and the program of one session (see ``Queue``)."""

    def __init__(self, number: int = 0) -> None:
        found = _devices()
        if not 0 <= number < len(found):
            raise EngineError(f"there is no device opencl:{number}; there are {len(found)}: {'; '.join(devices())}")
        self._cl, self._device = _package(), found[number]
        self.limits, self.name = _limits(self._device), self._device.name.strip()
        with self._errors("cannot be used"):
            self._context = self._cl.Context([self._device])
            self._queue = self._cl.CommandQueue(self._context)
        self._buffers: dict[str, Any] = {}
        self._kernels: dict[str, Any] = {}
        self._threads: dict[str, tuple[int, ...]] = {}  # of a group of each kernel, as compiled

    def allocate(self, sizes: dict[str, int]) -> None:
        """Make the buffers (see ``Queue``)."""
        cl = self._cl
        gigabytes = f"{sum(sizes.values()) / 1e9:.3g} GB"
        try:
            with self._errors(f"has no room for the {gigabytes} of this training", "use fewer members or samples"):
                for name, size in sizes.items():
                    self._buffers[name] = cl.Buffer(self._context, cl.mem_flags.READ_WRITE, size)
                    cl.enqueue_fill_buffer(self._queue, self._buffers[name], np.zeros(1, np.uint8), 0, size)
                self._queue.finish()
        except EngineError:
            self.release()
            raise

    def build(self, text: str, tile_bytes: int, meets: bool) -> None:
        """Compile (see ``Queue``)."""
        options = [] if self.limits.doubles else ["-cl-single-precision-constant"]
        if self._device.platform.name == _POCL:  # release 3.0, that of PyPI, crashes when it optimizes; it serves tests
            options.append("-cl-opt-disable")
        with self._errors("cannot compile the kernels"), warnings.catch_warnings():
            warnings.simplefilter("ignore", self._cl.CompilerWarning)  # of any log, also one that says that all is well
            program = self._cl.Program(self._context, text).build(options)
            self._kernels = {kernel.function_name: kernel for kernel in program.all_kernels()}
            size = self._cl.kernel_work_group_info.COMPILE_WORK_GROUP_SIZE
            self._threads = {
                name: tuple(one.get_work_group_info(size, self._device)) for name, one in self._kernels.items()
            }
            for kernel in self._kernels.values():
                for place, buffer in enumerate(self._buffers.values()):
                    kernel.set_arg(place, buffer)

    @contextmanager
    def _errors(self, what: str = "failed", advice: str = "") -> Iterator[None]:
        """Make errors of OpenCL errors of the engine."""
        kept = (
            "the weights of the last chunk are kept; a new training may go on with them" if what == "failed" else advice
        )
        try:
            yield
        except self._cl.Error as error:
            raise EngineError(f"{self.name} {what}: {error}{kept and f'; {kept}'}") from error

    def write(self, name: str, array: NDArray[Any], offset: int = 0) -> None:
        """Copy to the device (see ``Queue``)."""
        if array.nbytes:
            with self._errors():
                self._cl.enqueue_copy(self._queue, self._buffers[name], array, dst_offset=offset, is_blocking=True)

    def packed(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Raise EngineError: data of OpenCL are taken from the host (see ``Queue``)."""
        raise EngineError(f"{self.name} takes its data from the host")

    def read(self, name: str, array: NDArray[Any]) -> None:
        """Copy from the device (see ``Queue``)."""
        if array.nbytes:
            with self._errors():
                self._cl.enqueue_copy(self._queue, array, self._buffers[name], is_blocking=True)

    def run(self, calls: tuple[Call, ...], times: int) -> None:
        """Enqueue (see ``Queue``)."""
        asked, place = 0, len(self._buffers)
        with self._errors():
            for _ in range(times):
                for launch in calls:
                    if not isinstance(launch, Launch):
                        raise TypeError("products by a library were not promised")
                    kernel = self._kernels[launch.kernel]
                    for i, value in enumerate((launch.first_member, launch.piece, launch.source)):
                        kernel.set_arg(place + i, np.int32(value))
                    x, y, _ = threads = self._threads[launch.kernel]
                    size = launch.groups * x, launch.members * y, 1
                    self._cl.enqueue_nd_range_kernel(self._queue, kernel, size, threads)
                    asked += 1
                    if asked % _EVERY == 0:
                        self._queue.flush()

    def release(self) -> None:
        """Free everything (see ``Queue``)."""
        self._kernels = {}
        with suppress(self._cl.Error):  # whatever became of the device
            self._queue.finish()
        while self._buffers:
            self._buffers.popitem()[1].release()
