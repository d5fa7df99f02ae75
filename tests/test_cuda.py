"""The CUDA engine without a GPU: its calls of CuPy, on a stand-in for CuPy that runs the kernels in the emulator."""

import ctypes
import types

import numpy as np
import pytest

import emulator
from conftest import data, network, thinned
from schuss import Adam, EarlyStopping, EngineError, InputError, Training, list_engines
from schuss.engines import CUDA, cuda, cuts

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="the emulator needs g++")


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class CompileError(Exception):
    pass


class Pointer:
    def __init__(self, memory, offset):
        self.memory, self.offset = memory, offset
        self.ptr = memory.array.ctypes.data + offset

    def __add__(self, offset):
        return Pointer(self.memory, self.offset + offset)

    def memset_async(self, value, size, stream):
        ctypes.memset(self.ptr, value, size)

    def copy_from_host_async(self, host, size, stream):
        assert self.offset + size <= self.memory.array.nbytes
        ctypes.memmove(self.ptr, host, size)

    def copy_from_device_async(self, source, size, stream):
        assert self.offset + size <= self.memory.array.nbytes
        ctypes.memmove(self.ptr, source.ptr, size)

    def copy_to_host_async(self, host, size, stream):
        if stream.world.lost:
            raise CUDARuntimeError("cudaErrorLaunchFailure")
        ctypes.memmove(host, self.ptr, size)


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """As cupy.ndarray: it works with NumPy's functions, and refuses to become an array of the host by itself."""

    def __init__(self, array, device=0):
        self.array, self.device = array, device
        self.dtype, self.ndim, self.shape, self.size, self.nbytes = (
            getattr(array, name) for name in ("dtype", "ndim", "shape", "size", "nbytes")
        )
        self.data = types.SimpleNamespace(ptr=array.ctypes.data)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def _apply(self, function, arguments, options):
        plain = [one.array if isinstance(one, DeviceArray) else one for one in arguments]
        return DeviceArray(np.asarray(function(*plain, **options)), self.device)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return self._apply(getattr(ufunc, method), inputs, options)

    def __array_function__(self, function, _, arguments, options):
        return self._apply(function, arguments, options)

    def __getitem__(self, index):
        return DeviceArray(np.asarray(self.array[index]), self.device)

    def __len__(self):
        return len(self.array)

    def __bool__(self):
        return bool(self.array)

    def __int__(self):
        return int(self.array)

    def __format__(self, how):
        return format(self.array, how)

    def any(self):
        return self._apply(np.any, [self], {})

    def astype(self, dtype, copy=True):
        return DeviceArray(self.array.astype(dtype, copy=copy), self.device)

    def get(self):
        return self.array.copy()

    def __dlpack_device__(self):
        return 2, self.device


class Stream:
    def __init__(self, world):
        self.world, self.captured, self.ptr = world, None, id(self)

    def __enter__(self):
        self.world.stream = self
        return self

    def __exit__(self, *_):
        self.world.stream = None

    def synchronize(self):
        assert self.captured is None, "a stream that is captured cannot be waited for"

    def begin_capture(self):
        self.captured = []

    def end_capture(self):
        calls, self.captured = self.captured, None
        return types.SimpleNamespace(launch=lambda stream: [call() for call in calls])


class Kernel:
    """As cupy.RawKernel is called: kernel((x, y), (threads,), arguments, shared_mem=...)."""

    def __init__(self, module, name):
        self.module, self.name, self.max_dynamic_shared_size_bytes = module, name, 48 << 10

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        assert block == (cuts.THREADS,)
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert {type(one) for one in arguments[:-3]} == {np.uint64}
        assert {type(one) for one in arguments[-3:]} == {np.int32}
        stream = self.module.world.stream

        def run():
            self.module.world.ran.append(self.name)
            addresses = (ctypes.c_void_p * len(arguments[:-3]))(*map(int, arguments[:-3]))
            function = getattr(self.module.library, self.name)
            numbers = *grid, *map(int, arguments[-3:]), self.module.meets
            self.module.library.launch(function, addresses, *map(ctypes.c_int, numbers))

        if stream.captured is None:
            run()
        else:
            stream.captured.append(run)


class Module:
    def __init__(self, world, code, options, backend, enable_cooperative_groups):
        assert backend == "nvrtc"
        self.world, self.code, self.meets, self.library = world, code, enable_cooperative_groups, None

    def compile(self):
        if self.world.cannot_compile:
            raise CompileError("expected a ;")

    def get_function(self, name):
        assert self.world.stream is None or self.world.stream.captured is None, "loaded while capturing"
        if self.library is None:
            machine = emulator.Emulator(None)
            machine._buffers = {name: np.zeros(1) for name in self.world.names(self.code)}
            machine.build(self.code, 0, self.meets)
            self.library = machine._library
        return Kernel(self, name)


