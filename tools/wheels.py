"""Build the source distribution and the wheels of a release on one Linux machine, and check each of them.

    pip install '.[release]'
    python tools/wheels.py                            # everything, into dist/
    python tools/wheels.py manylinux_2_28_aarch64     # some of the platforms

The C++ compiler of the package ziglang, a Clang, compiles for all platforms. Each wheel is built from the unpacked source
distribution, without a network. tools/wheel_checks.py says what is checked. The first run compiles the C++ library of each
platform, about a minute each; zig keeps them.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import systems
import wheel_checks
import wheel_runs
from commands import output

ROOT = Path(__file__).parent.parent
SYSTEMS = ROOT / "build" / "systems"


@dataclass(frozen=True)
class Platform:
    """What a wheel is built for: zig's name of it, and CMake's of its system and processor."""

    target: str
    system: str
    processor: str


PLATFORMS = {
    "manylinux_2_28_x86_64": Platform("x86_64-linux-gnu.2.28", "Linux", "x86_64"),
    "manylinux_2_28_aarch64": Platform("aarch64-linux-gnu.2.28", "Linux", "aarch64"),
    "musllinux_1_2_x86_64": Platform("x86_64-linux-musl", "Linux", "x86_64"),
    "musllinux_1_2_aarch64": Platform("aarch64-linux-musl", "Linux", "aarch64"),
    "macosx_11_0_arm64": Platform("aarch64-macos.11.0", "Darwin", "arm64"),
}
"""The platforms, by the tag of their wheels."""


WRAPPER = """#!/bin/sh
# Call zig, which names the levels of x86-64 otherwise, and makes no bundles for macOS: libraries are loaded as well.
for word in "$@"; do
  shift
  case $word in
    -march=x86-64-*) word=-march=x86_64_${{word#-march=x86-64-}} ;;
    -bundle) word=-dynamiclib ;;
  esac
  set -- "$@" "$word"
done
exec "{python}" -m ziglang {words} "$@"
"""


def source_distribution(folder: Path) -> Path:
    """Return the source distribution, made in a folder."""
    output(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def toolchain(target: Platform, folder: Path) -> Path:
    """Return a toolchain file of CMake for a platform, and write the commands that it names beside it.

    The options are for what CMake tries out, too: with others zig would compile the C++ library once more.
    """
    folder.mkdir(parents=True)
    for name, words in {
        "c++": f"c++ -target {target.target} -O3 -fPIC -dynamic",
        "ar": "ar",
        "ranlib": "ranlib",
    }.items():
        command = folder / name
        command.write_text(WRAPPER.format(python=sys.executable, words=words))
        command.chmod(0o755)
    linking = "-s"
    if target.system == "Linux":
        # The functions of the C++ library are in each of ours, and hidden: two libraries must not share them.
        (folder / "exports").write_text("{ global: schuss_*; local: *; };\n")
        linking += f" -Wl,--version-script={folder / 'exports'}"
    lines = {
        "CMAKE_SYSTEM_NAME": target.system,
        "CMAKE_SYSTEM_PROCESSOR": target.processor,
        "CMAKE_CXX_COMPILER": folder / "c++",
        "CMAKE_AR": folder / "ar",
        "CMAKE_RANLIB": folder / "ranlib",
        "CMAKE_MODULE_LINKER_FLAGS_INIT": linking,
        "CMAKE_SKIP_RPATH": "ON",
        "CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",  # a program would need another build of the C++ library
        "CMAKE_OSX_SYSROOT": "",
    }
    file = folder / "toolchain.cmake"
    file.write_text("".join(f'set({name} "{value}")\n' for name, value in lines.items()))
    return file


def wheel(tag: str, source: Path, work: Path, folder: Path) -> Path:
    """Return the wheel of a platform, built in ``work`` from an unpacked source distribution."""
    file = toolchain(PLATFORMS[tag], work / tag)
    settings = {
        "cmake.args": f"-DCMAKE_TOOLCHAIN_FILE={file}",
        "build-dir": work / tag / "build",
        "wheel.tags": f"py3-none-{tag}",
        "wheel.cmake": "true",  # a failure is one: no wheel without the native kernels
    }
    options = [f"-C{name}={value}" for name, value in settings.items()]
    output(*offline(), sys.executable, "-m", "build", "--wheel", "--no-isolation", *options, "--outdir", folder, source)
    (built,) = folder.glob(f"*-py3-none-{tag}.whl")
    if tag.startswith("musllinux"):
        name_libc(built, PLATFORMS[tag].processor, work / tag / "unpacked")
    return built


def name_libc(built: Path, processor: str, folder: Path) -> None:
    """Let the libraries of a wheel ask for the C library by the name that musl has on Linux, where zig asks for libc.so."""
    output(sys.executable, "-m", "wheel", "unpack", "-d", folder, built)
    for library in folder.rglob("*.so"):
        output("patchelf", "--replace-needed", "libc.so", f"libc.musl-{processor}.so.1", library)
    (content,) = folder.iterdir()
    output(sys.executable, "-m", "wheel", "pack", "-d", built.parent, content)


def offline() -> list[str]:
    """Return the words before a command that take the network from it, or nothing where the system lets nobody do so."""
    words = ["unshare", "--map-root-user", "--net"]
    possible = shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if possible else []


def run_built(built: Path, tag: str, source: Path, work: Path) -> tuple[str, list[str]]:
    """Return how a wheel was run, and what its libraries printed."""
    if PLATFORMS[tag].system != "Linux":
        return "not run", []
    try:
        how, printed = wheel_runs.train_libraries(built, PLATFORMS[tag].target, source, SYSTEMS, work / tag)
    except systems.MissingError as error:
        return f"not run: {error}", []
    if tag.startswith("manylinux") and PLATFORMS[tag].processor == platform.machine():
        how += ", " + wheel_runs.train_in_environment(built, work / tag / "environment")
    return how, printed


def main() -> None:
    """Build and check what the command line names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tags", nargs="*", metavar="PLATFORM", help=f"{', '.join(PLATFORMS)} (default: all)")
    parser.add_argument("--outdir", type=Path, default=ROOT / "dist", help="default: dist")
    options = parser.parse_args()
    if unknown := set(options.tags) - set(PLATFORMS):
        parser.error(f"unknown platform {', '.join(unknown)}; known: {', '.join(PLATFORMS)}")
    options.outdir.mkdir(parents=True, exist_ok=True)
    for old in options.outdir.glob(
        "schuss-*"
    ):  # of another version, perhaps: only what this call makes is there after it
        if old.suffix in (".whl", ".gz"):
            old.unlink()
    rows, printed = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        archive = source_distribution(options.outdir)
        wheel_checks.check_source(archive)
        with tarfile.open(archive) as packed:
            packed.extractall(work / "source", filter="data")
        (source,) = (work / "source").iterdir()
        for tag in options.tags or PLATFORMS:
            before = time.perf_counter()
            built = wheel(tag, source, work, options.outdir)
            seconds = time.perf_counter() - before
            size, installed = wheel_checks.check(built, source)
            how, lines = run_built(built, tag, source, work)
            printed += [f"{tag}: {line}" for line in lines]
            rows.append(f"| py3-none-{tag} | {seconds:.0f} | {size / 1e6:.2f} | {installed / 1e6:.2f} | {how} |")
            print(rows[-1], flush=True)
    print(f"\n{archive.name}: {archive.stat().st_size / 1e6:.2f} MB; the wheels were built from it", end="")
    print(", without a network" if offline() else " (this system does not let the network be taken away)")
    head = ["", "| wheel | build, s | MB | MB installed | run |", "|---|---|---|---|---|"]
    print(*head, *rows, "", *printed, sep="\n")
    print(f"\nTo publish: python -m twine upload {os.path.relpath(options.outdir)}/*")


if __name__ == "__main__":
    main()
