"""Runs a path of the OpenCL kernels in Oclgrind, which checks every access to memory and looks for data races.

python tests/oclgrind.py step                # prints what is found
python tests/oclgrind.py step no-barrier     # the same with a fault in the kernels, which must be found
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from conftest import data
from schuss import SGD, Adam, Dense, Population, Training
from schuss.engines import OpenCL, opencl

PROGRAM = shutil.which("oclgrind")
PATHS = ("step", "epochs", "layers", "step-on-processor")
"""Those of a GPU, and the one that a processor takes, whose kernels are others."""
_BEFORE_A_SUM = "scratch[THREAD] = value;\n  BARRIER;"  # step.cl


class Unordered(opencl.OpenCLQueue):
    """Threads that sum what others may not have written yet."""

    def build(self, text, tile_bytes, meets):
        if _BEFORE_A_SUM not in text:
            raise LookupError(f"the kernels have no {_BEFORE_A_SUM!r}")
        super().build(text.replace(_BEFORE_A_SUM, "scratch[THREAD] = value;"), tile_bytes, meets)


class Short(opencl.OpenCLQueue):
    """Half the memory for the partial sums."""

    def allocate(self, sizes):
        super().allocate(sizes | {"partial": sizes["partial"] // 2})


FAULTS = {"no-barrier": (Unordered, "data race"), "short-buffer": (Short, "Invalid write")}
"""Queues with a fault, and what Oclgrind says of it."""


def report(path, fault=None):
    """Return what Oclgrind says of a training on a path, "" where all is well."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        checks = [PROGRAM, "--check-api", "--data-races", "--max-errors", "20", "--log", str(log)]
        command = [*checks, sys.executable, __file__, path, *([fault] if fault else []), "--here"]
        changed = os.environ | {"PYOPENCL_NO_CACHE": "1"}
        done = subprocess.run(command, env=changed, capture_output=True, text=True, check=False)
        said = log.read_text() if log.exists() else ""
        if done.returncode and not (fault and said):  # a fault may well end it
            raise RuntimeError(f"exit status {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return said


def run(path, fault=None):
    """Train under Oclgrind with what makes kernels longer: two members, dropout, noise, resampling, penalties, averages."""
    (device,) = opencl.devices()
    if "Oclgrind" not in device:
        raise LookupError(f"this runs on {device}")
    if fault:
        opencl.OpenCLQueue = FAULTS[fault][0]
    path, _, processor = path.partition("-on-")
    limits = opencl._limits
    opencl._limits = lambda device: replace(limits(device), processor=bool(processor))
    layers = [Dense(5, "silu", dropout=0.3), Dense(4, "tanh", dropout=0.2), Dense(2)]
    x, y = data(40, 3, 2, dtype="float32")
    model = Population(3, layers, members=2, seed=1)
    options = {"batch_size": 30, "l2": 0.1, "l1": 0.05, "input_noise": 0.1, "bootstrap": True, "average": 0.9}
    with Training(
        model, x, y, engine=OpenCL(path=path), sample_weight=np.arange(40) % 3, validation=(x[:17], y[:17]), **options
    ) as training:
        training.value_and_gradient()
        training.run(2, SGD(0.05, 0.01, 0.5, clip_norm=0.05))
        training.run(1, Adam(0.01))
        training.cost()


def main():
    here, arguments = "--here" in sys.argv, [one for one in sys.argv[1:] if one != "--here"]
    if here:
        run(*arguments)
    else:
        found = report(*arguments)
        print(found or "nothing was found")
        sys.exit(bool(found))


if __name__ == "__main__":
    main()