class Cublas:
    """As cupy_backends.cuda.libs.cublas: matrices column by column, scalars and matrices by their addresses."""

    CUBLAS_OP_N, CUBLAS_OP_T = 0, 1

    def __init__(self, world):
        self.world, self.mode = world, 0

    def getMathMode(self, handle):  # noqa: N802
        return self.mode

    def setMathMode(self, handle, mode):  # noqa: N802
        self.mode = mode

    def setStream(self, handle, stream):  # noqa: N802
        assert stream == self.world.stream.ptr

    def sgemm(self, *arguments):
        self._gemm(ctypes.c_float, *arguments)

    def dgemm(self, *arguments):
        self._gemm(ctypes.c_double, *arguments)

    def _gemm(self, kind, handle, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        def columns(address, leading, count):  # (count columns) of `leading` numbers, as rows of their transpose
            return np.ctypeslib.as_array((kind * (leading * count)).from_address(address)).reshape(count, leading)

        alpha, beta = (kind.from_address(address).value for address in (alpha, beta))
        mode = self.mode

        def run():
            self.world.ran.append(f"gemm {mode}")
            left = columns(a, lda, m if turn_a else k)[:, : k if turn_a else m]
            right = columns(b, ldb, k if turn_b else n)[:, : n if turn_b else k]
            product = alpha * ((left if turn_a else left.T) @ (right if turn_b else right.T))
            there = columns(c, ldc, n)[:, :m]
            there[...] = product.T + (beta * there if beta else 0)

        captured = self.world.stream.captured
        run() if captured is None else captured.append(run)


@pytest.fixture
def world(monkeypatch):
    """A stand-in for the package cupy with two devices; its attributes are what happens."""
    w = types.SimpleNamespace(stream=None, ran=[], lost=False, cannot_compile=False, free=1 << 30, living=0)

    class Memory:
        def __init__(self, size):
            if size > w.free:
                raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
            self.array = np.zeros(-(-size // 8))
            w.living += size
            self.size = size

        def __del__(self):
            w.living -= getattr(self, "size", 0)

    class Device:
        def __init__(self, number):
            assert number in (0, 1)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def synchronize(self):
            pass

    facts = {
        "name": b"Stand-in", "major": 9, "minor": 0, "totalGlobalMem": 1 << 30, "multiProcessorCount": 3,
        "sharedMemPerBlockOptin": 100 << 10, "cooperativeLaunch": 1,
    }  # fmt: skip
    w.facts = facts
    w.names = lambda code: [str(i) for i in range(code.split("#define SESSION ", 1)[1].split("\n")[0].count("*"))]
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 2, getDeviceProperties=lambda number: facts, memGetInfo=lambda: (1 << 30, 1 << 30),
        CUDARuntimeError=CUDARuntimeError,
    )  # fmt: skip
    w.cupy = types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            runtime=runtime, Device=Device, Stream=lambda non_blocking: Stream(w), Memory=Memory, MemoryPointer=Pointer,
            device=types.SimpleNamespace(get_cublas_handle=lambda: 1),
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            compiler=types.SimpleNamespace(CompileException=CompileError),
        ),
        from_dlpack=lambda given: given,
        ascontiguousarray=lambda array, dtype: DeviceArray(np.ascontiguousarray(array.array, dtype)),
        RawModule=lambda **given: Module(w, **given),
    )  # fmt: skip
    monkeypatch.setattr(cuda, "_package", lambda: w.cupy)
    monkeypatch.setattr(cuda, "_cublas", lambda: Cublas(w))
    monkeypatch.setattr(cuts, "THREADS", 16)
    monkeypatch.setattr(cuts, "BLOCK", 16)
    monkeypatch.setattr(cuda, "THREADS", 16)
    return w


def trained(engine, epochs=40, n=150, **options):
    x, y = data(n, 3, 2, dtype="float32")
    model = network((3, 6, 2), ("tanh", "linear"), dtype="float32")
    with Training(model, x, y, engine=engine, validation=(x[:40], y[:40]), **options) as training:
        history = training.run(epochs, Adam(0.01), early_stopping=EarlyStopping(20), record_every=35)
    return model, history, training.engine


def assert_close(ours, theirs, dtype):
    """Allow twenty roundings of the largest number: forty steps of Adam were seen to differ by two."""
    assert np.abs(ours - theirs).max() <= 20 * np.finfo(dtype).eps * np.abs(theirs).max()


@pytest.mark.parametrize("path", thinned(cuts.PATHS, "grid"))
def test_it_follows_the_reference(world, path):
    ours, theirs = (trained(engine, batch_size=70) for engine in (CUDA(1, path=path), "reference"))
    assert_close(ours[0].parameters, theirs[0].parameters, "float32")
    assert_close(ours[1].cost, theirs[1].cost, "float32")
    assert ours[2] == "cuda:1"
    assert world.living == 0


