"""The native libraries that cannot be loaded: the engine says why, nothing crashes, and training goes on more slowly."""

import os
import platform
import shutil
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest

from conftest import LEVELS, data, network
from schuss import EngineError, Training, engines, list_engines
from schuss.engines import cpu

LEAST, BEST = LEVELS[0], LEVELS[-1]
BUILT = cpu._folder()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with copies of the libraries of this machine, from which they are loaded."""
    for name in LEVELS:
        shutil.copy(BUILT / f"libschuss_{name}.so", tmp_path)
    monkeypatch.setattr(cpu, "_folder", lambda: tmp_path)
    monkeypatch.delenv(cpu.LEVEL_VARIABLE, raising=False)
    forget()
    yield tmp_path
    forget()


def forget():
    cpu._found.cache_clear()
    engines._warn_once.cache_clear()


def library(folder, level):
    return folder / f"libschuss_{level}.so"


def change(path, offset, value):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.unlink()  # the loader knows a file by its inode
    path.write_bytes(content)


def without_a_function(path):
    content = path.read_bytes()
    assert content.count(b"\0schuss_limit\0") >= 1
    path.unlink()
    path.write_bytes(content.replace(b"\0schuss_limit\0", b"\0schuss_limes\0"))


DAMAGES = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "cut short: .* bytes of"),
    "empty": (lambda path: os.truncate(path, 0), "cannot be loaded: .*file too short"),
    "of another processor": (lambda path: change(path, 18, struct.pack("<H", 22)), "built for processor number 22"),
    "with nonsense in its header": (lambda path: change(path, 32, struct.pack("<Q", 2**63)), "cut short or damaged"),
    "of 32 bits": (lambda path: change(path, 4, b"\1"), "cannot be loaded: .*wrong ELF class"),
    "of macOS": (
        lambda path: path.write_bytes(struct.pack("<I", 0xFEEDFACF) * 64),
        "cannot be loaded: .*invalid ELF header",
    ),
    "without a function": (without_a_function, "undefined symbol: schuss_limit"),
    "needing a later C library": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"\0libc.so.6\0", b"\0libc.so.9\0")),
        "cannot be loaded: libc.so.9: cannot open shared object file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_engine_whose_least_library_is_damaged_says_why(folder, damage):
    spoil, words = DAMAGES[damage]
    spoil(library(folder, LEAST))
    (info,) = [info for info in list_engines() if info.name == "cpu"]
    assert not info.available
    assert info.devices == ()
    with pytest.raises(EngineError, match=rf"{words}.*; reinstall schuss for this machine, or go on with engine='ref"):
        raise EngineError(info.reason)
    with pytest.raises(EngineError, match=words):
        engines.resolve("cpu")


@pytest.mark.skipif(len(LEVELS) < 2, reason=f"this machine runs the {LEAST} library alone")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lower_instruction_set_stands_in_for_a_damaged_one(folder, damage, monkeypatch):
    spoil, words = DAMAGES[damage]
    spoil(library(folder, BEST))
    (info,) = [info for info in list_engines() if info.name == "cpu"]
    assert info.available
    with pytest.raises(EngineError, match=rf"threads?, {LEVELS[-2]} \(not {BEST}: .*{words}"):
        raise EngineError(info.devices[0])
    x, y = data(20, 3, 1)
    with pytest.warns(RuntimeWarning, match=f"training on the {LEVELS[-2]} kernels, though.*{words}") as noted:
        Training(network((3, 1), ["linear"]), x, y).release()
    assert noted[0].filename == __file__
    monkeypatch.setenv(cpu.LEVEL_VARIABLE, BEST)
    with pytest.raises(EngineError, match=f"SCHUSS_INSTRUCTION_SET='{BEST}': .*{words}"):
        engines.resolve("cpu")
    monkeypatch.setenv(cpu.LEVEL_VARIABLE, LEVELS[-2])
    assert cpu.shortfall() == ""


def test_a_library_cut_anywhere_is_refused(folder):
    """In a process of its own: the loader of Linux faults on most of these."""
    path = library(folder, LEAST)
    size = path.stat().st_size
    lengths = [
        1,
        16,
        63,
        64,
        100,
        1000,
        4096,
        *(size * k // 16 for k in range(1, 16)),
        size - 4096,
        size - 64,
        size - 1,
    ]
    script = f"""
