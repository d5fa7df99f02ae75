"""Two installations of schuss on the same trainings, in turns, each in a process of its own.

Processor time on one thread, the least of many runs: a change of a few percent shows, however busy the machine is.

    python benchmarks/versions.py OLD NEW [NAME ..]    # folders that hold a package schuss; networks whose name contains NAME

OLD and NEW are what ``pip install --target FOLDER .`` makes of two checkouts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RUNS, SECONDS = 15, 0.06  # the least of so many runs, each of about so long

FULL, ROWS = {"samples": 2048}, {"samples": 10_000, "batch_size": 200}
CASES = {
    "4-32-16-1 sigmoid, tanh": {"samples": 10_000},
    "16-32-32-4 tanh, tanh": FULL,
    "16-64-64-4 relu, relu": FULL,
    "16-64-64-4 silu, silu": FULL,
    "16-64-64-4 elu, leaky_relu": FULL,
    "16-256-256-4 tanh, tanh": FULL,
    "20-100-1 relu": ROWS,
    "20-100-1 tanh": ROWS,
    "20-100-1 leaky_relu": ROWS,
    "20-100-1 relu, float64": ROWS,
    "20-100-1 sigmoid, float64": ROWS,
    "64-100-10 relu": ROWS | {"samples": 1797},
    "64-100-10 relu, float64": ROWS | {"samples": 1797},
    "20-256-256-1 relu, relu": {"samples": 10_000, "batch_size": 256},
    "20-256-256-1 relu, relu; batch 16": {"samples": 2000, "batch_size": 16},
    "20-256-256-1 relu, relu; batch 1": {"samples": 500, "batch_size": 1},
    "20-64-64-1 tanh, tanh": {"samples": 10_000, "batch_size": 64},
    "4-8-8-1 sigmoid, tanh; 16 members": {"samples": 10_000, "members": 16},
    "4-16-1 tanh, sigmoid": {"samples": 10_000},
}
"""By sizes, activations (linear where none is left) and dtype. SGD with momentum and decay; Adam for batches of 200."""


def milliseconds(name):
    """Return processor milliseconds an epoch and member."""
    import numpy as np

    from schuss import SGD, Adam, Dense, Network, Population, Training

    case, (network, described) = CASES[name], name.split(";")[0].split(" ", 1)
    sizes, words = [int(size) for size in network.split("-")], described.split(", ")
    dtype = words.pop() if words[-1] == "float64" else "float32"
    activations = [*words, "linear"][: len(sizes) - 1]
    batch_size, members = case.get("batch_size"), case.get("members")
    layers = [Dense(units, activation) for units, activation in zip(sizes[1:], activations, strict=True)]
    many = {} if members is None else {"members": members}
    model = (Network if members is None else Population)(sizes[0], layers, seed=1, dtype=dtype, **many)
    x = np.random.default_rng(0).random((case["samples"], sizes[0])).astype(dtype)
    y = np.repeat(np.sin(x.sum(axis=1, keepdims=True)), sizes[-1], axis=1)
    optimizer = Adam(0.001) if batch_size == 200 else SGD(0.01, 1e-5, 0.5)
    with Training(model, x, y, engine="cpu", batch_size=batch_size, threads=1) as training:

        def run(epochs):
            before = time.process_time()
            training.run(epochs, optimizer)
            return (time.process_time() - before) / epochs

        epochs = max(3, int(SECONDS / run(3)))
        return 1e3 * min(run(epochs) for _ in range(RUNS)) / (members or 1)


def level():
    from schuss.engines import cpu

    return cpu.level()


def main():
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps({"level": level(), **{name: milliseconds(name) for name in sys.argv[2:]}}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    chosen = [name for name in CASES if not options.names or any(part in name for part in options.names)]
    found = {options.old: [], options.new: []}
    for turn in range(options.turns):
        for folder in sorted(found, reverse=turn % 2 == 1, key=list(found).index):
            command = [sys.executable, __file__, "--measure", *chosen]
            environment = os.environ | {"PYTHONPATH": str(folder.resolve())}
            found[folder].append(
                json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            )
    lines = [
        f"# An older version beside this one\n\n{date.today()}; {found[options.new][0]['level']}; processor milliseconds an "
        f"epoch (and member), one thread, medians of {options.turns} turns of the least of {RUNS} runs; "
        "`python benchmarks/versions.py OLD NEW`\n",
        "| network | old | new | new / old |\n|---|---|---|---|",
    ]
    for name in chosen:
        old, new = (statistics.median(turn[name] for turn in turns) for turns in found.values())
        lines.append(f"| {name} | {old:.3f} | {new:.3f} | {new / old:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.names:
        (RESULTS / "versions.md").write_text(text)


if __name__ == "__main__":
    main()