def test_many_steps_are_a_graph(world, monkeypatch):
    launched, real = [], cuda.CudaQueue._graph
    monkeypatch.setattr(cuda.CudaQueue, "_graph", lambda self, *given: launched.append(given) or real(self, *given))
    monkeypatch.setattr("schuss.runs._CHUNK_SECONDS", 1000.0)
    trained(CUDA(path="step"))
    assert launched
    assert world.ran.count("gradient") == world.ran.count("settle") == 40


@pytest.mark.parametrize("how", thinned([("float32", True), ("float32", False), ("float64", False)], ("float32", True)))
def test_wide_layers_are_products_of_cublas(world, how):
    dtype, tf32 = how
    x, y = data(90, 3, 2, dtype=dtype)
    models = []
    for engine in (CUDA(path="layers", tf32=tf32), "reference"):
        models.append(network((3, 6, 5, 2), ("tanh", "gelu", "linear"), dtype=dtype))
        with Training(models[-1], x, y, engine=engine, batch_size=64) as training:
            training.run(40, Adam(0.01))
            if engine != "reference":
                assert "by the library of the device" in training.explain()
    assert_close(*(model.parameters for model in models), dtype)
    assert f"gemm {3 if tf32 else 0}" in world.ran


def test_without_cublas_our_own_kernels_multiply(world, monkeypatch):
    monkeypatch.setattr(cuda, "_cublas", lambda: None)
    trained(CUDA(path="layers"), 2)
    assert "forward1" in world.ran


def test_it_is_listed_with_its_devices(world):
    (info,) = [info for info in list_engines() if info.name == "cuda"]
    assert info.available
    assert info.devices == ("Stand-in, 1.07 GB",) * 2


def test_a_device_out_of_memory_says_what_was_needed_and_the_next_training_works(world):
    world.free = 1000
    with pytest.raises(
        EngineError, match=r"Stand-in \(cuda:0\) has no room for the \d\S+ GB of this training .*use fewer"
    ):
        trained("cuda")
    world.free = 1 << 30
    trained("cuda", 1)
    assert world.living == 0


def test_a_device_that_is_lost_keeps_the_weights_of_the_last_chunk(world):
    x, y = data(50, 3, 2, dtype="float32")
    model = network((3, 6, 2), ("tanh", "linear"), dtype="float32")
    with Training(model, x, y, engine="cuda") as training:
        training.run(5, Adam(0.01))
        kept = model.parameters.copy()
        world.lost = True
        with pytest.raises(EngineError, match="failed: cudaErrorLaunchFailure; the weights of the last chunk are kept"):
            training.run(5, Adam(0.01))
    assert model.parameters.tobytes() == kept.tobytes()
    assert world.living == 0


def test_an_old_device_and_kernels_that_do_not_compile_are_named(world):
    world.cannot_compile = True
    with pytest.raises(EngineError, match="cannot compile the kernels: expected a ;"):
        trained("cuda")
    assert world.living == 0
    world.facts["major"] = 6
    with pytest.raises(EngineError, match=r"has compute capability 6\.0; engine 'cuda' needs 8\.0 or later"):
        trained("cuda")


@pytest.mark.parametrize("engine", ["auto", "cuda"])
def test_data_on_the_device_train_to_the_same_bits(world, engine):
    x, y = data(150, 3, 2, dtype="float32")
    strided = np.repeat(x.astype(np.float64), 2, axis=1)[:, ::2]
    results = []
    for rows, place, name in ((x, lambda array: array, "cuda"), (strided, DeviceArray, engine)):
        model = network((3, 6, 2), ("tanh", "linear"), dtype="float32")
        held = place(x[:40]), place(y[:40])
        with Training(
            model, place(rows), place(y), engine=name, batch_size=70, sample_weight=place(np.ones(150)), validation=held
        ) as training:
            history = training.run(5, Adam(0.01), early_stopping=EarlyStopping(3, metric="r2"))
            assert training.engine == "cuda:0"
            results.append((model.parameters.tobytes(), history.cost.tobytes(), training.cost(), training.diagnose()))
    assert results[0] == results[1]


def test_data_on_a_device_and_another_engine_are_a_mistake(world):
    x, y = data(20, 3, 2, dtype="float32")
    model = network((3, 6, 2), ("tanh", "linear"), dtype="float32")
    with pytest.raises(
        InputError, match=r"x is on CUDA device 1 but the engine is cpu; pass engine='cuda:1', or a copy"
    ):
        Training(model, DeviceArray(x, 1), y, engine="cpu")
    with pytest.raises(InputError, match="x is on CUDA device 1 but the engine is cuda:0"):
        Training(model, DeviceArray(x, 1), y, engine="cuda")
    with pytest.raises(InputError, match="a share of the rows to validate on needs data on the host"):
        Training(model, DeviceArray(x), y, validation=0.5)
    with pytest.raises(InputError, match="x is on a GPU; pass a copy on the host"):
        model(DeviceArray(x))
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="x holds nan in row 3, column 1"):
        Training(model, DeviceArray(x), y)
    with pytest.raises(InputError, match="x has 2 columns but the network takes 3"):
        Training(model, DeviceArray(x[:, :2]), y)
