"""Check and time every kernel variant of the CPU engine, on each instruction set of this machine.

    python benchmarks/kernel_lab/run.py                  # tables, to benchmarks/results/kernel_lab.md
    python benchmarks/kernel_lab/run.py --all            # and the activations on all 2^32 floats: half an hour or more

Needs g++ (or CXX). Exits with 1 if a variant is wrong.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from schuss.engines import cpu

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FLAGS = {"baseline": ["-O2"], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the activations on all 2^32 floats, not on every 997th")
    parser.add_argument(
        "--level", choices=FLAGS, action="append", help="instruction sets (default: all of this machine)"
    )
    options = parser.parse_args()
    text = [f"# Kernel lab\n\n{date.today()}; `python benchmarks/kernel_lab/run.py{' --all' * options.all}`"]
    for level in options.level or cpu.machine_levels():
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "lab"
            includes = [f"-I{ROOT / 'native'}", f"-I{ROOT / 'src/schuss/engines/kernels'}"]
            command = [os.environ.get("CXX", "g++"), "-std=gnu++20", "-O3", "-w", *FLAGS[level], *includes]
            sources = [
                HERE / "lab.cpp",
                *(ROOT / "native" / f"{name}.cpp" for name in ("layers", "shallow", "schemes")),
            ]
            subprocess.run([*command, *map(str, sources), "-o", str(program), "-pthread"], check=True)
            found = subprocess.run([str(program), "1" if options.all else "997"], text=True, stdout=subprocess.PIPE)
        print(f"## {level}\n\n{found.stdout}", flush=True)
        text.append(f"## {level}\n\n{found.stdout}")
        if found.returncode:
            sys.exit(f"{level}: a kernel is wrong")
    if options.level is None:
        (ROOT / "benchmarks" / "results" / "kernel_lab.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
