"""Runs every path of the GPU kernels in the emulator under ThreadSanitizer; fails if one has a race.

python tests/races.py        # about six minutes
"""

import os
import subprocess
import sys

import emulator
from conftest import data, network
from schuss import SGD, Training, engines
from schuss.engines import cuts, gpu

FLAGS = ("-O1", "-g", "-fsanitize=thread")


def run(path):
    def opened(engine, plan, parameters, given, validation=None):
        queue = emulator.Emulator(emulator.limits(processor=path == "lanes"), FLAGS)
        taken = "step" if path == "lanes" else path
        return "emulator", gpu.GpuSession(queue, plan, parameters, given, validation, taken)

    cuts.THREADS, cuts.BLOCK, engines.open_session = (64, 32, opened) if path == "layers" else (32, 32, opened)
    x, y = data(300, 3, 2)
    for batch_size in (None, 110):
        model = network((3, 9, 6, 2), ("sigmoid", "silu", "linear"))
        with Training(
            model, x, y, l2=0.1, batch_size=batch_size, average=0.9, validation=(x[:140], y[:140])
        ) as training:
            training.value_and_gradient()
            training.run(4, SGD(0.01, 0, 0.5, clip_norm=0.05))
            training.cost()


def main():
    if len(sys.argv) > 1:
        run(sys.argv[1])
        return
    library = subprocess.run(
        [emulator.COMPILER, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    )
    changed = os.environ | {"LD_PRELOAD": library.stdout.strip(), "TSAN_OPTIONS": "report_thread_leaks=0"}
    failed = False
    for path in (*cuts.PATHS, "lanes"):
        found = subprocess.run(
            [sys.executable, __file__, path], env=changed, capture_output=True, text=True, check=False
        )
        races = found.stderr.count("WARNING: ThreadSanitizer")
        failed = failed or races > 0 or found.returncode != 0
        print(f"{path}: {races} races, exit status {found.returncode}", flush=True)
        if found.returncode or races:
            print(found.stderr[:5000])
    sys.exit(failed)


if __name__ == "__main__":
    main()
