"""How long the native libraries take to build, how large they are, and how long README's two commands take in a clean clone.

Needs git, CMake and a C++ compiler, and packages in pip's cache if the wall time is to be that of schuss alone.

    python benchmarks/build.py                         # processor seconds of each instruction set
    python benchmarks/build.py --against REVISION      # and those of an older revision, in turns
    python benchmarks/build.py --quick-start           # and README's two commands, as a user runs them
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path

from cpu import processor

ROOT = Path(__file__).parent.parent
LEVELS = ("neon",) if platform.machine() in ("aarch64", "arm64") else ("baseline", "avx2", "avx512")
COMPILER = os.environ.get("CXX", "g++")


def clone(revision, folder):
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "checkout", "-q", revision], check=True)
    return folder


def processor_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def build(source, folder):
    """Return the processor seconds and bytes of each library of a checkout."""
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_COMPILER={COMPILER}"]
    subprocess.run(["cmake", "-S", str(source), "-B", str(folder), *options], check=True, stdout=subprocess.DEVNULL)
    seconds, sizes = {}, {}
    for level in LEVELS:
        seconds[level] = processor_seconds(["cmake", "--build", str(folder), "--target", f"schuss_{level}", "-j", "1"])
        library = folder / f"libschuss_{level}.so"
        subprocess.run(["strip", str(library)], check=True)
        sizes[level] = library.stat().st_size
    return seconds, sizes


def table(revisions, folder, turns):
    sources = {name: clone(name, folder / name.replace("/", "_")) for name in revisions}
    taken = {name: [] for name in revisions}
    for turn in range(turns):
        for name, source in sources.items():
            taken[name].append(build(source, folder / f"build_{name.replace('/', '_')}_{turn}"))
    head = f"| revision | {' | '.join(LEVELS)} | together | stripped libraries |\n|---|{'---|' * len(LEVELS)}---|---|\n"
    rows = []
    for name, runs in taken.items():
        medians = {level: statistics.median(seconds[level] for seconds, _ in runs) for level in runs[0][0]}
        megabytes = sum(runs[0][1].values()) / 1e6
        cells = " | ".join(f"{value:.1f}" for value in medians.values())
        rows.append(f"| {name} | {cells} | {sum(medians.values()):.1f} | {megabytes:.2f} MB |\n")
    return head + "".join(rows)


def quick_start(folder):
    """Run the commands of README's quick start in a clean clone; return a table of their wall times."""
    source = clone("HEAD", folder / "quick_start")
    section = (source / "README.md").read_text().split("## Quick start")[1].split("\n## ")[0]
    commands = [block.split("\n```")[0].strip() for block in section.split("```sh\n")[1:]]
    rows = ["| command | wall seconds |\n|---|---|\n"]
    for command in commands:
        start = time.perf_counter()
        subprocess.run(["bash", "-c", command], check=True, cwd=source, stdin=subprocess.DEVNULL)
        rows.append(f"| `{command}` | {time.perf_counter() - start:.0f} |\n")
    used = subprocess.run(
        ["du", "-sb", *(source / ".venv" / "lib").glob("python*/site-packages/schuss")], capture_output=True, text=True
    ).stdout.split()[0]
    return "".join(rows) + f"\nInstalled: {int(used) / 1e6:.2f} MB besides the packages it needs.\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="REVISION", help="an older revision, to build in turns")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--quick-start", action="store_true", help="run README's commands, too")
    options = parser.parse_args()
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    text = (
        f"# Building\n\n{date.today()}; {processor()}; {version}; processor seconds, one job at a time, median of "
        f"{options.turns}\n\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        revisions = ["HEAD"] if options.against is None else [options.against, "HEAD"]
        text += table(revisions, Path(folder), options.turns)
        if options.quick_start:
            text += "\n" + quick_start(Path(folder))
    print(text)
    (ROOT / "benchmarks" / "results" / "build.md").write_text(text)


if __name__ == "__main__":
    main()
