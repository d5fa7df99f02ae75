"""Run the numeric tests with the aarch64 wheel, emulated by qemu, with Debian's Python for that processor.

    python tools/arm.py dist/*manylinux*aarch64.whl                  # all of NUMERIC: see docs/releasing.md for how long
    python tools/arm.py dist/*manylinux*aarch64.whl --quick          # a selection of a few minutes
    python tools/arm.py dist/*manylinux*aarch64.whl tests/test_costs.py -k softmax

Needs Debian's package qemu-user; Python, NumPy and pytest for aarch64 are downloaded into build/systems.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import systems
from commands import CommandError, output

ROOT = Path(__file__).parent.parent
NUMERIC = (
    "activations",
    "costs",
    "engines",
    "folds",
    "network",
    "optimizers",
    "philox",
    "population",
    "resume",
    "training",
)
OTHER_PROCESSES_AND_PICTURES = (  # the system cannot start an emulated Python, and matplotlib and rich are not there
    "network.py::test_a_killed_process_leaves_a_whole_file",
    "resume.py::test_killed_at_any_moment_it_resumes_to_the_same_bits",
    "resume.py::test_tensorboard_and_live_plot_get_every_record",
    "resume.py::test_binding_float64_arrays_makes_no_second_copy",
    "training.py::test_progress_goes_to_standard_error",
    "training.py::test_history_knows_itself",
    "training.py::test_importing_loads_nothing_heavy",
)
PACKAGES = ("numpy", "safetensors", "pytest", "hypothesis")
QUICK = (
    "tests/test_philox.py",
    "tests/test_costs.py",
    "tests/test_engines.py",
    "-k",
    "not equally_often and not sizes1-1-",
)


def python(folder: Path) -> tuple[list[str], Path]:
    """Return the command that runs Python of aarch64, and a folder with the packages that the tests need."""
    root = systems.unpack("aarch64", ("python3", "libstdc++6"), folder)
    command = [*systems.emulator("aarch64", root), str(root / "usr" / "bin" / "python3")]
    version = output(*command, "-c", "import sys; print('%d.%d' % sys.version_info[:2], end='')")
    site = folder / f"site-aarch64-{version}"
    if not site.is_dir():
        tags = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)]
        options = [
            "--only-binary=:all:",
            f"--python-version={version}",
            "--platform=manylinux2014_aarch64",
            *tags,
        ]
        unfinished = site.with_name(f"{site.name}.unfinished")
        output(sys.executable, "-m", "pip", "install", "-q", *options, "--target", unfinished, *PACKAGES)
        unfinished.rename(site)
    return command, site


def main() -> int:
    """Run the tests that the command line names, and return pytest's status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--quick", action="store_true", help="a selection of a few minutes")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "systems", help="for what is downloaded")
    options, words = parser.parse_known_args()
    command, site = python(options.folder.resolve())
    if not any(word.startswith("tests") for word in words):
        words = [*(QUICK if options.quick else [f"tests/test_{name}.py" for name in NUMERIC]), *words]
    with tempfile.TemporaryDirectory() as installed:
        with zipfile.ZipFile(options.wheel) as packed:
            packed.extractall(installed)
        environment = {**os.environ, "PYTHONPATH": f"{installed}:{site}", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTEST_ADDOPTS", None)  # of the machine around: other tests can run there
        described = (
            "import platform, schuss; print(platform.machine(), schuss.__file__, *schuss.list_engines()[0].devices)"
        )
        subprocess.run([*command, "-c", described], env=environment, check=True, cwd=installed)
        before = time.perf_counter()
        left_out = [f"--deselect=tests/test_{test}" for test in OTHER_PROCESSES_AND_PICTURES]
        tests = [*command, "-m", "pytest", "-p", "no:cacheprovider", *left_out, *words]
        status = subprocess.run(tests, env=environment, cwd=ROOT).returncode
        print(f"{time.perf_counter() - before:.0f} s under qemu")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (systems.MissingError, CommandError) as error:
        sys.exit(str(error))
