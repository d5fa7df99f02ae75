"""The native engine under the sanitizers, driven at random (tests/native/driver.cpp); and that they find what is wrong."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import LEVELS

ROOT = Path(__file__).parent.parent
COMPILER = os.environ.get("CXX", "g++")
COMMANDS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # cmake may lie beside Python
SECONDS = 30  # of random cases for each sanitizer
SANITIZERS = {
    "address": "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not shutil.which(COMPILER), reason="no C++ compiler"),
    pytest.mark.skipif(not shutil.which("cmake", path=COMMANDS), reason="no cmake; pip install 'schuss[full]'"),
]


def call(*command, **options):
    return subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, env=os.environ | OPTIONS, **options
    )


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(request, tmp_path_factory):
    """The name of a sanitizer, and the driver built with it; the library comes from the project's own CMakeLists.txt."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS[name].split()]
    (folder / "empty.cpp").write_text("int main() {}")
    tried = call(COMPILER, *flags, folder / "empty.cpp", "-o", folder / "empty")
    if tried.returncode or call(folder / "empty").returncode:
        pytest.skip(f"{COMPILER} has no {name} sanitizer that runs here: {tried.stderr[-200:]}")
    cmake, ninja = (shutil.which(one, path=COMMANDS) for one in ("cmake", "ninja"))
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    options = [
        "-DCMAKE_BUILD_TYPE=Debug",
        f"-DCMAKE_CXX_FLAGS_DEBUG={' '.join(flags)}",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
    ]
    level = "avx2" if "avx2" in LEVELS else LEVELS[0]
    for command in (
        [cmake, "-S", ROOT, "-B", folder, *generator, *options],
        [cmake, "--build", folder, "--parallel", "2", "--target", f"schuss_{level}"],
        [COMPILER, "-std=c++20", *flags, f"-I{ROOT / 'native'}", ROOT / "tests" / "native" / "driver.cpp",
         folder / f"libschuss_{level}.so", f"-Wl,-rpath,{folder}", "-pthread", "-o", folder / "driver"],
    ):  # fmt: skip
        done = call(*command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return name, folder / "driver"


def test_random_trainings_are_clean(sanitized):
    _, driver = sanitized
    done = call(driver, 1, 100_000, SECONDS)
    assert done.returncode == 0, done.stderr[-6000:]
    assert not done.stderr
    counts = dict(one.split("=") for one in done.stdout.split() if "=" in one)
    assert set(counts) == {"small", "shallow", "tiled", "wide"}
    print(done.stdout)


def test_mistakes_are_found(sanitized):
    name, driver = sanitized
    reports = {
        "address": {"overrun": "heap-buffer-overflow", "overflow": "signed integer overflow"},
        "thread": {"race": "data race"},
    }
    for mistake, words in reports[name].items():
        done = call(driver, 1, 5, SECONDS, mistake)
        assert done.returncode != 0
        assert words in done.stderr
        assert mistake == "overflow" or re.search(r"\nseed \d+\n", done.stderr)  # libubsan calls nothing when it ends
