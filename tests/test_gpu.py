"""The GPU engines: every path on every kind of plan, through OpenCL on the processor, through an emulator in which groups
meet, and through NVRTC, which compiles without a GPU.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import emulator
import nvrtc
import oclgrind
from conftest import data, gpu_engine_of, network, thinned
from schuss import (
    LBFGS,
    SGD,
    Adam,
    Dense,
    EarlyStopping,
    EngineError,
    InputError,
    Population,
    RMSprop,
    Training,
    engines,
)
from schuss.activations import ACTIVATIONS, ELEMENTWISE
from schuss.costs import COSTS, Huber, Quantile
from schuss.engines import CUDA, OpenCL, cuda, cuts, gpu, list_engines, opencl, program
from schuss.engines.base import Data
from schuss.schedules import Cosine

needs_compiler = pytest.mark.skipif(emulator.COMPILER is None, reason="the emulator needs g++")
ANY = Adam(0.01)


def eps(dtype):
    return float(np.finfo(dtype).eps)


@pytest.fixture
def opencl_device():
    return gpu_engine_of("opencl-step")


PATHS = [*cuts.PATHS, "library", "lanes"]
"""The paths, the path "layers" on a device that has a library of matrix products, and the path "step" on a processor."""


def emulated(monkeypatch, path=None, **limits):
    """Let engine="opencl" mean the emulator; return the list of queues that it makes."""
    made = []
    if path == "library":
        path, limits = "layers", limits | {"products": True}
    if path == "lanes":
        path, limits = "step", limits | {"processor": True}

    def opened(engine, plan, parameters, data, validation=None):
        if not isinstance(engine, OpenCL):
            return real(engine, plan, parameters, data, validation)
        made.append(emulator.Emulator(emulator.limits(**limits)))
        return engine, gpu.GpuSession(made[-1], plan, parameters, data, validation, path)

    real = engines.open_session
    monkeypatch.setattr(cuts, "THREADS", 16)
    monkeypatch.setattr(cuts, "BLOCK", 16)
    monkeypatch.setattr(engines, "open_session", opened)
    monkeypatch.setattr(engines, "resolve", lambda engine: OpenCL() if engine == "opencl" else engines.Reference())
    return made


def follow(make, x, y, optimizer, engine="opencl", epochs=4, tolerance=1e4, **options):
    """Train on an engine and on the reference, and compare gradient, costs, parameters and state; return the first session's
    explanation.
    """
    seen = []
    for name in (engine, "reference"):
        model = make()
        with Training(model, x, y, engine=name, **options) as training:
            value, gradient = training.value_and_gradient()
            history = training.run(epochs, optimizer)
            seen.append((value, gradient, history.cost, model.parameters, training.cost()))
            if history.validation_cost is not None:
                seen[-1] += (history.validation_cost,)
            if options.get("average"):
                seen[-1] += (training.averaged().parameters,)
            if name == engine:
                explanation = training.explain()
    for ours, theirs in zip(*seen, strict=True):
        scale = max(1e-3, float(np.nanmax(np.abs(theirs))))
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.nanmax(np.abs(np.asarray(ours) - theirs)) <= tolerance * eps(model.dtype) * scale
    return explanation


OPTIONS = {
    "full batch": {},
    "batches, the last smaller": {"batch_size": 70},
    "weights and penalties": {"sample_weight": np.arange(300) % 3, "l2": 0.1, "l1": 0.05, "batch_size": 110},
    "in order, noisy": {"batch_size": 64, "shuffle": False, "input_noise": 0.1},
    "resampled, averaged": {"batch_size": 128, "bootstrap": True, "shuffle": "member", "average": 0.9},
    "a fold left out": {"batch_size": 90, "folds": np.arange(300) % 7 % 3, "held_out": 1, "bootstrap": True},
}
OPTIMIZERS = {
    "sgd": SGD(0.02, 0.01, 0.5),
    "nesterov": SGD(0.01, 0.1, 0.9, nesterov=True),
    "articles": SGD(Cosine(0.02), 0, 0.5, bias_momentum=False),
    "adam": Adam(0.01, 0.1),
    "rmsprop": RMSprop(0.001, momentum=0.5),
    "clipped": SGD(0.02, 0, 0.5, clip_norm=0.05),
}


def dropping():
    from schuss import Network

    return Network(3, [Dense(9, "silu", dropout=0.3), Dense(6, "tanh", dropout=0.2), Dense(2)], seed=1, dtype="float64")


def plain():
    return network((3, 9, 6, 2), ("sigmoid", "gelu", "linear"))


@pytest.mark.parametrize("make", thinned([plain, dropping], dropping))
@pytest.mark.parametrize("options", thinned(OPTIONS, "weights and penalties"))
@pytest.mark.parametrize("path", PATHS)
@needs_compiler
def test_every_path_follows_the_reference(monkeypatch, path, options, make):
    made = emulated(monkeypatch, path)
    x, y = data(300, 3, 2)
    validation = None if "folds" in options else (x[:140], y[:140])
    follow(make, x, y, SGD(0.02, 0.01, 0.5), validation=validation, **options)
    taken = set(made[0].launches)
    of_path = {"layers": "forward1", "library": "product", "step": "settle", "lanes": "settle"}
    assert of_path.get(path, "epochs") in taken
    assert ("validate" in taken or "output" in taken) or path in ("grid", "epochs")


@pytest.mark.parametrize("optimizer", thinned(OPTIMIZERS, "adam"))
@pytest.mark.parametrize("path", thinned(PATHS, "step"))
@needs_compiler
def test_every_optimizer_follows_the_reference(monkeypatch, path, optimizer):
    emulated(monkeypatch, path)
    x, y = data(200, 3, 2)
    follow(plain, x, y, optimizer, epochs=5, l2=0.1, batch_size=90)


@pytest.mark.parametrize("path", thinned(["grid", "epochs", "step"], "grid"))
@needs_compiler
def test_the_narrow_paths_give_the_same_bits(monkeypatch, path):
    x, y = data(400, 3, 2, dtype="float32")
    results = []
    for now in (path, "step"):
        with monkeypatch.context() as patch:
            emulated(patch, now)
            model = network((3, 9, 6, 2), ("sigmoid", "silu", "linear"), dtype="float32")
            with Training(model, x, y, engine="opencl", batch_size=300, validation=(x[:90], y[:90])) as training:
                history = training.run(6, Adam(0.01))
            results.append((model.parameters.tobytes(), history.cost.tobytes(), history.validation_cost.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("path", thinned(PATHS, "step"))
@needs_compiler
def test_members_in_waves_have_the_bits_of_members_at_once(monkeypatch, path):
    x, y = data(100, 3, 1, dtype="float32")
    held = data(40, 3, 1, seed=2, dtype="float32")
    results = []
    for budget in (1 << 30, 400):
        with monkeypatch.context() as patch:
            made = emulated(patch, path, units=8)
            patch.setattr(cuts, "_PARTIAL_BYTES", budget)
            patch.setattr(cuts, "_WORK_BYTES", budget * 64)
            model = Population(3, [Dense(8, "tanh"), Dense(1)], members=5, seed=1)
            with Training(model, x, y, engine="opencl", batch_size=64, validation=held) as training:
                at_once = training._session._cut.slots
                training.run(3, SGD(np.geomspace(0.01, 0.2, 5), momentum=0.5), early_stopping=EarlyStopping(2))
                cost, gradient = training.value_and_gradient()
            results.append((model.parameters.tobytes(), cost.tobytes(), gradient.tobytes(), at_once, made))
    assert results[0][:3] == results[1][:3]
    assert results[0][3] == 5
    assert path == "grid" or results[1][3] < 5


@pytest.mark.parametrize("path", thinned(PATHS, "epochs"))
@needs_compiler
def test_who_diverges_or_no_longer_improves_ends_alone(monkeypatch, path):
    emulated(monkeypatch, path, units=8)
    x, y = data(150, 3, 1, dtype="float32")
    histories, models = [], []
    for name in ("opencl", "reference"):
        model = Population(3, [Dense(8, "relu"), Dense(1)], members=4, seed=3)
        rates = np.array([0.05, 1e9, 0.3, 1e-9])
        with (
            Training(model, x, 100 * y, engine=name, validation=(x[:60], 100 * y[:60])) as training,
            pytest.warns(RuntimeWarning, match="diverged"),
        ):
            history = training.run(30, SGD(rates), early_stopping=EarlyStopping(3, min_delta=1e-6))
        histories.append(history)
        models.append(model.parameters)
    assert histories[0].diverged == histories[1].diverged
    assert histories[0].stopped == histories[1].stopped
    assert np.isfinite(models[0]).all()
    assert np.abs(models[0] - models[1]).max() <= 20 * eps("float32") * np.abs(models[1]).max()


@pytest.mark.parametrize("path", thinned(PATHS, "layers"))
@needs_compiler
def test_a_diverged_member_leaves_nothing_to_the_next(monkeypatch, path):
    """The members take turns in one slot, and the last batch fills it only in part."""
    x, y = data(100, 3, 1, dtype="float32")
    results = []
    for rates in ([1e20, 0.05], [0.05]):
        with monkeypatch.context() as patch:
            emulated(patch, path, units=8)
            patch.setattr(cuts, "_PARTIAL_BYTES", 1)
            patch.setattr(cuts, "_WORK_BYTES", 10_000)
            seeds = [1, 2] if len(rates) == 2 else [2]
            model = Population(3, [Dense(8, "relu"), Dense(8, "relu"), Dense(1)], members=len(rates), seed=seeds)
            with Training(model, x, y, engine="opencl", batch_size=64, validation=(x[:70], y[:70])) as training:
                assert training._session._cut.slots == (2 if path == "grid" and len(rates) == 2 else 1)
                if len(rates) == 2:
                    with pytest.warns(RuntimeWarning, match="1 of 2 members diverged"):
                        history = training.run(3, SGD(rates))
                else:
                    history = training.run(3, SGD(rates))
            results.append((model.parameters[-1].tobytes(), history.validation_cost[:, -1].tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_path_of_a_device_follows_the_reference(gpu_engine, dtype):
    x, y = data(300, 3, 2, dtype=dtype)
    explained = follow(
        lambda: network((3, 9, 6, 2), ("sigmoid", "gelu", "linear"), dtype=dtype),
        x,
        y,
        SGD(0.02, 0.01, 0.5),
        engine=gpu_engine,
        batch_size=110,
        validation=(x[:140], y[:140]),
        tolerance=1e3,
    )
    assert gpu_engine.path is None or f"path {gpu_engine.path!r}" in explained


def test_float32_stays_near_the_reference_and_two_runs_have_the_same_bits(gpu_engine):
    x, y = data(200, 4, 1, dtype="float32")
    models = {}
    for name, engine in (("first", gpu_engine), ("second", gpu_engine), ("reference", "reference")):
        for epochs in (1, 100):
            model = network((4, 12, 6, 1), ("sigmoid", "tanh", "linear"), dtype="float32")
            with Training(model, x, y, engine=engine) as training:
                training.run(epochs, SGD(0.05, 1e-5, 0.4))  # faster, every float32 engine drifts: rounding grows
            models[name, epochs] = model.parameters
    for epochs, bound in ((1, 1e-5), (100, 1e-4)):
        scale = np.abs(models["reference", epochs]).max()
        assert np.abs(models["first", epochs] - models["reference", epochs]).max() <= bound * scale
        assert models["first", epochs].tobytes() == models["second", epochs].tobytes()


SHAPES = [
    ((1, 1), 1), ((4, 1), 7), ((3, 5, 2), 1), ((4, 8, 8, 1), 100), ((5, 33, 17, 3), 61), ((7, 13, 1), 9000),
    ((6, 9, 11, 10, 7), 50), ((9, 70, 130, 2), 150), ((5, 170, 150, 3), 40), ((200, 3), 70), ((2, 300, 1), 70),
]  # fmt: skip


@pytest.mark.parametrize("dtype", thinned(["float32", "float64"], "float32"))
@pytest.mark.parametrize("shape", thinned(SHAPES, SHAPES[2], SHAPES[4], SHAPES[-2]), ids=str)
@pytest.mark.parametrize("processor", [False, True])
@needs_compiler
def test_shapes_that_take_every_branch_have_the_gradient_of_the_reference(monkeypatch, shape, dtype, processor):
    sizes, n = shape
    emulated(monkeypatch, cooperative=False, local_memory=48 << 10, processor=processor)
    x, y = data(n, sizes[0], sizes[-1], dtype=dtype)
    model = network(sizes, ["gelu", "sigmoid", "softplus", "elu"][: len(sizes) - 1], dtype=dtype)
    results = []
    for name in ("opencl", "reference"):
        with Training(model, x, y, engine=name) as training:
            results.append(training.value_and_gradient())
    (cost, gradient), (expected_cost, expected) = results
    assert cost == pytest.approx(expected_cost, rel=50 * eps(dtype))
    assert np.abs(gradient - expected).max() <= 200 * eps(dtype) * max(np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize("path", thinned(["layers", "library"], "layers"))
@needs_compiler
def test_pieces_of_a_batch_add_up(monkeypatch, path):
    monkeypatch.setattr(cuts, "_WORK_BYTES", 20000)
    emulated(monkeypatch, path)
    x, y = data(150, 3, 2)
    explained = follow(dropping, x, y, ANY, epochs=2, batch_size=90, input_noise=0.1, validation=(x[:70], y[:70]))
    assert "pieces of 32 samples" in explained


@pytest.mark.parametrize("path", thinned(["layers", "library"], "library"))
@needs_compiler
def test_shares_of_a_piece_add_up(monkeypatch, path):
    made = emulated(monkeypatch, path)
    monkeypatch.setattr(cuts, "_ROW_SAMPLES", 40)
    x, y = data(150, 3, 2)
    make = lambda: network((3, 20, 18, 2), ("tanh", "silu", "linear"))  # noqa: E731
    optimizer = SGD(0.02, 0.01, 0.5, clip_norm=0.05)
    explained = follow(
        make, x, y, optimizer, epochs=2, batch_size=130, l2=0.1, average=0.9, validation=(x[:70], y[:70])
    )
    assert f"{1 if path == 'library' else 4} partial sums" in explained
    assert "updates in 7 slices" in explained
    assert {"norm_squares", "update", "adopt"} <= set(made[0].launches)


@needs_compiler
def test_a_device_without_doubles_trains_float32(monkeypatch):
    emulated(monkeypatch, doubles=False)
    x, y = data(200, 3, 2, dtype="float32")
    follow(lambda: network((3, 9, 2), ("tanh", "linear"), dtype="float32"), x, y, ANY, validation=(x, y), tolerance=100)
    with pytest.raises(EngineError, match="has no float64; make the model with dtype='float32'"):
        Training(plain(), x, y, engine="opencl")


def test_shuffles_by_blocks_are_those_of_the_reference(gpu_engine, tmp_path):
    x, y = data(70_000, 2, 1, dtype="float32")
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    make = lambda: network((2, 3, 1), ("tanh", "linear"), dtype="float32")  # noqa: E731
    follow(make, mapped, y, SGD(0.01), gpu_engine, epochs=1, batch_size=30_000, shuffle="blocks", tolerance=1e3)


@pytest.mark.parametrize("path", thinned(PATHS, "step"))
@needs_compiler
def test_lbfgs_searches_on_the_host(monkeypatch, path):
    emulated(monkeypatch, path)
    x, y = data(60, 3, 2)
    follow(plain, x, y, LBFGS(history=4), epochs=4, l2=0.1, validation=(x[:30], y[:30]), tolerance=1e7)


@pytest.mark.parametrize("validated", thinned([False, True], True))
@pytest.mark.parametrize("path", thinned(PATHS, "epochs"))
@needs_compiler
def test_every_path_stops_by_the_training_cost(monkeypatch, path, validated):
    emulated(monkeypatch, path)
    x, y = data(120, 3, 2)
    stopping = EarlyStopping(patience=2, min_delta=0.02, metric="training_cost")
    seen = []
    for name in ("opencl", "reference"):
        model = Population(3, [Dense(9, "tanh"), Dense(2)], members=3, seed=2, dtype="float64")
        held_out = (x[:40], y[:40]) if validated else None
        with Training(model, x, y, engine=name, batch_size=50, validation=held_out) as training:
            history = training.run(12, SGD((0.001, 0.05, 0.2)), early_stopping=stopping, record_every=3)
        seen.append((history.stopped, history.epoch.tolist(), history.cost, history.validation_cost, model.parameters))
    assert seen[0][:2] == seen[1][:2]
    assert len(seen[0][0]) >= 2
    for ours, theirs in zip(seen[0][2:], seen[1][2:], strict=True):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@needs_compiler
def test_optimizers_take_over_from_each_other(monkeypatch):
    emulated(monkeypatch)
    x, y = data(100, 3, 2)
    results = []
    for name in ("opencl", "reference"):
        model = plain()
        with Training(model, x, y, engine=name, average=0.9, validation=(x[:30], y[:30])) as training:
            for optimizer in (ANY, LBFGS(), SGD(0.01, momentum=0.5), ANY):
                training.run(3, optimizer, early_stopping=EarlyStopping(2))
            results.append((model.parameters, training.averaged().parameters))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


# -- choosing ---------------------------------------------------------------------------------------------------------


def plan_of(sizes, samples, members=1, batch_size=None, dtype="float32", cost="quadratic"):
    """Return the plan of a training, which is not opened."""
    plans = []

    def opened(engine, plan, *_):
        plans.append(plan)
        raise EngineError("seen")

    x, y = data(samples, sizes[0], 1 if cost == "cross_entropy" else sizes[-1], dtype=dtype)
    layers = [Dense(units, "tanh") for units in sizes[1:-1]] + [Dense(sizes[-1])]
    model = Population(sizes[0], layers, members=members, dtype=dtype)
    targets = (y > 0) if cost == "cross_entropy" else y
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "open_session", opened)
        with pytest.raises(EngineError, match="seen"):
            Training(model, x, targets, cost=cost, batch_size=batch_size)
    return plans[0]


H200 = cuts.Limits(memory=140 << 30, local_memory=227 << 10, units=132, cooperative=True)
PROCESSOR = cuts.Limits(memory=16 << 30, local_memory=256 << 10, units=8, processor=True)
SMALL = cuts.Limits(memory=4 << 30, local_memory=48 << 10, units=20)


@pytest.mark.parametrize(
    ("plan", "limits", "path"),
    [
        (((4, 32, 16, 1), 10_000), H200, "grid"),
        (((4, 32, 16, 1), 10_000), SMALL, "step"),
        (((4, 8, 8, 1), 1000, 500), H200, "epochs"),
        (((4, 32, 16, 1), 10_000, 1000), H200, "step"),
        (((16, 256, 256, 4), 5000), H200, "layers"),
        (((4000, 4), 100), SMALL, "layers"),
        (((4, 32, 16, 1), 10_000), PROCESSOR, "step"),
        (((16, 256, 256, 4), 5000), PROCESSOR, "step"),
        (((4000, 4), 100), PROCESSOR, "layers"),
    ],
)
def test_the_path_is_that_of_the_documentation(plan, limits, path):
    cut = cuts.choose(plan_of(*plan), 0, limits)
    assert cut.path == path
    assert cuts.choose(plan_of(*plan[:2]), 0, limits).rows == cut.rows  # however many members


def test_more_members_than_a_launch_takes_go_in_waves():
    cut = cuts.choose(plan_of((1, 1), 20, members=100_000), 0, H200)
    assert cut.slots == 65535


def test_a_path_that_cannot_be_taken_says_why():
    with pytest.raises(EngineError, match="the device runs at most 128 threads in a group, and 256 are needed"):
        cuts.choose(plan_of((4, 8, 1), 500), 0, replace(SMALL, threads=128))
    with pytest.raises(EngineError, match="path='grid' cannot be used: groups of this device cannot meet"):
        cuts.choose(plan_of((4, 8, 1), 500), 0, SMALL, "grid")
    with pytest.raises(EngineError, match="path='step' cannot hold a tile of this network in 49152 bytes"):
        cuts.choose(plan_of((4000, 1), 500), 0, SMALL, "step")
    with pytest.raises(InputError, match="unknown path 'fast'"):
        OpenCL(path="fast")


@needs_compiler
def test_a_device_of_small_buffers_says_which_is_too_large(monkeypatch):
    emulated(monkeypatch, buffer=100_000)
    x, y = data(10_000, 3, 2)
    with pytest.raises(
        EngineError, match=r"needs 0\.\d+ GB for '\w+', and a buffer of emulator holds at most 0.0001 GB"
    ):
        Training(plain(), x, y, engine="opencl")


@needs_compiler
def test_a_device_out_of_memory_says_how_much_was_needed(monkeypatch):
    emulated(monkeypatch, memory=400_000)
    x, y = data(10_000, 3, 2)
    with pytest.raises(EngineError, match=r"needs 0\.\d+ GB on emulator, which has 0.0004 GB"):
        Training(plain(), x, y, engine="opencl")
    with Training(plain(), x[:50], y[:50], engine="opencl") as training:
        training.run(1, ANY)


def test_engines_are_named_with_their_device(opencl_device):
    assert str(engines.resolve("opencl")) == "opencl:0"
    assert engines.resolve(OpenCL(0)) == OpenCL()
    with pytest.raises(EngineError, match="there is no device opencl:99; there are"):
        engines.resolve("opencl:99")
    for wrong in ("opencl:", "opencl:x", "cpu:0", "cuda:-1", 3, None):
        with pytest.raises(InputError, match="unknown engine"):
            engines.resolve(wrong)
    for wrong in ("gpu", "GPU:1"):
        with pytest.raises(
            InputError, match=r"unknown engine .*; a GPU is engine='cuda' \(NVIDIA\) or engine='opencl'"
        ):
            engines.resolve(wrong)
    for wrong in (-1, 1.5, True, "0"):
        with pytest.raises(InputError, match="device must be a whole number"):
            CUDA(wrong)


def test_an_absent_engine_says_why(monkeypatch):
    for module, words in ((cuda, "cuda"), (opencl, "opencl")):
        monkeypatch.setitem(__import__("sys").modules, "cupy" if module is cuda else "pyopencl", None)
        monkeypatch.setattr(module, "_package", module._package.__wrapped__)
        if module is opencl:
            monkeypatch.setattr(module, "_devices", module._devices.__wrapped__)
        with pytest.raises(EngineError, match=rf"engine '{words}' needs \w+ \(.*\); pip install 'schuss\[{words}\]'"):
            engines.resolve(words)
    assert [info.available for info in list_engines() if info.name in ("cuda", "opencl")] == [False, False]


@pytest.fixture
def fresh_drivers(monkeypatch):
    """Let the drivers of OpenCL be looked for again; a loader does so once in a process, so none is found."""
    cl = pytest.importorskip("pyopencl")
    monkeypatch.setattr(opencl, "_devices", opencl._devices.__wrapped__)
    monkeypatch.setattr(opencl, "_package", lambda: cl)

    def none_there():
        raise cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(cl, "get_platforms", none_there)


def test_no_driver_of_opencl_says_what_to_install(fresh_drivers, monkeypatch, tmp_path):
    monkeypatch.setattr(opencl, "files", lambda package: None)
    with pytest.raises(
        EngineError, match=r"found no OpenCL driver \(\S.*NOT_FOUND_KHR\); install .*'schuss\[opencl\]'"
    ):
        engines.resolve("opencl")


def test_a_broken_driver_of_the_processor_is_named(fresh_drivers, monkeypatch, tmp_path):
    library = tmp_path / "libintelocl.so"
    library.write_text("no library")
    monkeypatch.setattr(opencl, "_intel_library", lambda: library)
    with pytest.raises(EngineError, match=r"that of intel-opencl-rt cannot be loaded: .*libintelocl\.so: "):
        engines.resolve("opencl")
    (reason,) = [info.reason for info in list_engines() if info.name == "opencl"]
    assert "cannot be loaded" in reason


def test_the_driver_of_the_processor_is_shown_beside_those_of_the_system(monkeypatch, tmp_path):
    (tmp_path / "some.icd").write_text("libsome.so")
    monkeypatch.setenv("OPENCL_VENDOR_PATH", str(tmp_path))
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    monkeypatch.setattr(opencl, "_intel_library", lambda: tmp_path / "libintelocl.so")
    with opencl._intel_listed():
        folder = Path(os.environ["OCL_ICD_VENDORS"])
        assert {"libsome.so", f"{tmp_path / 'libintelocl.so'}\n"} <= {file.read_text() for file in folder.glob("*.icd")}
    assert not folder.exists()
    assert "OCL_ICD_VENDORS" not in os.environ
    monkeypatch.setenv("OCL_ICD_VENDORS", "my.icd")
    with opencl._intel_listed():
        assert os.environ["OCL_ICD_VENDORS"] == "my.icd"


def test_a_buffer_larger_than_the_device_makes_is_an_error_of_the_engine(opencl_device):
    most = opencl._limits(opencl._devices()[0]).buffer
    queue = opencl.OpenCLQueue()
    with pytest.raises(
        EngineError, match=r"has no room for the \S+ GB of this training: .*; use fewer members or samples"
    ):
        queue.allocate({"x": 8 * most})
    queue.allocate({"x": 8})
    queue.release()


def test_auto_takes_a_gpu_for_much_work_and_the_processor_for_little(monkeypatch):
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    assert isinstance(engines.choose(plan_of((4, 8, 1), 200)), engines.CPU | engines.Reference)
    assert engines.choose(plan_of((4, 32, 16, 1), 2000, members=50)) == CUDA()
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    assert isinstance(engines.choose(plan_of((4, 32, 16, 1), 2000, members=50)), engines.CPU | engines.Reference)


def test_auto_goes_on_where_the_gpu_refuses(monkeypatch):
    def refuse(*_):
        raise EngineError("out of memory")

    monkeypatch.setattr(engines, "choose", lambda plan: CUDA())
    monkeypatch.setattr(cuda, "CudaQueue", refuse)
    x, y = data(20, 3, 2)
    with (
        pytest.warns(RuntimeWarning, match="out of memory; training goes on on the processor"),
        Training(plain(), x, y) as t,
    ):
        assert t.engine in ("cpu", "reference")
    monkeypatch.setattr(engines, "resolve", lambda engine: CUDA())
    with pytest.raises(EngineError, match="out of memory"):
        Training(plain(), x, y, engine="cuda")


def test_every_engine_explains_itself(every_engine):
    x, y = data(50, 3, 2)
    with Training(plain(), x, y, engine=every_engine) as training:
        assert training.explain().startswith(f"{training.engine}: ")


# -- Oclgrind ---------------------------------------------------------------------------------------------------------

needs_oclgrind = pytest.mark.skipif(oclgrind.PROGRAM is None, reason="oclgrind is not installed")


@pytest.mark.full
@pytest.mark.parametrize("path", oclgrind.PATHS)
@needs_oclgrind
def test_no_access_is_out_of_bounds_and_no_two_race(path):
    assert oclgrind.report(path) == ""


@pytest.mark.full
@pytest.mark.parametrize("path", oclgrind.PATHS)
@pytest.mark.parametrize("fault", oclgrind.FAULTS)
@needs_oclgrind
def test_what_looks_for_faults_finds_them(path, fault):
    assert oclgrind.FAULTS[fault][1] in oclgrind.report(path, fault)


# -- NVRTC ------------------------------------------------------------------------------------------------------------

VARIANTS = {
    **{path: (((4, 32, 16, 1), 10_000), {"path": path}) for path in cuts.PATHS},
    "library": (((4, 32, 16, 1), 10_000), {"path": "layers", "products": True}),
    "float64": (((4, 32, 16, 1), 10_000, 1, 100, "float64"), {}),
    "classes": (((20, 16, 3), 500, 7, None, "float32", "cross_entropy"), {}),
}


@pytest.mark.full
@pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_path_compiles_for_cuda(variant, architecture):
    plan, options = plan_of(*VARIANTS[variant][0]), VARIANTS[variant][1]
    limits = replace(H200, products="products" in options)
    cut = cuts.choose(plan, 50, limits, options.get("path"))
    held_out = Data(np.zeros((50, plan.sizes[0])), np.zeros((50, plan.columns)), np.ones(50))
    keys = np.zeros((plan.members, 4), np.uint32)
    folds = {"folds": np.zeros(plan.samples, np.int32), "left_out": np.zeros(plan.members, np.int32)}
    for changes in ({}, {"bootstrap_keys": keys, "input_noise": 0.1, "average": 0.5, "order": "blocks", **folds,
                         "dropout": (0.5,) * (len(plan.sizes) - 2) + (0.0,)}):  # fmt: skip
        log, code = nvrtc.compile_for(
            program.kernel_text(replace(plan, **changes), cut, limits, held_out, True, 100), architecture
        )
        assert log == ""
        of_path = "epochs" if cut.path in ("grid", "epochs") else "settle"
        for kernel in (of_path, "gradient") if cut.tile else ("forward1", "gradient1", "activate1", "derive2"):
            assert kernel.encode() in code


COSTLY = [Huber(2.0), Quantile(0.3), *COSTS.values()]


@pytest.mark.full
@pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
@pytest.mark.parametrize("number", range(max(len(ELEMENTWISE), len(COSTLY))))
def test_every_activation_and_cost_compiles_for_cuda(number):
    row = ACTIVATIONS[ELEMENTWISE[number % len(ELEMENTWISE)]]
    cost = COSTLY[number % len(COSTLY)]
    plan = plan_of((4, 6, 1), 100)
    changed = replace(plan, cost=cost, activations=(row, ACTIVATIONS["linear"] if cost.row.link else row))
    text = program.kernel_text(changed, cuts.choose(changed, 0, H200), H200, None, False, 10)
    log, code = nvrtc.compile_for(text, "sm_90")
    assert log == ""
    assert code
