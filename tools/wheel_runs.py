"""Run what was built: a wheel in a new virtual environment, and its libraries on the systems that they are for."""

import os
import sys
import venv
import zipfile
from pathlib import Path

import systems
from commands import output

SMOKE = Path(__file__).parent / "smoke.c"
LOADERS = {"manylinux": ("libc6", "glibc"), "musllinux": ("musl", "musl")}
"""Debian's packages of the C libraries, and their names."""

LOADERS_OF = {"glibc": "ld-linux-*.so.*", "musl": "ld-musl-*.so.1"}
"""The programs that load programs."""

TRAIN = """
import sys
import numpy as np
import schuss
x = np.random.default_rng(0).uniform(-1, 1, (1000, 4))
y = x.sum(axis=1)
network = schuss.Network(4, [schuss.Dense(32, "tanh"), schuss.Dense(1)], seed=1)
with schuss.Training(network, x, y, engine="cpu", batch_size=100) as training:
    history = training.run(20, schuss.SGD(0.05, momentum=0.9))
    before, after = float(history.cost[0]), float(history.cost[-1])
if not after < before / 10:
    sys.exit(f"the cost fell from {before} to {after} only")
(info,) = [info for info in schuss.list_engines() if info.name == "cpu"]
print(info.devices[0].partition(", ")[2], end="")
"""


def train_in_environment(wheel: Path, folder: Path) -> str:
    """Install a wheel in a new virtual environment, train there, and say with which instruction set."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    output(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SCHUSS_INSTRUCTION_SET")
    }
    level = output(python, "-c", TRAIN, folder=folder, environment=environment)
    return f"installed, trained ({level})"


def train_libraries(wheel: Path, target: str, source: Path, kept: Path, folder: Path) -> tuple[str, list[str]]:
    """Train with the libraries of a wheel from a C program of its system; return how it ran, and what the program printed.

    target: zig's name of the platform. kept: where the systems are unpacked, for later calls.
    """
    processor = target.partition("-")[0]
    package, name = next(known for prefix, known in LOADERS.items() if prefix in wheel.name)
    root = systems.unpack(processor, (package,), kept)
    program = folder / "smoke"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=gnu11", "-O1", "-dynamic"]
    output(*compiler, "-I", source / "native", SMOKE, "-o", program)
    with zipfile.ZipFile(wheel) as packed:
        libraries = [packed.extract(name, folder) for name in sorted(packed.namelist()) if name.endswith(".so")]
    loader = next(root.glob(f"lib*/{LOADERS_OF[name]}"))
    paths = ":".join(str(path) for path in root.glob("lib/*-linux-*"))
    command = [*systems.emulator(processor, root), loader, "--library-path", paths, program, *libraries]
    printed = output(*command).splitlines()
    return f"C program under {name}{', qemu' if systems.emulator(processor, root) else ''}", printed