import os
from pathlib import Path
from schuss.engines import cpu
path = Path({str(path)!r})
whole = path.read_bytes()
cpu._folder = lambda: path.parent
for length in {lengths}:
    path.write_bytes(whole[:length])
    try:
        cpu.library()
    except cpu.EngineError as error:
        print(length, error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [int(line.split()[0]) for line in run.stdout.splitlines()] == lengths


def test_a_folder_without_permission_to_execute_is_named(tmp_path):
    """On a real file system that is mounted so, in a name space of its own."""
    script = f"""
from pathlib import Path
from schuss import list_engines
from schuss.engines import cpu
cpu._folder = lambda: Path({str(tmp_path)!r})
print(list_engines()[0].reason)
"""
    mounted = f"mount -t tmpfs -o noexec tmpfs {tmp_path}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a file system in a name space")
    copied = f"{mounted} && cp {BUILT}/libschuss_*.so {tmp_path} && exec {sys.executable} -"
    run = subprocess.run(["unshare", "-rm", "sh", "-c", copied], input=script, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "failed to map segment" in run.stdout
    assert f"{tmp_path} is mounted without permission to execute (noexec): install schuss elsewhere" in run.stdout


@pytest.fixture
def nothing_built(folder):
    for name in LEVELS:
        library(folder, name).unlink()


def test_the_first_training_without_native_kernels_says_how_slow_that_is(nothing_built):
    x, y = data(20, 3, 1)
    model = network((3, 1), ["linear"])
    words = r"on the reference engine, which takes \d+ to \d+ times as long .* install a C\+\+20 compiler"
    with pytest.warns(RuntimeWarning, match=words) as noted, Training(model, x, y) as training:
        assert training.engine == "reference"
    assert noted[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Training(model, x, y).release()  # once is enough
        model(x)


def test_who_asks_for_the_reference_engine_is_not_warned(nothing_built):
    x, y = data(20, 3, 1)
    with Training(network((3, 1), ["linear"]), x, y, engine="reference") as training:
        assert training.engine == "reference"


def test_the_warning_names_the_line_of_the_user_of_an_estimator(nothing_built):
    sklearn = pytest.importorskip("schuss.interop.sklearn")
    x, y = data(40, 3, 1)
    with warnings.catch_warnings(record=True) as noted:  # one is that two epochs are few
        warnings.simplefilter("always")
        sklearn.MLPRegressor(hidden_layer_sizes=(4,), max_iter=2).fit(x, y[:, 0])
    assert [warning.filename for warning in noted if "reference engine" in str(warning.message)] == [__file__]


def test_an_unknown_instruction_set_is_named_with_those_that_are_there(folder, monkeypatch):
    monkeypatch.setenv(cpu.LEVEL_VARIABLE, "avx1024")
    (info,) = [info for info in list_engines() if info.name == "cpu"]
    assert info.reason == f"SCHUSS_INSTRUCTION_SET='avx1024' is not available; this machine runs {', '.join(LEVELS)}"
    with pytest.raises(EngineError, match="avx1024"):
        engines.resolve("cpu")
    x, y = data(20, 3, 1)
    with pytest.warns(RuntimeWarning, match="avx1024"), Training(network((3, 1), ["linear"]), x, y) as training:
        assert training.engine == "reference"


SIZES = (4, 32, 16, 1), (4, 60, 1), (4, 8, 1)
TRAIN = """
import sys
import numpy as np
from schuss import SGD, Adam, Dense, Network, Training, list_engines
given = np.load(sys.argv[1])
print(list_engines()[0].devices[0])
for case, (sizes, batch) in enumerate(zip({SIZES}, (None, 100, 4), strict=True)):
    for dtype in ("float32", "float64"):
        layers = [Dense(units, "tanh") for units in sizes[1:-1]]
        network = Network(4, [*layers, Dense(1)], dtype=dtype)
        network.parameters[:] = given[f"parameters{case}"]
        x, y = given["x"].astype(dtype), given["y"].astype(dtype)
        with Training(network, x, y, batch_size=batch, engine="cpu") as training:
            training.run(3, SGD(0.1, momentum=0.9))
            training.run(3, Adam(0.01))
        print(network.parameters.tobytes().hex())
""".replace("{SIZES}", str(SIZES))


@pytest.mark.full
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulated processors are of x86-64")
@pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed: Debian's package qemu-user"
)
@pytest.mark.parametrize(("processor", "expected"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_a_processor_gets_the_instruction_set_that_it_has(processor, expected, tmp_path):
    """Nehalem lacks AVX2, Haswell AVX-512; the bits are those of that instruction set on this machine.

    All numbers are given: NumPy's own functions differ in their last bits between processors.
    """
    x, y = data(300, 4, 1)
    nets = {f"parameters{k}": network(sizes, ["tanh"] * (len(sizes) - 1)).parameters for k, sizes in enumerate(SIZES)}
    np.savez(tmp_path / "given.npz", x=x, y=y, **nets)
    environment = {**os.environ, cpu.LEVEL_VARIABLE: ""}
    command = [sys.executable, "-c", TRAIN, tmp_path / "given.npz"]
    emulated = subprocess.run(
        ["qemu-x86_64", "-cpu", processor, *command],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert emulated.returncode == 0, emulated.stderr
    first, *parameters = emulated.stdout.splitlines()
    assert first.endswith(f", {expected}")
    environment[cpu.LEVEL_VARIABLE] = expected
    assert len(parameters) == 6
    if expected in LEVELS:  # else this machine cannot say what the bits should be
        native = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert native.returncode == 0, native.stderr
        assert native.stdout.splitlines()[1:] == parameters
