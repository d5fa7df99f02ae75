"""200 kills at random moments while a training writes checkpoints: each time a readable one, and in the end the same bits.

    python benchmarks/kills.py                      # about three minutes; a line in benchmarks/results/kills.md

A child process trains and checkpoints after every chunk of two milliseconds; it is killed (SIGKILL) after a random
time, its checkpoint is read, and it is started again, until the run is finished; then another run begins. The model of
each must be that of an undisturbed run.
"""

import argparse
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from cpu import RESULTS, processor

from schuss import load, training_file

CHILD = """
import sys, numpy as np
from pathlib import Path
import schuss.runs
from schuss import Adam, Dense, Network, Training
from schuss.callbacks import Checkpoint
from schuss.schedules import Cosine
schuss.runs._CHUNK_SECONDS = 0.002
path = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (400, 3))
y = np.sin(x.sum(axis=1))
if path.exists():
    training = Training.resume(path, x, y)
else:
    training = Training(Network(3, [Dense(30, "tanh", dropout=0.1), Dense(1)], seed=1), x, y, batch_size=32)
print("ready", flush=True)
training.run(40_000, Adam(Cosine(0.01)), resume=True, callbacks=[Checkpoint(path)])
training.model.save(path.with_suffix(".model"))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.py"
        script.write_text(CHILD)
        whole = Path(folder) / "whole"
        started = time.perf_counter()
        subprocess.run([sys.executable, str(script), str(whole)], check=True, stdout=subprocess.DEVNULL)
        undisturbed = time.perf_counter() - started
        expected = load(whole.with_suffix(".model")).parameters.tobytes()
        kills = runs = read = left = 0
        while kills < options.kills:
            path = Path(folder) / f"run{runs}"
            while True:
                child = subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE)
                child.stdout.readline()
                try:
                    child.wait(random.uniform(0, 0.6))
                    break
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                    child.wait()
                    kills += 1
                if path.exists():
                    training_file.read(path)
                    read += 1
                if kills >= options.kills:
                    subprocess.run([sys.executable, str(script), str(path)], check=True, stdout=subprocess.DEVNULL)
                    break
            runs += 1
            if load(path.with_suffix(".model")).parameters.tobytes() != expected:
                raise SystemExit(f"run {runs} ended with other bits")
            left = len(list(Path(folder).glob(".*.part")))
    text = (
        f"{kills} kills of {runs} runs (undisturbed: {undisturbed:.1f} s each): {read} checkpoints read "
        f"between, all whole; every run "
        f"ended with the bits of the undisturbed one; {left} unfinished "
        "temporary files were left beside them.\n"
    )
    print(text)
    head = f"# Kills while checkpointing\n\n{date.today()}, {processor()}, Python {platform.python_version()}; "
    (RESULTS / "kills.md").write_text(head + "`python benchmarks/kills.py`.\n\n" + text)


if __name__ == "__main__":
    main()
