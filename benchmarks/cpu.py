"""One network on the CPU beside PyTorch, JAX and scikit-learn: over width, depth, batch size and number of samples.

All in one process, taking turns; the median of the turns counts, and the ratio is of medians. The FMA peak is measured
between the turns. Writes a table and a picture to benchmarks/results/.

    python benchmarks/cpu.py                        # everything: about ten minutes
    python benchmarks/cpu.py articles width         # some sections
"""

import argparse
import math
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
from peers import PEERS, versions, with_schuss

from schuss import Dense
from schuss.engines import cpu
from schuss.limits import Case, floor
from schuss.resources import available_threads

PAUSE = 0.15  # seconds before a turn: the threads of some peers (OpenBLAS) spin on for a while when their work is done
RESULTS = Path(__file__).parent / "results"
ALL = list(PEERS)
FAST = ["PyTorch eager", "JAX, jitted loop"]
WITH_COMPILE = ["PyTorch eager", "torch.compile", "JAX, jitted loop"]


def articles(samples):
    return Case(4, (Dense(32, "sigmoid"), Dense(16, "tanh"), Dense(1)), samples)


def square(inputs, width, depth, outputs, samples, activation="tanh", batch_size=None):
    return Case(inputs, (*[Dense(width, activation)] * depth, Dense(outputs)), samples, batch_size)


def wide(batch_size):
    samples = 50_000 if (batch_size or math.inf) >= 64 else 5_000
    return square(20, 256, 2, 1, samples, "relu", batch_size)


SECTIONS = {
    "articles": ("The articles' network", [(articles(10_000), ALL)]),
    "width": (
        "Width: 16-H-H-4, tanh, 2048 samples, full batch",
        [
            (square(16, h, 2, 4, 2048), WITH_COMPILE if h in (32, 256) else FAST)
            for h in (8, 16, 32, 33, 64, 128, 256, 512, 1024, 2048)
        ],
    ),
    "depth": (
        "Depth: 16-32-...-1, tanh, 10 000 samples, full batch",
        [(square(16, 32, depth, 1, 10_000), FAST) for depth in (1, 2, 4, 8)],
    ),
    "batch": (
        "Batch: 20-256-256-1, relu, SGD with momentum",
        [(wide(batch), ALL if batch == 256 else FAST) for batch in (1, 4, 16, 64, 256, 1024, None)],
    ),
    "samples": (
        "Samples: 4-32-16-1, full batch",
        [(articles(n), [*FAST, "scikit-learn"]) for n in (100, 1000, 10_000, 100_000, 1_000_000)],
    ),
}


def measure(case: Case, names: list[str], turns: int, seconds: float):
    """Return milliseconds an epoch, a list of turns for schuss and each peer, and the median FMA peak between the turns."""
    rng = np.random.default_rng(0)
    x = rng.random((case.samples, case.inputs), np.float32)
    y = np.repeat(np.sin(x.sum(axis=1, keepdims=True)), case.layers[-1].units, axis=1)
    makers = {"schuss": with_schuss, **{name: PEERS[name][0] for name in names}}
    runs, epochs, times, peaks = {}, {}, {}, []
    for name, make in makers.items():
        runs[name], times[name] = make(case, x, y), []
        runs[name](2)  # compile, warm up
        before = time.perf_counter()
        runs[name](2)
        epochs[name] = max(1, int(2 * seconds / (time.perf_counter() - before)))
    for _ in range(turns):
        peaks.append(cpu.fma_peak(np.dtype(np.float32), available_threads(), 0.05))
        for name, run in runs.items():
            time.sleep(PAUSE)
            before = time.perf_counter()
            run(epochs[name])
            times[name].append((time.perf_counter() - before) / epochs[name] * 1e3)
    return times, statistics.median(peaks)


def describe(case: Case) -> str:
    hidden = case.sizes[1:-1]
    middle = f"{hidden[0]} x {len(hidden)}" if len(hidden) > 2 else "-".join(map(str, hidden))
    return f"{case.inputs}-{middle}-{case.sizes[-1]}"


def section(title, cases, turns, seconds):
    """Measure a section; return its lines, and for each case the ratios to the peers."""
    names = [name for name in ALL if any(name in peers for _, peers in cases)]
    lines = [
        f"## {title}",
        "",
        "| network | samples | batch | schuss, ms an epoch | "
        + " | ".join(names)
        + " | of the FMA peak | of the floor |",
        "|---|---|---|---|" + "---|" * (len(names) + 2),
    ]
    ratios = []
    for case, peers in cases:
        times, peak = measure(case, peers, turns, seconds)
        middle = {name: statistics.median(found) for name, found in times.items()}
        ours = middle["schuss"]
        ratios.append({name: middle[name] / ours for name in peers})
        least = floor(case, np.dtype(np.float32), available_threads(), peak).total * 1e3
        cells = [f"{middle[name]:.3f} ({middle[name] / ours:.1f} x)" if name in middle else "" for name in names]
        share = case.operations / (ours * 1e-3) / peak
        lines.append(
            f"| {describe(case)} | {case.samples} | {case.batch_size or 'full'} | {ours:.3f} | "
            + " | ".join(cells)
            + f" | {share:.0%} | {least / ours:.0%} |"
        )
        print(lines[-1], flush=True)
    return [*lines, ""], ratios


def picture(found, path):
    """Draw the ratios over the width."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    cases = [case for case, _ in SECTIONS["width"][1]]
    for name in FAST:
        axes.plot([case.sizes[1] for case in cases], [ratios[name] for ratios in found], "o-", label=name)
    axes.axhline(1, color="gray", lw=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="width H of 16-H-H-4, 2048 samples",
        ylabel="time of the peer / time of schuss",
    )
    axes.set_xticks([8, 16, 32, 64, 128, 256, 512, 1024, 2048], [8, 16, 32, 64, 128, 256, 512, 1024, 2048])
    axes.set_yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
    axes.legend()
    figure.savefig(path, dpi=120)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn; an epoch at least")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}; known: {', '.join(SECTIONS)}")
    chosen = options.sections or list(SECTIONS)
    lines = [
        "# One network on the CPU, float32",
        "",
        f"{date.today()}, {processor()}, {available_threads()} threads, {cpu.level()}, Python {platform.python_version()}; "
        f"{versions(ALL)}; `python benchmarks/cpu.py {' '.join(options.sections)}`".rstrip(" `")
        + "`.",
        "Milliseconds an epoch, medians of turns; in brackets, times that of schuss. Of the FMA peak: the matrix products "
        "alone, beside the peak measured between the turns. Of the floor: see `schuss bench`.",
        "",
    ]
    for name in chosen:
        new, ratios = section(*SECTIONS[name], options.turns, options.seconds)
        lines += new
        if name == "width":
            picture(ratios, RESULTS / "cpu_width.png")
    path = RESULTS / ("cpu.md" if not options.sections else f"cpu_{'_'.join(chosen)}.md")
    path.write_text("\n".join(lines))
    print(f"{path}")


if __name__ == "__main__":
    main()
